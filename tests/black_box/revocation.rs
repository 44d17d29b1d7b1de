//! `POST /v1/revoke`: credentials that an application takes back before they expire.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::http::{self, Response};
use crate::common::token::{SECRET_FLAG, now, subprotocols, token};
use crate::common::{RawClient, TestServer};

const KEY: &str = "a key of the application";

pub(crate) async fn start(further: &[&str]) -> TestServer {
    TestServer::start(&[&SECRET_FLAG, &["--api-key", KEY], further].concat())
}

pub(crate) async fn revoke(address: SocketAddr, key: &str, what: &Value) -> Response {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    http::request(address, "POST", "/v1/revoke", &headers, what.to_string().as_bytes()).await
}

async fn revoked(server: &TestServer, what: &Value) {
    let response = revoke(server.address(), KEY, what).await;
    assert_eq!((response.status, response.json()), (200, json!({"stored": "memory"})), "{what}");
}

/// A connection with this token, as a browser opens it. It observes and joins the lobby.
async fn open(server: &TestServer, token: &str) -> RawClient {
    let offered = subprotocols(token);
    let headers = [("sec-websocket-protocol", &*offered)];
    RawClient::open_with(server.address(), "/v1/connect?room=lobby", &headers, b"").await.0
}

/// A connection that is open.
async fn connect(server: &TestServer, token: &str) -> RawClient {
    let mut client = open(server, token).await;
    client.json_of_type("snapshot").await;
    client
}

/// A token that was issued this many seconds ago.
fn issued(user: &str, ago: u64, further: &Value) -> String {
    let mut claims = json!({"iat": now() - ago});
    claims.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    token(user, &claims)
}

