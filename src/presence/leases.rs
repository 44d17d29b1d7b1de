//! Leases: a session lasts as long as somebody renews it. Whose time has come is found on a wheel, which a sign of life does not
//! touch; a session that lapsed and is heard of again is back where it was.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::session::SessionRooms;
use super::{Now, Reason, Registry, Session, Tick, Wheel};

/// How far ahead the wheel looks: longer leases are looked at early and put back. A session that has ended stays in the wheel
/// until it is looked at, so this bounds how many of those there are, however long leases are.
const HORIZON_TICKS: Tick = 600;

/// When to look whether a session has ended.
#[derive(Debug)]
pub(super) struct Leases(Mutex<Wheel<Arc<Session>>>);

impl Leases {
    pub(super) fn new(ttl: Tick) -> Self {
        Self(Mutex::new(Wheel::new(ttl.min(HORIZON_TICKS) + 1)))
    }

    fn watch(&self, lease: Tick, session: &Arc<Session>) {
        self.0.lock().insert(lease + 1, Arc::clone(session));
    }
}

impl Registry {
    /// Starts a session that has not joined anything yet. Its lease starts now.
    pub fn open_session(&self, user: &str, now: Now) -> Arc<Session> {
        let lease = now.tick + self.settings.ttl;
        let session = Arc::new(Session::new(self.shared_name(user), lease));
        self.leases.watch(lease, &session);
        session
    }

    /// Starts a session without a lease: no wheel looks at it, and it lasts until its owner ends it.
    pub fn open_unleased_session(&self, user: &str) -> Arc<Session> {
        // Each join writes an ordinary lease over this one, and no wheel looks at either.
        Arc::new(Session::new(self.shared_name(user), 0))
    }

    /// Records a sign of life. A session whose lease had ended is back in its rooms.
    pub fn renew(&self, session: &Arc<Session>, now: Now) {
        if !session.renew(now.tick + self.settings.ttl) {
            self.revive(session, now);
        }
    }

    /// Ends the session now: its user leaves wherever this was the last one.
    pub fn end_session(&self, session: &Session, reason: Reason) {
        let mut rooms = session.rooms.lock();
        session.end();
        self.count_out_all(session, &mut rooms, reason);
        rooms.joined = SmallVec::new();
    }

    /// Lets the session linger without an owner: it ends when its lease does, but no later than `grace` ticks from now.
    pub fn detach_session(&self, session: &Arc<Session>, grace: Tick, now: Now) {
        self.grace.add(session);
        if grace < self.settings.ttl {
            session.shorten(now.tick + grace);
            self.leases.watch(now.tick + grace, session);
        }
    }

    /// Ends the sessions whose lease has run out.
    pub fn end_leases(&self, now: Now) {
        let mut due = Vec::new();
        self.leases.0.lock().take_due(now.tick, &mut due);
        let mut alive = Vec::with_capacity(due.len());
        for session in due {
            let Some(lease) = session.lease() else { continue };
            if now.tick <= lease {
                alive.push((lease, session));
            } else if !session.end_unless_renewed(lease) || !self.lapse(&session) {
                alive.push((now.tick, session));
            }
        }
        let mut leases = self.leases.0.lock();
        for (lease, session) in alive {
            leases.insert(lease + 1, session);
        }
    }

    /// Renews the session and holds its rooms at a moment when it counts in them.
    pub(super) fn lock_counted<'a>(&self, session: &'a Arc<Session>, now: Now) -> MutexGuard<'a, SessionRooms> {
        loop {
            self.renew(session, now);
            let rooms = session.rooms.lock();
            if rooms.counted {
                return rooms;
            }
        }
    }

    /// Counts a session out whose lease has just ended. False if it was renewed meanwhile and must be watched on.
    fn lapse(&self, session: &Arc<Session>) -> bool {
        let mut rooms = session.rooms.lock();
        if session.lease().is_some() {
            return false;
        }
        self.count_out_all(session, &mut rooms, Reason::Timeout);
        drop(rooms);
        self.grace.remove(session);
        self.requests.forget(session);
        true
    }

    /// Counts a session in again that lapsed and then gave a sign of life.
    fn revive(&self, session: &Arc<Session>, now: Now) {
        let mut rooms = session.rooms.lock();
        if rooms.counted {
            return; // It never lapsed: the end of its lease was overtaken by this sign of life, and the wheel keeps it.
        }
        rooms.counted = true;
        for joined in &mut rooms.joined {
            let name = Arc::clone(joined.room.name());
            // Others may have written a state meanwhile, and the last one written wins.
            let state = joined.state.as_ref().filter(|_| !self.is_member(session.user(), &name));
            joined.room = self.count_in(session.user(), &name, state, now);
        }
        drop(rooms);
        self.leases.watch(now.tick + self.settings.ttl, session);
    }
}
