//! Renewal of tokens on live connections, and connections whose token has expired.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::token::{SECRET_FLAG, now, subprotocols, token};
use crate::common::{Frame, RawClient, TestServer, http};

/// A native connection with a token.
async fn connect(server: &TestServer, token: &str) -> RawClient {
    let offered = subprotocols(token);
    let (mut client, _) =
        RawClient::open_with(server.address(), "/v1/connect", &[("sec-websocket-protocol", &offered)], b"").await;
    client.json_of_type("welcome").await;
    client
}

fn caps(rooms: &[&str]) -> Value {
    json!([{"rooms": rooms, "allow": ["join", "observe", "publish"]}])
}

async fn renew(client: &mut RawClient, token: &str) -> Value {
    client.send_json(&json!({"type": "auth", "token": token})).await;
    loop {
        let message = client.json().await;
        if message["type"] == "authenticated" || message["code"] == "bad_token" {
            return message;
        }
    }
}

/// The diff in which a user joined, changed or left.
async fn diff_with(client: &mut RawClient, change: &str, user: &str) -> Value {
    loop {
        let diff = client.json_of_type("diff").await;
        let changed = diff[change].as_array().into_iter().flatten().find(|member| member["user"] == user);
        if let Some(member) = changed {
            return member.clone();
        }
    }
}

#[tokio::test]
async fn a_renewal_replaces_permissions_and_ends_what_is_no_longer_allowed() {
    let server = TestServer::start(&SECRET_FLAG);
    let mut observer = connect(&server, &token("observer", &json!({}))).await;
    for room in ["a", "b"] {
        observer.send_json(&json!({"type": "observe", "room": room})).await;
        observer.json_of_type("snapshot").await;
    }
    let watch = json!({"caps": caps(&["a", "b"]), "watch": ["observer"]});
    let mut alice = connect(&server, &token("alice", &watch)).await;
    for room in ["a", "b"] {
        alice.send_json(&json!({"type": "join", "room": room})).await;
        assert_eq!(diff_with(&mut observer, "joined", "alice").await, json!({"user": "alice"}));
    }
    alice.send_json(&json!({"type": "watch", "users": ["observer"]})).await;
    alice.json_of_type("status").await;
    let narrower = token("alice", &json!({"caps": caps(&["b"]), "exp": now() + 300}));
    let answer = renew(&mut alice, &narrower).await;
    let left = answer["expires_in_ms"].as_u64().unwrap_or_default();
    assert!((200_000..=300_000).contains(&left), "{answer}");
    assert_eq!(diff_with(&mut observer, "left", "alice").await["reason"], "left");
    assert!(server.members("a").await.is_empty() && server.members("b").await.contains_key("alice"));
    // She observes `a` no more, and watches nobody.
    drop(observer);
    for _ in 0..2 {
        let mut other = connect(&server, &token("observer", &json!({}))).await;
        other.send_json(&json!({"type": "join", "room": "a"})).await;
        other.json_of_type("snapshot").await;
        other.send_json(&json!({"type": "join", "room": "b"})).await;
        let diff = alice.json().await;
        assert_eq!((&diff["type"], &diff["room"]), (&json!("diff"), &json!("b")), "{diff}");
        other.send_json(&json!({"type": "leave", "room": "b"})).await;
        assert_eq!(diff_with(&mut alice, "left", "observer").await["reason"], "left");
    }
    server.stop().await;
}

#[tokio::test]
async fn messages_behind_a_token_wait_until_it_is_verified() {
    let server = TestServer::start(&SECRET_FLAG);
    let mut alice = connect(&server, &token("alice", &json!({"caps": []}))).await;
    let wider = token("alice", &json!({"caps": caps(&["den"])}));
    let texts = [json!({"type": "auth", "token": wider}), json!({"type": "join", "room": "den"})];
    let frames: Vec<u8> = texts.iter().flat_map(|text| Frame::text(&text.to_string()).encode()).collect();
    alice.send(&frames).await;
    assert_eq!(alice.json().await["type"], "authenticated");
    assert_eq!(alice.json().await["type"], "snapshot");
    assert!(server.members("den").await.contains_key("alice"));
    server.stop().await;
}

