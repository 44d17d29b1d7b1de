//! The store's thread: a task for each lane that writes and one that listens, one for the leases, and what they wake each other for.
//!
//! Every task but the first serves one connection until it fails, then waits a little and begins anew. What was on its way then is
//! taken back; what others hold stays as it was.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::command::{Command, Reply};
use super::lane::{Batch, Lane, Outcome};
use super::link::{Connection, Subscription, Target};
use super::nodes::{Nodes, lanes_of};
use super::schema::{HEADER, Schema};
use super::view::{Leases, Load, Step, View};
use super::{Options, Shared};
use crate::presence::{Registry, Tick};
use crate::store::{Unavailable, What};
use crate::worker::unix_ms;

/// Pauses between two connects: the first is short, since most failures are one connection's.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
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
    /// The leases have been read on the present connection.
    in_touch: Cell<bool>,
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
            lane: RefCell::new(Lane::new(Arc::clone(&schema), number, ticks_per_ttl, unix_ms() ^ number as u64)),
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
            in_touch: Cell::new(false),
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
            engine.shared.wake.notified().await;
            engine.distribute();
        }
        // Whoever waits for the last batches waits for a bounded time.
        if timeout(CLOSE_WITHIN, engine.finish()).await.is_err() {
            warn!("Redis was not told everything before the end: leases there end by themselves");
        }
    }

    /// Gives each lane what is new, and wakes those that have something to write.
    fn distribute(&self) {
        let news = std::mem::take(&mut *self.shared.news.lock());
        for news in news {
            let speaker = matches!(news.what, What::Said(_)).then(|| Arc::clone(&news.user));
            let lane = self.schema.lane_of(speaker.as_deref().unwrap_or(&news.user));
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

    async fn keep_lane(self: Rc<Self>, number: usize) {
        let task = &self.lanes[number];
        let mut pause = FIRST_PAUSE;
        loop {
            let Err(trouble) = self.serve_lane(number).await;
            if task.up.replace(false) {
                pause = FIRST_PAUSE;
            }
            // The latest first: what it says is what counts.
            while let Some(batch) = task.flights.borrow_mut().pop_back() {
                task.lane.borrow_mut().failed(batch, &self.registry);
            }
            task.lane.borrow_mut().reconnected();
            for load in task.loads.take() {
                self.view.borrow_mut().abort(&load);
            }
            self.trouble(&trouble);
            pause = self.wait(pause).await;
        }
    }

    async fn serve_lane(&self, number: usize) -> Result<Infallible, String> {
        let channel = self.schema.events(number);
        let connection = self.target.connect(&channel).await?;
        let messages = self.target.subscribe(&channel).await?;
        for load in self.view.borrow_mut().resubscribed(number) {
            self.enqueue(load);
        }
        tokio::select! {
            over = self.write(number, connection.clone()) => over,
            over = self.listen(number, messages) => over,
            over = self.read(number, connection) => over,
        }
    }

    /// Writes what there is to write, and looks after the hash.
    async fn write(&self, number: usize, mut connection: Connection) -> Result<Infallible, String> {
        let task = &self.lanes[number];
        let mut beacon = interval(self.schema.beacon_every());
        beacon.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = beacon.tick() => self.beacon(task, &mut connection).await?,
                () = task.dirty.notified() => {}
            }
            self.flush(task, &connection).await?;
            if task.lane.borrow().is_whole() && !task.up.replace(true) {
                self.assess();
            }
        }
    }

    async fn beacon(&self, task: &LaneTask, connection: &mut Connection) -> Result<(), String> {
        let commands = task.lane.borrow().beacon();
        let replies = self.ask(connection, &commands).await?;
        let header = replies.first().unwrap_or(&Reply::Done);
        match task.lane.borrow_mut().verify(header, &self.registry) {
            Outcome::Done => Ok(()),
            Outcome::Lost => {
                if task.up.get() {
                    info!("Redis has lost what this node wrote: it is written anew");
                }
                Ok(())
            }
            Outcome::Refused(message) => Err(message),
        }
    }

    /// Writes batches until there is nothing left. While one is on its way the next is made.
    async fn flush(&self, task: &LaneTask, connection: &Connection) -> Result<(), String> {
        let mut flying = VecDeque::new();
        loop {
            let batch = task.lane.borrow_mut().next_batch(&self.registry, self.now());
            let more = batch.is_some();
            if let Some(mut batch) = batch {
                let commands = std::mem::take(&mut batch.commands);
                self.count(&commands, batch.keys_written);
                task.flights.borrow_mut().push_back(batch);
                let mut connection = connection.clone();
                flying.push_back(tokio::task::spawn_local(async move { connection.run(&commands).await }));
                tokio::task::yield_now().await; // It goes out before the next one is made.
            }
            if flying.len() > usize::from(more) {
                let Some(flight) = flying.pop_front() else { return Ok(()) };
                let replies = flight.await.map_err(|error| error.to_string())??;
                self.landed(task, &replies)?;
            } else if !more {
                return Ok(());
            }
        }
    }

    /// Takes the answers to the oldest batch on its way.
    fn landed(&self, task: &LaneTask, replies: &[Reply]) -> Result<(), String> {
        let mut flights = task.flights.borrow_mut();
        let Some(batch) = flights.front() else { return Ok(()) };
        let outcome = task.lane.borrow_mut().answered(batch, replies, &self.registry);
        if let Outcome::Refused(message) = outcome {
            return Err(message);
        }
        flights.pop_front();
        Ok(())
    }

    /// Takes what the others tell. This node hears itself as well, once a second at least: silence means that nobody is heard.
    async fn listen(&self, number: usize, mut messages: Subscription) -> Result<Infallible, String> {
        let patience = self.schema.beacon_every() * 3 + Duration::from_secs(1);
        loop {
            let message = timeout(patience, messages.next()).await;
            let message = message.map_err(|_| "nothing is heard any more, not even this node".to_owned())?;
            let message = message.ok_or("the connection for messages was lost")?;
            self.shared.counters.redis_events.add(1);
            let (renew, load) = self.view.borrow_mut().hear(number, &message, self.now_ms());
            for user in renew {
                self.lanes[number].lane.borrow_mut().renew(&user);
            }
            if let Some(load) = load {
                self.enqueue(load);
            }
            if self.view.borrow_mut().take_stranger() {
                self.look.notify_one();
            }
        }
    }

    fn enqueue(&self, load: Load) {
        let task = &self.lanes[load.lane];
        let mut loads = task.loads.borrow_mut();
        if !loads.contains(&load) {
            loads.push_back(load);
        }
        task.load.notify_one();
    }

    /// Reads the hashes of other runs, one after the other. The one that is being read stays at the front.
    async fn read(&self, number: usize, mut connection: Connection) -> Result<Infallible, String> {
        let task = &self.lanes[number];
        loop {
            let load = task.loads.borrow().front().cloned();
            let Some(load) = load else {
                self.assess();
                task.load.notified().await;
                continue;
            };
            self.read_hash(&load, &mut connection).await?;
            task.loads.borrow_mut().pop_front();
            let again = self.view.borrow_mut().finish(&load);
            if let Some(load) = again {
                self.enqueue(load);
            }
        }
    }

    async fn read_hash(&self, load: &Load, connection: &mut Connection) -> Result<(), String> {
        let key = self.schema.hash_key(load.lane, &load.run);
        let replies = self.ask(connection, &[Command::HashGet { key: key.clone(), field: HEADER }]).await?;
        let header = match replies.into_iter().next() {
            Some(Reply::Text(text)) => text,
            Some(Reply::WrongType) => None, // Its owner will notice.
            Some(reply) => return Err(reply.complaint()),
            None => None,
        };
        if self.view.borrow_mut().begin(load, header.as_deref()) == Step::Stop {
            return Ok(());
        }
        debug!(run = load.run, lane = load.lane, "reading what another node holds");
        self.shared.counters.redis_hashes_read.add(1);
        let mut cursor = 0;
        loop {
            let replies = self.ask(connection, &[Command::HashScan { key: key.clone(), cursor }]).await?;
            match replies.into_iter().next() {
                Some(Reply::Page { cursor: next, fields }) => {
                    self.view.borrow_mut().page(load, &fields);
                    cursor = next;
                }
                Some(reply) => return Err(reply.complaint()),
                None => return Err("an empty answer".to_owned()),
            }
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    async fn keep_leases(self: Rc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut claimed = false;
        loop {
            let Err(trouble) = self.serve_leases(&mut claimed).await;
            if self.in_touch.replace(false) {
                pause = FIRST_PAUSE;
            }
            self.view.borrow_mut().lost_touch();
            self.trouble(&trouble);
            pause = self.wait(pause).await;
        }
    }

    async fn serve_leases(&self, claimed: &mut bool) -> Result<Infallible, String> {
        let mut connection = self.target.connect(&self.schema.runs_key()).await?;
        if !*claimed {
            self.claim(&mut connection).await?;
            *claimed = true;
        }
        loop {
            let commands = self.nodes.borrow_mut().ask(&self.view.borrow());
            let replies = self.ask(&mut connection, &commands).await?;
            self.compare_lanes(&replies);
            let now_ms = self.now_ms();
            let (found, news) = self.nodes.borrow_mut().answered(replies, &mut self.view.borrow_mut(), now_ms)?;
            self.take_leases(found, &mut connection).await?;
            self.shared.counters.redis_nodes.set(self.view.borrow().runs().count() as u64 + 1);
            if news {
                continue;
            }
            self.in_touch.set(true);
            self.assess();
            let quiet = self.view.borrow().anybody_is_quiet(self.now_ms());
            let pause = if quiet { self.tick } else { self.schema.beacon_every() };
            // A whole tick at least between two looks, whoever calls.
            sleep(self.tick.min(pause)).await;
            let _ = timeout(pause.saturating_sub(self.tick), self.look.notified()).await;
        }
    }

    async fn take_leases(&self, found: Leases, connection: &mut Connection) -> Result<(), String> {
        found.loads.into_iter().for_each(|load| self.enqueue(load));
        for run in &found.dead {
            info!(run, "a node is gone, and with it those whom no other node holds");
            self.lanes.iter().for_each(|task| task.lane.borrow_mut().bury(run));
        }
        if !found.dead.is_empty() {
            let commands = self.nodes.borrow().bury(&found.dead);
            self.ask(connection, &commands).await?;
        }
        Ok(())
    }

    /// Takes the node id. Another run that has it may have died: it is watched for as long as a living one needs to show that it lives.
    async fn claim(&self, connection: &mut Connection) -> Result<(), String> {
        let commands = self.nodes.borrow().claim();
        let replies = self.ask(connection, &commands).await?;
        if let Some(reply) = replies.iter().find(|reply| matches!(reply, Reply::Failed(_))) {
            return Err(reply.complaint());
        }
        let Some(holder) = self.nodes.borrow().claimed(&replies) else { return Ok(()) };
        let key = self.schema.run_key(&holder);
        let first = self.lease_of(connection, &key).await?;
        info!(node = self.schema.node, "the node id was in use a moment ago: looking whether its holder still lives");
        sleep(self.schema.beacon_every() * 5 / 2).await;
        let now = self.lease_of(connection, &key).await?;
        if now.is_some() && now != first {
            let message =
                format!("another node with the id {:?} is running: give each its own with --node-id", self.schema.node);
            if self.refuse_to_open(&message) {
                // The id is somebody else's: nothing may be written on the way out.
                std::future::pending::<()>().await;
            }
            error!("{message}");
            return Ok(());
        }
        let commands = self.nodes.borrow().inherit();
        self.ask(connection, &commands).await.map(|_| ())
    }

    async fn lease_of(&self, connection: &mut Connection, key: &str) -> Result<Option<String>, String> {
        let replies = self.ask(connection, &[Command::Get(vec![key.to_owned()])]).await?;
        match replies.into_iter().next() {
            Some(Reply::Texts(mut texts)) => Ok(texts.pop().flatten()),
            Some(reply) => Err(reply.complaint()),
            None => Ok(None),
        }
    }

    /// Users of nodes with other lanes would be looked for in the wrong places.
    fn compare_lanes(&self, replies: &[Reply]) {
        let Some(Reply::Texts(leases)) = replies.first() else { return };
        let other =
            leases.iter().flatten().filter_map(|lease| lanes_of(lease)).find(|lanes| *lanes != self.schema.lanes);
        if let Some(lanes) = other {
            let message =
                format!("other nodes use --redis-lanes {lanes}, this one {}: all must use the same", self.schema.lanes);
            if !self.refuse_to_open(&message) {
                error!("{message}");
            }
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
        if self.shared.closing.load(Ordering::Relaxed) {
            return;
        }
        self.shared.counters.redis_failures.add(1);
        let message = format!("Redis at {} cannot be used: {trouble}", self.target.shown());
        if self.opened.borrow().is_some() {
            if self.optional {
                self.degrade(&message);
                self.tell_opened(Ok(()));
            } else {
                self.refuse_to_open(&format!("{message} (--redis-optional starts without it)"));
            }
        } else {
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
        if !(up && self.in_touch.get() && self.view.borrow().is_current()) {
            return;
        }
        self.tell_opened(Ok(()));
        let since = self.shared.degraded_since_unix_ms.swap(0, Ordering::Relaxed);
        if since != 0 {
            let lasted = Duration::from_millis(unix_ms().saturating_sub(since));
            info!(degraded_for_ms = lasted.as_millis() as u64, "Redis is in use, and other nodes are seen again");
        }
    }

    /// Tells whoever waits for the start. False if nobody does any more.
    fn tell_opened(&self, result: Result<(), Unavailable>) -> bool {
        self.opened.take().is_some_and(|opened| opened.send(result).is_ok())
    }

    /// Tells whoever waits for the start that there will be none, and ends. False if it has happened already.
    fn refuse_to_open(&self, message: &str) -> bool {
        let told = self.tell_opened(Err(Unavailable(message.to_owned())));
        if told {
            self.shared.closing.store(true, Ordering::Relaxed);
            self.shared.wake.notify_one();
        }
        told
    }

    /// Waits before the next connect, and returns how long to wait the next time.
    async fn wait(&self, pause: Duration) -> Duration {
        // Half of it is by chance, so that nodes do not come back all at the same moment.
        let jitter = pause.mul_f64(f64::from(unix_ms() as u32 % 1000) / 2000.0);
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
