//! The HTTP client: requests to applications, their webhooks and the servers of key sets. The only module that sends
//! any.
//!
//! It connects only where its URL says: no redirects, no proxies from the environment, plain HTTP only where the URL
//! allows it ([`Target`]). Each answer has a limit of bytes and of time, and what is repeated of it in messages is cut
//! and escaped. Cookies and secrets are in no message.
//!
//! Requests run on a thread of their own, so that no slow server and no handshake delays a thread that serves clients.

mod connector;
mod target;

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::deadline::timeout;
use crate::outside::shown;
use crate::tls::Roots;
use connector::Connector;

pub use target::{PlainHttp, Target};

/// A connection that is idle for longer is closed. Servers close theirs after 2 s and more, and a request on a
/// connection that the server closes at that moment has to be sent again.
const IDLE_TIME: Duration = Duration::from_secs(1);
/// The body of an answer of which only the head matters is waited for this long.
const REST_TIME: Duration = Duration::from_millis(500);
/// The limit of bytes of the head of an answer.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Threads for look-ups of names. A look-up that takes too long keeps its thread.
const NAME_THREADS: usize = 4;
/// How servers see who asks.
const USER_AGENT: &str = concat!("rollcall/", env!("CARGO_PKG_VERSION"));

/// The thread that sends requests. It ends when this is dropped, and with it what it still does.
#[derive(Debug)]
pub struct Sender {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Sender {
    /// Starts a thread with this name.
    ///
    /// # Errors
    /// If the system does not allow another one.
    pub fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(NAME_THREADS).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // Nothing is sent: this waits for the end.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { handle, _stop: stop })
    }

    /// Runs a task on the thread. Requests are sent by such tasks.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(task));
    }
}

/// The limits of each request to an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The time from the begin of the request to the end of the answer.
    pub time: Duration,
    /// The bytes of the body of an answer.
    pub answer_bytes: usize,
    /// Connections that are kept open between requests.
    pub kept_connections: usize,
}

/// A server that requests are sent to. Clones share connections.
#[derive(Clone)]
pub struct Endpoint {
    target: Target,
    uri: Uri,
    limits: Limits,
    client: Client<Connector, Full<Bytes>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Endpoint").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint that is not connected yet.
    ///
    /// # Errors
    /// If no authority is known that could sign the certificate of a server, as a sentence.
    pub fn new(target: Target, roots: &Roots, limits: Limits) -> Result<Self, String> {
        let connector = Connector::new(target.plain(), roots, limits.time)?;
        let uri = target.as_str().parse().map_err(|_| format!("{target} is not a URL that HTTP can use"))?;
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIME);
        builder.pool_max_idle_per_host(limits.kept_connections).http1_max_buf_size(MAX_HEAD_BYTES);
        Ok(Self { target, uri, limits, client: builder.build(connector) })
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Sends a request and returns the whole answer, whatever its status is. Must be called on the thread of a
    /// [`Sender`].
    ///
    /// # Errors
    /// If there is no complete answer within the limits.
    pub async fn send(&self, request: &Request) -> Result<Answer, Failure> {
        self.in_time(self.exchange(request)).await
    }

    /// Sends a request and returns the status and headers of the answer, whatever the status is. The body is read up to
    /// a limit, so that the connection can be used again, and dropped. Must be called on the thread of a [`Sender`].
    ///
    /// # Errors
    /// If the headers of the answer do not arrive in time.
    pub async fn deliver(&self, request: &Request) -> Result<Answer, Failure> {
        let (head, body) = self.in_time(self.request(request)).await?.into_parts();
        // A body that is too long, breaks off or does not come ends the connection, and changes nothing else.
        let _ = timeout(REST_TIME, Limited::new(body, self.limits.answer_bytes).collect()).await;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: Bytes::new() })
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        timeout(self.limits.time, work).await.unwrap_or(Err(Failure::Timeout(self.limits.time)))
    }

    async fn request(&self, request: &Request) -> Result<hyper::Response<Incoming>, Failure> {
        match self.request_once(request).await {
            // The server may have closed a kept connection just before the request came. Requests can be repeated: they
            // ask something, or carry an id.
            Err(Failure::Unanswered) => self.request_once(request).await,
            result => result,
        }
    }

    async fn request_once(&self, request: &Request) -> Result<hyper::Response<Incoming>, Failure> {
        let mut hyper = request.to_hyper(&self.uri)?;
        if let Some(mut login) = self.target.login().and_then(|login| HeaderValue::from_str(login).ok()) {
            login.set_sensitive(true);
            hyper.headers_mut().insert(header::AUTHORIZATION, login);
        }
        self.client.request(hyper).await.map_err(|error| failure(&error))
    }

    async fn exchange(&self, request: &Request) -> Result<Answer, Failure> {
        let (head, body) = self.request(request).await?.into_parts();
        let body = Limited::new(body, self.limits.answer_bytes).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => Failure::TooLarge(self.limits.answer_bytes),
            false => Failure::Broken(shown(&error.to_string())),
        })?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
    }
}

