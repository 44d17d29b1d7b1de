//! Limits of the chat protocol: the rate of messages, slow clients, and clients that do not join or answer pings.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::chat::{chat_message, ends_with, errors, join, short_log};
use crate::common::frame::{CLOSE, PING};
use crate::common::{DEADLINE, EventClient, Frame, Mirror, RawClient, TestServer};

#[tokio::test]
async fn a_flood_of_messages_is_refused_and_others_are_not_affected() {
    let server = TestServer::start(&["--tick", "500ms"]);
    let mut flood = server.chat("flood").await;
    let mut calm = server.chat("calm").await;
    let messages: Vec<Value> = (0..200).map(|n| chat_message(&format!("{n}"))).collect();
    flood.send_all(&messages);
    calm.send(&chat_message("calm message"));
    calm.wait_until("its own message", |calm| short_log(calm).contains(&"calm: calm message".into())).await;
    flood.wait_until("the errors", |flood| errors(flood).len() >= 170).await;
    assert!(errors(&flood).iter().all(|message| *message == "slow down"));
    // The limit is ten per second, and the flood may have spanned two seconds.
    let received = short_log(&calm).iter().filter(|line| line.starts_with("flood: ")).count();
    assert!(received <= 20, "{received}");
    server.stop().await;
}

#[tokio::test]
async fn messages_of_one_room_and_tick_are_bounded() {
    let server = TestServer::start(&["--tick", "1s"]);
    for round in 0..100 {
        let mut senders = Vec::new();
        for n in 0..4 {
            senders.push(EventClient::connect(server.address(), "/ws").await);
            senders[n].send(&join(&format!("sender-{round}-{n}")));
        }
        let ticks = server.ticks().await;
        let text = "x".repeat(4000);
        for sender in &senders {
            sender.send_all(&vec![chat_message(&text); 9]);
        }
        // Four users send 144 KB within their own limits; the room's limit is 32 KiB per tick.
        let mut passed = 36;
        for sender in &mut senders {
            sender.send(&json!({"type": "ping"}));
            sender.wait_until("the pong", |sender| !sender.of("pong").is_empty()).await;
            passed -= errors(sender).len() as u64;
        }
        let ticks = server.ticks().await - ticks + 1;
        assert!(passed > 0 && passed <= 8 * ticks, "{passed} of 36 in {ticks} ticks");
        if ticks <= 2 {
            return server.stop().await;
        }
    }
    panic!("every attempt took more than two ticks");
}

