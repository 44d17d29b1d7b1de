//! What other incarnations hold, as far as this node knows. Decides what to read and what to trust; does no I/O.
//!
//! Events are fast, hashes are complete: every event has a number, and a node that misses one, or hears of an
//! incarnation for the first time, reads the hash of that incarnation. An incarnation is dead if its lease has ended
//! and no events arrive from it. Only a node that has read leases without interruption may conclude that: no user
//! leaves because *this* node was disconnected, or because Redis lost all leases.

mod load;

use std::collections::HashMap;
use std::sync::Arc;

use super::event::{EventMessage, RemoteChange};
use super::schema::{Schema, incarnation_number};
use crate::json::Reader;
use crate::presence::kick::{Kick, MAX_WAITING_KICKS, RecentKicks};
use crate::presence::{IncarnationId, Reason, Registry, RemoteMember};
use load::SyncState;

pub use load::{HashId, LoadStep};

/// After an outage, another node may be back this much later than this one: a deadline and a pause.
const RETURN_MS: u64 = 1500;
/// The limit of incarnations that this node keeps track of: bounds what a broken writer can make it store.
pub(super) const MAX_INCARNATIONS: usize = 10_000;

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
    json: Reader,
}

/// One other incarnation.
#[derive(Debug)]
struct RemoteIncarnation {
    /// Names it in the registry.
    id: IncarnationId,
    partitions: Vec<RemotePartition>,
    heard_ms: u64,
}

/// What is known of an incarnation in one partition.
#[derive(Debug)]
struct RemotePartition {
    sync: SyncState,
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
    /// Kicks that another node asked for.
    pub kicks: Vec<Kick>,
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
}

impl RemoteView {
    /// Knows no other incarnation yet.
    #[must_use]
    pub fn new(schema: Arc<Schema>, registry: Arc<Registry>) -> Self {
        Self {
            schema,
            registry,
            incarnations: HashMap::new(),
            next_id: 0,
            next_generation: 1,
            leases_read_since_ms: None,
            leases_read_at_ms: 0,
            json: Reader::default(),
        }
    }

    /// The names of all known living incarnations.
    pub fn incarnations(&self) -> impl Iterator<Item = &str> {
        self.incarnations.keys().map(String::as_str)
    }

