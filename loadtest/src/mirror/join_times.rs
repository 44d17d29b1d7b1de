//! The planned time of each join, and the time until observers received it.

use crate::latency::Latency;

/// Stands for a time if the user has no join to measure.
pub(crate) const UNPLANNED: u64 = u64::MAX;

/// Times are nanoseconds since the start of the schedule.
#[derive(Debug)]
pub(crate) struct JoinTimes {
    /// By client index: the planned time of the latest join.
    planned_ns: Vec<u64>,
    /// By client index: whether an observer has received that join.
    is_seen: Vec<bool>,
    /// Joins that were planned before this time belong to the warm-up and are not recorded.
    pub(crate) window_start_ns: u64,
    /// The time from the planned join until an observer received it; one value per join and observer.
    pub(crate) latency: Latency,
    /// Joins that no observer had received when the same user joined again.
    pub(crate) overtaken: u64,
}

impl JoinTimes {
    pub(crate) fn new() -> Self {
        let (planned_ns, is_seen) = (Vec::new(), Vec::new());
        Self { planned_ns, is_seen, window_start_ns: UNPLANNED, latency: Latency::new(), overtaken: 0 }
    }

    /// A join was sent. If no observer has received the user's last join, the time of that one is kept, so that the
    /// wait counts from there.
    pub(crate) fn sent(&mut self, client: usize, planned_ns: u64) {
        if self.planned_ns.len() <= client {
            self.planned_ns.resize(client + 1, UNPLANNED);
            self.is_seen.resize(client + 1, false);
        }
        if self.planned_ns[client] != UNPLANNED && !self.is_seen[client] {
            self.overtaken += 1;
            return;
        }
        self.planned_ns[client] = planned_ns;
        self.is_seen[client] = false;
    }

    /// The server has announced this user's join. Returns the planned time.
    pub(crate) fn announced(&mut self, client: Option<usize>) -> u64 {
        let Some(client) = client.filter(|client| *client < self.is_seen.len()) else {
            return UNPLANNED;
        };
        self.is_seen[client] = true;
        self.planned_ns[client]
    }

    /// An observer has received joins that were planned at these times.
    #[inline]
    pub(crate) fn record(&mut self, planned_ns: &[u64], now_ns: u64) {
        for planned_ns in planned_ns {
            if *planned_ns != UNPLANNED && *planned_ns >= self.window_start_ns {
                self.latency.record_ns(now_ns.saturating_sub(*planned_ns));
            }
        }
    }

    /// Joins that were sent and that no observer has received.
    pub(crate) fn unseen(&self) -> usize {
        self.planned_ns.iter().zip(&self.is_seen).filter(|(planned, seen)| **planned != UNPLANNED && !**seen).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_is_recorded_from_its_planned_time_once_per_observer() {
        let mut join_times = JoinTimes::new();
        join_times.window_start_ns = 1000;
        join_times.sent(3, 2000);
        let planned = [join_times.announced(Some(3)), join_times.announced(Some(9)), join_times.announced(None)];
        assert_eq!(planned, [2000, UNPLANNED, UNPLANNED]);
        join_times.record(&planned, 5000);
        join_times.record(&planned, 6000);
        assert_eq!(join_times.latency.summary().count, 2);
        join_times.record(&[999], 6000);
        assert_eq!(join_times.latency.summary().count, 2, "the join belongs to the warm-up");
    }

    #[test]
    fn a_join_without_observers_keeps_its_time_until_it_is_seen() {
        let mut join_times = JoinTimes::new();
        join_times.sent(0, 1);
        assert_eq!(join_times.unseen(), 1);
        join_times.sent(0, 2);
        assert_eq!((join_times.overtaken, join_times.announced(Some(0))), (1, 1));
        assert_eq!(join_times.unseen(), 0);
        join_times.sent(0, 3);
        assert_eq!((join_times.overtaken, join_times.announced(Some(0))), (1, 3));
    }
}
