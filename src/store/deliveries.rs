//! Which node delivers the webhooks of which partition. A lease per partition in the store decides it.
//!
//! The store's thread keeps the leases; the thread of the webhooks follows. The value of a lease tells other nodes what
//! was delivered, so that the next node knows what to repeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::os::unix_ms;

/// Monotonic time in milliseconds since the start.
type Ms = u64;

/// A node knows nothing of the changes before its start, and little of those of its first seconds.
const FRESH: Duration = Duration::from_secs(3);

/// The partition of a user or room: CRC-32 (IEEE, as in zlib) of the name, modulo the number of partitions.
#[must_use]
pub fn partition_of(name: &str, partitions: usize) -> usize {
    match partitions {
        1 => 0,
        partitions => crc32fast::hash(name.as_bytes()) as usize % partitions,
    }
}

/// What a node says about its deliveries of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// All changes before this time are delivered, in milliseconds since the Unix epoch.
    pub delivered_unix_ms: u64,
    /// No event had a higher version.
    pub version: u64,
}

/// How this node came to deliver for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Distinguishes it from other terms of this node.
    pub number: u64,
    /// What the last node said, and how many milliseconds ago. `None` if this node has never seen one.
    pub former: Option<(Progress, Ms)>,
    /// The last node has stopped and handed the partition over.
    pub is_handed_over: bool,
    /// This node may not know all changes that were not delivered, because it has just started.
    pub is_fresh: bool,
}

/// The leases of all partitions.
#[derive(Debug)]
pub struct Deliveries {
    started: Instant,
    started_unix_ms: u64,
    ttl: Duration,
    partitions: Box<[Mutex<Lease>]>,
    /// A lease has begun or ended. Waited for by the thread of the webhooks.
    changed: Arc<Notify>,
    /// Everything is delivered, or given up: the leases can be handed over.
    is_over: AtomicBool,
    /// This node does not receive all changes of other nodes.
    is_behind: AtomicBool,
    /// It may have missed some since this was looked at.
    has_missed: AtomicBool,
}

#[derive(Debug, Default)]
struct Lease {
    /// The end of the lease, if this node has one.
    valid_until: Option<Ms>,
    /// The last term of this node.
    term: Option<Term>,
    /// What another node said last, when, and whether that node has stopped. Ends with the next term of this node.
    seen: Option<(Progress, Ms, bool)>,
    /// What this node says.
    own: Progress,
}

impl Deliveries {
    /// No node delivers, as far as this one knows.
    #[must_use]
    pub fn new(partitions: usize, ttl: Duration) -> Self {
        let (partitions, changed) = ((0..partitions).map(|_| Mutex::default()).collect(), Arc::default());
        let (is_over, is_behind, has_missed) = Default::default();
        let (started, started_unix_ms) = (Instant::now(), unix_ms());
        Self { started, started_unix_ms, ttl, partitions, changed, is_over, is_behind, has_missed }
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// The lease.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// What is notified when a lease begins or ends.
    #[must_use]
    pub fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }

    fn now(&self) -> Ms {
        self.started.elapsed().as_millis() as Ms
    }

    /// The term in which this node delivers for a partition now.
    #[must_use]
    pub fn term(&self, partition: usize) -> Option<Term> {
        let lease = self.partitions[partition].lock();
        lease.valid_until.filter(|until| self.now() < *until)?;
        lease.term
    }

    /// What another node has said last about a partition that this node does not deliver for.
    #[must_use]
    pub fn seen(&self, partition: usize) -> Option<Progress> {
        self.partitions[partition].lock().seen.map(|(progress, ..)| progress)
    }

    /// This node has the lease since a moment before it was asked for, at the time that [`asked`](Self::asked)
    /// returned.
    pub fn acquired(&self, partition: usize, asked: Ms) {
        let mut lease = self.partitions[partition].lock();
        let now = self.now();
        if lease.valid_until.is_none_or(|until| until <= now) {
            let last = lease.term;
            let is_fresh = self.is_fresh_beside(&lease);
            let seen = lease.seen.take();
            // If no other node was seen, this one was the last.
            let own = last.map(|_| (lease.own, 0));
            lease.term = Some(Term {
                number: last.map_or(1, |last| last.number + 1),
                former: seen.map(|(progress, at, _)| (progress, now.saturating_sub(at))).or(own),
                is_handed_over: seen.is_some_and(|(_, _, is_handed_over)| is_handed_over),
                is_fresh,
            });
            self.changed.notify_one();
        }
        lease.valid_until = Some(asked + self.ttl.as_millis() as Ms);
    }

    /// Whether changes may be undelivered that this node does not know, because it has just started. Other nodes should
    /// deliver for the partition.
    #[must_use]
    pub fn is_fresh(&self, partition: usize) -> bool {
        self.is_fresh_beside(&self.partitions[partition].lock())
    }

