//! Matches heartbeats with their acks: round trips, and acks that are missing or unexpected.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::latency::Latency;
use crate::report::Report;
use crate::schedule::nanos;

/// Acks carry no number, but a connection receives them in the order of its heartbeats.
#[derive(Debug)]
pub(crate) struct Acks {
    /// By client index: planned times of heartbeats without an ack, in nanoseconds since `started`.
    unanswered: Vec<VecDeque<u64>>,
    /// The start of the schedule.
    started: Instant,
    /// Round trips of heartbeats planned earlier are counted and not recorded.
    window_start_ns: u64,
    /// Heartbeats that ask for an ack.
    asked: u64,
    answered: u64,
    /// Acks without a heartbeat that waits for one.
    unexpected: u64,
    round_trip: Latency,
}

impl Acks {
    pub(crate) fn new(size: usize, started: Instant, warm_up: Duration) -> Self {
        Self {
            unanswered: vec![VecDeque::new(); size],
            started,
            window_start_ns: nanos(warm_up),
            asked: 0,
            answered: 0,
            unexpected: 0,
            round_trip: Latency::new(),
        }
    }

    pub(crate) fn sent(&mut self, index: usize, planned_ns: u64) {
        self.asked += 1;
        self.unanswered[index].push_back(planned_ns);
    }

    /// The round trip counts from the planned time, so a stall cannot hide it.
    pub(crate) fn received(&mut self, index: usize, now: Instant) {
        let Some(planned_ns) = self.unanswered[index].pop_front() else {
            self.unexpected += 1;
            return;
        };
        self.answered += 1;
        if planned_ns >= self.window_start_ns {
            let now_ns = nanos(now.duration_since(self.started));
            self.round_trip.record_ns(now_ns.saturating_sub(planned_ns));
        }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked
    }

    /// It is a problem if the number of acks is not the number of heartbeats that asked for one. A server that answers
    /// none may have no acks; if only a sample was asked, that is not an error.
    pub(crate) fn describe(&self, is_sample: bool, report: &mut Report) {
        let Self { asked, answered, unexpected, .. } = self;
        if is_sample && *answered == 0 {
            report.notes.push("the server does not answer heartbeats that ask for an ack: no round trips".to_owned());
            return;
        }
        report.figure("acks", *answered as f64, "received, including the warm-up");
        report.latency("ack_round_trip", self.round_trip.summary());
        if answered != asked || *unexpected > 0 {
            report
                .problems
                .push(format!("{asked} heartbeats got {answered} acks, and {unexpected} acks were unexpected"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARM_UP: Duration = Duration::from_millis(10);

    fn micros(started: Instant, micros: u64) -> Instant {
        started + Duration::from_micros(micros)
    }

    #[test]
    fn round_trips_of_the_window_count_from_the_planned_time() {
        let started = Instant::now();
        let mut acks = Acks::new(2, started, WARM_UP);
        acks.sent(0, 9_000_000);
        acks.sent(0, 10_000_000);
        acks.sent(1, 11_000_000);
        acks.received(0, micros(started, 30_000));
        acks.received(1, micros(started, 31_000));
        acks.received(0, micros(started, 50_000));
        let summary = acks.round_trip.summary();
        assert_eq!((acks.answered(), summary.count), (3, 2));
        assert!((summary.p50_us / 20_000.0 - 1.0).abs() < 0.001, "{summary:?}");
        assert!((summary.max_us / 40_000.0 - 1.0).abs() < 0.001, "{summary:?}");
    }

    #[test]
    fn missing_and_unexpected_acks_are_problems() {
        let started = Instant::now();
        let mut acks = Acks::new(1, started, WARM_UP);
        acks.sent(0, 0);
        let mut report = Report::new("heartbeat");
        acks.describe(false, &mut report);
        assert!(!report.is_valid(), "one is missing");
        let mut report = Report::new("heartbeat");
        acks.describe(true, &mut report);
        assert!(report.is_valid() && report.notes.len() == 1, "a server without acks was asked for a sample");
        acks.received(0, started);
        let mut report = Report::new("heartbeat");
        acks.describe(false, &mut report);
        assert!(report.is_valid());
        acks.received(0, started);
        let mut report = Report::new("heartbeat");
        acks.describe(false, &mut report);
        assert!(!report.is_valid(), "one too many");
    }
}
