//! Sessions without an owner, by user: their connection is lost, and they last until their lease ends. Nobody else could end
//! them sooner, as it must be done when a user is to go at once.

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::quality::RandomState;
use smallvec::SmallVec;

use super::{Reason, Registry, Session};

/// The sessions of one user: one for each connection that was lost within a lease.
#[derive(Debug)]
pub(super) struct GraceSessions(DashMap<Arc<str>, SmallVec<[Arc<Session>; 1]>, RandomState>);

impl GraceSessions {
    pub(super) fn new() -> Self {
        Self(super::registry::sharded())
    }

    pub(super) fn add(&self, session: &Arc<Session>) {
        self.0.entry(Arc::clone(session.user())).or_default().push(Arc::clone(session));
        // Its lease may have ended before, or just now: whoever ends one takes it out, but found nothing here then.
        if session.lease().is_none() {
            self.remove(session);
        }
    }

    pub(super) fn remove(&self, session: &Arc<Session>) {
        self.0.remove_if_mut(session.user(), |_, sessions| {
            sessions.retain(|held| !Arc::ptr_eq(held, session));
            sessions.is_empty()
        });
    }
}

impl Registry {
    /// Ends the sessions of a user whose connections are lost.
    pub fn end_grace_sessions(&self, user: &str, reason: Reason) {
        let sessions = self.grace.0.remove(user).map(|(_, sessions)| sessions);
        sessions.into_iter().flatten().for_each(|session| self.end_session(&session, reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{Now, Settings};

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
        assert!(registry.grace.0.is_empty(), "its lease has ended");
        registry.detach_session(&session, TTL, Now { tick: TTL + 1, unix_ms: 0 });
        assert!(registry.grace.0.is_empty(), "and had, when its connection was lost");
    }
}
