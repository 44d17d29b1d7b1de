//! Memory for bytes that slow clients have not read. Long frames and answers count from their creation until the last
//! reference is dropped; beyond the limit, no more are created.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Shorter buffers are not counted. Many of them add up, but a connection cannot have many.
pub const COUNTED_BYTES: usize = 1024;
/// Buffers of less than this are created even beyond the limit, because a socket takes them at once.
pub const SHORT_BYTES: usize = 16 * 1024;

/// The limit for long HTTP answers on the whole server, and again for long frames.
pub const MAX_UNREAD_BYTES: usize = 256 * 1024 * 1024;

/// How many bytes are held, and the limit.
#[derive(Debug)]
pub struct MemoryBudget {
    held: Arc<AtomicUsize>,
    /// The bytes of the budget of which this is a part.
    whole: Option<Arc<AtomicUsize>>,
    limit: usize,
}

impl MemoryBudget {
    /// A budget of this many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { held: Arc::default(), whole: None, limit }
    }

    /// A budget whose bytes also count in this one.
    #[must_use]
    pub fn part(&self) -> Self {
        Self { held: Arc::default(), whole: Some(Arc::clone(&self.held)), limit: self.limit }
    }

    /// Whether this many more bytes would exceed the limit.
    #[must_use]
    pub fn is_full(&self, more: usize) -> bool {
        self.held.load(Ordering::Relaxed).saturating_add(more) > self.limit
    }

    /// How many bytes are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Counts these bytes until the last reference to them, or to a part of them, is dropped.
    #[must_use]
    pub fn count(&self, bytes: Bytes) -> Bytes {
        if bytes.len() < COUNTED_BYTES {
            return bytes;
        }
        let held = [Some(Arc::clone(&self.held)), self.whole.clone()];
        for held in held.iter().flatten() {
            held.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        Bytes::from_owner(Counted { bytes, held })
    }
}

struct Counted {
    bytes: Bytes,
    held: [Option<Arc<AtomicUsize>>; 2],
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for held in self.held.iter().flatten() {
            held.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_the_last_part_is_dropped() {
        let budget = MemoryBudget::new(2 * COUNTED_BYTES);
        let whole = budget.count(vec![b'x'; COUNTED_BYTES + 1].into());
        let part = whole.slice(10..20);
        drop(whole);
        assert!(budget.is_full(COUNTED_BYTES));
        drop(part);
        assert!(!budget.is_full(2 * COUNTED_BYTES));
    }

    #[test]
    fn a_part_counts_in_the_whole() {
        let whole = MemoryBudget::new(10 * COUNTED_BYTES);
        let (first, second) = (whole.part(), whole.part());
        let bytes = first.count(vec![b'x'; 2 * COUNTED_BYTES].into());
        let _other = second.count(vec![b'x'; COUNTED_BYTES].into());
        assert_eq!((first.held(), second.held()), (2 * COUNTED_BYTES, COUNTED_BYTES));
        assert_eq!(whole.held(), 3 * COUNTED_BYTES);
        drop(bytes);
        assert_eq!((first.held(), whole.held()), (0, COUNTED_BYTES));
    }

    #[test]
    fn short_buffers_do_not_count() {
        let budget = MemoryBudget::new(0);
        let short = budget.count(vec![b'x'; COUNTED_BYTES - 1].into());
        assert!(!budget.is_full(0) && short.len() == COUNTED_BYTES - 1);
    }
}
