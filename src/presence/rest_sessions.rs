//! Sessions of users who are online through REST heartbeats: one per user, found by user id at the next heartbeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use foldhash::quality::RandomState;

use super::Session;

/// Users who can be online through REST heartbeats: bounds the memory that a flood of invented user ids takes for one
/// lease.
pub(super) const MAX_REST_SESSIONS: usize = 1_000_000;

/// No more users can be online through REST heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestSessionsFull {
    /// The limit of such users.
    pub limit: usize,
}

/// The sessions, by user.
#[derive(Debug)]
pub(super) struct RestSessions {
    sessions: DashMap<Arc<str>, Arc<Session>, RandomState>,
    /// Entries in `sessions`; `DashMap::len` would lock every shard.
    count: AtomicUsize,
}

impl RestSessions {
    pub(super) fn new() -> Self {
        Self { sessions: super::sharded(), count: AtomicUsize::new(0) }
    }

    pub(super) fn get(&self, user: &str) -> Option<Arc<Session>> {
        self.sessions.get(user).map(|session| Arc::clone(&session))
    }

    pub(super) fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= MAX_REST_SESSIONS
    }

    /// Adds a session. Returns the session that it replaces.
    pub(super) fn insert(&self, session: Arc<Session>) -> Option<Arc<Session>> {
        let replaced = self.sessions.insert(Arc::clone(session.user()), session);
        if replaced.is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        replaced
    }

    /// Removes a session that has ended.
    pub(super) fn remove(&self, session: &Arc<Session>) {
        if self.sessions.remove_if(session.user(), |_, known| Arc::ptr_eq(known, session)).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Removes and returns the session of a user.
    pub(super) fn take(&self, user: &str) -> Option<Arc<Session>> {
        let (_, session) = self.sessions.remove(user)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(session)
    }
}
