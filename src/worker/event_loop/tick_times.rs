//! How long a worker takes to write what a tick announces, and how long its first join waited for that.

use std::time::{Duration, Instant};

use crate::broadcast::Batch;
use crate::metrics::ThreadCounters;

/// The beginning of the present tick on a worker.
#[derive(Debug)]
pub(super) struct TickTimes {
    began: Instant,
    /// When the first join that the tick announces was commanded, in microseconds since the start of the server.
    first_join_us: Option<u64>,
    /// The deliveries of the worker before the tick.
    deliveries_before: u64,
}

impl TickTimes {
    /// The worker takes a batch that was sent at this time.
    pub(super) fn begin(batch: &Batch, sent: Instant, counters: &ThreadCounters) -> Self {
        let began = Instant::now();
        counters.loop_lag.observe(began - sent);
        Self { began, first_join_us: batch.first_join_us, deliveries_before: counters.deliveries.get() }
    }

    /// The worker has written everything. Ticks without writes are not counted: they would hide the others.
    pub(super) fn finish(&self, started: Instant, counters: &ThreadCounters) {
        if counters.deliveries.get() == self.deliveries_before {
            return;
        }
        counters.write.observe(self.began.elapsed());
        if let Some(first_us) = self.first_join_us {
            counters.join_to_sent.observe(started.elapsed().saturating_sub(Duration::from_micros(first_us)));
        }
    }
}
