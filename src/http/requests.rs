//! The requests of one HTTP connection: each is answered by a route, or becomes a WebSocket.

use std::cell::{Cell, RefCell};
use std::future::{Future, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode};

use super::access::refused;
use super::activity::Activity;
use super::body::RequestBody;
use super::client::Client;
use super::corked::Cork;
use super::gate::{self, Visitor};
use super::reply::Reply;
use super::request::{Target, check_host, needs_tls};
use super::thread::{Busy, HttpThread};
use super::{Outcome, RESPONSE_BYTES, router, upgrade};
use crate::peer::PeerAddress;
use crate::protocol::Upgrade;
use crate::quota::{Held, SocketPermit};
use crate::websocket::Refusal;
use crate::worker::http_side::Port;

/// Answers the requests of one connection.
pub(super) struct Requests {
    pub(super) thread: Rc<HttpThread>,
    pub(super) client: Arc<Client>,
    pub(super) activity: Rc<Activity>,
    pub(super) upgrading: Rc<Upgrading>,
    /// Until the first request is handled.
    pub(super) first: Cell<Option<Busy>>,
    /// What is served.
    pub(super) port: Port,
    /// Counts the socket while it is no WebSocket.
    pub(super) permit: Rc<RefCell<Option<SocketPermit>>>,
}

/// The request of this connection that becomes a WebSocket.
pub(super) struct Upgrading {
    pub(super) cork: Cork,
    /// Set by the answer to that request, taken when hyper has released the socket.
    pub(super) outcome: RefCell<Option<Outcome>>,
    /// When the request arrived.
    pub(super) requested: Cell<Instant>,
    /// Counts the connection for a client behind a trusted proxy, until the connection is a WebSocket or has ended.
    pub(super) unproven: RefCell<Option<Held>>,
}

