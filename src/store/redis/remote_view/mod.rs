//! What other incarnations hold, as far as this node knows. Decides what to read and what to trust; does no I/O.
//!
//! Events are fast, hashes are complete: every event has a number, and a node that misses one, or hears of an
//! incarnation for the first time, reads the hash of that incarnation. An incarnation is dead if its lease has ended
//! and no events arrive from it. Only a node that has read leases without interruption may conclude that: no user
//! leaves because *this* node was disconnected, or because Redis lost all leases. A living incarnation may be unable to
//! work in one partition; see `silence`.

mod load;
mod messages;
mod silence;

use std::collections::HashMap;
use std::sync::Arc;

use super::event::{EventMessage, RemoteChange, RemoteKick};
use super::schema::{Schema, incarnation_number};
use crate::json::Reader;
use crate::presence::kick::{MAX_WAITING_KICKS, RecentKicks};
use crate::presence::{IncarnationId, Reason, Registry, RemoteMember};
use crate::store::{KeptMessage, LastMessages};
use load::SyncState;
use silence::{SeenLease, UnknownSender};

pub use load::{HashId, LoadStep};

/// After an outage, another node may be back this much later than this one: a deadline and a pause.
const RETURN_MS: u64 = 1500;
/// The limit of incarnations that this node keeps track of: bounds what a broken writer can make it store.
pub(super) const MAX_INCARNATIONS: usize = 10_000;
/// Longer names of incarnations were not written by a node.
pub(super) const MAX_NAME_BYTES: usize = 256;

/// All other incarnations.
#[derive(Debug)]
pub struct RemoteView {
    schema: Arc<Schema>,
    registry: Arc<Registry>,
    incarnations: HashMap<String, RemoteIncarnation>,
    next_id: IncarnationId,
    next_generation: u32,
    /// Since when this node has read leases without interruption, in milliseconds of its own clock.
    leases_read_since_ms: Option<u64>,
    /// When it read them last.
    leases_read_at_ms: u64,
    /// Since when messages of each partition arrive without interruption; `None` while they do not.
    listening_since_ms: Vec<Option<u64>>,
    /// Incarnations without a lease that publish.
    unknown: HashMap<String, UnknownSender>,
    /// Users of this node whom an incarnation held as well that cannot write: their keys may name it.
    released: Vec<String>,
    last: messages::Last,
    json: Reader,
}

/// One other incarnation.
#[derive(Debug)]
struct RemoteIncarnation {
    /// Names it in the registry.
    id: IncarnationId,
    partitions: Vec<RemotePartition>,
    heard_ms: u64,
    lease: SeenLease,
}

/// What is known of an incarnation in one partition.
#[derive(Debug)]
struct RemotePartition {
    sync: SyncState,
    /// When the last message arrived.
    heard_ms: u64,
    /// Its holds were released because the incarnation was silent there for too long.
    is_abandoned: bool,
    /// The latest known event. A complete hash that is older was lost and is not up to date yet.
    latest_seq: u64,
    /// If the hash is complete but older than `latest_seq`: its revision, and since when. If it stays so, `latest_seq`
    /// is wrong.
    suspect_seq: Option<(u64, u64)>,
    /// Kicks that were passed on: they arrive several times.
    kicks: RecentKicks,
    /// The last room message that was passed on: some arrive twice.
    last_message: u64,
}

/// What the store has to do after an event or a hash was processed.
#[derive(Debug, Default, PartialEq)]
pub struct FollowUp {
    /// Users of this node whose keys another node may have deleted: they are written again.
    pub renew_keys: Vec<String>,
    /// A hash to read, because events were missed.
    pub load: Option<HashId>,
    /// Messages of other nodes that belong to histories.
    pub kept: Vec<KeptMessage>,
    /// Messages are kept for later observers that were not published: they are to be read.
    pub history_changed: bool,
    /// Kicks that another node asked for.
    pub kicks: Vec<RemoteKick>,
    /// The message is this node's own.
    pub is_own: bool,
    /// An unknown incarnation sent the event. Leases are read then: only an incarnation with a lease is trusted.
    pub is_unknown_incarnation: bool,
}

