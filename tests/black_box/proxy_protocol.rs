//! `--proxy-protocol`: a proxy says in a PROXY header who its client is. All of 127.0.0.0/8 is this machine: 127.0.0.2
//! plays the proxy.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::common::frame::{CLOSE, Frame};
use crate::common::http::{self, Response, request_text};
use crate::common::process::{Process, command, run_to_exit};
use crate::common::raw::upgrade_request;
use crate::common::tls::Certificates;
use crate::common::tls_client::TlsClient;
use crate::common::token::{SECRET_FLAG, subprotocols};
use crate::common::upstream::Seen;
use crate::common::{DEADLINE, Does, RawClient, TestServer, Upstream};

const PROXY: &str = "127.0.0.2";
const FLAGS: [&str; 5] =
    ["--proxy-protocol", "--trust-proxy", "127.0.0.2,10.0.0.0/8", "--internal-listen", "127.0.0.1:0"];
/// A LOCAL header of version 2, and one that names 203.0.113.7 with an extension.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11\xcb\0\x71\x07\x0a\0\0\x01\x12\x34\x01\xbb\x01\0\x02h2";

/// An open server behind the proxy.
fn start(flags: &[&str]) -> TestServer {
    TestServer::start(&[&["--open"], &FLAGS[..], flags].concat())
}

fn v1(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    let server = if client.contains(':') { "::1" } else { "10.0.0.1" };
    format!("PROXY {family} {client} {server} 4711 443\r\n").into_bytes()
}

async fn connect(from: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("all of 127.0.0.0/8 is this machine");
    let stream = socket.connect(address).await.expect("the server accepts");
    stream.set_nodelay(true).expect("TCP_NODELAY can be set");
    stream
}

/// What the server answers to these bytes until it closes the connection.
async fn exchange(server: &TestServer, bytes: &[&[u8]]) -> Vec<u8> {
    http::exchange_from(PROXY, server.address(), &bytes.concat()).await
}

/// The answer to a request behind this header.
async fn request(server: &TestServer, header: &[u8], method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    Response::parse(&exchange(server, &[header, &request_text(method, path, headers, b"")]).await)
}

/// A WebSocket behind this header, all in one packet.
async fn open(server: &TestServer, header: &[u8], user: &str, headers: &[(&str, &str)]) -> RawClient {
    let mut client = RawClient::tcp_from(PROXY, server.address()).await;
    let handshake = upgrade_request(&format!("/v1/connect?user={user}"), headers);
    client.send(&[header, &handshake].concat()).await;
    let response = client.head().await;
    assert_eq!(response.status, 101, "{response:?}");
    client
}

