//! The rate limit of messages per connection.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::protocol::MAX_MESSAGES_PER_SECOND;

/// The number of messages that each connection has published in the current second. Only connections that publish have
/// an entry, and each second begins without entries, so idle connections need no memory and ticks need no work.
#[derive(Debug, Default)]
pub(super) struct RateLimits {
    /// Since the Unix epoch.
    second: u64,
    published: HashMap<u32, u32, RandomState>,
}

impl RateLimits {
    /// Counts a message of the connection with this serial number. False if it exceeds the limit.
    pub(super) fn allow(&mut self, serial: u32, second: u64) -> bool {
        if std::mem::replace(&mut self.second, second) != second {
            self.published = HashMap::default();
        }
        let published = self.published.entry(serial).or_default();
        *published += 1;
        *published <= MAX_MESSAGES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_has_its_own_limit_per_second() {
        let mut limits = RateLimits::default();
        for _ in 0..MAX_MESSAGES_PER_SECOND {
            assert!(limits.allow(1, 5));
        }
        assert!(!limits.allow(1, 5));
        assert!(limits.allow(2, 5));
        assert!(limits.allow(1, 6));
    }
}
