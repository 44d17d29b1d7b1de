//! A hashed timing wheel: entries that are due at a tick, in slots of one tick each.
//!
//! An entry does not move when its lease is renewed. It is taken at its original due tick; the owner compares it with
//! the last sign of life and puts it back if the lease goes on. So a heartbeat costs the wheel nothing, and the cost of
//! a tick is that of the entries due in it (Varghese & Lauck 1987, scheme 6, with lazy re-insertion).

use super::Tick;

/// Entries of type `T`, each with the tick in which it is due.
#[derive(Debug)]
pub struct Wheel<T> {
    /// Slot `tick & mask` has the entries due at `tick`. The number of slots is a power of two.
    slots: Box<[Vec<T>]>,
    mask: u64,
    /// The last tick whose entries were taken. No entry is due at or before it.
    taken: Tick,
}

impl<T> Wheel<T> {
    /// An empty wheel for entries due up to `horizon` ticks after the last tick taken.
    #[must_use]
    pub fn new(horizon: u64) -> Self {
        let slots = (horizon + 2).next_power_of_two();
        Self { slots: (0..slots).map(|_| Vec::new()).collect(), mask: slots - 1, taken: 0 }
    }

    /// Adds an entry that [`Wheel::take_due`] returns at tick `due`: at the next tick if `due` has passed, at the
    /// horizon if `due` is beyond it (the owner checks the entry early then and puts it back).
    pub fn insert(&mut self, due: Tick, entry: T) {
        let due = due.clamp(self.taken + 1, self.taken + self.mask);
        self.slots[(due & self.mask) as usize].push(entry);
    }

    /// Moves everything due at or before `now` to `due`.
    pub fn take_due(&mut self, now: Tick, due: &mut Vec<T>) {
        let turns = now.saturating_sub(self.taken).min(self.mask + 1);
        for tick in now + 1 - turns..=now {
            // Frees the slot's memory: otherwise one burst would stay allocated in every slot that it passes through.
            due.append(&mut std::mem::take(&mut self.slots[(tick & self.mask) as usize]));
        }
        self.taken = self.taken.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_are_taken_at_their_tick() {
        let mut wheel = Wheel::new(10);
        wheel.insert(3, "three");
        wheel.insert(10, "ten");
        let mut due = Vec::new();
        wheel.take_due(2, &mut due);
        assert!(due.is_empty());
        wheel.take_due(3, &mut due);
        assert_eq!(due, ["three"]);
        wheel.take_due(100, &mut due);
        assert_eq!(due, ["three", "ten"]);
    }

    #[test]
    fn an_entry_that_is_overdue_is_taken_at_the_next_tick() {
        let mut wheel = Wheel::new(10);
        let mut due = Vec::new();
        wheel.take_due(50, &mut due);
        wheel.insert(7, "late");
        wheel.take_due(51, &mut due);
        assert_eq!(due, ["late"]);
    }

    proptest! {
        #[test]
        fn every_entry_is_taken_exactly_when_it_is_due(
            inserts in prop::collection::vec((0u64..40, 0u64..40), 1..60),
            horizon in 1u64..40,
        ) {
            let mut wheel = Wheel::new(horizon);
            let mut waiting: Vec<(Tick, Tick)> = Vec::new();
            let mut now = 0;
            for (ahead, step) in inserts {
                let due = now + ahead.min(horizon);
                wheel.insert(due, (due.max(now + 1), due));
                waiting.push((due.max(now + 1), due));
                now += step;
                let mut out = Vec::new();
                wheel.take_due(now, &mut out);
                out.sort_unstable();
                let mut expected: Vec<_> = waiting.iter().copied().filter(|(at, _)| *at <= now).collect();
                expected.sort_unstable();
                waiting.retain(|(at, _)| *at > now);
                prop_assert_eq!(out, expected);
            }
        }
    }
}