/// What follows from the leases.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LeaseCheck {
    /// Hashes to read.
    pub loads: Vec<HashId>,
    /// Dead incarnations; their keys are deleted.
    pub dead: Vec<String>,
    /// The dead incarnations that this node had known alive.
    pub lost: Vec<String>,
    /// Users of this node whom a lost incarnation held as well: their keys may name it.
    pub rewrite_keys: Vec<String>,
}

impl RemoteView {
    /// Knows no other incarnation yet.
    #[must_use]
    pub fn new(schema: Arc<Schema>, registry: Arc<Registry>) -> Self {
        Self {
            listening_since_ms: vec![None; schema.partitions],
            unknown: HashMap::new(),
            released: Vec::new(),
            schema,
            registry,
            incarnations: HashMap::new(),
            next_id: 0,
            next_generation: 1,
            leases_read_since_ms: None,
            leases_read_at_ms: 0,
            last: messages::Last { messages: Arc::default(), latest_unix_ms: u64::MAX },
            json: Reader::default(),
        }
    }

    /// Keeps the last messages of rooms there.
    #[must_use]
    pub fn with_last_messages(mut self, messages: Arc<LastMessages>) -> Self {
        self.last.messages = messages;
        self
    }

    /// Last messages of later times are not kept.
    pub fn set_latest_message_time(&mut self, unix_ms: u64) {
        self.last.latest_unix_ms = unix_ms;
    }

    /// The names of all known living incarnations.
    pub fn incarnations(&self) -> impl Iterator<Item = &str> {
        self.incarnations.keys().map(String::as_str)
    }

    /// Whether everything known to exist has been read, except of incarnations that have been silent all along.
    #[must_use]
    pub fn is_current(&self, now_ms: u64) -> bool {
        if self.missing(now_ms).is_some() {
            return false;
        }
        let since = self.leases_read_since_ms.unwrap_or(u64::MAX);
        let audible = self.incarnations.values().filter(|incarnation| incarnation.heard_ms >= since);
        audible
            .flat_map(|incarnation| &incarnation.partitions)
            .all(|partition| matches!(partition.sync, SyncState::Current { .. }))
    }

    /// Takes a message of a partition's events channel.
    pub fn handle_message(&mut self, partition: usize, message: &str, now_ms: u64) -> FollowUp {
        let mut follow_up = FollowUp::default();
        let Some(event) = EventMessage::parse(message, &mut self.json) else {
            // It counts as missed: the next message of its incarnation shows the gap.
            tracing::debug!(partition, bytes = message.len(), "ignoring an invalid message in the events channel");
            return follow_up;
        };
        follow_up.is_own = event.incarnation == self.schema.incarnation;
        if follow_up.is_own || partition >= self.schema.partitions {
            return follow_up;
        }
        let Some(incarnation) = self.incarnations.get_mut(&event.incarnation) else {
            follow_up.is_unknown_incarnation = self.hear_unknown(event.incarnation, now_ms);
            return follow_up;
        };
        incarnation.heard_ms = now_ms;
        let (id, remote) = (incarnation.id, &mut incarnation.partitions[partition]);
        remote.heard_ms = now_ms;
        if event.seq > remote.latest_seq {
            (remote.latest_seq, remote.suspect_seq) = (event.seq, None);
        }
        follow_up.history_changed = event.history_changed;
        let new_kicks = event.kicks.iter().filter(|kick| remote.kicks.is_new(kick.number) && is_due(kick, now_ms));
        follow_up.kicks = new_kicks.take(MAX_WAITING_KICKS).cloned().collect();
        let next = remote.sync.advance(&event);
        // Members come before their messages: a tick in between would drop a message of an unknown user.
        if let Some(generation) = next {
            hold(&self.registry, (id, generation), of_partition(&event.changes, &self.schema, partition));
        }
        // Messages are in no hash and must not wait until a gap is repaired.
        for change in of_partition(&event.changes, &self.schema, partition) {
            let (RemoteChange::Message { stamp, .. } | RemoteChange::ToUser { stamp, .. }) = change else { continue };
            if stamp.number > remote.last_message {
                remote.last_message = stamp.number;
                messages::publish(&self.registry, &self.last, change, &mut follow_up);
            }
        }
        match &mut remote.sync {
            SyncState::Loading(load) => load.queue(event),
            SyncState::Current { generation, .. } if next.is_some() => {
                let by = (id, *generation);
                follow_up.renew_keys = self.release(by, partition, &event.changes);
            }
            SyncState::Current { seq, .. } if event.seq <= *seq => {}
            SyncState::Current { .. } | SyncState::Stale { .. } => {
                let hash = HashId { incarnation: event.incarnation.clone(), partition };
                self.start_load(&hash, false);
                if let Some(SyncState::Loading(load)) = self.sync_state(&hash) {
                    load.queue(event);
                }
                follow_up.load = Some(hash);
            }
        }
        follow_up
    }

