//! TLS on the ports of the server: wss:// and https:// behave as ws:// and http:// do. `certificates` is about the
//! files.

mod certificates;
mod handshakes;

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::frame::{CLOSE, Frame};
use crate::common::http::{self, Response};
use crate::common::raw::upgrade_request;
use crate::common::tls::Certificates;
use crate::common::tls_client::TlsClient;
use crate::common::{DEADLINE, RawClient, TestServer};

/// A server with the certificate of these authorities, and a client that trusts it.
fn start(certificates: &Certificates, flags: &[&str]) -> (TestServer, TlsClient) {
    let [certificate, key] = ["redis.crt", "redis.key"].map(|name| certificates.path(name));
    let flags = [&["--tls-cert", &certificate, "--tls-key", &key], flags].concat();
    (TestServer::start(&flags), TlsClient::new(certificates))
}

#[tokio::test]
async fn clients_over_tls_see_each_other() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &["--status-port", "0"]);
    let mut alice = client.native(server.address(), "user=alice&room=team").await;
    assert!(alice.is_served().await);
    let snapshot = alice.json_of_type("snapshot").await;
    assert_eq!(snapshot["room"], "team", "{snapshot}");
    let mut bob = client.native(server.status_address(), "user=bob&room=team").await;
    let diff = alice.json_of_type("diff").await;
    assert!(diff.to_string().contains("bob"), "{diff}");
    assert!(bob.is_served().await);
    drop((alice, bob));
    server.stop().await;
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte_of_a_long_snapshot() {
    const MEMBERS: usize = 60;
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let state = |number: usize| format!("{number:04}").repeat(240);
    let mut members = Vec::new();
    for number in 0..MEMBERS {
        let mut member = client.native(server.address(), &format!("user=user-{number}")).await;
        let join = serde_json::json!({"type": "join", "room": "big", "state": {"text": state(number)}});
        member.send_json(&join).await;
        member.json_of_type("snapshot").await;
        members.push(member);
    }
    let mut slow = client.connect_with_small_buffer(server.address()).await;
    slow.upgrade("/v1/connect?user=slow").await;
    // Several snapshots wait, and none is read.
    slow.send_json(&serde_json::json!({"type": "observe", "room": "big"})).await;
    for _ in 0..5 {
        slow.send_json(&serde_json::json!({"type": "resync", "room": "big"})).await;
    }
    let snapshot = slow.json_of_type("snapshot").await;
    let text = snapshot.to_string();
    for number in 0..MEMBERS {
        assert!(text.contains(&state(number)), "the state of {number} is missing");
    }
    assert!(slow.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn http_over_tls_serves_pages_bodies_and_pipelines() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let mut stream = client.stream(server.address()).await;
    let request = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let text = String::from_utf8(http::request_text(method, path, headers, body)).unwrap();
        text.replace("connection: close\r\n", "").into_bytes()
    };
    // Keep-alive: a page, HEAD, and a body that is sent after its head.
    let page = exchange(&mut stream, &request("GET", "/", &[], b"")).await;
    assert!(page.status == 200 && page.body.len() > 1000, "{page:?}");
    stream.write_all(&request("HEAD", "/", &[], b"")).await.unwrap();
    let head = read_response(&mut stream, true).await;
    assert_eq!(head.header("content-length"), Some(&*page.body.len().to_string()));
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let post = request("POST", "/heartbeat", &form, b"user_id=ann");
    let (first, rest) = post.split_at(post.len() - 5);
    stream.write_all(first).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(exchange(&mut stream, rest).await.status, 200);
    // Two requests in one record.
    let both = [request("GET", "/livez", &[], b""), request("GET", "/v1/stats", &[], b"")].concat();
    assert_eq!(exchange(&mut stream, &both).await.status, 200);
    let stats = read_response(&mut stream, false).await;
    assert!(stats.json()["tls_certificate_expires_unix"].as_u64().unwrap() > 1_700_000_000, "{stats:?}");
    // The same connection becomes a WebSocket, with a frame in the record of the request.
    let beat = Frame::text(r#"{"type":"heartbeat","ack":true}"#).encode();
    stream.write_all(&[upgrade_request("/v1/connect?user=ann", &[]), beat].concat()).await.unwrap();
    let mut socket = RawClient::over(stream);
    assert_eq!(socket.head().await.status, 101);
    socket.json_of_type("heartbeat_ack").await;
    assert!(socket.is_served().await);
    server.stop().await;
}

type TlsStream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

async fn exchange(stream: &mut TlsStream, bytes: &[u8]) -> Response {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    read_response(stream, false).await
}

/// Reads one response, byte by byte, so that the next one stays unread.
async fn read_response(stream: &mut TlsStream, is_head: bool) -> Response {
    let mut bytes = Vec::new();
    while http::head_end(&bytes).is_none() {
        let byte = tokio::time::timeout(DEADLINE, stream.read_u8()).await;
        bytes.push(byte.expect("an answer comes").expect("the connection stays open"));
    }
    let mut response = Response::parse(&bytes);
    let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
    if !is_head {
        response.body = vec![0; length];
        stream.read_exact(&mut response.body).await.unwrap();
    }
    response
}

#[tokio::test]
async fn frames_in_the_record_of_the_request_are_handled() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let beat = Frame::text(r#"{"type":"heartbeat","ack":true}"#).encode();
    let mut socket = client.connect(server.address()).await;
    socket.send(&[upgrade_request("/v1/connect?user=ann", &[]), beat.clone(), beat].concat()).await;
    assert_eq!(socket.head().await.status, 101);
    socket.json_of_type("heartbeat_ack").await;
    socket.json_of_type("heartbeat_ack").await;
    server.stop().await;
}

#[tokio::test]
async fn a_long_message_in_several_records_is_one_message() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let mut ann = client.native(server.address(), "user=ann").await;
    let users: Vec<String> = (0..500).map(|number| format!("a-user-with-a-long-name-{number:015}")).collect();
    let watch = serde_json::json!({"type": "watch", "users": users});
    assert!(watch.to_string().len() > 20_000);
    ann.send_json(&watch).await;
    let answer = ann.json_of_type("status").await;
    assert_eq!(answer["users"].as_array().map(Vec::len), Some(500), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_closed_connection_ends_with_close_notify() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let mut stream = client.stream(server.address()).await;
    let close = Frame::new(CLOSE, 1000u16.to_be_bytes().to_vec()).encode();
    stream.write_all(&[upgrade_request("/v1/connect?user=ann", &[]), close].concat()).await.unwrap();
    let mut bytes = Vec::new();
    // Without close_notify this is an error: the stream might be cut.
    stream.read_to_end(&mut bytes).await.expect("the end is announced");
    assert!(bytes.starts_with(b"HTTP/1.1 101"));
    // The same for HTTP.
    let mut stream = client.stream(server.address()).await;
    stream.write_all(&http::request_text("GET", "/livez", &[], b"")).await.unwrap();
    bytes.clear();
    stream.read_to_end(&mut bytes).await.expect("the end is announced");
    assert_eq!(Response::parse(&bytes).status, 200);
    server.stop().await;
}

#[tokio::test]
async fn clients_may_end_with_or_without_close_notify() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let announced = client.stream(server.address()).await;
    let cut = client.stream(server.address()).await;
    for (mut stream, is_announced) in [(announced, true), (cut, false)] {
        stream.write_all(&upgrade_request("/v1/connect?user=ann", &[])).await.unwrap();
        stream.read_u8().await.unwrap();
        wait_for_stat(&server, &client, "connections", 1).await;
        if is_announced {
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let read = stream.read_to_end(&mut rest).await;
            assert!(read.is_ok() || read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        } else {
            drop(stream.into_inner().0);
        }
        wait_for_stat(&server, &client, "connections", 0).await;
    }
    server.stop().await;
}

/// Waits until a metric has this value.
async fn wait_for_stat(server: &TestServer, client: &TlsClient, name: &str, value: u64) {
    let ask = async || {
        let mut stream = client.stream(server.address()).await;
        exchange(&mut stream, &http::request_text("GET", "/v1/stats", &[], b"")).await.json()[name].as_u64()
    };
    while ask().await != Some(value) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_still_gets_the_answer() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let mut stream = client.stream(server.address()).await;
    stream.write_all(&http::request_text("GET", "/livez", &[], b"")).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("the answer and its end");
    assert_eq!(Response::parse(&bytes).status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_tells_clients_over_tls_to_come_back() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let mut ann = client.native(server.address(), "user=ann").await;
    let stopped = server.begin_stop();
    assert_eq!(ann.wait_for_close().await, Some(1012));
    stopped.await.unwrap().unwrap();
}

#[tokio::test]
async fn plain_http_is_told_the_right_url() {
    let certificates = Certificates::make();
    let (server, _) = start(&certificates, &[]);
    let ask = async |host: &str, more: &str| {
        let request = format!("GET /a?b=c HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
        Response::parse(&http::exchange(server.address(), request.as_bytes()).await).error(400)
    };
    assert!(ask("example.org:8443", "").await.contains("https://example.org:8443/a?b=c"));
    assert!(ask("[::1]:8443", "Upgrade: websocket\r\n").await.contains("wss://[::1]:8443/a?b=c"));
    for host in ["", "a&b", "user:pw@host", "(x)", "[::1", "a:b:c"] {
        let message = ask(host, "").await;
        assert!(message.contains("https://") && (host.is_empty() || !message.contains(host)), "{host}: {message}");
    }
    server.stop().await;
}
