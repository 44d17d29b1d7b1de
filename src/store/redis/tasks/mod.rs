//! The tasks of the store's thread: one that dispatches events each tick, one for the leases, and one per partition.
//!
//! Every task except the first serves one connection until it fails, waits a little and connects again. Batches in
//! flight are then taken back; what other nodes hold stays as it was.

mod clock;
mod last_messages;
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

use super::command::{RedisCommand, RedisReply};
use super::connection::{NO_REPLY, RedisConnection, RedisServers, SLOT_MOVED};
use super::delivery_leases::DeliveryLease;
use super::node_leases::NodeLeases;
use super::partition::{Partition, WriteBatch};
use super::remote_view::{HashId, RemoteView};
use super::revoked::RevokedList;
use super::schema::Schema;
use super::{RedisOptions, StoreQueue};
use crate::deadline;
use crate::os::{random, unix_ms};
use crate::presence::{Registry, Tick};
use crate::store::{Deliveries, Unavailable};

/// The pauses before reconnects. The first is short: most failures concern one connection only.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a task looks for the new server of its slot before that counts as a failure: a second at least.
const MAX_MOVES: u32 = 30;
/// At startup, a Redis that is only slow is asked again for this time.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// The limit for writing what is left at the end.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

type OpenSender = oneshot::Sender<Result<(), Unavailable>>;

/// What the tasks share.
pub(super) struct Tasks {
    queue: Arc<StoreQueue>,
    registry: Arc<Registry>,
    schema: Arc<Schema>,
    servers: RedisServers,
    is_optional: bool,
    /// The limit of messages of histories that wait for the ticker.
    max_kept: usize,
    started: Instant,
    tick: Duration,
    partitions: Vec<PartitionTask>,
    /// The leases of webhooks, if this node has any to deliver.
    deliveries: Option<Arc<Deliveries>>,
    remote_view: RefCell<RemoteView>,
    node_leases: RefCell<NodeLeases>,
    revoked: RefCell<RevokedList>,
    /// Wakes the task of the leases.
    check_leases: Notify,
    /// This incarnation is in the set of incarnations. Partitions write only then, so that other nodes find and delete
    /// what it wrote if it crashes.
    is_listed: watch::Sender<bool>,
    /// The leases have been read over the present connection, and since a partition lost its connection.
    leases_are_current: Cell<bool>,
    /// This node is incompatible with another living one.
    is_mismatched: Cell<bool>,
    /// The clock of this node differs from that of Redis, as logged last.
    clock_differs: Cell<bool>,
    /// Why this node is incompatible with the others, as logged last.
    config_mismatch: RefCell<String>,
    /// Startup has failed; the error goes to the caller and need not be logged.
    start_failed: Cell<bool>,
    /// Reports the result of startup, once.
    opened: RefCell<Option<OpenSender>>,
}

/// What belongs to the task of one partition.
struct PartitionTask {
    partition: RefCell<Partition>,
    /// The lease of its webhooks, if this node has any to deliver.
    delivery: Option<RefCell<DeliveryLease>>,
    /// There is something to write.
    dirty: Notify,
    /// Batches without replies, oldest first.
    in_flight: RefCell<VecDeque<WriteBatch>>,
    /// Hashes of other incarnations to load, each once. The first is being loaded.
    loads: RefCell<VecDeque<HashId>>,
    load_added: Notify,
    /// There are rooms whose last messages are to be read.
    has_questions: Notify,
    /// The histories need not be read.
    histories_are_read: Cell<bool>,
    /// They are being read. If that fails, this stays until the next attempt has succeeded.
    reads_histories: Cell<bool>,
    /// The connection works, and the hash is complete.
    is_up: Cell<bool>,
    /// An event of this node has arrived over the present subscription, and none was refused since.
    hears_itself: Cell<bool>,
}

impl PartitionTask {
    fn new(partition: Partition, delivery: Option<DeliveryLease>) -> Self {
        Self {
            partition: RefCell::new(partition),
            delivery: delivery.map(RefCell::new),
            dirty: Notify::new(),
            in_flight: RefCell::default(),
            loads: RefCell::default(),
            load_added: Notify::new(),
            has_questions: Notify::new(),
            histories_are_read: Cell::new(false),
            reads_histories: Cell::new(false),
            is_up: Cell::new(false),
            hears_itself: Cell::new(false),
        }
    }

    /// Nothing has to be read.
    fn is_current(&self) -> bool {
        self.histories_are_read.get() && !self.reads_histories.get() && self.loads.borrow().is_empty()
    }

    fn is_writing(&self) -> bool {
        self.is_up.get() && self.partition.borrow().pending() + self.in_flight.borrow().len() > 0
    }
}

