//! Sessions without an owner, by user: their connection is lost, and they last until their lease ends. Nobody else could end
//! them sooner, as it must be done when a user is to go at once.

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::quality::RandomState;
use smallvec::SmallVec;

use super::Session;

/// The sessions of one user: one for each connection that was lost within a lease.
#[derive(Debug)]
pub(super) struct GraceSessions(DashMap<Arc<str>, SmallVec<[Arc<Session>; 1]>, RandomState>);

impl GraceSessions {
    pub(super) fn new() -> Self {
        Self(super::sharded())
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

    /// Takes the sessions of a user.
    pub(super) fn take(&self, user: &str) -> impl Iterator<Item = Arc<Session>> {
        self.0.remove(user).into_iter().flat_map(|(_, sessions)| sessions)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
