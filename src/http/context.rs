//! What a handler works with: its thread, the request, and the parameters in its path.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HeaderMap;

use super::reply::Reply;
use super::request::{Target, body, id_segment};
use super::thread::HttpThread;
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
    request: Request<Incoming>,
    /// The path of the route, with its parameters in braces.
    pattern: &'static str,
}

impl Context {
    pub(super) fn new(
        thread: Rc<HttpThread>,
        target: Target,
        request: Request<Incoming>,
        pattern: &'static str,
    ) -> Self {
        Self { thread, target, request, pattern }
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

    /// The whole body. The limits are 256 KiB and `--header-timeout`.
    pub(super) async fn body(&mut self) -> Result<Bytes, Reply> {
        let time = self.thread.node.config.limits.header_timeout;
        body(self.request.body_mut(), time).await
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
