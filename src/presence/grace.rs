//! Sessions in their grace period, by user: their connection is lost, and they last until their lease ends. They are
//! kept here so that they can be ended at once when a user is kicked or signs out.

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::quality::RandomState;
use smallvec::SmallVec;

use super::Session;

/// For each user, one session per connection that was lost within the last lease.
#[derive(Debug)]
pub(super) struct GraceSessions(DashMap<Arc<str>, SmallVec<[Arc<Session>; 1]>, RandomState>);

impl GraceSessions {
    pub(super) fn new() -> Self {
        Self(super::sharded())
    }

    pub(super) fn add(&self, session: &Arc<Session>) {
        self.0.entry(Arc::clone(session.user())).or_default().push(Arc::clone(session));
        // The lease may have ended before this: then the end did not find the session here and could not remove it.
        if session.lease_end().is_none() {
            self.remove(session);
        }
    }

    pub(super) fn remove(&self, session: &Arc<Session>) {
        self.0.remove_if_mut(session.user(), |_, sessions| {
            sessions.retain(|known| !Arc::ptr_eq(known, session));
            sessions.is_empty()
        });
    }

    /// Removes and returns the sessions of a user.
    pub(super) fn take(&self, user: &str) -> impl Iterator<Item = Arc<Session>> {
        self.0.remove(user).into_iter().flat_map(|(_, sessions)| sessions)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
