//! The Redis store: any number of nodes share presence, and it outlives each of them.
//!
//! One thread does everything, besides the workers and the ticker. Logic and I/O are separate: [`partition`] decides
//! what to write, [`remote_view`] what to trust of other nodes, [`node_leases`] which nodes are alive. They produce and
//! consume [`command`]s. `tasks` sends these over [`connection`]s, the only module that uses the `redis` crate. Names
//! and formats are in [`schema`] and [`event`], for other programs in `docs/redis.md`.

pub mod command;
pub mod connection;
mod delivery_leases;
pub mod event;
pub mod field;
mod identity;
pub mod node_leases;
pub mod partition;
pub mod remote_view;
pub mod revoked;
pub mod schema;
mod tasks;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{
    ComparedClocks, Deliveries, KeptMessage, LastMessages, RevocationsIn, Store, StoreClock, StoreEvent, Unavailable,
};
use crate::metrics::{StoreCounters, StoreTotals};
use crate::os::unix_ms;
use crate::presence::Registry;
use crate::presence::kick::Kick;
use crate::revocations::Revocations;
use connection::{RedisServers, TlsPem};
pub use identity::IdentityRules;
use schema::Schema;
use tasks::Tasks;

/// The limit for opening the store. It includes the time in which a node id that is in use is watched.
const OPEN_WITHIN: Duration = Duration::from_secs(15);

/// The default number of partitions on a cluster: enough to spread one huge room over many masters.
pub const CLUSTER_PARTITIONS: usize = 16;
/// The limit of partitions: each has two connections.
pub const MAX_PARTITIONS: usize = 256;

/// How to use Redis.
#[derive(Clone)]
pub struct RedisOptions {
    /// The URLs; several are seeds of a cluster.
    pub urls: Vec<String>,
    /// Whether it is a cluster although there is only one URL.
    pub cluster: bool,
    /// Certificates for TLS.
    pub tls: TlsPem,
    /// The first word of every key.
    pub prefix: String,
    /// The number of partitions that users are spread over.
    pub partitions: usize,
    /// The id of this node.
    pub node: String,
    /// Start even if Redis is unreachable.
    pub optional: bool,
    /// The lease.
    pub ttl: Duration,
    /// The time between two ticks.
    pub tick: Duration,
    /// Where the identity of clients comes from.
    pub identity: IdentityRules,
    /// The revocations to share, if this node checks credentials.
    pub revocations: Option<Arc<Revocations>>,
    /// The rooms whose messages have a history.
    pub kept_rooms: Vec<Arc<str>>,
    /// The limit of messages in a history.
    pub max_kept: usize,
    /// The leases of webhooks, if this node has any to deliver.
    pub deliveries: Option<Arc<Deliveries>>,
}

/// Leaves out the URLs, which may contain passwords.
impl fmt::Debug for RedisOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, prefix, partitions, node, .. } = self;
        let mut shown = formatter.debug_struct("RedisOptions");
        shown.field("cluster", cluster).field("prefix", prefix).field("partitions", partitions).field("node", node);
        shown.finish_non_exhaustive()
    }
}

/// The store. Its work is done by a thread of its own.
#[derive(Debug)]
pub struct RedisStore {
    queue: Arc<StoreQueue>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What the ticker and the workers share with the store's thread.
#[derive(Debug, Default)]
struct StoreQueue {
    /// Events of this node. Written by the ticker, taken by the thread.
    events: Mutex<Vec<StoreEvent>>,
    wake: Notify,
    /// Kicks of other nodes. Written by the thread, taken by the ticker.
    kicks: Mutex<Vec<Kick>>,
    /// Messages that belong to histories. Written by the thread, taken by the ticker.
    kept: Mutex<Vec<KeptMessage>>,
    /// Shared with other nodes.
    last_messages: Arc<LastMessages>,
    /// Revocations of this node have to be written.
    has_revoked: AtomicBool,
    is_closing: AtomicBool,
    /// 0 while everything works.
    degraded_since_unix_ms: AtomicU64,
    /// Written by the thread, read by the ticker.
    compared_clocks: Mutex<Option<ComparedClocks>>,
    counters: StoreCounters,
}

impl StoreQueue {
    fn clock(&self) -> StoreClock {
        self.compared_clocks.lock().as_ref().map(ComparedClocks::clock).unwrap_or_default()
    }

