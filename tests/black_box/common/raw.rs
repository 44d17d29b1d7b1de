//! A client over a bare `TcpStream`, or TLS over one: it sends any bytes, answers nothing by itself (no pong, no
//! close), and reads frames with the strict decoder.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::frame::{self, CLOSE, Frame, PING, ServerFrame, TEXT};
use super::http::{Response, head_end};
use super::{DEADLINE, http};

/// The key and the answer to it that RFC 6455 section 1.3 gives as its example.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The headers of a valid upgrade.
pub(crate) const UPGRADE: [(&str, &str); 4] =
    [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", KEY)];

/// A small receive buffer: small compared with what the tests send, and large enough to catch up fast.
const SMALL_BUFFER_BYTES: u32 = 16 * 1024;

/// What a client can speak over.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

pub(crate) struct RawClient<S = TcpStream> {
    stream: S,
    /// Bytes that were read and not decoded yet.
    buffer: Vec<u8>,
}

/// A client that belongs to no runtime.
pub(crate) struct DetachedClient {
    stream: std::net::TcpStream,
    buffer: Vec<u8>,
}

impl DetachedClient {
    /// The client in the runtime of this thread.
    pub(crate) fn attach(self) -> RawClient {
        RawClient { stream: TcpStream::from_std(self.stream).expect("it is non-blocking"), buffer: self.buffer }
    }
}

impl RawClient {
    /// Takes it out of the runtime of this thread.
    pub(crate) fn detach(self) -> DetachedClient {
        DetachedClient { stream: self.stream.into_std().expect("the runtime releases it"), buffer: self.buffer }
    }

    /// Upgrades; the server must accept.
    pub(crate) async fn open(address: SocketAddr, path: &str) -> Self {
        Self::open_with(address, path, &[], b"").await.0
    }

    /// Upgrades with further headers, and with bytes sent together with the request. Returns the 101 as well.
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

    /// Upgrades from another address of this machine, such as 127.0.0.2.
    pub(crate) async fn open_from(from: &str, address: SocketAddr, path: &str) -> Self {
        let mut client = Self::tcp_from(from, address).await;
        client.upgrade(path).await;
        client
    }

    /// Connects from another address of this machine, such as 127.0.0.2, and sends nothing.
    pub(crate) async fn tcp_from(from: &str, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(from.parse().expect("an address"), 0)).expect("all of 127.0.0.0/8 is this machine");
        let stream = socket.connect(address).await.expect("the server accepts");
        Self { stream, buffer: Vec::new() }
    }

    /// Connects and sends nothing.
    pub(crate) async fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server accepts");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        Self::over(stream)
    }

    /// Connects with a small receive buffer, so that the server soon notices when this client does not read.
    pub(crate) async fn with_small_buffer(address: SocketAddr) -> Self {
        Self::over(small_buffer_stream(address).await)
    }
}

