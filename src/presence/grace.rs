//! Sessions in their grace period, by user: their connection is lost, and they last until their lease ends. They are
//! kept here so that they can be ended at once when a user is kicked or signs out.

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::quality::RandomState;
use smallvec::SmallVec;

use super::{Credential, Session};

/// A session without a connection, and the credential that the connection had.
type Detached = (Arc<Session>, Option<Credential>);

/// For each user, one session per connection that was lost within the last lease.
#[derive(Debug)]
pub(super) struct GraceSessions(DashMap<Arc<str>, SmallVec<[Detached; 1]>, RandomState>);

impl GraceSessions {
    pub(super) fn new() -> Self {
        Self(super::sharded())
    }

    pub(super) fn add(&self, session: &Arc<Session>, credential: Option<Credential>) {
        self.0.entry(Arc::clone(session.user())).or_default().push((Arc::clone(session), credential));
        // The lease may have ended before this: then the end did not find the session here and could not remove it.
        if session.lease_end().is_none() {
            self.remove(session);
        }
    }

    pub(super) fn remove(&self, session: &Arc<Session>) {
        self.0.remove_if_mut(session.user(), |_, sessions| {
            sessions.retain(|(known, _)| !Arc::ptr_eq(known, session));
            sessions.is_empty()
        });
    }

    /// Removes and returns the sessions for which this holds, with their credentials: of this user, or of all.
    pub(super) fn take_if(
        &self,
        user: Option<&str>,
        holds: impl Fn(&str, &Session, Option<&Credential>) -> bool,
    ) -> Vec<Arc<Session>> {
        let mut taken = Vec::new();
        let mut take = |user: &Arc<str>, sessions: &mut SmallVec<[Detached; 1]>| {
            sessions.retain(|(session, credential)| {
                let ends = holds(user, session, credential.as_ref());
                taken.extend(ends.then(|| Arc::clone(session)));
                !ends
            });
            !sessions.is_empty()
        };
        match user {
            Some(user) => drop(self.0.remove_if_mut(user, |user, sessions| !take(user, sessions))),
            None => self.0.retain(|user, sessions| take(user, sessions)),
        }
        taken
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
