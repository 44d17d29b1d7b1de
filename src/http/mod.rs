//! HTTP: pages, the API, and the upgrade to WebSocket. Only this module knows hyper.
//!
//! A worker reads the first request of each connection ([`first_request`]). What is not a simple handshake is served
//! here, on a thread with a tokio runtime. When a request becomes a WebSocket, a worker takes over the bare socket with
//! the bytes that hyper has read ahead, and hyper's buffers are freed.

mod api;
mod context;
mod corked;
pub mod first_request;
mod kick;
mod login;
mod pages;
mod probes;
mod reply;
mod request;
mod rest;
mod router;
mod stats;
pub mod thread;
mod upgrade;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::protocol::Upgrade;
use crate::websocket::{Refusal, close, put_close};
use crate::worker::mailbox::Arrival;
use corked::{Cork, CorkedStream};
use reply::Reply;
use request::Target;
use thread::{Busy, HttpThread};

/// The limit of headers per request. Browsers send some 20.
const MAX_HEADERS: usize = 64;
/// The limit of bytes of a request line and its headers.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// A connection serves requests for this long; then the client opens another. It also ends connections of clients that
/// do not read.
const MAX_AGE: Duration = Duration::from_secs(300);
/// The time for the last request of a connection of that age.
const LAST_REQUEST: Duration = Duration::from_secs(10);
/// The response to an upgrade fits, together with a greeting.
const RESPONSE_BYTES: usize = 512;
/// A refused client has this long to answer the close frame.
const REFUSED_WAIT: Duration = Duration::from_secs(2);
/// The pause when all workers have as many new sockets waiting as they may.
const CONGESTION_PAUSE: Duration = Duration::from_millis(1);

/// Serves a new connection until it ends or becomes a WebSocket.
async fn serve(stream: TcpStream, read: Bytes, thread: Rc<HttpThread>) {
    match serve_requests(stream, read, &thread).await {
        Some(upgraded) => hand_over(upgraded, &thread).await,
        None => thread.socket_closed(),
    }
}

/// A connection that has become a WebSocket.
struct Upgraded {
    stream: TcpStream,
    /// The response to the upgrade, which is not sent yet.
    response: BytesMut,
    /// Bytes that the client sent after the request.
    read_ahead: Bytes,
    outcome: Outcome,
    /// When the request arrived.
    requested: Instant,
}

/// What the worker takes over, or the close code and reason that refuse the client.
type Outcome = Result<Upgrade, (u16, Cow<'static, str>)>;

async fn serve_requests(stream: TcpStream, read: Bytes, thread: &Rc<HttpThread>) -> Option<Upgraded> {
    let cork = Cork::default();
    let upgrading = Rc::new(Upgrading {
        cork: Rc::clone(&cork),
        outcome: RefCell::new(None),
        requested: Cell::new(Instant::now()),
    });
    let requests = Requests { thread: Rc::clone(thread), upgrading, first: Cell::new(Some(Busy::new(thread))) };
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(thread.node.config.limits.header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    // Tokio learns only now that the socket is writable. hyper drops the response to a bad request, such as 431, if its
    // first write has to wait for that.
    stream.writable().await.ok()?;
    let mut connection = builder.serve_connection(CorkedStream::new(stream, read, cork), requests);
    match timeout(MAX_AGE, poll_fn(|context| connection.poll_without_shutdown(context))).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            debug!(%error, "a request failed");
            return None;
        }
        Err(_) => {
            Pin::new(&mut connection).graceful_shutdown();
            // The connection ends, whether the last request succeeds or not.
            let _ = timeout(LAST_REQUEST, connection).await;
            return None;
        }
    }
    let parts = connection.into_parts();
    let Upgrading { outcome, requested, .. } = &*parts.service.upgrading;
    let (outcome, requested) = (outcome.take()?, requested.get());
    let (stream, response, unread) = parts.io.into_parts();
    let read_ahead = if unread.is_empty() { parts.read_buf } else { [parts.read_buf, unread].concat().into() };
    Some(Upgraded { stream, response, read_ahead, outcome, requested })
}

