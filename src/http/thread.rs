//! A thread that serves HTTP on the connections that a worker gives it. It gives sockets that become WebSockets to the
//! workers.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::first_request::NewConnection;
use crate::metrics::ThreadCounters;
use crate::node::Node;
use crate::worker::mailbox::Mailbox;

/// How often a thread that stops looks whether its requests are done.
const STOP_INTERVAL: Duration = Duration::from_millis(5);

/// The state of one HTTP thread.
#[derive(Debug)]
pub struct HttpThread {
    /// What it shares with the other threads.
    pub(super) node: Arc<Node>,
    /// Its counters. No other thread writes them.
    pub(super) counters: Arc<ThreadCounters>,
    /// The mailbox of each worker.
    mailboxes: Arc<[Arc<Mailbox>]>,
    /// The number of requests that are being handled, and of sockets that are being handed over.
    pub(super) requests: Cell<usize>,
    /// Held by the socket that waits for room in a mailbox; the others wait for it, in order.
    pub(super) hand_over_turn: tokio::sync::Mutex<()>,
}

/// Serves the connections of a worker until the worker gives it no more and all requests are done. Must run on a local
/// runtime.
pub async fn serve(
    number: usize,
    node: Arc<Node>,
    mailboxes: Arc<[Arc<Mailbox>]>,
    mut connections: mpsc::UnboundedReceiver<NewConnection>,
) {
    let counters = Arc::clone(&node.metrics.http[number]);
    let thread = Rc::new(HttpThread {
        node,
        counters,
        mailboxes,
        requests: Cell::new(0),
        hand_over_turn: tokio::sync::Mutex::default(),
    });
    while let Some(connection) = connections.recv().await {
        thread.open(connection);
    }
    let is_done = async {
        // Twice in a row: a response is written after its request is done.
        let mut idle = 0;
        while idle < 2 {
            sleep(STOP_INTERVAL).await;
            idle = if thread.requests.get() == 0 { idle + 1 } else { 0 };
        }
    };
    // A request that is incomplete at the deadline would not be handled in time.
    let _ = timeout(thread.node.config.limits.drain.mul_f64(0.8), is_done).await;
}

impl HttpThread {
    /// The mailbox of the worker with the fewest connections.
    pub(super) fn least_loaded(&self) -> &Mailbox {
        self.mailboxes.iter().min_by_key(|mailbox| mailbox.load()).expect("a server has workers")
    }

    fn open(self: &Rc<Self>, NewConnection { stream, read }: NewConnection) {
        self.counters.sockets.add(1);
        match TcpStream::from_std(stream) {
            Ok(stream) => drop(tokio::task::spawn_local(super::serve(stream, read, Rc::clone(self)))),
            Err(error) => {
                debug!(%error, "a connection could not be taken over");
                self.counters.accept_errors.add(1);
                self.socket_closed();
            }
        }
    }

    /// Counts a socket that was closed.
    pub(super) fn socket_closed(&self) {
        self.counters.sockets.subtract(1);
        self.node.sockets.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a request while it is being handled: a server that stops waits for it.
#[derive(Debug)]
pub(super) struct Busy(Rc<HttpThread>);

impl Busy {
    pub(super) fn new(thread: &Rc<HttpThread>) -> Self {
        thread.requests.set(thread.requests.get() + 1);
        Self(Rc::clone(thread))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
    }
}
