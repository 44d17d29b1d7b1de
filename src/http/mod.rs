//! HTTP: pages, the API, and the upgrade to WebSocket. Only this module knows hyper.
//!
//! Every connection starts here. When a request becomes a WebSocket, the worker takes over the bare socket with the
//! bytes that hyper has read ahead, and hyper's buffers are freed.

pub mod accept;
mod api;
mod context;
mod corked;
mod kick;
mod login;
mod pages;
mod probes;
mod reply;
mod request;
mod rest;
mod router;
mod stats;
mod upgrade;

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::protocol::Upgrade;
use crate::websocket::stream::Stream;
use crate::websocket::{Refusal, close, put_close};
use crate::worker::Worker;
use corked::{Cork, CorkedStream};
use reply::Reply;
use request::Target;

/// The most headers of a request. Browsers send some 20.
const MAX_HEADERS: usize = 64;
/// The longest request line and headers.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The longest time that a connection serves requests; then the client opens another. It also ends connections that do
/// not read.
const MAX_AGE: Duration = Duration::from_secs(300);
/// The longest time for the request under way when its connection reaches that age.
const LAST_REQUEST: Duration = Duration::from_secs(10);
/// The answer to an upgrade fits, together with a greeting.
const ANSWER_BYTES: usize = 512;
/// The longest time for a refused client to answer the close frame.
const REFUSED_WAIT: Duration = Duration::from_secs(2);

/// Serves a new connection until it ends or becomes a WebSocket.
pub async fn serve(stream: TcpStream, worker: Rc<Worker>) {
    match serve_requests(stream, &worker).await {
        Some(upgraded) => hand_over(upgraded, &worker).await,
        None => worker.socket_closed(),
    }
}

/// A connection that has become a WebSocket.
struct Upgraded {
    stream: TcpStream,
    /// The answer to the upgrade, which is not sent yet.
    answer: BytesMut,
    /// Bytes that the client sent after the request.
    read_ahead: Bytes,
    outcome: Outcome,
}

/// What the worker takes over, or the close code and reason that refuse the client.
type Outcome = Result<Upgrade, (u16, Cow<'static, str>)>;

async fn serve_requests(stream: TcpStream, worker: &Rc<Worker>) -> Option<Upgraded> {
    let cork = Cork::default();
    let upgrading = Rc::new(Upgrading { cork: Rc::clone(&cork), outcome: RefCell::new(None) });
    let requests = Requests { worker: Rc::clone(worker), upgrading };
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(worker.node.config.limits.header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    let mut connection = builder.serve_connection(CorkedStream::new(stream, cork), requests);
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
    let outcome = parts.service.upgrading.outcome.take()?;
    let (stream, answer) = parts.io.into_parts();
    Some(Upgraded { stream, answer, read_ahead: parts.read_buf, outcome })
}

/// Gives an upgraded socket to the worker, or refuses the client with a close frame.
async fn hand_over(upgraded: Upgraded, worker: &Rc<Worker>) {
    let Upgraded { stream, answer, read_ahead, outcome } = upgraded;
    if worker.draining.get() {
        refuse(stream, answer, close::RESTART, close::RESTART_REASON).await;
    } else if worker.is_full() {
        worker.counters.connections_refused.add(1);
        refuse(stream, answer, close::TRY_AGAIN, "too many connections, try again later").await;
    } else {
        match outcome {
            Ok(upgrade) => return worker.open_connection(Stream::from(stream), answer, &read_ahead, &upgrade),
            Err((code, reason)) => refuse(stream, answer, code, &reason).await,
        }
    }
    worker.socket_closed();
}

async fn refuse(mut stream: TcpStream, mut answer: BytesMut, code: u16, reason: &str) {
    put_close(&mut answer, code, reason);
    let goodbye = async {
        stream.write_all(&answer).await?;
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
    worker: Rc<Worker>,
    upgrading: Rc<Upgrading>,
}

/// The request of this connection that becomes a WebSocket.
struct Upgrading {
    cork: Cork,
    /// Set by the answer to that request, taken when hyper has released the socket.
    outcome: RefCell<Option<Outcome>>,
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
        self.cork.replace(Some(BytesMut::with_capacity(ANSWER_BYTES)));
        switch
    }
}

type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, std::convert::Infallible>>>>;

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Full<Bytes>>;
    type Error = std::convert::Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        self.worker.counters.requests.add(1);
        let target = Target::of(&request);
        if let Some((protocol, accepted)) = upgrade::accept(&target, &request) {
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
        let worker = Rc::clone(&self.worker);
        Box::pin(async move {
            let _busy = Busy::new(&worker);
            let is_head = request.method() == Method::HEAD;
            let reply = router::answer(Rc::clone(&worker), target, request).await.unwrap_or_else(|refusal| refusal);
            let reply = reply.account(&worker.node.response_bytes);
            Ok(if is_head { reply.without_body() } else { reply.into_response() })
        })
    }
}

impl Requests {
    /// Ends a sound handshake, after authentication if there is any.
    fn upgrade(&self, target: Target, request: Request<Incoming>, switch: Reply, upgrade: Upgrade) -> ResponseFuture {
        let node = &self.worker.node;
        let Some(authenticator) = node.auth.authenticator.as_ref().map(Arc::clone) else {
            let reply = self.upgrading.finish(switch, upgrade::require_user(upgrade));
            return Box::pin(ready(Ok(reply.into_response())));
        };
        let (worker, upgrading, unix_ms) = (Rc::clone(&self.worker), Rc::clone(&self.upgrading), node.now().unix_ms);
        Box::pin(async move {
            let _busy = Busy::new(&worker);
            let headers = request.headers();
            let upgrade = upgrade::authenticate(&*authenticator, &target, headers, unix_ms, upgrade).await;
            let reply = upgrading.finish(switch, upgrade.and_then(upgrade::require_user));
            Ok(reply.into_response())
        })
    }
}

/// Counts a request while it is being answered: a server that stops waits for it.
struct Busy<'a>(&'a Worker);

impl<'a> Busy<'a> {
    fn new(worker: &'a Worker) -> Self {
        worker.requests.set(worker.requests.get() + 1);
        Self(worker)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
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
        let upgrading = Upgrading { cork: Cork::default(), outcome: RefCell::default() };
        let switch = Reply::empty(hyper::StatusCode::SWITCHING_PROTOCOLS);
        let reply = upgrading.finish(switch, upgrade.and_then(upgrade::require_user));
        let is_held = upgrading.cork.take().is_some();
        (reply.into_response().status().as_u16(), upgrading.outcome.take(), is_held)
    }

    #[tokio::test]
    async fn the_authenticator_decides_for_whom_a_connection_speaks() {
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
