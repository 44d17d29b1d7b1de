//! When somebody joins and when somebody leaves: two schedules of the same rate, each with its own random moments. Together
//! in one, joins would fall into one half of each interval only, and so meet only some phases of a server's tick. No clock
//! in here.

use crate::schedule::Jittered;

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// The join with this number.
    Join(u64),
    Leave(u64),
}

/// What is to come.
pub(super) struct Plan {
    joins: Jittered,
    leaves: Jittered,
    next_join: u64,
    next_leave: u64,
}

impl Plan {
    pub(super) fn new(rate: u32, seed: u64) -> Self {
        let schedule = |seed| Jittered::new(u64::from(rate), seed);
        Self { joins: schedule(seed), leaves: schedule(!seed), next_join: 0, next_leave: 0 }
    }

    /// Takes the next operation if its time has come; with the time that it was planned for.
    pub(super) fn take_due(&mut self, elapsed_ns: u64) -> Option<(u64, Act)> {
        let planned_ns = self.next_ns();
        if planned_ns > elapsed_ns {
            return None;
        }
        let (next, act): (_, fn(u64) -> Act) = if self.joins.planned_ns(self.next_join) == planned_ns {
            (&mut self.next_join, Act::Join)
        } else {
            (&mut self.next_leave, Act::Leave)
        };
        let act = act(*next);
        *next += 1;
        Some((planned_ns, act))
    }

    /// When the next operation is due.
    pub(super) fn next_ns(&self) -> u64 {
        self.joins.planned_ns(self.next_join).min(self.leaves.planned_ns(self.next_leave))
    }

    /// Operations taken so far.
    pub(super) fn done(&self) -> u64 {
        self.next_join + self.next_leave
    }

    pub(super) fn planned_before(&self, end_ns: u64) -> u64 {
        self.joins.planned_before(end_ns) + self.leaves.planned_before(end_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_come_in_order_at_their_rate_and_at_any_phase() {
        const TICK_NS: u64 = 100_000_000;
        let mut plan = Plan::new(20, 1);
        let (mut joins, mut leaves, mut before_ns, mut phases) = (0, 0, 0, [0; 4]);
        while let Some((planned_ns, act)) = plan.take_due(20_000_000_000 - 1) {
            assert!(planned_ns >= before_ns);
            before_ns = planned_ns;
            match act {
                Act::Join(number) => {
                    assert_eq!(number, joins);
                    joins += 1;
                    phases[(planned_ns % TICK_NS / (TICK_NS / 4)) as usize] += 1;
                }
                Act::Leave(number) => {
                    assert_eq!(number, leaves);
                    leaves += 1;
                }
            }
        }
        assert_eq!((joins, leaves, plan.done()), (400, 400, 800));
        assert!(phases.iter().all(|count| (70..130).contains(count)), "{phases:?}");
    }
}