impl Tasks {
    /// Runs until the store is closed, or has failed to open.
    pub(super) async fn run(
        options: RedisOptions,
        servers: RedisServers,
        schema: Schema,
        registry: Arc<Registry>,
        queue: Arc<StoreQueue>,
        opened: OpenSender,
    ) {
        let schema = Arc::new(schema);
        let ticks_per_ttl = options.ttl.as_nanos().div_ceil(options.tick.as_nanos()) as Tick;
        let partition = |number| {
            let partition = Partition::new(Arc::clone(&schema), number, ticks_per_ttl, random());
            let delivery = options.deliveries.clone();
            let delivery = delivery.map(|leases| DeliveryLease::new(Arc::clone(&schema), number, leases));
            let partition = partition.with_histories(&options.kept_rooms, options.max_kept);
            PartitionTask::new(partition.with_last_messages(Arc::clone(&queue.last_messages)), delivery)
        };
        let remote_view = RemoteView::new(Arc::clone(&schema), Arc::clone(&registry));
        let tasks = Rc::new(Self {
            partitions: (0..options.partitions).map(partition).collect(),
            deliveries: options.deliveries.clone(),
            remote_view: RefCell::new(remote_view.with_last_messages(Arc::clone(&queue.last_messages))),
            node_leases: RefCell::new(NodeLeases::new(Arc::clone(&schema))),
            revoked: RefCell::new(RevokedList::new(Arc::clone(&schema), options.revocations)),
            check_leases: Notify::new(),
            is_listed: watch::Sender::new(false),
            leases_are_current: Cell::new(false),
            is_mismatched: Cell::new(false),
            clock_differs: Cell::new(false),
            config_mismatch: RefCell::default(),
            start_failed: Cell::new(false),
            opened: RefCell::new(Some(opened)),
            is_optional: options.optional,
            max_kept: options.max_kept * options.kept_rooms.len() * options.partitions,
            started: Instant::now(),
            tick: options.tick,
            queue,
            registry,
            schema,
            servers,
        });
        tokio::task::spawn_local(Rc::clone(&tasks).run_leases());
        for number in 0..tasks.partitions.len() {
            tokio::task::spawn_local(Rc::clone(&tasks).run_partition(number));
        }
        while !tasks.queue.is_closing.load(Ordering::Relaxed) {
            // Each tick wakes this task. If the engine postpones ticks, keys are renewed nevertheless.
            let _ = timeout(tasks.tick, tasks.queue.wake.notified()).await;
            tasks.dispatch_events();
            if tasks.queue.has_revoked.load(Ordering::Acquire) {
                tasks.check_leases.notify_one();
            }
        }
        if deadline::timeout(CLOSE_WITHIN, tasks.write_rest()).await.is_err() {
            warn!("stopping before all changes were written to Redis; leases there end by themselves");
        }
    }

    /// Gives each partition its events and the current tick, and wakes the tasks that have something to write.
    fn dispatch_events(&self) {
        let events = std::mem::take(&mut *self.queue.events.lock());
        let (now, mut pending) = (self.now(), 0);
        // After a pause of this process, a kick is not as old as the last tick.
        self.partitions.iter().for_each(|task| task.partition.borrow_mut().advance(now));
        for event in events {
            let partition = self.schema.partition_of(event.partition_key());
            self.partitions[partition].partition.borrow_mut().record(event);
        }
        let latest_unix_ms = self.queue.clock().latest_message_time(unix_ms());
        for (number, task) in self.partitions.iter().enumerate() {
            if task.partition.borrow_mut().limit_times(latest_unix_ms) {
                self.read_histories_again(number);
            }
            let mut partition = task.partition.borrow_mut();
            partition.mark_due(now);
            pending += partition.pending();
            if partition.pending() > 0 {
                task.dirty.notify_one();
            }
            if self.queue.last_messages.has_questions(number) {
                task.has_questions.notify_one();
            }
        }
        self.queue.counters.redis_pending.set(pending as u64);
    }

    /// Writes what is left and gives the node id back. Leases stay.
    async fn write_rest(&self) {
        self.dispatch_events();
        while self.partitions.iter().any(PartitionTask::is_writing) {
            self.partitions.iter().for_each(|task| task.dirty.notify_one());
            sleep(Duration::from_millis(5)).await;
        }
        self.hand_deliveries_over().await;
        if self.leases_are_current.get()
            && let Ok(mut connection) = self.servers.connect(&self.schema.id_key()).await
        {
            let commands = self.node_leases.borrow().release_id();
            // If this fails, the next start checks whether this incarnation is still alive.
            let _ = connection.execute(&commands).await;
        }
    }

