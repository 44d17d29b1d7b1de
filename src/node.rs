//! What all workers share: who is here, the store, the counters, and answers that many ask for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;

use crate::auth::Auth;
use crate::config::Config;
use crate::memory_budget::{MAX_UNREAD_BYTES, MemoryBudget};
use crate::metrics::Metrics;
use crate::os::unix_ms;
use crate::presence::kick::Kicks;
use crate::presence::{Now, Registry};
use crate::store::{Sinks, Store};

/// What all workers share.
#[derive(Debug)]
pub struct Node {
    /// Who is here.
    pub registry: Arc<Registry>,
    /// What other nodes are told, and tell.
    pub store: Box<dyn Store>,
    /// What listens to joins and leaves.
    pub sinks: Arc<Sinks>,
    /// The settings.
    pub config: Config,
    /// The counters.
    pub metrics: Metrics,
    /// Names this node on the wire.
    pub id: String,
    /// When it started, for `uptime_ms`.
    pub started: Instant,
    /// Engine time. Written by the ticker.
    pub tick: AtomicU64,
    /// The wall clock at that tick.
    pub unix_ms: AtomicU64,
    /// Sockets open on all workers.
    pub sockets: AtomicUsize,
    /// WebSocket connections on all workers.
    pub connections: AtomicUsize,
    /// The last list of `GET /online_users`: whoever polls shares it until somebody comes or goes.
    pub(crate) names: parking_lot::Mutex<Option<RoomAnswer>>,
    /// The last list of rooms that was asked for.
    pub(crate) room_list: tokio::sync::Mutex<Option<RoomList>>,
    /// Bytes of long HTTP answers that have not been written yet.
    pub answer_bytes: MemoryBudget,
    /// And of long statuses of watched users.
    pub status_bytes: MemoryBudget,
    /// How it authenticates clients.
    pub auth: Auth,
    /// Users who are to go with the next tick.
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
            metrics: Metrics::new(config.limits.workers),
            id,
            started: Instant::now(),
            tick: AtomicU64::new(0),
            unix_ms: AtomicU64::new(unix_ms()),
            sockets: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            names: parking_lot::Mutex::default(),
            room_list: tokio::sync::Mutex::default(),
            answer_bytes: MemoryBudget::new(MAX_UNREAD_BYTES),
            status_bytes: MemoryBudget::new(MAX_UNREAD_BYTES),
            auth: Auth::new(&config, unix_ms()),
            kicks: Kicks::default(),
            config,
        }
    }

    /// The moment of the last tick.
    pub fn now(&self) -> Now {
        Now { tick: self.tick.load(Ordering::Relaxed), unix_ms: self.unix_ms.load(Ordering::Relaxed) }
    }
}

/// An encoded answer about a room, good while the room has this sequence number.
#[derive(Debug)]
pub(crate) struct RoomAnswer {
    pub(crate) room: u64,
    pub(crate) seq: u64,
    pub(crate) body: Bytes,
}

/// All rooms with members and how many, sorted by name.
#[derive(Debug)]
pub(crate) struct RoomList {
    pub(crate) rooms: Arc<[(Arc<str>, usize)]>,
    pub(crate) good_until: Instant,
}
