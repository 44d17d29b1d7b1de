//! The timing wheel of leases: when to check whether the lease of a session has ended. A sign of life does not touch
//! it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Session, Tick, Wheel};

/// How far ahead the wheel reaches: longer leases are checked early and put back. A session that has ended stays in the
/// wheel until it is checked, so this bounds the number of ended sessions, however long leases are.
const HORIZON_TICKS: Tick = 600;

/// The wheel, behind its own lock.
#[derive(Debug)]
pub(super) struct LeaseWheel(Mutex<Wheel<Arc<Session>>>);

impl LeaseWheel {
    pub(super) fn new(ttl: Tick) -> Self {
        Self(Mutex::new(Wheel::new(ttl.min(HORIZON_TICKS) + 1)))
    }

    /// Makes [`LeaseWheel::take_due`] return the session in the first tick after `lease_end`.
    pub(super) fn insert(&self, lease_end: Tick, session: &Arc<Session>) {
        self.insert_all([(lease_end, Arc::clone(session))]);
    }

    pub(super) fn insert_all(&self, sessions: impl IntoIterator<Item = (Tick, Arc<Session>)>) {
        let mut wheel = self.0.lock();
        for (lease_end, session) in sessions {
            wheel.insert(lease_end + 1, session);
        }
    }

    /// Takes the sessions whose lease may have ended.
    pub(super) fn take_due(&self, now: Tick) -> Vec<Arc<Session>> {
        let mut due = Vec::new();
        self.0.lock().take_due(now, &mut due);
        due
    }
}
