//! How long something took, counted in buckets with fixed bounds. Each histogram is written by one thread, as counters
//! are; readers add up those of all threads.

use std::time::Duration;

use super::Counter;

/// The upper bounds of the buckets, in microseconds: from a tick of a quiet server to a request that has timed out. One
/// more bucket has everything above.
const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

const BUCKETS: usize = BOUNDS_US.len() + 1;

/// The durations that one thread measured.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_us: Counter,
    max_us: Counter,
}

impl Histogram {
    /// Counts a duration. Only its one writer may do that.
    pub fn observe(&self, took: Duration) {
        let us = took.as_micros() as u64;
        self.buckets[BOUNDS_US.partition_point(|bound| *bound < us)].add(1);
        self.sum_us.add(us);
        self.max_us.raise(us);
    }
}

/// The durations that all threads measured, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durations {
    /// The number of durations in each bucket.
    buckets: [u64; BUCKETS],
    /// Their sum, in microseconds.
    pub sum_us: u64,
    /// The longest one, in microseconds.
    pub max_us: u64,
}

impl Durations {
    pub(crate) fn add(&mut self, histogram: &Histogram) {
        self.buckets.iter_mut().zip(&histogram.buckets).for_each(|(sum, bucket)| *sum += bucket.get());
        self.sum_us += histogram.sum_us.get();
        self.max_us = self.max_us.max(histogram.max_us.get());
    }

    /// The number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// For each bound, in microseconds, how many durations are not longer.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let sums = self.buckets.iter().scan(0, |sum, bucket| {
            *sum += bucket;
            Some(*sum)
        });
        BOUNDS_US.into_iter().zip(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durations(of: &[&Histogram]) -> Durations {
        let mut durations = Durations::default();
        of.iter().for_each(|histogram| durations.add(histogram));
        durations
    }

    #[test]
    fn a_bucket_has_the_durations_up_to_its_bound() {
        let histogram = Histogram::default();
        for us in [0, 100, 101, 250, 251] {
            histogram.observe(Duration::from_micros(us));
        }
        let first: Vec<_> = durations(&[&histogram]).cumulative().take(4).collect();
        assert_eq!(first, [(100, 2), (250, 4), (500, 5), (1_000, 5)]);
    }

    #[test]
    fn threads_are_added_up_and_long_durations_are_counted_too() {
        let (one, other) = (Histogram::default(), Histogram::default());
        one.observe(Duration::from_secs(10));
        other.observe(Duration::from_secs(20));
        let durations = durations(&[&one, &other]);
        assert_eq!((durations.count(), durations.sum_us, durations.max_us), (2, 30_000_000, 20_000_000));
        assert_eq!(durations.cumulative().last(), Some((10_000_000, 1)));
    }

    #[test]
    fn bounds_ascend() {
        assert!(BOUNDS_US.is_sorted());
    }
}