impl<S: Transport + 'static> RawClient<S> {
    /// Speaks over a stream that is connected.
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Sends the upgrade request on this connection and reads the 101.
    pub(crate) async fn upgrade(&mut self, path: &str) {
        self.upgrade_with(path, &[]).await;
    }

    /// The same with further headers.
    pub(crate) async fn upgrade_with(&mut self, path: &str, headers: &[(&str, &str)]) {
        self.send(&upgrade_request(path, headers)).await;
        let response = self.head().await;
        assert_eq!(response.status, 101, "{response:?}");
    }

    /// Writes. A server that has closed already is not an error: what it sent can still be read.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let written = timeout(DEADLINE, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        });
        let _ = written.await.expect("the server reads");
    }

    pub(crate) async fn send_frame(&mut self, frame: &Frame) {
        self.send(&frame.encode()).await;
    }

    pub(crate) async fn send_json(&mut self, message: &Value) {
        self.send_frame(&Frame::text(&message.to_string())).await;
    }

    /// Writes. False if the socket accepts no more bytes within the limit, or has ended.
    pub(crate) async fn send_if_taken(&mut self, bytes: &[u8], limit: Duration) -> bool {
        matches!(timeout(limit, self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    /// Reads the head of an HTTP answer. Bytes after it are kept as frames.
    pub(crate) async fn head(&mut self) -> Response {
        loop {
            if let Some(end) = head_end(&self.buffer) {
                let rest = self.buffer.split_off(end);
                let head = std::mem::replace(&mut self.buffer, rest);
                return Response::parse(&head);
            }
            assert!(self.read().await, "closed before the head was complete: {:?}", self.buffer);
        }
    }

    /// Reads the head of an HTTP answer; `None` if the connection ends before the answer.
    pub(crate) async fn try_head(&mut self) -> Option<Response> {
        while self.buffer.is_empty() {
            if !self.read().await {
                return None;
            }
        }
        Some(self.head().await)
    }

    /// Reads and drops this many bytes: the body of an answer.
    pub(crate) async fn skip(&mut self, bytes: usize) {
        while self.buffer.len() < bytes {
            assert!(self.read().await, "closed before the body was complete");
        }
        self.buffer.drain(..bytes);
    }

    /// The next frame; `None` if the connection has ended.
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
            let frame = self.frame().await.expect("the connection stays open");
            if frame.opcode != PING {
                return frame;
            }
        }
    }

    /// The next message, which must be JSON.
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

    /// The next message of a type about the room `big`, read in small pieces with a pause after each; pings are not
    /// answered.
    pub(crate) async fn json_slowly(&mut self, kind: &str, piece: usize, pause: Duration) -> Value {
        loop {
            while let Some(frame) = frame::decode(&mut self.buffer) {
                let message: Value = serde_json::from_slice(&frame.payload).unwrap_or_default();
                if message["type"] == kind && message["room"] == "big" {
                    return message;
                }
            }
            let mut bytes = vec![0; piece];
            let read = timeout(DEADLINE, self.stream.read(&mut bytes)).await.expect("the server sends more");
            let read = read.expect("the connection stays open");
            assert!(read > 0, "the server ended a connection that was reading");
            self.buffer.extend_from_slice(&bytes[..read]);
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads to the close frame, answers it and reads to the end of the connection. Returns the code.
    pub(crate) async fn wait_for_close(&mut self) -> Option<u16> {
        loop {
            let frame = self.frame().await.expect("a close frame comes before the end");
            if frame.opcode == CLOSE {
                // RFC 6455 section 5.5.1 requires the answer. The server may have closed already.
                self.send_frame(&Frame::new(CLOSE, frame.payload.clone())).await;
                assert_eq!(self.frame().await, None, "nothing follows a close frame");
                return frame.close_code();
            }
        }
    }

    /// Reads until the server ends the connection, with or without a close frame.
    pub(crate) async fn read_to_end(&mut self) {
        while self.frame().await.is_some() {}
    }

    /// Shuts down the sending direction and reads until the server ends the connection. All frames must be valid.
    pub(crate) async fn shut_down(&mut self) {
        let _ = self.stream.shutdown().await;
        self.read_to_end().await;
    }

    /// Shuts down the sending direction and returns all bytes until the server ends the connection.
    pub(crate) async fn shut_down_undecoded(&mut self) -> Vec<u8> {
        let _ = self.stream.shutdown().await;
        while self.read().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the server ends the connection within this time.
    pub(crate) async fn ends_within(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            match timeout_at(end, self.stream.read_buf(&mut self.buffer)).await {
                Ok(Ok(count)) if count > 0 => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Whether a heartbeat is answered: the connection is alive and its frames are still decoded correctly.
    pub(crate) async fn is_served(&mut self) -> bool {
        self.send_frame(&Frame::text(r#"{"type":"heartbeat","ack":true}"#)).await;
        self.json_of_type("heartbeat_ack").await;
        true
    }

    /// Reads in a task and drops what comes, until the connection or the runtime ends.
    pub(crate) fn discard(mut self) {
        tokio::spawn(async move { tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await });
    }

    async fn read(&mut self) -> bool {
        let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await;
        // A reset is an end as well: the server may have closed before it read all of our bytes.
        matches!(read.expect("the server sends something or closes"), Ok(count) if count > 0)
    }
}

/// The upgrade request of this client; `headers` replace the defaults of the same name.
pub(crate) fn upgrade_request(path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("GET {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        text.push_str("host: localhost\r\n");
    }
    let replaced = |name: &str| headers.iter().any(|(other, _)| *other == name);
    for (name, value) in UPGRADE.iter().filter(|(name, _)| !replaced(name)).chain(headers) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// The answer to an upgrade request that must be refused.
pub(crate) async fn refused_upgrade(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = upgrade_request(path, headers);
    // A refusal may keep the connection open. A second request closes it.
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
