//! The memory of events that one worker keeps for clients that are far behind.

/// The part of the limit above which each connection has only an equal share: three quarters.
const TIGHT: (usize, usize) = (3, 4);
/// A client may have at least this much: some 600 events.
const LEAST_SHARE: usize = 64 * 1024;

/// The backlogs of all connections of a worker.
#[derive(Debug)]
pub(super) struct Backlogs {
    bytes: usize,
    connections: usize,
    /// The limit of each connection.
    limit: usize,
}

impl Backlogs {
    /// With this limit per connection.
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: 0, connections: 0, limit }
    }

    /// The backlog of a connection has changed from one length to another.
    pub(super) fn change(&mut self, before: usize, after: usize) {
        self.bytes = self.bytes + after - before;
        self.connections = self.connections + usize::from(after > 0) - usize::from(before > 0);
    }

    /// Whether a connection may have this much. The limit of all connections together is eight times that of one; near
    /// it, each connection has an equal share.
    pub(super) fn is_allowed(&self, bytes: usize) -> bool {
        let total = self.limit * 8;
        let is_tight = self.bytes > total / TIGHT.1 * TIGHT.0;
        let share = if is_tight { (total / self.connections.max(1)).max(LEAST_SHARE) } else { self.limit };
        bytes <= share.min(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_the_limit_each_connection_has_an_equal_share() {
        let mut backlogs = Backlogs::new(1_000_000);
        backlogs.change(0, 1_000_000);
        assert!(backlogs.is_allowed(1_000_000) && !backlogs.is_allowed(1_000_001));
        (0..20).for_each(|_| backlogs.change(0, 300_000));
        assert!(!backlogs.is_allowed(1_000_000), "the largest goes first");
        assert!(backlogs.is_allowed(300_000));
        backlogs.change(1_000_000, 0);
        assert!(backlogs.is_allowed(1_000_000));
        (0..20).for_each(|_| backlogs.change(300_000, 0));
        assert_eq!((backlogs.bytes, backlogs.connections), (0, 0));
    }
}