    /// Makes the thread write what is left and end.
    fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

impl RedisStore {
    /// Connects, takes the node id and reads what other nodes hold.
    ///
    /// # Errors
    /// If Redis cannot be used (unless it is optional), the node id is in use, or the other nodes are incompatible.
    pub async fn open(options: RedisOptions, registry: Arc<Registry>, incarnation: u64) -> Result<Self, Unavailable> {
        let is_optional = options.optional;
        let servers = RedisServers::new(&options.urls, options.cluster, &options.tls).map_err(Unavailable)?;
        let schema = Schema {
            prefix: options.prefix.clone(),
            partitions: options.partitions,
            database: servers.database(),
            incarnation: format!("{}.{incarnation:x}", options.node),
            node: options.node.clone(),
            ttl: options.ttl,
            identity: options.identity.clone(),
        };
        let last_messages = Arc::new(LastMessages::shared(options.partitions));
        let queue = Arc::new(StoreQueue { last_messages, ..StoreQueue::default() });
        let (report, opened) = oneshot::channel();
        let queue_of_thread = Arc::clone(&queue);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    runtime.block_on(Tasks::run(options, servers, schema, registry, queue_of_thread, report));
                    // A DNS lookup may block forever; do not wait for it.
                    runtime.shutdown_background();
                }
                Err(error) => drop(report.send(Err(Unavailable(format!("the store's thread cannot run: {error}"))))),
            }
        };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Unavailable(format!("the store's thread cannot start: {error}")))?;
        let store = Self { queue, thread: Mutex::new(Some(thread)) };
        match tokio::time::timeout(OPEN_WITHIN, opened).await {
            Ok(Ok(Ok(()))) => Ok(store),
            Ok(Ok(Err(unavailable))) => Err(unavailable),
            Ok(Err(_)) => Err(Unavailable("the store's thread has ended".to_owned())),
            Err(_) if is_optional => {
                store.queue.degraded_since_unix_ms.store(unix_ms(), Ordering::Relaxed);
                Ok(store)
            }
            Err(_) => Err(Unavailable(format!("Redis was not ready within {} s", OPEN_WITHIN.as_secs()))),
        }
    }
}

impl Store for RedisStore {
    fn record(&self, events: Vec<StoreEvent>) {
        if !events.is_empty() {
            self.queue.events.lock().extend(events);
        }
        self.queue.wake.notify_one();
    }

    fn take_kicks(&self) -> Vec<Kick> {
        std::mem::take(&mut *self.queue.kicks.lock())
    }

    fn take_kept(&self) -> Vec<KeptMessage> {
        std::mem::take(&mut *self.queue.kept.lock())
    }

    fn last_messages(&self) -> &Arc<LastMessages> {
        &self.queue.last_messages
    }

    fn revocations(&self) -> RevocationsIn {
        RevocationsIn::Redis
    }

    fn revoked(&self) {
        self.queue.has_revoked.store(true, Ordering::Release);
        self.queue.wake.notify_one();
    }

    fn degraded_since(&self) -> Option<u64> {
        Some(self.queue.degraded_since_unix_ms.load(Ordering::Relaxed)).filter(|since| *since > 0)
    }

    fn clock(&self) -> StoreClock {
        self.queue.clock()
    }

    fn totals(&self) -> Option<StoreTotals> {
        Some(StoreTotals::of(&self.queue.counters))
    }

    fn close(&self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().take() {
            // It ends within one deadline. If it panicked, the log says so.
            let _ = thread.join();
        }
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.queue.close();
    }
}
