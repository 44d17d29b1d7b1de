//! The first request of a connection, as a worker reads it. A handshake that needs nothing but the settings is accepted
//! at once, without hyper, and so is one with a token of a secret, which takes a few microseconds to check. If such a
//! token is refused, an HTTP thread says so. A handshake with another credential is decided on an HTTP thread, without
//! hyper. Everything else is served by hyper there, which reads the same bytes again. All decide by the same functions
//! (`upgrade.rs`).

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{BufMut, BytesMut};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri, Version};
use tokio::sync::mpsc;

use super::gate;
use super::reply::Reply;
use super::request::{Target, check_host};
use super::{MAX_HEAD_BYTES, MAX_HEADERS, RESPONSE_BYTES, upgrade};
use crate::config::Entry;
use crate::node::Node;
use crate::peer::ClientAddress;
use crate::protocol::Upgrade;
use crate::websocket::stream::Stream;
use crate::worker::http_side::{FirstBytes, FirstRequest, Http, HttpJob, ValidHandshake};
use crate::worker::verifications::RenewalJob;

/// The HTTP side of a worker.
#[derive(Debug)]
pub struct FirstRequests {
    node: Arc<Node>,
    /// To an HTTP thread. Bounded by the limit of sockets, which counts each of them.
    http: Option<mpsc::UnboundedSender<HttpJob>>,
}

impl FirstRequests {
    /// The HTTP side of a worker that gives connections to this HTTP thread.
    #[must_use]
    pub fn new(node: Arc<Node>, http: mpsc::UnboundedSender<HttpJob>) -> Self {
        Self { node, http: Some(http) }
    }
}

impl Http for FirstRequests {
    fn read(&mut self, bytes: &[u8], named: Option<ClientAddress>, stream: &Stream) -> FirstRequest {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(bytes) {
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => FirstRequest::Incomplete,
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD_BYTES => {
                accept(&self.node, &parsed, length, named, stream).unwrap_or(FirstRequest::Other)
            }
            // hyper refuses what is wrong or too long.
            Ok(_) | Err(_) => FirstRequest::Other,
        }
    }

