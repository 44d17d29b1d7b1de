//! Memory that clients hold by not reading: long frames and answers are counted from when they are made until the last who
//! holds them has let go, and beyond a limit no more are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Shorter ones are not counted: a socket takes them at once.
pub const COUNTED_BYTES: usize = 16 * 1024;

/// What may be held of long HTTP answers on the whole server, and as much again of long frames.
pub const MAX_UNREAD_BYTES: usize = 256 * 1024 * 1024;

/// Bytes that are held, and how many may be.
#[derive(Debug)]
pub struct MemoryBudget {
    held: Arc<AtomicUsize>,
    most: usize,
}

impl MemoryBudget {
    /// An account of so many bytes at most.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { held: Arc::default(), most }
    }

    /// Whether so many more would be too many.
    #[must_use]
    pub fn is_full(&self, more: usize) -> bool {
        self.held.load(Ordering::Relaxed).saturating_add(more) > self.most
    }

    /// Counts these until nobody holds them or a part of them any more.
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
    fn bytes_count_until_the_last_part_is_gone() {
        let account = MemoryBudget::new(2 * COUNTED_BYTES);
        let whole = account.count(vec![b'x'; COUNTED_BYTES + 1].into());
        let part = whole.slice(10..20);
        drop(whole);
        assert!(account.is_full(COUNTED_BYTES));
        drop(part);
        assert!(!account.is_full(2 * COUNTED_BYTES));
    }

    #[test]
    fn short_ones_do_not_count() {
        let account = MemoryBudget::new(0);
        let short = account.count(vec![b'x'; COUNTED_BYTES - 1].into());
        assert!(!account.is_full(0) && short.len() == COUNTED_BYTES - 1);
    }
}
