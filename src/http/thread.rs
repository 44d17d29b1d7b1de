//! A thread that serves HTTP on the connections that a worker gives it. It gives sockets that become WebSockets to the
//! workers.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::answers::Answers;
use super::reply::Reply;
use super::stream::HttpStream;
use crate::log_limit::{self, LogLimit};
use crate::metrics::ThreadCounters;
use crate::node::Node;
use crate::peer::BehindProxy;
use crate::quota::Held;
use crate::worker::http_side::{FirstBytes, HttpJob};
use crate::worker::mailbox::Mailbox;
use crate::worker::verifications::RenewalJob;

/// How often a thread that stops looks whether its requests are done.
const STOP_INTERVAL: Duration = Duration::from_millis(5);

/// When a client may try again that has too many connections without authentication.
const UNPROVEN_RETRY_SECONDS: u64 = 10;

/// The state of one HTTP thread.
#[derive(Debug)]
pub struct HttpThread {
    /// Its number, and that of the worker that gives it connections.
    pub(super) number: usize,
    /// What it shares with the other threads.
    pub(super) node: Arc<Node>,
    /// What it shares with the other HTTP threads.
    pub(super) answers: Arc<Answers>,
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
    answers: Arc<Answers>,
    mailboxes: Arc<[Arc<Mailbox>]>,
    mut jobs: mpsc::UnboundedReceiver<HttpJob>,
) {
    let counters = Arc::clone(&node.metrics.http[number]);
    let thread = Rc::new(HttpThread {
        number,
        node,
        answers,
        counters,
        mailboxes,
        requests: Cell::new(0),
        hand_over_turn: tokio::sync::Mutex::default(),
    });
    while let Some(job) = jobs.recv().await {
        match job {
            HttpJob::Serve(connection) => thread.open(connection),
            HttpJob::Renew(job) => thread.renew(job),
        }
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

    fn open(self: &Rc<Self>, first: FirstBytes) {
        let FirstBytes { transport, named, read, port, refusal, permit } = first;
        self.counters.sockets.add(1);
        match HttpStream::new(transport) {
            Ok(stream) => {
                let served = super::serve(stream, named, (read, refusal), port, permit, Rc::clone(self));
                drop(tokio::task::spawn_local(served));
            }
            Err(error) => {
                debug!(%error, "a connection could not be taken over");
                self.counters.accept_errors.add(1);
                self.socket_closed();
            }
        }
    }

    /// Verifies the next credential of a connection of its worker.
    fn renew(self: &Rc<Self>, RenewalJob { id, request }: RenewalJob) {
        let (busy, thread) = (Busy::new(self), Rc::clone(self));
        tokio::task::spawn_local(async move {
            let renewed = thread.node.auth.renew(&request, thread.node.now().unix_ms).await;
            thread.mailboxes[thread.number].send_renewed(id, renewed);
            drop(busy);
        });
    }

    /// Counts a connection whose handshake is being decided, for a client behind a trusted proxy. The sockets of such a
    /// proxy are not counted when they are accepted: only the request tells whose they are.
    ///
    /// # Errors
    /// The answer to a client that has too many of them.
    pub(super) fn admit_unproven(&self, client: Option<BehindProxy>) -> Result<Option<Held>, Reply> {
        static LIMIT: LogLimit = LogLimit::new();
        let Some(client) = client.filter(|client| !client.is_counted) else { return Ok(None) };
        let quota = &self.node.unproven_sockets;
        let owner = quota.owner(None::<&str>, Some(client.address));
        if quota.check(&owner, 1).is_ok() {
            return Ok(Some(quota.hold(owner, 1)));
        }
        self.counters.sockets_over_quota.add(1);
        let flag = "--unauthenticated-per-address";
        log_limit::refused(&LIMIT, self.node.now().unix_ms, flag, Some(client.address));
        let message =
            "this address has too many connections that are not authenticated (--unauthenticated-per-address)";
        Err(Reply::too_many("too_many_connections", message, UNPROVEN_RETRY_SECONDS))
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
