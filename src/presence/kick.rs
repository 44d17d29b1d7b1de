//! Users who are to go at once: put here by whoever serves the request, taken by the tick to all workers, which close connections.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::presence::Reason;

/// Removals that wait: for a tick, to be told to other nodes, or heard from them.
pub const MAX_WAITING: usize = 10_000;

/// Closes connections of a user and ends their presence.
#[derive(Debug, Clone)]
pub struct Removal {
    /// Whose connections.
    pub user: Arc<str>,
    /// Only those that came with this login; all of them, whatever they speak, if there is none.
    pub login: Option<u64>,
    /// What observers are told.
    pub reason: Reason,
}

/// Those that wait for the next tick.
#[derive(Debug, Default)]
pub struct Removals(Mutex<Vec<Removal>>);

impl Removals {
    /// Has the next tick take it to the workers. False if too many wait.
    pub fn add(&self, removal: Removal) -> bool {
        let mut waiting = self.0.lock();
        let fits = waiting.len() < MAX_WAITING;
        if fits {
            waiting.push(removal);
        }
        fits
    }

    /// Takes all of them.
    pub fn take(&self) -> Arc<[Removal]> {
        std::mem::take(&mut *self.0.lock()).into()
    }
}

/// Numbers of removals that were taken, the latest of them: twice as many as are told again.
#[derive(Debug, Default)]
pub struct Recent {
    numbers: HashSet<u64, RandomState>,
    /// In the order they came.
    order: VecDeque<u64>,
}

impl Recent {
    /// Takes a number. False if it was taken before.
    pub fn is_new(&mut self, number: u64) -> bool {
        let is_new = self.numbers.insert(number);
        if is_new {
            self.order.push_back(number);
        }
        while self.order.len() > 2 * MAX_WAITING {
            let oldest = self.order.pop_front().unwrap_or_default();
            self.numbers.remove(&oldest);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_are_told_again_are_remembered_and_not_all_that_ever_were() {
        let mut seen = Recent::default();
        assert!((0..MAX_WAITING as u64).all(|number| seen.is_new(number)));
        assert!((0..MAX_WAITING as u64).all(|number| !seen.is_new(number)));
        assert!((0..10 * MAX_WAITING as u64).skip(MAX_WAITING).all(|number| seen.is_new(number)));
        assert!(seen.order.len() == 2 * MAX_WAITING && seen.numbers.len() == 2 * MAX_WAITING);
    }

    #[test]
    fn what_waits_has_a_bound() {
        let removals = Removals::default();
        let removal = Removal { user: "bob".into(), login: None, reason: Reason::Kicked };
        assert!((0..MAX_WAITING).all(|_| removals.add(removal.clone())));
        assert!(!removals.add(removal.clone()));
        assert_eq!(removals.take().len(), MAX_WAITING);
        assert!(removals.add(removal) && removals.take().len() == 1);
    }
}
