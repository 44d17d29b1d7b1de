//! The store's thread: a task for each lane that writes and one that listens, one for the leases, and what they wake each other for.
//!
//! Every task but the first serves one connection until it fails, then waits a little and begins anew. What was on its way then is
//! taken back; what others hold stays as it was.

mod leases;
mod partitions;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::command::{Command, Reply};
use super::link::{Connection, LATE, Target};
use super::nodes::Nodes;
use super::partition::{Batch, Lane};
use super::remote_view::{Load, View};
use super::schema::Schema;
use super::{Options, Shared};
use crate::deadline;
use crate::os::{random, unix_ms};
use crate::presence::{Registry, Tick};
use crate::store::Unavailable;

/// Pauses between two connects: the first is short, since most failures are one connection's.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// At the start a Redis that is only slow is asked again for so long.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// What is left may take so long to be written at the end.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

type Opened = oneshot::Sender<Result<(), Unavailable>>;

/// What the tasks share.
pub(super) struct Engine {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    schema: Arc<Schema>,
    target: Target,
    optional: bool,
    started: Instant,
    tick: Duration,
    lanes: Vec<LaneTask>,
    view: RefCell<View>,
    nodes: RefCell<Nodes>,
    /// The leases are to be read now.
    look: Notify,
    /// The run has been listed: lanes may write, and whoever comes after a crash finds what they wrote.
    listed: watch::Sender<bool>,
    /// The leases have been read on the present connection, and since a lane lost its own.
    in_touch: Cell<bool>,
    /// Why this node does not fit to the others, as it was said last.
    misfit: RefCell<String>,
    /// The start has failed: whoever waited for it says so.
    refused: Cell<bool>,
    /// Who waits for the start; gone when it has happened.
    opened: RefCell<Option<Opened>>,
}

struct LaneTask {
    lane: RefCell<Lane>,
    /// There is something to write.
    dirty: Notify,
    /// On their way, oldest first.
    flights: RefCell<VecDeque<Batch>>,
    /// Hashes of others to read, each once.
    loads: RefCell<VecDeque<Load>>,
    load: Notify,
    /// The connection is there, and the hash is as it should be.
    up: Cell<bool>,
}

impl Engine {
    /// Runs until the store is closed, or has failed to open.
    pub(super) async fn run(
        options: Options,
        target: Target,
        schema: Schema,
        registry: Arc<Registry>,
        shared: Arc<Shared>,
        opened: Opened,
    ) {
        let schema = Arc::new(schema);
        let ticks_per_ttl = options.ttl.as_nanos().div_ceil(options.tick.as_nanos()) as Tick;
        let lane = |number: usize| LaneTask {
            lane: RefCell::new(Lane::new(Arc::clone(&schema), number, ticks_per_ttl, random())),
            dirty: Notify::new(),
            flights: RefCell::default(),
            loads: RefCell::default(),
            load: Notify::new(),
            up: Cell::new(false),
        };
        let engine = Rc::new(Self {
            lanes: (0..options.lanes).map(lane).collect(),
            view: RefCell::new(View::new(Arc::clone(&schema), Arc::clone(&registry))),
            nodes: RefCell::new(Nodes::new(Arc::clone(&schema))),
            look: Notify::new(),
            listed: watch::Sender::new(false),
            in_touch: Cell::new(false),
            misfit: RefCell::default(),
            refused: Cell::new(false),
            opened: RefCell::new(Some(opened)),
            optional: options.optional,
            started: Instant::now(),
            tick: options.tick,
            shared,
            registry,
            schema,
            target,
        });
        tokio::task::spawn_local(Rc::clone(&engine).keep_leases());
        for number in 0..engine.lanes.len() {
            tokio::task::spawn_local(Rc::clone(&engine).keep_lane(number));
        }
        while !engine.shared.closing.load(Ordering::Relaxed) {
            // Each tick wakes it. When ticks are put off, keys go on being renewed.
            let _ = timeout(engine.tick, engine.shared.wake.notified()).await;
            engine.distribute();
        }
        // Whoever waits for the last batches waits for a bounded time.
        if deadline::timeout(CLOSE_WITHIN, engine.finish()).await.is_err() {
            warn!("Redis was not told everything before the end: leases there end by themselves");
        }
    }

