//! One node: the registry, the ticker and the store's logic, driven by hand instead of by threads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rollcall::broadcast::Broadcaster;
use rollcall::broadcast::encoder::Encoders;
use rollcall::presence::{Now, Reason, Registry, Session, Settings, State};
use rollcall::store::redis::command::{Command, Reply};
use rollcall::store::redis::nodes::Nodes;
use rollcall::store::redis::partition::{Batch, Lane, Outcome};
use rollcall::store::redis::remote_view::{Load, Step, View};
use rollcall::store::redis::schema::{Head, Schema};

use super::redis::Redis;
use super::{ROOMS, TICK_MS, TTL_MS};

const BEACON_TICKS: u64 = 5;

type Roster = BTreeMap<(String, String), Option<String>>;

pub(crate) struct Node {
    pub(crate) sessions: BTreeMap<usize, Arc<Session>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) shown: Roster,
    pub(crate) inbox: VecDeque<(usize, String)>,
    pub(crate) up: bool,
    broadcaster: Broadcaster,
    schema: Arc<Schema>,
    lanes: Vec<Lane>,
    view: View,
    nodes: Nodes,
    /// A hash that is being read: pages come one a tick.
    loads: VecDeque<Load>,
    reading: Option<(Load, u64)>,
    /// Batches of each lane whose answers do not come.
    flights: Vec<Vec<Batch>>,
    /// From the next batch on they do not, and whether Redis gets it.
    hanging: Option<bool>,
}

impl Node {
    pub(crate) fn new(node: usize, life: u64, lanes: usize) -> Self {
        let settings = Settings { ttl: 1_000_000, workers: 1, incarnation: life };
        let registry = Arc::new(Registry::with_store(settings));
        let schema = Arc::new(Schema {
            prefix: "p".to_owned(),
            lanes,
            node: format!("n{node}"),
            run: format!("n{node}.{life}"),
            ttl: Duration::from_millis(TTL_MS),
        });
        Self {
            sessions: BTreeMap::new(),
            shown: BTreeMap::new(),
            inbox: VecDeque::new(),
            up: false,
            broadcaster: Broadcaster::new(
                Arc::clone(&registry),
                1,
                Duration::from_millis(TICK_MS),
                Encoders::default(),
            ),
            lanes: (0..lanes).map(|lane| Lane::new(Arc::clone(&schema), lane, TTL_MS / TICK_MS, life)).collect(),
            view: View::new(Arc::clone(&schema), Arc::clone(&registry)),
            nodes: Nodes::new(Arc::clone(&schema)),
            loads: VecDeque::new(),
            reading: None,
            flights: Vec::new(),
            hanging: None,
            registry,
            schema,
        }
    }

    pub(crate) fn session(&mut self, user: usize) -> &Arc<Session> {
        self.sessions.entry(user).or_insert_with(|| self.registry.open_unleased_session(&format!("user{user}")))
    }

    pub(crate) fn join(&mut self, user: usize, room: usize, state: Option<u8>, now: Now) {
        let session = Arc::clone(self.session(user));
        self.registry.join(&session, ROOMS[room], state.map(state_of), now);
    }

    pub(crate) fn set_state(&mut self, user: usize, room: usize, state: Option<u8>, now: Now) {
        let session = Arc::clone(self.session(user));
        self.registry.set_state(&session, ROOMS[room], state.map(state_of), now);
    }

    pub(crate) fn leave(&mut self, user: usize, room: usize) {
        let session = Arc::clone(self.session(user));
        self.registry.leave(&session, ROOMS[room]);
    }

    pub(crate) fn end(&mut self, user: usize) {
        if let Some(session) = self.sessions.remove(&user) {
            self.registry.end_session(&session, Reason::Closed);
        }
    }

    /// A tick: what sessions did is settled, shown and recorded. Returns who is not shown any more.
    pub(crate) fn tick(&mut self, now: Now) -> Vec<(String, String)> {
        self.broadcaster.tick(now);
        for news in self.broadcaster.take_store_events() {
            self.lanes[self.schema.lane_of(news.partition_key())].record(news);
        }
        self.lanes.iter_mut().for_each(|lane| lane.expire(now.tick));
        let before = std::mem::take(&mut self.shown);
        for room in ROOMS {
            if let Some(room) = self.registry.room(room) {
                room.read(|roster| {
                    let members = roster.members_after(None);
                    self.shown.extend(members.map(|(user, state)| {
                        ((room.name().to_string(), user.to_string()), state.map(|state| state.as_str().to_owned()))
                    }));
                });
            }
        }
        before.into_keys().filter(|member| !self.shown.contains_key(member)).collect()
    }

