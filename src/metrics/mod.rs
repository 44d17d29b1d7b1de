//! Counters of what the server does, served as `/v1/stats` under their names, and as `/metrics` under those of
//! `http/metrics/names.rs`.
//!
//! Each thread writes its own counters, padded so that no two share a cache line. Readers add them up.

mod histogram;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{Durations, Histogram};

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

/// What a metric says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A counter, or a present value.
    Number(u64),
    /// A histogram.
    Durations(Durations),
}

/// The name, the meaning and the value of a metric.
pub type Metric = (&'static str, &'static str, Reading);

/// Defines the counters and histograms of a part of the server, and the sums of them. The documentation of each is its
/// help text.
macro_rules! counters {
    (
        $(#[$doc:meta])* $name:ident, $totals:ident { $(#[doc = $help:literal] $field:ident,)* }
        $(histograms { $(#[doc = $meaning:literal] $histogram:ident,)* })?
    ) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct $name {
            $(#[doc = $help] pub $field: $crate::metrics::Counter,)*
            $($(#[doc = $meaning] pub $histogram: $crate::metrics::Histogram,)*)?
        }

        /// The sum of the counters of all writers at one moment, or the maximum if their name says so.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $totals {
            $(#[doc = $help] pub $field: u64,)*
            $($(#[doc = $meaning] pub $histogram: $crate::metrics::Durations,)*)?
        }

        impl $totals {
            /// Names, meanings and values, in the order of declaration.
            pub fn fields(&self) -> impl Iterator<Item = $crate::metrics::Metric> + use<> {
                use $crate::metrics::Reading::*;
                [
                    $((stringify!($field), $help.trim_ascii(), Number(self.$field)),)*
                    $($((stringify!($histogram), $meaning.trim_ascii(), Durations(self.$histogram)),)*)?
                ]
                .into_iter()
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
                $($(self.$histogram.add(&counters.$histogram);)*)?
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
        /// Connections refused because the user, or the address, has as many as it may.
        connections_over_quota,
        /// WebSocket handshakes refused because of the credential, key or version, or by the application or the lobby.
        handshakes_refused,
        /// Sockets refused because the address has too many without a complete handshake or request.
        sockets_over_quota,
        /// Sockets refused because too many of the address came in a short time.
        arrivals_refused,
        /// Rooms not opened because of the limit of rooms.
        rooms_refused,
        /// States not set because of the limit of state.
        states_refused,
        /// Heartbeats received over WebSocket and REST.
        heartbeats,
        /// WebSocket frames received.
        frames_received,
        /// Messages answered with an error.
        messages_refused,
        /// Messages that applications published over the HTTP API.
        messages_published,
        /// Connections closed for breaking the WebSocket protocol.
        protocol_violations,
        /// Connections closed because the client was silent, or did not join the chat or complete a message in time.
        connections_timed_out,
        /// Connections closed because the client's credential expired or was not confirmed.
        connections_expired,
        /// Connections closed because the client did not read what it was sent.
        connections_too_slow,
        /// Times that the server stopped reading a connection for a while because a work budget was exceeded.
        pauses,
        /// Times that a connection had to wait for its turn: clients wanted to change more than a tick can carry.
        turns_waited,
        /// Connections that were paused because of a work budget and have not yet recovered from it.
        connections_over_budget,
        /// Connections closed with 1013 because the client kept exceeding a work budget.
        connections_over_limit,
        /// Connections closed to free memory because they took the most: of the server, or for unread lists.
        connections_shed,
        /// Deliveries to clients: a frame each, or, for online status and chat, all events of a tick or of a page.
        deliveries,
        /// Bytes of the deliveries to clients.
        delivered_bytes,
        /// Frames not sent to slow clients: membership is resent as a snapshot later; messages are lost.
        deliveries_skipped,
        /// Joins, leaves and messages not sent to slow online-status and chat clients because they cancel out.
        events_cancelled,
        /// TLS handshakes completed.
        tls_handshakes,
        /// TLS handshakes that were refused or not completed.
        tls_handshakes_failed,
        /// HTTP requests answered.
        requests,
        /// HTTP requests refused because the address is over its work budget.
        requests_refused,
        /// Connections closed because incomplete requests take too much memory.
        requests_given_up,
        /// REST heartbeats refused because too many users are online through REST, of the address or in all.
        rest_users_refused,
        /// Connections that could not be accepted, for lack of descriptors or memory.
        accept_errors,
        /// Upgraded connections that wait for a worker now.
        upgrades_waiting,
    }
    histograms {
        /// Time from the arrival of a handshake to the first message.
        greeting,
        /// Time from the end of a tick to its execution by a worker.
        loop_lag,
        /// Time a worker takes to write the deliveries of a tick, including other work in between.
        write,
        /// Time from the first join of a tick to the end of the writes that announce it, per tick and worker.
        join_to_sent,
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
        /// Members that joined.
        joins,
        /// Members that changed their state.
        updates,
        /// Members that left.
        leaves,
    }
    histograms {
        /// The duration of ticks, without the work of the workers.
        tick,
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
        /// Times that this node read all memberships of another node.
        redis_hashes_read,
        /// Messages that other nodes were not sent because too many waited for Redis.
        redis_messages_dropped,
        /// Users, holds and messages that wait to be written to Redis now.
        redis_pending,
        /// Nodes that are alive now, this one included.
        redis_nodes,
        /// The difference between the clocks of this node and of Redis now.
        redis_clock_difference_ms,
    }
    histograms {
        /// Round trips to Redis that were answered: pipelines of one or more commands.
        redis_round_trip,
    }
}

counters! {
    /// What the questions to the application (`--auth-url`) count.
    CallbackCounters, CallbackTotals {
        /// Requests to --auth-url that ended.
        callback_requests,
        /// Requests to --auth-url that were answered with a user.
        callback_accepted,
        /// Requests to --auth-url that were answered with a refusal.
        callback_refused,
        /// Requests to --auth-url without a usable answer.
        callback_failed,
        /// Clients that shared a request to --auth-url with another client, or its result.
        callback_shared,
        /// Clients refused because too many waited for --auth-url, or for too long.
        callback_turned_away,
        /// Clients that wait for a request to --auth-url now.
        callback_waiting,
        /// Requests to --auth-url under way now.
        callback_running,
    }
    histograms {
        /// The duration of requests to --auth-url.
        callback,
    }
}

counters! {
    /// What the fetches of key sets (`--jwks-url`) count.
    JwksCounters, JwksTotals {
        /// Fetches of --jwks-url that ended.
        jwks_fetches,
        /// Fetches of --jwks-url without a usable key set.
        jwks_failures,
        /// The age of the oldest key set of --jwks-url in use now, in seconds.
        jwks_age_seconds,
    }
}

counters! {
    /// What one thread counts of an application with Pusher clients.
    AppCounters, AppTotals {
        /// Connections of the application opened since it was configured.
        pusher_connections_opened,
        /// Connections refused: the application is disabled, requires TLS or has as many as it may.
        pusher_connections_refused,
        /// Subscriptions to channels of the application.
        pusher_subscriptions,
        /// Subscriptions answered with an error.
        pusher_subscriptions_refused,
        /// Events of clients that were sent to their channel.
        pusher_client_events,
        /// Events of clients that were answered with an error.
        pusher_client_events_refused,
        /// Events that the application published over the HTTP API, once per channel.
        pusher_events_published,
    }
}

impl AppTotals {
    /// The sums of the counters of all threads.
    pub fn sum<'a>(threads: impl Iterator<Item = &'a AppCounters>) -> Self {
        let mut totals = Self::default();
        threads.for_each(|counters| totals.add(counters));
        totals
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
