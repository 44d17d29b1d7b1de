//! Rooms whose number of observers has to be written: at once when a room becomes occupied or vacant, otherwise within
//! a second. The number itself is read when it is written.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::presence::{ObserversChange, Tick};

/// The rooms of one partition.
#[derive(Debug)]
pub(super) struct ObserverCounts {
    /// Rooms to write with the next batch. True if Redis has not been sent that the room is occupied.
    due: HashMap<Arc<str>, bool, RandomState>,
    /// Rooms to write later, and when.
    delayed: HashMap<Arc<str>, Tick, RandomState>,
    /// The same in order of time. Entries that `delayed` does not have are outdated.
    queue: VecDeque<(Tick, Arc<str>)>,
    /// A count is written after this many ticks: at most once per room and second.
    delay: Tick,
    /// The current tick; set by [`mark_due`](Self::mark_due).
    now: Tick,
}

impl ObserverCounts {
    pub(super) fn new(delay: Tick) -> Self {
        let (due, delayed) = (HashMap::default(), HashMap::default());
        Self { due, delayed, queue: VecDeque::new(), delay, now: 0 }
    }

    /// Takes a change. Without a connection, a room that becomes occupied and vacant again is forgotten: otherwise the
    /// rooms would pile up.
    pub(super) fn record(&mut self, room: Arc<str>, change: ObserversChange, is_connected: bool) {
        match change {
            ObserversChange::Occupied => {
                self.delayed.remove(&room);
                self.due.entry(room).or_insert(!is_connected);
            }
            ObserversChange::Vacant => {
                self.delayed.remove(&room);
                match self.due.get(&room) {
                    Some(true) => drop(self.due.remove(&room)),
                    _ => drop(self.due.insert(room, false)),
                }
            }
            ObserversChange::Count if self.due.contains_key(&room) || self.delayed.contains_key(&room) => {}
            ObserversChange::Count => {
                let at = self.now + self.delay;
                self.queue.push_back((at, Arc::clone(&room)));
                self.delayed.insert(room, at);
            }
        }
    }

    /// Moves rooms whose time has come to those that are written with the next batch.
    pub(super) fn mark_due(&mut self, now: Tick) {
        self.now = now;
        while self.queue.front().is_some_and(|(at, _)| *at <= now) {
            let Some((at, room)) = self.queue.pop_front() else { break };
            if self.delayed.get(&room) == Some(&at) {
                self.delayed.remove(&room);
                self.due.insert(room, false);
            }
        }
    }

    /// The number of rooms to write now.
    pub(super) fn due(&self) -> usize {
        self.due.len()
    }

    /// Takes up to `limit` rooms to write.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Arc<str>> {
        self.due.extract_if(|_, _| true).take(limit).map(|(room, _)| room).collect()
    }

    /// Writes a room again, because whether it was written is unknown.
    pub(super) fn put_back(&mut self, room: Arc<str>) {
        self.delayed.remove(&room);
        self.due.insert(room, false);
    }

    /// Forgets all rooms: the hash is rewritten, with all numbers.
    pub(super) fn clear(&mut self) {
        self.due.clear();
        self.delayed.clear();
        self.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Tick = 10;

    fn taken(counts: &mut ObserverCounts) -> Vec<String> {
        let mut rooms: Vec<_> = counts.take(usize::MAX).iter().map(ToString::to_string).collect();
        rooms.sort();
        rooms
    }

    #[test]
    fn occupied_and_vacant_are_written_at_once_and_counts_once_per_second() {
        let mut counts = ObserverCounts::new(DELAY);
        counts.record("lobby".into(), ObserversChange::Occupied, true);
        assert_eq!(taken(&mut counts), ["lobby"]);
        let mut written = 0;
        for now in 1..=100 {
            counts.record("lobby".into(), ObserversChange::Count, true);
            counts.mark_due(now);
            written += taken(&mut counts).len();
        }
        assert!((9..=10).contains(&written), "{written} times in ten seconds");
        counts.record("lobby".into(), ObserversChange::Count, true);
        counts.record("lobby".into(), ObserversChange::Vacant, true);
        assert_eq!(taken(&mut counts), ["lobby"]);
        counts.mark_due(200);
        assert_eq!(taken(&mut counts), [""; 0], "vacant is the last word");
    }

    #[test]
    fn rooms_that_come_and_go_without_a_connection_do_not_pile_up() {
        let mut counts = ObserverCounts::new(DELAY);
        counts.record("known".into(), ObserversChange::Occupied, true);
        taken(&mut counts);
        for now in 0..1000 {
            let room: Arc<str> = format!("room-{now}").into();
            counts.record(Arc::clone(&room), ObserversChange::Occupied, false);
            counts.record(Arc::clone(&room), ObserversChange::Count, false);
            counts.record(room, ObserversChange::Vacant, false);
            counts.record("known".into(), ObserversChange::Vacant, false);
            counts.record("known".into(), ObserversChange::Occupied, false);
            counts.record("known".into(), ObserversChange::Count, false);
            counts.mark_due(now);
            let kept = counts.due.len() + counts.delayed.len() + counts.queue.len();
            assert!(kept <= 1, "{kept} are kept in round {now}");
        }
        counts.record("known".into(), ObserversChange::Vacant, false);
        assert_eq!(taken(&mut counts), ["known"], "Redis knows that it was occupied");
    }
}
