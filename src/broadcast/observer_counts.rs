//! When observers of a room, or sinks, are told how many observers the room has on all nodes: in the tick in which the
//! number changes, but with many observers only after a pause. The last number is told in the end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;

use super::encoder::Encoders;
use super::{Broadcaster, ObserverCount};
use crate::presence::{AudienceSet, Room, Tick, is_internal};

/// With more observers than this, the number is told after a pause: each new one of them would cause a message to all.
const MANY: u64 = 100;
/// The pause.
const PAUSE: Duration = Duration::from_secs(5);

/// What was told of rooms. Pure: the time is passed in.
#[derive(Debug)]
pub(super) struct ObserverCounts {
    pause: Tick,
    /// Rooms of which a number was told. [`ObserverCounts::forget`] removes them.
    rooms: HashMap<Arc<str>, Told, RandomState>,
    /// Rooms of which a number is told after a pause, by the tick that ends the pause.
    due: BTreeMap<Tick, Vec<Arc<str>>>,
}

/// What was told of a room.
#[derive(Debug)]
struct Told {
    number: u64,
    at: Tick,
    /// Whether the number was another one since then. New observers were told that one.
    is_outdated: bool,
    /// Whether the room is in `due`.
    is_queued: bool,
}

impl ObserverCounts {
    /// With ticks of this length.
    pub(super) fn new(tick: Duration) -> Self {
        let pause = PAUSE.as_micros().div_ceil(tick.as_micros().max(1)) as Tick;
        Self { pause, rooms: HashMap::default(), due: BTreeMap::new() }
    }

    /// Takes the number of observers of a room. Whether it is told now.
    pub(super) fn is_told(&mut self, room: &Arc<str>, number: u64, now: Tick) -> bool {
        let Some(told) = self.rooms.get_mut(room) else {
            if number > 0 {
                let told = Told { number, at: now, is_outdated: false, is_queued: false };
                self.rooms.insert(Arc::clone(room), told);
            }
            return number > 0;
        };
        told.is_outdated |= told.number != number;
        if !told.is_outdated {
            return false;
        }
        let pause_ends = told.at + self.pause;
        if number > MANY && now < pause_ends {
            if !std::mem::replace(&mut told.is_queued, true) {
                self.due.entry(pause_ends).or_default().push(Arc::clone(room));
            }
            return false;
        }
        (told.number, told.at, told.is_outdated) = (number, now, false);
        if number == 0 {
            self.forget(room);
        }
        true
    }

    /// The rooms whose pause is over.
    pub(super) fn take_due(&mut self, now: Tick) -> Vec<Arc<str>> {
        if self.due.first_key_value().is_none_or(|(tick, _)| *tick > now) {
            return Vec::new();
        }
        let later = self.due.split_off(&(now + 1));
        let rooms: Vec<_> = std::mem::replace(&mut self.due, later).into_values().flatten().collect();
        for room in &rooms {
            if let Some(told) = self.rooms.get_mut(room) {
                told.is_queued = false;
            }
        }
        rooms
    }

    /// Nobody is told of the room any more.
    pub(super) fn forget(&mut self, room: &str) {
        if !self.rooms.is_empty() {
            self.rooms.remove(room);
        }
    }
}

impl Encoders {
    /// Whether observers of this room are told their number.
    pub(super) fn announce_count(&self, room: &str) -> bool {
        is_internal(room) && self.audiences.iter().any(|encoder| encoder.announces_count(room))
    }
}

impl Broadcaster {
    /// Has this tick settle the rooms whose observers are told a number although nothing happened on this node.
    pub(super) fn queue_counted_rooms(&mut self, now: Tick) {
        let changed: Vec<_> = self.registry.take_observer_changes().collect();
        for name in self.observer_counts.take_due(now).iter().chain(&changed) {
            if self.encoders.announce_count(name)
                && let Some(room) = self.registry.room(name)
            {
                self.registry.defer(&room, AudienceSet::default());
            }
        }
        self.reporter.touch_channels(&changed);
    }

    /// The number of observers of a room, if they are told it.
    pub(super) fn count_observers(&mut self, room: &Room, in_use: AudienceSet, now: Tick) -> Option<ObserverCount> {
        let name = room.name();
        if !is_internal(name) {
            return None;
        }
        let mut encoders = in_use.iter().filter_map(|audience| self.encoders.audiences.get(audience.index()));
        if !encoders.any(|encoder| encoder.announces_count(name)) {
            self.observer_counts.forget(name);
            return None;
        }
        let number = self.registry.observers_at_tick(name);
        Some(ObserverCount { number, is_due: self.observer_counts.is_told(name, number, now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn check(counts: &mut ObserverCounts, (number, now): (u64, Tick), expected: bool) {
        assert_eq!(counts.is_told(&"news".into(), number, now), expected, "{number} at {now}");
    }

    #[test]
    fn a_number_is_told_when_it_changes() {
        let mut counts = ObserverCounts::new(TICK);
        for (number, expected) in [(0, false), (1, true), (1, false), (100, true), (99, true), (0, true), (0, false)] {
            check(&mut counts, (number, 7), expected);
        }
        check(&mut counts, (1, 7), true);
        counts.forget("news");
        check(&mut counts, (1, 7), true);
        assert!(counts.take_due(Tick::MAX - 1).is_empty());
    }

    #[test]
    fn with_many_observers_it_is_told_after_a_pause_and_the_last_one_in_the_end() {
        let mut counts = ObserverCounts::new(TICK);
        check(&mut counts, (101, 10), true);
        check(&mut counts, (102, 11), false);
        check(&mut counts, (103, 12), false);
        assert!(counts.take_due(59).is_empty());
        assert_eq!(counts.take_due(60), [Arc::from("news")]);
        check(&mut counts, (103, 60), true);
        // Few observers are told at once.
        check(&mut counts, (100, 61), true);
        check(&mut counts, (101, 62), false);
        check(&mut counts, (99, 63), true);
        assert_eq!(counts.take_due(111), [Arc::from("news")]);
        check(&mut counts, (99, 111), false);
    }

    #[test]
    fn a_number_is_told_again_if_new_observers_were_told_another_one() {
        let mut counts = ObserverCounts::new(TICK);
        check(&mut counts, (150, 10), true);
        check(&mut counts, (151, 11), false);
        check(&mut counts, (150, 12), false);
        assert_eq!(counts.take_due(60).len(), 1);
        check(&mut counts, (150, 60), true);
        check(&mut counts, (150, 200), false);
    }

    #[test]
    fn the_pause_is_five_seconds_however_long_a_tick_is() {
        for (tick_ms, ticks) in [(10, 500), (100, 50), (1000, 5), (3000, 2), (60_000, 1)] {
            assert_eq!(ObserverCounts::new(Duration::from_millis(tick_ms)).pause, ticks);
        }
    }
}
