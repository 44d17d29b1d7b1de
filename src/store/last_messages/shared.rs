//! What must be exchanged with a shared store: rooms to ask about, and messages to write. By partition, because each
//! may be connected to another server.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;

use super::known::{Known, Source};
use super::{LastMessage, Ms};
use crate::store::deliveries::partition_of;

/// The store may take this long to answer: as long as a pipeline may take.
const PATIENCE_MS: Ms = 1000;
/// The limit of rooms about which the store is being asked, or about whose answers this node knows, in all partitions.
/// Clients can name as many rooms as they like.
const MAX_ASKED: usize = 99_000;

/// What the store has for a room: a message, and for how long it is kept.
pub type Answer = Option<(LastMessage, Duration)>;

/// Why the store is to be given a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// It replaces what the store has.
    New,
    /// The same, and the store had an older one. Other nodes may have read that one, and are told to read again.
    Repaired,
    /// The store has lost its data. A message that it was given since then may be later.
    Lost,
}

/// All partitions.
#[derive(Debug)]
pub(super) struct Shared {
    partitions: Box<[Partition]>,
    /// The limit of rooms in each set of a partition.
    pub(super) max_asked: usize,
}

#[derive(Debug, Default)]
struct Partition {
    /// Whether the store can be asked.
    is_connected: bool,
    /// Counts the times from which on this node has missed nothing. 0 while it has never listened.
    listens_in: u64,
    /// Rooms about which the store was asked in that time and has not answered, and when it was asked.
    waiting: HashMap<Arc<str>, Ms, RandomState>,
    /// Rooms about which it has answered in that time.
    answered: Answered,
    /// Rooms whose questions were not taken.
    questions: Vec<Arc<str>>,
    /// Messages that were published lately.
    unwritten: HashMap<Arc<str>, Unwritten, RandomState>,
    /// Messages that the store has lost.
    lost: HashSet<Arc<str>, RandomState>,
}

/// Rooms about which the store has answered. If there are too many, the earlier half is forgotten.
#[derive(Debug, Default)]
struct Answered {
    earlier: HashSet<Arc<str>, RandomState>,
    latest: HashSet<Arc<str>, RandomState>,
}

impl Answered {
    fn contains(&self, room: &str) -> bool {
        self.latest.contains(room) || self.earlier.contains(room)
    }

    fn insert(&mut self, room: &Arc<str>, max: usize) {
        if self.latest.len() >= max {
            self.earlier = std::mem::take(&mut self.latest);
        }
        self.latest.insert(Arc::clone(room));
    }

    fn remove(&mut self, room: &str) {
        self.latest.remove(room);
        self.earlier.remove(room);
    }
}

impl Partition {
    /// What the store was asked is asked again. Nobody waits longer for that.
    fn missed(&mut self) {
        self.listens_in += 1;
        self.answered = Answered::default();
        self.questions = self.waiting.keys().cloned().collect();
    }
}

impl Shared {
    pub(super) fn new(partitions: usize) -> Self {
        let max_asked = (MAX_ASKED / 3 / partitions.max(1)).max(100);
        Self { partitions: (0..partitions).map(|_| Partition::default()).collect(), max_asked }
    }

    fn of(&mut self, room: &str) -> &mut Partition {
        let partition = partition_of(room, self.partitions.len());
        &mut self.partitions[partition]
    }

    /// This node has heard of a message of the room, so it knows the last one for as long as it listens.
    pub(super) fn heard(&mut self, room: &str, known: &mut Known) {
        let listens_in = self.of(room).listens_in;
        if let Some(last) = known.get_mut(room) {
            last.heard_in = listens_in;
        }
    }