    fn serve(&self, connection: FirstBytes) {
        let is_sent = self.http.as_ref().is_some_and(|http| http.send(HttpJob::Serve(connection)).is_ok());
        if !is_sent {
            // The HTTP thread has ended because the server stops; the socket was closed.
            self.node.sockets.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn renew(&self, job: RenewalJob) {
        // Without an HTTP thread the server stops, and closes the connection anyway.
        if let Some(http) = &self.http {
            let _ = http.send(HttpJob::Renew(job));
        }
    }

    fn close(&mut self) {
        self.http = None;
    }
}

/// A sound handshake, before authentication.
pub(super) struct Sound {
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    /// The client, if something names one behind the peer.
    pub(super) client: Option<ClientAddress>,
    /// With the user that the client claims to be.
    pub(super) upgrade: Upgrade,
    /// The HTTP response that accepts it.
    pub(super) response: BytesMut,
    /// The length of the request.
    pub(super) request_bytes: usize,
}

impl Sound {
    /// The handshake at the start of these bytes, if they are nothing else.
    pub(super) fn of(entry: &Entry, bytes: &[u8], peer: ClientAddress) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(bytes).ok()? {
            httparse::Status::Complete(length) if length <= MAX_HEAD_BYTES => {
                let named = peer.behind_proxy().map(|_| peer);
                Self::of_head(entry, &parsed, length, named, || Some(peer))
            }
            _ => None,
        }
    }

    fn of_head(
        entry: &Entry,
        parsed: &httparse::Request<'_, '_>,
        request_bytes: usize,
        named: Option<ClientAddress>,
        peer: impl FnOnce() -> Option<ClientAddress>,
    ) -> Option<Self> {
        let request = plain_request(parsed)?;
        check_host(&request).ok()?;
        // hyper checks the headers of a body, which may contradict each other.
        let has_body = |name| request.headers().contains_key(name);
        if [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(has_body) {
            return None;
        }
        // Asking the system for the peer costs a call, and only proxies say something about clients behind it.
        let peer = match named {
            None if gate::needs_peer(request.headers()) => Some(peer()?),
            named => named,
        };
        let target = Target::of(&request);
        let (protocol, accepted) = upgrade::accept(&target, &request)?;
        gate::check_upgrade(entry, peer, &request, protocol.rules().is_signed()).ok()?;
        let client = peer.map(|peer| gate::client_of(entry, peer, request.headers()));
        let upgrade = Upgrade {
            behind_proxy: client.and_then(ClientAddress::behind_proxy),
            is_encrypted: peer.and_then(|peer| gate::is_encrypted(entry, peer, request.headers())),
            ..accepted.ok()?
        };
        let response = write(upgrade::switch(&request, protocol).ok()?);
        Some(Self { target, headers: request.into_parts().0.headers, client, upgrade, response, request_bytes })
    }
}

/// The handshake with this head, if it is sound and can be decided at once.
fn accept(
    node: &Node,
    parsed: &httparse::Request<'_, '_>,
    length: usize,
    named: Option<ClientAddress>,
    stream: &Stream,
) -> Option<FirstRequest> {
    let peer = || stream.peer().map(ClientAddress::of_peer);
    let Sound { target, headers, client, upgrade, response, request_bytes } =
        Sound::of_head(&node.config.entry, parsed, length, named, peer)?;
    let upgrade = match upgrade::authenticator(node, &upgrade) {
        None => upgrade,
        Some(asked) => {
            let (client, unix_ms) = (client.or_else(peer)?, node.now().unix_ms);
            match upgrade::authenticate_now(&*asked, &target, &headers, client, unix_ms, upgrade)? {
                Ok(upgrade) => upgrade,
                Err(refusal) => return Some(FirstRequest::Refused(refusal)),
            }
        }
    };
    let upgrade = upgrade::require_user(upgrade).ok()?;
    Some(FirstRequest::Handshake(ValidHandshake { upgrade, response, request_bytes }))
}

/// The head of a GET request, if it is plain.
fn plain_request(parsed: &httparse::Request<'_, '_>) -> Option<Request<()>> {
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
    Some(request)
}

/// The head of a response without a body, as hyper writes it but for the date, which a 101 need not have.
pub(super) fn write(reply: Reply) -> BytesMut {
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
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::auth::Auth;
    use crate::config::Config;
    use crate::presence::{Registry, Settings};
    use crate::store::MemoryStore;

    const HANDSHAKE: &str = "GET /v1/connect?user=a HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn read(request: &str, flags: &[&str]) -> FirstRequest {
        read_named(request, None, flags)
    }

    fn read_named(request: &str, named: Option<ClientAddress>, flags: &[&str]) -> FirstRequest {
        let config = Config::from_args(["rollcall", "--workers", "1"].iter().chain(flags)).unwrap();
        let registry = Registry::new(Settings { ttl: 10, workers: 1, incarnation: 1 });
        let auth = Auth::new(&config, 1).unwrap();
        let node =
            Node::new(config, "node".to_owned(), Arc::new(registry), Box::<MemoryStore>::default(), Arc::default());
        let node = Arc::new(node.with_auth(auth));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = Stream::from(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        FirstRequests::new(node, mpsc::unbounded_channel().0).read(request.as_bytes(), named, &stream)
    }

    fn handshake(request: &str, flags: &[&str]) -> Option<ValidHandshake> {
        match read(request, flags) {
            FirstRequest::Handshake(handshake) => Some(handshake),
            FirstRequest::Incomplete | FirstRequest::Refused(_) | FirstRequest::Other => None,
        }
    }

    #[test]
    fn a_head_is_incomplete_until_it_ends_or_is_wrong_or_too_long() {
        let is_incomplete = |request: &str| matches!(read(request, &[]), FirstRequest::Incomplete);
        assert!((0..HANDSHAKE.len()).all(|end| is_incomplete(&HANDSHAKE[..end])) && !is_incomplete(HANDSHAKE));
        assert!(!is_incomplete("\u{16}\u{3}\u{1}") && !is_incomplete("GET / HTTP/1.1\r\nno header\r\n"));
        assert!(!is_incomplete("PRI * HTTP/2.0\r\n") && !is_incomplete(&"a: b\r\n".repeat(MAX_HEADERS + 1)));
        let begun = |bytes: usize| format!("GET /{}", "x".repeat(bytes - 5));
        assert!(is_incomplete(&begun(MAX_HEAD_BYTES - 1)) && !is_incomplete(&begun(MAX_HEAD_BYTES)));
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
    fn clients_behind_trusted_proxies_are_told_apart() {
        let behind = |header: &str, flags: &[&str]| {
            let request = HANDSHAKE.replace("Host: h", &format!("Host: h.example\r\n{header}"));
            let flags = [&["--open"], flags].concat();
            handshake(&request, &flags).unwrap().upgrade.behind_proxy.map(|client| client.address.to_string())
        };
        let trusted = ["--trust-proxy", "127.0.0.0/8"];
        assert_eq!(behind("X-Forwarded-For: 1.1.1.1", &trusted).as_deref(), Some("1.1.1.1"));
        assert_eq!(behind("X-Forwarded-For: 1.1.1.1", &[]).as_deref(), Some("127.0.0.1"), "not exempt");
        assert_eq!(behind("Accept: */*", &trusted), None, "the peer itself");
    }

    #[test]
    fn the_client_of_a_proxy_header_takes_the_place_of_the_peer() {
        let behind = |named: &str, header: &str, flags: &[&str]| {
            let request = HANDSHAKE.replace("Host: h", &format!("Host: h{header}"));
            match read_named(&request, Some(ClientAddress::of_proxy_header(named.parse().unwrap())), flags) {
                FirstRequest::Handshake(handshake) => {
                    handshake.upgrade.behind_proxy.map(|client| (client.address.to_string(), client.is_counted))
                }
                _ => None,
            }
        };
        let open = ["--open", "--trust-proxy", "127.0.0.1,10.0.0.0/8"];
        let is = |address: &str, is_counted| Some((address.to_owned(), is_counted));
        assert_eq!(behind("1.1.1.1", "", &open), is("1.1.1.1", true));
        let forwarded = "\r\nX-Forwarded-For: 2.2.2.2";
        assert_eq!(behind("1.1.1.1", forwarded, &open), is("1.1.1.1", true), "the client cannot choose an address");
        assert_eq!(behind("10.0.0.1", forwarded, &open), is("2.2.2.2", false), "another trusted proxy");
        assert_eq!(behind("127.0.0.1", "", &[]), is("127.0.0.1", true));
        assert_eq!(behind("1.1.1.1", "", &[]), None, "the server is not open on purpose");
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
        assert!(changed("Host: h\r\n", "") && changed("Host: h", "Host: h\r\nHost: h"));
        let many = "a: b\r\n".repeat(MAX_HEADERS);
        assert!(changed("Host: h\r\n", &format!("Host: h\r\n{many}")) && handshake("", &[]).is_none());
        assert!(handshake(HANDSHAKE, &["--dev-login"]).is_none(), "an authenticator decides");
        assert!(changed("Host: h", "Host: example.com") && changed("Host: h", "Host: h\r\nOrigin: http://a.com"));
        assert!(changed("Host: h", "Host: h\r\nX-Forwarded-For: 1.1.1.1"), "the server is not open on purpose");
    }

    #[test]
    fn a_token_of_a_secret_is_accepted_at_once_and_all_others_are_left_to_an_http_thread() {
        const SECRET: &str = "the secret of the application in these tests";
        let flags = ["--jwt-secret", SECRET];
        let exp = crate::os::unix_ms() / 1000 + 60;
        let claims = serde_json::json!({"sub": "alice", "exp": exp});
        let with_any = |user: &str, token: &str| {
            let header = format!("Sec-WebSocket-Protocol: presence.v1, bearer.{token}\r\n\r\n");
            let request = HANDSHAKE.replace("?user=a", user).replacen("\r\n\r\n", &format!("\r\n{header}"), 1);
            read(&request, &flags)
        };
        let with = |user: &str, token: &str| match with_any(user, token) {
            FirstRequest::Handshake(handshake) => Some(handshake),
            _ => None,
        };
        let good = crate::auth::jwt::signed(&claims, SECRET);
        for user in ["", "?user=alice"] {
            let ValidHandshake { upgrade, response, .. } = with(user, &good).unwrap();
            assert!(upgrade.user.as_deref() == Some("alice") && upgrade.grant.is_some());
            let response = String::from_utf8_lossy(&response).into_owned();
            assert!(response.contains("sec-websocket-protocol: presence.v1\r\n"), "{response}");
        }
        let refused = |user: &str, token: &str| matches!(with_any(user, token), FirstRequest::Refused(_));
        assert!(refused("?user=bob", &good) && refused("", &format!("{good}x")), "it is not verified again");
        assert!(with("", &crate::auth::jwt::signed(&claims, "another secret of the application, unknown")).is_none());
        assert!(handshake(HANDSHAKE, &flags).is_none(), "no token");
        let (key, none) = ("src/auth/jwt/test_keys/rsa.pem", handshake(HANDSHAKE, &["--dev-login"]));
        assert!(none.is_none() && handshake(HANDSHAKE, &["--jwt-public-key", key]).is_none());
    }
}
