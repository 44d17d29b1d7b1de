//! PROTOCOLS section 5: chat (`/ws`). One test a rule.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::frame::{BINARY, CLOSE, PING, TEXT};
use crate::common::{DEADLINE, EventClient, Frame, RawClient, TestServer};

fn join(user: &str) -> Value {
    json!({"type": "join", "payload": {"user": user}})
}

fn say(text: &str) -> Value {
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

/// A log in short.
fn told(client: &EventClient) -> Vec<String> {
    client.log.iter().filter_map(short).collect()
}

fn ends_with(client: &EventClient, what: &str) -> bool {
    client.log.iter().rev().find_map(short).is_some_and(|last| last == what)
}

fn errors(client: &EventClient) -> Vec<&str> {
    client.of("error").iter().map(|error| error["message"].as_str().expect("a message")).collect()
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[tokio::test]
async fn what_is_said_goes_to_all_and_to_the_sender() {
    let server = TestServer::start(&[]);
    let mut alice = server.chat("alice").await;
    let mut bob = server.chat("bob").await;
    alice.wait_until("bob", |alice| ends_with(alice, "+bob")).await;
    alice.send(&say("Hello \"everyone\" 😀"));
    for client in [&mut alice, &mut bob] {
        client.wait_until("the message", |client| ends_with(client, "alice: Hello \"everyone\" 😀")).await;
        assert_eq!(told(client), ["+alice", "+bob", "alice: Hello \"everyone\" 😀"]);
        for message in &client.log {
            let ts = message["payload"]["ts"].as_f64().expect("ts is a number");
            assert!((ts - seconds_now()).abs() < 60.0, "seconds: {message}");
        }
        let keys: Vec<&String> = client.log[2]["payload"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["text", "ts", "user"], "{}", client.log[2]);
    }
    assert_eq!(alice.log[2], bob.log[2], "the same for all");
    server.stop().await;
}

#[tokio::test]
async fn the_first_message_is_a_join_or_the_end() {
    let server = TestServer::start(&[]);
    let firsts = [
        r#"{"type":"msg","payload":{"text":"hi"}}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"join"}"#,
        r#"{"type":"join","payload":{}}"#,
        r#"{"type":"join","payload":{"user":""}}"#,
        r#"{"type":"join","payload":{"user":7}}"#,
        "no json",
        "",
    ];
    for first in firsts {
        let mut client = RawClient::open(server.address(), "/ws").await;
        client.send_frame(&Frame::text(first)).await;
        assert_eq!(client.json().await, json!({"type": "error", "message": "missing join/user"}), "{first}");
        assert_eq!(client.closed().await, Some(1008), "{first}");
    }
    for name in ["x".repeat(129), "a\nb".into()] {
        let mut client = RawClient::open(server.address(), "/ws").await;
        client.send_json(&join(&name)).await;
        let error = client.json().await;
        assert!(error["message"].as_str().unwrap().starts_with("user must"), "{error}");
        assert_eq!(client.closed().await, Some(1008));
    }
    assert_eq!(server.count("lobby").await, 0);
    server.stop().await;
}

#[tokio::test]
async fn messages_are_under_the_name_of_the_join() {
    let server = TestServer::start(&[]);
    let mut alice = server.chat("alice").await;
    alice.send(&json!({"type": "msg", "user": "eve", "payload": {"user": "eve", "text": "it is me"}}));
    alice.wait_until("the message", |alice| ends_with(alice, "alice: it is me")).await;
    alice.send(&join("eve"));
    alice.wait_until("the error", |alice| errors(alice) == ["already joined"]).await;
    alice.send(&say("still me"));
    alice.wait_until("the message", |alice| ends_with(alice, "alice: still me")).await;
    assert_eq!(server.count("lobby").await, 1);
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_understood_is_named_and_the_chat_goes_on() {
    let server = TestServer::start(&[]);
    let mut alice = server.chat("alice").await;
    let long = say(&"x".repeat(4097)).to_string();
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
    let most = "x".repeat(4096);
    for text in ["", "  \n", &most] {
        alice.send(&say(text));
    }
    alice.wait_until("the one with text", |alice| ends_with(alice, &format!("alice: {most}"))).await;
    assert_eq!(told(&alice).len(), 2, "blank text is ignored");
    assert_eq!(errors(&alice).len(), cases.len(), "without an error");
    alice.send(&json!({"type": "ping"}));
    alice.wait_until("the pong", |alice| alice.of("pong").len() == 1).await;
    assert!((alice.of("pong")[0]["ts"].as_f64().unwrap() - seconds_now()).abs() < 60.0);
    server.stop().await;
}

#[tokio::test]
async fn violations_close_with_their_codes() {
    let server = TestServer::start(&[]);
    for (frame, code) in
        [(Frame::new(BINARY, *b"x"), 1003), (Frame::text("x").unmasked(), 1002), (Frame::new(TEXT, *b"\xff"), 1007)]
    {
        let mut client = RawClient::open(server.address(), "/ws").await;
        client.send_frame(&frame).await;
        assert_eq!(client.closed().await, Some(code));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_newcomer_gets_the_history_first_and_oldest_first() {
    let server = TestServer::start(&[]);
    let mut alice = server.chat("alice").await;
    for n in 0..3 {
        alice.send(&say(&format!("message {n}")));
        alice.wait_until("it", |alice| ends_with(alice, &format!("alice: message {n}"))).await;
    }
    let mut bob = server.chat("bob").await;
    let all = ["+alice", "alice: message 0", "alice: message 1", "alice: message 2", "+bob"];
    assert_eq!(told(&bob), all);
    // It outlives those who made it.
    alice.close(1000);
    bob.wait_until("her leave", |bob| ends_with(bob, "-alice")).await;
    bob.close(1000);
    server.wait_for_member("lobby", "bob", false).await;
    let carol = server.chat("carol").await;
    assert_eq!(told(&carol), [&all[..], &["-alice", "-bob", "+carol"]].concat());
    let ts: Vec<f64> = carol.log.iter().map(|message| message["payload"]["ts"].as_f64().unwrap()).collect();
    assert!(ts.is_sorted(), "{ts:?}");
    server.stop().await;
}

#[tokio::test]
async fn the_history_is_as_long_as_it_may_be() {
    let server = TestServer::start(&["--history", "5"]);
    let mut alice = server.chat("alice").await;
    for n in 0..9 {
        alice.send(&say(&format!("{n}")));
    }
    alice.wait_until("the last", |alice| ends_with(alice, "alice: 8")).await;
    let bob = server.chat("bob").await;
    assert_eq!(told(&bob), ["alice: 4", "alice: 5", "alice: 6", "alice: 7", "alice: 8", "+bob"]);
    server.stop().await;
    let none = TestServer::start(&["--history", "0"]);
    let _alice = none.chat("alice").await;
    assert_eq!(told(&none.chat("bob").await), ["+bob"]);
    none.stop().await;
}

#[tokio::test]
async fn a_leave_is_told_however_the_connection_ends() {
    let server = TestServer::start(&[]);
    let mut watcher = server.chat("watcher").await;
    for way in ["clean", "going away", "cut off", "broken"] {
        let mut client = RawClient::open(server.address(), "/ws").await;
        client.send_json(&join("guest")).await;
        watcher.wait_until("the join", |watcher| ends_with(watcher, "+guest")).await;
        match way {
            "clean" => client.send_frame(&Frame::close(1000, b"")).await,
            "going away" => client.send_frame(&Frame::close(1001, b"")).await,
            "broken" => client.send_frame(&Frame::text("x").unmasked()).await,
            _ => drop(client),
        }
        watcher.wait_until(way, |watcher| ends_with(watcher, "-guest")).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn several_connections_are_one_user_and_all_may_speak() {
    let server = TestServer::start(&[]);
    let mut watcher = server.chat("watcher").await;
    let first = server.chat("alice").await;
    let mut second = server.chat("alice").await;
    first.send(&say("from the first"));
    second.wait_until("it", |second| ends_with(second, "alice: from the first")).await;
    first.close(1000);
    first_is_gone(&server).await;
    second.send(&say("from the second"));
    watcher.wait_until("it", |watcher| ends_with(watcher, "alice: from the second")).await;
    second.close(1000);
    watcher.wait_until("her leave", |watcher| ends_with(watcher, "-alice")).await;
    assert_eq!(told(&watcher), ["+watcher", "+alice", "alice: from the first", "alice: from the second", "-alice"]);
    server.stop().await;
}

async fn first_is_gone(server: &TestServer) {
    let deadline = Instant::now() + DEADLINE;
    while server.stat("connections").await != 2 {
        assert!(Instant::now() < deadline, "the first connection did not end");
    }
}

#[tokio::test]
async fn all_dialects_meet_in_the_lobby() {
    let server = TestServer::start(&[]);
    let mut chat = server.chat("chatter").await;
    let mut status = server.online_status("1").await;
    chat.wait_until("status", |chat| ends_with(chat, "+1")).await;
    let native = server.connect_to("native", "lobby").await;
    chat.wait_until("native", |chat| ends_with(chat, "+native")).await;
    let mut list = server.online_users("list").await;
    chat.wait_until("online users", |chat| ends_with(chat, "+list")).await;
    let expected = ["\"chatter\"", "\"list\"", "\"native\""];
    status.wait_until("all", |status| status.shows(&expected)).await;
    assert!(native.has("lobby", "chatter"));
    list.wait_until("all", |list| list.users == ["1", "chatter", "list", "native"]).await;
    chat.send(&say("those with names only do not hear this"));
    chat.wait_until("the message", |chat| ends_with(chat, "chatter: those with names only do not hear this")).await;
    native.send(&json!({"type": "leave", "room": "lobby"}));
    chat.wait_until("the leave", |chat| ends_with(chat, "-native")).await;
    chat.close(1000);
    status.wait_until("the leave", |status| status.shows(&["\"list\""])).await;
    list.wait_until("the leave", |list| list.users == ["1", "list"]).await;
    server.stop().await;
}

#[tokio::test]
async fn nobody_is_heard_before_coming_or_after_going() {
    // All of it within one tick, and in one segment.
    let server = TestServer::start(&["--tick", "300ms"]);
    let mut watcher = server.chat("watcher").await;
    let hasty = EventClient::connect(server.address(), "/ws").await;
    hasty.send_all(&[join("hasty"), say("one"), say("two")]);
    watcher.wait_until("it", |watcher| ends_with(watcher, "hasty: two")).await;
    hasty.send(&say("three"));
    hasty.close(1000);
    watcher.wait_until("the leave", |watcher| ends_with(watcher, "-hasty")).await;
    let expected = ["+watcher", "+hasty", "hasty: one", "hasty: two", "hasty: three", "-hasty"];
    assert_eq!(told(&watcher), expected);
    server.stop().await;
}

#[tokio::test]
async fn a_flood_is_asked_to_slow_down_and_hurts_nobody() {
    let server = TestServer::start(&["--tick", "500ms"]);
    let mut flood = server.chat("flood").await;
    let mut calm = server.chat("calm").await;
    let messages: Vec<Value> = (0..200).map(|n| say(&format!("{n}"))).collect();
    flood.send_all(&messages);
    calm.send(&say("peace"));
    calm.wait_until("its own", |calm| told(calm).contains(&"calm: peace".into())).await;
    flood.wait_until("the errors", |flood| errors(flood).len() >= 170).await;
    assert!(errors(&flood).iter().all(|message| *message == "slow down"));
    // Ten a second, and the flood may have met two seconds.
    let heard = told(&calm).iter().filter(|line| line.starts_with("flood: ")).count();
    assert!(heard <= 20, "{heard}");
    server.stop().await;
}

#[tokio::test]
async fn one_tick_of_a_room_is_bounded_whoever_speaks() {
    let server = TestServer::start(&["--tick", "1s"]);
    for round in 0..100 {
        let mut speakers = Vec::new();
        for n in 0..4 {
            speakers.push(EventClient::connect(server.address(), "/ws").await);
            speakers[n].send(&join(&format!("speaker-{round}-{n}")));
        }
        let ticks = server.ticks().await;
        let text = "x".repeat(4000);
        for speaker in &speakers {
            speaker.send_all(&vec![say(&text); 9]);
        }
        // 144 KB from four who each keep to their own limit: 32 KiB go with a tick.
        let mut passed = 36;
        for speaker in &mut speakers {
            speaker.send(&json!({"type": "ping"}));
            speaker.wait_until("the pong", |speaker| !speaker.of("pong").is_empty()).await;
            passed -= errors(speaker).len() as u64;
        }
        let ticks = server.ticks().await - ticks + 1;
        assert!(passed > 0 && passed <= 8 * ticks, "{passed} of 36 in {ticks} ticks");
        if ticks <= 2 {
            return server.stop().await;
        }
    }
    panic!("it took more than two ticks each time");
}

#[tokio::test]
async fn a_slow_client_misses_nothing_or_is_dropped() {
    let server = TestServer::start(&["--tick", "20ms"]);
    let mut speaker = server.chat("speaker").await;
    let mut slow = EventClient::connect_with_small_buffer(server.address(), "/ws").await;
    slow.send(&join("slow"));
    speaker.wait_until("slow", |speaker| ends_with(speaker, "+slow")).await;
    let hung = EventClient::connect_with_small_buffer(server.address(), "/ws").await;
    hung.send(&join("hung"));
    speaker.wait_until("hung", |speaker| ends_with(speaker, "+hung")).await;
    slow.wait_until("hung", |slow| ends_with(slow, "+hung")).await;
    slow.set_reading(false);
    hung.set_reading(false);
    // Some 40 KB in names that come and go, which are not rate limited: joins and leaves of long names.
    let names: Vec<String> = (0..100).map(|n| format!("{n:0>128}")).collect();
    let mut guests = Vec::new();
    for name in &names {
        guests.push(server.connect(name).await);
    }
    let churn = async |speaker: &mut EventClient, rounds: usize| {
        for _ in 0..rounds {
            let before = speaker.log.len();
            guests.iter().for_each(|guest| guest.send(&json!({"type": "join", "room": "lobby", "observe": false})));
            speaker.wait_until("the joins", |speaker| speaker.log.len() >= before + 100).await;
            guests.iter().for_each(|guest| guest.send(&json!({"type": "leave", "room": "lobby"})));
            speaker.wait_until("the leaves", |speaker| speaker.log.len() >= before + 200).await;
        }
    };
    churn(&mut speaker, 6).await;
    slow.set_reading(true);
    speaker.send(&say("end"));
    speaker.wait_until("the end", |speaker| ends_with(speaker, "speaker: end")).await;
    slow.wait_until("the end", |slow| ends_with(slow, "speaker: end")).await;
    let since = told(&speaker).iter().position(|line| line == "+slow").expect("seen above");
    assert!(told(&slow).ends_with(&told(&speaker)[since..]), "each message once and in order");
    let deadline = Instant::now() + DEADLINE;
    while server.stat("connections_too_slow").await == 0 {
        assert!(Instant::now() < deadline, "it was not dropped");
        churn(&mut speaker, 6).await;
    }
    speaker.wait_until("its leave", |speaker| told(speaker).contains(&"-hung".into())).await;
    server.stop().await;
}

#[tokio::test]
async fn it_is_pinged_and_dropped_like_online_status() {
    let server = TestServer::start(&["--ping-interval", "300ms"]);
    let mut watcher = server.chat("watcher").await;
    let mut silent = RawClient::open(server.address(), "/ws").await;
    silent.send_json(&join("silent")).await;
    let mut pings = 0;
    while let Some(frame) = silent.frame().await {
        assert_ne!(frame.opcode, CLOSE);
        pings += usize::from(frame.opcode == PING);
    }
    assert_eq!(pings, 1);
    watcher.wait_until("its leave", |watcher| ends_with(watcher, "-silent")).await;
    server.stop().await;
}

#[tokio::test]
async fn whoever_does_not_join_in_time_is_sent_away() {
    let server = TestServer::start(&["--header-timeout", "2s", "--ping-interval", "200ms"]);
    let started = Instant::now();
    let mut silent = RawClient::open(server.address(), "/ws").await;
    let mut alive = RawClient::open(server.address(), "/ws").await;
    let mut late = EventClient::connect(server.address(), "/ws").await;
    // Frames that are no message do not make it last longer.
    for _ in 0..3 {
        sleep(Duration::from_millis(100)).await;
        alive.send_frame(&Frame::new(PING, *b"")).await;
    }
    late.send(&join("late"));
    for client in [&mut silent, &mut alive] {
        let frame = loop {
            let frame = client.frame().await.expect("a close frame");
            if frame.opcode == CLOSE {
                break frame;
            }
        };
        assert!(started.elapsed() >= Duration::from_millis(1900), "{:?}", started.elapsed());
        assert_eq!(frame.close_code(), Some(1008));
        assert_eq!(&frame.payload[2..], b"missing join/user");
    }
    // And who has joined is pinged like all others.
    sleep(Duration::from_millis(500)).await;
    late.send(&say("still here"));
    late.wait_until("it", |late| ends_with(late, "late: still here")).await;
    server.stop().await;
}

#[tokio::test]
async fn a_stop_closes_with_1012_and_tells_of_no_leaves() {
    let server = TestServer::start(&[]);
    let mut clients = vec![server.chat("a").await, server.chat("b").await];
    clients.push(EventClient::connect(server.address(), "/ws").await);
    let run = server.begin_stop();
    for client in &mut clients {
        assert_eq!(client.wait_for_close().await, Some(1012));
        assert!(client.of("leave").is_empty());
    }
    run.await.expect("no panic").expect("a stop is no error");
}
