//! The state of the node, shared by all threads: registry, store, settings, counters, and cached HTTP responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;

use crate::auth::Auth;
use crate::config::Config;
use crate::memory_budget::{MAX_UNREAD_BYTES, MemoryBudget};
use crate::metrics::Metrics;
use crate::os::unix_ms;
use crate::presence::kick::Kicks;
use crate::presence::{Now, Registry, Tick};
use crate::store::{Sinks, Store};

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
    /// Whether the server is stopping and accepts no new connections.
    pub draining: AtomicBool,
    /// The number of HTTP threads that have not ended.
    pub http_threads: AtomicUsize,
    /// The last response of `GET /online_users`, shared by all requests until a user joins or leaves.
    pub(crate) online_users: parking_lot::Mutex<Option<CachedList>>,
    /// The last list of rooms, shared by the requests of a short time.
    pub(crate) room_list: tokio::sync::Mutex<Option<RoomList>>,
    /// Bytes of long HTTP responses that clients have not read yet.
    pub response_bytes: MemoryBudget,
    /// Bytes of long `status` frames that clients have not read yet.
    pub status_bytes: MemoryBudget,
    /// How it authenticates clients.
    pub auth: Auth,
    /// Kicks for the next tick.
    pub kicks: Kicks,
}

impl Node {
    /// A node that has just started.
    #[must_use]
    pub fn new(config: Config, id: String, registry: Arc<Registry>, store: Box<dyn Store>, sinks: Arc<Sinks>) -> Self {
        Self {
            registry,
            store,
            sinks,
            metrics: Metrics::new(config.limits.workers, config.limits.workers),
            id,
            started: Instant::now(),
            tick: AtomicU64::new(0),
            unix_ms: AtomicU64::new(unix_ms()),
            ticks_done: (0..config.limits.workers).map(|_| watch::Sender::new(0)).collect(),
            sockets: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            http_threads: AtomicUsize::new(0),
            online_users: parking_lot::Mutex::default(),
            room_list: tokio::sync::Mutex::default(),
            response_bytes: MemoryBudget::new(MAX_UNREAD_BYTES),
            status_bytes: MemoryBudget::new(MAX_UNREAD_BYTES),
            auth: Auth::new(&config, unix_ms()),
            kicks: Kicks::default(),
            config,
        }
    }

    /// Counts a new connection. False if the limit is reached; then it is not counted.
    pub fn add_connection(&self) -> bool {
        let fits = self.connections.fetch_add(1, Ordering::Relaxed) < self.config.limits.max_connections;
        if !fits {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
        fits
    }

    /// The time of the last tick.
    pub fn now(&self) -> Now {
        Now { tick: self.tick.load(Ordering::Relaxed), unix_ms: self.unix_ms.load(Ordering::Relaxed) }
    }
}

/// The encoded list of the members of a room, valid while the room has this sequence number.
#[derive(Debug)]
pub(crate) struct CachedList {
    pub(crate) room: u64,
    pub(crate) seq: u64,
    pub(crate) body: Bytes,
}

/// A room in a list, with how many members and observers it has on all nodes.
#[derive(Debug)]
pub(crate) struct RoomEntry {
    pub(crate) name: Arc<str>,
    pub(crate) members: usize,
    pub(crate) observers: u64,
}

/// All rooms with members or observers, sorted by name.
#[derive(Debug)]
pub(crate) struct RoomList {
    pub(crate) rooms: Arc<[RoomEntry]>,
    pub(crate) valid_until: Instant,
}
