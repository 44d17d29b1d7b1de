//! Sessions and their leases: a session lasts as long as something renews it. A session whose lease has ended and that gives a sign of
//! life afterwards is back where it was.

use std::sync::Arc;

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::Registry;
use crate::presence::rest_sessions::RestSessionsFull;
use crate::presence::session::SessionRooms;
use crate::presence::{Now, Reason, Session, Tick};

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
        let due = self.leases.take_due(now.tick);
        let mut alive = Vec::with_capacity(due.len());
        for session in due {
            let Some(lease) = session.lease() else { continue };
            if now.tick <= lease {
                alive.push((lease, session));
            } else if !session.end_unless_renewed(lease) || !self.lapse(&session) {
                alive.push((now.tick, session));
            }
        }
        self.leases.watch_all(alive);
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
        self.rest_sessions.forget(session);
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

    /// Ends the sessions of a user whose connections are lost.
    pub fn end_grace_sessions(&self, user: &str, reason: Reason) {
        self.grace.take(user).for_each(|session| self.end_session(&session, reason));
    }
}

impl Registry {
    /// A REST heartbeat: keeps `user` online in `room` for one lease. True if it started a new session.
    ///
    /// # Errors
    /// If too many users are online this way.
    pub fn rest_heartbeat(&self, user: &str, room: &str, now: Now) -> Result<bool, RestSessionsFull> {
        let known = self.rest_sessions.get(user);
        if known.is_some_and(|session| session.lease().is_some() && session.renew(now.tick + self.settings.ttl)) {
            return Ok(false);
        }
        if self.rest_sessions.is_full() {
            return Err(RestSessionsFull);
        }
        let session = self.open_session(user, now);
        self.join(&session, room, None, now);
        if let Some(other) = self.rest_sessions.insert(session) {
            // Two requests have started a session at the same time: one is enough, and can be found.
            self.end_session(&other, Reason::Left);
        }
        Ok(true)
    }

    /// Ends the session of a user's REST heartbeats.
    pub fn end_rest_session(&self, user: &str, reason: Reason) {
        if let Some(session) = self.rest_sessions.take(user) {
            self.end_session(&session, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Settings;

    const TTL: u64 = 5;

    fn registry() -> Registry {
        Registry::new(Settings { ttl: TTL, workers: 1, incarnation: 1 })
    }

    /// A session that is in a room and whose connection is lost.
    fn lost(registry: &Registry, user: &str) -> Arc<Session> {
        let session = registry.open_session(user, Now::default());
        registry.join(&session, "lobby", None, Now::default());
        registry.detach_session(&session, TTL, Now::default());
        session
    }

    #[test]
    fn what_lingers_can_be_ended_at_once() {
        let registry = registry();
        let (_first, _second, _other) = (lost(&registry, "bob"), lost(&registry, "bob"), lost(&registry, "carol"));
        registry.rest_heartbeat("bob", "lobby", Now::default()).unwrap();
        registry.end_grace_sessions("bob", Reason::Left);
        assert!(registry.status("bob").is_some(), "by its heartbeats");
        registry.end_rest_session("bob", Reason::Left);
        assert!(registry.status("bob").is_none());
        assert!(registry.status("carol").is_some());
        registry.end_grace_sessions("nobody", Reason::Left);
        registry.end_rest_session("nobody", Reason::Left);
        // A heartbeat after that is a new coming.
        assert_eq!(registry.rest_heartbeat("bob", "lobby", Now::default()), Ok(true));
        assert!(registry.status("bob").is_some());
    }

    #[test]
    fn nothing_is_kept_of_a_session_that_has_ended() {
        let registry = registry();
        let session = lost(&registry, "bob");
        registry.end_leases(Now { tick: TTL + 1, unix_ms: 0 });
        assert!(registry.grace.is_empty(), "its lease has ended");
        registry.detach_session(&session, TTL, Now { tick: TTL + 1, unix_ms: 0 });
        assert!(registry.grace.is_empty(), "and had, when its connection was lost");
    }
}
