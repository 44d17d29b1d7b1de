//! Heartbeats and their answers: which belong together, how long it took, which never came.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::latency::Latency;
use crate::report::Report;

/// Answers carry no number, but each connection's come in the order of its heartbeats.
#[derive(Debug)]
pub(crate) struct Acks {
    /// By client index: planned times of what is not answered yet, in nanoseconds since `started`.
    unanswered: Vec<VecDeque<u64>>,
    /// The start of the schedule.
    started: Instant,
    /// Round trips of heartbeats planned before this are counted and not recorded.
    window_start_ns: u64,
    answered: u64,
    /// Answers that no heartbeat was waiting for.
    unexpected: u64,
    round_trip: Latency,
}

impl Acks {
    pub(crate) fn new(size: usize, started: Instant, warm_up: Duration) -> Self {
        Self {
            unanswered: vec![VecDeque::new(); size],
            started,
            window_start_ns: u64::try_from(warm_up.as_nanos()).unwrap_or(u64::MAX),
            answered: 0,
            unexpected: 0,
            round_trip: Latency::new(),
        }
    }

    pub(crate) fn asked(&mut self, index: usize, planned_ns: u64) {
        self.unanswered[index].push_back(planned_ns);
    }

    /// The round trip counts from the planned time, so a stall hides nothing.
    pub(crate) fn answer(&mut self, index: usize, now: Instant) {
        let Some(planned_ns) = self.unanswered[index].pop_front() else {
            self.unexpected += 1;
            return;
        };
        self.answered += 1;
        if planned_ns >= self.window_start_ns {
            let now_ns = u64::try_from(now.duration_since(self.started).as_nanos()).unwrap_or(u64::MAX);
            self.round_trip.record_ns(now_ns.saturating_sub(planned_ns));
        }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Every heartbeat has one answer, or it is a problem.
    pub(crate) fn describe(&self, sent: u64, report: &mut Report) {
        let Self { answered, unexpected, .. } = self;
        report.figure("acks", *answered as f64, "received, the warm-up's included");
        report.latency("ack_round_trip", self.round_trip.summary());
        if *answered != sent || *unexpected > 0 {
            report
                .problems
                .push(format!("{sent} heartbeats got {answered} acks, and {unexpected} that nobody waited for"));
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
    fn round_trips_count_from_the_plan_and_only_in_the_window() {
        let started = Instant::now();
        let mut acks = Acks::new(2, started, WARM_UP);
        acks.asked(0, 9_000_000);
        acks.asked(0, 10_000_000);
        acks.asked(1, 11_000_000);
        acks.answer(0, micros(started, 30_000));
        acks.answer(1, micros(started, 31_000));
        acks.answer(0, micros(started, 50_000));
        let summary = acks.round_trip.summary();
        assert_eq!((acks.answered(), summary.count), (3, 2));
        assert!((summary.p50_us / 20_000.0 - 1.0).abs() < 0.001, "{summary:?}");
        assert!((summary.max_us / 40_000.0 - 1.0).abs() < 0.001, "{summary:?}");
    }

    #[test]
    fn missing_and_surplus_answers_are_problems() {
        let started = Instant::now();
        let mut acks = Acks::new(1, started, WARM_UP);
        acks.asked(0, 0);
        let mut report = Report::new("heartbeat");
        acks.describe(1, &mut report);
        assert!(!report.is_valid(), "one is missing");
        acks.answer(0, started);
        let mut report = Report::new("heartbeat");
        acks.describe(1, &mut report);
        assert!(report.is_valid());
        acks.answer(0, started);
        let mut report = Report::new("heartbeat");
        acks.describe(1, &mut report);
        assert!(!report.is_valid(), "one too many");
    }
}