    /// Messages of a partition may have been missed. Returns the hashes to check.
    pub fn resubscribed(&mut self, partition: usize, now_ms: u64) -> Vec<HashId> {
        self.listening_since_ms[partition] = Some(now_ms);
        let names = self.incarnations.keys().cloned();
        let hashes: Vec<_> = names.map(|incarnation| HashId { incarnation, partition }).collect();
        hashes.iter().for_each(|hash| self.start_load(hash, true));
        hashes
    }

    /// No messages of the partition arrive any more.
    pub fn unsubscribed(&mut self, partition: usize) {
        self.listening_since_ms[partition] = None;
    }

    /// Takes the leases that exist: whether this incarnation's own does, and those of all listed or known incarnations
    /// with the number of their renewals.
    pub fn check_leases(&mut self, has_own_lease: bool, leases: &[(String, Option<u64>)], now_ms: u64) -> LeaseCheck {
        let (ttl_ms, heartbeat_ms) = (self.schema.ttl_ms(), self.schema.heartbeat_interval().as_millis() as u64);
        let read_before_ms = std::mem::replace(&mut self.leases_read_at_ms, now_ms);
        let pause_ms = now_ms.saturating_sub(read_before_ms);
        if pause_ms > heartbeat_ms * 2 {
            // Messages may have waited as long.
            self.listening_since_ms.iter_mut().flatten().for_each(|since_ms| *since_ms = now_ms);
        }
        if !has_own_lease || pause_ms > (ttl_ms / 2).max(heartbeat_ms * 2) {
            // Redis has lost its data or hung, or this process slept: a missing lease proves nothing yet.
            self.disconnected();
        }
        let read_since_ms = *self.leases_read_since_ms.get_or_insert(now_ms);
        // Other nodes may come back later than this one.
        let may_declare_dead = now_ms.saturating_sub(read_since_ms) >= ttl_ms + RETURN_MS;
        let mut check = LeaseCheck::default();
        let own = self.schema.incarnation.clone();
        for (name, lease) in leases.iter().filter(|(name, _)| *name != own) {
            if let Some(renewals) = lease {
                self.add_incarnation(name, now_ms);
                self.see_lease(name, *renewals, read_before_ms, now_ms);
                check.loads.extend(self.start_missing_loads(name));
                continue;
            }
            match self.incarnations.get(name) {
                Some(incarnation) if may_declare_dead && incarnation.silent_ms(now_ms) >= heartbeat_ms * 5 / 2 => {
                    self.registry.remove_incarnation(incarnation.id);
                    let released =
                        self.registry.sweep_remote_holds(incarnation.id, u32::MAX, Reason::NodeLost, |_| true);
                    check.rewrite_keys.extend(released);
                    self.registry.sweep_remote_observers(incarnation.id, u32::MAX, |_| true);
                    self.incarnations.remove(name);
                    check.lost.push(name.clone());
                    check.dead.push(name.clone());
                }
                None if may_declare_dead && !self.unknown.contains_key(name) => check.dead.push(name.clone()),
                Some(_) | None => {}
            }
        }
        self.forget_unknown(now_ms);
        check
    }

    /// This node cannot read leases.
    pub fn disconnected(&mut self) {
        self.leases_read_since_ms = None;
    }

