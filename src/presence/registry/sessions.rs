//! Sessions and their leases: a session lasts as long as signs of life renew its lease. A session that gives a sign of
//! life after its lease ended is back in its rooms.

use std::sync::Arc;

use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::Registry;
use crate::presence::kick::Kick;
use crate::presence::rest_sessions::{RestOrigin, RestRefused};
use crate::presence::session::SessionRooms;
use crate::presence::{Credential, Info, Now, Reason, Session, State, Tick};

impl Registry {
    /// Starts a session that has joined no room yet. Its lease starts now.
    pub fn open_session(&self, user: &str, now: Now) -> Arc<Session> {
        let lease_end = now.tick + self.settings.ttl;
        let session = Arc::new(Session::new(self.shared_name(user), lease_end));
        session.begin(now.unix_ms);
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
        self.detach_session_of(session, None, grace, now);
    }

    /// The same for a session that ends when this credential is revoked.
    pub fn detach_session_of(&self, session: &Arc<Session>, credential: Option<Credential>, grace: Tick, now: Now) {
        self.grace.add(session, credential);
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

    /// Ends the kicked sessions that no connection has: those in their grace period, and the one of REST heartbeats,
    /// which belongs to no login.
    pub fn end_kicked_sessions(&self, kick: &Kick, now: Now) {
        let ends = |_: &str, session: &Session, _: Option<&Credential>| kick.ends(session, now.unix_ms);
        let user = Some(&*kick.user);
        let lost = self.grace.take_if(user, ends);
        let rest = if kick.login.is_none() { self.rest_sessions.take_if(user, ends) } else { Vec::new() };
        lost.into_iter().chain(rest).for_each(|session| self.end_session(&session, kick.reason));
    }
}

impl Registry {
    /// Handles a REST heartbeat: keeps `user` online in `room` for one lease. True if it started a new session, which
    /// shows this info. Its user counts for the address it came from; `None` is not limited.
    ///
    /// # Errors
    /// If a limit of users who are online through REST heartbeats is reached.
    pub fn rest_heartbeat(
        &self,
        user: &str,
        room: &str,
        origin: Option<RestOrigin>,
        info: Option<&Info>,
        now: Now,
    ) -> Result<bool, RestRefused> {
        let known = self.rest_sessions.get(user);
        if known.is_some_and(|session| session.lease_end().is_some() && session.renew(now.tick + self.settings.ttl)) {
            return Ok(false);
        }
        self.rest_sessions.admit(origin)?;
        let session = self.open_session(user, now);
        let info = info.filter(|info| !info.as_str().is_empty());
        self.join(&session, room, info.cloned().map(State::of_info), now);
        if let Some(other) = self.rest_sessions.insert(session, origin) {
            // Two requests started a session at the same time. Only the one in the map can be found again.
            self.end_session(&other, Reason::Left);
        }
        Ok(true)
    }

    /// Sets the info of a user's REST session. False if the session shows it already, or one that was issued later.
    pub fn set_rest_info(&self, user: &str, info: &Info, now: Now) -> bool {
        let Some(session) = self.rest_sessions.get(user) else { return false };
        let is_new = {
            let rooms = session.rooms.lock();
            let known = rooms.joined.first().and_then(|joined| joined.state.as_ref()?.info());
            known.map_or(!info.as_str().is_empty(), |known| known.age_key() < info.age_key() && known != info)
        };
        is_new && self.set_info(&session, info, now) > 0
    }

    /// Remembers the credential of a user's REST heartbeats.
    pub fn note_rest_credential(&self, user: &str, credential: Credential) {
        self.rest_sessions.note_credential(user, credential);
    }

    /// Ends the sessions that no connection has whose user and credential this holds for: those of one user, or of all.
    pub fn end_revoked(&self, user: Option<&str>, holds: impl Fn(&str, &Credential) -> bool, reason: Reason) {
        let ends = |user: &str, _: &Session, known: Option<&Credential>| known.is_some_and(|known| holds(user, known));
        let lost = self.grace.take_if(user, ends);
        for session in lost.into_iter().chain(self.rest_sessions.take_if(user, ends)) {
            self.end_session(&session, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Settings;

    fn kick(user: &str, login: Option<u64>, requested_unix_ms: Option<u64>) -> Kick {
        Kick { user: user.into(), login, reason: Reason::Left, requested_unix_ms }
    }

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
        registry.rest_heartbeat("bob", "lobby", None, None, Now::default()).unwrap();
        registry.end_kicked_sessions(&kick("bob", Some(7), None), Now::default());
        assert!(registry.status("bob", "", 0).is_some(), "online through REST heartbeats");
        registry.end_kicked_sessions(&kick("bob", None, None), Now::default());
        assert!(registry.status("bob", "", 0).is_none());
        assert!(registry.status("carol", "", 0).is_some());
        registry.end_kicked_sessions(&kick("nobody", None, None), Now::default());
        // The next heartbeat starts a new session.
        assert_eq!(registry.rest_heartbeat("bob", "lobby", None, None, Now::default()), Ok(true));
        assert!(registry.status("bob", "", 0).is_some());
    }

    #[test]
    fn a_kick_that_arrives_late_ends_what_began_before_it() {
        let registry = registry();
        let now = |second: u64| Now { tick: 1, unix_ms: 1_700_000_000_000 + second * 1000 };
        for (room, second) in [("before", 1), ("after", 3)] {
            let session = registry.open_session("bob", now(second));
            registry.join(&session, room, None, now(second));
            registry.detach_session(&session, TTL, now(second));
        }
        registry.rest_heartbeat("bob", "rest", None, None, now(3)).unwrap();
        registry.end_kicked_sessions(&kick("bob", None, Some(now(2).unix_ms)), now(4));
        let held = |room| registry.is_held_here("bob", room);
        assert_eq!(["before", "after", "rest"].map(held), [false, true, true]);
        registry.end_kicked_sessions(&kick("bob", None, Some(now(3).unix_ms)), now(4));
        assert_eq!(["before", "after", "rest"].map(held), [false; 3]);
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
