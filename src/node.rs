//! The state of the node, shared by all threads: registry, store, settings and counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::auth::Auth;
use crate::config::Config;
use crate::idle_sockets::IdleSockets;
use crate::memory_budget::{MAX_UNREAD_BYTES, MemoryBudget};
use crate::metrics::Metrics;
use crate::os::unix_ms;
use crate::peer::PeerAddress;
use crate::presence::kick::Kicks;
use crate::presence::{Now, Registry, Tick};
use crate::proxy_header;
use crate::quota::Quota;
use crate::store::{Sinks, Store};
use crate::work_budget::{self, AddressBudgets, Millis, SharedBudgets};

/// A server that has executed no tick for this long is not ready.
const STALL: Duration = Duration::from_secs(2);

/// One node: everything that its threads share.
#[derive(Debug)]
pub struct Node {
    /// The users who are online, and all rooms.
    pub registry: Arc<Registry>,
    /// Exchanges presence with other nodes.
    pub store: Box<dyn Store>,
    /// Listeners for joins and leaves.
    pub sinks: Arc<Sinks>,
    /// The settings.
    pub config: Config,
    /// The counters.
    pub metrics: Metrics,
    /// The name of this node on the wire.
    pub id: String,
    /// When it started, for `uptime_ms`.
    pub started: Instant,
    /// The wall clock at that time. Later changes of the clock do not move it.
    pub started_unix_ms: u64,
    /// Engine time. Written by the ticker.
    pub tick: AtomicU64,
    /// The wall clock at that tick. Written by the ticker.
    pub unix_ms: AtomicU64,
    /// The last tick that each worker has executed.
    pub ticks_done: Vec<watch::Sender<Tick>>,
    /// The number of open sockets on all threads.
    pub sockets: AtomicUsize,
    /// The number of WebSocket connections on all workers, and of those that wait for one.
    pub connections: AtomicUsize,
    /// Whether the server is about to stop: it is not ready. With `--drain-delay` it still accepts connections.
    pub stopping: AtomicBool,
    /// Whether the server is stopping and accepts no new connections.
    pub draining: AtomicBool,
    /// The HTTP connections that wait for their next request.
    pub idle_sockets: IdleSockets,
    /// The number of HTTP threads that have not ended.
    pub http_threads: AtomicUsize,
    /// Bytes of long `status` frames that clients have not read yet.
    pub status_bytes: MemoryBudget,
    /// How it authenticates clients.
    pub auth: Auth,
    /// Kicks for the next tick.
    pub kicks: Kicks,
    /// The work that the clients of each user may cause, per user and address: who uses another user's name elsewhere
    /// cannot spend that user's budget.
    pub user_work: SharedBudgets,
    /// The work that the clients of each address may cause, if it is limited.
    pub address_work: Option<AddressBudgets>,
    /// WebSocket connections, per user and address.
    pub held_connections: Quota,
    /// Sockets of clients that have limits and have completed no handshake, authentication or request.
    pub unproven_sockets: Arc<Quota>,
    /// Sockets of clients that have limits and are no WebSockets.
    pub plain_sockets: Arc<Quota>,
    /// Connections that were closed for lack of a valid PROXY header.
    pub proxy_headers_rejected: proxy_header::Rejections,
    /// New connections per address, if they are limited.
    pub arrivals: Option<AddressBudgets>,
    /// Whether the process takes more memory than its limit. Written by the ticker once per second.
    pub is_short_of_memory: AtomicBool,
    /// When the last tick was executed, in milliseconds since the start. Written by the ticker.
    pub last_tick_ms: AtomicU64,
    /// By worker, the connections over a work budget that were paused most often. Written by the worker once per
    /// second.
    pub over_budget: Vec<parking_lot::Mutex<Vec<OverBudget>>>,
}

/// A connection that is over a work budget, for operators.
#[derive(Debug, Clone)]
pub struct OverBudget {
    /// Its user, if known.
    pub user: Option<Arc<str>>,
    /// Its address, if limits apply to it.
    pub address: Option<PeerAddress>,
    /// How often it was paused since it last had half of its budget.
    pub pauses: u32,
}

