//! The limits of WebSocket messages: how large they are, and how long they take.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::common::frame::{BINARY, CONTINUATION, PONG, TEXT, glued};
use crate::common::{DEADLINE, Frame, RawClient, TestServer};

/// The largest message of the protocols whose messages are short, in one frame or in fragments together.
const MESSAGE_LIMIT: usize = 16 * 1024;
/// The largest message of the native protocol.
const NATIVE_LIMIT: usize = 128 * 1024;

const ACK: &str = r#"{"type":"heartbeat","ack":true}"#;

#[tokio::test]
async fn messages_over_the_limit_close_with_1009_where_messages_are_short() {
    let server = TestServer::start(&[]);
    let check = async |name: &str, bytes: &[u8], code: u16| {
        for path in ["/ws/rude", "/ws-online-status?userId=rude", "/ws"] {
            let mut client = RawClient::open(server.address(), path).await;
            client.send(bytes).await;
            assert_eq!(client.wait_for_close().await, Some(code), "{name} {path}");
        }
    };
    let over = vec![b' '; MESSAGE_LIMIT + 1];
    check("one frame", &Frame::new(TEXT, over.clone()).encode(), 1009).await;
    let text = Frame::text("");
    for claimed in [MESSAGE_LIMIT as u64 + 1, 1 << 20, 1 << 32, 1 << 62] {
        check("only a header", &text.header(claimed), 1009).await;
    }
    let halves = [Frame::new(TEXT, &over[..8192]).open(), Frame::new(CONTINUATION, &over[8192..])];
    check("two fragments", &glued(&halves), 1009).await;
    // An unfinished message must not grow without limit.
    let mut endless = vec![Frame::new(TEXT, vec![b' '; 1024]).open()];
    endless.resize(17, Frame::new(CONTINUATION, vec![b' '; 1024]).open());
    check("open fragments", &glued(&endless), 1009).await;
    // The highest bit of a length must be 0 (section 5.2), so this length is both a violation and too long.
    check("a length of 2^63", &text.header(1 << 63), 1002).await;
    server.stop().await;
}

#[tokio::test]
async fn native_messages_over_the_limit_are_too_large_and_the_connection_continues() {
    let server = TestServer::start(&[]);
    let mut client = server.raw("alice").await;
    client.send_json(&json!({"type": "join", "room": "lobby"})).await;
    client.json_of_type("snapshot").await;
    let over = vec![b' '; NATIVE_LIMIT + 1];
    let pieces = |frame: Frame| frame.encode().chunks(5000).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut endless = vec![Frame::new(TEXT, vec![b' '; 1000]).open()];
    endless.resize(1000, Frame::new(CONTINUATION, vec![b' '; 1000]).open());
    endless.push(Frame::new(CONTINUATION, ""));
    for message in [
        vec![Frame::new(TEXT, over.clone()).encode()],
        // Larger than all memory that a client may take: nothing of it is kept.
        pieces(Frame::new(TEXT, vec![b'x'; 20 << 20])),
        vec![glued(&[Frame::new(TEXT, &over[..1000]).open(), Frame::new(CONTINUATION, &over[1000..])])],
        vec![glued(&endless)],
    ] {
        for piece in message {
            client.send(&piece).await;
        }
        let error = client.json_of_type("error").await;
        assert_eq!(error["code"], "too_large", "{error}");
        assert!(client.is_served().await);
    }
    assert_eq!(server.count("lobby").await, 1, "the rooms stay joined");
    for (bytes, code) in [(Frame::text("").header(1 << 63), 1002), (Frame::new(BINARY, "").header(1 << 20), 1009)] {
        let mut client = server.raw("rude").await;
        client.send(&bytes).await;
        assert_eq!(client.wait_for_close().await, Some(code));
    }
    server.stop().await;
}