async fn get(server: &TestServer, path: &str, bearer: &str) -> Value {
    let authorization = format!("Bearer {bearer}");
    let response = http::request(server.address(), "GET", path, &[("authorization", &authorization)], b"").await;
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// Waits until the lobby has these members.
async fn wait_for_members(server: &TestServer, expected: &[&str]) {
    loop {
        let page = get(server, "/v1/rooms/lobby/members", &token("reader", &json!({}))).await;
        let members: Vec<_> = page["members"].as_array().unwrap().iter().map(|member| &member["user"]).collect();
        if members == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn heartbeat(server: &TestServer, user: &str, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer), ("content-type", "application/x-www-form-urlencoded")];
    let body = format!("user_id={user}");
    http::request(server.address(), "POST", "/heartbeat", &headers, body.as_bytes()).await.status
}

#[tokio::test]
async fn matching_connections_close_with_1008_and_their_tokens_are_refused() {
    let server = start(&[]).await;
    let old = |user, id| issued(user, 100, &json!({"jti": id}));
    let without_time = token("alice", &json!({"iat": null}));
    let (mut alice, mut timeless) = (connect(&server, &old("alice", "a")).await, connect(&server, &without_time).await);
    let mut later = connect(&server, &issued("alice", 40, &json!({}))).await;
    let (mut bob, mut carol) = (connect(&server, &old("bob", "b")).await, connect(&server, &old("carol", "c")).await);

    revoked(&server, &json!({"user": "alice", "issued_before": now() - 60})).await;
    assert_eq!(alice.wait_for_close().await, Some(1008));
    assert_eq!(timeless.wait_for_close().await, Some(1008), "a token without `iat`");
    for refused in [old("alice", "new"), without_time] {
        assert_eq!(open(&server, &refused).await.wait_for_close().await, Some(1008));
    }
    assert!(later.is_served().await, "it was issued later");

    revoked(&server, &json!({"jti": "b"})).await;
    assert_eq!(bob.wait_for_close().await, Some(1008));
    assert_eq!(open(&server, &old("bob", "b")).await.wait_for_close().await, Some(1008));
    connect(&server, &old("bob", "another")).await;

    revoked(&server, &json!({"user": "alice"})).await;
    assert_eq!(later.wait_for_close().await, Some(1008));
    assert!(carol.is_served().await);
    revoked(&server, &json!({"issued_before": now() - 50})).await;
    assert_eq!(carol.wait_for_close().await, Some(1008));
    wait_for_members(&server, &[]).await;
    assert_eq!(heartbeat(&server, "carol", &old("carol", "c")).await, 401);
    connect(&server, &issued("carol", 10, &json!({}))).await;
    server.stop().await;
}

#[tokio::test]
async fn grace_and_rest_heartbeats_end_too() {
    let server = start(&["--grace", "1h", "--ttl", "1h"]).await;
    let old = |user| issued(user, 100, &json!({}));
    drop(connect(&server, &old("lost")).await);
    let young = issued("returned", 10, &json!({}));
    drop(connect(&server, &young).await);
    assert_eq!(heartbeat(&server, "polls", &old("polls")).await, 200);
    assert_eq!(heartbeat(&server, "young", &issued("young", 10, &json!({}))).await, 200);
    while get(&server, "/v1/stats", KEY).await["connections"] != 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    wait_for_members(&server, &["lost", "polls", "returned", "young"]).await;
    revoked(&server, &json!({"issued_before": now() - 50})).await;
    wait_for_members(&server, &["returned", "young"]).await;
    revoked(&server, &json!({"user": "returned"})).await;
    wait_for_members(&server, &["young"]).await;
    revoked(&server, &json!({"user": "young"})).await;
    wait_for_members(&server, &[]).await;
    server.stop().await;
}

#[tokio::test]
async fn no_connection_slips_through_while_its_credential_is_revoked() {
    let server = start(&[]).await;
    for round in 0..20 {
        let user = format!("user-{round}");
        let old = issued(&user, 100, &json!({}));
        let clients = (0..20).map(|_| open(&server, &old));
        let clients = futures_util::future::join_all(clients);
        let what = json!({"user": user, "issued_before": now() - 50});
        let (clients, ()) = tokio::join!(clients, revoked(&server, &what));
        for mut client in clients {
            assert_eq!(client.wait_for_close().await, Some(1008));
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn revoking_needs_the_key_and_a_body_of_a_documented_form() {
    let server = start(&[]).await;
    let everybody = json!({"issued_before": now()});
    revoke(server.address(), "a key of somebody else", &everybody).await.error(403);
    let headers = [("content-type", "application/json")];
    let body = everybody.to_string();
    http::request(server.address(), "POST", "/v1/revoke", &headers, body.as_bytes()).await.error(401);
    let mut alice = connect(&server, &issued("alice", 100, &json!({}))).await;
    for bad in [json!({}), json!({"issued_before": now() + 100}), json!({"user": "alice", "jti": "x"}), json!("x")] {
        revoke(server.address(), KEY, &bad).await.error(400);
    }
    assert!(alice.is_served().await);
    server.stop().await;
    let open = TestServer::start(&["--api-key", KEY]);
    revoke(open.address(), KEY, &everybody).await.error(404);
    open.stop().await;
}

#[tokio::test]
async fn tokens_of_an_issuer_whose_clock_is_ahead_are_revoked_too_and_new_ones_are_not() {
    let server = start(&[]).await;
    let ahead = |seconds: u64| token("alice", &json!({"iat": now() + seconds}));
    let known = ahead(30);
    let mut alice = connect(&server, &known).await;
    revoked(&server, &json!({"user": "alice"})).await;
    assert_eq!(alice.wait_for_close().await, Some(1008));
    assert_eq!(open(&server, &known).await.wait_for_close().await, Some(1008));
    let later = now() + 1;
    while now() < later {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(connect(&server, &ahead(31)).await.is_served().await, "issued after the revocation");
    server.stop().await;
}

#[tokio::test]
async fn a_full_list_answers_503_and_forgets_nothing() {
    let flags = [&SECRET_FLAG[..], &["--api-key", KEY]].concat();
    let server = TestServer::start_with(&flags, |config| config.limits.max_revocations = 2);
    let old = |user| issued(user, 100, &json!({}));
    let mut carol = connect(&server, &old("carol")).await;
    for user in ["alice", "bob"] {
        revoked(&server, &json!({ "user": user })).await;
    }
    let refused = revoke(server.address(), KEY, &json!({"user": "carol"})).await;
    assert!(refused.error(503).contains("the limit is 2"), "{refused:?}");
    assert_eq!(refused.json()["error"]["code"], "too_many_revocations");
    assert!(carol.is_served().await, "nothing was revoked");
    for user in ["alice", "bob"] {
        assert_eq!(open(&server, &old(user)).await.wait_for_close().await, Some(1008), "{user}");
        revoked(&server, &json!({ "user": user })).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_names_two_users_revokes_nothing() {
    let server = start(&[]).await;
    let mut clients = Vec::new();
    for user in ["alice", "bob"] {
        clients.push(connect(&server, &issued(user, 100, &json!({}))).await);
    }
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    let body = br#"{"user":"alice","user":"bob"}"#;
    http::request(server.address(), "POST", "/v1/revoke", &headers, body).await.error(400);
    for client in &mut clients {
        assert!(client.is_served().await);
    }
    server.stop().await;
}