/// Gives an upgraded socket to a worker, or refuses the client with a close frame.
async fn hand_over(upgraded: Upgraded, thread: &Rc<HttpThread>) {
    let _busy = Busy::new(thread);
    let Upgraded { stream, response, read_ahead, outcome, requested } = upgraded;
    let node = &thread.node;
    let upgrade = match outcome {
        _ if node.draining.load(Ordering::Relaxed) => Err((close::RESTART, close::RESTART_REASON.into())),
        Ok(_) if !node.add_connection() => {
            thread.counters.connections_refused.add(1);
            Err((close::TRY_AGAIN, "too many connections, try again later".into()))
        }
        outcome => outcome,
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err((code, reason)) => {
            refuse(stream, response, code, &reason).await;
            return thread.socket_closed();
        }
    };
    let given = match stream.into_std() {
        Ok(stream) => give_to_worker(Arrival { stream, response, read_ahead, upgrade, requested }, thread).await,
        Err(error) => Err(error),
    };
    match given {
        // The worker counts it from now on.
        Ok(()) => thread.counters.sockets.subtract(1),
        Err(error) => {
            debug!(%error, "a socket could not be handed over");
            node.connections.fetch_sub(1, Ordering::Relaxed);
            thread.socket_closed();
        }
    }
}

/// Waits until a worker has room for the socket. Refuses the client if the server stops meanwhile.
async fn give_to_worker(mut arrival: Arrival, thread: &HttpThread) -> std::io::Result<()> {
    let _turn = thread.hand_over_turn.lock().await;
    while let Err(returned) = thread.least_loaded().hand_over(arrival) {
        arrival = *returned;
        if thread.node.draining.load(Ordering::Relaxed) {
            let stream = TcpStream::from_std(arrival.stream)?;
            refuse(stream, arrival.response, close::RESTART, close::RESTART_REASON).await;
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        sleep(CONGESTION_PAUSE).await;
    }
    Ok(())
}

async fn refuse(mut stream: TcpStream, mut response: BytesMut, code: u16, reason: &str) {
    put_close(&mut response, code, reason);
    let goodbye = async {
        stream.write_all(&response).await?;
        stream.shutdown().await?;
        // Wait until the client has closed too: closing with unread bytes would reset the connection before the client
        // has read the close frame.
        while stream.read(&mut [0; 1024]).await? > 0 {}
        std::io::Result::Ok(())
    };
    // The client is refused either way, whether it reads the reason or not.
    let _ = timeout(REFUSED_WAIT, goodbye).await;
}

/// Answers the requests of one connection.
struct Requests {
    thread: Rc<HttpThread>,
    upgrading: Rc<Upgrading>,
    /// Until the first request is handled.
    first: Cell<Option<Busy>>,
}

/// The request of this connection that becomes a WebSocket.
struct Upgrading {
    cork: Cork,
    /// Set by the answer to that request, taken when hyper has released the socket.
    outcome: RefCell<Option<Outcome>>,
    /// When the request arrived.
    requested: Cell<Instant>,
}

impl Upgrading {
    /// Ends the handshake: `switch` is its answer unless it is refused over HTTP.
    fn finish(&self, switch: Reply, upgrade: Result<Upgrade, Refusal>) -> Reply {
        let outcome = match upgrade {
            Ok(upgrade) => Ok(upgrade),
            Err(Refusal::Close { code, reason }) => Err((code, reason)),
            Err(Refusal::Http { status, code, message }) => return Reply::refusal(status, code, &message),
        };
        self.outcome.replace(Some(outcome));
        self.cork.replace(Some(BytesMut::with_capacity(RESPONSE_BYTES)));
        switch
    }
}

type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, std::convert::Infallible>>>>;

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Full<Bytes>>;
    type Error = std::convert::Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        self.thread.counters.requests.add(1);
        let first = self.first.take();
        let target = Target::of(&request);
        if let Some((protocol, accepted)) = upgrade::accept(&target, &request) {
            self.upgrading.requested.set(Instant::now());
            let reply = match accepted {
                Err(Refusal::Http { status, code, message }) => Reply::refusal(status, code, &message),
                accepted => match (upgrade::switch(&request, protocol), accepted) {
                    (Ok(switch), Ok(upgrade)) => return self.upgrade(target, request, switch, upgrade),
                    (Ok(switch), refused) => self.upgrading.finish(switch, refused),
                    (Err(reply), _) => reply,
                },
            };
            return Box::pin(ready(Ok(reply.into_response())));
        }
        let thread = Rc::clone(&self.thread);
        Box::pin(async move {
            let _busy = first.unwrap_or_else(|| Busy::new(&thread));
            let is_head = request.method() == Method::HEAD;
            let reply = router::answer(Rc::clone(&thread), target, request).await.unwrap_or_else(|refusal| refusal);
            let reply = reply.account(&thread.node.response_bytes);
            Ok(if is_head { reply.without_body() } else { reply.into_response() })
        })
    }
}

