//! As much HTTP/1.1 as the tests need: one request per connection, and the answer read to its end.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::DEADLINE;

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// Parses the head and takes the rest as the body.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end =
            head_end(bytes).unwrap_or_else(|| panic!("the head is not complete: {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).expect("a head is ASCII");
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        assert!(status_line.starts_with("HTTP/1.1 "), "{status_line}");
        let status = status_line[9..12].parse().expect("a status is a number");
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("no colon in {line:?}")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { status, headers, body: bytes[end..].to_vec() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/json"), "the content type is JSON: {self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks the body that all HTTP errors share, and returns its message.
    pub(crate) fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let json = self.json();
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(1), "{json}");
        let code = json["error"]["code"].as_str().expect("an error has a code");
        let message = json["error"]["message"].as_str().expect("an error has a message");
        assert!(!code.is_empty() && !message.is_empty(), "{json}");
        message.to_owned()
    }
}

/// The length of the head with its empty line.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|position| position + 4)
}

/// The bytes of a request; `content-length` is added if there is a body.
pub(crate) fn request_text(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        text.push_str("host: localhost\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let answer = exchange(address, &request_text(method, path, headers, body)).await;
    let response = Response::parse(&answer);
    if method != "HEAD" && response.status != 304 {
        let length = response.header("content-length").and_then(|length| length.parse().ok());
        assert_eq!(length, Some(response.body.len()), "{response:?}");
    }
    response
}

/// A request from another address of this machine, such as 127.0.0.2.
pub(crate) async fn request_from(from: &str, address: SocketAddr, bytes: &[u8]) -> Response {
    Response::parse(&exchange_from(from, address, bytes).await)
}

/// As [`exchange`], from another address of this machine.
pub(crate) async fn exchange_from(from: &str, address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("all of 127.0.0.0/8 is this machine");
    let stream = socket.connect(address).await.expect("the server accepts");
    exchange_over(stream, bytes).await
}

/// Sends bytes and reads until the server closes the connection. The server may reset the connection before it has read
/// everything; the result is what it sent before.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    exchange_over(TcpStream::connect(address).await.expect("the server accepts"), bytes).await
}

async fn exchange_over(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let (mut reading, mut writing) = stream.split();
    let write = async {
        let _ = writing.write_all(bytes).await;
    };
    let read = async {
        let mut answer = Vec::new();
        let _ = reading.read_to_end(&mut answer).await;
        answer
    };
    let both = async { tokio::join!(write, read).1 };
    timeout(DEADLINE, both).await.expect("the server answers and closes")
}
