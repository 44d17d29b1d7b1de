//! When the first join since the last tick was commanded, by worker: the beginning of the time from a join to the
//! writes that announce it.
//!
//! Only the first one is noted, so that joins stay cheap; it waited longer than all others of its tick. The caller
//! passes the times in. A join that is noted while the tick takes the times may be missed.

use std::sync::atomic::{AtomicU64, Ordering};

/// The first joins of all workers, in microseconds since the start of the server.
#[derive(Debug)]
pub struct FirstJoins(Box<[FirstJoin]>);

/// The time of the first join of one worker; 0 if there was none. Written by the worker, reset by the tick. Workers
/// share no cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct FirstJoin(AtomicU64);

impl FirstJoins {
    /// None yet, of this many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| FirstJoin::default()).collect())
    }

    /// Notes a join of this worker before it is executed. The time is read only for the first one since the last tick.
    pub fn note(&self, worker: usize, now_us: impl FnOnce() -> u64) {
        let FirstJoin(first) = &self.0[worker];
        if first.load(Ordering::Relaxed) == 0 {
            first.store(now_us().max(1), Ordering::Relaxed);
        }
    }

    /// Takes the time of the first join of all workers.
    pub fn take(&self) -> Option<u64> {
        let noted = self.0.iter().filter(|FirstJoin(first)| first.load(Ordering::Relaxed) != 0);
        noted.map(|FirstJoin(first)| first.swap(0, Ordering::Relaxed)).filter(|first| *first != 0).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_join_of_all_workers_is_taken_once() {
        let joins = FirstJoins::new(3);
        assert_eq!(joins.take(), None);
        joins.note(2, || 7);
        joins.note(0, || 5);
        joins.note(0, || panic!("the clock is read once per tick"));
        assert_eq!((joins.take(), joins.take()), (Some(5), None));
        joins.note(2, || 0);
        assert_eq!(joins.take(), Some(1), "a join at the very start is one too");
    }
}