impl Node {
    /// A node that has just started and lets clients claim their user ids.
    #[must_use]
    pub fn new(config: Config, id: String, registry: Arc<Registry>, store: Box<dyn Store>, sinks: Arc<Sinks>) -> Self {
        Self {
            registry,
            store,
            sinks,
            metrics: Metrics::new(config.limits.workers, config.limits.workers),
            id,
            started: Instant::now(),
            started_unix_ms: unix_ms(),
            tick: AtomicU64::new(0),
            unix_ms: AtomicU64::new(unix_ms()),
            ticks_done: (0..config.limits.workers).map(|_| watch::Sender::new(0)).collect(),
            sockets: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            idle_sockets: IdleSockets::default(),
            http_threads: AtomicUsize::new(0),
            status_bytes: MemoryBudget::new(MAX_UNREAD_BYTES),
            auth: Auth::default(),
            kicks: Kicks::default(),
            user_work: SharedBudgets::new(work_budget::USER),
            address_work: config.limits.work_per_address.map(AddressBudgets::new),
            held_connections: Quota::new(
                config.limits.max_connections as u64,
                config.quotas.connections_per_user,
                config.quotas.connections_per_address,
            ),
            unproven_sockets: Arc::new(Quota::new(u64::MAX, u64::MAX, config.quotas.unauthenticated_per_address)),
            plain_sockets: Arc::new(Quota::in_all(config.limits.max_plain_sockets() as u64)),
            proxy_headers_rejected: proxy_header::Rejections::default(),
            arrivals: config.quotas.arrivals(),
            is_short_of_memory: AtomicBool::new(false),
            last_tick_ms: AtomicU64::new(0),
            over_budget: (0..config.limits.workers).map(|_| parking_lot::Mutex::default()).collect(),
            config,
        }
    }

    /// The same node with this authentication.
    #[must_use]
    pub fn with_auth(self, auth: Auth) -> Self {
        Self { auth, ..self }
    }

    /// Counts a new connection. False if the limit is reached or memory is short; then it is not counted.
    pub fn add_connection(&self) -> bool {
        let fits = self.connections.fetch_add(1, Ordering::Relaxed) < self.config.limits.max_connections
            && !self.is_short_of_memory.load(Ordering::Relaxed);
        if !fits {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
        fits
    }

    /// Whether sockets that are no WebSockets have reached their part of all sockets.
    #[must_use]
    pub fn has_too_many_plain_sockets(&self) -> bool {
        let (sockets, connections) = (self.sockets.load(Ordering::Relaxed), self.connections.load(Ordering::Relaxed));
        sockets.saturating_sub(connections) >= self.config.limits.max_plain_sockets()
    }

    /// Charges the address for the bytes that a request asks for.
    ///
    /// # Errors
    /// If the address is over its budget: the time until it is not.
    pub fn charge_request(&self, address: Option<PeerAddress>, bytes: u64) -> Result<(), Duration> {
        let (Some(address), Some(budgets)) = (address, &self.address_work) else { return Ok(()) };
        let now = self.engine_ms(self.now().tick);
        let debt = budgets.debt(&address, now);
        if debt > 0 {
            return Err(Duration::from_millis(budgets.allowance().wait_for(debt)));
        }
        budgets.spend(&address, bytes, now);
        Ok(())
    }

    /// How long ago the last tick was executed, if that is longer than load explains: 2 s, or 5 ticks if that is more.
    #[must_use]
    pub fn stalled_for(&self) -> Option<Duration> {
        let last = Duration::from_millis(self.last_tick_ms.load(Ordering::Relaxed));
        let since = self.started.elapsed().saturating_sub(last);
        (since >= STALL.max(5 * self.config.presence.tick)).then_some(since)
    }

    /// Records that a tick was executed.
    pub fn note_tick(&self) {
        self.last_tick_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Engine time in milliseconds, for work budgets.
    #[must_use]
    pub fn engine_ms(&self, tick: Tick) -> Millis {
        (u128::from(tick) * self.config.presence.tick.as_micros() / 1000) as Millis
    }

    /// The time of the last tick.
    pub fn now(&self) -> Now {
        Now { tick: self.tick.load(Ordering::Relaxed), unix_ms: self.unix_ms.load(Ordering::Relaxed) }
    }
}
