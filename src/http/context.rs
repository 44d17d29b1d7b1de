//! What a handler works with: its thread, the request, and the parameters in its path.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use percent_encoding::percent_decode_str;

use super::body::RequestBody;
use super::gate::Visitor;
use super::reply::Reply;
use super::request::{Target, id_segment};
use super::rights::Rights;
use super::thread::HttpThread;
use super::unread::TooLarge;
use crate::auth::Caller;
use crate::deadline::timeout;
use crate::node::Node;

/// The longest time an answer waits for the tick that announces what the request did. Normally that takes one tick.
const MAX_ANNOUNCEMENT_WAIT: Duration = Duration::from_secs(2);

/// What a handler returns. A refusal is an error.
pub(super) type Answer = Pin<Box<dyn Future<Output = Result<Reply, Reply>>>>;

/// A request that a handler answers.
pub(super) struct Context {
    pub(super) thread: Rc<HttpThread>,
    pub(super) target: Target,
    /// Who sent the request.
    pub(super) visitor: Visitor,
    /// What the request may read.
    pub(super) rights: Rights,
    /// Who sent it, according to its key.
    pub(super) caller: Caller,
    request: Request<RequestBody>,
    /// The path of the route, with its parameters in braces.
    pattern: &'static str,
}

impl Context {
    pub(super) fn new(
        thread: Rc<HttpThread>,
        visitor: Visitor,
        rights: Rights,
        caller: Caller,
        target: Target,
        request: Request<RequestBody>,
        pattern: &'static str,
    ) -> Self {
        Self { thread, target, visitor, rights, caller, request, pattern }
    }

    /// Charges the client's address for an answer of this length, before the answer is made, and makes room for it.
    /// Every handler whose answer may be long calls this. 429 if the address is over its work budget.
    pub(super) fn charge(&self, bytes: usize) -> Result<(), Reply> {
        self.charge_address(bytes)?;
        self.thread.answers.unread.make_room(bytes).map_err(|TooLarge| Reply::busy())
    }

    /// Charges the client's address for work that the length of the answer does not show. 429 if the address is over
    /// its work budget.
    pub(super) fn charge_work(&self, bytes: usize) -> Result<(), Reply> {
        self.charge_address(bytes)
    }

    /// Charges the client's address for an answer that is cheap to make and that has a limited length.
    pub(super) fn charge_short(&self, make: impl FnOnce() -> Reply) -> Result<Reply, Reply> {
        self.charge_address(0)?;
        let reply = make();
        self.charge_address(reply.body_bytes())?;
        Ok(reply)
    }

    fn charge_address(&self, bytes: usize) -> Result<(), Reply> {
        self.node().charge_request(self.visitor.address.limited(), bytes as u64).map_err(|wait| {
            self.thread.counters.requests_refused.add(1);
            let message = "this address has requested too many long answers; try again later";
            Reply::too_many("too_many_requests", message, wait.as_secs() + 1)
        })
    }

    pub(super) fn node(&self) -> &Node {
        &self.thread.node
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// The user or room in place of a parameter of the path, decoded and checked. `what` names it in errors.
    pub(super) fn id(&self, parameter: &str, what: &str) -> Result<String, Reply> {
        id_segment(parameter_segment(self.pattern, &self.target.path, parameter), what)
    }

    /// The segment in place of a parameter of the path, decoded. It may be any text.
    pub(super) fn segment(&self, parameter: &str) -> Result<String, Reply> {
        let segment = percent_decode_str(parameter_segment(self.pattern, &self.target.path, parameter));
        let text = segment.decode_utf8().map_err(|_| Reply::bad_request("the path must be percent-encoded UTF-8"))?;
        Ok(text.into_owned())
    }

    pub(super) fn method(&self) -> &Method {
        self.request.method()
    }

    /// The whole body. The limits are 256 KiB and `--header-timeout`.
    pub(super) async fn body(&self) -> Result<Bytes, Reply> {
        self.request.body().read(self.thread.node.config.limits.header_timeout).await
    }

    /// Waits until all workers have executed that many ticks. The first of them includes everything that was done
    /// before the call.
    pub(super) async fn wait_for_ticks(&self, ticks: u64) {
        let last = self.node().now().tick + ticks;
        let done = async {
            for done in &self.node().ticks_done {
                let _ = done.subscribe().wait_for(|tick| *tick >= last).await;
            }
        };
        // A server that is too busy to tick in time has still done what was asked: only the answer comes early.
        let _ = timeout(MAX_ANNOUNCEMENT_WAIT, done).await;
    }
}

/// The segment of `path` where `pattern` has the parameter. `pattern` matches `path` and has the parameter.
fn parameter_segment<'a>(pattern: &str, path: &'a str, parameter: &str) -> &'a str {
    let is_it =
        |segment: &str| segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}')) == Some(parameter);
    let mut segments = pattern.split('/').zip(path.split('/'));
    segments.find(|(name, _)| is_it(name)).map(|(_, segment)| segment).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_the_segment_at_its_place() {
        let check = |pattern, path, parameter, want| assert_eq!(parameter_segment(pattern, path, parameter), want);
        check("/v1/rooms/{room}/count", "/v1/rooms/lobby/count", "room", "lobby");
        check("/v1/rooms/{room}/count", "/v1/rooms//count", "room", "");
        check("/v1/rooms/{room}/users/{user}", "/v1/rooms/a%2Fb/users/7", "room", "a%2Fb");
        check("/v1/rooms/{room}/users/{user}", "/v1/rooms/a%2Fb/users/7", "user", "7");
    }
}
