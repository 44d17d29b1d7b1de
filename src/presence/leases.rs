//! The timing wheel of leases: when to check whether a session has ended. A sign of life does not touch it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Session, Tick, Wheel};

/// How far ahead the wheel looks: longer leases are checked early and put back. A session that has ended stays in the wheel
/// until it is checked, so this bounds how many ended sessions there are, however long leases are.
const HORIZON_TICKS: Tick = 600;

/// The wheel, behind a lock of its own.
#[derive(Debug)]
pub(super) struct Leases(Mutex<Wheel<Arc<Session>>>);

impl Leases {
    pub(super) fn new(ttl: Tick) -> Self {
        Self(Mutex::new(Wheel::new(ttl.min(HORIZON_TICKS) + 1)))
    }

    /// Has the session checked when a lease until `lease` has ended.
    pub(super) fn watch(&self, lease: Tick, session: &Arc<Session>) {
        self.watch_all([(lease, Arc::clone(session))]);
    }

    pub(super) fn watch_all(&self, sessions: impl IntoIterator<Item = (Tick, Arc<Session>)>) {
        let mut wheel = self.0.lock();
        for (lease, session) in sessions {
            wheel.insert(lease + 1, session);
        }
    }

    /// Takes the sessions whose lease may have ended.
    pub(super) fn take_due(&self, now: Tick) -> Vec<Arc<Session>> {
        let mut due = Vec::new();
        self.0.lock().take_due(now, &mut due);
        due
    }
}