    /// Whether the answer of the store counts that has not come. Has the store asked if it must be. `heard_in` is of
    /// the last message that is known.
    pub(super) fn must_wait(&mut self, room: &Arc<str>, heard_in: Option<u64>, now: Ms) -> bool {
        let max_asked = self.max_asked;
        let partition = self.of(room);
        if !partition.is_connected || heard_in == Some(partition.listens_in) || partition.answered.contains(room) {
            return false;
        }
        if let Some(since) = partition.waiting.get(room) {
            return now < since + PATIENCE_MS;
        }
        // If there are too many questions, what this node knows must do.
        let is_asked = partition.waiting.len() < max_asked;
        if is_asked {
            partition.waiting.insert(Arc::clone(room), now);
            partition.questions.push(Arc::clone(room));
        }
        is_asked
    }

    pub(super) fn listens(&mut self, partition: usize) {
        let partition = &mut self.partitions[partition];
        partition.is_connected = true;
        partition.missed();
    }

    pub(super) fn missed(&mut self, partition: usize) {
        self.partitions[partition].missed();
    }

    pub(super) fn disconnected(&mut self, partition: usize) {
        let partition = &mut self.partitions[partition];
        partition.is_connected = false;
        partition.waiting.clear();
        partition.missed();
    }

    pub(super) fn has_questions(&self, partition: usize) -> bool {
        !self.partitions[partition].questions.is_empty()
    }

    pub(super) fn take_questions(&mut self, partition: usize, limit: usize) -> (u64, Vec<Arc<str>>) {
        let Partition { listens_in, questions, .. } = &mut self.partitions[partition];
        let first = questions.len().saturating_sub(limit);
        (*listens_in, questions.split_off(first))
    }

    pub(super) fn answered(&mut self, partition: usize, number: u64, room: &Arc<str>) {
        let max_asked = self.max_asked;
        let partition = &mut self.partitions[partition];
        // The answer to an earlier question may be out of date.
        if partition.listens_in == number && partition.waiting.remove(room).is_some() {
            partition.answered.insert(room, max_asked);
        }
    }

    /// Has a message written.
    pub(super) fn write(&mut self, room: &Arc<str>, how: Unwritten) {
        let partition = self.of(room);
        match how {
            Unwritten::New => drop(partition.unwritten.insert(Arc::clone(room), how)),
            Unwritten::Repaired => drop(partition.unwritten.entry(Arc::clone(room)).or_insert(how)),
            Unwritten::Lost => drop(partition.lost.insert(Arc::clone(room))),
        }
    }

    /// Has the messages written that this node has published or read. Other nodes write those that it heard of.
    pub(super) fn lost(&mut self, partition: usize, known: &Known) {
        let count = self.partitions.len();
        let is_here = |room: &Arc<str>| partition_of(room, count) == partition;
        let own = known.rooms().filter(|(room, last)| last.source != Source::Heard && is_here(room));
        self.partitions[partition].lost = own.map(|(room, _)| Arc::clone(room)).collect();
    }

    pub(super) fn unwritten(&self, partition: usize) -> usize {
        self.partitions[partition].unwritten.len()
    }

    pub(super) fn lost_messages(&self, partition: usize) -> usize {
        self.partitions[partition].lost.len()
    }

    /// Takes messages that are not written, in one pass, until the caller wants no more of them.
    pub(super) fn take_unwritten(&mut self, partition: usize) -> impl Iterator<Item = (Arc<str>, Unwritten)> {
        self.partitions[partition].unwritten.extract_if(|_, _| true)
    }

    /// The same with those that the store has lost.
    pub(super) fn take_lost(&mut self, partition: usize) -> impl Iterator<Item = (Arc<str>, Unwritten)> {
        self.partitions[partition].lost.extract_if(|_| true).map(|room| (room, Unwritten::Lost))
    }

    /// The message of a room is not known any more: it has ended, or there are too many.
    pub(super) fn dropped(&mut self, room: &str) {
        let partition = self.of(room);
        partition.unwritten.remove(room);
        partition.lost.remove(room);
        partition.answered.remove(room);
    }

    /// The room has no observers any more.
    pub(super) fn closed(&mut self, room: &str) {
        self.of(room).answered.remove(room);
    }
}
