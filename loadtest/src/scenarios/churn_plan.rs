//! When users join and when they leave: two schedules of the same rate, each with its own random moments. In a single
//! schedule joins would fall only into one half of each interval, and so meet only some phases of the server's tick.
//! Pure: the time is passed in.

use crate::schedule::Jittered;

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// The join with this number.
    Join(u64),
    /// The leave with this number.
    Leave(u64),
}

/// The operations that are still to come.
pub(crate) struct ChurnPlan {
    joins: Jittered,
    leaves: Jittered,
    next_join: u64,
    next_leave: u64,
}

impl ChurnPlan {
    pub(crate) fn new(rate: u32, seed: u64) -> Self {
        let schedule = |seed| Jittered::new(u64::from(rate), seed);
        Self { joins: schedule(seed), leaves: schedule(!seed), next_join: 0, next_leave: 0 }
    }

    /// Takes the next operation if it is due. Returns it with its planned time.
    pub(crate) fn take_due(&mut self, elapsed_ns: u64) -> Option<(u64, Operation)> {
        let planned_ns = self.next_ns();
        if planned_ns > elapsed_ns {
            return None;
        }
        let (next, operation): (_, fn(u64) -> Operation) = if self.joins.planned_ns(self.next_join) == planned_ns {
            (&mut self.next_join, Operation::Join)
        } else {
            (&mut self.next_leave, Operation::Leave)
        };
        let operation = operation(*next);
        *next += 1;
        Some((planned_ns, operation))
    }

    /// When the next operation is due.
    pub(crate) fn next_ns(&self) -> u64 {
        self.joins.planned_ns(self.next_join).min(self.leaves.planned_ns(self.next_leave))
    }

    /// How many operations were taken.
    pub(crate) fn done(&self) -> u64 {
        self.next_join + self.next_leave
    }

    pub(crate) fn planned_before(&self, end_ns: u64) -> u64 {
        self.joins.planned_before(end_ns) + self.leaves.planned_before(end_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_and_leaves_are_ordered_have_the_rate_and_meet_all_phases_of_a_tick() {
        const TICK_NS: u64 = 100_000_000;
        let mut plan = ChurnPlan::new(20, 1);
        let (mut joins, mut leaves, mut before_ns, mut phases) = (0, 0, 0, [0; 4]);
        while let Some((planned_ns, operation)) = plan.take_due(20_000_000_000 - 1) {
            assert!(planned_ns >= before_ns);
            before_ns = planned_ns;
            match operation {
                Operation::Join(number) => {
                    assert_eq!(number, joins);
                    joins += 1;
                    phases[(planned_ns % TICK_NS / (TICK_NS / 4)) as usize] += 1;
                }
                Operation::Leave(number) => {
                    assert_eq!(number, leaves);
                    leaves += 1;
                }
            }
        }
        assert_eq!((joins, leaves, plan.done()), (400, 400, 800));
        assert!(phases.iter().all(|count| (70..130).contains(count)), "{phases:?}");
    }
}
