//! Observers of rooms on other nodes: how many connections each incarnation counts.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::{DashMap, Entry};
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{IncarnationId, is_internal};

/// The limit of rooms with observers on other nodes: bounds what a broken writer can make this node store. Further
/// rooms are not counted.
const MAX_ROOMS: usize = 1_000_000;

/// Counts by room.
#[derive(Debug, Default)]
pub(super) struct RemoteObservers {
    rooms: DashMap<Arc<str>, SmallVec<[RemoteCount; 1]>, RandomState>,
    /// The number of entries in `rooms`; `DashMap::len` would lock every shard.
    count: AtomicUsize,
    /// If a sink or an application needs them: rooms of applications whose observers on other nodes have changed since
    /// the last tick.
    changed: Option<Mutex<HashSet<Arc<str>, RandomState>>>,
}

/// The observers of a room on one other node. Never zero.
#[derive(Debug)]
struct RemoteCount {
    incarnation: IncarnationId,
    /// Of the load that found it. A later load of the same incarnation sweeps older ones.
    generation: u32,
    observers: u64,
}

impl RemoteObservers {
    /// Replaces the count of an incarnation. 0 removes it.
    pub(super) fn set(&self, incarnation: IncarnationId, generation: u32, room: &str, observers: u64) {
        if observers == 0 {
            return self.remove(room, |count| count.incarnation == incarnation);
        }
        let new = RemoteCount { incarnation, generation, observers };
        let before = match self.rooms.entry(Arc::from(room)) {
            Entry::Occupied(mut entry) => {
                let counts = entry.get_mut();
                match counts.iter_mut().find(|count| count.incarnation == incarnation) {
                    Some(count) => std::mem::replace(count, new).observers,
                    None => {
                        counts.push(new);
                        0
                    }
                }
            }
            Entry::Vacant(entry) if self.count.load(Ordering::Relaxed) < MAX_ROOMS => {
                self.count.fetch_add(1, Ordering::Relaxed);
                drop(entry.insert(SmallVec::from_iter([new])));
                0
            }
            Entry::Vacant(_) => return,
        };
        if before != observers {
            self.note_change(room);
        }
    }

    /// Removes the counts of an incarnation that are older than this generation, of the selected rooms. Walks all
    /// rooms.
    pub(super) fn sweep(&self, incarnation: IncarnationId, generation: u32, is_selected: impl Fn(&str) -> bool) {
        let is_old = |count: &RemoteCount| count.incarnation == incarnation && count.generation < generation;
        let has_old = |counts: &SmallVec<[RemoteCount; 1]>| counts.iter().any(is_old);
        let rooms = self.rooms.iter().filter(|entry| has_old(entry.value()) && is_selected(entry.key()));
        let swept: Vec<_> = rooms.map(|entry| Arc::clone(entry.key())).collect();
        swept.iter().for_each(|room| self.remove(room, is_old));
    }

    /// The number of observers of a room on all other nodes.
    pub(super) fn total(&self, room: &str) -> u64 {
        let Some(counts) = self.rooms.get(room) else { return 0 };
        counts.iter().fold(0, |total: u64, count| total.saturating_add(count.observers))
    }

    /// The number of rooms with observers on other nodes.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// All rooms with observers on other nodes. Locks one shard after the other.
    pub(super) fn rooms(&self) -> Vec<Arc<str>> {
        self.rooms.iter().map(|entry| Arc::clone(entry.key())).collect()
    }

    fn remove(&self, room: &str, is_over: impl Fn(&RemoteCount) -> bool) {
        let mut has_changed = false;
        let removed = self.rooms.remove_if_mut(room, |_, counts| {
            let before = counts.len();
            counts.retain(|count| !is_over(count));
            has_changed = counts.len() < before;
            counts.is_empty()
        });
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        if has_changed {
            self.note_change(room);
        }
    }

    /// Has it remember which rooms of applications change.
    pub(super) fn track_changes(&mut self) {
        self.changed = Some(Mutex::default());
    }

    /// Takes the rooms that changed.
    pub(super) fn take_changes(&self) -> impl Iterator<Item = Arc<str>> + use<> {
        self.changed.as_ref().map(|changed| std::mem::take(&mut *changed.lock())).into_iter().flatten()
    }

    fn note_change(&self, room: &str) {
        if let Some(changed) = self.changed.as_ref().filter(|_| is_internal(room)) {
            changed.lock().insert(Arc::from(room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_added_up_replaced_and_swept_per_incarnation() {
        let observers = RemoteObservers::default();
        observers.set(1, 5, "lobby", 3);
        observers.set(2, 6, "lobby", 40);
        observers.set(1, 5, "lobby", 2);
        observers.set(1, 7, "attic", 1);
        assert_eq!((observers.total("lobby"), observers.total("attic"), observers.total("cellar")), (42, 1, 0));
        observers.sweep(1, 7, |_| true);
        assert_eq!((observers.total("lobby"), observers.total("attic")), (40, 1), "a later load has found the attic");
        observers.sweep(1, u32::MAX, |room| room == "cellar");
        assert_eq!(observers.total("attic"), 1, "other rooms are not swept");
        observers.set(2, 6, "lobby", 0);
        assert_eq!((observers.total("lobby"), observers.rooms()), (0, vec!["attic".into()]));
        observers.set(3, 1, "attic", u64::MAX);
        assert_eq!(observers.total("attic"), u64::MAX, "a broken count does not overflow");
        observers.sweep(1, u32::MAX, |_| true);
        observers.sweep(3, u32::MAX, |_| true);
        assert!(observers.rooms.is_empty() && observers.count.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn each_change_in_a_room_of_an_application_is_remembered_once() {
        let mut observers = RemoteObservers::default();
        observers.track_changes();
        let check = |what: &str, act: &dyn Fn(&RemoteObservers), changes: bool| {
            act(&observers);
            let expected = changes.then_some(Arc::from(ROOM));
            assert_eq!(observers.take_changes().collect::<Vec<Arc<str>>>(), Vec::from_iter(expected), "{what}");
        };
        const ROOM: &str = "\0pusher:1:news";
        check("native", &|observers| observers.set(1, 5, "lobby", 3), false);
        check("first", &|observers| observers.set(1, 5, ROOM, 3), true);
        check("same", &|observers| observers.set(1, 6, ROOM, 3), false);
        check("more", &|observers| observers.set(1, 6, ROOM, 4), true);
        check("other node", &|observers| observers.set(2, 6, ROOM, 1), true);
        check("sweep of one", &|observers| observers.sweep(2, 7, |_| true), true);
        check("sweep of none", &|observers| observers.sweep(2, 7, |_| true), false);
        check("last", &|observers| observers.set(1, 7, ROOM, 0), true);
    }

    #[test]
    fn the_number_of_rooms_is_bounded() {
        let observers = RemoteObservers::default();
        observers.count.store(MAX_ROOMS, Ordering::Relaxed);
        observers.set(1, 1, "lobby", 1);
        assert_eq!(observers.total("lobby"), 0);
    }
}
