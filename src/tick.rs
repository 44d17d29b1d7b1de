//! The tick: end leases, settle the rooms in which something moved, encode each change once, hand it to the workers.
//!
//! It does no I/O. What it costs follows what changed: the users that reported something, and the rosters that somebody asked
//! to see whole. Whole rosters are paced: what one observer of a room is sent is bounded in bytes per second by stretching the
//! interval, so a queue never grows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::dialect::{native, online_users};
use crate::presence::{AUDIENCES, Audience, AudienceSet, Now, Registry, Room, RoomChange, Tick};

/// What whole lists and snapshots may cost one observer of a room: 256 KiB a second is some 20,000 names a second, and little
/// enough for a phone.
const EGRESS_BYTES_PER_SECOND: u64 = 256 * 1024;

/// The pages of a snapshot, as finished frames.
pub type Pages = Arc<[Bytes]>;

/// What a tick has to tell the observers of one room.
#[derive(Debug)]
pub struct Update {
    /// The room.
    pub room: Arc<Room>,
    /// Observers who asked before it are served by it.
    pub generation: u64,
    /// The sequence number that the room has now.
    pub seq: u64,
    /// For each audience, the frame for those who are attached.
    pub changes: [Option<Bytes>; AUDIENCES],
    /// For each audience, the frames for those who are not yet.
    pub snapshots: [Option<Pages>; AUDIENCES],
}

/// One tick's work for one worker. It is sent even if there is none: it is the worker's clock.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The moment of the tick.
    pub now: Now,
    /// Rooms in which this worker has observers.
    pub updates: Vec<Arc<Update>>,
}

/// What a tick did, for the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TickCounts {
    /// Rooms visited.
    pub rooms: u64,
    /// Members that joined, changed or left.
    pub changes: u64,
}

/// Turns changes of the registry into batches.
#[derive(Debug)]
pub struct Announcer {
    registry: Arc<Registry>,
    workers: usize,
    /// Bytes of a whole list that go to one observer within a tick.
    egress_per_tick: u64,
    /// Rooms whose whole lists are long enough to be put off. Gone again when the time has come.
    paces: HashMap<u64, Pace>,
}

/// When the whole lists of a room may go out again.
#[derive(Debug, Default)]
struct Pace {
    not_before: [Tick; AUDIENCES],
    /// The list of names was due for those attached and was put off.
    names_owed: bool,
}

impl Announcer {
    /// An announcer for this many workers.
    #[must_use]
    pub fn new(registry: Arc<Registry>, workers: usize, tick: Duration) -> Self {
        let egress_per_tick = (EGRESS_BYTES_PER_SECOND as f64 * tick.as_secs_f64()).max(1.0) as u64;
        Self { registry, workers, egress_per_tick, paces: HashMap::new() }
    }

    /// Does one tick and returns a batch for each worker.
    pub fn tick(&mut self, now: Now) -> (Vec<Batch>, TickCounts) {
        self.registry.end_leases(now);
        let mut batches = vec![Batch { now, updates: Vec::new() }; self.workers];
        let mut counts = TickCounts::default();
        for room in self.registry.take_dirty() {
            let change = self.registry.settle(&room);
            counts.rooms += 1;
            counts.changes += (change.diff.joined.len() + change.diff.updated.len() + change.diff.left.len()) as u64;
            self.announce(&room, &change, now.tick, &mut batches);
        }
        (batches, counts)
    }

    fn announce(&mut self, room: &Arc<Room>, change: &RoomChange, now: Tick, batches: &mut [Batch]) {
        let mut in_use = AudienceSet::default();
        for audience in Audience::ALL {
            if change.observers.iter().any(|observers| observers[audience as usize] > 0) {
                in_use.insert(audience);
            }
        }
        let update = Arc::new(self.encode(room, change, in_use, now));
        for (batch, observers) in batches.iter_mut().zip(&change.observers) {
            if observers.iter().any(|count| *count > 0) {
                batch.updates.push(Arc::clone(&update));
            }
        }
        if change.count == 0 && in_use.is_empty() {
            self.paces.remove(&room.id());
            self.registry.close_if_unused(room);
        }
    }

    fn encode(&mut self, room: &Arc<Room>, change: &RoomChange, in_use: AudienceSet, now: Tick) -> Update {
        let mut update = Update {
            room: Arc::clone(room),
            generation: change.generation,
            seq: change.seq,
            changes: Default::default(),
            snapshots: Default::default(),
        };
        let wanted = |audience| change.wanted.contains(audience) && in_use.contains(audience);
        if !change.diff.is_empty() && change.keeps_history {
            let frame = native::encode_diff(room, change.seq, change.count, &change.diff);
            room.remember(change.seq, frame.clone());
            update.changes[Audience::Members as usize] = Some(frame);
        }
        let counted = change.diff.joined.len() != change.diff.left.len();
        if in_use.contains(Audience::Count) && (counted || wanted(Audience::Count)) {
            let frame = native::encode_count(room, change.seq, change.count);
            update.snapshots[Audience::Count as usize] = Some(Arc::from([frame.clone()]));
            update.changes[Audience::Count as usize] = counted.then_some(frame);
        }
        let mut put_off = AudienceSet::default();
        if wanted(Audience::Members) {
            update.snapshots[Audience::Members as usize] =
                self.paced(room, Audience::Members, now, native::encode_snapshot);
            if update.snapshots[Audience::Members as usize].is_none() {
                put_off.insert(Audience::Members);
            }
        }
        let owed = in_use.contains(Audience::Names) && (change.diff.moved() || self.names_owed(room));
        if owed || wanted(Audience::Names) {
            let list = self.paced(room, Audience::Names, now, encode_names);
            if list.is_none() {
                put_off.insert(Audience::Names);
            }
            self.owe_names(room, owed && list.is_none());
            update.changes[Audience::Names as usize] = list.as_ref().filter(|_| owed).map(|list| list[0].clone());
            update.snapshots[Audience::Names as usize] = list;
        }
        if !put_off.is_empty() {
            self.registry.revisit(room, put_off);
        }
        update
    }

    /// Encodes something whole, unless the last one was so long that observers must not be sent another yet.
    fn paced(&mut self, room: &Arc<Room>, audience: Audience, now: Tick, encode: fn(&Room) -> Pages) -> Option<Pages> {
        if self.paces.get(&room.id()).is_some_and(|pace| now < pace.not_before[audience as usize]) {
            return None;
        }
        let pages = encode(room);
        let bytes: u64 = pages.iter().map(|page| page.len() as u64).sum();
        let pause = bytes / self.egress_per_tick;
        if pause > 0 {
            self.paces.entry(room.id()).or_default().not_before[audience as usize] = now + pause;
        }
        Some(pages)
    }

    fn names_owed(&self, room: &Room) -> bool {
        self.paces.get(&room.id()).is_some_and(|pace| pace.names_owed)
    }

    fn owe_names(&mut self, room: &Room, owed: bool) {
        if let Some(pace) = self.paces.get_mut(&room.id()) {
            pace.names_owed = owed;
        }
    }
}

fn encode_names(room: &Room) -> Pages {
    let list = room.read(|roster| online_users::encode_list(roster.members_after(None).map(|(user, _)| user)));
    Arc::from([list])
}