/// The deadline is counted in ticks, so the connection is served until then and closed afterwards, however slow the
/// machine is.
#[tokio::test]
async fn a_message_that_is_never_completed_is_given_up_even_if_pings_are_answered() {
    let server = TestServer::start(&["--header-timeout", "1s"]);
    let cut = &Frame::text(r#"{"type":"heartbeat"}"#).encode();
    let fragments = glued(&[Frame::text("a").open(), Frame::new(CONTINUATION, "b").open()]);
    let dropped = Frame::text("").header(1 << 40);
    for (name, bytes) in [
        ("one byte of a header", &cut[..1]),
        ("a header", &cut[..6]),
        ("a frame", &cut[..cut.len() - 1]),
        ("fragments", &fragments),
        ("a message that is dropped", &dropped),
    ] {
        let mut client = server.raw("slow").await;
        client.send(bytes).await;
        if name == "fragments" {
            // Control frames may come between fragments. They do not complete the message.
            for _ in 0..5 {
                client.send_frame(&Frame::new(PONG, "")).await;
                sleep(Duration::from_millis(100)).await;
            }
        }
        assert_eq!(client.wait_for_close().await, Some(1008), "{name}");
    }
    server.wait_for_stat("connections", 0).await;
    server.stop().await;
}

/// An address that uses up the memory for incomplete messages loses its own, and no other address does.
#[tokio::test]
async fn incomplete_messages_are_given_up_of_the_address_with_the_most_bytes_of_them() {
    let server = TestServer::start(&["--workers", "1"]);
    let message = Frame::text(ACK).encode();
    let (begin, rest) = message.split_at(10);
    let connect = async |from: &str, user: &str| {
        RawClient::open_from(from, server.address(), &format!("/v1/connect?user={user}")).await
    };
    // The oldest of all.
    let mut honest = connect("127.0.0.3", "honest").await;
    honest.send(begin).await;
    let long = Frame::new(TEXT, vec![b' '; NATIVE_LIMIT]).encode();
    // One worker keeps 64 MiB.
    let mut attackers = Vec::new();
    for number in 0..600 {
        let mut attacker = connect("127.0.0.2", &format!("mallory-{number}")).await;
        attacker.send(&long[..long.len() - 1]).await;
        attackers.push(attacker);
    }
    let deadline = Instant::now() + DEADLINE;
    while server.stat("connections_timed_out").await == 0 {
        assert!(Instant::now() < deadline, "nothing is given up");
        sleep(Duration::from_millis(10)).await;
    }
    honest.send(rest).await;
    honest.json_of_type("heartbeat_ack").await;
    assert_eq!(attackers[0].wait_for_close().await, Some(1008));
    server.stop().await;
}

#[tokio::test]
async fn a_client_whose_every_read_ends_inside_a_message_is_not_given_up() {
    let server = TestServer::start(&["--header-timeout", "1s"]);
    let mut client = server.raw("busy").await;
    let mut observer = server.observe("observer", "lobby").await;
    let first = Frame::text(r#"{"type":"heartbeat"#).open();
    let second = Frame::new(CONTINUATION, r#"","ack":true}"#);
    client.send_frame(&first).await;
    let begin = server.ticks().await;
    // Three deadlines. Each message is completed within one, and the next one begins with the same bytes.
    let three_seconds = 3 * 50;
    while server.ticks().await < begin + three_seconds {
        client.send(&glued(&[second.clone(), first.clone()])).await;
        client.json_of_type("heartbeat_ack").await;
        observer.barrier().await;
    }
    client.send_frame(&second).await;
    client.json_of_type("heartbeat_ack").await;
    assert!(client.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn messages_up_to_the_limit_are_served() {
    let server = TestServer::start(&[]);
    for length in [125, 126, 127, 128, 65, 4096, 8191, 8192, 8193, MESSAGE_LIMIT, 65_535, 65_536, NATIVE_LIMIT] {
        let mut text = ACK.to_owned();
        text.extend(std::iter::repeat_n(' ', length - ACK.len()));
        let mut client = server.raw("long").await;
        client.send_frame(&Frame::text(&text)).await;
        assert_eq!(client.json().await["type"], "heartbeat_ack", "{length} bytes");
        let (head, tail) = text.split_at(length / 2);
        let fragments = [Frame::text(head).open(), Frame::new(CONTINUATION, tail)];
        client.send(&glued(&fragments)).await;
        assert_eq!(client.json().await["type"], "heartbeat_ack", "{length} bytes in fragments");
    }
    // The limit is per message: many messages of this size are served.
    let full = Frame::text(&format!("{ACK:<MESSAGE_LIMIT$}"));
    let mut client = server.raw("busy").await;
    client.send(&glued(&vec![full; 20])).await;
    for _ in 0..20 {
        assert_eq!(client.json().await["type"], "heartbeat_ack");
    }
    server.stop().await;
}