/// How many connections were closed for this reason.
async fn rejected(server: &TestServer, reason: &str) -> u64 {
    let metrics = http::request(server.internal_address(), "GET", "/metrics", &[], b"").await;
    let text = String::from_utf8(metrics.body).expect("metrics are text");
    let name = format!("rollcall_proxy_headers_rejected_total{{reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("{name} is missing: {text}")).parse().expect("a number")
}

async fn wait_until_rejected(server: &TestServer, reason: &str, count: u64) {
    let deadline = Instant::now() + DEADLINE;
    while rejected(server, reason).await != count {
        assert!(Instant::now() < deadline, "{reason} is not {count}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn headers_of_both_versions_come_before_requests_and_websockets() {
    let server = start(&["--status-port", "0"]);
    let headers = [LOCAL, V2, b"PROXY UNKNOWN\r\n", &v1("203.0.113.7"), &v1("2001:db8::7")];
    for (number, header) in headers.into_iter().enumerate() {
        assert_eq!(request(&server, header, "GET", "/livez", &[]).await.status, 200, "{header:?}");
        let mut client = open(&server, header, &format!("user-{number}"), &[]).await;
        assert!(client.is_served().await, "{header:?}");
    }
    // A header in a packet of its own, on the second port.
    let mut client = RawClient::over(connect(PROXY, server.status_address()).await);
    client.send(V2).await;
    client.upgrade("/v1/connect?user=late").await;
    assert!(client.is_served().await);
    // Bytes behind the header are the client's, also those that look like a header.
    let answer = exchange(&server, &[V2, V2]).await;
    assert_eq!(Response::parse(&answer).status, 400);
    // The port for monitoring takes none.
    assert_eq!(http::request(server.internal_address(), "GET", "/livez", &[], b"").await.status, 200);
    for reason in ["untrusted", "missing", "malformed", "too_long", "unsupported", "incomplete"] {
        assert_eq!(rejected(&server, reason).await, 0, "{reason}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte_and_the_handshake_behind_it_too() {
    let server = start(&[]);
    for header in [V2.to_vec(), v1("2001:db8::7")] {
        let mut stream = connect(PROXY, server.address()).await;
        let beat = Frame::text(r#"{"type":"heartbeat","ack":true}"#).encode();
        for byte in [header, upgrade_request("/v1/connect?user=slow", &[]), beat].concat() {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut client = RawClient::over(stream);
        assert_eq!(client.head().await.status, 101);
        client.json_of_type("heartbeat_ack").await;
    }
    server.stop().await;
}

#[tokio::test]
async fn connections_without_a_valid_header_are_closed_without_an_answer() {
    let server = start(&[]);
    let live = request_text("GET", "/livez", &[], b"");
    let cases: [(&[u8], &str); 6] = [
        (b"", "missing"),
        (b"PROXY TCP4 1.2.3.4  1.2.3.5 1 2\r\n", "malformed"),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0", "malformed"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x02\x09", "too_long"),
        (b"PROXY ", "too_long"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xcb\0\x71\x07\x0a\0\0\x01\x12\x34\x01\xbb", "unsupported"),
    ];
    for (header, reason) in cases {
        let before = rejected(&server, reason).await;
        let filler = if header == b"PROXY " { vec![b'x'; 600] } else { Vec::new() };
        assert_eq!(exchange(&server, &[header, &filler, &live]).await, b"", "{header:?}");
        wait_until_rejected(&server, reason, before + 1).await;
    }
    // The client ends in the middle of a header.
    for end in [0, 1, 12, V2.len() - 1] {
        let before = rejected(&server, "incomplete").await;
        let mut client = RawClient::tcp_from(PROXY, server.address()).await;
        client.send(&V2[..end]).await;
        assert_eq!(client.shut_down_undecoded().await, b"");
        wait_until_rejected(&server, "incomplete", before + 1).await;
    }
    // Nobody else may send a header, this machine included.
    for from in ["127.0.0.1", "127.0.0.3"] {
        let before = rejected(&server, "untrusted").await;
        assert_eq!(http::exchange_from(from, server.address(), &[V2, &live].concat()).await, b"");
        wait_until_rejected(&server, "untrusted", before + 1).await;
    }
    assert_eq!(request(&server, V2, "GET", "/livez", &[]).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_header_that_is_not_complete_in_time_ends_the_connection() {
    let server = start(&["--header-timeout", "1s"]);
    let mut stream = connect(PROXY, server.address()).await;
    let dripping = async {
        for byte in [b"PROXY UNKNOWN ", &[b'x'; 80][..]].concat() {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "it is closed without an answer");
    };
    timeout(DEADLINE, dripping).await.expect("the connection ends");
    wait_until_rejected(&server, "incomplete", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn a_header_precedes_tls() {
    let certificates = Certificates::make();
    let [certificate, key] = ["redis.crt", "redis.key"].map(|name| certificates.path(name));
    let server = start(&["--tls-cert", &certificate, "--tls-key", &key]);
    let client = TlsClient::new(&certificates);
    for header in [LOCAL.to_vec(), V2.to_vec(), v1("203.0.113.7")] {
        let mut stream = connect(PROXY, server.address()).await;
        stream.write_all(&header).await.unwrap();
        let mut client = RawClient::over(client.handshake(stream).await.expect("the handshake succeeds"));
        client.upgrade("/v1/connect?user=alice&room=team").await;
        assert_eq!(client.json_of_type("snapshot").await["room"], "team");
        assert!(client.is_served().await);
    }
    // HTTP over TLS, and plain HTTP, which is told so.
    let mut stream = connect(PROXY, server.address()).await;
    stream.write_all(V2).await.unwrap();
    let mut stream = client.handshake(stream).await.expect("the handshake succeeds");
    stream.write_all(&request_text("GET", "/livez", &[], b"")).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(Response::parse(&answer).status, 200);
    assert!(request(&server, V2, "GET", "/", &[]).await.error(400).contains("https://"));
    // TLS without a header is not TLS.
    assert!(client.handshake(connect(PROXY, server.address()).await).await.is_err());
    wait_until_rejected(&server, "missing", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn limits_count_the_address_of_the_header() {
    let server = start(&["--connections-per-address", "3", "--rest-users-per-address", "2"]);
    let forwarded = |address| [("x-forwarded-for", address)];
    let mut clients = Vec::new();
    let mut count = async |header: &[u8], headers: &[(&str, &str)]| {
        let mut served = 0;
        for user in 0..5 {
            let mut client = open(&server, header, &format!("user-{user}"), headers).await;
            let first = client.answer().await;
            served += usize::from(first.opcode != CLOSE);
            clients.push(client);
        }
        served
    };
    assert_eq!(count(V2, &[]).await, 3);
    assert_eq!(count(&v1("203.0.113.7"), &[]).await, 0, "the same address");
    assert_eq!(count(&v1("203.0.113.8"), &forwarded("203.0.113.9")).await, 3, "a client forwards nothing");
    assert_eq!(count(&v1("203.0.113.8"), &[]).await, 0);
    assert_eq!(count(&v1("10.0.0.9"), &forwarded("203.0.113.9")).await, 3, "a proxy before the proxy");
    assert_eq!(count(&v1("203.0.113.9"), &[]).await, 0);
    assert_eq!(count(&v1("127.0.0.1"), &[]).await, 3, "an address from a header is never exempt");
    assert_eq!(count(LOCAL, &[]).await, 3, "the proxy itself, which is 127.0.0.2");
    for (user, want) in [(0, 200), (1, 200), (2, 429)] {
        let beat = request_text("POST", "/heartbeat", &[], format!("user_id=rest-{user}").as_bytes());
        assert_eq!(Response::parse(&exchange(&server, &[&v1("127.0.0.1"), &beat]).await).status, want);
    }
    drop(clients);
    server.stop().await;
}

#[tokio::test]
async fn the_proxy_itself_has_no_limits_if_it_is_this_machine() {
    let flags = ["--open", "--proxy-protocol", "--trust-proxy", "127.0.0.1", "--internal-listen", "127.0.0.1:0"];
    let server = TestServer::start(&[&flags[..], &["--connections-per-address", "1"]].concat());
    let mut clients = Vec::new();
    for header in [LOCAL, LOCAL, b"PROXY UNKNOWN\r\n", V2] {
        let mut client = RawClient::tcp(server.address()).await;
        client.send(header).await;
        client.upgrade("/v1/connect?user=a").await;
        assert!(client.is_served().await, "{header:?}");
        clients.push(client);
    }
    server.stop().await;
}

#[tokio::test]
async fn sockets_that_complete_nothing_count_for_the_address_of_the_header() {
    let server = start(&["--unauthenticated-per-address", "4"]);
    let header = v1("203.0.113.7");
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut client = RawClient::tcp_from(PROXY, server.address()).await;
        client.send(&header).await;
        silent.push(client);
    }
    // One more is refused, of these or of those that follow: each worker reads them when it gets to it.
    let deadline = Instant::now() + DEADLINE;
    while server.stat("sockets_over_quota").await == 0 {
        assert!(Instant::now() < deadline, "a socket too many was never refused");
        let mut client = RawClient::tcp_from(PROXY, server.address()).await;
        client.send(&[&header, &b"GET"[..]].concat()).await;
        silent.push(client);
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(request(&server, &v1("203.0.113.8"), "GET", "/livez", &[]).await.status, 200, "another address");
    drop(silent);
    server.stop().await;
}

#[tokio::test]
async fn an_arrival_counts_once_for_the_address_of_the_header() {
    let server = start(&["--arrivals-per-address", "1"]);
    let header = v1("203.0.113.9");
    let arrivals = server
        .without_ticks(async || {
            let mut served = 0;
            for user in 0..12 {
                let mut client = RawClient::tcp_from(PROXY, server.address()).await;
                let handshake = upgrade_request(&format!("/v1/connect?user=user-{user}"), &[]);
                client.send(&[&header[..], &handshake].concat()).await;
                served += usize::from(client.try_head().await.is_some_and(|head| head.status == 101));
            }
            served
        })
        .await;
    assert_eq!(arrivals, 10, "ten seconds at once");
    server.stop().await;
}

#[tokio::test]
async fn an_open_server_serves_no_client_of_another_machine() {
    let server = TestServer::start(&FLAGS);
    let refused = request(&server, V2, "GET", "/v1/rooms", &[]).await;
    assert!(refused.error(403).contains("--open"), "{refused:?}");
    for header in [V2.to_vec(), v1("2001:db8::7")] {
        let handshake = upgrade_request("/v1/connect?user=eve", &[("connection", "Upgrade, close")]);
        let mut client = RawClient::tcp_from(PROXY, server.address()).await;
        client.send(&[&header[..], &handshake].concat()).await;
        assert_eq!(client.head().await.status, 403);
    }
    for header in [LOCAL.to_vec(), v1("127.0.0.1"), v1("::1")] {
        assert_eq!(request(&server, &header, "GET", "/v1/rooms", &[]).await.status, 200);
        assert!(open(&server, &header, "alice", &[]).await.is_served().await);
    }
    server.stop().await;
}

#[tokio::test]
async fn failures_and_the_question_to_the_application_have_the_address_of_the_header() {
    fn answer(seen: &Seen) -> Does {
        Does::json(200, &json!({"user": seen.json()["ip"]}))
    }
    let application = Upstream::start(answer).await;
    let url = application.url("/auth");
    let callback = ["--auth-url", &url, "--auth-cookie", "sid"];
    let failures = ["--failures-per-address", "1"];
    let server = TestServer::start(&[&FLAGS[..], &SECRET_FLAG, &callback, &failures].concat());
    let origin = ("origin", "http://localhost");
    for (header, ip) in [(V2.to_vec(), "203.0.113.7"), (v1("2001:db8::7"), "2001:db8::7"), (LOCAL.to_vec(), PROXY)] {
        let mut client = RawClient::tcp_from(PROXY, server.address()).await;
        client.send(&header).await;
        client.upgrade_with("/v1/connect", &[origin, ("cookie", "sid=1")]).await;
        assert_eq!(client.json().await["user"], ip);
    }
    // Bad tokens spend the failures of their address, and of no other.
    let bad = subprotocols("bad.token.here");
    let deadline = Instant::now() + DEADLINE;
    let attempt = async |header: &[u8]| {
        let mut client = RawClient::tcp_from(PROXY, server.address()).await;
        let handshake = upgrade_request("/v1/connect", &[("sec-websocket-protocol", &bad)]);
        client.send(&[header, &handshake].concat()).await;
        client.head().await.status
    };
    while attempt(&v1("203.0.113.8")).await != 429 {
        assert!(Instant::now() < deadline, "the address has no limit of failures");
    }
    assert_ne!(attempt(&v1("203.0.113.9")).await, 429);
    server.stop().await;
}

#[test]
fn the_setting_needs_trusted_proxies_and_a_value() {
    let check = |flags: &[&str], variable: Option<(&str, &str)>, want: &str| {
        let mut server = command(&[&["--listen", "127.0.0.1:0"], flags].concat());
        server.envs(variable);
        let output = run_to_exit(server);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{text}");
        assert!(text.contains(want), "{text}");
    };
    check(&["--proxy-protocol"], None, "--trust-proxy");
    check(&[], Some(("ROLLCALL_PROXY_PROTOCOL", "1")), "ROLLCALL_PROXY_PROTOCOL");
    check(&[], Some(("ROLLCALL_PROXY_PROTOCOL", "")), "ROLLCALL_PROXY_PROTOCOL");
    check(&["--proxy-protocol"], Some(("ROLLCALL_TRUST_PROXY", "")), "ROLLCALL_TRUST_PROXY");
}

#[test]
fn the_health_command_sends_a_header_or_says_what_to_do() {
    let health = |flags: &[&str]| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let output = run_to_exit(command(&[flags, &["health"]].concat()));
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            // On a very busy machine the answer may take longer than the command waits.
            if !text.contains("no answer within") || Instant::now() > deadline {
                return (output.status.code(), text);
            }
        }
    };
    let mut trusting = Process::start(&["--proxy-protocol", "--trust-proxy", "127.0.0.1"]);
    let address = trusting.address().to_string();
    let proxied = ["--listen", &address, "--proxy-protocol", "--trust-proxy", "127.0.0.1"];
    assert_eq!(health(&proxied).0, Some(0), "{}", health(&proxied).1);
    let (code, message) = health(&["--listen", &address]);
    assert!(code == Some(1) && message.contains("--proxy-protocol"), "{message}");
    let mut other = Process::start(&["--proxy-protocol", "--trust-proxy", "127.0.0.2"]);
    let address = other.address().to_string();
    let (code, message) = health(&["--listen", &address, "--proxy-protocol", "--trust-proxy", "127.0.0.2"]);
    assert!(code == Some(1) && message.contains("127.0.0.1 must be in --trust-proxy"), "{message}");
    for process in [&mut trusting, &mut other] {
        process.signal("TERM");
        assert!(process.wait_for_exit().success());
    }
}
