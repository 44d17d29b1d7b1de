//! The limit of the server's memory: compares what the process takes with `--max-memory` once per second.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::log_limit::warn_limited;
use crate::node::Node;
use crate::os;

/// How often the memory is read: it costs a file of /proc.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// When the memory was last read.
#[derive(Debug, Default)]
pub(super) struct MemoryGuard {
    checked: Option<Instant>,
}

impl MemoryGuard {
    /// The bytes to free now; 0 if the limit is not exceeded, or was checked lately.
    pub(super) fn excess(&mut self, node: &Node) -> u64 {
        let Some(limit) = node.config.limits.max_memory else { return 0 };
        if self.checked.is_some_and(|checked| checked.elapsed() < CHECK_INTERVAL) {
            return 0;
        }
        self.checked = Some(Instant::now());
        let taken = os::memory_bytes().unwrap_or(0);
        let excess = taken.saturating_sub(limit);
        node.is_short_of_memory.store(excess > 0, Ordering::Relaxed);
        if excess > 0 {
            warn_limited!(
                taken_bytes = taken,
                limit_bytes = limit,
                "memory is above --max-memory; closing connections"
            );
        }
        excess
    }
}