impl Requests {
    /// Ends a sound handshake, after authentication if there is any.
    fn upgrade(&self, target: Target, request: Request<Incoming>, switch: Reply, upgrade: Upgrade) -> ResponseFuture {
        let node = &self.thread.node;
        let Some(authenticator) = node.auth.authenticator.as_ref().map(Arc::clone) else {
            let reply = self.upgrading.finish(switch, upgrade::require_user(upgrade));
            return Box::pin(ready(Ok(reply.into_response())));
        };
        let (thread, upgrading, unix_ms) = (Rc::clone(&self.thread), Rc::clone(&self.upgrading), node.now().unix_ms);
        Box::pin(async move {
            let _busy = Busy::new(&thread);
            let headers = request.headers();
            let upgrade = upgrade::authenticate(&*authenticator, &target, headers, unix_ms, upgrade).await;
            let reply = upgrading.finish(switch, upgrade.and_then(upgrade::require_user));
            Ok(reply.into_response())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Authentication, Authenticator, Credentials, Identity};
    use crate::protocol::Protocol;
    use hyper::HeaderMap;

    /// Answers later, as one that asks an application does.
    #[derive(Debug)]
    struct Later(Result<Option<Identity>, Refusal>);

    impl Authenticator for Later {
        fn authenticate<'a>(&'a self, credentials: &Credentials<'_>) -> Authentication<'a> {
            assert_eq!((credentials.path, credentials.query), ("/v1/connect", "user=eve"));
            assert_eq!((credentials.claimed_user, credentials.headers.text("cookie")), (Some("eve"), Some("a=b")));
            Box::pin(async {
                tokio::task::yield_now().await;
                self.0.clone()
            })
        }
    }

    async fn connect(answer: Result<Option<Identity>, Refusal>) -> (u16, Option<Outcome>, bool) {
        let request = Request::get("/v1/connect?user=eve").header("cookie", "a=b").body(()).unwrap();
        let (target, headers): (_, &HeaderMap) = (Target::of(&request), request.headers());
        let claimed = Upgrade::new(Protocol::Native, Some("eve".to_owned()));
        let upgrade = upgrade::authenticate(&Later(answer), &target, headers, 1, claimed).await;
        let upgrading =
            Upgrading { cork: Cork::default(), outcome: RefCell::default(), requested: Cell::new(Instant::now()) };
        let switch = Reply::empty(hyper::StatusCode::SWITCHING_PROTOCOLS);
        let reply = upgrading.finish(switch, upgrade.and_then(upgrade::require_user));
        let is_held = upgrading.cork.take().is_some();
        (reply.into_response().status().as_u16(), upgrading.outcome.take(), is_held)
    }

    #[tokio::test]
    async fn the_authenticator_decides_which_user_a_connection_has() {
        let (status, outcome, is_held) = connect(Ok(Some(Identity { user: "alice".into(), login: Some(7) }))).await;
        let upgrade = outcome.unwrap().unwrap();
        assert_eq!((status, is_held, upgrade.user.as_deref(), upgrade.login), (101, true, Some("alice"), Some(7)));
        let (status, outcome, _) = connect(Ok(None)).await;
        assert!(status == 400 && outcome.is_none(), "the claimed user does not count once an authenticator is asked");
    }

    #[tokio::test]
    async fn a_refusal_is_an_http_error_or_a_close_frame_after_the_handshake() {
        let (status, outcome, is_held) = connect(Err(Refusal::http(401, "bad_token", "the token is expired"))).await;
        assert!(status == 401 && outcome.is_none() && !is_held);
        let (status, outcome, is_held) = connect(Err(Refusal::close(4401, "the token is expired"))).await;
        assert_eq!((status, is_held), (101, true));
        assert_eq!(outcome.unwrap().unwrap_err(), (4401, "the token is expired".into()));
    }
}