#[tokio::test]
async fn a_refused_token_changes_nothing_and_the_third_within_a_minute_ends_the_connection() {
    let server = TestServer::start(&SECRET_FLAG);
    let mut alice = connect(&server, &token("alice", &json!({}))).await;
    alice.send_json(&json!({"type": "join", "room": "den"})).await;
    alice.json_of_type("snapshot").await;
    for bad in [token("bob", &json!({})), token("alice", &json!({"iss": "another"}))] {
        let answer = renew(&mut alice, &bad).await;
        assert_eq!((&answer["code"], &answer["type_sent"]), (&json!("bad_token"), &json!("auth")), "{answer}");
    }
    assert!(alice.is_served().await && server.members("den").await.contains_key("alice"));
    assert_eq!(renew(&mut alice, "not.a.token").await["code"], "bad_token");
    assert_eq!(alice.wait_for_close().await, Some(1008));
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_began_without_a_token_cannot_send_one() {
    let server = TestServer::start(&[]);
    let mut alice = RawClient::open(server.address(), "/v1/connect?user=alice").await;
    assert_eq!(renew(&mut alice, &token("alice", &json!({}))).await["code"], "bad_token");
    assert!(alice.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn members_show_the_info_of_the_latest_token() {
    let server = TestServer::start(&SECRET_FLAG);
    let mut observer = connect(&server, &token("observer", &json!({}))).await;
    observer.send_json(&json!({"type": "observe", "room": "den"})).await;
    observer.json_of_type("snapshot").await;
    let with = |name: Value, issued_at: u64| token("alice", &json!({"info": name, "iat": issued_at}));
    let mut alice = connect(&server, &with(json!({"name": "Alice"}), now() - 2)).await;
    alice.send_json(&json!({"type": "join", "room": "den", "state": {"mood": 1}})).await;
    let expected = json!({"user": "alice", "state": {"mood": 1}, "info": {"name": "Alice"}});
    assert_eq!(diff_with(&mut observer, "joined", "alice").await, expected);
    let authorization = format!("Bearer {}", token("reader", &json!({})));
    let headers = [("authorization", &*authorization)];
    let page = http::request(server.address(), "GET", "/v1/rooms/den/members", &headers, b"").await.json();
    assert_eq!(page["members"], json!([expected]));
    renew(&mut alice, &with(json!({"name": "Alicia"}), now() - 1)).await;
    let updated = json!({"user": "alice", "state": {"mood": 1}, "info": {"name": "Alicia"}});
    assert_eq!(diff_with(&mut observer, "updated", "alice").await, updated);
    alice.send_json(&json!({"type": "state", "room": "den", "state": {"mood": 2}})).await;
    let updated = json!({"user": "alice", "state": {"mood": 2}});
    assert_eq!(diff_with(&mut observer, "updated", "alice").await, updated);
    renew(&mut alice, &with(Value::Null, now())).await;
    let updated = json!({"user": "alice", "state": {"mood": 2}, "info": null});
    assert_eq!(diff_with(&mut observer, "updated", "alice").await, updated);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_whose_token_has_expired_is_closed_with_4401_and_its_user_stays_for_the_grace() {
    let server = TestServer::start_with(&SECRET_FLAG, |config| config.limits.expired_wait = Duration::from_millis(100));
    // Long enough to join and to renew on a busy machine. The token of bob ends first.
    let mut bob = connect(&server, &token("bob", &json!({"exp": now() + 5}))).await;
    let mut alice = connect(&server, &token("alice", &json!({"exp": now() + 5}))).await;
    for client in [&mut bob, &mut alice] {
        client.send_json(&json!({"type": "join", "room": "den"})).await;
        client.json_of_type("snapshot").await;
    }
    assert!(renew(&mut bob, &token("bob", &json!({}))).await["expires_in_ms"].is_u64());
    assert_eq!(alice.wait_for_close().await, Some(4401));
    assert!(server.members("den").await.contains_key("alice"));
    assert_eq!(server.stat("connections_expired").await, 1);
    assert!(bob.is_served().await, "a renewed connection stays");
    server.stop().await;
}

#[tokio::test]
async fn a_token_within_the_leeway_opens_a_connection_until_the_leeway_ends() {
    let server = TestServer::start(&["--jwt-secret", crate::common::token::SECRET, "--jwt-leeway", "2m"]);
    // Longer ago than connections wait for another token.
    let expired = token("alice", &json!({"exp": now() - 40}));
    let mut alice = connect(&server, &expired).await;
    alice.send_json(&json!({"type": "join", "room": "den"})).await;
    alice.json_of_type("snapshot").await;
    assert!(alice.is_served().await && server.members("den").await.contains_key("alice"));
    server.stop().await;
}

#[tokio::test]
async fn renewals_without_end_cost_budget() {
    let server = TestServer::start(&SECRET_FLAG);
    let mut mallory = connect(&server, &token("mallory", &json!({}))).await;
    let message = json!({"type": "auth", "token": token("mallory", &json!({}))}).to_string();
    let many = Frame::text(&message).encode().repeat(50);
    // More than a thousand are within the burst. Then the server hardly reads them.
    let flood = async {
        loop {
            mallory.send(&many).await;
        }
    };
    tokio::select! {
        () = flood => {}
        () = server.wait_for_stat("connections_over_budget", 1) => {}
    }
    assert_eq!(server.stat("connections").await, 1, "it is read later, not refused");
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_does_not_say_when_it_was_issued_shows_its_info() {
    let server = TestServer::start(&SECRET_FLAG);
    let mut observer = connect(&server, &token("observer", &json!({}))).await;
    observer.send_json(&json!({"type": "observe", "room": "den"})).await;
    observer.json_of_type("snapshot").await;
    let first = token("alice", &json!({"info": {"name": "Alice"}, "iat": now() - 100}));
    let mut alice = connect(&server, &first).await;
    alice.send_json(&json!({"type": "join", "room": "den"})).await;
    assert_eq!(diff_with(&mut observer, "joined", "alice").await["info"], json!({"name": "Alice"}));
    renew(&mut alice, &token("alice", &json!({"info": {"name": "Alicia"}, "iat": null}))).await;
    assert_eq!(diff_with(&mut observer, "updated", "alice").await["info"], json!({"name": "Alicia"}));
    server.stop().await;
}

#[tokio::test]
async fn users_who_poll_show_the_info_of_their_token() {
    let server = TestServer::start(&SECRET_FLAG);
    let mut observer = connect(&server, &token("observer", &json!({}))).await;
    observer.send_json(&json!({"type": "observe", "room": "lobby"})).await;
    observer.json_of_type("snapshot").await;
    let heartbeat = async |info: Value, ago: u64| {
        let bearer = format!("Bearer {}", token("alice", &json!({"info": info, "iat": now() - ago})));
        let headers = [("authorization", &*bearer), ("content-type", "application/x-www-form-urlencoded")];
        http::request(server.address(), "POST", "/heartbeat", &headers, b"user_id=alice").await.status
    };
    assert_eq!(heartbeat(json!({"name": "Alice"}), 100).await, 200);
    assert_eq!(diff_with(&mut observer, "joined", "alice").await["info"], json!({"name": "Alice"}));
    assert_eq!(heartbeat(json!({"name": "Alicia"}), 50).await, 200);
    assert_eq!(diff_with(&mut observer, "updated", "alice").await["info"], json!({"name": "Alicia"}));
    assert_eq!(heartbeat(json!({"name": "Alice"}), 100).await, 200, "an older token changes nothing");
    assert_eq!(heartbeat(Value::Null, 10).await, 200);
    assert_eq!(diff_with(&mut observer, "updated", "alice").await["info"], Value::Null);
    server.stop().await;
}
