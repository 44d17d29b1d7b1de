//! The opening handshake on both ways to a WebSocket: as the first request of a connection, which a worker answers, and
//! behind another request, which an HTTP thread answers. Clients must not see a difference.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::common::http::Response;
use crate::common::process::Process;
use crate::common::raw::{refused_upgrade, upgrade_request};
use crate::common::{DEADLINE, Frame, RawClient, TestServer};

/// Headers that a handshake may have in addition to those it must have.
const VARIANTS: [&[(&str, &str)]; 20] = [
    &[],
    &[("sec-websocket-protocol", "Presence.V1")],
    &[("sec-websocket-key", "AQIDBAUGBwgJCgsMDQ4PEC==")],
    &[("connection", "keep-alive")],
    &[("upgrade", "h2c")],
    &[("host", "")],
    &[("host", "a b")],
    &[("host", "one"), ("host", "two")],
    &[("host", "example.com:443")],
    &[("host", "127.0.0.1:443")],
    &[("origin", "https://example.com")],
    &[("x-forwarded-for", "10.0.0.1")],
    &[("sec-websocket-protocol", "presence.v1")],
    &[("sec-websocket-protocol", "other, presence.v1")],
    &[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("origin", "http://localhost")],
    &[("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")],
    &[("connection", "close")],
    &[("sec-websocket-version", "8")],
    &[("sec-websocket-key", "short")],
    &[("content-length", "5")],
];

