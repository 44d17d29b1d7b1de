//! HTTP: pages, the API, and the upgrade to WebSocket. It alone knows hyper.
//!
//! A connection starts here. If a request becomes a WebSocket, the bare socket goes to the worker with what hyper has read ahead,
//! and hyper's buffers go away.

mod api;
mod corked;
mod login;
mod pages;
mod reply;
mod request;
mod stats;
mod upgrade;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
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

use crate::protocol::Protocol;
use crate::websocket::{close, put_close};
use crate::worker::{Upgrade, Worker};
use corked::{CorkedStream, Held};
use reply::Reply;
use request::Target;

/// Headers of one request at most. Browsers send some 20.
const MAX_HEADERS: usize = 64;
/// Bytes of a request's line and headers at most.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long a connection may serve requests before the client has to open another: also the end of those that do not read.
const MAX_AGE: Duration = Duration::from_secs(300);
/// How long a request that is under way may take when its connection has come of age.
const LAST_REQUEST: Duration = Duration::from_secs(10);
/// The answer to an upgrade and a greeting fit.
const ANSWER_BYTES: usize = 512;
/// How long a client that is refused may take to answer the close frame.
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
    /// The answer to its request, which is not sent yet.
    answer: BytesMut,
    /// What came behind the request.
    read_ahead: Bytes,
    upgrade: Upgrade,
}

async fn serve_requests(stream: TcpStream, worker: &Rc<Worker>) -> Option<Upgraded> {
    let held = Held::default();
    let router = Router { worker: Rc::clone(worker), upgrade: RefCell::new(None), held: Rc::clone(&held) };
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(worker.node.config.limits.header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    let mut connection = builder.serve_connection(CorkedStream::new(stream, held), router);
    match timeout(MAX_AGE, poll_fn(|context| connection.poll_without_shutdown(context))).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            debug!(%error, "a request could not be served");
            return None;
        }
        Err(_) => {
            Pin::new(&mut connection).graceful_shutdown();
            // Whatever comes of the last request, the connection ends.
            let _ = timeout(LAST_REQUEST, connection).await;
            return None;
        }
    }
    let parts = connection.into_parts();
    let upgrade = parts.service.upgrade.take()?;
    let (stream, answer) = parts.io.into_parts();
    Some(Upgraded { stream, answer, read_ahead: parts.read_buf, upgrade })
}

/// Gives an upgraded socket to the worker, or tells the client why not.
async fn hand_over(upgraded: Upgraded, worker: &Rc<Worker>) {
    let Upgraded { stream, answer, read_ahead, upgrade } = upgraded;
    if worker.draining.get() {
        refuse(stream, answer, close::RESTART, close::RESTART_REASON).await;
    } else if worker.is_full() {
        worker.counters.connections_refused.add(1);
        refuse(stream, answer, close::TRY_AGAIN, "too many connections, try again later").await;
    } else if upgrade.protocol == Protocol::Status && upgrade.user.is_none() {
        refuse(stream, answer, close::POLICY, "User ID required").await;
    } else {
        return worker.park(stream, answer, &read_ahead, &upgrade);
    }
    worker.socket_closed();
}

async fn refuse(mut stream: TcpStream, mut answer: BytesMut, code: u16, reason: &str) {
    put_close(&mut answer, code, reason);
    let goodbye = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        // Until the client has closed too: closing with unread bytes would reset the connection under the close frame.
        while stream.read(&mut [0; 1024]).await? > 0 {}
        std::io::Result::Ok(())
    };
    // It is being refused: how that ends is the client's affair.
    let _ = timeout(REFUSED_WAIT, goodbye).await;
}

/// Answers the requests of one connection.
struct Router {
    worker: Rc<Worker>,
    /// Set by the request that becomes a WebSocket, taken when hyper has let go of the socket.
    upgrade: RefCell<Option<Upgrade>>,
    held: Held,
}

impl Service<Request<Incoming>> for Router {
    type Response = Response<Full<Bytes>>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.worker.counters.requests.add(1);
        if let Some(result) = self.upgrade(&request) {
            let response = result.unwrap_or_else(|reply| reply).into_response();
            return Box::pin(std::future::ready(Ok(response)));
        }
        let worker = Rc::clone(&self.worker);
        Box::pin(async move {
            let _busy = Busy::new(&worker);
            let head = request.method() == Method::HEAD;
            let reply = route(&worker, request).await.unwrap_or_else(|refusal| refusal);
            let reply = reply.account(&worker.node.answer_bytes);
            Ok(if head { reply.without_body() } else { reply.into_response() })
        })
    }
}

impl Router {
    /// Answers the request if its path is a WebSocket's.
    fn upgrade(&self, request: &Request<Incoming>) -> Option<Result<Reply, Reply>> {
        let node = &self.worker.node;
        let upgrade = upgrade::accept(&Target::of(request), request, node.logins.as_ref(), node.now())?;
        Some(upgrade.and_then(|upgrade| {
            let reply = upgrade::switch(request, upgrade.protocol)?;
            self.upgrade.replace(Some(upgrade));
            self.held.replace(Some(BytesMut::with_capacity(ANSWER_BYTES)));
            Ok(reply)
        }))
    }
}

/// Counts a request in as long as it is being answered, for a stop that waits for it.
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

async fn route(worker: &Rc<Worker>, request: Request<Incoming>) -> Result<Reply, Reply> {
    let target = Target::of(&request);
    let segments: Vec<&str> = target.path.split('/').skip(1).collect();
    let methods: &[Method] = match segments[..] {
        ["heartbeat" | "logout"] | ["v1", "users", "status"] | ["v1", "users", _, "kick"] => &[Method::POST],
        ["login"] if pages::find("/login").is_none() => &[Method::POST],
        ["login"] => &[Method::GET, Method::HEAD, Method::POST],
        _ => &[Method::GET, Method::HEAD],
    };
    let known = pages::find(&target.path).is_some() || api::knows(&segments) || login::knows(&segments);
    if !known {
        return Err(Reply::not_found(&target.path));
    }
    if !methods.contains(request.method()) {
        return Err(Reply::method_not_allowed(methods));
    }
    let reply = match segments[..] {
        ["heartbeat"] => api::heartbeat(worker, request).await,
        ["login"] if request.method() == Method::POST => login::login(worker, request).await,
        ["login", "session"] => Ok(login::session(worker, request.headers())),
        ["login", "users"] => login::users(worker),
        ["logout"] => login::logout(worker, request).await,
        ["v1", "users", user, "kick"] => login::kick(worker, user, request.headers()).await,
        ["v1", "users", "status"] => api::users_status(worker, request).await,
        ["v1", "rooms"] => api::rooms(worker, &target).await,
        _ => pages::find(&target.path).map_or_else(|| api::answer(worker, &segments, &target), Ok),
    }?;
    // What other nodes hold is shown as it was: whoever asks is to know that.
    Ok(match worker.node.store.degraded_since() {
        Some(since) if matches!(segments[..], ["v1", ..]) => reply.and_number("degraded_since", since),
        _ => reply,
    })
}
