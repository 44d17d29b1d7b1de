//! Errors of the native protocol: every code, and that the connection still works after the error.

use serde_json::{Value, json};

use crate::common::frame::glued;
use crate::common::{Frame, Mirror, TestServer, room};

/// Sends a message, expects this error code, and checks that the connection still answers.
async fn check(mirror: &mut Mirror, text: &str, code: &str) -> Value {
    let error = mirror.expect_error(text).await;
    assert_eq!(error["code"], code, "{text:.200} got {error}");
    mirror.heartbeat().await;
    error
}

#[tokio::test]
async fn a_message_that_is_not_json_is_bad_json() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let cases = [
        "",
        "hello",
        "heartbeat ",
        "Heartbeat",
        "{",
        "}",
        "{\"type\":",
        "{\"type\":\"join\",}",
        "{\"type\" \"join\"}",
        "{'type':'join'}",
        "{\"type\":\"join\",\"room\":\"lob",
        "{\"type\":\"heartbeat\"}}",
        "{\"type\":\"heartbeat\"} {\"type\":\"heartbeat\"}",
        "{\"type\":\"join\",\"room\":\"a\u{0}b\"}",
        "{\"type\":\"join\",\"room\":\"\\ud80\"}",
        "{\"type\":\"join\",\"room\":\"\\x\"}",
        "\u{0}",
        "\u{feff}{\"type\":\"heartbeat\"}",
        "nul",
        "01",
        "1",
        "null",
        "[]",
        "[{\"type\":\"heartbeat\"}]",
        "\"heartbeat\"",
    ];
    for text in cases {
        check(&mut alice, text, "bad_json").await;
    }
    server.stop().await;
}

#[tokio::test]
async fn deeply_nested_json_is_bad_json() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    for brackets in ["[", "[[[[[[[[[[[[", "{\"a\":"] {
        check(&mut alice, &brackets.repeat(5_000 / brackets.len()), "bad_json").await;
    }
    check(&mut alice, &format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)), "bad_json").await;
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let state = |levels| {
        let inner = nested(levels);
        format!("{{\"type\":\"state\",\"room\":\"lobby\",\"state\":{{\"deep\":{inner}}}}}")
    };
    // The message and the state are two levels, so six more make eight.
    let mark = alice.mark();
    alice.send_text(&state(6));
    alice.wait_until("the state", |alice| alice.state("lobby", "alice").is_some()).await;
    assert!(alice.since(mark, "error", "").is_empty());
    check(&mut alice, &state(7), "bad_json").await;
    server.stop().await;
}

#[tokio::test]
async fn an_unknown_type_is_named_in_the_error() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let cases = [
        ("nonsense", json!({"type": "nonsense"})),
        ("JOIN", json!({"type": "JOIN", "room": "lobby"})),
        ("", json!({"type": ""})),
        ("\"ü\\\n", json!({"type": "\"ü\\\n"})),
        ("welcome", json!({"type": "welcome"})),
    ];
    for (kind, message) in cases {
        let error = check(&mut alice, &message.to_string(), "unknown_type").await;
        assert_eq!(error["type_sent"], kind);
    }
    server.stop().await;
}

#[tokio::test]
async fn an_error_names_the_message_that_was_refused() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let cases = [
        (json!({"type": "join", "room": "blue", "state": 1}), "bad_field", json!(["join", "blue"])),
        (json!({"type": "state", "room": "blue", "state": {}}), "not_joined", json!(["state", "blue"])),
        (json!({"type": "resync", "room": "ü\"\\"}), "not_joined", json!(["resync", "ü\"\\"])),
        (json!({"type": "message", "room": "blue", "data": "x".repeat(4100)}), "too_large", json!(["message", "blue"])),
        (json!({"type": "join", "room": "x".repeat(129)}), "bad_field", json!(["join", null])),
        (json!({"type": "join", "room": 7}), "bad_field", json!(["join", null])),
        (json!({"type": "watch", "users": 7}), "bad_field", json!(["watch", null])),
        (json!({"type": "nothing", "room": "blue"}), "unknown_type", json!(["nothing", "blue"])),
        (json!({"room": "blue"}), "bad_field", json!([null, null])),
    ];
    for (message, code, about) in cases {
        let error = check(&mut alice, &message.to_string(), code).await;
        assert_eq!(json!([error["type_sent"], error["room"]]), about, "{message:.200}");
    }
    server.stop().await;
}

