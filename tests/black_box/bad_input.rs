//! Hostile input against the binary: the server limits or closes the connection, its memory does not grow, and other
//! clients are not affected. Frames that violate RFC 6455 are tested in `websocket.rs`, messages that violate the
//! protocol in `native_errors.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::common::frame::{CONTINUATION, PING, TEXT};
use crate::common::{DEADLINE, Frame, Mirror, Process, RawClient, TestServer, http};

/// Growth of memory that a test accepts: the allocator and the first connections cause some.
const MAX_GROWTH_BYTES: u64 = 12 << 20;

/// How long a full socket may accept no bytes before the client stops sending.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);

/// A server in its own process, and an observer that must not be affected.
struct ObservedServer {
    process: Process,
    address: SocketAddr,
    observer: Mirror,
    memory_before: u64,
}

impl ObservedServer {
    async fn start(flags: &[&str]) -> Self {
        let mut process =
            Process::start(&[&["--ttl", "600s", "--header-timeout", "600s", "--tick", "20ms"], flags].concat());
        let address = process.address();
        let mut observer = Mirror::connect(address, "observer", &["lobby"]).await;
        observer.wait_until("its own join", |observer| observer.has("lobby", "observer")).await;
        let memory_before = process.memory_bytes();
        Self { process, address, observer, memory_before }
    }

    async fn raw(&self, user: &str) -> RawClient {
        let mut client = RawClient::with_small_buffer(self.address).await;
        client.upgrade(&format!("/v1/connect?user={user}")).await;
        client
    }

    /// Checks that the observer still sees joins and leaves, and that memory has not grown.
    async fn check(&mut self) {
        let visitor = Mirror::connect(self.address, "visitor", &["lobby"]).await;
        self.observer.wait_until("the join of the visitor", |observer| observer.has("lobby", "visitor")).await;
        visitor.close(1000);
        self.observer.wait_until("the leave of the visitor", |observer| !observer.has("lobby", "visitor")).await;
        let grown = self.process.memory_bytes().saturating_sub(self.memory_before);
        assert!(grown < MAX_GROWTH_BYTES, "memory has grown by {} KiB", grown >> 10);
    }

    async fn stop(mut self) {
        self.check().await;
        self.process.signal("TERM");
        assert!(self.process.wait_for_exit().success());
    }
}

#[tokio::test]
async fn pings_from_a_client_that_reads_no_pongs_take_no_memory() {
    let mut observed = ObservedServer::start(&[]).await;
    let mut flooder = observed.raw("flooder").await;
    // 100,000 pings of 125 bytes: 13 MB of pongs that the client does not read.
    let pings = crate::common::frame::glued(&vec![Frame::new(PING, vec![b'p'; 125]); 1000]);
    for _ in 0..100 {
        if !flooder.send_if_taken(&pings, SEND_TIMEOUT).await {
            break;
        }
    }
    observed.check().await;
    drop(flooder);
    observed.stop().await;
}

#[tokio::test]
async fn messages_from_a_client_that_reads_no_answers_take_no_memory() {
    let mut observed = ObservedServer::start(&[]).await;
    let mut flooder = observed.raw("flooder").await;
    let unknown = Frame::text(&json!({"type": "x".repeat(1000)}).to_string());
    let messages = crate::common::frame::glued(&vec![unknown; 100]);
    for _ in 0..200 {
        if !flooder.send_if_taken(&messages, SEND_TIMEOUT).await {
            break;
        }
    }
    observed.check().await;
    let mut resyncing = observed.raw("resyncing").await;
    resyncing.send_json(&json!({"type": "join", "room": "lobby"})).await;
    let resync = Frame::text(&json!({"type": "resync", "room": "lobby"}).to_string());
    for _ in 0..100 {
        if !resyncing.send_if_taken(&crate::common::frame::glued(&vec![resync.clone(); 500]), SEND_TIMEOUT).await {
            break;
        }
    }
    observed.stop().await;
}

#[tokio::test]
async fn ten_megabytes_of_headers_are_refused() {
    let mut observed = ObservedServer::start(&[]).await;
    let value = vec![b'x'; 10 << 20];
    for name in ["x-one: ", ""] {
        let mut request = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n".to_vec();
        request.extend_from_slice(name.as_bytes());
        request.extend_from_slice(&value);
        request.extend_from_slice(b"\r\n\r\n");
        let answer = http::exchange(observed.address, &request).await;
        let status = http::Response::parse(&answer).status;
        assert!(status == 431 || (name.is_empty() && status == 400), "{status}");
    }
    let mut path = b"GET /".to_vec();
    path.extend_from_slice(&value);
    let answer = http::exchange(observed.address, &path).await;
    let status = http::Response::parse(&answer).status;
    assert!(matches!(status, 414 | 431), "{status}");
    observed.check().await;
    observed.stop().await;
}

