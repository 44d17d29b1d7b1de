//! Ids and versions of events and requests.

use std::sync::atomic::{AtomicU64, Ordering};

/// Versions per millisecond: a version is about the time in microseconds, so that one fits into the integers of
/// JavaScript.
const VERSIONS_PER_MS: u64 = 1000;

/// Hands out ids and versions. All endpoints share it.
#[derive(Debug)]
pub struct Stamps {
    incarnation: u64,
    next_id: AtomicU64,
    last_version: AtomicU64,
}

impl Stamps {
    /// Of an incarnation of a node.
    #[must_use]
    pub fn new(incarnation: u64) -> Self {
        Self { incarnation, next_id: AtomicU64::new(0), last_version: AtomicU64::new(0) }
    }

    /// The incarnation of the node.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// A new id: `<incarnation>-<counter>`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{:x}-{}", self.incarnation, self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns a version that is greater than all former ones of this node, and than all that it has
    /// [seen](Self::see).
    pub fn version(&self, unix_ms: u64) -> u64 {
        let next = |last: u64| Some((last + 1).max(unix_ms * VERSIONS_PER_MS));
        let last = self.last_version.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default();
        (last + 1).max(unix_ms * VERSIONS_PER_MS)
    }

    /// Another node may have used versions up to this one, and may have gone on for this time.
    pub fn see(&self, version: u64, ms_ago: u64) {
        self.last_version.fetch_max(version.saturating_add(ms_ago * VERSIONS_PER_MS), Ordering::Relaxed);
    }

    /// The last version.
    #[must_use]
    pub fn last_version(&self) -> u64 {
        self.last_version.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_whatever_the_clock_does() {
        let stamps = Stamps::new(0xab);
        assert_eq!((stamps.id(), stamps.id()), ("ab-0".to_owned(), "ab-1".to_owned()));
        assert_eq!(stamps.version(5), 5000);
        assert_eq!(stamps.version(5), 5001);
        assert_eq!(stamps.version(3), 5002);
        stamps.see(9000, 2);
        assert_eq!(stamps.version(10), 11_001);
        assert!(stamps.version(1_800_000_000_000) < 1 << 53);
    }
}