/// Messages with a missing or invalid field each.
fn invalid_fields() -> Vec<Value> {
    let long = "x".repeat(129);
    let wide = "ü".repeat(65);
    vec![
        json!({}),
        json!({"room": "lobby"}),
        json!({"type": 1}),
        json!({"type": null}),
        json!({"type": ["join"], "room": "lobby"}),
        json!({"type": "join"}),
        json!({"type": "join", "room": 1}),
        json!({"type": "join", "room": null}),
        json!({"type": "join", "room": ["lobby"]}),
        json!({"type": "join", "room": ""}),
        json!({"type": "join", "room": long}),
        json!({"type": "join", "room": wide}),
        json!({"type": "join", "room": "a\u{0}b"}),
        json!({"type": "join", "room": "a\nb"}),
        json!({"type": "join", "room": "a\u{7f}b"}),
        json!({"type": "join", "room": "a\u{85}b"}),
        json!({"type": "join", "room": " "}),
        json!({"type": "join", "room": "lobby "}),
        json!({"type": "join", "room": "\u{200b}"}),
        json!({"type": "join", "room": "lob\u{200b}by"}),
        json!({"type": "join", "room": "lobby", "state": "text"}),
        json!({"type": "join", "room": "lobby", "state": 1}),
        json!({"type": "join", "room": "lobby", "state": [1]}),
        json!({"type": "join", "room": "lobby", "state": true}),
        json!({"type": "join", "room": "lobby", "observe": "yes"}),
        json!({"type": "join", "room": "lobby", "observe": 1}),
        json!({"type": "join", "room": "lobby", "detail": "everything"}),
        json!({"type": "join", "room": "lobby", "detail": 1}),
        json!({"type": "join", "room": "lobby", "resume": 41}),
        json!({"type": "join", "room": "lobby", "resume": {"seq": 1}}),
        json!({"type": "join", "room": "lobby", "resume": {"epoch": "e"}}),
        json!({"type": "join", "room": "lobby", "resume": {"epoch": 1, "seq": 1}}),
        json!({"type": "join", "room": "lobby", "resume": {"epoch": "e", "seq": "1"}}),
        json!({"type": "join", "room": "lobby", "resume": {"epoch": "e", "seq": -1}}),
        json!({"type": "join", "room": "lobby", "resume": {"epoch": "e", "seq": 1.5}}),
        json!({"type": "leave"}),
        json!({"type": "leave", "room": {}}),
        json!({"type": "state", "room": "lobby"}),
        json!({"type": "state", "state": {}}),
        json!({"type": "state", "room": "lobby", "state": "text"}),
        json!({"type": "observe"}),
        json!({"type": "observe", "room": "lobby", "detail": "none"}),
        json!({"type": "unobserve"}),
        json!({"type": "resync"}),
        json!({"type": "resync", "room": 7}),
        json!({"type": "watch"}),
        json!({"type": "watch", "users": "bob"}),
        json!({"type": "watch", "users": {"bob": true}}),
        json!({"type": "watch", "users": null}),
        json!({"type": "watch", "users": ["bob", 7]}),
        json!({"type": "watch", "users": ["bob", ""]}),
        json!({"type": "watch", "users": [long]}),
        json!({"type": "watch", "users": ["a\nb"]}),
        json!({"type": "watch", "users": ["bob\u{2060}"]}),
        json!({"type": "unwatch"}),
        json!({"type": "unwatch", "users": [null]}),
        json!({"type": "message", "data": 1}),
        json!({"type": "message", "room": 1, "data": 1}),
        json!({"type": "message", "room": "", "data": 1}),
        json!({"type": "message", "room": "lobby"}),
        json!({"type": "heartbeat", "ack": "yes"}),
    ]
}

#[tokio::test]
async fn missing_and_invalid_fields_are_bad_field() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let before = alice.room("lobby").seq;
    for message in invalid_fields() {
        check(&mut alice, &message.to_string(), "bad_field").await;
    }
    alice.barrier().await;
    assert_eq!(alice.room("lobby").seq, before, "a refused message changes nothing");
    let mut rooms = server.get("/v1/rooms").await.json()["rooms"].as_array().expect("rooms").clone();
    // The one of the barrier exists until the next tick.
    rooms.retain(|room| !room["room"].as_str().is_some_and(|name| name.starts_with("barrier-")));
    assert_eq!(json!(rooms), json!([{"room": "lobby", "count": 1, "observers": 1}]));
    server.stop().await;
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect("alice").await;
    alice.send(&json!({"type": "join", "room": "lobby", "later": {"version": [2]}, "x": null}));
    alice.wait_until("the snapshot", |alice| alice.has("lobby", "alice")).await;
    server.stop().await;
}