#[tokio::test]
async fn unfinished_messages_take_bounded_memory() {
    let mut observed = ObservedServer::start(&[]).await;
    let mut clients = Vec::new();
    // 200 connections buffer the allowed 16 KiB each, 3 MiB in all. Reserving the lengths that the headers claim would
    // exceed the bound.
    for n in 0..200 {
        let mut client = observed.raw(&format!("unfinished-{n}")).await;
        if n % 2 == 0 {
            client.send_frame(&Frame::new(TEXT, vec![b' '; 8000]).open()).await;
            client.send_frame(&Frame::new(CONTINUATION, vec![b' '; 8000]).open()).await;
        } else {
            let mut cut = Frame::new(TEXT, vec![b' '; 16_000]).encode();
            cut.truncate(15_000);
            client.send(&cut).await;
        }
        clients.push(client);
    }
    observed.check().await;
    drop(clients);
    observed.stop().await;
}

#[tokio::test]
async fn the_oldest_unfinished_messages_are_given_up_when_all_together_are_too_long() {
    let server = TestServer::start(&["--workers", "1"]);
    let mut cut = Frame::new(TEXT, vec![b' '; 128 * 1024]).encode();
    let rest = cut.split_off(127 * 1024);
    let mut clients = Vec::new();
    // 76 MiB; the limit is 64 MiB per worker.
    for n in 0..600 {
        let mut client = server.raw(&format!("unfinished-{n}")).await;
        client.send(&cut).await;
        clients.push(client);
    }
    assert_eq!(clients[0].wait_for_close().await, Some(1008));
    let mut last = clients.pop().expect("600 clients");
    last.send(&rest).await;
    assert_eq!(last.json_of_type("error").await["code"], "bad_json", "the newest message was completed");
    assert!(last.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn connections_closed_in_any_state_leave_nothing_behind() {
    let mut observed = ObservedServer::start(&[]).await;
    for round in 0..300 {
        match round % 5 {
            0 => drop(RawClient::tcp(observed.address).await),
            1 => RawClient::tcp(observed.address).await.send(b"GET /v1/conn").await,
            2 => drop(observed.raw("brief").await),
            3 => observed.raw("brief").await.send(&Frame::text("{}").header(900)).await,
            _ => observed.raw("brief").await.send_frame(&Frame::close(1000, b"")).await,
        }
    }
    observed.check().await;
    observed.stop().await;
}

#[tokio::test]
async fn a_header_sent_line_by_line_times_out() {
    let server = TestServer::start(&["--header-timeout", "500ms"]);
    let mut slow = RawClient::tcp(server.address()).await;
    slow.send(b"GET /livez HTTP/1.1\r\n").await;
    // Each line arrives within the timeout; the whole header does not.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !slow.ends_within(Duration::from_millis(100)).await {
        slow.send(b"x: 1\r\n").await;
        assert!(tokio::time::Instant::now() < deadline, "it is still open");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_sends_nothing_times_out() {
    // Long enough for one request on a slow machine.
    let server = TestServer::start(&["--header-timeout", "4s"]);
    let mut upgraded = server.raw("upgraded").await;
    let mut silent = RawClient::tcp(server.address()).await;
    assert!(silent.ends_within(DEADLINE).await, "the silent connection is still open");
    // This connection is older and has sent its request, so the timeout does not apply to it.
    assert!(upgraded.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn a_request_without_its_body_times_out() {
    let server = TestServer::start(&["--header-timeout", "500ms"]);
    let mut slow = RawClient::tcp(server.address()).await;
    let head = "POST /heartbeat HTTP/1.1\r\nhost: localhost\r\n\
        content-type: application/x-www-form-urlencoded\r\ncontent-length: 13\r\n\r\nuser_id=";
    slow.send(head.as_bytes()).await;
    assert!(slow.ends_within(DEADLINE).await, "the unfinished request is still open");
    server.stop().await;
}

#[tokio::test]
async fn control_characters_in_ids_are_refused() {
    let server = TestServer::start(&[]);
    for path in ["/v1/connect?user=a%00", "/v1/connect?user=a&room=%1F", "/ws/%00", "/ws/a%7F"] {
        crate::common::raw::refused_upgrade(server.address(), path, &[]).await.error(400);
    }
    let mut alice = server.connect_to("alice", "lobby").await;
    let error = alice.expect_error(r#"{"type":"join","room":"a\u0000b"}"#).await;
    assert_eq!(error["code"], "bad_field");
    let answer = server.post_json("/heartbeat", &json!({"user_id": "a\u{0}b"})).await;
    answer.error(422);
    let rooms = server.get("/v1/rooms").await.json();
    assert_eq!(rooms["rooms"], json!([{"room": "lobby", "count": 1, "observers": 1}]));
    server.stop().await;
}

#[tokio::test]
async fn five_thousand_nested_brackets_are_bad_json_everywhere() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let headers = [("content-type", "application/json")];
    for unit in ["[", "{\"a\":"] {
        let deep = unit.repeat(5000 / unit.len());
        assert_eq!(alice.expect_error(&deep).await["code"], "bad_json");
        for (path, status) in [("/heartbeat", 422), ("/v1/users/status", 400)] {
            http::request(server.address(), "POST", path, &headers, deep.as_bytes()).await.error(status);
        }
        // As the whole document, and inside a valid one.
        let closing = if unit == "[" { "]" } else { "}" }.repeat(5000 / unit.len());
        let body = format!("{{\"user_id\":\"alice\",\"x\":{deep}1{closing}}}");
        let path = "/heartbeat";
        http::request(server.address(), "POST", path, &headers, body.as_bytes()).await.error(422);
    }
    alice.heartbeat().await;
    server.stop().await;
}
