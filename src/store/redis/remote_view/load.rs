//! Loading a hash of another incarnation: its metadata says whether it is complete, its pages are applied as they
//! arrive, and the events that arrive meanwhile are applied at the end.

use super::super::event::EventMessage;
use super::super::field::parse_field;
use super::super::schema::{LastSeq, Metadata, parse_hold, parse_number};
use super::{FollowUp, RemoteView};
use crate::presence::{Reason, RemoteMember, is_internal};

/// The limit of events that wait while a hash is loaded. If there are more, all are dropped and the hash is loaded
/// again.
const MAX_QUEUED_EVENTS: usize = 1000;

/// How up to date this node is about an incarnation's holds in one partition.
#[derive(Debug)]
pub(super) enum SyncState {
    /// Something is missing. What was known before stays in the registry.
    Stale { generation: u32 },
    /// The hash is being loaded.
    Loading(HashLoad),
    /// Everything up to this event is known.
    Current { seq: u64, generation: u32 },
}

impl SyncState {
    /// Takes an event into account. Returns the generation of its changes if nothing is missing before it.
    pub(super) fn advance(&mut self, event: &EventMessage) -> Option<u32> {
        match self {
            Self::Current { seq, generation } if event.seq == *seq + u64::from(event.has_changes()) => {
                *seq = event.seq;
                Some(*generation)
            }
            _ => None,
        }
    }
}

/// The load of a hash.
#[derive(Debug)]
pub(super) struct HashLoad {
    generation: u32,
    /// The generation of what was known before.
    former_generation: u32,
    /// If nothing was missed, the last event known before: the load ends early if the hash has no later one.
    known_seq: Option<u64>,
    /// The metadata of the hash when the load began.
    seq: u64,
    revision: u64,
    events: Vec<EventMessage>,
    overflowed: bool,
}

/// Names a hash to load.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HashId {
    /// The incarnation that writes it.
    pub incarnation: String,
    /// The partition.
    pub partition: usize,
}

/// How a load continues after the metadata was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadStep {
    /// Read the pages.
    Scan,
    /// There is nothing more to read.
    Stop,
}

impl RemoteView {
    /// Takes the metadata of a hash at the beginning of a load, and how long ago the hash was renewed.
    pub fn begin_load(
        &mut self,
        hash: &HashId,
        metadata: Option<Metadata>,
        age_ms: Option<u64>,
        now_ms: u64,
    ) -> LoadStep {
        let latest = self.required_seq(hash, metadata, now_ms);
        let is_abandoned = self.is_abandoned(hash, age_ms, now_ms);
        let Some(sync) = self.sync_state(hash) else { return LoadStep::Stop };
        let SyncState::Loading(load) = sync else { return LoadStep::Stop };
        match metadata {
            Some(Metadata { last_seq: LastSeq::Complete(seq), .. }) if load.known_seq == Some(seq) && !is_abandoned => {
                (load.seq, load.generation) = (seq, load.former_generation);
                LoadStep::Stop
            }
            Some(Metadata { last_seq: LastSeq::Complete(seq), revision }) if seq >= latest && !is_abandoned => {
                (load.seq, load.revision, load.known_seq) = (seq, revision, None);
                LoadStep::Scan
            }
            // Missing, incomplete, or lost and begun again: what was known stays until the hash is complete.
            _ => {
                *sync = SyncState::Stale { generation: load.former_generation };
                LoadStep::Stop
            }
        }
    }

    /// The event that a hash must include to be up to date.
    fn required_seq(&mut self, hash: &HashId, metadata: Option<Metadata>, now_ms: u64) -> u64 {
        // A disconnected node would not receive the next event either, so that time does not count.
        let connected_since_ms = self.leases_read_since_ms.unwrap_or(now_ms);
        let limit_ms = self.schema.ttl_ms();
        let Some(incarnation) = self.incarnations.get_mut(&hash.incarnation) else { return 0 };
        let remote = &mut incarnation.partitions[hash.partition];
        match metadata {
            Some(Metadata { last_seq: LastSeq::Complete(seq), revision }) if seq < remote.latest_seq => {
                let suspect = remote.suspect_seq.filter(|(of_revision, _)| *of_revision == revision);
                let (_, since_ms) = suspect.unwrap_or((revision, now_ms));
                remote.suspect_seq = Some((revision, since_ms));
                // Its owner would have rewritten a lost hash by now: the event was not published by the owner.
                if now_ms.saturating_sub(since_ms.max(connected_since_ms)) > limit_ms {
                    (remote.latest_seq, remote.suspect_seq) = (seq, None);
                }
            }
            _ => remote.suspect_seq = None,
        }
        remote.latest_seq
    }

