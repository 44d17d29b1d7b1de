//! A client over a bare `TcpStream` that sends any bytes at all, answers nothing by itself (no pong, no close), and
//! reads frames with the strict decoder.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::frame::{self, CLOSE, Frame, PING, ServerFrame, TEXT};
use super::http::{Response, head_end};
use super::{DEADLINE, http};

/// The key and the answer to it that RFC 6455 section 1.3 gives as its example.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The headers of a good upgrade.
pub(crate) const UPGRADE: [(&str, &str); 4] =
    [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", KEY)];

/// The receive buffer of a narrow connection: little beside what the tests send, and enough to read fast again.
const SMALL_BUFFER_BYTES: u32 = 16 * 1024;

pub(crate) struct RawClient {
    stream: TcpStream,
    /// Read, not yet decoded.
    buffer: Vec<u8>,
}

impl RawClient {
    /// Upgrades; the server has to agree.
    pub(crate) async fn open(address: SocketAddr, path: &str) -> Self {
        Self::open_with(address, path, &[], b"").await.0
    }

    /// Upgrades with further headers and with bytes glued to the request; returns the 101 as well.
    pub(crate) async fn open_with(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        glued: &[u8],
    ) -> (Self, Response) {
        let mut client = Self::tcp(address).await;
        let mut request = upgrade_request(path, headers);
        request.extend_from_slice(glued);
        client.send(&request).await;
        let response = client.head().await;
        assert_eq!(response.status, 101, "{response:?}");
        (client, response)
    }

    /// Connected, nothing sent.
    pub(crate) async fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server accepts");
        stream.set_nodelay(true).expect("TCP has no delay");
        Self { stream, buffer: Vec::new() }
    }

    /// Connected with a small receive buffer, so that not reading is soon felt.
    pub(crate) async fn with_small_buffer(address: SocketAddr) -> Self {
        Self { stream: small_buffer_stream(address).await, buffer: Vec::new() }
    }

    /// Sends the upgrade on a connection that is there already and reads the 101.
    pub(crate) async fn upgrade(&mut self, path: &str) {
        self.send(&upgrade_request(path, &[])).await;
        let response = self.head().await;
        assert_eq!(response.status, 101, "{response:?}");
    }

    /// Writes; a server that has closed already is no failure, what it said is still to be read.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let written = timeout(DEADLINE, self.stream.write_all(bytes)).await;
        let _ = written.expect("the server reads");
    }

    pub(crate) async fn send_frame(&mut self, frame: &Frame) {
        self.send(&frame.encode()).await;
    }

    pub(crate) async fn send_json(&mut self, message: &Value) {
        self.send_frame(&Frame::text(&message.to_string())).await;
    }

    /// Writes what the socket takes; false when it takes nothing more for a while or is gone.
    pub(crate) async fn send_if_taken(&mut self, bytes: &[u8], limit: Duration) -> bool {
        matches!(timeout(limit, self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    /// Reads the head of an HTTP answer; what follows it stays for the frames.
    pub(crate) async fn head(&mut self) -> Response {
        loop {
            if let Some(end) = head_end(&self.buffer) {
                let rest = self.buffer.split_off(end);
                let head = std::mem::replace(&mut self.buffer, rest);
                return Response::parse(&head);
            }
            assert!(self.read().await, "closed before a whole head: {:?}", self.buffer);
        }
    }

    /// The next frame, whatever it is; `None` when the connection has ended.
    pub(crate) async fn frame(&mut self) -> Option<ServerFrame> {
        loop {
            if let Some(frame) = frame::decode(&mut self.buffer) {
                return Some(frame);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// The next frame that is not a ping.
    pub(crate) async fn answer(&mut self) -> ServerFrame {
        loop {
            let frame = self.frame().await.expect("the connection goes on");
            if frame.opcode != PING {
                return frame;
            }
        }
    }

    /// The next message, which has to be JSON.
    pub(crate) async fn json(&mut self) -> Value {
        let frame = self.answer().await;
        assert_eq!(frame.opcode, TEXT, "{frame:?}");
        serde_json::from_slice(&frame.payload).expect("messages are JSON")
    }

    /// The next message of a type.
    pub(crate) async fn json_of_type(&mut self, kind: &str) -> Value {
        loop {
            let message = self.json().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// The next message of a type, taken from the socket in bites with a pause after each; pings stay unanswered.
    pub(crate) async fn json_slowly(&mut self, kind: &str, bite: usize, pause: Duration) -> Value {
        loop {
            while let Some(frame) = frame::decode(&mut self.buffer) {
                let message: Value = serde_json::from_slice(&frame.payload).unwrap_or_default();
                if message["type"] == kind && message["room"] == "big" {
                    return message;
                }
            }
            let mut bytes = vec![0; bite];
            let read = timeout(DEADLINE, self.stream.read(&mut bytes)).await.expect("the server goes on sending");
            let read = read.expect("the connection goes on");
            assert!(read > 0, "the server ended a connection that was reading");
            self.buffer.extend_from_slice(&bytes[..read]);
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads to the close frame, answers it and reads to the end of the connection; returns the code.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        loop {
            let frame = self.frame().await.expect("a close frame comes before the end");
            if frame.opcode == CLOSE {
                // Answered as RFC 6455 section 5.5.1 wants it; a server that has ended already does not mind.
                self.send_frame(&Frame::new(CLOSE, frame.payload.clone())).await;
                assert_eq!(self.frame().await, None, "nothing follows a close frame");
                return frame.close_code();
            }
        }
    }

    /// Reads on until the server ends the connection, with or without a close frame.
    pub(crate) async fn read_to_end(&mut self) {
        while self.frame().await.is_some() {}
    }

    /// Ends our direction and reads until the server has ended the other, decoding strictly on the way.
    pub(crate) async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
        self.read_to_end().await;
    }

    /// Ends our direction and reads, whatever it is, until the server has ended the other.
    pub(crate) async fn finish_undecoded(&mut self) -> Vec<u8> {
        let _ = self.stream.shutdown().await;
        while self.read().await {}
        std::mem::take(&mut self.buffer)
    }

    /// True when the server has ended the connection, waiting for it no longer than this.
    pub(crate) async fn is_over_within(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            match timeout_at(end, self.stream.read_buf(&mut self.buffer)).await {
                Ok(Ok(count)) if count > 0 => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    /// True when heartbeats are answered, that is when the connection is alive and not out of step.
    pub(crate) async fn is_served(&mut self) -> bool {
        self.send_frame(&Frame::text(r#"{"type":"heartbeat","ack":true}"#)).await;
        self.json_of_type("heartbeat_ack").await;
        true
    }

    /// Reads on in a task and throws away what comes, until the connection ends or the task is dropped with its runtime.
    pub(crate) fn discard(mut self) {
        tokio::spawn(async move { tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await });
    }

    async fn read(&mut self) -> bool {
        let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await;
        // A reset is an end as well: the server may have closed with our bytes unread.
        matches!(read.expect("the server says something or closes"), Ok(count) if count > 0)
    }
}

/// The upgrade request of this client; `headers` replace the defaults of the same name.
pub(crate) fn upgrade_request(path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n");
    let replaced = |name: &str| headers.iter().any(|(other, _)| *other == name);
    for (name, value) in UPGRADE.iter().filter(|(name, _)| !replaced(name)).chain(headers) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// What an upgrade request is answered when it is refused.
pub(crate) async fn refused_upgrade(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = upgrade_request(path, headers);
    // The refusal may keep the connection open for another request; a second one closes it.
    request.extend(http::request_text("GET", "/livez", &[], b""));
    let answer = http::exchange(address, &request).await;
    let mut response = Response::parse(&answer);
    let length = response.header("content-length").and_then(|length| length.parse().ok());
    response.body.truncate(length.unwrap_or(0));
    response
}

/// A connection with a small receive buffer.
pub(crate) async fn small_buffer_stream(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(SMALL_BUFFER_BYTES).expect("a small receive buffer");
    socket.connect(address).await.expect("the server accepts")
}