    /// Gives each lane what is new, and wakes those that have something to write.
    fn distribute(&self) {
        let news = std::mem::take(&mut *self.shared.news.lock());
        for news in news {
            let lane = self.schema.lane_of(news.partition_key());
            self.lanes[lane].lane.borrow_mut().record(news);
        }
        let (now, mut pending) = (self.now(), 0);
        for task in &self.lanes {
            let mut lane = task.lane.borrow_mut();
            lane.expire(now);
            pending += lane.pending();
            if lane.pending() > 0 {
                task.dirty.notify_one();
            }
        }
        self.shared.counters.redis_pending.set(pending as u64);
    }

    /// Writes what is left and gives the node id back. Leases stay.
    async fn finish(&self) {
        self.distribute();
        while self
            .lanes
            .iter()
            .any(|task| task.up.get() && task.lane.borrow().pending() + task.flights.borrow().len() > 0)
        {
            self.lanes.iter().for_each(|task| task.dirty.notify_one());
            sleep(Duration::from_millis(5)).await;
        }
        if self.in_touch.get()
            && let Ok(mut connection) = self.target.connect(&self.schema.id_key()).await
        {
            let resign = self.nodes.borrow().resign();
            // If that fails, the next start looks whether this run still lives.
            let _ = connection.run(&resign).await;
        }
    }

    async fn ask(&self, connection: &mut Connection, commands: &[Command]) -> Result<Vec<Reply>, String> {
        self.count(commands, 0);
        connection.run(commands).await
    }

    fn count(&self, commands: &[Command], keys_written: u64) {
        let counters = &self.shared.counters;
        counters.redis_commands.add(commands.len() as u64);
        counters.redis_keys_written.add(keys_written);
        counters.redis_flushes.add(1);
    }

    /// A connection has failed, or could not be made.
    fn trouble(&self, trouble: &str) {
        self.shared.counters.redis_failures.add(1);
        let message = format!("Redis at {} cannot be used: {trouble}", self.target.shown());
        if self.opened.borrow().is_some() {
            if trouble.starts_with(LATE) && self.started.elapsed() < START_PATIENCE {
                return; // Machines that start are busy: whoever is only slow is asked again.
            }
            let result = match self.optional {
                true => Ok(()),
                false => Err(Unavailable(format!("{message} (--redis-optional starts without it)"))),
            };
            self.tell_opened(result);
        }
        if !self.refused.get() {
            self.degrade(&message);
        }
    }

    fn degrade(&self, message: &str) {
        let since = &self.shared.degraded_since_unix_ms;
        if since.load(Ordering::Relaxed) == 0 {
            since.store(unix_ms(), Ordering::Relaxed);
            warn!("{message}; clients stay, what other nodes hold is shown as it was");
        } else {
            debug!("{message}");
        }
    }

    /// Notes whether all is well (again).
    fn assess(&self) {
        let up = self.lanes.iter().all(|task| task.up.get() && task.loads.borrow().is_empty());
        if !(up && self.in_touch.get()) {
            return;
        }
        // At the start one look at the others is enough: one that is broken must not keep this one from starting.
        self.tell_opened(Ok(()));
        if !self.view.borrow().is_current() {
            return;
        }
        let since = self.shared.degraded_since_unix_ms.swap(0, Ordering::Relaxed);
        if since != 0 {
            let lasted = Duration::from_millis(unix_ms().saturating_sub(since));
            info!(degraded_for_ms = lasted.as_millis() as u64, "Redis is in use, and other nodes are seen again");
        }
    }

    /// Tells whoever waits for the start. False if nobody does any more.
    fn tell_opened(&self, result: Result<(), Unavailable>) -> bool {
        if self.opened.borrow().is_some() {
            self.refused.set(result.is_err());
        }
        self.opened.take().is_some_and(|opened| opened.send(result).is_ok())
    }

    /// Waits before the next connect, and returns how long to wait the next time.
    async fn wait(&self, pause: Duration) -> Duration {
        // Half of it is by chance, so that nodes do not come back all at the same moment.
        let jitter = pause.mul_f64((random() % 1000) as f64 / 2000.0);
        sleep(pause / 2 + jitter).await;
        (pause * 2).min(LONGEST_PAUSE)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Ticks since the start, by the clock: keys in Redis end by the clock, however busy this node is.
    fn now(&self) -> Tick {
        (self.started.elapsed().as_nanos() / self.tick.as_nanos()) as Tick
    }
}
