//! Open-loop schedules: operation k is due at `k / rate`, whatever the server does. Latency counts from the planned
//! time, so a server that stalls cannot hide the operations that were delayed by it.
//!
//! With a burst interval, all operations of an interval are due at its start. With jitter, each operation is due at a
//! random moment of its own interval, so that the load does not run in phase with the server's tick. Pure: the time is
//! passed in.

use std::time::Duration;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Times are nanoseconds since the start of the schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    rate_per_second: u64,
    /// 1: operations are evenly spaced.
    burst_ns: u64,
}

impl Schedule {
    pub(crate) fn new(rate_per_second: u64, burst_ns: u64) -> Self {
        Self { rate_per_second: rate_per_second.max(1), burst_ns: burst_ns.max(1) }
    }

    /// When operation `index` is due.
    pub(crate) fn planned_ns(&self, index: u64) -> u64 {
        let exact = u128::from(index) * NANOS_PER_SECOND / u128::from(self.rate_per_second);
        let exact = u64::try_from(exact).unwrap_or(u64::MAX);
        exact - exact % self.burst_ns
    }

    /// How many operations have `planned_ns(index) <= elapsed_ns`.
    pub(crate) fn due(&self, elapsed_ns: u64) -> u64 {
        let bursts_begun = elapsed_ns / self.burst_ns + 1;
        let before_ns = u128::from(bursts_begun) * u128::from(self.burst_ns);
        let due = (before_ns * u128::from(self.rate_per_second)).div_ceil(NANOS_PER_SECOND);
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// How many operations are planned before `end_ns`.
    pub(crate) fn planned_before(&self, end_ns: u64) -> u64 {
        end_ns.checked_sub(1).map_or(0, |last_ns| self.due(last_ns))
    }
}

/// A schedule whose operations are due at random moments of their intervals. The same seed gives the same moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jittered {
    schedule: Schedule,
    interval_ns: u64,
    seed: u64,
}

impl Jittered {
    pub(crate) fn new(rate_per_second: u64, seed: u64) -> Self {
        let schedule = Schedule::new(rate_per_second, 0);
        Self { schedule, interval_ns: schedule.planned_ns(1).max(1), seed }
    }

    /// When operation `index` is due. Never earlier than operation `index - 1`.
    pub(crate) fn planned_ns(&self, index: u64) -> u64 {
        let offset_ns = fastrand::Rng::with_seed(self.seed ^ index.rotate_left(32)).u64(..self.interval_ns);
        self.schedule.planned_ns(index) + offset_ns
    }

    /// How many operations have an interval that starts before `end_ns`.
    pub(crate) fn planned_before(&self, end_ns: u64) -> u64 {
        self.schedule.planned_before(end_ns)
    }
}

/// In nanoseconds; 584 years fit.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_keeps_order_and_rate_and_is_reproducible() {
        let (schedule, again) = (Jittered::new(300, 7), Jittered::new(300, 7));
        let planned: Vec<u64> = (0..300).map(|index| schedule.planned_ns(index)).collect();
        assert!(planned.is_sorted());
        assert!(planned[299] < 1_000_000_000 && schedule.planned_ns(300) >= 1_000_000_000);
        assert!(planned.iter().enumerate().all(|(index, planned)| again.planned_ns(index as u64) == *planned));
        let late_half = planned.iter().filter(|planned| **planned % 3_333_333 > 1_666_666).count();
        assert!((100..200).contains(&late_half), "{late_half} of 300 in the later half");
    }

    /// `due` is the inverse of `planned_ns` just before and at each planned time.
    fn check(rate_per_second: u64, burst_ns: u64) {
        let schedule = Schedule::new(rate_per_second, burst_ns);
        for index in (0..200).chain([1_000_000, 123_456_789]) {
            let planned_ns = schedule.planned_ns(index);
            assert!(schedule.due(planned_ns) > index, "rate {rate_per_second} burst {burst_ns} index {index}");
            if let Some(before_ns) = planned_ns.checked_sub(1) {
                assert!(schedule.due(before_ns) <= index, "rate {rate_per_second} burst {burst_ns} index {index}");
            }
            assert_eq!(planned_ns % burst_ns.max(1), 0);
        }
    }

    #[test]
    fn due_is_the_inverse_of_planned() {
        for rate_per_second in [1, 3, 7, 1000, 50_000, 99_991, 10_000_000] {
            for burst_ns in [0, 1, 999, 1_000_000, 7_000_003] {
                check(rate_per_second, burst_ns);
            }
        }
    }

    #[test]
    fn a_second_contains_rate_operations() {
        for burst_ns in [1, 1_000_000] {
            let schedule = Schedule::new(50_000, burst_ns);
            assert_eq!(schedule.planned_before(1_000_000_000), 50_000);
            assert_eq!(schedule.planned_before(0), 0);
        }
    }

    #[test]
    fn the_operations_of_a_burst_are_due_at_its_start() {
        let schedule = Schedule::new(50_000, 1_000_000);
        assert_eq!((schedule.planned_ns(0), schedule.planned_ns(49), schedule.planned_ns(50)), (0, 0, 1_000_000));
        assert_eq!((schedule.due(0), schedule.due(999_999), schedule.due(1_000_000)), (50, 50, 100));
    }
}