#[tokio::test]
async fn a_state_over_one_kibibyte_is_too_large() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let state = |bytes: usize| {
        let state = json!({"k": "x".repeat(bytes - r#"{"k":""}"#.len())});
        assert_eq!(state.to_string().len(), bytes);
        state
    };
    let largest = state(1024);
    alice.send(&json!({"type": "state", "room": "lobby", "state": largest}));
    alice.wait_until("the state", |alice| alice.state("lobby", "alice") == Some(&largest)).await;
    for message in [
        json!({"type": "state", "room": "lobby", "state": state(1025)}),
        json!({"type": "state", "room": "lobby", "state": state(12_000)}),
        json!({"type": "join", "room": "lobby", "state": state(1025)}),
        json!({"type": "join", "room": "another", "state": state(1025)}),
    ] {
        check(&mut alice, &message.to_string(), "too_large").await;
    }
    alice.barrier().await;
    assert_eq!(alice.state("lobby", "alice"), Some(&largest), "the old state is kept");
    assert_eq!(server.count("another").await, 0, "the whole message is refused");
    server.stop().await;
}

#[tokio::test]
async fn commands_for_a_room_that_was_not_joined_are_refused() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    for kind in ["state", "leave", "unobserve", "resync", "message"] {
        let message = json!({"type": kind, "room": "elsewhere", "state": {}, "data": 1});
        check(&mut alice, &message.to_string(), "not_joined").await;
    }
    alice.send(&json!({"type": "observe", "room": "seen"}));
    alice.wait_until("the snapshot", |alice| alice.observes("seen")).await;
    let message = json!({"type": "state", "room": "seen", "state": {}});
    check(&mut alice, &message.to_string(), "not_joined").await;
    alice.send(&json!({"type": "leave", "room": "lobby"}));
    check(&mut alice, r#"{"type":"leave","room":"lobby"}"#, "not_joined").await;
    server.stop().await;
}

#[tokio::test]
async fn a_connection_may_join_a_hundred_rooms() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect("alice").await;
    let join = |n: usize| json!({"type": "join", "room": format!("room-{n}"), "observe": false});
    alice.send_all(&(0..100).map(join).collect::<Vec<_>>());
    alice.heartbeat().await;
    assert!(alice.since(0, "error", "").is_empty(), "{}", alice.describe());
    let error = check(&mut alice, &join(100).to_string(), "forbidden").await;
    assert!(room::string(&error, "message").contains("100"), "the limit is stated: {error}");
    // Leaving a room allows another one, and joining a room again does not count.
    alice.send(&json!({"type": "leave", "room": "room-0"}));
    alice.send(&join(100));
    alice.send(&join(7));
    alice.heartbeat().await;
    assert_eq!(alice.since(0, "error", "").len(), 1, "{}", alice.describe());
    server.wait_for_member("room-100", "alice", true).await;
    server.stop().await;
}

#[tokio::test]
async fn a_thousand_joins_of_one_connection_create_a_hundred_rooms() {
    let server = TestServer::start(&[]);
    let mut observer = server.connect_to("observer", "lobby").await;
    let mut greedy = server.raw("greedy").await;
    let join = |n: usize| json!({"type": "join", "room": format!("room-{n:05}")}).to_string();
    let joins: Vec<Frame> = (0..1000).map(|n| Frame::text(&join(n))).collect();
    for chunk in joins.chunks(250) {
        greedy.send(&glued(chunk)).await;
        assert_eq!(greedy.json_of_type("error").await["code"], "forbidden");
        assert!(greedy.is_served().await);
        observer.heartbeat().await;
    }
    let mut listed = server.get("/v1/rooms").await.json();
    let mut rooms = listed["rooms"].as_array().expect("rooms").len();
    while let Some(next) = listed["next"].as_str() {
        let path = format!("/v1/rooms?after={}", crate::common::encoded(next));
        listed = server.get(&path).await.json();
        rooms += listed["rooms"].as_array().expect("rooms").len();
    }
    assert_eq!(rooms, 101, "a hundred rooms and the lobby");
    server.stop().await;
}