    /// Whether everything known to exist has been read, except of incarnations that have been silent all along.
    #[must_use]
    pub fn is_current(&self) -> bool {
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
        if event.incarnation == self.schema.incarnation || partition >= self.schema.partitions {
            return follow_up;
        }
        let Some(incarnation) = self.incarnations.get_mut(&event.incarnation) else {
            follow_up.is_unknown_incarnation = true;
            return follow_up;
        };
        incarnation.heard_ms = now_ms;
        let (id, remote) = (incarnation.id, &mut incarnation.partitions[partition]);
        if event.seq > remote.latest_seq {
            (remote.latest_seq, remote.suspect_seq) = (event.seq, None);
        }
        let new_kicks = event.kicks.iter().filter(|(number, _)| remote.kicks.is_new(*number));
        follow_up.kicks = new_kicks.take(MAX_WAITING_KICKS).map(|(_, kick)| kick.clone()).collect();
        // Messages are in no hash and must not wait until a gap is repaired.
        for change in of_partition(&event.changes, &self.schema, partition) {
            if let RemoteChange::Message { room, user, number, data } = change
                && *number > remote.last_message
            {
                remote.last_message = *number;
                self.registry.publish_remote(room, user.as_deref(), data.as_str().into());
            }
        }
        match &mut remote.sync {
            SyncState::Loading(load) => load.queue(event),
            SyncState::Current { seq, generation } if event.seq == *seq + u64::from(!event.changes.is_empty()) => {
                *seq = event.seq;
                let generation = *generation;
                follow_up.renew_keys = self.apply(id, generation, partition, &event.changes);
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
    pub fn resubscribed(&mut self, partition: usize) -> Vec<HashId> {
        let names = self.incarnations.keys().cloned();
        let hashes: Vec<_> = names.map(|incarnation| HashId { incarnation, partition }).collect();
        hashes.iter().for_each(|hash| self.start_load(hash, true));
        hashes
    }

    /// Takes the leases that exist: whether this incarnation's own does, and those of all listed or known incarnations.
    pub fn check_leases(&mut self, has_own_lease: bool, leases: &[(String, bool)], now_ms: u64) -> LeaseCheck {
        let (ttl_ms, heartbeat_ms) = (self.schema.ttl_ms(), self.schema.heartbeat_interval().as_millis() as u64);
        let pause_ms = now_ms.saturating_sub(std::mem::replace(&mut self.leases_read_at_ms, now_ms));
        if !has_own_lease || pause_ms > (ttl_ms / 2).max(heartbeat_ms * 2) {
            // Redis has lost its data or hung, or this process slept: a missing lease proves nothing yet.
            self.disconnected();
        }
        let read_since_ms = *self.leases_read_since_ms.get_or_insert(now_ms);
        // Other nodes may come back later than this one.
        let may_declare_dead = now_ms.saturating_sub(read_since_ms) >= ttl_ms + RETURN_MS;
        let mut check = LeaseCheck::default();
        let own = self.schema.incarnation.clone();
        for (name, is_alive) in leases.iter().filter(|(name, _)| *name != own) {
            if *is_alive {
                self.add_incarnation(name);
                check.loads.extend(self.start_missing_loads(name));
                continue;
            }
            match self.incarnations.get(name) {
                Some(incarnation) if may_declare_dead && incarnation.silent_ms(now_ms) >= heartbeat_ms * 5 / 2 => {
                    self.registry.remove_incarnation(incarnation.id);
                    self.registry.sweep_remote_holds(incarnation.id, u32::MAX, Reason::NodeLost, |_| true);
                    self.registry.sweep_remote_observers(incarnation.id, u32::MAX, |_| true);
                    self.incarnations.remove(name);
                    check.lost.push(name.clone());
                    check.dead.push(name.clone());
                }
                None if may_declare_dead => check.dead.push(name.clone()),
                Some(_) | None => {}
            }
        }
        check
    }

    /// This node cannot read leases.
    pub fn disconnected(&mut self) {
        self.leases_read_since_ms = None;
    }

    /// Whether an incarnation is silent, so that its lease may end at any moment.
    #[must_use]
    pub fn has_silent_incarnation(&self, now_ms: u64) -> bool {
        let limit_ms = self.schema.heartbeat_interval().as_millis() as u64 * 2;
        self.incarnations.values().any(|incarnation| incarnation.silent_ms(now_ms) > limit_ms)
    }

    /// Adds an incarnation, unless it is known or there are too many.
    fn add_incarnation(&mut self, name: &str) {
        if self.incarnations.contains_key(name) || self.incarnations.len() >= MAX_INCARNATIONS {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.registry.add_incarnation(id, incarnation_number(name));
        let partitions = (0..self.schema.partitions).map(|_| RemotePartition::new()).collect();
        self.incarnations.insert(name.to_owned(), RemoteIncarnation { id, partitions, heard_ms: 0 });
    }

    /// Starts to read the hashes of an incarnation that are neither known nor being read.
    fn start_missing_loads(&mut self, name: &str) -> Vec<HashId> {
        let Some(incarnation) = self.incarnations.get(name) else { return Vec::new() };
        let partitions = incarnation.partitions.iter().enumerate();
        let stale = partitions.filter(|(_, partition)| matches!(partition.sync, SyncState::Stale { .. }));
        let hashes: Vec<_> = stale.map(|(partition, _)| HashId { incarnation: name.to_owned(), partition }).collect();
        hashes.iter().for_each(|hash| self.start_load(hash, false));
        hashes
    }

    /// Puts the changes of an event into the registry. Returns users of this node whom the incarnation no longer holds.
    fn apply(
        &mut self,
        incarnation: IncarnationId,
        generation: u32,
        partition: usize,
        changes: &[RemoteChange],
    ) -> Vec<String> {
        let mut released = Vec::new();
        for change in of_partition(changes, &self.schema, partition) {
            match change {
                RemoteChange::Held { room, user, since_unix_ms, state } => {
                    let member = RemoteMember { incarnation, generation, room, user };
                    self.registry.hold_remote(member, state.as_ref(), *since_unix_ms);
                }
                RemoteChange::Left { room, user, reason } => {
                    if self.registry.release_remote(RemoteMember { incarnation, generation, room, user }, *reason) {
                        released.push(user.clone());
                    }
                }
                RemoteChange::Observers { room, count } => {
                    self.registry.set_remote_observers(incarnation, generation, room, *count);
                }
                RemoteChange::Message { .. } => {} // Passed on when it arrived.
            }
        }
        released
    }
}

impl RemoteIncarnation {
    fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms)
    }
}

impl RemotePartition {
    fn new() -> Self {
        Self {
            sync: SyncState::Stale { generation: 0 },
            latest_seq: 0,
            suspect_seq: None,
            kicks: RecentKicks::default(),
            last_message: 0,
        }
    }
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
