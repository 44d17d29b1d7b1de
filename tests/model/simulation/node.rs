//! One node: registry, ticker and the store's logic, driven step by step instead of by threads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rollcall::broadcast::Broadcaster;
use rollcall::json::Reader;
use rollcall::presence::{Audience, Now, Reason, Registry, Session, Settings, State};
use rollcall::store::redis::IdentityRules;
use rollcall::store::redis::command::{RedisCommand, RedisReply};
use rollcall::store::redis::node_leases::NodeLeases;
use rollcall::store::redis::partition::{Partition, WriteBatch, WriteOutcome};
use rollcall::store::redis::remote_view::{FollowUp, HashId, LoadStep, RemoteView};
use rollcall::store::redis::schema::{Metadata, Schema};
use rollcall::store::{KeptMessage, StoreClock};

use super::chat::{MAX_MESSAGES, Shown, chat};
use super::redis::SimulatedRedis;
use super::{ROOMS, TICK_MS, TTL_MS, user_name};

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
    /// Redis refuses to publish for this node.
    pub(crate) is_silenced: bool,
    /// Partitions that this node cannot reach.
    cut_off: BTreeSet<usize>,
    /// How often it has read leases.
    pub(crate) leases_read: u64,
    /// The messages that it shows to new clients of a chat.
    pub(crate) shown: Shown,
    broadcaster: Broadcaster,
    /// How far its clock is ahead of that of Redis, and what it knows about that.
    clock_ahead_ms: i64,
    clock: StoreClock,
    /// Messages of histories for the next tick.
    kept: Vec<KeptMessage>,
    /// Histories are to be read, by partition.
    unread_histories: Vec<bool>,
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
            database: 0,
            node: format!("n{node}"),
            incarnation: format!("n{node}.{incarnation}"),
            ttl: Duration::from_millis(TTL_MS),
            identity: IdentityRules::default(),
        });
        let partition = |number| {
            let partition = Partition::new(Arc::clone(&schema), number, TTL_MS / TICK_MS, incarnation);
            partition.with_histories(&[ROOMS[0].into()], MAX_MESSAGES)
        };
        let (encoders, shown) = chat();
        Self {
            sessions: BTreeMap::new(),
            members: BTreeMap::new(),
            inbox: VecDeque::new(),
            is_connected: false,
            is_silenced: false,
            cut_off: BTreeSet::new(),
            leases_read: 0,
            broadcaster: Broadcaster::new(Arc::clone(&registry), 1, Duration::from_millis(TICK_MS), encoders),
            clock_ahead_ms: 0,
            clock: StoreClock::default(),
            shown,
            kept: Vec::new(),
            unread_histories: vec![true; partitions],
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
        self.sessions.entry(user).or_insert_with(|| self.registry.open_unleased_session(&user_name(user)))
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

    /// Publishes a message to a room, if the user is there.
    pub(crate) fn publish(&mut self, user: usize, room: usize, now: Now) {
        let session = Arc::clone(self.session(user));
        self.registry.publish(&session, ROOMS[room], format!("\"{} {user}\"", now.tick).into(), now);
    }

    /// Its clock is set. It knows that, and no more until it has compared it.
    pub(crate) fn set_clock(&mut self, ahead_ms: i64) {
        if std::mem::replace(&mut self.clock_ahead_ms, ahead_ms) != ahead_ms {
            self.clock = StoreClock::default();
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
        let now = Now { unix_ms: now.unix_ms.saturating_add_signed(self.clock_ahead_ms), ..now };
        self.broadcaster.set_clock(self.clock, now);
        self.broadcaster.tick(now);
        self.broadcaster.restore(&std::mem::take(&mut self.kept), now);
        for event in self.broadcaster.take_store_events() {
            self.partitions[self.schema.partition_of(event.partition_key())].record(event);
        }
        let latest_unix_ms = self.clock.latest_message_time(now.unix_ms);
        for (number, partition) in self.partitions.iter_mut().enumerate() {
            self.unread_histories[number] |= partition.limit_times(latest_unix_ms);
            partition.mark_due(now.tick);
        }
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
        redis.refuses_to_publish = self.is_silenced;
        if let Some(is_executed) = self.hanging.take() {
            self.send_without_replies(redis, is_executed, tick);
        }
        if !self.in_flight.is_empty() {
            return;
        }
        if !std::mem::replace(&mut self.is_connected, true) {
            self.renew_lease(redis, now_ms);
            for partition in self.reachable() {
                self.loads.extend(self.remote_view.resubscribed(partition, now_ms));
            }
        }
        let mut has_unknown = false;
        while let Some((partition, message)) = self.inbox.pop_front() {
            if self.cut_off.contains(&partition) {
                continue;
            }
            let follow_up = self.remote_view.handle_message(partition, &message, now_ms);
            has_unknown |= follow_up.is_unknown_incarnation;
            self.apply(partition, follow_up);
        }
        self.load_page(redis);
        self.read_histories(redis);
        for at in self.reachable() {
            if tick.is_multiple_of(HEARTBEAT_TICKS) || !self.partitions[at].is_complete() {
                let replies = redis.execute(&self.partitions[at].heartbeat(tick));
                let outcome = self.partitions[at].verify(&replies, &self.registry);
                assert!(!matches!(outcome, WriteOutcome::Refused(_)), "{outcome:?}");
            }
            while let Some(mut batch) = self.partitions[at].next_batch(&self.registry, tick) {
                let replies = redis.execute(&batch.commands);
                let outcome = self.partitions[at].handle_replies(&mut batch, &replies, &self.registry);
                assert!(!matches!(outcome, WriteOutcome::Refused(_)), "{outcome:?}");
            }
        }
        let is_due = tick.is_multiple_of(HEARTBEAT_TICKS);
        redis.refuses_to_publish = false;
        if is_due || has_unknown || self.remote_view.expects_end_of_lease(now_ms) {
            self.renew_lease(redis, now_ms);
        }
    }

    /// Cuts the node off from the server of a partition, or ends that.
    pub(crate) fn cut_off(&mut self, partition: usize, is_cut_off: bool, tick: u64) {
        match is_cut_off {
            true => {
                self.cut_off.insert(partition);
                self.partitions[partition].reconnected();
                self.unread_histories[partition] = true;
                self.remote_view.unsubscribed(partition);
            }
            false => {
                let was_cut_off = self.cut_off.remove(&partition);
                if was_cut_off && self.is_connected {
                    self.loads.extend(self.remote_view.resubscribed(partition, tick * TICK_MS));
                }
            }
        }
    }

    fn reachable(&self) -> Vec<usize> {
        (0..self.partitions.len()).filter(|partition| !self.cut_off.contains(partition)).collect()
    }

    /// Whether the node reports that it does not know what other nodes hold.
    pub(crate) fn is_degraded(&self, tick: u64) -> bool {
        let fails = !self.is_connected || self.is_silenced || !self.cut_off.is_empty() || !self.in_flight.is_empty();
        fails || !self.loads.is_empty() || self.loading.is_some() || !self.remote_view.is_current(tick * TICK_MS)
    }

    fn renew_lease(&mut self, redis: &mut SimulatedRedis, now_ms: u64) {
        self.leases_read += 1;
        let commands = self.node_leases.renew(&self.remote_view);
        let replies = redis.execute(&commands);
        self.clock = StoreClock(Some(self.clock_ahead_ms)); // As the difference of its time and the reply to TIME.
        // A key of another type in place of the set is refused, and replaced at the next renewal.
        let Ok((check, _)) = self.node_leases.handle_replies(replies, &mut self.remote_view, now_ms) else { return };
        self.loads.extend(check.loads);
        for user in &check.rewrite_keys {
            self.partitions[self.schema.partition_of(user)].rewrite_key(user);
        }
        for dead in &check.dead {
            self.partitions.iter_mut().for_each(|partition| partition.delete_incarnation(dead));
        }
        redis.execute(&self.node_leases.delete_incarnations(&check.dead));
    }

    fn apply(&mut self, partition: usize, follow_up: FollowUp) {
        follow_up.renew_keys.iter().for_each(|user| self.partitions[partition].renew_key(user));
        self.unread_histories[partition] |= follow_up.history_changed;
        self.kept.extend(follow_up.kept.into_iter().filter(|kept| self.partitions[partition].add_kept(kept)));
        self.loads.extend(follow_up.load);
    }

    fn read_histories(&mut self, redis: &mut SimulatedRedis) {
        for at in self.reachable() {
            if std::mem::take(&mut self.unread_histories[at]) {
                let replies = redis.execute(&self.partitions[at].read_histories());
                self.kept.extend(self.partitions[at].merge_histories(&replies, &mut Reader::default()).unwrap());
            }
        }
    }

    fn load_page(&mut self, redis: &mut SimulatedRedis) {
        let (hash, cursor) = match self.loading.take() {
            Some(loading) => loading,
            None => {
                let Some(hash) = self.loads.pop_front() else { return };
                if self.cut_off.contains(&hash.partition) {
                    return self.remote_view.abort_load(&hash);
                }
                let metadata = self.metadata(redis, &hash);
                let key = self.schema.hash_key(hash.partition, &hash.incarnation);
                let age_ms = self.schema.hash_age_ms(redis.execute(&[RedisCommand::TimeToLive(key)]).first());
                if self.remote_view.begin_load(&hash, metadata, age_ms, redis.now_ms) == LoadStep::Stop {
                    self.finish_load(&hash, metadata);
                    return;
                }
                self.unread_histories[hash.partition] = true;
                (hash, 0)
            }
        };
        let key = self.schema.hash_key(hash.partition, &hash.incarnation);
        match redis.execute(&[RedisCommand::HashScan { key, cursor }]).remove(0) {
            RedisReply::Page { cursor, fields, .. } => {
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
        for (number, partition) in self.partitions.iter_mut().enumerate() {
            if self.cut_off.contains(&number) {
                self.in_flight.push(Vec::new());
                continue;
            }
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
        self.unread_histories.fill(true);
        self.loads.extend(self.loading.take().map(|(hash, _)| hash));
        self.loads.drain(..).for_each(|hash| self.remote_view.abort_load(&hash));
        self.remote_view.disconnected();
        (0..self.partitions.len()).for_each(|partition| self.remote_view.unsubscribed(partition));
        self.inbox.clear();
    }
}

fn state_of(state: u8) -> State {
    State::from(format!("{{\"n\":{state}}}"))
}
