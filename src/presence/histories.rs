//! The memory of the histories of all rooms. Each room keeps its latest diffs for clients that resume. All histories
//! together are bounded, and the longest ones are dropped first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Bytes of the histories of all rooms: a thousand rooms at their limit.
const MAX_HISTORY_BYTES: usize = 64 * 1024 * 1024;
/// Histories are compared by powers of two, so that a room seldom changes its class. The first class has up to 512
/// bytes, the last one all from 64 KiB on.
const CLASSES: usize = 9;
const FIRST_CLASS_BYTES: usize = 512;

/// A room, as far as its history is concerned.
pub(super) trait HasHistory: Send + Sync {
    /// Drops the history. Returns how long it was.
    fn give_up_history(&self) -> usize;
}

/// Rooms with histories of about the same length, by room id.
type Class = HashMap<u64, Weak<dyn HasHistory>, RandomState>;

/// The rooms with a history, by its length.
#[derive(Debug)]
pub(super) struct Histories {
    limit: usize,
    bytes: AtomicUsize,
    /// Its lock is taken alone.
    classes: Mutex<[Class; CLASSES]>,
}

impl Default for Histories {
    fn default() -> Self {
        Self::new(MAX_HISTORY_BYTES)
    }
}

/// The class of a history; `None` if it is empty.
fn class_of(bytes: usize) -> Option<usize> {
    let times = bytes.div_ceil(FIRST_CLASS_BYTES).checked_next_power_of_two()?;
    (bytes > 0).then(|| (times.ilog2() as usize).min(CLASSES - 1))
}

impl Histories {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, bytes: AtomicUsize::new(0), classes: Mutex::default() }
    }

    /// The history of a room has changed its length. If all of them are too long, gives up the longest ones.
    pub(super) fn change(&self, id: u64, room: &Arc<impl HasHistory + 'static>, before: usize, after: usize) {
        let bytes = self.count(before, after);
        let (old, new) = (class_of(before), class_of(after));
        if old != new {
            let mut classes = self.classes.lock();
            old.map(|class| classes[class].remove(&id));
            new.map(|class| classes[class].insert(id, Arc::downgrade(room) as Weak<dyn HasHistory>));
        }
        if bytes > self.limit {
            self.give_up(self.limit / 4 * 3);
        }
    }

    /// A room is gone.
    pub(super) fn remove(&self, room: u64, bytes: usize) {
        if let Some(class) = class_of(bytes) {
            self.count(bytes, 0);
            self.classes.lock()[class].remove(&room);
        }
    }

    /// Gives up the longest histories until the rest has at most this many bytes.
    pub(super) fn give_up(&self, rest: usize) {
        while self.bytes.load(Ordering::Relaxed) > rest {
            let mut classes = self.classes.lock();
            let Some(longest) = classes.iter_mut().rev().find(|class| !class.is_empty()) else { return };
            let Some(id) = longest.keys().next().copied() else { return };
            let room = longest.remove(&id).and_then(|room| room.upgrade());
            drop(classes);
            // A room that is being dropped counts its history out itself.
            if let Some(room) = room {
                self.count(room.give_up_history(), 0);
            }
        }
    }

    /// Returns the length of all histories.
    fn count(&self, before: usize, after: usize) -> usize {
        if after >= before {
            self.bytes.fetch_add(after - before, Ordering::Relaxed) + (after - before)
        } else {
            self.bytes.fetch_sub(before - after, Ordering::Relaxed) - (before - after)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A room with a history of this length.
    struct Fake(AtomicUsize);

    impl HasHistory for Fake {
        fn give_up_history(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    fn rooms(ids: std::ops::Range<u64>, bytes: usize, histories: &Histories) -> Vec<Arc<Fake>> {
        let room = |id| {
            let room = Arc::new(Fake(AtomicUsize::new(bytes)));
            histories.change(id, &room, 0, bytes);
            room
        };
        ids.map(room).collect()
    }

    fn kept(rooms: &[Arc<Fake>]) -> usize {
        rooms.iter().filter(|room| room.0.load(Ordering::Relaxed) > 0).count()
    }

    #[test]
    fn the_longest_histories_are_given_up_first() {
        let histories = Histories::new(100_000);
        let small = rooms(0..10, 1_200, &histories);
        let large = rooms(10..20, 20_000, &histories);
        assert!(histories.bytes.load(Ordering::Relaxed) <= 100_000);
        assert_eq!(kept(&small), 10, "short histories are kept");
        assert!((1..5).contains(&kept(&large)));
    }

    #[test]
    fn rooms_that_are_gone_leave_nothing() {
        let histories = Histories::new(100_000);
        drop(rooms(0..10, 7_000, &histories));
        (0..10).for_each(|id| histories.remove(id, 7_000));
        assert_eq!(histories.bytes.load(Ordering::Relaxed), 0);
        assert!(histories.classes.lock().iter().all(HashMap::is_empty));
    }

    #[test]
    fn classes_are_powers_of_two() {
        let class = |bytes: usize| class_of(bytes);
        assert_eq!((class(0), class(1), class(512), class(513)), (None, Some(0), Some(0), Some(1)));
        assert_eq!((class(65 * 1024), class(1 << 30)), (Some(8), Some(8)));
    }
}
