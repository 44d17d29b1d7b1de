//! Sessions and their leases: a session lasts as long as signs of life renew its lease. A session that gives a sign of
//! life after its lease ended is back in its rooms.

use std::sync::Arc;

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::Registry;
use crate::presence::rest_sessions::{MAX_REST_SESSIONS, RestSessionsFull};
use crate::presence::session::SessionRooms;
use crate::presence::{Now, Reason, Session, Tick};

impl Registry {
    /// Starts a session that has joined no room yet. Its lease starts now.
    pub fn open_session(&self, user: &str, now: Now) -> Arc<Session> {
        let lease_end = now.tick + self.settings.ttl;
        let session = Arc::new(Session::new(self.shared_name(user), lease_end));
        self.lease_wheel.insert(lease_end, &session);
        session
    }

    /// Starts a session that lasts until its owner ends it: it is not in the wheel, so its lease is never checked.
    pub fn open_unleased_session(&self, user: &str) -> Arc<Session> {
        // Joins renew this lease like any other, but without an entry in the wheel nothing ever ends it.
        Arc::new(Session::new(self.shared_name(user), 0))
    }

    /// Records a sign of life. A session whose lease had ended is counted in its rooms again.
    pub fn renew(&self, session: &Arc<Session>, now: Now) {
        if !session.renew(now.tick + self.settings.ttl) {
            self.revive(session, now);
        }
    }

    /// Ends the session now: its user leaves the rooms that no other session holds the user in.
    pub fn end_session(&self, session: &Session, reason: Reason) {
        let mut rooms = session.rooms.lock();
        session.end();
        self.count_out_all(session, &mut rooms, reason);
        rooms.joined = SmallVec::new();
    }

    /// Keeps the session after its connection is lost: it ends with its lease, and `grace` ticks from now at the
    /// latest.
    pub fn detach_session(&self, session: &Arc<Session>, grace: Tick, now: Now) {
        self.grace.add(session);
        if grace < self.settings.ttl {
            session.shorten(now.tick + grace);
            self.lease_wheel.insert(now.tick + grace, session);
        }
    }

    /// Ends the sessions whose lease is over.
    pub fn end_leases(&self, now: Now) {
        let due = self.lease_wheel.take_due(now.tick);
        let mut alive = Vec::with_capacity(due.len());
        for session in due {
            let Some(lease_end) = session.lease_end() else { continue };
            if now.tick <= lease_end {
                alive.push((lease_end, session));
            } else if !session.end_unless_renewed(lease_end) || !self.expire(&session) {
                alive.push((now.tick, session));
            }
        }
        self.lease_wheel.insert_all(alive);
    }

    /// Renews the session, and locks its rooms at a moment when they count the session.
    pub(super) fn lock_counted<'a>(&self, session: &'a Arc<Session>, now: Now) -> MutexGuard<'a, SessionRooms> {
        loop {
            self.renew(session, now);
            let rooms = session.rooms.lock();
            if rooms.counted {
                return rooms;
            }
        }
    }

    /// Counts out a session whose lease has just ended. False if it was renewed in the meantime and stays in the wheel.
    fn expire(&self, session: &Arc<Session>) -> bool {
        let mut rooms = session.rooms.lock();
        if session.lease_end().is_some() {
            return false;
        }
        self.count_out_all(session, &mut rooms, Reason::Timeout);
        drop(rooms);
        self.grace.remove(session);
        self.rest_sessions.remove(session);
        true
    }

    /// Counts a session in again that gives a sign of life after its lease ended.
    fn revive(&self, session: &Arc<Session>, now: Now) {
        let mut rooms = session.rooms.lock();
        if rooms.counted {
            return; // This sign of life came before `expire` counted the session out, so it stays in the wheel.
        }
        rooms.counted = true;
        for joined in &mut rooms.joined {
            let name = Arc::clone(joined.room.name());
            // If other sessions hold the user, one of them may have set a state in the meantime; the last one set wins.
            let state = joined.state.as_ref().filter(|_| !self.is_held_here(session.user(), &name));
            joined.room = self.count_in(session.user(), &name, state, now);
        }
        drop(rooms);
        self.lease_wheel.insert(now.tick + self.settings.ttl, session);
    }

    /// Ends the sessions of a user that are in their grace period.
    pub fn end_grace_sessions(&self, user: &str, reason: Reason) {
        self.grace.take(user).for_each(|session| self.end_session(&session, reason));
    }
}

impl Registry {
    /// Handles a REST heartbeat: keeps `user` online in `room` for one lease. True if it started a new session.
    ///
    /// # Errors
    /// If the limit of users who are online through REST heartbeats is reached.
    pub fn rest_heartbeat(&self, user: &str, room: &str, now: Now) -> Result<bool, RestSessionsFull> {
        let known = self.rest_sessions.get(user);
        if known.is_some_and(|session| session.lease_end().is_some() && session.renew(now.tick + self.settings.ttl)) {
            return Ok(false);
        }
        if self.rest_sessions.is_full() {
            return Err(RestSessionsFull { limit: MAX_REST_SESSIONS });
        }
        let session = self.open_session(user, now);
        self.join(&session, room, None, now);
        if let Some(other) = self.rest_sessions.insert(session) {
            // Two requests started a session at the same time. Only the one in the map can be found again.
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

    /// A session that has joined a room and whose connection is lost.
    fn grace_session(registry: &Registry, user: &str) -> Arc<Session> {
        let session = registry.open_session(user, Now::default());
        registry.join(&session, "lobby", None, Now::default());
        registry.detach_session(&session, TTL, Now::default());
        session
    }

    #[test]
    fn grace_and_rest_sessions_of_a_user_can_be_ended_at_once() {
        let registry = registry();
        let lost = |user: &str| grace_session(&registry, user);
        let (_first, _second, _other) = (lost("bob"), lost("bob"), lost("carol"));
        registry.rest_heartbeat("bob", "lobby", Now::default()).unwrap();
        registry.end_grace_sessions("bob", Reason::Left);
        assert!(registry.status("bob").is_some(), "online through REST heartbeats");
        registry.end_rest_session("bob", Reason::Left);
        assert!(registry.status("bob").is_none());
        assert!(registry.status("carol").is_some());
        registry.end_grace_sessions("nobody", Reason::Left);
        registry.end_rest_session("nobody", Reason::Left);
        // The next heartbeat starts a new session.
        assert_eq!(registry.rest_heartbeat("bob", "lobby", Now::default()), Ok(true));
        assert!(registry.status("bob").is_some());
    }

    #[test]
    fn a_session_whose_lease_has_ended_is_not_kept_in_grace() {
        let registry = registry();
        let session = grace_session(&registry, "bob");
        registry.end_leases(Now { tick: TTL + 1, unix_ms: 0 });
        assert!(registry.grace.is_empty(), "the lease ended after the connection was lost");
        registry.detach_session(&session, TTL, Now { tick: TTL + 1, unix_ms: 0 });
        assert!(registry.grace.is_empty(), "the lease ended before the connection was lost");
    }
}
