//! Kicks: ending the presence of a user at once. The HTTP API adds them, and the tick passes them to all workers, which
//! close the connections.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::presence::{Begun, Reason, Session};

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
    /// When another node asked for it, in milliseconds since the Unix epoch: it may arrive late, and the user may have
    /// come back meanwhile. `None` if it is for all connections of this moment.
    pub requested_unix_ms: Option<u64>,
}

impl Kick {
    /// Whether it ends this session of its user.
    #[must_use]
    pub fn ends(&self, session: &Session, now_unix_ms: u64) -> bool {
        self.ends_begun(session.begun(), now_unix_ms)
    }

    /// The same for what began at this time.
    #[must_use]
    pub fn ends_begun(&self, begun: Begun, now_unix_ms: u64) -> bool {
        self.requested_unix_ms.is_none_or(|requested| !begun.is_between(requested, now_unix_ms))
    }
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
    fn a_kick_that_arrives_late_ends_what_began_before_it() {
        const NOW: u64 = 1_700_000_000_000;
        let check = |requested: Option<u64>, begun: u64, expected: bool| {
            let kick = Kick { user: "bob".into(), login: None, reason: Reason::Kicked, requested_unix_ms: requested };
            assert_eq!(kick.ends_begun(Begun::at(begun), NOW), expected, "{requested:?} {begun}");
        };
        let requested = Some(NOW - 5_000);
        check(requested, NOW - 10_000, true);
        check(requested, NOW - 5_000, true);
        check(requested, NOW - 4_800, false);
        check(requested, NOW, false);
        check(requested, NOW - 5 * 365 * 86_400_000, true);
        check(requested, NOW + 60_000, true); // The clock was set back.
        check(None, NOW, true);
        check(Some(NOW + 60_000), NOW, true);
    }

    #[test]
    fn waiting_kicks_are_bounded() {
        let kicks = Kicks::default();
        let kick = Kick { user: "bob".into(), login: None, reason: Reason::Kicked, requested_unix_ms: None };
        assert!((0..MAX_WAITING_KICKS).all(|_| kicks.add(kick.clone())));
        assert!(!kicks.add(kick.clone()));
        assert_eq!(kicks.take().len(), MAX_WAITING_KICKS);
        assert!(kicks.add(kick) && kicks.take().len() == 1);
    }
}