/// A request.
#[derive(Clone)]
pub struct Request {
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Request").field("method", &self.method).finish_non_exhaustive()
    }
}

impl Request {
    /// Asks for JSON.
    #[must_use]
    pub fn get() -> Self {
        Self { method: Method::GET, headers: HeaderMap::new(), body: Bytes::new() }.and("accept", b"application/json")
    }

    /// Sends JSON.
    #[must_use]
    pub fn post(body: impl Into<Bytes>) -> Self {
        let request = Self { method: Method::POST, headers: HeaderMap::new(), body: body.into() };
        request.and("accept", b"application/json").and("content-type", b"application/json")
    }

    /// Adds a header. A value that HTTP does not allow is left out.
    #[must_use]
    pub fn and(mut self, name: &'static str, value: &[u8]) -> Self {
        if let Ok(mut value) = HeaderValue::from_bytes(value) {
            // No `Debug` of any library shows it.
            value.set_sensitive(true);
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    fn to_hyper(&self, uri: &Uri) -> Result<hyper::Request<Full<Bytes>>, Failure> {
        let builder = hyper::Request::builder().method(&self.method).uri(uri).header(header::USER_AGENT, USER_AGENT);
        let request = builder.body(Full::new(self.body.clone()));
        let mut request = request.map_err(|error| Failure::Broken(shown(&error.to_string())))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}

/// A complete answer.
#[derive(Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    /// An answer without headers.
    #[cfg(test)]
    pub(crate) fn for_tests(status: u16, body: String) -> Self {
        Self { status, headers: HeaderMap::new(), body: body.into() }
    }

    /// The first value of a header, if it is text.
    #[must_use]
    pub fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What is wrong with the status of an answer that is not usable, for messages.
    #[must_use]
    pub fn unexpected_status(&self) -> String {
        unexpected_status(self.status)
    }
}

/// What is wrong with a status that is not usable, for messages.
#[must_use]
pub fn unexpected_status(status: u16) -> String {
    match status {
        300..=399 => format!("it answered {status}; redirects are not followed"),
        _ => format!("it answered {status}"),
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It did not come within this time.
    Timeout(Duration),
    /// The server cannot be connected to.
    Connect(String),
    /// The server closed the connection and sent nothing.
    Unanswered,
    /// What came is not a complete HTTP answer.
    Broken(String),
    /// The body is longer than this.
    TooLarge(usize),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(time) => write!(formatter, "no complete answer within {time:?}"),
            Self::Connect(why) => write!(formatter, "cannot connect: {why}"),
            Self::Unanswered => formatter.write_str("it closed the connection without an answer"),
            Self::Broken(why) => write!(formatter, "the answer is not complete: {why}"),
            Self::TooLarge(limit) => write!(formatter, "the answer is longer than {limit} bytes"),
        }
    }
}

impl std::error::Error for Failure {}

fn failure(error: &Error) -> Failure {
    let mut cause: &dyn std::error::Error = error;
    let mut is_unanswered = false;
    while let Some(next) = cause.source() {
        is_unanswered |= next.downcast_ref::<hyper::Error>().is_some_and(is_without_answer);
        cause = next;
    }
    // The last cause says what happened; those before it say where in the client.
    match shown(&cause.to_string()) {
        why if error.is_connect() => Failure::Connect(why),
        _ if is_unanswered => Failure::Unanswered,
        why => Failure::Broken(why),
    }
}

/// Whether the connection ended before the first byte of an answer.
fn is_without_answer(error: &hyper::Error) -> bool {
    let is_reset = || {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        cause.is_some_and(|cause| matches!(cause.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe))
    };
    error.is_canceled() || error.is_incomplete_message() || is_reset()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_headers_or_bodies() {
        let request = Request::post("sesame").and("authorization", b"Bearer sesame").and("cookie", b"a=sesame");
        let http = request.to_hyper(&Uri::from_static("http://localhost/")).unwrap();
        let answer = Answer { status: 200, headers: request.headers.clone(), body: Bytes::from_static(b"sesame") };
        let text = format!("{request:?} {:?} {answer:?}", http.headers());
        assert!(!text.contains("sesame"), "{text}");
    }
}
