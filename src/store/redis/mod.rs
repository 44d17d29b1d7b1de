//! Redis: presence that outlives a node, and that any number of nodes share.
//!
//! One thread does it all, beside the workers and the ticker. Logic and I/O are apart: [`partition`] decides what to write (and `keys` when again), [`remote_view`] what
//! to believe of the others, [`nodes`] who is alive; they speak in [`command`]s, and [`link`] alone knows the `redis` crate.
//! `engine` puts them together. Keys and values are in [`schema`] and [`event`], for others in `docs/redis.md`.

pub mod command;
mod engine;
pub mod event;
mod keys;
pub mod link;
pub mod nodes;
pub mod partition;
pub mod remote_view;
pub mod schema;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{Store, StoreEvent, Unavailable};
use crate::metrics::{StoreCounters, StoreTotals};
use crate::os::unix_ms;
use crate::presence::Registry;
use crate::presence::kick::Kick;
use engine::Engine;
use link::Target;
use schema::Schema;

/// The longest that opening may take before it counts as failed: a node id that is in use is watched for a while.
const OPEN_WITHIN: Duration = Duration::from_secs(15);

/// Lanes on a cluster, unless told otherwise: enough that one huge room is spread over many masters.
pub const CLUSTER_LANES: usize = 16;
/// Each lane has two connections.
pub const MAX_LANES: usize = 256;

/// How to use Redis.
#[derive(Clone)]
pub struct Options {
    /// Where it is; several are seeds of a cluster.
    pub urls: Vec<String>,
    /// It is a cluster, although only one URL is given.
    pub cluster: bool,
    /// The first word of every key.
    pub prefix: String,
    /// Lanes that users are spread over.
    pub lanes: usize,
    /// The id of this node.
    pub node: String,
    /// Start without it if need be.
    pub optional: bool,
    /// The lease.
    pub ttl: Duration,
    /// The time between two ticks.
    pub tick: Duration,
}

/// Without the URLs: they may hold passwords.
impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, prefix, lanes, node, .. } = self;
        let mut shown = formatter.debug_struct("Options");
        shown.field("cluster", cluster).field("prefix", prefix).field("lanes", lanes).field("node", node);
        shown.finish_non_exhaustive()
    }
}

/// The store.
#[derive(Debug)]
pub struct Redis {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What the ticker and the workers share with the store's thread.
#[derive(Debug, Default)]
struct Shared {
    /// What is to be told. Written by the ticker, emptied by the thread, which waits for nothing else while it is not empty.
    news: Mutex<Vec<StoreEvent>>,
    wake: Notify,
    /// Users who are to go. Written by the thread, emptied by the ticker.
    kicks: Mutex<Vec<Kick>>,
    closing: AtomicBool,
    /// 0 while all is well.
    degraded_since_unix_ms: AtomicU64,
    counters: StoreCounters,
}

impl Shared {
    /// Has the thread write what is left and end.
    fn end(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

impl Redis {
    /// Connects, takes the node id and reads what the others hold.
    ///
    /// # Errors
    /// If Redis cannot be used, or the node id is taken, or other nodes have other lanes. With `optional` only the latter two.
    pub async fn open(options: Options, registry: Arc<Registry>, incarnation: u64) -> Result<Self, Unavailable> {
        let optional = options.optional;
        let target = Target::new(&options.urls, options.cluster).map_err(Unavailable)?;
        let schema = Schema {
            prefix: options.prefix.clone(),
            lanes: options.lanes,
            run: format!("{}.{incarnation:x}", options.node),
            node: options.node.clone(),
            ttl: options.ttl,
        };
        let shared = Arc::<Shared>::default();
        let (tell, opened) = oneshot::channel();
        let for_thread = Arc::clone(&shared);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    runtime.block_on(Engine::run(options, target, schema, registry, for_thread, tell));
                    // A name that is being looked up may take for ever, and nobody waits for it any more.
                    runtime.shutdown_background();
                }
                Err(error) => drop(tell.send(Err(Unavailable(format!("the store's thread cannot run: {error}"))))),
            }
        };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Unavailable(format!("the store's thread cannot start: {error}")))?;
        let store = Self { shared, thread: Mutex::new(Some(thread)) };
        match tokio::time::timeout(OPEN_WITHIN, opened).await {
            Ok(Ok(Ok(()))) => Ok(store),
            Ok(Ok(Err(unavailable))) => Err(unavailable),
            Ok(Err(_)) => Err(Unavailable("the store's thread has ended".to_owned())),
            Err(_) if optional => {
                store.shared.degraded_since_unix_ms.store(unix_ms(), Ordering::Relaxed);
                Ok(store)
            }
            Err(_) => Err(Unavailable(format!("Redis was not ready within {} s", OPEN_WITHIN.as_secs()))),
        }
    }
}

impl Store for Redis {
    fn record(&self, news: Vec<StoreEvent>) {
        if !news.is_empty() {
            self.shared.news.lock().extend(news);
        }
        self.shared.wake.notify_one();
    }

    fn take_kicks(&self) -> Vec<Kick> {
        std::mem::take(&mut *self.shared.kicks.lock())
    }

    fn degraded_since(&self) -> Option<u64> {
        Some(self.shared.degraded_since_unix_ms.load(Ordering::Relaxed)).filter(|since| *since > 0)
    }

    fn totals(&self) -> Option<StoreTotals> {
        Some(StoreTotals::of(&self.shared.counters))
    }

    fn close(&self) {
        self.shared.end();
        if let Some(thread) = self.thread.lock().take() {
            // It ends by itself, after one deadline at the most; if it panicked, the log says so.
            let _ = thread.join();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.shared.end();
    }
}
