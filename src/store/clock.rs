//! The clock of this node, compared with that of the store.
//!
//! Messages are ordered by the times at which their nodes published them. A clock that is far ahead would make its
//! messages the latest for as long, and they would displace all others from the histories. So all nodes measure with
//! the clock of the store: a node whose own clock is far from it gives messages the time of the store, and no node
//! keeps messages that are far in the future.

use std::time::{Duration, Instant};

use crate::os::unix_ms;

/// Clocks that differ by less are right: network time is better than this, and measuring is not exact.
const TOLERANCE_MS: u64 = 10_000;
/// Messages whose times are later than now by more than this have their times from a wrong clock.
const MAX_AHEAD_MS: u64 = 60_000;

/// How far the clock of this node is ahead of the store's, in milliseconds; `None` if that is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreClock(pub Option<i64>);

impl StoreClock {
    /// Whether the clock of this node is wrong, as far as the store knows.
    #[must_use]
    pub fn differs(self) -> bool {
        self.0.is_some_and(|ahead_ms| ahead_ms.unsigned_abs() > TOLERANCE_MS)
    }

    /// The time for messages: that of this node, or of the store if they differ.
    #[must_use]
    pub fn message_time(self, unix_ms: u64) -> u64 {
        let ahead_ms = self.0.filter(|_| self.differs()).unwrap_or_default();
        unix_ms.saturating_add_signed(ahead_ms.saturating_neg())
    }

    /// The latest time that a message can have at this moment. Without a store to compare with, any.
    #[must_use]
    pub fn latest_message_time(self, unix_ms: u64) -> u64 {
        self.0.map_or(u64::MAX, |_| self.message_time(unix_ms).saturating_add(MAX_AHEAD_MS))
    }
}

/// The result of a comparison. It holds until the clock of this node is set, or this process has slept.
#[derive(Debug, Clone, Copy)]
pub struct ComparedClocks {
    ahead_ms: i64,
    /// When the clocks were compared.
    unix_ms: u64,
    at: Instant,
}

impl ComparedClocks {
    /// The store told this time in reply to a question that was sent at the first time.
    #[must_use]
    pub fn now(sent_unix_ms: u64, store_unix_ms: i64) -> Self {
        let (unix_ms, at) = (unix_ms(), Instant::now());
        let asked_ms = i64::try_from(sent_unix_ms.midpoint(unix_ms)).unwrap_or(i64::MAX);
        Self { ahead_ms: asked_ms.saturating_sub(store_unix_ms), unix_ms, at }
    }

    /// What it says at this moment.
    #[must_use]
    pub fn clock(&self) -> StoreClock {
        self.clock_after(unix_ms(), self.at.elapsed())
    }

    fn clock_after(&self, unix_ms: u64, elapsed: Duration) -> StoreClock {
        let expected_ms = self.unix_ms.saturating_add(elapsed.as_millis() as u64);
        StoreClock(Some(self.ahead_ms).filter(|_| unix_ms.abs_diff(expected_ms) <= TOLERANCE_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_after_the_clock_was_set_until_it_is_compared_again() {
        let compared = ComparedClocks { ahead_ms: 7, unix_ms: 1_700_000_000_000, at: Instant::now() };
        let check = |unix_ms: u64, elapsed_s: u64, expected: Option<i64>| {
            assert_eq!(compared.clock_after(unix_ms, Duration::from_secs(elapsed_s)), StoreClock(expected));
        };
        check(1_700_000_000_000, 0, Some(7));
        check(1_700_000_003_000, 1, Some(7));
        check(1_700_003_600_000, 3600, Some(7));
        check(1_700_003_600_000, 1, None); // Set, or it slept.
        check(1_699_990_000_000, 1, None);
    }

    #[test]
    fn a_clock_that_is_far_from_that_of_the_store_is_replaced_by_it() {
        const NOW: u64 = 1_700_000_000_000;
        let check = |ahead_ms: Option<i64>, message_time: u64, latest: u64| {
            let clock = StoreClock(ahead_ms);
            assert_eq!((clock.message_time(NOW), clock.latest_message_time(NOW)), (message_time, latest));
        };
        check(None, NOW, u64::MAX);
        check(Some(0), NOW, NOW + 60_000);
        check(Some(-10_000), NOW, NOW + 60_000);
        check(Some(86_400_000), NOW - 86_400_000, NOW - 86_340_000);
        check(Some(-86_400_000), NOW + 86_400_000, NOW + 86_460_000);
        check(Some(i64::MIN), NOW + i64::MAX as u64, NOW + i64::MAX as u64 + 60_000);
        check(Some(i64::MAX), 0, 60_000);
    }
}