impl Upgrading {
    /// Ends the handshake: `switch` is its answer unless it is refused over HTTP.
    fn finish(&self, switch: Reply, upgrade: Result<Upgrade, Refusal>) -> Reply {
        let outcome = match upgrade {
            Ok(upgrade) => Ok(upgrade),
            Err(Refusal::Close { code, reason }) => Err((code, reason)),
            Err(refusal @ Refusal::Http { .. }) => return refused(&refusal),
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
        self.activity.request();
        let (head, body) = request.into_parts();
        let body = RequestBody::new(body, &head.headers);
        let request = Request::from_parts(head, body.clone());
        let (answer, thread, activity) = (self.answer(request), Rc::clone(&self.thread), Rc::clone(&self.activity));
        let permit = Rc::clone(&self.permit);
        Box::pin(async move {
            let mut response = answer.await?;
            thread.answers.errors.count(&response);
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(response);
            }
            if response.status().is_success()
                && let Some(permit) = permit.borrow_mut().as_mut()
            {
                permit.unproven = None;
            }
            let is_whole = body.skip_rest().await;
            activity.response();
            if !is_whole || activity.is_old() || thread.node.stopping.load(Ordering::Relaxed) {
                // Next to `upgrade`, if it is there.
                response.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

impl Requests {
    fn answer(&self, request: Request<RequestBody>) -> ResponseFuture {
        let first = self.first.take();
        if self.port == Port::NeedsTls {
            return Box::pin(ready(Ok(needs_tls(&request).into_response())));
        }
        if let Err(reply) = check_host(&request) {
            return Box::pin(ready(Ok(reply.into_response())));
        }
        let target = Target::of(&request);
        let is_internal = self.port == Port::Internal;
        if is_internal && !router::is_internal(&target.path) {
            return Box::pin(ready(Ok(Reply::not_found(&target.path).into_response())));
        }
        let (entry, peer) = (&self.thread.node.config.entry, self.client.peer());
        let visitor = Visitor::of(entry, &self.client, request.headers());
        if let Some((protocol, accepted)) = upgrade::accept(&target, &request) {
            self.upgrading.requested.set(Instant::now());
            let admitted = gate::check_upgrade(entry, Some(peer), &request, protocol.rules().is_signed());
            let reply = match accepted {
                _ if let Err(refused) = admitted => refused.into_reply(),
                Err(refusal @ Refusal::Http { .. }) => refused(&refusal),
                accepted => match (upgrade::switch(&request, protocol), accepted) {
                    (Ok(switch), Ok(upgrade)) => return self.upgrade(target, request, visitor, switch, upgrade),
                    (Ok(switch), refused) => self.upgrading.finish(switch, refused),
                    (Err(reply), _) => reply,
                },
            };
            return Box::pin(ready(Ok(reply.into_response())));
        }
        let (thread, client) = (Rc::clone(&self.thread), Arc::clone(&self.client));
        Box::pin(async move {
            let _busy = first.unwrap_or_else(|| Busy::new(&thread));
            let is_head = request.method() == Method::HEAD;
            let reply = router::answer(Rc::clone(&thread), is_internal, client.peer(), visitor, target, request).await;
            let (unread, address) = (&thread.answers.unread, PeerAddress::of(visitor.address.ip()));
            Ok(if is_head { reply.without_body() } else { reply.into_response_to(&client, address, unread) })
        })
    }

    /// Ends a sound handshake, after authentication if there is any.
    fn upgrade(
        &self,
        target: Target,
        request: Request<RequestBody>,
        visitor: Visitor,
        switch: Reply,
        upgrade: Upgrade,
    ) -> ResponseFuture {
        let node = &self.thread.node;
        let is_encrypted = gate::is_encrypted(&node.config.entry, self.client.peer(), request.headers());
        let upgrade = Upgrade { behind_proxy: visitor.address.behind_proxy(), is_encrypted, ..upgrade };
        let Some(authenticator) = upgrade::authenticator(node, &upgrade) else {
            let reply = self.upgrading.finish(switch, upgrade::require_user(upgrade));
            return Box::pin(ready(Ok(reply.into_response())));
        };
        let (thread, upgrading, unix_ms) = (Rc::clone(&self.thread), Rc::clone(&self.upgrading), node.now().unix_ms);
        Box::pin(async move {
            let _busy = Busy::new(&thread);
            let unproven = match thread.admit_unproven(upgrade.behind_proxy) {
                Ok(unproven) => unproven,
                Err(reply) => return Ok(reply.into_response()),
            };
            let headers = request.headers();
            let upgrade = upgrade::authenticate(&*authenticator, &target, headers, &visitor, unix_ms, upgrade).await;
            let reply = upgrading.finish(switch, upgrade.and_then(upgrade::require_user));
            if upgrading.outcome.borrow().is_some() {
                upgrading.unproven.replace(unproven);
            }
            Ok(reply.into_response())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Authentication, Authenticator, Credentials, Identity};
    use crate::peer::ClientAddress;
    use crate::protocol::Protocol;
    use hyper::HeaderMap;

    /// Answers later, as one that asks an application does.
    #[derive(Debug)]
    struct Later(Result<Identity, Refusal>);

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

    async fn connect(answer: Result<Identity, Refusal>) -> (u16, Option<Outcome>, bool) {
        let request = Request::get("/v1/connect?user=eve").header("cookie", "a=b").body(()).unwrap();
        let (target, headers): (_, &HeaderMap) = (Target::of(&request), request.headers());
        let address = ClientAddress::of_peer(std::net::Ipv4Addr::LOCALHOST.into());
        let visitor = Visitor { address, may_use_cookies: false };
        let claimed = Upgrade::new(Protocol::Native, Some("eve".to_owned()));
        let upgrade = upgrade::authenticate(&Later(answer), &target, headers, &visitor, 1, claimed).await;
        let upgrading = Upgrading {
            cork: Cork::default(),
            outcome: RefCell::default(),
            requested: Cell::new(Instant::now()),
            unproven: RefCell::default(),
        };
        let switch = Reply::empty(hyper::StatusCode::SWITCHING_PROTOCOLS);
        let reply = upgrading.finish(switch, upgrade.and_then(upgrade::require_user));
        let is_held = upgrading.cork.take().is_some();
        (reply.into_response().status().as_u16(), upgrading.outcome.take(), is_held)
    }

    #[tokio::test]
    async fn the_authenticator_decides_which_user_a_connection_has() {
        let (status, outcome, is_held) =
            connect(Ok(Identity { user: Some("alice".into()), login: Some(7), grant: None })).await;
        let upgrade = outcome.unwrap().unwrap();
        assert_eq!((status, is_held, upgrade.user.as_deref(), upgrade.login), (101, true, Some("alice"), Some(7)));
        let (status, outcome, _) = connect(Ok(Identity::default())).await;
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