    fn is_fresh_beside(&self, lease: &Lease) -> bool {
        let knows_since = self.started_unix_ms + FRESH.as_millis() as u64;
        lease.term.is_none() && lease.seen.is_none_or(|(seen, ..)| seen.delivered_unix_ms < knows_since)
    }

    /// The time before a lease is asked for or renewed.
    #[must_use]
    pub fn asked(&self) -> Ms {
        self.now()
    }

    /// Whether this node has the lease of a partition.
    #[must_use]
    pub fn has(&self, partition: usize) -> bool {
        self.partitions[partition].lock().valid_until.is_some_and(|until| self.now() < until)
    }

    /// Another node has the lease and says this. `is_handed_over` if it has stopped.
    pub fn saw(&self, partition: usize, progress: Progress, is_handed_over: bool) {
        let mut lease = self.partitions[partition].lock();
        if lease.valid_until.take().is_some() {
            self.changed.notify_one();
        }
        lease.seen = Some((progress, self.now(), is_handed_over));
    }

    /// What this node says about a partition.
    #[must_use]
    pub fn own(&self, partition: usize) -> Progress {
        self.partitions[partition].lock().own
    }

    /// The webhooks of this node have come this far.
    pub fn progressed(&self, partition: usize, own: Progress) {
        self.partitions[partition].lock().own = own;
    }

    /// From now on this node does not receive all changes of other nodes, or it has caught up.
    pub fn set_behind(&self, is_behind: bool) {
        self.is_behind.store(is_behind, Ordering::Release);
        self.has_missed.store(true, Ordering::Release);
    }

    /// Whether this node was behind at any time since the last call.
    pub fn take_missed(&self) -> bool {
        self.has_missed.swap(self.is_behind.load(Ordering::Acquire), Ordering::AcqRel)
    }

    /// Nothing more will be delivered.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// Whether the leases can be handed over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliveries(ttl_ms: u64) -> Deliveries {
        Deliveries::new(1, Duration::from_millis(ttl_ms))
    }

    #[test]
    fn a_lease_begins_a_term_and_a_renewal_does_not() {
        let deliveries = deliveries(60_000);
        assert_eq!((deliveries.term(0), deliveries.has(0)), (None, false));
        deliveries.acquired(0, deliveries.asked());
        let first = deliveries.term(0).unwrap();
        assert_eq!((first.number, first.former, first.is_handed_over, first.is_fresh), (1, None, false, true));
        deliveries.acquired(0, deliveries.asked());
        assert_eq!(deliveries.term(0).unwrap().number, 1);
        let progress = Progress { delivered_unix_ms: 5, version: 7 };
        deliveries.saw(0, progress, true);
        assert_eq!((deliveries.term(0), deliveries.seen(0)), (None, Some(progress)));
        deliveries.acquired(0, deliveries.asked());
        let second = deliveries.term(0).unwrap();
        assert_eq!((second.number, second.former.unwrap().0, second.is_handed_over), (2, progress, true));
        assert_eq!(deliveries.seen(0), None);
    }

    #[test]
    fn a_node_is_fresh_until_what_happened_before_its_start_is_delivered() {
        let deliveries = deliveries(60_000);
        let say = |ms_after_start: u64| {
            let delivered_unix_ms = deliveries.started_unix_ms + ms_after_start;
            deliveries.saw(0, Progress { delivered_unix_ms, version: 1 }, false);
        };
        assert!(deliveries.is_fresh(0), "nobody has said anything");
        say(0);
        assert!(deliveries.is_fresh(0));
        say(FRESH.as_millis() as u64);
        assert!(!deliveries.is_fresh(0));
        deliveries.acquired(0, deliveries.asked());
        assert!(!deliveries.term(0).unwrap().is_fresh && !deliveries.is_fresh(0));
    }

    #[test]
    fn a_lease_that_was_not_renewed_in_time_is_over() {
        let deliveries = deliveries(0);
        deliveries.acquired(0, deliveries.asked());
        assert_eq!((deliveries.term(0), deliveries.has(0)), (None, false));
        let own = Progress { delivered_unix_ms: 1, version: 2 };
        deliveries.progressed(0, own);
        deliveries.acquired(0, deliveries.asked());
        let term = deliveries.partitions[0].lock().term.unwrap();
        assert_eq!((term.number, term.former), (2, Some((own, 0))), "no other node was seen");
    }

    #[test]
    fn a_node_has_missed_changes_while_it_is_behind_and_once_after_that() {
        let deliveries = deliveries(0);
        assert!(!deliveries.take_missed());
        deliveries.set_behind(true);
        assert!(deliveries.take_missed() && deliveries.take_missed());
        deliveries.set_behind(false);
        assert!(deliveries.take_missed() && !deliveries.take_missed());
    }

    #[test]
    fn names_are_spread_as_other_programs_do_it() {
        assert_eq!(partition_of("alice", 1), 0);
        assert_eq!(partition_of("123456789", 1_000_000_000), 0xCBF4_3926 % 1_000_000_000);
    }
}
