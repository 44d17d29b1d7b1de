//! Several nodes: each follows all changes and reports those of the partitions for which it has the lease.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::queue::{Ms, Subject};
use super::tracker::{Repeat, Tracker};
use crate::os::unix_ms;
use crate::store::Event;
use crate::store::deliveries::{Deliveries, Progress, Term, partition_of};

/// Other nodes may be behind this one, or ahead of it, for a lease and this time more.
const SLACK: Duration = Duration::from_secs(10);
/// After a node has taken over, receivers may know more than it does for this time.
const UNCERTAIN: Duration = Duration::from_secs(10);

/// What this node knows about its part.
#[derive(Debug)]
pub(super) struct Sharing {
    deliveries: Arc<Deliveries>,
    partitions: Vec<Partition>,
}

#[derive(Debug)]
struct Partition {
    /// The term in which this node reports.
    term: Option<u64>,
    tracker: Tracker,
}

impl Sharing {
    pub(super) fn new(deliveries: Arc<Deliveries>, max_queued: usize, can_resync: bool) -> Self {
        let slack_ms = (deliveries.ttl() + SLACK).as_millis() as u64;
        let partition = |_| Partition { term: None, tracker: Tracker::new(max_queued, slack_ms, can_resync) };
        let partitions = (0..deliveries.partitions()).map(partition).collect();
        Self { deliveries, partitions }
    }

    /// Follows an event. Whether this node reports it: notices in any case, because no other node knows them.
    fn record(&mut self, event: &Event) -> bool {
        let name = match event {
            Event::Member(event) => &event.room,
            Event::Room(event) => &event.room,
            Event::User(event) => &event.user,
            Event::Count(event) => &event.room,
            Event::Notice(_) => return true,
        };
        let partition = partition_of(name, self.partitions.len());
        self.partitions[partition].tracker.record(event);
        self.partitions[partition].term.is_some()
    }
}

impl Shared {
    /// The events that this node reports. Without other nodes, that is all of them.
    pub(super) fn reported(&self, events: Vec<Event>, overflowed: bool) -> Vec<Event> {
        let mut sharing = self.sharing.lock();
        let Some(sharing) = sharing.as_mut() else { return events };
        if overflowed {
            let now = unix_ms();
            sharing.partitions.iter_mut().for_each(|partition| partition.tracker.lost(now));
        }
        events.into_iter().filter(|event| sharing.record(event)).collect()
    }

    /// Whether this node reports anything.
    pub(super) fn reports(&self) -> bool {
        let sharing = self.sharing.lock();
        sharing.as_ref().is_none_or(|sharing| sharing.partitions.iter().any(|partition| partition.term.is_some()))
    }

    /// Begins and ends terms, as the leases do.
    pub(super) fn follow_leases(&self, now: Ms) {
        let mut sharing = self.sharing.lock();
        let Some(Sharing { deliveries, partitions }) = sharing.as_mut() else { return };
        let count = partitions.len();
        if deliveries.take_missed() {
            let at_unix_ms = unix_ms();
            partitions.iter_mut().for_each(|partition| partition.tracker.missed(at_unix_ms));
        }
        for (number, partition) in partitions.iter_mut().enumerate() {
            let term = deliveries.term(number);
            if partition.term.is_some() && partition.term != term.map(|term| term.number) {
                partition.term = None;
                for outlet in &self.outlets {
                    outlet.queue.lock().retain(now, |subject| !is_in(subject, number, count));
                }
            }
            match term {
                Some(term) if partition.term.is_none() => {
                    partition.term = Some(term.number);
                    self.begin(term, &partition.tracker.repeat(term.is_handed_over, term.is_fresh), now);
                }
                Some(_) => {}
                None => {
                    let Some(seen) = deliveries.seen(number) else { continue };
                    partition.tracker.forget(seen.delivered_unix_ms);
                    // A resync of everything has a version too, and makes receivers ignore lower ones of all nodes.
                    // This node follows within two heartbeats, and resyncs wait about as long.
                    self.stamps.see(seen.version, 0);
                }
            }
        }
    }

    /// Repeats what the last node may not have delivered.
    fn begin(&self, term: Term, repeat: &Repeat, now: Ms) {
        if let Some((progress, ms_ago)) = term.former {
            self.stamps.see(progress.version, ms_ago + SLACK.as_millis() as u64);
        }
        for outlet in &self.outlets {
            let mut queue = outlet.queue.lock();
            queue.uncertain_until(now + UNCERTAIN.as_millis() as Ms);
            match repeat {
                Repeat::Some(rooms, events) if term.former.is_some() || !outlet.has_resync() => {
                    rooms.iter().for_each(|room| queue.resync_room(room, now));
                    events.iter().for_each(|event| queue.record(event, now));
                }
                // Nobody knows what was told before.
                _ => queue.resync_all(now),
            }
            drop(queue);
            outlet.changed.notify_one();
        }
    }

    /// Tells other nodes what is delivered.
    pub(super) fn progress(&self, now: Ms) {
        let mut sharing = self.sharing.lock();
        let Some(Sharing { deliveries, partitions }) = sharing.as_mut() else { return };
        let oldest = self.outlets.iter().filter_map(|outlet| outlet.queue.lock().oldest()).min();
        let delivered_unix_ms = unix_ms().saturating_sub(oldest.map_or(0, |oldest| now.saturating_sub(oldest)));
        for (number, partition) in partitions.iter_mut().enumerate().filter(|(_, of)| of.term.is_some()) {
            partition.tracker.forget(delivered_unix_ms);
            deliveries.progressed(number, Progress { delivered_unix_ms, version: self.stamps.last_version() });
        }
    }

    /// Has the leases handed over.
    pub(super) fn end_sharing(&self) {
        self.sharing.lock().iter().for_each(|sharing| sharing.deliveries.end());
    }
}

/// Whether changes of a subject belong to a partition.
fn is_in(subject: &Subject, partition: usize, partitions: usize) -> bool {
    match subject {
        Subject::Member(name, _) | Subject::Room(name) | Subject::User(name) | Subject::Count(name) => {
            partition_of(name, partitions) == partition
        }
        Subject::Everything | Subject::Notice(_) => false,
    }
}