    /// Talks to Redis, as the store's tasks do between two ticks.
    pub(crate) fn talk(&mut self, redis: &mut Redis, tick: u64) {
        let now_ms = tick * TICK_MS;
        if let Some(done) = self.hanging.take() {
            self.take_off(redis, done, tick);
        }
        if !self.flights.is_empty() {
            return;
        }
        if !std::mem::replace(&mut self.up, true) {
            self.poll(redis, now_ms);
            for lane in 0..self.lanes.len() {
                self.loads.extend(self.view.resubscribed(lane));
            }
        }
        while let Some((lane, message)) = self.inbox.pop_front() {
            let (renew, load) = self.view.hear(lane, &message, now_ms);
            renew.iter().for_each(|user| self.lanes[lane].renew(user));
            self.loads.extend(load);
        }
        self.read(redis);
        for at in 0..self.lanes.len() {
            if tick.is_multiple_of(BEACON_TICKS) || !self.lanes[at].is_whole() {
                let replies = redis.run(&self.lanes[at].beacon());
                let outcome = self.lanes[at].verify(replies.first(), &self.registry);
                assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
            }
            while let Some(batch) = self.lanes[at].next_batch(&self.registry, tick) {
                let replies = redis.run(&batch.commands);
                let outcome = self.lanes[at].answered(&batch, &replies, &self.registry);
                assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
            }
        }
        if tick.is_multiple_of(BEACON_TICKS) || self.view.take_stranger() || self.view.anybody_is_quiet(now_ms) {
            self.poll(redis, now_ms);
        }
    }

    fn poll(&mut self, redis: &mut Redis, now_ms: u64) {
        let commands = self.nodes.ask(&self.view);
        let replies = redis.run(&commands);
        // A list of another type is refused, and written anew with the next look.
        let Ok((found, _)) = self.nodes.answered(replies, &mut self.view, now_ms) else { return };
        self.loads.extend(found.loads);
        for run in &found.dead {
            self.lanes.iter_mut().for_each(|lane| lane.bury(run));
        }
        redis.run(&self.nodes.bury(&found.dead));
    }

    fn finish(&mut self, load: &Load, head: Option<Head>) {
        let (renew, again) = self.view.finish(load, head);
        renew.iter().for_each(|user| self.lanes[load.lane].renew(user));
        self.loads.extend(again);
    }

    /// One page of a hash.
    fn read(&mut self, redis: &mut Redis) {
        let (load, cursor) = match self.reading.take() {
            Some(reading) => reading,
            None => {
                let Some(load) = self.loads.pop_front() else { return };
                let head = self.head(redis, &load);
                if self.view.begin(&load, head, redis.now_ms) == Step::Stop {
                    self.finish(&load, head);
                    return;
                }
                (load, 0)
            }
        };
        let key = self.schema.hash_key(load.lane, &load.run);
        match redis.run(&[Command::HashScan { key, cursor }]).remove(0) {
            Reply::Page { cursor, fields } => {
                self.view.page(&load, &fields);
                match cursor {
                    0 => {
                        let head = self.head(redis, &load);
                        self.finish(&load, head);
                    }
                    cursor => self.reading = Some((load, cursor)),
                }
            }
            _ => self.view.abort(&load), // It is of another type by now.
        }
    }

    fn head(&self, redis: &mut Redis, load: &Load) -> Option<Head> {
        let key = self.schema.hash_key(load.lane, &load.run);
        Head::parse(redis.run(&[Command::HashHead(key)]).first()).unwrap()
    }

    /// Answers do not come any more, from what this node sends next: `done` says whether Redis gets that, which it does not learn.
    pub(crate) fn hang(&mut self, done: bool) {
        if self.up && self.flights.is_empty() {
            self.hanging = Some(done);
        }
    }

    fn take_off(&mut self, redis: &mut Redis, done: bool, tick: u64) {
        for lane in &mut self.lanes {
            let flights: Vec<_> = (0..2).filter_map(|_| lane.next_batch(&self.registry, tick)).collect();
            if done {
                flights.iter().for_each(|batch| drop(redis.run(&batch.commands)));
            }
            self.flights.push(flights);
        }
    }

    /// It gives the link up.
    pub(crate) fn cut(&mut self) {
        self.hanging = None;
        if !std::mem::replace(&mut self.up, false) {
            return;
        }
        for (lane, flights) in self.lanes.iter_mut().zip(self.flights.drain(..)) {
            flights.into_iter().rev().for_each(|batch| lane.failed(batch, &self.registry));
            lane.reconnected();
        }
        self.loads.extend(self.reading.take().map(|(load, _)| load));
        self.loads.drain(..).for_each(|load| self.view.abort(&load));
        self.view.lost_touch();
        self.inbox.clear();
    }
}

fn state_of(state: u8) -> State {
    State::from(format!("{{\"n\":{state}}}"))
}
