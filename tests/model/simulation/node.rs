//! One node: registry, ticker and the store's logic, driven step by step instead of by threads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rollcall::broadcast::Broadcaster;
use rollcall::broadcast::encoder::Encoders;
use rollcall::presence::{Audience, Now, Reason, Registry, Session, Settings, State};
use rollcall::store::redis::command::{RedisCommand, RedisReply};
use rollcall::store::redis::node_leases::NodeLeases;
use rollcall::store::redis::partition::{Partition, WriteBatch, WriteOutcome};
use rollcall::store::redis::remote_view::{FollowUp, HashId, LoadStep, RemoteView};
use rollcall::store::redis::schema::{Metadata, Schema};

use super::redis::SimulatedRedis;
use super::{ROOMS, TICK_MS, TTL_MS};

const HEARTBEAT_TICKS: u64 = 5;

/// State by room and user.
type Members = BTreeMap<(String, String), Option<String>>;

pub(crate) struct SimulatedNode {
    pub(crate) sessions: BTreeMap<usize, Arc<Session>>,
    pub(crate) registry: Arc<Registry>,
    /// Members of all rooms, as observers see them.
    pub(crate) members: Members,
    /// Messages of the events channels, with the partition.
    pub(crate) inbox: VecDeque<(usize, String)>,
    pub(crate) is_connected: bool,
    broadcaster: Broadcaster,
    schema: Arc<Schema>,
    partitions: Vec<Partition>,
    remote_view: RemoteView,
    node_leases: NodeLeases,
    /// Hashes to load.
    loads: VecDeque<HashId>,
    /// The hash that is being loaded, one page per tick, and the cursor.
    loading: Option<(HashId, u64)>,
    /// Batches whose replies never arrive, by partition.
    in_flight: Vec<Vec<WriteBatch>>,
    /// From the next batch on no replies arrive; the value says whether Redis executes the batches.
    hanging: Option<bool>,
}

