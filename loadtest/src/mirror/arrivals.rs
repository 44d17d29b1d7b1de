//! When each join was planned and how long it took until somebody saw it.

use crate::latency::Latency;

/// No join of this user is to be measured.
pub(crate) const UNPLANNED: u64 = u64::MAX;

/// Times are nanoseconds since the start of the schedule.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// By client number: when the latest join was planned.
    planned_ns: Vec<u64>,
    /// By client number: somebody has seen it.
    seen: Vec<bool>,
    /// Joins planned earlier are not recorded: they belong to the warm-up.
    pub(crate) window_start_ns: u64,
    /// From the planned join to the moment at which an observer has read it; one value per join and observer.
    pub(crate) latency: Latency,
    /// Joins that nobody had seen when the same user was due to join again.
    pub(crate) overtaken: u64,
}

impl Arrivals {
    pub(crate) fn new() -> Self {
        let (planned_ns, seen) = (Vec::new(), Vec::new());
        Self { planned_ns, seen, window_start_ns: UNPLANNED, latency: Latency::new(), overtaken: 0 }
    }

    /// A join was sent. If the one before was never seen its time stays, so that waiting counts from there.
    pub(crate) fn sent(&mut self, number: usize, planned_ns: u64) {
        if self.planned_ns.len() <= number {
            self.planned_ns.resize(number + 1, UNPLANNED);
            self.seen.resize(number + 1, false);
        }
        if self.planned_ns[number] != UNPLANNED && !self.seen[number] {
            self.overtaken += 1;
            return;
        }
        self.planned_ns[number] = planned_ns;
        self.seen[number] = false;
    }

    /// A server has told of this user's join. Returns the planned time.
    pub(crate) fn told(&mut self, number: Option<usize>) -> u64 {
        let Some(number) = number.filter(|number| *number < self.seen.len()) else {
            return UNPLANNED;
        };
        self.seen[number] = true;
        self.planned_ns[number]
    }

    /// An observer has read of these joins.
    #[inline]
    pub(crate) fn read(&mut self, planned_ns: &[u64], now_ns: u64) {
        for planned_ns in planned_ns {
            if *planned_ns != UNPLANNED && *planned_ns >= self.window_start_ns {
                self.latency.record_ns(now_ns.saturating_sub(*planned_ns));
            }
        }
    }

    /// Joins that were sent and that nobody has seen.
    pub(crate) fn unseen(&self) -> usize {
        self.planned_ns.iter().zip(&self.seen).filter(|(planned, seen)| **planned != UNPLANNED && !**seen).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_counts_from_its_plan_once_for_each_who_reads_it() {
        let mut arrivals = Arrivals::new();
        arrivals.window_start_ns = 1000;
        arrivals.sent(3, 2000);
        let planned = [arrivals.told(Some(3)), arrivals.told(Some(9)), arrivals.told(None)];
        assert_eq!(planned, [2000, UNPLANNED, UNPLANNED]);
        arrivals.read(&planned, 5000);
        arrivals.read(&planned, 6000);
        assert_eq!(arrivals.latency.summary().count, 2);
        arrivals.read(&[999], 6000);
        assert_eq!(arrivals.latency.summary().count, 2, "the warm-up's");
    }

    #[test]
    fn what_nobody_saw_is_not_forgotten_by_the_next_join() {
        let mut arrivals = Arrivals::new();
        arrivals.sent(0, 1);
        assert_eq!(arrivals.unseen(), 1);
        arrivals.sent(0, 2);
        assert_eq!((arrivals.overtaken, arrivals.told(Some(0))), (1, 1));
        assert_eq!(arrivals.unseen(), 0);
        arrivals.sent(0, 3);
        assert_eq!((arrivals.overtaken, arrivals.told(Some(0))), (1, 3));
    }
}
