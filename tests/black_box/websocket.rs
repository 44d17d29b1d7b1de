//! RFC 6455: each violation closes the connection with its code, and every legal frame is served. These tests add what
//! the Autobahn cases (`scripts/conformance`) lack: unmasked frames and the limits of this server.

use serde_json::json;

use crate::common::frame::{BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, glued};
use crate::common::raw::{self, ACCEPT};
use crate::common::{Frame, RawClient, TestServer};

const ACK: &str = r#"{"type":"heartbeat","ack":true}"#;

/// Sends the bytes on a new connection and expects a close with this code, while other connections are served.
async fn check_closes(server: &TestServer, name: &str, bytes: &[u8], code: u16) {
    let mut client = server.raw("rude").await;
    client.send(bytes).await;
    let closed = client.wait_for_close().await;
    assert_eq!(closed, Some(code), "{name}");
    // The same byte by byte: where reads are cut must not matter.
    if bytes.len() <= 64 {
        let mut client = server.raw("rude").await;
        for byte in bytes {
            client.send(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.wait_for_close().await, Some(code), "{name}, byte by byte");
    }
}

/// Sends the bytes on a new connection and expects it to be served.
async fn check_served(server: &TestServer, name: &str, bytes: &[u8]) {
    let mut client = server.raw("odd").await;
    client.send(bytes).await;
    assert!(client.is_served().await, "{name}");
}

#[tokio::test]
async fn the_handshake_follows_the_rfc() {
    let server = TestServer::start(&["--open"]);
    let headers = [
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("origin", "http://example.org"),
    ];
    let path = "/v1/connect?user=alice";
    let (mut client, response) = RawClient::open_with(server.address(), path, &headers, b"").await;
    assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
    let upgrade = response.header("upgrade").expect("101 has Upgrade");
    assert!(upgrade.eq_ignore_ascii_case("websocket"), "{upgrade}");
    let connection = response.header("connection").expect("101 has Connection");
    assert!(connection.eq_ignore_ascii_case("upgrade"), "strict clients accept only this: {connection}");
    assert_eq!(response.header("sec-websocket-extensions"), None, "no extension is supported");
    assert!(client.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn requests_without_an_upgrade_are_refused_with_the_required_headers() {
    let server = TestServer::start(&[]);
    for path in ["/v1/connect?user=alice", "/ws/alice", "/ws", "/ws-online-status?userId=7"] {
        let plain = server.get(path).await;
        plain.error(426);
        let upgrade = plain.header("upgrade").unwrap_or_default();
        assert!(upgrade.eq_ignore_ascii_case("websocket"), "{plain:?}");
        let address = server.address();
        for version in ["8", "12", "14", "x"] {
            let old = raw::refused_upgrade(address, path, &[("sec-websocket-version", version)]).await;
            old.error(426);
            assert_eq!(old.header("sec-websocket-version"), Some("13"), "{old:?}");
        }
        raw::refused_upgrade(address, path, &[("upgrade", "h2c")]).await.error(426);
        raw::refused_upgrade(address, path, &[("connection", "keep-alive")]).await.error(426);
        raw::refused_upgrade(address, path, &[("sec-websocket-key", "")]).await.error(400);
        raw::refused_upgrade(address, path, &[("sec-websocket-key", "c2hvcnQ=")]).await.error(400);
        let post = server.post_json(path, &json!({})).await;
        post.error(405);
        assert!(post.header("allow").is_some_and(|allow| allow.contains("GET")), "{post:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn framing_violations_close_with_1002() {
    let server = TestServer::start(&[]);
    let long_control = vec![b'x'; 126];
    let mut cases = vec![
        ("unmasked text", Frame::text(ACK).unmasked().encode()),
        ("unmasked ping", Frame::new(PING, "x").unmasked().encode()),
        ("unmasked close", Frame::close(1000, b"").unmasked().encode()),
        ("unmasked and empty", Frame::text("").unmasked().encode()),
        ("fragmented ping", Frame::new(PING, "x").open().encode()),
        ("fragmented pong", Frame::new(PONG, "x").open().encode()),
        ("fragmented close", Frame::close(1000, b"").open().encode()),
        ("ping over 125", Frame::new(PING, long_control.clone()).encode()),
        ("pong over 125", Frame::new(PONG, long_control.clone()).encode()),
        ("close over 125", Frame::close(1000, &long_control[2..]).encode()),
        ("continuation of nothing", Frame::new(CONTINUATION, "x").encode()),
        ("open continuation of nothing", Frame::new(CONTINUATION, "x").open().encode()),
        ("text inside fragments", glued(&[Frame::text("a").open(), Frame::text("b")])),
        ("binary inside fragments", glued(&[Frame::text("a").open(), Frame::new(BINARY, "b")])),
        (
            "continuation after the end",
            glued(&[Frame::text(ACK).open(), Frame::new(CONTINUATION, ""), Frame::new(CONTINUATION, "")]),
        ),
        ("close with half a code", Frame::new(CLOSE, [3]).encode()),
    ];
    for rsv in 1..=7 {
        cases.push(("reserved bits", Frame::text(ACK).reserved(rsv).encode()));
        cases.push(("reserved bits of a ping", Frame::new(PING, "").reserved(rsv).encode()));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        cases.push(("reserved opcode", Frame::new(opcode, "x").encode()));
        cases.push(("reserved opcode, empty", Frame::new(opcode, "").encode()));
    }
    for (name, bytes) in cases {
        check_closes(&server, name, &bytes, 1002).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn reserved_close_codes_close_with_1002() {
    let server = TestServer::start(&[]);
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        let bytes = Frame::close(code, b"reason").encode();
        check_closes(&server, &format!("close {code}"), &bytes, 1002).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_valid_close_is_echoed_and_ends_the_connection() {
    let server = TestServer::start(&[]);
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4999] {
        let bytes = Frame::close(code, "Grund: ü".as_bytes()).encode();
        check_closes(&server, "a good close", &bytes, code).await;
    }
    let mut client = server.raw("brief").await;
    client.send_frame(&Frame::new(CLOSE, "")).await;
    let code = client.wait_for_close().await;
    assert!(matches!(code, None | Some(1000)), "an empty close is answered: {code:?}");
    // Bytes after a close frame are ignored.
    let mut client = server.raw("late").await;
    client.send(&glued(&[Frame::close(1000, b""), Frame::text(ACK), Frame::new(5, "x")])).await;
    assert_eq!(client.frame().await.map(|frame| frame.opcode), Some(CLOSE));
    client.read_to_end().await;
    server.stop().await;
}

#[tokio::test]
async fn binary_messages_close_with_1003() {
    let server = TestServer::start(&[]);
    check_closes(&server, "binary", &Frame::new(BINARY, ACK).encode(), 1003).await;
    check_closes(&server, "empty binary", &Frame::new(BINARY, "").encode(), 1003).await;
    let fragments = [Frame::new(BINARY, "a").open(), Frame::new(CONTINUATION, "b")];
    check_closes(&server, "binary in fragments", &glued(&fragments), 1003).await;
    server.stop().await;
}

#[tokio::test]
async fn invalid_utf8_closes_with_1007() {
    let server = TestServer::start(&[]);
    let cases: [(&str, &[u8]); 8] = [
        ("stray continuation byte", b"\x80"),
        ("impossible byte", b"{\"type\":\"\xFF\"}"),
        ("overlong", b"\xC0\xAF"),
        ("surrogate", b"\xED\xA0\x80"),
        ("above U+10FFFF", b"\xF4\x90\x80\x80"),
        ("cut at the end", b"abc\xF0\x9F\x98"),
        ("in a string", b"{\"type\":\"join\",\"room\":\"\xC3\x28\"}"),
        ("after a heartbeat", b"heartbeat\xC3"),
    ];
    for (name, text) in cases {
        check_closes(&server, name, &Frame::new(TEXT, text).encode(), 1007).await;
        // Split into two fragments at every position.
        for cut in 0..=text.len() {
            let fragments = [Frame::new(TEXT, &text[..cut]).open(), Frame::new(CONTINUATION, &text[cut..])];
            let mut client = server.raw("rude").await;
            client.send(&glued(&fragments)).await;
            assert_eq!(client.wait_for_close().await, Some(1007), "{name}, cut at {cut}");
        }
    }
    let bytes = Frame::close(1000, b"\xCE\xBA\xFF").encode();
    check_closes(&server, "close reason", &bytes, 1007).await;
    server.stop().await;
}

#[tokio::test]
async fn a_utf8_character_may_span_fragments() {
    let server = TestServer::start(&[]);
    let text = r#"{"type":"join","room":"lobby","state":{"mood":"😀"}}"#.as_bytes();
    for cut in 0..=text.len() {
        let mut client = server.raw(&format!("split-{cut}")).await;
        let fragments = [
            Frame::new(TEXT, &text[..cut]).open(),
            Frame::new(PING, "between"),
            Frame::new(CONTINUATION, "").open(),
            Frame::new(CONTINUATION, &text[cut..]),
        ];
        client.send(&glued(&fragments)).await;
        let pong = client.answer().await;
        assert_eq!((pong.opcode, &pong.payload[..]), (PONG, &b"between"[..]));
        let snapshot = client.json_of_type("snapshot").await;
        let state = json!({"mood": "😀"});
        let members = snapshot["members"].as_array().expect("members");
        assert!(members.iter().any(|member| member["state"] == state), "{snapshot}");
    }
    server.stop().await;
}

#[tokio::test]
async fn pings_are_answered_in_order_with_their_payload() {
    let server = TestServer::start(&[]);
    let mut client = server.raw("pinging").await;
    let payloads = [vec![], b"x".to_vec(), vec![0xFF; 125], b"heartbeat".to_vec()];
    let pings: Vec<Frame> = payloads.iter().map(|payload| Frame::new(PING, payload.clone())).collect();
    client.send(&glued(&pings)).await;
    for payload in payloads {
        let pong = client.answer().await;
        assert_eq!((pong.opcode, pong.payload), (PONG, payload));
    }
    server.stop().await;
}

#[tokio::test]
async fn odd_but_legal_frames_are_served() {
    let server = TestServer::start(&[]);
    let pong = Frame::new(PONG, "nobody asked");
    check_served(&server, "unsolicited pong", &pong.encode()).await;
    check_served(&server, "a thousand pongs", &glued(&vec![pong; 1000])).await;
    let mut empty = vec![Frame::text("heartbeat").open()];
    empty.resize(500, Frame::new(CONTINUATION, "").open());
    empty.push(Frame::new(CONTINUATION, ""));
    check_served(&server, "empty fragments", &glued(&empty)).await;
    let letters =
        glued(&[Frame::text("h").open(), Frame::new(CONTINUATION, "eartbea").open(), Frame::new(CONTINUATION, "t")]);
    check_served(&server, "a heartbeat in fragments", &letters).await;
    let mut client = server.raw("slow typist").await;
    for byte in Frame::text(ACK).encode() {
        client.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.json().await["type"], "heartbeat_ack");
    server.stop().await;
}

#[tokio::test]
async fn a_frame_cut_off_by_the_end_of_the_connection_is_ignored() {
    let server = TestServer::start(&[]);
    let mut observer = server.connect_to("observer", "lobby").await;
    let whole = Frame::text(r#"{"type":"join","room":"lobby"}"#).encode();
    for cut in 1..whole.len() {
        let mut client = server.raw("cut").await;
        client.send(&whole[..cut]).await;
        drop(client);
    }
    observer.barrier().await;
    assert_eq!(observer.members("lobby").into_keys().collect::<Vec<_>>(), ["observer"]);
    server.stop().await;
}
