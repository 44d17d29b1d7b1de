//! JSON as clients really write it: strings cut inside an emoji, optional fields that are null, fields that are given
//! twice.

use serde_json::{Value, json};

use crate::common::{EventClient, RawClient, TestServer, http};

/// `JSON.stringify("abc😀".slice(0, 4))`.
const CUT: &str = r#""abc\ud83d""#;

fn cut() -> Value {
    json!("abc\u{fffd}")
}

#[tokio::test]
async fn half_an_emoji_is_replaced_in_states_and_messages() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect("alice").await;
    alice.send_text(&format!(r#"{{"type":"join","room":"r","state":{{"name":{CUT}}}}}"#));
    alice.wait_until("the join", |alice| alice.state("r", "alice") == Some(&json!({"name": cut()}))).await;
    let state = format!(r#"{{"type":"state","room":"r","state":{{"\udc00":["\ude00\ud83d",{CUT}]}}}}"#);
    alice.send_text(&state);
    let expected = json!({"\u{fffd}": ["\u{fffd}\u{fffd}", cut()]});
    alice.wait_until("the state", |alice| alice.state("r", "alice") == Some(&expected)).await;
    let mark = alice.mark();
    alice.send_text(&format!(r#"{{"type":"message","room":"r","data":{{"t":{CUT},"whole":"\ud83d\ude00"}}}}"#));
    alice.wait_until("the message", |alice| !alice.since(mark, "message", "r").is_empty()).await;
    assert_eq!(alice.since(mark, "message", "r")[0]["data"], json!({"t": cut(), "whole": "😀"}));
    assert!(alice.since(0, "error", "").is_empty());
    server.stop().await;
}

#[tokio::test]
async fn half_an_emoji_is_replaced_in_chat_and_in_names() {
    let server = TestServer::start(&[]);
    let mut reader = server.chat("reader").await;
    let writer = EventClient::connect(server.address(), "/ws").await;
    writer.send_text(&format!(r#"{{"type":"join","payload":{{"user":{CUT}}}}}"#));
    writer.send_text(&format!(r#"{{"type":"msg","payload":{{"text":{CUT}}}}}"#));
    reader.wait_until("the message", |reader| !reader.of("msg").is_empty()).await;
    let payload = &reader.of("msg")[0]["payload"];
    assert_eq!((&payload["user"], &payload["text"]), (&cut(), &cut()));
    server.stop().await;
}

#[tokio::test]
async fn half_an_emoji_is_replaced_in_bodies_of_requests() {
    let server = TestServer::start(&["--dev-login"]);
    let post = async |path: &str, body: String| {
        let headers = [("content-type", "application/json")];
        http::request(server.address(), "POST", path, &headers, body.as_bytes()).await
    };
    assert_eq!(post("/heartbeat", format!(r#"{{"user_id":{CUT}}}"#)).await.status, 200);
    let status = post("/v1/users/status", format!(r#"{{"users":[{CUT}]}}"#)).await.json();
    assert_eq!((&status["users"][0]["user"], &status["users"][0]["online"]), (&cut(), &json!(true)));
    assert_eq!(post("/login", format!(r#"{{"user":{CUT}}}"#)).await.json()["user"], cut());
    server.stop().await;
}

#[tokio::test]
async fn an_optional_field_that_is_null_counts_as_absent() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect("alice").await;
    alice.send(&json!({"type": "join", "room": "r", "state": null, "observe": null, "detail": null, "resume": null}));
    alice.wait_until("the join", |alice| alice.has("r", "alice")).await;
    alice.send(&json!({"type": "observe", "room": "s", "detail": null, "resume": null}));
    alice.wait_until("the snapshot", |alice| alice.observes("s")).await;
    alice.send(&json!({"type": "heartbeat", "ack": null}));
    let acks = alice.since(0, "heartbeat_ack", "").len();
    alice.heartbeat().await;
    assert_eq!(alice.since(0, "heartbeat_ack", "").len(), acks + 1, "null asks for no ack");
    assert!(alice.since(0, "error", "").is_empty());
    // A required field that is null is missing.
    let error = alice.expect_error(r#"{"type":"join","room":null}"#).await;
    assert_eq!((&error["code"], &error["message"]), (&json!("bad_field"), &json!("`room` is missing")));
    let mut chat = EventClient::connect(server.address(), "/ws").await;
    chat.send(&json!({"type": "join", "payload": {"user": "bob", "avatar": null}, "id": null}));
    chat.send(&json!({"type": "msg", "payload": null}));
    chat.send(&json!({"type": "ping", "payload": null}));
    chat.wait_until("the pong", |chat| !chat.of("pong").is_empty()).await;
    assert!(chat.of("error").is_empty());
    server.stop().await;
}

#[tokio::test]
async fn of_repeated_fields_the_last_one_counts() {
    let server = TestServer::start(&["--dev-login"]);
    let mut alice = server.connect("alice").await;
    let join =
        r#"{"type":"leave","room":"a","type":"join","room":"r","state":{"k":1},"state":{"k":2},"state":{"k":3}}"#;
    alice.send_text(join);
    alice.wait_until("the join", |alice| alice.state("r", "alice") == Some(&json!({"k": 3}))).await;
    assert_eq!(server.count("a").await, 0);
    // Null, too, replaces what came before.
    alice.send_text(r#"{"type":"state","room":"r","state":{"k":4},"state":null}"#);
    alice.wait_until("no state", |alice| alice.state("r", "alice").is_none()).await;
    let mut chat = server.chat("reader").await;
    alice.send_text(r#"{"type":"join","room":"lobby"}"#);
    // What a state or data repeats is passed on as it is. JavaScript reads the last one, and so does the chat.
    alice.send_text(r#"{"type":"message","room":"lobby","data":{"text":"first","text":"last"}}"#);
    chat.wait_until("the message", |chat| !chat.of("msg").is_empty()).await;
    assert_eq!(chat.of("msg")[0]["payload"]["text"], "last");
    let mut other = RawClient::open(server.address(), "/ws").await;
    other
        .send_frame(&crate::common::Frame::text(
            r#"{"type":"join","payload":{"user":"first","user":"last"},"payload":{"user":"x","user":"carol"}}"#,
        ))
        .await;
    chat.wait_until("carol", |chat| chat.of("join").iter().any(|join| join["payload"]["user"] == "carol")).await;
    let body = br#"{"user_id":"first","user_id":"dora"}"#;
    let headers = [("content-type", "application/json")];
    assert_eq!(http::request(server.address(), "POST", "/heartbeat", &headers, body).await.status, 200);
    let body = br#"{"users":["first"],"users":["dora"]}"#;
    let status = http::request(server.address(), "POST", "/v1/users/status", &headers, body).await.json();
    assert_eq!((&status["users"][0]["user"], &status["users"][0]["online"]), (&json!("dora"), &json!(true)));
    server.stop().await;
}