    /// Lets other nodes deliver the webhooks.
    async fn hand_deliveries_over(&self) {
        for (number, task) in self.partitions.iter().enumerate() {
            let release = task.delivery.as_ref().and_then(|delivery| delivery.borrow().release());
            let Some(release) = release.filter(|_| task.is_up.get()) else { continue };
            if let Ok(mut connection) = self.servers.connect(&self.schema.deliveries_key(number)).await {
                // If this fails, another node takes over when the lease expires.
                let _ = connection.execute(&[release]).await;
            }
        }
    }

    async fn execute(
        &self,
        connection: &mut RedisConnection,
        commands: &[RedisCommand],
    ) -> Result<Vec<RedisReply>, String> {
        self.count(commands, 0);
        let begun = Instant::now();
        connection.execute(commands).await.inspect(|_| self.queue.counters.redis_round_trip.observe(begun.elapsed()))
    }

    fn count(&self, commands: &[RedisCommand], keys_written: u64) {
        let counters = &self.queue.counters;
        counters.redis_commands.add(commands.len() as u64);
        counters.redis_keys_written.add(keys_written);
        counters.redis_flushes.add(1);
    }

    /// A connection has failed, or could not be made.
    fn connection_failed(&self, error: &str) {
        self.queue.counters.redis_failures.add(1);
        let message = format!("Redis at {} cannot be used: {error}", self.servers.addresses());
        if self.opened.borrow().is_some() {
            if error.starts_with(NO_REPLY) && self.started.elapsed() < START_PATIENCE {
                return; // The machine may be busy with starting up.
            }
            let result = match self.is_optional {
                true => Ok(()),
                false => Err(Unavailable(format!("{message} (start without Redis: --redis-optional)"))),
            };
            self.report_opened(result);
        }
        if !self.start_failed.get() {
            self.degrade(&message);
        }
    }

    fn degrade(&self, message: &str) {
        let since = &self.queue.degraded_since_unix_ms;
        if since.load(Ordering::Relaxed) == 0 {
            since.store(unix_ms(), Ordering::Relaxed);
            self.deliveries.iter().for_each(|deliveries| deliveries.set_behind(true));
            warn!("{message}; clients stay connected, members on other nodes are shown as last known");
        } else {
            debug!("{message}");
        }
    }

    /// Ends the degraded state if everything works again.
    fn update_health(&self) {
        let works = |task: &PartitionTask| task.is_up.get() && task.hears_itself.get() && task.is_current();
        if !(self.partitions.iter().all(works) && self.leases_are_current.get()) {
            return;
        }
        let missing = self.is_mismatched.get() || !self.remote_view.borrow().is_current(self.now_ms());
        if missing && self.opened.borrow().is_some() {
            // One look at the others is enough to start: one broken node must not keep this one from starting.
            self.degrade("this node starts before it could read everything that other nodes hold");
        }
        self.report_opened(Ok(()));
        if missing {
            return;
        }
        let since = self.queue.degraded_since_unix_ms.swap(0, Ordering::Relaxed);
        if since != 0 {
            self.deliveries.iter().for_each(|deliveries| deliveries.set_behind(false));
            let lasted = Duration::from_millis(unix_ms().saturating_sub(since));
            info!(degraded_for_ms = lasted.as_millis() as u64, "Redis works again; members on other nodes are current");
        }
    }

    /// Reports the result of startup. False if it was reported before, or the caller no longer waits.
    fn report_opened(&self, result: Result<(), Unavailable>) -> bool {
        if self.opened.borrow().is_some() {
            self.start_failed.set(result.is_err());
        }
        self.opened.take().is_some_and(|opened| opened.send(result).is_ok())
    }

    /// Waits before the next connect, and returns the pause after that.
    async fn back_off(&self, pause: Duration) -> Duration {
        // Half of it is random, so that nodes do not all reconnect at the same moment.
        let jitter = pause.mul_f64((random() % 1000) as f64 / 2000.0);
        sleep(pause / 2 + jitter).await;
        (pause * 2).min(LONGEST_PAUSE)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Ticks by the clock: keys in Redis expire by the clock, however busy this node is.
    fn now(&self) -> Tick {
        (self.started.elapsed().as_nanos() / self.tick.as_nanos()) as Tick
    }
}

/// Whether a task should connect again because its slot has moved to another server, which is not a failure. It takes a
/// moment until all servers of a cluster know. `moves` counts these errors since the task was up.
fn follows_slot(error: &str, was_up: bool, moves: &mut u32) -> bool {
    if was_up {
        *moves = 0;
    }
    let has_moved = error.starts_with(SLOT_MOVED) && (was_up || (1..MAX_MOVES).contains(moves));
    *moves = if has_moved { *moves + 1 } else { 0 };
    has_moved
}