impl SimulatedNode {
    pub(crate) fn new(node: usize, incarnation: u64, partitions: usize) -> Self {
        let settings = Settings { ttl: 1_000_000, workers: 1, incarnation };
        let registry = Arc::new(Registry::with_store(settings));
        let schema = Arc::new(Schema {
            prefix: "p".to_owned(),
            partitions,
            node: format!("n{node}"),
            incarnation: format!("n{node}.{incarnation}"),
            ttl: Duration::from_millis(TTL_MS),
        });
        let partition = |number| Partition::new(Arc::clone(&schema), number, TTL_MS / TICK_MS, incarnation);
        Self {
            sessions: BTreeMap::new(),
            members: BTreeMap::new(),
            inbox: VecDeque::new(),
            is_connected: false,
            broadcaster: Broadcaster::new(
                Arc::clone(&registry),
                1,
                Duration::from_millis(TICK_MS),
                Encoders::default(),
            ),
            partitions: (0..partitions).map(partition).collect(),
            remote_view: RemoteView::new(Arc::clone(&schema), Arc::clone(&registry)),
            node_leases: NodeLeases::new(Arc::clone(&schema)),
            loads: VecDeque::new(),
            loading: None,
            in_flight: Vec::new(),
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

    /// One more connection observes a room.
    pub(crate) fn observe(&mut self, room: usize) {
        self.registry.observe(ROOMS[room], 0, Audience::new(room), false);
    }

    /// One connection less observes a room.
    pub(crate) fn unobserve(&mut self, room: usize) {
        if let Some(observed) = self.registry.room(ROOMS[room]) {
            self.registry.unobserve(&observed, 0, Audience::new(room));
        }
    }

    /// Settles a tick, records it in the store and updates `members`. Returns the members who left.
    pub(crate) fn tick(&mut self, now: Now) -> Vec<(String, String)> {
        self.broadcaster.tick(now);
        for event in self.broadcaster.take_store_events() {
            self.partitions[self.schema.partition_of(event.partition_key())].record(event);
        }
        self.partitions.iter_mut().for_each(|partition| partition.mark_due(now.tick));
        let before = std::mem::take(&mut self.members);
        for room in ROOMS {
            if let Some(room) = self.registry.room(room) {
                room.read(|roster| {
                    let members = roster.members_after(None);
                    self.members.extend(members.map(|(user, state)| {
                        ((room.name().to_string(), user.to_string()), state.map(|state| state.as_str().to_owned()))
                    }));
                });
            }
        }
        before.into_keys().filter(|member| !self.members.contains_key(member)).collect()
    }

    /// Exchanges commands and messages with Redis, as the store's tasks do between two ticks.
    pub(crate) fn exchange(&mut self, redis: &mut SimulatedRedis, tick: u64) {
        let now_ms = tick * TICK_MS;
        if let Some(is_executed) = self.hanging.take() {
            self.send_without_replies(redis, is_executed, tick);
        }
        if !self.in_flight.is_empty() {
            return;
        }
        if !std::mem::replace(&mut self.is_connected, true) {
            self.renew_lease(redis, now_ms);
            for partition in 0..self.partitions.len() {
                self.loads.extend(self.remote_view.resubscribed(partition));
            }
        }
        let mut has_unknown = false;
        while let Some((partition, message)) = self.inbox.pop_front() {
            let follow_up = self.remote_view.handle_message(partition, &message, now_ms);
            has_unknown |= follow_up.is_unknown_incarnation;
            self.apply(partition, follow_up);
        }
        self.load_page(redis);
        for at in 0..self.partitions.len() {
            if tick.is_multiple_of(HEARTBEAT_TICKS) || !self.partitions[at].is_complete() {
                let replies = redis.execute(&self.partitions[at].heartbeat());
                let outcome = self.partitions[at].verify(replies.first(), &self.registry);
                assert!(!matches!(outcome, WriteOutcome::Refused(_)), "{outcome:?}");
            }
            while let Some(batch) = self.partitions[at].next_batch(&self.registry, tick) {
                let replies = redis.execute(&batch.commands);
                let outcome = self.partitions[at].handle_replies(&batch, &replies, &self.registry);
                assert!(!matches!(outcome, WriteOutcome::Refused(_)), "{outcome:?}");
            }
        }
        let is_due = tick.is_multiple_of(HEARTBEAT_TICKS);
        if is_due || has_unknown || self.remote_view.has_silent_incarnation(now_ms) {
            self.renew_lease(redis, now_ms);
        }
    }

    fn renew_lease(&mut self, redis: &mut SimulatedRedis, now_ms: u64) {
        let commands = self.node_leases.renew(&self.remote_view);
        let replies = redis.execute(&commands);
        // A key of another type in place of the set is refused, and replaced at the next renewal.
        let Ok((check, _)) = self.node_leases.handle_replies(replies, &mut self.remote_view, now_ms) else { return };
        self.loads.extend(check.loads);
        for dead in &check.dead {
            self.partitions.iter_mut().for_each(|partition| partition.delete_incarnation(dead));
        }
        redis.execute(&self.node_leases.delete_incarnations(&check.dead));
    }

    fn apply(&mut self, partition: usize, follow_up: FollowUp) {
        follow_up.renew_keys.iter().for_each(|user| self.partitions[partition].renew_key(user));
        self.loads.extend(follow_up.load);
    }

    fn load_page(&mut self, redis: &mut SimulatedRedis) {
        let (hash, cursor) = match self.loading.take() {
            Some(loading) => loading,
            None => {
                let Some(hash) = self.loads.pop_front() else { return };
                let metadata = self.metadata(redis, &hash);
                if self.remote_view.begin_load(&hash, metadata, redis.now_ms) == LoadStep::Stop {
                    self.finish_load(&hash, metadata);
                    return;
                }
                (hash, 0)
            }
        };
        let key = self.schema.hash_key(hash.partition, &hash.incarnation);
        match redis.execute(&[RedisCommand::HashScan { key, cursor }]).remove(0) {
            RedisReply::Page { cursor, fields } => {
                self.remote_view.load_page(&hash, &fields);
                match cursor {
                    0 => {
                        let metadata = self.metadata(redis, &hash);
                        self.finish_load(&hash, metadata);
                    }
                    cursor => self.loading = Some((hash, cursor)),
                }
            }
            _ => self.remote_view.abort_load(&hash), // The key is of another type now.
        }
    }

    fn finish_load(&mut self, hash: &HashId, metadata: Option<Metadata>) {
        let follow_up = self.remote_view.finish_load(hash, metadata);
        self.apply(hash.partition, follow_up);
    }

    fn metadata(&self, redis: &mut SimulatedRedis, hash: &HashId) -> Option<Metadata> {
        let key = self.schema.hash_key(hash.partition, &hash.incarnation);
        Metadata::parse(redis.execute(&[RedisCommand::HashMetadata(key)]).first()).unwrap()
    }

    /// No replies arrive any more, beginning with the next batch. `is_executed` says whether Redis executes it.
    pub(crate) fn hang(&mut self, is_executed: bool) {
        if self.is_connected && self.in_flight.is_empty() {
            self.hanging = Some(is_executed);
        }
    }

    fn send_without_replies(&mut self, redis: &mut SimulatedRedis, is_executed: bool, tick: u64) {
        for partition in &mut self.partitions {
            let batches: Vec<_> = (0..2).filter_map(|_| partition.next_batch(&self.registry, tick)).collect();
            if is_executed {
                batches.iter().for_each(|batch| drop(redis.execute(&batch.commands)));
            }
            self.in_flight.push(batches);
        }
    }

    /// The connections fail.
    pub(crate) fn disconnect(&mut self) {
        self.hanging = None;
        if !std::mem::replace(&mut self.is_connected, false) {
            return;
        }
        for (partition, batches) in self.partitions.iter_mut().zip(self.in_flight.drain(..)) {
            batches.into_iter().rev().for_each(|batch| partition.take_back(batch, &self.registry));
            partition.reconnected();
        }
        self.loads.extend(self.loading.take().map(|(hash, _)| hash));
        self.loads.drain(..).for_each(|hash| self.remote_view.abort_load(&hash));
        self.remote_view.disconnected();
        self.inbox.clear();
    }
}

fn state_of(state: u8) -> State {
    State::from(format!("{{\"n\":{state}}}"))
}