#[tokio::test]
async fn a_slow_client_receives_every_message_or_is_disconnected() {
    // Without room for a client that is far behind.
    let server = TestServer::start_with(&["--tick", "20ms"], |config| config.limits.max_backlog_bytes = 1000);
    let mut sender = server.chat("sender").await;
    let mut slow = EventClient::connect_with_small_buffer(server.address(), "/ws").await;
    slow.send(&join("slow"));
    sender.wait_until("the join of slow", |sender| ends_with(sender, "+slow")).await;
    let hung = EventClient::connect_with_small_buffer(server.address(), "/ws").await;
    hung.send(&join("hung"));
    sender.wait_until("the join of hung", |sender| ends_with(sender, "+hung")).await;
    slow.wait_until("the join of hung", |slow| ends_with(slow, "+hung")).await;
    slow.set_reading(false);
    hung.set_reading(false);
    let guests = guests(&server).await;
    churn(&guests, &mut sender, 6).await;
    slow.set_reading(true);
    sender.send(&chat_message("end"));
    sender.wait_until("the end", |sender| ends_with(sender, "sender: end")).await;
    slow.wait_until("the end", |slow| ends_with(slow, "sender: end")).await;
    let since = short_log(&sender).iter().position(|line| line == "+slow").expect("the join was received above");
    assert!(short_log(&slow).ends_with(&short_log(&sender)[since..]), "slow missed, repeated or reordered a message");
    let deadline = Instant::now() + DEADLINE;
    while server.stat("connections_too_slow").await == 0 {
        assert!(Instant::now() < deadline, "the hung client is still connected");
        churn(&guests, &mut sender, 6).await;
    }
    sender.wait_until("the leave", |sender| short_log(sender).contains(&"-hung".into())).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_is_far_behind_receives_every_message_and_no_events_that_cancel_out() {
    let server = TestServer::start(&["--tick", "20ms"]);
    let mut sender = server.chat("sender").await;
    let mut slow = EventClient::connect_with_small_buffer(server.address(), "/ws").await;
    slow.send(&join("slow"));
    sender.wait_until("the join of slow", |sender| ends_with(sender, "+slow")).await;
    slow.wait_until("its join", |slow| ends_with(slow, "+slow")).await;
    slow.set_reading(false);
    let guests = guests(&server).await;
    for round in 0..20 {
        churn(&guests, &mut sender, 3).await;
        sender.send(&chat_message(&format!("message {round}")));
    }
    assert!(server.stat("events_cancelled").await > 1000);
    let late = server.chat("late").await;
    late.send(&chat_message("hello"));
    sender.wait_until("the last message", |sender| ends_with(sender, "late: hello")).await;
    slow.set_reading(true);
    slow.wait_until("the last message", |slow| ends_with(slow, "late: hello")).await;
    let texts = |lines: Vec<String>| lines.into_iter().filter(|line| line.contains(": ")).collect::<Vec<_>>();
    assert_eq!(texts(short_log(&slow)), texts(short_log(&sender)), "slow missed or reordered a message");
    assert!(short_log(&slow).ends_with(&["+late".into(), "late: hello".into()]), "the join comes before the message");
    assert_eq!(server.stat("connections_too_slow").await, 0);
    server.stop().await;
}

/// A hundred users with long names. Joins and leaves are not rate limited: all of them cause about 40 KB per round.
async fn guests(server: &TestServer) -> Vec<Mirror> {
    let mut guests = Vec::new();
    for number in 0..100 {
        guests.push(server.connect(&format!("{number:0>128}")).await);
    }
    guests
}

/// Lets all guests join and leave this many times.
async fn churn(guests: &[Mirror], sender: &mut EventClient, rounds: usize) {
    // Only lines about guests count: the server may disconnect another client at any moment, which adds a line.
    let is_about_guest = |message: &Value| message["payload"]["user"].as_str().is_some_and(|user| user.len() > 100);
    for _ in 0..rounds {
        let start = sender.log.len();
        let lines = |sender: &EventClient| sender.log[start..].iter().filter(|line| is_about_guest(line)).count();
        guests.iter().for_each(|guest| guest.send(&json!({"type": "join", "room": "lobby", "observe": false})));
        sender.wait_until("the joins", |sender| lines(sender) >= guests.len()).await;
        guests.iter().for_each(|guest| guest.send(&json!({"type": "leave", "room": "lobby"})));
        sender.wait_until("the leaves", |sender| lines(sender) >= 2 * guests.len()).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_answer_a_ping_is_disconnected_at_the_next() {
    let server = TestServer::start(&["--ping-interval", "300ms"]);
    let mut observer = server.chat("observer").await;
    let mut silent = RawClient::open(server.address(), "/ws").await;
    silent.send_json(&join("silent")).await;
    let mut pings = 0;
    while let Some(frame) = silent.frame().await {
        assert_ne!(frame.opcode, CLOSE);
        pings += usize::from(frame.opcode == PING);
    }
    assert_eq!(pings, 1);
    observer.wait_until("the leave", |observer| ends_with(observer, "-silent")).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_join_in_time_is_closed_with_1008() {
    let server = TestServer::start(&["--header-timeout", "2s", "--ping-interval", "200ms"]);
    let mut joined = EventClient::connect(server.address(), "/ws").await;
    joined.send(&join("joined"));
    let started = Instant::now();
    let mut silent = RawClient::open(server.address(), "/ws").await;
    let mut alive = RawClient::open(server.address(), "/ws").await;
    // Frames without a message do not extend the time to join.
    for _ in 0..3 {
        sleep(Duration::from_millis(100)).await;
        alive.send_frame(&Frame::new(PING, *b"")).await;
    }
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
    // A client that joined is pinged as usual.
    sleep(Duration::from_millis(500)).await;
    joined.send(&chat_message("still here"));
    joined.wait_until("the message", |joined| ends_with(joined, "joined: still here")).await;
    server.stop().await;
}

#[tokio::test]
async fn a_stop_closes_with_1012_and_reports_no_leaves() {
    let server = TestServer::start(&[]);
    let mut clients = vec![server.chat("a").await, server.chat("b").await];
    clients.push(EventClient::connect(server.address(), "/ws").await);
    let run = server.begin_stop();
    for client in &mut clients {
        assert_eq!(client.wait_for_close().await, Some(1012));
        assert!(client.of("leave").is_empty());
    }
    run.await.expect("the server does not panic").expect("a stop is not an error");
}
