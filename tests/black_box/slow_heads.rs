//! First requests that arrive in parts: wherever they are split, the answer is the same. While they are incomplete they
//! take little memory, and all together have a limit, within which addresses have shares.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::common::process::Process;
use crate::common::raw::upgrade_request;
use crate::common::{DEADLINE, Frame, RawClient, TestServer, http};

const POLL: Duration = Duration::from_millis(10);

/// All bytes until the server closes the connection, without the date. Digits are times and ids: they become 0.
async fn answer(mut stream: TcpStream, rest: &[u8]) -> String {
    // A refused client may be disconnected before it has sent everything.
    let _ = stream.write_all(rest).await;
    let _ = stream.shutdown().await;
    let mut bytes = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("the server closes the connection");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines = text.split_inclusive("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("date:"));
    lines.flat_map(str::chars).map(|char| if char.is_ascii_digit() { '0' } else { char }).collect()
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("the server accepts");
    stream.set_nodelay(true).expect("TCP_NODELAY can be set");
    stream
}

/// Requests of all kinds: handshakes, valid ones or not, with frames behind them; pages, alone and in a pipeline; bytes
/// that are no request.
fn requests() -> Vec<Vec<u8>> {
    let mut with_frames = upgrade_request("/ws-online-status?userId=7", &[("sec-websocket-protocol", "x")]);
    with_frames.extend(Frame::close(1000, b"").encode());
    let get = |headers: &str| format!("GET /livez HTTP/1.1\r\nHost: a\r\n{headers}\r\n").into_bytes();
    vec![
        with_frames,
        upgrade_request("/v1/connect?user=", &[]),
        upgrade_request("/v1/connect?user=a", &[("sec-websocket-version", "8")]),
        get(""),
        [get(""), get("Connection: close\r\n")].concat(),
        [&b"\r\n\n"[..], &get("Connection: close\r\n")].concat(),
        b"GET /livez HTTP/1.0\n\n".to_vec(),
        b"POST /heartbeat HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n\
          Content-Length: 9\r\n\r\nuser_id=a"
            .to_vec(),
        get("Folded: a\r\n b\r\n"),
        get("no header\r\n"),
        get("a : b\r\n"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
    ]
}

#[tokio::test]
async fn a_request_in_two_parts_is_answered_like_the_whole_wherever_it_is_split() {
    let server = TestServer::start(&[]);
    for request in requests() {
        let want = answer(connect(server.address()).await, &request).await;
        let text = String::from_utf8_lossy(&request).into_owned();
        assert!(want.starts_with("HTTP/0."), "{text:?}: {want}");
        let mut begun = Vec::new();
        for at in 1..request.len() {
            let mut stream = connect(server.address()).await;
            stream.write_all(&request[..at]).await.expect("the socket takes it");
            begun.push((at, stream));
        }
        // The server has read the beginnings before it reads this.
        assert_eq!(server.get("/livez").await.status, 200);
        for (at, stream) in begun {
            assert_eq!(answer(stream, &request[at..]).await, want, "{text:?} is split at {at}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_drips_is_answered() {
    let server = TestServer::start(&[]);
    for request in [upgrade_request("/v1/connect?user=a", &[]), http::request_text("GET", "/livez", &[], b"")] {
        let mut client = RawClient::tcp(server.address()).await;
        for byte in request.chunks(1) {
            client.send(byte).await;
            tokio::task::yield_now().await;
        }
        assert!(matches!(client.head().await.status, 101 | 200));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_arrives_in_parts_has_the_same_limits() {
    let server = TestServer::start(&[]);
    let long = |length: usize| format!("GET /livez HTTP/1.1\r\nhost: a\r\nlong: {}", "x".repeat(length));
    for (head, status) in [
        (format!("{}\r\nconnection: close\r\n\r\n", long(15_000)), 200),
        (long(20_000), 431),
        (format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(65)), 431),
    ] {
        let mut client = RawClient::tcp(server.address()).await;
        for part in head.as_bytes().chunks(1000) {
            client.send(part).await;
            assert_eq!(server.get("/livez").await.status, 200);
        }
        assert_eq!(client.head().await.status, status, "{}", head.len());
    }
    server.stop().await;
}

#[tokio::test]
async fn an_incomplete_head_takes_little_memory() {
    const SOCKETS: u64 = 2000;
    /// A task and the buffers of an HTTP connection take more than 16 KiB.
    const MAX_BYTES: u64 = 2048;
    rlimit::increase_nofile_limit(8192).expect("4,000 sockets are allowed");
    let mut process = Process::start(&["--workers", "1", "--header-timeout", "600s"]);
    let address = process.address();
    let handshake = upgrade_request("/v1/connect?user=a", &[]);
    let mut clients = Vec::new();
    let mut before = 0;
    for number in 0..2 * SOCKETS {
        // The first half fills what the server allocates once.
        if number == SOCKETS {
            before = process.memory_bytes();
        }
        let mut client = RawClient::tcp(address).await;
        client.send(&handshake[..60]).await;
        clients.push(client);
    }
    // The server has read the beginnings before it reads this.
    assert_eq!(http::request(address, "GET", "/livez", &[], b"").await.status, 200);
    let per_socket = process.memory_bytes().saturating_sub(before) / SOCKETS;
    assert!(per_socket <= MAX_BYTES, "{per_socket} bytes per socket");
    for client in &mut clients[..2] {
        client.send(&handshake[60..]).await;
        assert_eq!(client.head().await.status, 101);
    }
}

#[tokio::test]
async fn beyond_the_limit_of_incomplete_heads_the_address_with_the_most_loses_some() {
    /// More than 16 MiB.
    const SOCKETS: usize = 1200;
    let server =
        TestServer::start(&["--workers", "1", "--unauthenticated-per-address", "0", "--arrivals-per-address", "0"]);
    let handshake = upgrade_request("/v1/connect?user=a", &[]);
    let mut honest = RawClient::tcp(server.address()).await;
    honest.send(&handshake[..60]).await;
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nlong: {}", "x".repeat(15_000));
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.2:0".parse().expect("an address")).expect("the address is free");
        let mut stream = socket.connect(server.address()).await.expect("the server accepts");
        stream.write_all(head.as_bytes()).await.expect("the socket takes it");
        sockets.push(stream);
    }
    let limit = tokio::time::Instant::now() + DEADLINE;
    while server.stat("requests_given_up").await == 0 {
        assert!(tokio::time::Instant::now() < limit, "no request was given up");
        sleep(POLL).await;
    }
    honest.send(&handshake[60..]).await;
    assert_eq!(honest.head().await.status, 101);
    let mut rest = vec![0];
    let closed = timeout(DEADLINE, sockets[0].read(&mut rest)).await.expect("the oldest is closed");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    // A stopping server would wait for the rest.
    drop(sockets);
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_answers_requests_that_have_begun_to_arrive() {
    let mut process = Process::start(&["--drain", "600s", "--header-timeout", "600s"]);
    let address = process.address();
    let requests = [upgrade_request("/v1/connect?user=a", &[]), http::request_text("GET", "/livez", &[], b"")];
    let mut clients = Vec::new();
    for request in &requests {
        let mut client = RawClient::tcp(address).await;
        client.send(&request[..30]).await;
        clients.push(client);
    }
    // The server has read the beginnings before it reads this.
    assert_eq!(http::request(address, "GET", "/livez", &[], b"").await.status, 200);
    process.signal("TERM");
    while TcpStream::connect(address).await.is_ok() {
        sleep(POLL).await;
    }
    for (client, request) in clients.iter_mut().zip(&requests) {
        client.send(&request[30..]).await;
        let status = client.head().await.status;
        assert!(matches!(status, 101 | 200), "{status}");
    }
    assert_eq!(clients[0].wait_for_close().await, Some(1012));
    assert_eq!(process.wait_for_exit().code(), Some(0), "{:?}", process.output());
}
