//! The first request of a connection, as a worker reads it. A handshake that needs nothing but the settings is accepted
//! at once, without hyper. Everything else, refusals included, is served by hyper on an HTTP thread, which reads the
//! same bytes again. Both decide by the same functions (`upgrade.rs`).

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri, Version};
use tokio::sync::mpsc;

use super::reply::Reply;
use super::request::Target;
use super::{MAX_HEADERS, RESPONSE_BYTES, upgrade};
use crate::node::Node;
use crate::worker::http_side::{Http, ValidHandshake};

/// A connection for an HTTP thread.
#[derive(Debug)]
pub struct NewConnection {
    pub(super) stream: TcpStream,
    /// The bytes that were read from it.
    pub(super) read: Bytes,
}

/// The HTTP side of a worker.
#[derive(Debug)]
pub struct FirstRequests {
    node: Arc<Node>,
    /// To an HTTP thread. Bounded by the limit of sockets, which counts each of them.
    http: Option<mpsc::UnboundedSender<NewConnection>>,
}

impl FirstRequests {
    /// The HTTP side of a worker that gives connections to this HTTP thread.
    #[must_use]
    pub fn new(node: Arc<Node>, http: mpsc::UnboundedSender<NewConnection>) -> Self {
        Self { node, http: Some(http) }
    }
}

impl Http for FirstRequests {
    fn handshake(&mut self, bytes: &[u8]) -> Option<ValidHandshake> {
        // An authenticator may have to wait.
        if self.node.auth.authenticator.is_some() {
            return None;
        }
        let (request, request_bytes) = parse(bytes)?;
        // hyper checks the headers of a body, which may contradict each other.
        if [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(|name| request.headers().contains_key(name)) {
            return None;
        }
        let target = Target::of(&request);
        let (protocol, accepted) = upgrade::accept(&target, &request)?;
        let upgrade = upgrade::require_user(accepted.ok()?).ok()?;
        let response = write(upgrade::switch(&request, protocol).ok()?);
        Some(ValidHandshake { upgrade, response, request_bytes })
    }

    fn serve(&self, stream: TcpStream, read: Bytes) {
        let sent = self.http.as_ref().map(|http| http.send(NewConnection { stream, read }));
        if !matches!(sent, Some(Ok(()))) {
            // The HTTP thread has ended because the server stops; the socket was closed.
            self.node.sockets.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn close(&mut self) {
        self.http = None;
    }
}

/// The head of a GET request and its length, if it is complete and plain.
fn parse(bytes: &[u8]) -> Option<(Request<()>, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(bytes).ok()? else { return None };
    if parsed.method != Some("GET") || parsed.version != Some(1) {
        return None;
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = parsed.path?.parse::<Uri>().ok()?;
    let map = request.headers_mut();
    map.reserve(parsed.headers.len());
    for header in parsed.headers.iter() {
        map.append(HeaderName::from_bytes(header.name.as_bytes()).ok()?, HeaderValue::from_bytes(header.value).ok()?);
    }
    Some((request, length))
}

/// The head of a response without a body, as hyper writes it but for the date, which a 101 need not have.
fn write(reply: Reply) -> BytesMut {
    let response = reply.into_response();
    let mut buffer = BytesMut::with_capacity(RESPONSE_BYTES);
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    // Writing to memory does not fail.
    let _ = write!((&mut buffer).writer(), "HTTP/1.1 {} {reason}\r\n", status.as_str());
    for (name, value) in response.headers() {
        buffer.put_slice(name.as_str().as_bytes());
        buffer.put_slice(b": ");
        buffer.put_slice(value.as_bytes());
        buffer.put_slice(b"\r\n");
    }
    buffer.put_slice(b"\r\n");
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::presence::{Registry, Settings};
    use crate::store::MemoryStore;

    const HANDSHAKE: &str = "GET /v1/connect?user=a HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn handshake(request: &str, flags: &[&str]) -> Option<ValidHandshake> {
        let config = Config::from_args(["rollcall", "--workers", "1"].iter().chain(flags)).unwrap();
        let registry = Registry::new(Settings { ttl: 10, workers: 1, incarnation: 1 });
        let node = Node::new(config, "node".to_owned(), Arc::new(registry), Box::new(MemoryStore), Arc::default());
        FirstRequests::new(Arc::new(node), mpsc::unbounded_channel().0).handshake(request.as_bytes())
    }

    #[test]
    fn a_complete_valid_handshake_is_accepted_at_once() {
        let ValidHandshake { upgrade, response, request_bytes } =
            handshake(&format!("{HANDSHAKE}\u{1}\u{2}"), &[]).unwrap();
        assert_eq!((upgrade.user.as_deref(), request_bytes), (Some("a"), HANDSHAKE.len()));
        // The key and the value of RFC 6455, section 1.3.
        assert_eq!(
            &*String::from_utf8_lossy(&response),
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
    }

    #[test]
    fn everything_else_is_left_to_hyper() {
        let changed = |from: &str, to: &str| handshake(&HANDSHAKE.replace(from, to), &[]).is_none();
        assert!(changed("GET", "POST") && changed("HTTP/1.1", "HTTP/1.0") && changed("13", "8"));
        assert!(changed("user=a", "user=") && changed("?user=a", "") && changed("/v1/connect", "/livez"));
        assert!(changed("dGhlIHNhbXBsZSBub25jZQ==", "short") && changed("\r\n\r\n", "\r\n"));
        let two_lengths = "Content-Length: 0\r\nContent-Length: 5";
        assert!(changed("Host: h", two_lengths) && changed("Host: h", "Transfer-Encoding: chunked"));
        assert!(changed("Host: h", "Content-Length: 5") && changed("Host: h", "Host : h"));
        let many = "a: b\r\n".repeat(MAX_HEADERS);
        assert!(changed("Host: h\r\n", &many) && handshake("", &[]).is_none());
        assert!(handshake(HANDSHAKE, &["--dev-login"]).is_none(), "an authenticator decides");
    }
}