/// Sends a request as the first one, or behind another one on the same connection. Returns the head of the response.
async fn request(server: &TestServer, is_first: bool, bytes: &[u8]) -> (RawClient, Response) {
    let mut client = RawClient::tcp(server.address()).await;
    if !is_first {
        client.send(b"HEAD /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert_eq!(client.head().await.status, 200);
    }
    client.send(bytes).await;
    let mut response = client.head().await;
    response.headers.retain(|(name, _)| name != "date");
    (client, response)
}

#[tokio::test]
async fn handshakes_are_answered_alike_on_both_ways() {
    let server = TestServer::start(&[]);
    let paths = [
        "/v1/connect?user=a",
        "/v1/connect?user=",
        "/v1/connect?user=a&ref=%FF",
        "/v1/connect?user=%FF",
        "/v1/connect",
        "/v1/connect/?user=a",
        "/ws/a",
        "/ws/a/",
        "/ws",
        "/ws/%00",
        "/nothing",
    ];
    for path in paths {
        for headers in VARIANTS {
            let bytes = upgrade_request(path, headers);
            let (_, first) = request(&server, true, &bytes).await;
            let (_, later) = request(&server, false, &bytes).await;
            assert_eq!((first.status, first.headers), (later.status, later.headers), "{path} {headers:?}");
        }
    }
    server.stop().await;
}

/// The response to a handshake with these headers, which must be the same on both ways.
async fn response(server: &TestServer, path: &str, headers: &[(&str, &str)]) -> Response {
    let bytes = upgrade_request(path, headers);
    let (_, first) = request(server, true, &bytes).await;
    let (_, later) = request(server, false, &bytes).await;
    assert_eq!((first.status, &first.headers), (later.status, &later.headers), "{path} {headers:?}");
    first
}

#[tokio::test]
async fn the_key_of_the_rfc_with_excess_bits_is_accepted() {
    let server = TestServer::start(&[]);
    let key = [("sec-websocket-key", "AQIDBAUGBwgJCgsMDQ4PEC==")];
    let accepted = response(&server, "/v1/connect?user=a", &key).await;
    assert_eq!((accepted.status, accepted.header("sec-websocket-accept")), (101, Some("OfS0wDaT5NoxF2gqm7Zj2YtetzM=")));
    server.stop().await;
}

#[tokio::test]
async fn parameters_that_the_protocol_does_not_use_are_not_parsed() {
    let server = TestServer::start(&[]);
    for path in ["/v1/connect?user=a&ref=%FF", "/v1/connect?%FE=%FF&user=a", "/ws/a?ref=%FF", "/ws?token=%FF"] {
        assert_eq!(response(&server, path, &[]).await.status, 101, "{path}");
    }
    assert_eq!(response(&server, "/ws-online-status?t=%FF&userId=7", &[]).await.status, 101);
    assert_eq!(server.get("/v1/rooms?limit=5&utm=%FF").await.status, 200);
    assert_eq!(server.post_form("/heartbeat", "user_id=a&ref=%FF").await.status, 200);
    // The ones that it does use must be UTF-8.
    for path in ["/v1/connect?user=%FF", "/v1/connect?user=a&room=%FF", "/ws-online-status?userId=%FF"] {
        assert_eq!(response(&server, path, &[]).await.status, 400, "{path}");
    }
    assert!(server.get("/v1/rooms?limit=%FF").await.error(400).contains("limit"));
    server.stop().await;
}

#[tokio::test]
async fn a_subprotocol_is_found_in_any_case_and_answered_as_the_client_wrote_it() {
    let server = TestServer::start(&[]);
    for (offered, selected) in [
        ("presence.v1", Some("presence.v1")),
        ("Presence.V1", Some("Presence.V1")),
        ("chat,PRESENCE.V1 , other", Some("PRESENCE.V1")),
        ("presence.v10", None),
        ("presence", None),
    ] {
        let answer = response(&server, "/v1/connect?user=a", &[("sec-websocket-protocol", offered)]).await;
        assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, selected), "{offered}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_refused_upgrade_names_upgrade_in_connection_and_says_what_is_missing() {
    let server = TestServer::start(&[]);
    for (headers, says) in [
        (&[("upgrade", "h2c")][..], "Upgrade"),
        (&[("connection", "keep-alive")], "Connection: upgrade"),
        (&[("sec-websocket-version", "8")], "version must be 13"),
    ] {
        let refused = refused_upgrade(server.address(), "/v1/connect?user=a", headers).await;
        let message = refused.error(426);
        assert!(message.contains(says), "{headers:?}: {message}");
        assert_eq!(refused.header("upgrade"), Some("websocket"), "{headers:?}");
        assert_eq!(refused.header("connection"), Some("upgrade"), "{headers:?}");
        assert_eq!(refused.header("sec-websocket-version"), Some("13"), "{headers:?}");
    }
    let plain = server.get("/v1/connect?user=a").await;
    assert!(plain.error(426).contains("WebSocket client"), "{plain:?}");
    server.stop().await;
}

#[tokio::test]
async fn frames_in_one_segment_with_the_handshake_are_handled_on_both_ways() {
    let server = TestServer::start(&[]);
    for is_first in [true, false] {
        let mut bytes = upgrade_request("/v1/connect?user=alice&room=lobby", &[]);
        bytes.extend(Frame::text(r#"{"type":"heartbeat","ack":true}"#).encode());
        // The second frame is incomplete at first.
        let second = Frame::text(r#"{"type":"state","room":"lobby","state":{"k":1}}"#).encode();
        bytes.extend(&second[..7]);
        let (mut client, response) = request(&server, is_first, &bytes).await;
        assert_eq!(response.status, 101, "{response:?}");
        assert_eq!(client.json().await["type"], "welcome");
        client.json_of_type("heartbeat_ack").await;
        client.send(&second[7..]).await;
        let snapshot = client.json_of_type("snapshot").await;
        let member = &snapshot["members"][0];
        assert!(*member == json!({"user": "alice", "state": {"k": 1}}) || *member == json!({"user": "alice"}));
        client.shut_down().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_a_handshake_and_closes_its_side_is_disconnected_on_both_ways() {
    let server = TestServer::start(&[]);
    for is_first in [true, false] {
        let mut client = RawClient::tcp(server.address()).await;
        if !is_first {
            client.send(b"HEAD /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
            client.head().await;
        }
        client.send(&upgrade_request("/v1/connect?user=alice&room=lobby", &[])).await;
        let answer = client.shut_down_undecoded().await;
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{:?}", String::from_utf8_lossy(&answer));
    }
    server.wait_for_stat("connections", 0).await;
    server.wait_for_stat("sockets", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn the_limit_of_connections_holds_on_both_ways() {
    let server = TestServer::start(&["--max-connections", "2"]);
    let bytes = upgrade_request("/v1/connect?user=a", &[]);
    let (mut one, _) = request(&server, true, &bytes).await;
    let (mut two, _) = request(&server, false, &bytes).await;
    for is_first in [true, false] {
        let (mut refused, response) = request(&server, is_first, &bytes).await;
        assert_eq!((response.status, refused.wait_for_close().await), (101, Some(1013)));
    }
    assert!(one.is_served().await && two.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_sends_no_request_is_closed_after_the_header_timeout() {
    let server = TestServer::start(&["--header-timeout", "300ms"]);
    let mut silent = RawClient::tcp(server.address()).await;
    assert!(silent.frame().await.is_none(), "the server closes it");
    server.wait_for_stat("sockets", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn sockets_that_arrived_before_a_stop_are_told_to_reconnect() {
    // More than the loop reads in one turn.
    const CLIENTS: usize = 300;
    for limit in ["10000", "20"] {
        let mut process = Process::start(&["--workers", "1", "--max-connections", limit]);
        let address = process.address();
        let mut clients = Vec::new();
        process.signal("STOP");
        for number in 0..CLIENTS {
            let mut client = RawClient::tcp(address).await;
            client.send(&upgrade_request(&format!("/v1/connect?user=user-{number}"), &[])).await;
            clients.push(client);
        }
        process.signal("TERM");
        process.signal("CONT");
        let mut served = 0;
        for client in &mut clients {
            // Sockets beyond the limit of sockets are not accepted: the system resets them.
            let Some(response) = client.try_head().await else { continue };
            assert_eq!(response.status, 101);
            let code = client.wait_for_close().await;
            assert!(matches!(code, Some(1012 | 1013)), "{code:?}");
            served += 1;
        }
        assert_eq!(served, if limit == "20" { served.max(20) } else { CLIENTS }, "--max-connections {limit}");
        assert!(process.wait_for_exit().success(), "{:#?}", process.output());
    }
}

#[tokio::test]
async fn clients_wait_while_the_process_has_no_descriptors_and_are_served_afterwards() {
    // No lease and no time limit ends during the test.
    let times = ["--ttl", "600s", "--ping-interval", "600s", "--header-timeout", "600s"];
    let mut process = Process::start(&[&["--workers", "1"], &times[..]].concat());
    let address = process.address();
    let mut served = RawClient::open(address, "/v1/connect?user=alice&room=lobby").await;
    let former = process.limit_new_files(0);
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut client = RawClient::tcp(address).await;
        client.send(&upgrade_request("/v1/connect?user=bob", &[])).await;
        waiting.push(client);
    }
    let deadline = Instant::now() + DEADLINE;
    while !process.output().iter().any(|line| line.contains("cannot accept connections for now")) {
        assert!(Instant::now() < deadline, "no warning: {:#?}", process.output());
        sleep(Duration::from_millis(10)).await;
    }
    assert!(served.is_served().await);
    process.set_file_limit(former);
    for client in &mut waiting {
        assert_eq!(client.head().await.status, 101);
    }
    process.signal("TERM");
    assert!(process.wait_for_exit().success());
}
