//! Users who are to go at once: put here by whoever serves the request, taken by the tick to all workers, which close connections.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::presence::Reason;

/// Kicks that wait: for a tick, to be told to other nodes, or heard from them.
pub const MAX_WAITING: usize = 10_000;

/// Closes connections of a user and ends their presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kick {
    /// Whose connections.
    pub user: Arc<str>,
    /// Only those that came with this login; all of them, whatever they speak, if there is none.
    pub login: Option<u64>,
    /// What observers are told.
    pub reason: Reason,
}

/// Those that wait for the next tick.
#[derive(Debug, Default)]
pub struct Kicks(Mutex<Vec<Kick>>);

impl Kicks {
    /// Has the next tick take it to the workers. False if too many wait.
    pub fn add(&self, kick: Kick) -> bool {
        let mut waiting = self.0.lock();
        let fits = waiting.len() < MAX_WAITING;
        if fits {
            waiting.push(kick);
        }
        fits
    }

    /// Takes all of them.
    pub fn take(&self) -> Arc<[Kick]> {
        std::mem::take(&mut *self.0.lock()).into()
    }
}

/// Numbers of kicks that were taken, the latest of them: twice as many as are told again.
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
        let kicks = Kicks::default();
        let kick = Kick { user: "bob".into(), login: None, reason: Reason::Kicked };
        assert!((0..MAX_WAITING).all(|_| kicks.add(kick.clone())));
        assert!(!kicks.add(kick.clone()));
        assert_eq!(kicks.take().len(), MAX_WAITING);
        assert!(kicks.add(kick) && kicks.take().len() == 1);
    }
}
