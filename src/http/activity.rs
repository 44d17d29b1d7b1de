//! What an HTTP connection is doing, as seen from its bytes and its requests: reading a head, handling a request,
//! writing the response, or waiting for the next one. It says when the connection has to be closed.
//!
//! hyper has one time limit for heads, which also runs between requests. Here the first byte of a request starts it,
//! and the time between requests has a limit of its own.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Duration, Instant, Sleep, sleep_until};

use crate::node::Node;

/// The state of a connection between two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// A head has begun to arrive, or the connection is new.
    ReadingHead { since: Instant },
    /// A request is being handled. Bodies have their own limit.
    Handling,
    /// A response is being written. `since` is when the client last read some of it.
    Writing { since: Instant },
    /// All responses are written.
    Idle { since: Instant },
}

/// What a connection is doing. Shared by its stream, its service and its task.
pub(super) struct Activity {
    node: Arc<Node>,
    doing: Cell<Doing>,
    /// When the server begins to ask the client to open another connection.
    old_at: Instant,
    /// Its number among the idle connections.
    idle_number: Cell<Option<u64>>,
    /// Notified when sockets are scarce.
    close: Arc<Notify>,
    told_to_close: RefCell<Pin<Box<OwnedNotified>>>,
    timer: RefCell<Pin<Box<Sleep>>>,
}

impl Activity {
    /// A new connection, which is asked to end with the first response after `age`.
    pub(super) fn new(node: &Arc<Node>, age: Duration) -> Self {
        let now = Instant::now();
        let close = Arc::new(Notify::new());
        Self {
            doing: Cell::new(Doing::ReadingHead { since: now }),
            old_at: now + age,
            idle_number: Cell::new(None),
            told_to_close: RefCell::new(Box::pin(Arc::clone(&close).notified_owned())),
            close,
            timer: RefCell::new(Box::pin(sleep_until(now + node.config.limits.header_timeout))),
            node: Arc::clone(node),
        }
    }

    /// Bytes have arrived.
    pub(super) fn received(&self) {
        if matches!(self.doing.get(), Doing::Idle { .. }) {
            self.set(Doing::ReadingHead { since: Instant::now() });
        }
    }

    /// The client has read bytes.
    pub(super) fn sent(&self) {
        if matches!(self.doing.get(), Doing::Writing { .. } | Doing::Idle { .. }) {
            self.set(Doing::Writing { since: Instant::now() });
        }
    }

    /// Everything is written.
    pub(super) fn flushed(&self) {
        if let Doing::Writing { since } = self.doing.get() {
            self.set(Doing::Idle { since });
        }
    }

    /// A head is complete.
    pub(super) fn request(&self) {
        self.set(Doing::Handling);
    }

    /// The response is made.
    pub(super) fn response(&self) {
        self.set(Doing::Writing { since: Instant::now() });
    }

    /// Whether the next response is to be the last one.
    pub(super) fn is_old(&self) -> bool {
        Instant::now() >= self.old_at
    }

    /// Ready when the connection has to be closed. Call it after each turn of the connection.
    pub(super) fn poll_end(&self, context: &mut Context<'_>) -> Poll<()> {
        let limits = &self.node.config.limits;
        let end = match self.doing.get() {
            Doing::Handling => return Poll::Pending,
            Doing::ReadingHead { since } => since + limits.header_timeout,
            Doing::Writing { since } => since + limits.keep_alive,
            Doing::Idle { since } => {
                if self.told_to_close.borrow_mut().as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
                since + limits.keep_alive
            }
        };
        let mut timer = self.timer.borrow_mut();
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        timer.as_mut().poll(context)
    }

    fn set(&self, doing: Doing) {
        self.doing.set(doing);
        let idle = &self.node.idle_sockets;
        match (doing, self.idle_number.get()) {
            (Doing::Idle { .. }, None) => self.idle_number.set(Some(idle.add(&self.close))),
            (Doing::Idle { .. }, Some(_)) | (_, None) => {}
            (_, Some(number)) => {
                idle.remove(number);
                self.idle_number.set(None);
            }
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Some(number) = self.idle_number.get() {
            self.node.idle_sockets.remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;
    use crate::config::Config;
    use crate::presence::{Registry, Settings};
    use crate::store::MemoryStore;

    const AGE: Duration = Duration::from_secs(300);

    fn node() -> Arc<Node> {
        let flags = ["rollcall", "--workers", "1", "--header-timeout", "10s", "--keep-alive", "75s"];
        let registry = Registry::new(Settings { ttl: 10, workers: 1, incarnation: 1 });
        let config = Config::from_args(flags).unwrap();
        Arc::new(Node::new(
            config,
            "node".to_owned(),
            Arc::new(registry),
            Box::<MemoryStore>::default(),
            Arc::default(),
        ))
    }

    /// The seconds until the connection is closed if nothing more happens; `None` if it is not.
    async fn closed_after(activity: &Activity) -> Option<u64> {
        let before = Instant::now();
        let end = timeout(Duration::from_secs(10_000), poll_fn(|context| activity.poll_end(context))).await;
        end.ok().map(|()| (Instant::now() - before).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_limit() {
        let node = node();
        let new = || Activity::new(&node, AGE);
        assert_eq!(closed_after(&new()).await, Some(10), "the first head");
        let activity = new();
        activity.received();
        advance(Duration::from_secs(4)).await;
        activity.received();
        assert_eq!(closed_after(&activity).await, Some(6), "further bytes do not extend it");
        let activity = new();
        activity.request();
        assert_eq!(closed_after(&activity).await, None, "handlers have their own limits");
        activity.response();
        advance(Duration::from_secs(70)).await;
        activity.sent();
        assert_eq!(closed_after(&activity).await, Some(75), "a client that reads a long response is not idle");
        let activity = new();
        activity.request();
        activity.response();
        activity.flushed();
        advance(Duration::from_secs(70)).await;
        activity.received();
        assert_eq!(closed_after(&activity).await, Some(10), "the next head");
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_is_asked_to_end() {
        let activity = Activity::new(&node(), AGE);
        assert!(!activity.is_old());
        advance(AGE).await;
        assert!(activity.is_old());
    }

    #[tokio::test(start_paused = true)]
    async fn only_idle_connections_are_closed_when_sockets_are_scarce() {
        let node = node();
        let [busy, idle, writing] = [(); 3].map(|()| Activity::new(&node, AGE));
        for activity in [&writing, &busy, &idle] {
            activity.request();
            activity.response();
        }
        busy.flushed();
        idle.flushed();
        busy.request();
        node.idle_sockets.close_oldest();
        assert_eq!((closed_after(&idle).await, closed_after(&busy).await), (Some(0), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_reading_a_long_response_gets_all_of_it_when_sockets_are_scarce() {
        let node = node();
        let activity = Activity::new(&node, AGE);
        activity.request();
        activity.response();
        activity.flushed();
        // Told to close at the moment in which its next request arrives.
        node.idle_sockets.close_oldest();
        activity.request();
        activity.response();
        node.idle_sockets.close_oldest();
        assert_eq!(closed_after(&activity).await, Some(75), "it is not idle");
        activity.flushed();
        assert_eq!(closed_after(&activity).await, Some(0));
    }
}
