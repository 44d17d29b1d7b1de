//! An HTTP server that rollcall asks: an application, or the publisher of a key set. The test decides each answer, also
//! those that break HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

use super::DEADLINE;
use super::http::head_end;
use super::redis::{ATTEMPTS, free_port};
use super::tls::Certificates;

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// The first line and the headers; names in lower case.
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The number of its connection.
    pub(crate) connection: usize,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Does {
    /// Answers, and keeps the connection.
    Answer(u16, String, Vec<(&'static str, String)>),
    /// Sends these bytes and closes the connection.
    Raw(Vec<u8>),
    /// Answers nothing until [`Upstream::release`], and then this.
    Hold(u16, String),
}

impl Does {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::Answer(status, body.to_string(), Vec::new())
    }
}

type Handler = Box<dyn FnMut(&Seen) -> Does + Send>;

struct Shared {
    handler: Mutex<Handler>,
    seen: Mutex<Vec<Seen>>,
    held: watch::Sender<(usize, bool)>,
}

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upstream {
    pub(crate) async fn start(handler: impl FnMut(&Seen) -> Does + Send + 'static) -> Self {
        Self::serve(None, Box::new(handler)).await
    }

    /// With the certificate `redis.crt`, which the authority has signed for 127.0.0.1.
    pub(crate) async fn start_tls(
        certificates: &Certificates,
        handler: impl FnMut(&Seen) -> Does + Send + 'static,
    ) -> Self {
        let chain = CertificateDer::pem_file_iter(certificates.path("redis.crt")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(certificates.path("redis.key")).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.expect("versions").with_no_client_auth();
        let config = config.with_single_cert(chain.map(Result::unwrap).collect(), key).expect("they fit");
        Self::serve(Some(TlsAcceptor::from(Arc::new(config))), Box::new(handler)).await
    }

    /// Serves again at the address of a server that has died.
    pub(crate) async fn start_again(address: SocketAddr, handler: impl FnMut(&Seen) -> Does + Send + 'static) -> Self {
        Self::on(TcpListener::bind(address).await.expect("its port is free"), None, Box::new(handler))
    }

    /// Uses a port that the system assigns to no other server: rollcall still sends requests to a server that has died.
    async fn serve(tls: Option<TlsAcceptor>, handler: Handler) -> Self {
        for _ in 0..ATTEMPTS {
            // Another process may bind it first.
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).await {
                return Self::on(listener, tls, handler);
            }
        }
        panic!("no port is free");
    }

    fn on(listener: TcpListener, tls: Option<TlsAcceptor>, handler: Handler) -> Self {
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            handler: Mutex::new(handler),
            seen: Mutex::default(),
            held: watch::Sender::new((0, false)),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Self { address, scheme, shared, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Answers further requests in another way.
    pub(crate) fn set(&self, handler: impl FnMut(&Seen) -> Does + Send + 'static) {
        *self.shared.handler.lock().expect("no panic") = Box::new(handler);
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("no panic").clone()
    }

    /// The number of requests so far.
    pub(crate) fn count(&self) -> usize {
        self.shared.seen.lock().expect("no panic").len()
    }

    /// Waits until this many requests have come.
    pub(crate) async fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.count() < count {
            assert!(Instant::now() < deadline, "{} requests instead of {count}", self.count());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until this many requests are held.
    pub(crate) async fn wait_for_held(&self, count: usize) {
        let mut held = self.shared.held.subscribe();
        let wait = held.wait_for(|(held, _)| *held == count);
        tokio::time::timeout(DEADLINE, wait).await.expect("requests are held").expect("the sender lives");
    }

    /// Answers all requests that are held, and those that will be.
    pub(crate) fn release(&self) {
        self.shared.held.send_modify(|(_, is_released)| *is_released = true);
    }

    /// Ends the server: all connections break, and its port is closed. Nothing listens there any more.
    pub(crate) async fn die(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    for number in 0.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            match tls {
                None => converse(stream, number, &shared).await,
                Some(tls) => {
                    // A client that does not trust the certificate ends the handshake.
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, number, &shared).await;
                    }
                }
            }
        });
    }
}

/// Answers the requests of a connection until it ends.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, connection: usize, shared: &Shared) {
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer, connection).await {
        shared.seen.lock().expect("no panic").push(seen.clone());
        let does = (shared.handler.lock().expect("no panic"))(&seen);
        let (bytes, ends) = match does {
            Does::Answer(status, body, headers) => (response(status, &body, &headers), false),
            Does::Raw(bytes) => (bytes, true),
            Does::Hold(status, body) => {
                let _held = Held::new(shared);
                let mut held = shared.held.subscribe();
                tokio::select! {
                    _ = held.wait_for(|(_, is_released)| *is_released) => (response(status, &body, &[]), false),
                    // The client has given up.
                    _ = stream.read_u8() => return,
                }
            }
        };
        if stream.write_all(&bytes).await.is_err() || ends {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

/// Counts a request that is held.
struct Held<'a>(&'a Shared);

impl<'a> Held<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.held.send_modify(|(held, _)| *held += 1);
        Self(shared)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.send_modify(|(held, _)| *held -= 1);
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, connection: usize) -> Option<Seen> {
    loop {
        if let Some(end) = head_end(buffer) {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
            let line = lines.next()?.to_owned();
            let headers: Vec<_> = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect();
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let length: usize = length.map_or(0, |(_, length)| length.parse().expect("a length"));
            if buffer.len() >= end + length {
                let body = buffer[end..end + length].to_vec();
                buffer.drain(..end + length);
                return Some(Seen { line, headers, body, connection });
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// An HTTP answer.
pub(crate) fn response(status: u16, body: &str, headers: &[(&'static str, String)]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Any\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}\r\n{body}").into_bytes()
}
