//! Counters of what the server does, served as `/v1/stats` and `/metrics`.
//!
//! Each thread writes its own counters, padded so that no two share a cache line. Readers add them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread at a time writes and all threads read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. Only its one writer may do that: this is a load and a store, not a locked addition.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Subtracts from it; the same writer as `add`.
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

    /// Raises it to `value` if that is greater.
    pub fn raise(&self, value: u64) {
        if value > self.get() {
            self.0.store(value, Ordering::Relaxed);
        }
    }
}

/// Defines the counters of a part of the server, and the sums of them. The documentation of each is its help text.
macro_rules! counters {
    ($(#[$doc:meta])* $name:ident, $totals:ident { $(#[doc = $help:literal] $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct $name {
            $(#[doc = $help] pub $field: $crate::metrics::Counter,)*
        }

        /// The sum of the counters of all writers at one moment, or the maximum if their name says so.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $totals {
            $(#[doc = $help] pub $field: u64,)*
        }

        impl $totals {
            /// Names, meanings and values, in the order of declaration.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
                [$((stringify!($field), $help.trim_ascii(), self.$field),)*].into_iter()
            }

            /// The counters of one writer.
            #[must_use]
            pub fn of(counters: &$name) -> Self {
                let mut totals = Self::default();
                totals.add(counters);
                totals
            }

            fn add(&mut self, counters: &$name) {
                $(
                    let value = counters.$field.get();
                    match stringify!($field).ends_with("_max") {
                        true => self.$field = self.$field.max(value),
                        false => self.$field += value,
                    }
                )*
            }
        }
    };
}

pub(crate) use counters;

counters! {
    /// What one worker counts, or one HTTP thread.
    ThreadCounters, ThreadTotals {
        /// WebSocket connections open now.
        connections,
        /// Sockets open now, requests included.
        sockets,
        /// WebSocket connections opened since the start.
        connections_opened,
        /// Connections refused because the limit of connections is reached.
        connections_refused,
        /// Heartbeats received over WebSocket and REST.
        heartbeats,
        /// WebSocket frames received.
        frames_received,
        /// Messages answered with an error.
        messages_refused,
        /// Connections closed for breaking the WebSocket protocol.
        protocol_violations,
        /// Connections closed because the client was silent, or did not join the chat in time.
        connections_timed_out,
        /// Connections closed because the client did not read what it was sent.
        connections_too_slow,
        /// Pieces of presence sent: a frame each, or, for online status and chat, all events of a tick or of a page.
        deliveries,
        /// Bytes of these pieces.
        delivered_bytes,
        /// Frames not sent to slow clients: membership is resent as a snapshot later; messages are lost.
        deliveries_skipped,
        /// HTTP requests answered.
        requests,
        /// Connections that could not be accepted, for lack of descriptors or memory.
        accept_errors,
        /// Upgraded connections that wait for a worker now.
        upgrades_waiting,
        /// Time from the arrival of a handshake to the first message, for all connections, in microseconds.
        greeting_us,
        /// The longest time from the arrival of a handshake to the first message, in microseconds.
        greeting_us_max,
        /// Time from the end of a tick to its execution by a worker, for all ticks, in microseconds.
        loop_lag_us,
        /// The longest time from the end of a tick to its execution by a worker, in microseconds.
        loop_lag_us_max,
    }
}

counters! {
    /// What the ticker counts.
    TickCounters, TickTotals {
        /// Ticks executed.
        ticks,
        /// Ticks deferred because a worker had not begun the previous one.
        ticks_missed,
        /// Rooms settled: rooms in which something changed, per tick.
        rooms_settled,
        /// Members that joined, changed their state or left.
        changes,
        /// The duration of the longest tick, in microseconds.
        tick_us_max,
        /// The duration of all ticks, in microseconds.
        tick_us,
    }
}

counters! {
    /// What a store counts.
    StoreCounters, StoreTotals {
        /// Commands sent to Redis.
        redis_commands,
        /// User keys written to or deleted from Redis.
        redis_keys_written,
        /// Round trips to Redis: pipelines of one or more commands.
        redis_flushes,
        /// Connections to Redis that failed or could not be opened.
        redis_failures,
        /// Pub/sub messages received from nodes, this one included.
        redis_events,
        /// Times that this node read everything that another node holds.
        redis_hashes_read,
        /// Users, holds and messages that wait to be written to Redis now.
        redis_pending,
        /// Nodes that are alive now, this one included.
        redis_nodes,
    }
}

/// The counters of a server.
#[derive(Debug)]
pub struct Metrics {
    /// Of each worker.
    pub workers: Vec<Arc<ThreadCounters>>,
    /// Of each HTTP thread.
    pub http: Vec<Arc<ThreadCounters>>,
    /// Of the ticker.
    pub ticker: TickCounters,
}

impl Metrics {
    /// All counters zero.
    #[must_use]
    pub fn new(workers: usize, http_threads: usize) -> Self {
        let counters = |threads| (0..threads).map(|_| Arc::default()).collect();
        Self { workers: counters(workers), http: counters(http_threads), ticker: TickCounters::default() }
    }

    /// The sums of the counters of all workers and HTTP threads.
    #[must_use]
    pub fn thread_totals(&self) -> ThreadTotals {
        let mut totals = ThreadTotals::default();
        self.workers.iter().chain(&self.http).for_each(|counters| totals.add(counters));
        totals
    }

    /// The ticker's counters.
    #[must_use]
    pub fn tick_totals(&self) -> TickTotals {
        TickTotals::of(&self.ticker)
    }
}
