//! Kicks: ending the presence of a user at once. The HTTP API adds them, and the tick passes them to all workers, which
//! close the connections.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::presence::Reason;

/// The limit of waiting kicks, in each of three places: for the next tick, for other nodes, and from other nodes.
pub const MAX_WAITING_KICKS: usize = 10_000;

/// A request to close connections of a user and end their presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kick {
    /// The user.
    pub user: Arc<str>,
    /// Only connections with this login; all connections of the user if `None`.
    pub login: Option<u64>,
    /// The reason of the leave that observers see.
    pub reason: Reason,
}

/// Kicks that wait for the next tick.
#[derive(Debug, Default)]
pub struct Kicks(Mutex<Vec<Kick>>);

impl Kicks {
    /// Adds a kick to the next tick. False if [`MAX_WAITING_KICKS`] wait already.
    pub fn add(&self, kick: Kick) -> bool {
        let mut waiting = self.0.lock();
        let fits = waiting.len() < MAX_WAITING_KICKS;
        if fits {
            waiting.push(kick);
        }
        fits
    }

    /// Removes and returns all of them.
    pub fn take(&self) -> Arc<[Kick]> {
        std::mem::take(&mut *self.0.lock()).into()
    }
}

/// The numbers of the latest kicks, so that a kick that is sent again is executed once. Remembers twice as many as can
/// be sent again.
#[derive(Debug, Default)]
pub struct RecentKicks {
    numbers: HashSet<u64, RandomState>,
    /// In the order in which they were added.
    order: VecDeque<u64>,
}

impl RecentKicks {
    /// Adds a number. False if it is known already.
    pub fn is_new(&mut self, number: u64) -> bool {
        let is_new = self.numbers.insert(number);
        if is_new {
            self.order.push_back(number);
        }
        while self.order.len() > 2 * MAX_WAITING_KICKS {
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
    fn recent_kicks_remembers_all_that_can_be_sent_again_but_not_more_than_twice_as_many() {
        let mut recent = RecentKicks::default();
        assert!((0..MAX_WAITING_KICKS as u64).all(|number| recent.is_new(number)));
        assert!((0..MAX_WAITING_KICKS as u64).all(|number| !recent.is_new(number)));
        assert!((0..10 * MAX_WAITING_KICKS as u64).skip(MAX_WAITING_KICKS).all(|number| recent.is_new(number)));
        assert!(recent.order.len() == 2 * MAX_WAITING_KICKS && recent.numbers.len() == 2 * MAX_WAITING_KICKS);
    }

    #[test]
    fn waiting_kicks_are_bounded() {
        let kicks = Kicks::default();
        let kick = Kick { user: "bob".into(), login: None, reason: Reason::Kicked };
        assert!((0..MAX_WAITING_KICKS).all(|_| kicks.add(kick.clone())));
        assert!(!kicks.add(kick.clone()));
        assert_eq!(kicks.take().len(), MAX_WAITING_KICKS);
        assert!(kicks.add(kick) && kicks.take().len() == 1);
    }
}
