//! Sessions of users who are online through REST heartbeats alone: one for each, found by name at the next heartbeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use foldhash::quality::RandomState;

use super::{Now, Reason, Registry, Session};

/// Users that may be online through REST heartbeats alone: bounds what a flood of invented names can hold for one lease.
const MAX_SESSIONS: usize = 1_000_000;

/// No more users can be online through REST heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestSessionsFull;

/// By user.
#[derive(Debug)]
pub(super) struct RestSessions {
    sessions: DashMap<Arc<str>, Arc<Session>, RandomState>,
    /// Entries in `sessions`; `DashMap::len` would lock every shard.
    count: AtomicUsize,
}

impl RestSessions {
    pub(super) fn new() -> Self {
        Self { sessions: super::registry::sharded(), count: AtomicUsize::new(0) }
    }

    /// Forgets a session that has ended.
    pub(super) fn forget(&self, session: &Arc<Session>) {
        if self.sessions.remove_if(session.user(), |_, held| Arc::ptr_eq(held, session)).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Registry {
    /// A REST heartbeat: keeps `user` online in `room` for one lease. True if that brought a new session.
    pub fn rest_heartbeat(&self, user: &str, room: &str, now: Now) -> Result<bool, RestSessionsFull> {
        let requests = &self.requests;
        let known = requests.sessions.get(user).map(|session| Arc::clone(&session));
        if known.is_some_and(|session| session.lease().is_some() && session.renew(now.tick + self.settings.ttl)) {
            return Ok(false);
        }
        if requests.count.load(Ordering::Relaxed) >= MAX_SESSIONS {
            return Err(RestSessionsFull);
        }
        let session = self.open_session(user, now);
        self.join(&session, room, None, now);
        match requests.sessions.insert(Arc::clone(session.user()), session) {
            None => drop(requests.count.fetch_add(1, Ordering::Relaxed)),
            // Two requests have brought the user in at the same time: one session is enough, and can be found.
            Some(other) => self.end_session(&other, Reason::Left),
        }
        Ok(true)
    }

    /// Ends the session of a user's REST heartbeats.
    pub fn end_rest_session(&self, user: &str, reason: Reason) {
        if let Some((_, session)) = self.requests.sessions.remove(user) {
            self.requests.count.fetch_sub(1, Ordering::Relaxed);
            self.end_session(&session, reason);
        }
    }
}
