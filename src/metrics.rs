//! Counters of what the server does.
//!
//! Each worker writes its own, padded so that no two share a cache line, and whoever reads adds them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. Only its one writer may: this is a load and a store, not a locked addition.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Takes away from it; the same writer as `add`.
    pub fn subtract(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(amount), Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets it; the same writer as `add`.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Raises it to `value` if that is more.
    pub fn raise(&self, value: u64) {
        if value > self.get() {
            self.0.store(value, Ordering::Relaxed);
        }
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident, $totals:ident { $(#[doc = $help:literal] $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct $name {
            $(#[doc = $help] pub $field: Counter,)*
        }

        /// The sum of the counters of all writers at one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $totals {
            $(#[doc = $help] pub $field: u64,)*
        }

        impl $totals {
            /// Names, meanings and values, in the order of declaration.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
                [$((stringify!($field), $help.trim_ascii(), self.$field),)*].into_iter()
            }

            /// Those of one writer.
            #[must_use]
            pub fn of(counters: &$name) -> Self {
                let mut totals = Self::default();
                totals.add(counters);
                totals
            }

            fn add(&mut self, counters: &$name) {
                $(self.$field += counters.$field.get();)*
            }
        }
    };
}

counters! {
    /// What one worker counts.
    WorkerCounters, WorkerTotals {
        /// WebSocket connections open now.
        connections,
        /// Sockets open now, requests included.
        sockets,
        /// WebSocket connections ever opened.
        connections_opened,
        /// Connections refused because there are too many.
        connections_refused,
        /// Heartbeats taken, over WebSocket and REST.
        heartbeats,
        /// Frames read.
        frames_received,
        /// Messages answered with an error.
        messages_refused,
        /// Connections closed for breaking the WebSocket protocol.
        protocol_violations,
        /// Connections dropped because nothing was heard from them, or closed because no join was.
        connections_timed_out,
        /// Connections dropped because they did not read what they were sent.
        connections_too_slow,
        /// Pieces of presence written: each a frame, or for online status and chat all events of a tick or of a page.
        deliveries,
        /// Bytes of these pieces.
        delivered_bytes,
        /// Frames not sent to a slow connection: who is there it was shown anew later, what was said it missed.
        deliveries_skipped,
        /// HTTP requests answered.
        requests,
        /// Times that no connection could be upgrade (out of descriptors or memory).
        accept_errors,
    }
}

counters! {
    /// What the ticker counts.
    TickCounters, TickTotals {
        /// Ticks done.
        ticks,
        /// Ticks put off because a worker had not begun the last one.
        ticks_missed,
        /// Rooms settled.
        rooms_settled,
        /// Members joined, changed or left.
        changes,
        /// The longest a tick has taken, in microseconds.
        tick_us_max,
        /// All ticks together, in microseconds.
        tick_us,
    }
}

counters! {
    /// What a store counts.
    StoreCounters, StoreTotals {
        /// Commands sent to Redis.
        redis_commands,
        /// Of these, keys of users written or deleted.
        redis_keys_written,
        /// Round trips to Redis: pipelines of one or many commands.
        redis_flushes,
        /// Connections to Redis that failed, or could not be made.
        redis_failures,
        /// Messages heard from nodes, this one included.
        redis_events,
        /// Times that all that another node holds was read.
        redis_hashes_read,
        /// Users, holds and messages that wait to be written to Redis now.
        redis_pending,
        /// Nodes alive now, this one included.
        redis_nodes,
    }
}

/// The counters of a server.
#[derive(Debug)]
pub struct Metrics {
    /// One for each worker.
    pub workers: Vec<Arc<WorkerCounters>>,
    /// The ticker's.
    pub ticker: TickCounters,
}

impl Metrics {
    /// All zero.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Arc::default()).collect(), ticker: TickCounters::default() }
    }

    /// The workers' counters added up.
    #[must_use]
    pub fn worker_totals(&self) -> WorkerTotals {
        let mut totals = WorkerTotals::default();
        self.workers.iter().for_each(|counters| totals.add(counters));
        totals
    }

    /// The ticker's counters.
    #[must_use]
    pub fn tick_totals(&self) -> TickTotals {
        TickTotals::of(&self.ticker)
    }
}
