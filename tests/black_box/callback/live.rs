//! Live connections whose session the application confirms again.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{ORIGIN, flags, session_is_name, welcomed};
use crate::common::token::now;
use crate::common::upstream::Seen;
use crate::common::{Does, RawClient, TestServer, Upstream};
use crate::revocation::revoke;

const KEY: &str = "a key of the application";
/// Long enough to join two rooms on a busy machine.
const MOMENT_MS: u64 = 5_000;

/// An application whose sessions expire in a moment, and that answers this when it is asked again.
fn expiring(again: impl Fn(&Seen) -> Does + Send + 'static) -> impl FnMut(&Seen) -> Does + Send + 'static {
    move |seen| match seen.json()["recheck"].as_bool() {
        Some(true) => again(seen),
        _ => Does::json(200, &json!({"user": "alice", "session": "first", "expires_at": in_a_moment()})),
    }
}

fn in_a_moment() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_millis() as u64 + MOMENT_MS
}

fn caps(room: &str) -> Value {
    json!([{"rooms": [room], "allow": ["join", "observe"]}])
}

#[tokio::test]
async fn a_confirmed_session_stays_and_may_do_what_the_application_says_then() {
    let application = Upstream::start(expiring(|seen| {
        assert_eq!(seen.json(), json!({"recheck": true, "user": "alice", "session": "first"}));
        Does::json(200, &json!({"user": "alice", "caps": caps("den"), "session": "second"}))
    }))
    .await;
    let url = application.url("/");
    let server = TestServer::start(&flags(&url));
    let (mut alice, _) = welcomed(&server, "alice").await;
    for room in ["den", "attic"] {
        alice.send_json(&json!({"type": "join", "room": room})).await;
        alice.json_of_type("snapshot").await;
    }
    application.wait_for(2).await;
    // She leaves the attic, which she may not observe any more, and stays in the den.
    while server.members("attic").await.contains_key("alice") {}
    assert!(alice.is_served().await && server.members("den").await.contains_key("alice"));
    alice.send_json(&json!({"type": "join", "room": "attic"})).await;
    assert_eq!(alice.json_of_type("error").await["code"], "forbidden");
    server.stop().await;
}

#[tokio::test]
async fn a_session_that_has_ended_is_closed_with_1008_and_the_reason() {
    let application = Upstream::start(expiring(|_| Does::json(401, &json!({"reason": "signed out"})))).await;
    let url = application.url("/");
    let server = TestServer::start(&flags(&url));
    let (mut alice, _) = welcomed(&server, "alice").await;
    let frame = loop {
        let frame = alice.answer().await;
        if frame.close_code().is_some() {
            break frame;
        }
    };
    assert_eq!(frame.close_code(), Some(1008));
    assert_eq!(&frame.payload[2..], b"signed out");
    server.stop().await;
}

#[tokio::test]
async fn while_the_application_is_gone_a_session_stays_for_a_while_without_new_rooms() {
    let application = Upstream::start(expiring(|_| Does::json(500, &json!({})))).await;
    let url = application.url("/");
    let flags = [&flags(&url)[..], &["--auth-stale", "8s"]].concat();
    let server = TestServer::start(&flags);
    let (mut alice, _) = welcomed(&server, "alice").await;
    alice.send_json(&json!({"type": "join", "room": "den"})).await;
    alice.json_of_type("snapshot").await;
    application.wait_for(2).await;
    alice.send_json(&json!({"type": "join", "room": "attic"})).await;
    let error = alice.json_of_type("error").await;
    assert_eq!((&error["code"], &error["room"]), (&json!("forbidden"), &json!("attic")), "{error}");
    alice.send_json(&json!({"type": "state", "room": "den", "state": {"mood": 1}})).await;
    assert_eq!(alice.json_of_type("diff").await["updated"][0]["state"], json!({"mood": 1}));
    assert_eq!(alice.wait_for_close().await, Some(1013));
    server.stop().await;
}

#[tokio::test]
async fn revoking_a_user_ends_sessions_and_the_next_answer_of_the_application_counts() {
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/");
    let server = TestServer::start(&[&flags(&url)[..], &["--api-key", KEY]].concat());
    let (mut alice, _) = welcomed(&server, "alice").await;
    let (mut bob, _) = welcomed(&server, "bob").await;
    revoked(&server, "alice").await;
    assert_eq!(alice.wait_for_close().await, Some(1008));
    assert!(bob.is_served().await);
    wait_for_next_second().await;
    let (mut again, user) = welcomed(&server, "alice").await;
    assert!(user == "alice" && again.is_served().await, "the application was asked after the revocation");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_the_application_decides_about_during_the_revocation_does_not_slip_through() {
    let application = Upstream::start(|_| Does::Hold(200, json!({"user": "alice"}).to_string())).await;
    let url = application.url("/");
    let server = TestServer::start(&[&flags(&url)[..], &["--api-key", KEY]].concat());
    let late = tokio::spawn({
        let address = server.address();
        async move {
            let headers = [ORIGIN, ("cookie", "sid=alice")];
            RawClient::open_with(address, "/v1/connect", &headers, b"").await.0
        }
    });
    application.wait_for_held(1).await;
    revoked(&server, "alice").await;
    // The answer is younger than the revocation, but the application may have decided before.
    wait_for_next_second().await;
    application.release();
    assert_eq!(late.await.expect("no panic").wait_for_close().await, Some(1008));
    server.stop().await;
}

async fn revoked(server: &TestServer, user: &str) {
    let answer = revoke(server.address(), KEY, &json!({ "user": user })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Revocations count in whole seconds.
async fn wait_for_next_second() {
    let second = now();
    while now() == second {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
