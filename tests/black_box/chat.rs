//! The chat protocol (`/ws`): joins, messages, history, leaves. Each test checks one rule.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::common::frame::{BINARY, TEXT};
use crate::common::{EventClient, Frame, RawClient, TestServer};

pub(crate) fn join(user: &str) -> Value {
    json!({"type": "join", "payload": {"user": user}})
}

pub(crate) fn chat_message(text: &str) -> Value {
    json!({"type": "msg", "payload": {"text": text}})
}

/// `+user`, `user: text` or `-user`.
fn short(message: &Value) -> Option<String> {
    let (user, text) = (message["payload"]["user"].as_str()?, message["payload"]["text"].as_str());
    match (message["type"].as_str()?, text) {
        ("join", None) => Some(format!("+{user}")),
        ("leave", None) => Some(format!("-{user}")),
        ("msg", Some(text)) => Some(format!("{user}: {text}")),
        _ => panic!("{message}"),
    }
}

/// The short forms of all messages that a client received.
pub(crate) fn short_log(client: &EventClient) -> Vec<String> {
    client.log.iter().filter_map(short).collect()
}

pub(crate) fn ends_with(client: &EventClient, what: &str) -> bool {
    client.log.iter().rev().find_map(short).is_some_and(|last| last == what)
}

pub(crate) fn errors(client: &EventClient) -> Vec<&str> {
    client.of("error").iter().map(|error| error["message"].as_str().expect("a message")).collect()
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[tokio::test]
async fn messages_reach_all_clients_and_the_sender() {
    let server = TestServer::start(&[]);
    let mut alice = server.chat("alice").await;
    let mut bob = server.chat("bob").await;
    alice.wait_until("the join of bob", |alice| ends_with(alice, "+bob")).await;
    alice.send(&chat_message("Hello \"everyone\" 😀"));
    for client in [&mut alice, &mut bob] {
        client.wait_until("the message", |client| ends_with(client, "alice: Hello \"everyone\" 😀")).await;
        assert_eq!(short_log(client), ["+alice", "+bob", "alice: Hello \"everyone\" 😀"]);
        for message in &client.log {
            let ts = message["payload"]["ts"].as_f64().expect("ts is a number");
            assert!((ts - seconds_now()).abs() < 60.0, "ts is not in seconds: {message}");
        }
        let keys: Vec<&String> = client.log[2]["payload"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["text", "ts", "user"], "{}", client.log[2]);
    }
    assert_eq!(alice.log[2], bob.log[2], "clients received different messages");
    server.stop().await;
}

#[tokio::test]
async fn a_first_message_that_is_not_a_join_closes_with_1008() {
    let server = TestServer::start(&[]);
    let first_messages = [
        r#"{"type":"msg","payload":{"text":"hi"}}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"join"}"#,
        r#"{"type":"join","payload":{}}"#,
        r#"{"type":"join","payload":{"user":""}}"#,
        r#"{"type":"join","payload":{"user":7}}"#,
        "no json",
        "",
    ];
    for first in first_messages {
        let mut client = RawClient::open(server.address(), "/ws").await;
        client.send_frame(&Frame::text(first)).await;
        assert_eq!(client.json().await, json!({"type": "error", "message": "missing join/user"}), "{first}");
        assert_eq!(client.wait_for_close().await, Some(1008), "{first}");
    }
    let long = "x".repeat(129);
    let invalid_names = [
        (&*long, "user is 129 bytes of UTF-8; the limit is 128"),
        ("a\nb", "user must not contain control characters"),
    ];
    for (name, message) in invalid_names {
        let mut client = RawClient::open(server.address(), "/ws").await;
        client.send_json(&join(name)).await;
        assert_eq!(client.json().await, json!({"type": "error", "message": message}));
        assert_eq!(client.wait_for_close().await, Some(1008));
    }
    assert_eq!(server.count("lobby").await, 0);
    server.stop().await;
}

#[tokio::test]
async fn messages_carry_the_user_of_the_join() {
    let server = TestServer::start(&[]);
    let mut alice = server.chat("alice").await;
    alice.send(&json!({"type": "msg", "user": "eve", "payload": {"user": "eve", "text": "it is me"}}));
    alice.wait_until("the message", |alice| ends_with(alice, "alice: it is me")).await;
    alice.send(&join("eve"));
    alice.wait_until("the error", |alice| errors(alice) == ["already joined"]).await;
    alice.send(&chat_message("still me"));
    alice.wait_until("the message", |alice| ends_with(alice, "alice: still me")).await;
    assert_eq!(server.count("lobby").await, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_bad_message_is_answered_with_an_error_and_the_chat_continues() {
    let server = TestServer::start(&[]);
    let mut alice = server.chat("alice").await;
    let long = chat_message(&"x".repeat(4097)).to_string();
    let cases = [
        ("{", "invalid json"),
        ("hello", "invalid json"),
        ("[1]", "invalid json"),
        ("{\"type\":\"dance\"}", "unknown type"),
        ("{}", "unknown type"),
        ("{\"type\":\"msg\",\"payload\":{\"text\":7}}", "text must be a string"),
        (&long, "text too long, at most 4096 bytes"),
    ];
    for (sent, (text, want)) in cases.iter().enumerate() {
        alice.send_text(text);
        alice.wait_until("the error", |alice| errors(alice).len() > sent).await;
        assert_eq!(errors(&alice)[sent], *want, "{text}");
    }
    let longest = "x".repeat(4096);
    for text in ["", "  \n", &longest] {
        alice.send(&chat_message(text));
    }
    alice.wait_until("the message with text", |alice| ends_with(alice, &format!("alice: {longest}"))).await;
    assert_eq!(short_log(&alice).len(), 2, "blank text was published");
    assert_eq!(errors(&alice).len(), cases.len(), "an allowed text was answered with an error");
    alice.send(&json!({"type": "ping"}));
    alice.wait_until("the pong", |alice| alice.of("pong").len() == 1).await;
    assert!((alice.of("pong")[0]["ts"].as_f64().unwrap() - seconds_now()).abs() < 60.0);
    server.stop().await;
}

#[tokio::test]
async fn protocol_violations_close_with_their_codes() {
    let server = TestServer::start(&[]);
    for (frame, code) in
        [(Frame::new(BINARY, *b"x"), 1003), (Frame::text("x").unmasked(), 1002), (Frame::new(TEXT, *b"\xff"), 1007)]
    {
        let mut client = RawClient::open(server.address(), "/ws").await;
        client.send_frame(&frame).await;
        assert_eq!(client.wait_for_close().await, Some(code));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_new_client_receives_the_history_first_in_order() {
    let server = TestServer::start(&[]);
    let mut alice = server.chat("alice").await;
    for n in 0..3 {
        alice.send(&chat_message(&format!("message {n}")));
        alice.wait_until("the message", |alice| ends_with(alice, &format!("alice: message {n}"))).await;
    }
    let mut bob = server.chat("bob").await;
    let all = ["+alice", "alice: message 0", "alice: message 1", "alice: message 2", "+bob"];
    assert_eq!(short_log(&bob), all);
    // The history stays after its users have left.
    alice.close(1000);
    bob.wait_until("the leave", |bob| ends_with(bob, "-alice")).await;
    bob.close(1000);
    server.wait_for_member("lobby", "bob", false).await;
    let carol = server.chat("carol").await;
    assert_eq!(short_log(&carol), [&all[..], &["-alice", "-bob", "+carol"]].concat());
    let ts: Vec<f64> = carol.log.iter().map(|message| message["payload"]["ts"].as_f64().unwrap()).collect();
    assert!(ts.is_sorted(), "{ts:?}");
    server.stop().await;
}

#[tokio::test]
async fn the_history_keeps_the_configured_number_of_messages() {
    let server = TestServer::start(&["--history", "5"]);
    let mut alice = server.chat("alice").await;
    for n in 0..9 {
        alice.send(&chat_message(&format!("{n}")));
    }
    alice.wait_until("the last message", |alice| ends_with(alice, "alice: 8")).await;
    let bob = server.chat("bob").await;
    assert_eq!(short_log(&bob), ["alice: 4", "alice: 5", "alice: 6", "alice: 7", "alice: 8", "+bob"]);
    server.stop().await;
    let none = TestServer::start(&["--history", "0"]);
    let _alice = none.chat("alice").await;
    assert_eq!(short_log(&none.chat("bob").await), ["+bob"]);
    none.stop().await;
}

#[tokio::test]
async fn made_up_users_do_not_push_messages_out_of_the_history() {
    let server = TestServer::start(&["--history", "20"]);
    let mut alice = server.chat("alice").await;
    for n in 0..3 {
        alice.send(&chat_message(&format!("{n}")));
    }
    alice.wait_until("the last message", |alice| ends_with(alice, "alice: 2")).await;
    for n in 0..100 {
        server.rest_heartbeat(&format!("made up {n}")).await;
    }
    alice.wait_until("the last one", |alice| ends_with(alice, "+made up 99")).await;
    let bob = server.chat("bob").await;
    let log = short_log(&bob);
    assert_eq!(log[..3], ["alice: 0", "alice: 1", "alice: 2"], "{log:?}");
    // The latest joins have their own place.
    assert_eq!(log[log.len() - 2..], ["+made up 99", "+bob"], "{log:?}");
    assert_eq!(log.len(), 3 + 20 + 1, "{log:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_leave_is_reported_however_the_connection_ends() {
    let server = TestServer::start(&[]);
    let mut observer = server.chat("observer").await;
    for way in ["clean", "going away", "cut off", "broken"] {
        let mut client = RawClient::open(server.address(), "/ws").await;
        client.send_json(&join("guest")).await;
        observer.wait_until("the join", |observer| ends_with(observer, "+guest")).await;
        match way {
            "clean" => client.send_frame(&Frame::close(1000, b"")).await,
            "going away" => client.send_frame(&Frame::close(1001, b"")).await,
            "broken" => client.send_frame(&Frame::text("x").unmasked()).await,
            _ => drop(client),
        }
        observer.wait_until(way, |observer| ends_with(observer, "-guest")).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn several_connections_of_a_user_join_once_and_all_may_publish() {
    let server = TestServer::start(&[]);
    let mut observer = server.chat("observer").await;
    let first = server.chat("alice").await;
    let mut second = server.chat("alice").await;
    first.send(&chat_message("from the first"));
    second.wait_until("the message", |second| ends_with(second, "alice: from the first")).await;
    first.close(1000);
    server.wait_for_stat("connections", 2).await; // The first connection has ended.
    second.send(&chat_message("from the second"));
    observer.wait_until("the message", |observer| ends_with(observer, "alice: from the second")).await;
    second.close(1000);
    observer.wait_until("the leave", |observer| ends_with(observer, "-alice")).await;
    assert_eq!(
        short_log(&observer),
        ["+observer", "+alice", "alice: from the first", "alice: from the second", "-alice"]
    );
    server.stop().await;
}

#[tokio::test]
async fn all_protocols_share_the_lobby() {
    let server = TestServer::start(&[]);
    let mut chat = server.chat("chatter").await;
    let mut status = server.online_status("1").await;
    chat.wait_until("the online-status join", |chat| ends_with(chat, "+1")).await;
    let native = server.connect_to("native", "lobby").await;
    chat.wait_until("the native join", |chat| ends_with(chat, "+native")).await;
    let mut list = server.online_users("list").await;
    chat.wait_until("the online-users join", |chat| ends_with(chat, "+list")).await;
    let expected = ["\"chatter\"", "\"list\"", "\"native\""];
    status.wait_until("all other users", |status| status.has_online(&expected)).await;
    assert!(native.has("lobby", "chatter"));
    list.wait_until("all users", |list| list.users == ["1", "chatter", "list", "native"]).await;
    chat.send(&chat_message("clients without messages do not receive this"));
    chat.wait_until("the message", |chat| ends_with(chat, "chatter: clients without messages do not receive this"))
        .await;
    native.send(&json!({"type": "leave", "room": "lobby"}));
    chat.wait_until("the leave", |chat| ends_with(chat, "-native")).await;
    chat.close(1000);
    status.wait_until("the leave", |status| status.has_online(&["\"list\""])).await;
    list.wait_until("the leave", |list| list.users == ["1", "list"]).await;
    server.stop().await;
}

#[tokio::test]
async fn messages_come_between_the_join_and_the_leave_of_their_user() {
    // The join and the first messages are handled in one tick: they are sent in one TCP segment.
    let server = TestServer::start(&["--tick", "300ms"]);
    let mut observer = server.chat("observer").await;
    let hasty = EventClient::connect(server.address(), "/ws").await;
    hasty.send_all(&[join("hasty"), chat_message("one"), chat_message("two")]);
    observer.wait_until("the messages", |observer| ends_with(observer, "hasty: two")).await;
    hasty.send(&chat_message("three"));
    hasty.close(1000);
    observer.wait_until("the leave", |observer| ends_with(observer, "-hasty")).await;
    let expected = ["+observer", "+hasty", "hasty: one", "hasty: two", "hasty: three", "-hasty"];
    assert_eq!(short_log(&observer), expected);
    server.stop().await;
}
