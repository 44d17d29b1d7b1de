//! Names that look the same are the same, in every protocol; names that nobody can see are refused.

use serde_json::{Value, json};

use crate::common::{EventClient, Mirror, TestServer, encoded, http};

/// "José", composed and decomposed.
const COMPOSED: &str = "Jos\u{e9}";
const DECOMPOSED: &str = "Jose\u{301}";

#[tokio::test]
async fn a_user_is_the_same_however_the_name_is_encoded() {
    let server = TestServer::start(&["--dev-login", "--api-key", "0123456789abcdef"]);
    let mut composed = server.connect_to(COMPOSED, "lobby").await;
    let decomposed = Mirror::connect(server.address(), DECOMPOSED, &["lobby"]).await;
    assert_eq!(decomposed.welcome["user"], COMPOSED);
    let list = server.online_users(DECOMPOSED).await;
    assert_eq!(list.users, [COMPOSED]);
    let _status = server.online_status(DECOMPOSED).await;
    let chat = EventClient::connect(server.address(), "/ws").await;
    chat.send(&json!({"type": "join", "payload": {"user": DECOMPOSED}}));
    server.rest_heartbeat(DECOMPOSED).await;
    assert_eq!(server.post_json("/login", &json!({"user": DECOMPOSED})).await.json()["user"], COMPOSED);
    composed.barrier().await;
    assert_eq!(server.members("lobby").await.keys().collect::<Vec<_>>(), [COMPOSED]);
    let status = server.post_json("/v1/users/status", &json!({"users": [DECOMPOSED]})).await.json();
    assert_eq!((&status["users"][0]["user"], &status["users"][0]["online"]), (&json!(COMPOSED), &json!(true)));
    composed.send(&json!({"type": "watch", "users": ["bob", DECOMPOSED]}));
    composed.wait_until("the status", |client| client.watched.len() == 2).await;
    assert_eq!(composed.watched[COMPOSED]["online"], true);
    composed.send(&json!({"type": "unwatch", "users": [DECOMPOSED]}));
    let kick = format!("/v1/users/{}/kick", encoded(DECOMPOSED));
    let headers = [("authorization", "Bearer 0123456789abcdef")];
    let answer = http::request(server.address(), "POST", &kick, &headers, b"").await;
    assert_eq!(answer.json(), json!({"user": COMPOSED}));
    assert_eq!(composed.wait_for_close().await, Some(1008));
    server.stop().await;
}

#[tokio::test]
async fn a_room_is_the_same_however_its_name_is_encoded() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", COMPOSED).await;
    let mut bob = Mirror::connect(server.address(), "bob", &[DECOMPOSED]).await;
    bob.wait_until("alice", |bob| bob.has(COMPOSED, "alice")).await;
    assert_eq!(server.count(DECOMPOSED).await, 2);
    assert_eq!(server.members(DECOMPOSED).await.len(), 2);
    let state = json!({"k": DECOMPOSED});
    alice.send(&json!({"type": "state", "room": DECOMPOSED, "state": state}));
    bob.wait_until("the state, which is not changed", |bob| bob.state(COMPOSED, "alice") == Some(&state)).await;
    alice.send(&json!({"type": "leave", "room": DECOMPOSED}));
    bob.wait_until("the leave", |bob| !bob.has(COMPOSED, "alice")).await;
    for kind in ["observe", "resync", "unobserve"] {
        alice.send(&json!({"type": kind, "room": DECOMPOSED}));
    }
    alice.heartbeat().await;
    assert!(alice.since(0, "error", "").is_empty());
    server.stop().await;
}

#[tokio::test]
async fn blank_names_and_invisible_characters_are_refused_in_every_protocol() {
    let server = TestServer::start(&["--dev-login", "--api-key", "0123456789abcdef"]);
    for (name, word) in [
        (" ", "blank"),
        ("\u{a0}", "blank"),
        ("bob ", "end with a space"),
        ("\u{200b}", "U+200B"),
        ("bo\u{200b}b", "U+200B"),
        ("b\u{200d}ob", "U+200D"),
        ("bob\u{202e}", "U+202E"),
        ("\u{3164}", "U+3164"),
    ] {
        let user = encoded(name);
        let mut paths = vec![format!("/v1/connect?user=alice&room={user}"), format!("/v1/rooms/{user}/count")];
        paths.extend([format!("/v1/connect?user={user}"), format!("/ws/{user}")]);
        paths.extend([format!("/ws-online-status?userId={user}"), format!("/v1/rooms/{user}/members")]);
        for path in paths {
            let message = server.get(&path).await.error(400);
            assert!(message.contains(word), "{path}: {message}");
        }
        let answers = [
            (server.post_json("/login", &json!({"user": name})).await, 400),
            (server.post_json("/heartbeat", &json!({"user_id": name})).await, 422),
            (server.post_json("/v1/users/status", &json!({"users": ["bob", name]})).await, 400),
        ];
        for (answer, status) in answers {
            let message = answer.error(status);
            assert!(message.contains(word), "{name:?}: {message}");
        }
        let mut chat = EventClient::connect(server.address(), "/ws").await;
        chat.send(&json!({"type": "join", "payload": {"user": name}}));
        chat.wait_until("the end", |chat| chat.ended).await;
        let error = chat.of("error")[0]["message"].as_str().map(str::to_owned).unwrap_or_default();
        assert!(chat.closed == Some(Some(1008)) && error.contains(word), "{name:?}: {error}");
    }
    server.stop().await;
}

#[tokio::test]
async fn emoji_and_persian_names_keep_their_joiners() {
    let server = TestServer::start(&[]);
    let names = ["👨\u{200d}👩\u{200d}👧", "می\u{200c}خواهم", "❤\u{fe0f}"];
    for name in names {
        let client = server.connect_to(name, name).await;
        assert_eq!(client.welcome["user"], Value::from(name));
    }
    server.stop().await;
}
