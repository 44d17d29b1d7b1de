//! The verifications of credentials under way, which HTTP threads do for the connections of a worker.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::auth::RenewalRequest;
use crate::connection::ConnectionId;
use crate::presence::Tick;

/// Deadlines of verifications that have ended are dropped when there are this many more than others.
const MAX_ENDED_DEADLINES: usize = 1024;

/// A credential that an HTTP thread verifies.
#[derive(Debug)]
pub struct RenewalJob {
    /// Which verification this is. Its result names it.
    pub id: RenewalId,
    /// What is verified.
    pub request: RenewalRequest,
}

/// A verification. Its result counts for nothing once the connection has stopped waiting for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewalId {
    /// The connection.
    pub connection: ConnectionId,
    /// No other verification of the worker has this number.
    number: u64,
}

/// The verifications of a worker. Empty unless grants expire.
#[derive(Debug, Default)]
pub(super) struct Verifications {
    /// What connections wait for, by serial number: one verification each.
    waiting: HashMap<u32, Waiting, RandomState>,
    /// When verifications take too long, the first ones first. Most of them have ended before.
    deadlines: VecDeque<(Tick, RenewalId)>,
    /// Verifications so far.
    count: u64,
    /// Those that no HTTP thread knows yet.
    jobs: Vec<RenewalJob>,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    id: RenewalId,
    /// Whether the client has sent a token, and is not read until it is verified.
    pub(super) is_asked_by_client: bool,
}

impl Verifications {
    /// Begins a verification that takes too long from this tick on. Each call has the same tick or a later one.
    pub(super) fn begin(
        &mut self,
        connection: ConnectionId,
        request: RenewalRequest,
        deadline: Tick,
        is_asked_by_client: bool,
    ) {
        self.count += 1;
        let id = RenewalId { connection, number: self.count };
        self.waiting.insert(connection.serial, Waiting { id, is_asked_by_client });
        if self.deadlines.len() >= 2 * self.waiting.len() + MAX_ENDED_DEADLINES {
            let waiting = &self.waiting;
            self.deadlines.retain(|(_, id)| is_waited_for(waiting, *id));
        }
        self.deadlines.push_back((deadline, id));
        self.jobs.push(RenewalJob { id, request });
    }

    /// What was begun since the last call.
    pub(super) fn take_jobs(&mut self) -> Vec<RenewalJob> {
        std::mem::take(&mut self.jobs)
    }

    /// What a connection waits for.
    pub(super) fn of(&self, serial: u32) -> Option<Waiting> {
        if self.waiting.is_empty() { None } else { self.waiting.get(&serial).copied() }
    }

    /// Ends a verification. `None` if its connection no longer waits for it.
    pub(super) fn end(&mut self, id: RenewalId) -> Option<Waiting> {
        if is_waited_for(&self.waiting, id) { self.waiting.remove(&id.connection.serial) } else { None }
    }

    /// The next verification that takes too long. Each is returned once.
    pub(super) fn next_overdue(&mut self, now: Tick) -> Option<RenewalId> {
        while let Some((_, id)) = self.deadlines.pop_front_if(|(deadline, _)| *deadline <= now) {
            if is_waited_for(&self.waiting, id) {
                return Some(id);
            }
        }
        None
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&mut self, serial: u32) {
        self.waiting.remove(&serial);
    }
}

fn is_waited_for(waiting: &HashMap<u32, Waiting, RandomState>, id: RenewalId) -> bool {
    waiting.get(&id.connection.serial).is_some_and(|waiting| waiting.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::NextCredential;

    fn begin(verifications: &mut Verifications, serial: u32, deadline: Tick) -> RenewalId {
        let request = RenewalRequest { user: "alice".into(), credential: NextCredential::Session(None), address: None };
        verifications.begin(ConnectionId { index: 0, serial }, request, deadline, true);
        verifications.take_jobs().pop().expect("a job").id
    }

    #[test]
    fn a_late_result_does_not_answer_the_next_verification() {
        let mut verifications = Verifications::default();
        let first = begin(&mut verifications, 7, 10);
        assert_eq!(verifications.next_overdue(10), Some(first));
        assert!(verifications.end(first).is_some() && verifications.of(7).is_none());
        let second = begin(&mut verifications, 7, 20);
        assert!(verifications.end(first).is_none(), "the late result of the first one");
        assert!(verifications.of(7).is_some() && verifications.end(second).is_some());
    }

    #[test]
    fn only_verifications_that_take_too_long_are_looked_at() {
        let mut verifications = Verifications::default();
        let ids: Vec<_> = (0..4).map(|serial| begin(&mut verifications, serial, Tick::from(serial) + 10)).collect();
        assert_eq!(verifications.next_overdue(9), None);
        assert!(verifications.end(ids[0]).is_some());
        verifications.forget(2);
        assert_eq!(verifications.next_overdue(12), Some(ids[1]));
        assert_eq!(verifications.next_overdue(12), None);
        assert_eq!(verifications.deadlines.len(), 1, "what is not due was not looked at");
        assert_eq!(verifications.next_overdue(13), Some(ids[3]));
    }

    #[test]
    fn a_client_that_renews_without_end_leaves_few_deadlines_behind() {
        let mut verifications = Verifications::default();
        for _ in 0..10 * MAX_ENDED_DEADLINES {
            let id = begin(&mut verifications, 7, 10);
            assert!(verifications.end(id).is_some());
        }
        assert!(verifications.deadlines.len() <= MAX_ENDED_DEADLINES + 2);
    }
}
