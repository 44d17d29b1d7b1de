//! The connections that were accepted and have not sent a request.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::connection::ConnectionId;

/// How often connections are checked whose first request has not arrived.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The connections of a worker whose first request has not arrived, and when they were accepted, by serial number.
#[derive(Debug, Default)]
pub(super) struct AwaitingRequest {
    accepted: HashMap<u32, (ConnectionId, Instant), RandomState>,
    next_check: Option<Instant>,
}

impl AwaitingRequest {
    pub(super) fn insert(&mut self, id: ConnectionId) {
        let now = Instant::now();
        self.accepted.insert(id.serial, (id, now));
        self.next_check.get_or_insert(now + CHECK_INTERVAL);
    }

    pub(super) fn remove(&mut self, id: ConnectionId) {
        self.accepted.remove(&id.serial);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }

    /// The connections that have waited for this long, if a check is due.
    pub(super) fn overdue(&mut self, limit: Duration) -> Vec<ConnectionId> {
        let Some(now) = self.next_check.map(|_| Instant::now()).filter(|now| Some(*now) >= self.next_check) else {
            return Vec::new();
        };
        self.next_check = (!self.is_empty()).then(|| now + CHECK_INTERVAL);
        self.accepted.shrink_to(2 * self.accepted.len());
        let is_overdue = |accepted: Instant| now.saturating_duration_since(accepted) >= limit;
        self.accepted.values().filter(|(_, accepted)| is_overdue(*accepted)).map(|(id, _)| *id).collect()
    }
}
