//! How long an HTTP connection stays open: before its first request, between requests, in the middle of one, and when
//! sockets get scarce.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::common::{DEADLINE, Process, RawClient, TestServer};

/// Longer than the short limits of these tests, several times.
const LONGER: Duration = Duration::from_secs(2);
const GET: &[u8] = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Sends a request and reads the answer, whose body has no digits and no head.
async fn get(client: &mut RawClient) -> u16 {
    try_get(client).await.expect("the connection is open")
}

/// The same; `None` if the connection has ended.
async fn try_get(client: &mut RawClient) -> Option<u16> {
    client.send(GET).await;
    let head = client.try_head().await?;
    let length = head.header("content-length").and_then(|length| length.parse().ok()).expect("a length");
    client.skip(length).await;
    Some(head.status)
}

/// A client that a busy machine stops before its first request may be too late for a short timeout. Then the next one
/// tries.
async fn client_after_a_request(server: &TestServer) -> RawClient {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut client = RawClient::tcp(server.address()).await;
        if let Some(status) = try_get(&mut client).await {
            assert_eq!(status, 200);
            return client;
        }
        assert!(Instant::now() < deadline, "no request is answered");
    }
}

#[tokio::test]
async fn between_requests_a_connection_outlives_the_header_timeout() {
    let server = TestServer::start(&["--header-timeout", "300ms"]);
    let mut client = client_after_a_request(&server).await;
    for _ in 0..2 {
        sleep(LONGER).await;
        assert_eq!(get(&mut client).await, 200);
    }
    // A refused request is an answered one.
    client.send(b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let head = client.head().await;
    client.skip(head.header("content-length").and_then(|length| length.parse().ok()).expect("a length")).await;
    sleep(LONGER).await;
    assert_eq!(get(&mut client).await, 200);
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_keep_alive() {
    let server = TestServer::start(&["--keep-alive", "300ms"]);
    let mut client = client_after_a_request(&server).await;
    client.read_to_end().await;
    server.wait_for_stat("sockets", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn the_keep_alive_begins_with_the_first_complete_request() {
    let server = TestServer::start(&["--header-timeout", "300ms", "--keep-alive", "600s"]);
    for first in [&b""[..], b"G", b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"] {
        let mut client = RawClient::tcp(server.address()).await;
        client.send(first).await;
        client.read_to_end().await;
    }
    server.wait_for_stat("sockets", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn the_first_byte_of_the_next_request_starts_the_header_timeout() {
    let server = TestServer::start(&["--header-timeout", "500ms", "--keep-alive", "600s"]);
    let mut client = client_after_a_request(&server).await;
    sleep(LONGER).await;
    client.send(b"G").await;
    client.read_to_end().await;
    // Further bytes do not extend it.
    let mut dribbling = client_after_a_request(&server).await;
    let (mut line, deadline) = (b"GET /livez?".iter().chain(b"x".iter().cycle()), Instant::now() + DEADLINE);
    while !dribbling.ends_within(Duration::from_millis(100)).await {
        dribbling.send(&[*line.next().expect("it has no end")]).await;
        assert!(Instant::now() < deadline, "the connection is still open");
    }
    server.stop().await;
}

#[tokio::test]
async fn when_sockets_are_scarce_the_oldest_idle_connection_is_closed_and_others_stay() {
    // Room for 2 WebSockets and 128 other sockets.
    let server = TestServer::start(&["--max-connections", "2"]);
    let mut websocket = RawClient::open(server.address(), "/v1/connect?user=alice").await;
    let mut unfinished = RawClient::tcp(server.address()).await;
    unfinished.send(b"POST /heartbeat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 11\r\n\r\nuser").await;
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(client_after_a_request(&server).await);
    }
    for client in &mut clients[..60] {
        client.read_to_end().await;
    }
    for client in &mut clients[120..] {
        assert_eq!(get(client).await, 200, "a younger one was closed");
    }
    unfinished.send(b"_id=bob").await;
    assert_eq!(unfinished.head().await.status, 200, "a request that is under way is not idle");
    websocket.json_of_type("welcome").await;
    assert!(websocket.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_asks_clients_to_open_another_connection() {
    let mut process = Process::start(&["--drain-delay", "600s"]);
    let mut client = RawClient::tcp(process.address()).await;
    assert_eq!(get(&mut client).await, 200);
    process.signal("TERM");
    process.wait_for_line("not ready");
    client.send(GET).await;
    let head = client.head().await;
    assert_eq!(head.header("connection"), Some("close"));
    client.skip(head.header("content-length").and_then(|length| length.parse().ok()).expect("a length")).await;
    client.read_to_end().await;
}
