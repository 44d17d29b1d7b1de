//! Memory that slow clients hold. Long frames and answers count from their creation until the last reference is
//! dropped; beyond the limit, no more are created.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Shorter buffers are not counted, because a socket takes them at once.
pub const COUNTED_BYTES: usize = 16 * 1024;

/// The limit for long HTTP answers on the whole server, and again for long frames.
pub const MAX_UNREAD_BYTES: usize = 256 * 1024 * 1024;

/// How many bytes are held, and the limit.
#[derive(Debug)]
pub struct MemoryBudget {
    held: Arc<AtomicUsize>,
    limit: usize,
}

impl MemoryBudget {
    /// A budget of this many bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { held: Arc::default(), limit }
    }

    /// Whether this many more bytes would exceed the limit.
    #[must_use]
    pub fn is_full(&self, more: usize) -> bool {
        self.held.load(Ordering::Relaxed).saturating_add(more) > self.limit
    }

    /// Counts these bytes until the last reference to them, or to a part of them, is dropped.
    #[must_use]
    pub fn count(&self, bytes: Bytes) -> Bytes {
        if bytes.len() < COUNTED_BYTES {
            return bytes;
        }
        self.held.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Counted { bytes, held: Arc::clone(&self.held) })
    }
}

struct Counted {
    bytes: Bytes,
    held: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes.len(), Ordering::Relaxed);
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
    fn short_buffers_do_not_count() {
        let budget = MemoryBudget::new(0);
        let short = budget.count(vec![b'x'; COUNTED_BYTES - 1].into());
        assert!(!budget.is_full(0) && short.len() == COUNTED_BYTES - 1);
    }
}