    /// Takes a page of a hash.
    pub fn load_page(&mut self, hash: &HashId, fields: &[(String, String)]) {
        let Some(incarnation) = self.incarnations.get(&hash.incarnation) else { return };
        let SyncState::Loading(load) = &incarnation.partitions[hash.partition].sync else { return };
        let (id, generation) = (incarnation.id, load.generation);
        for (field, value) in fields {
            let Some((room, user)) = parse_field(field) else { continue };
            if self.schema.partition_of(user.as_deref().unwrap_or(&room)) != hash.partition {
                continue;
            }
            if let Some(user) = user.as_deref()
                && let Some((since, state)) = parse_hold(value, is_internal(&room), &mut self.json)
            {
                let member = RemoteMember { incarnation: id, generation, room: &room, user };
                self.registry.hold_remote(member, state.as_ref(), since);
            } else if user.is_none()
                && let Some(count) = parse_number(value)
            {
                self.registry.set_remote_observers(id, generation, &room, count);
            }
        }
    }

    /// Takes the metadata of a hash after its last page. Events that arrived meanwhile are applied, and holds that were
    /// not found are released.
    pub fn finish_load(&mut self, hash: &HashId, metadata: Option<Metadata>) -> FollowUp {
        let mut follow_up = FollowUp { renew_keys: std::mem::take(&mut self.released), ..FollowUp::default() };
        let Some(incarnation) = self.incarnations.get_mut(&hash.incarnation) else { return follow_up };
        let (id, sync) = (incarnation.id, &mut incarnation.partitions[hash.partition].sync);
        let load = match std::mem::replace(sync, SyncState::Stale { generation: 0 }) {
            SyncState::Loading(load) => load,
            other => {
                *sync = other;
                return follow_up;
            }
        };
        let (generation, former_generation) = (load.generation, load.former_generation);
        let was_scanned = generation != former_generation;
        let is_same = |now: Metadata| now.revision == load.revision && matches!(now.last_seq, LastSeq::Complete(_));
        if was_scanned && !metadata.is_some_and(is_same) {
            // The hash was rewritten meanwhile: the pages are of two revisions.
            *sync = SyncState::Stale { generation: former_generation };
            return follow_up;
        }
        let (mut seq, mut has_gap) = (load.seq, load.overflowed);
        for event in load.events.iter().filter(|event| event.seq > load.seq) {
            if event.seq == seq + 1 && event.has_changes() && !has_gap {
                follow_up.renew_keys.extend(self.apply((id, generation), hash.partition, &event.changes));
                seq = event.seq;
            } else {
                has_gap |= event.seq > seq;
            }
        }
        if was_scanned && !has_gap {
            let is_of_partition = |name: &str| self.schema.partition_of(name) == hash.partition;
            self.registry.sweep_remote_observers(id, generation, is_of_partition);
            let released = self.registry.sweep_remote_holds(id, generation, Reason::Left, is_of_partition);
            follow_up.renew_keys.extend(released);
        }
        let Some(incarnation) = self.incarnations.get_mut(&hash.incarnation) else { return follow_up };
        let remote = &mut incarnation.partitions[hash.partition];
        remote.latest_seq = remote.latest_seq.max(seq);
        if has_gap {
            remote.sync = SyncState::Stale { generation: former_generation };
            self.start_load(hash, false);
            follow_up.load = Some(hash.clone());
        } else {
            remote.sync = SyncState::Current { seq, generation };
        }
        follow_up
    }

    /// The load was interrupted.
    pub fn abort_load(&mut self, hash: &HashId) {
        if let Some(sync) = self.sync_state(hash)
            && let SyncState::Loading(load) = sync
        {
            *sync = SyncState::Stale { generation: load.former_generation };
        }
    }

    pub(super) fn sync_state(&mut self, hash: &HashId) -> Option<&mut SyncState> {
        let partition = self.incarnations.get_mut(&hash.incarnation)?.partitions.get_mut(hash.partition)?;
        Some(&mut partition.sync)
    }

    /// Starts to load a hash. With `only_if_changed`, pages are read only if the hash has later events than this node.
    pub(super) fn start_load(&mut self, hash: &HashId, only_if_changed: bool) {
        let generation = self.next_generation;
        let Some(sync) = self.sync_state(hash) else { return };
        let (former_generation, known_seq) = match sync {
            SyncState::Stale { generation } => (*generation, None),
            SyncState::Current { seq, generation } => (*generation, Some(*seq).filter(|_| only_if_changed)),
            SyncState::Loading(_) => return,
        };
        *sync = SyncState::Loading(HashLoad {
            generation,
            former_generation,
            known_seq,
            seq: 0,
            revision: 0,
            events: Vec::new(),
            overflowed: false,
        });
        self.next_generation += 1;
    }
}

impl HashLoad {
    /// Queues an event that arrives during the load.
    pub(super) fn queue(&mut self, event: EventMessage) {
        if self.events.len() >= MAX_QUEUED_EVENTS {
            self.overflowed = true;
            self.events.clear();
        }
        if !self.overflowed {
            self.events.push(event);
        }
    }
}