    /// Adds an incarnation, unless it is known or there are too many.
    fn add_incarnation(&mut self, name: &str, now_ms: u64) {
        self.unknown.remove(name);
        if self.incarnations.contains_key(name) || self.incarnations.len() >= MAX_INCARNATIONS {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.registry.add_incarnation(id, incarnation_number(name));
        let partitions = (0..self.schema.partitions).map(|_| RemotePartition::new(now_ms)).collect();
        let lease = SeenLease { renewals: 0, renewed_ms: now_ms, ends_after_ms: now_ms };
        self.incarnations.insert(name.to_owned(), RemoteIncarnation { id, partitions, heard_ms: 0, lease });
    }

    /// Starts to read the hashes of an incarnation that are neither known nor being read, or of which no events arrive.
    fn start_missing_loads(&mut self, name: &str) -> Vec<HashId> {
        let Some(incarnation) = self.incarnations.get(name) else { return Vec::new() };
        let partitions = incarnation.partitions.iter().enumerate();
        let is_missing = |(number, partition): &(usize, &RemotePartition)| match partition.sync {
            SyncState::Stale { .. } => true,
            SyncState::Current { .. } => self.is_silent(incarnation, *number),
            SyncState::Loading(_) => false,
        };
        let missing = partitions.filter(is_missing);
        let hashes: Vec<_> = missing.map(|(partition, _)| HashId { incarnation: name.to_owned(), partition }).collect();
        hashes.iter().for_each(|hash| self.start_load(hash, true));
        hashes
    }

    /// Puts the changes of an event into the registry. Returns users of this node whom the incarnation no longer holds.
    fn apply(&mut self, by: (IncarnationId, u32), partition: usize, changes: &[RemoteChange]) -> Vec<String> {
        hold(&self.registry, by, of_partition(changes, &self.schema, partition));
        self.release(by, partition, changes)
    }

    /// Takes what remains of an event whose members are known. Returns users of this node whom it no longer
    /// holds.
    fn release(
        &mut self,
        (incarnation, generation): (IncarnationId, u32),
        partition: usize,
        changes: &[RemoteChange],
    ) -> Vec<String> {
        let mut released = Vec::new();
        for change in of_partition(changes, &self.schema, partition) {
            match change {
                RemoteChange::Left { room, user, reason } => {
                    if self.registry.release_remote(RemoteMember { incarnation, generation, room, user }, *reason) {
                        released.push(user.clone());
                    }
                }
                RemoteChange::Observers { room, count } => {
                    self.registry.set_remote_observers(incarnation, generation, room, *count);
                }
                // Taken before.
                RemoteChange::Held { .. } | RemoteChange::Message { .. } | RemoteChange::ToUser { .. } => {}
            }
        }
        released
    }
}

/// Puts the members of an event into the registry. An event names each member once.
fn hold<'a>(
    registry: &Registry,
    (incarnation, generation): (IncarnationId, u32),
    changes: impl Iterator<Item = &'a RemoteChange>,
) {
    for change in changes {
        if let RemoteChange::Held { room, user, since_unix_ms, state } = change {
            let member = RemoteMember { incarnation, generation, room, user };
            registry.hold_remote(member, state.as_ref(), *since_unix_ms);
        }
    }
}

impl RemoteIncarnation {
    fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms)
    }
}

impl RemotePartition {
    fn new(now_ms: u64) -> Self {
        Self {
            sync: SyncState::Stale { generation: 0 },
            heard_ms: now_ms,
            is_abandoned: false,
            latest_seq: 0,
            suspect_seq: None,
            kicks: RecentKicks::default(),
            last_message: 0,
        }
    }
}

/// A kick is for the connections of its time, and this node may be younger. A login that has ended stays ended.
fn is_due(kick: &RemoteKick, now_ms: u64) -> bool {
    kick.kick.login.is_some() || kick.age_ms <= now_ms
}

/// Changes that belong into this partition; a correct node publishes no others.
fn of_partition<'a>(
    changes: &'a [RemoteChange],
    schema: &Schema,
    partition: usize,
) -> impl Iterator<Item = &'a RemoteChange> {
    changes.iter().filter(move |change| schema.partition_of(change.partition_key()) == partition)
}

#[cfg(test)]
mod tests;
