//! The changes that an endpoint has not received. Pure: no I/O and no clock; the time is passed in.
//!
//! Presence is state. So the queue keeps, per subject (a room, a user in a room, a user), only what is needed to
//! correct the receiver: the status that the receiver knows, and the one that is true now. If they are equal, nothing
//! is kept.
//!
//! - **Frozen.** [`Queue::freeze`] takes changes out for one request. A request may arrive although it seems to fail,
//!   so its changes are fixed from then on: newer changes of the same subjects wait for the next request.
//! - **Resync.** If there are too many changes, or they are too old, those of a room collapse into a resync: the
//!   receiver must read the members again. Changes after that wait until the resync is sent. While a receiver may be
//!   reading, it is uncertain what it knows, so changes do not cancel out.
//! - **Notices.** What happened once is not part of the state. It waits in the same order, and is dropped before
//!   changes.
//! - **Order.** Changes of one subject are sent in order. A room is occupied before its first join, and vacant after
//!   its last leave.

mod entry;
mod notices;
mod resync;
mod sending;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;

use super::selection::Selection;
use crate::store::{Event, MemberChange};
pub use entry::{Change, Status, Subject};
use entry::{Entry, Place};
use notices::PendingNotices;
pub use notices::kind_of;

/// Monotonic time in milliseconds.
pub type Ms = u64;

/// The limit of changes in one request.
pub const MAX_CHANGES: usize = 100;
/// A change waits this long for others. The thread that sends looks at it some milliseconds later: together, a batch
/// waits at most 250 ms.
const BATCH_MS: Ms = 200;
/// Changes that are not delivered after this time collapse.
const COLLAPSE_MS: Ms = 5 * 60 * 1000;
/// The limit of changes of other batches that are looked at to fill a batch.
const MAX_SKIPPED: usize = 1000;

/// How a queue works.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    /// Which changes are sent.
    pub selection: Selection,
    /// How long a leave waits for a return.
    pub delay: Duration,
    /// The limit of changes.
    pub max_changes: usize,
    /// How long other nodes may take to learn what this one knows: a receiver that reads may ask one of them.
    pub settle: Duration,
    /// What happens to changes beyond the limit, and to old ones.
    pub overflow: Overflow,
}

/// What happens to changes beyond the limit, and to old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// They collapse into resyncs.
    Resync,
    /// Old ones are kept; new ones beyond the limit are dropped: the format has no resync.
    Drop,
}

/// Whether a change fits into a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is in the batch.
    Taken,
    /// It belongs into another batch.
    Other,
    /// The batch is full.
    Full,
}

/// The changes that an endpoint has not received.
#[derive(Debug)]
pub struct Queue {
    settings: QueueSettings,
    rooms: HashMap<Arc<str>, RoomQueue, RandomState>,
    users: HashMap<Arc<str>, Entry, RandomState>,
    notices: PendingNotices,
    /// Everything is to be read again. Older changes are void.
    resync: Option<Resync>,
    /// All pending changes, resyncs included, in the order of sending.
    order: BTreeMap<Place, Subject>,
    next_number: u64,
    /// The changes of the request that is under way.
    frozen: Option<Frozen>,
    /// The node did not deliver before, so what the receiver knows is uncertain until then.
    uncertain_until: Ms,
    /// Nothing waits for returns or for other changes any more.
    is_closing: bool,
    /// Changes dropped because there were too many.
    dropped: u64,
    /// Resyncs caused by age or number.
    collapsed: u64,
}

/// The pending changes of one room.
#[derive(Debug, Default)]
struct RoomQueue {
    occupancy: Option<Entry>,
    members: HashMap<Arc<str>, Entry, RandomState>,
    /// The number of observers.
    count: Option<Entry>,
    resync: Option<Resync>,
}

#[derive(Debug, Clone, Copy)]
struct Resync {
    first: Ms,
    place: Place,
}

#[derive(Debug)]
struct Frozen {
    changes: Vec<Change>,
    has_resync: bool,
    since: Ms,
    /// Since when the oldest of them was pending.
    first: Ms,
}

impl RoomQueue {
    fn is_empty(&self) -> bool {
        self.has_no_changes() && self.resync.is_none()
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.occupancy.iter().chain(self.members.values()).chain(&self.count)
    }

    fn has_no_changes(&self) -> bool {
        self.occupancy.is_none() && self.members.is_empty() && self.count.is_none()
    }

    fn len(&self) -> usize {
        self.members.len() + usize::from(self.occupancy.is_some()) + usize::from(self.count.is_some())
    }
}

impl Queue {
    /// A queue without changes.
    #[must_use]
    pub fn new(settings: QueueSettings) -> Self {
        Self {
            settings,
            rooms: HashMap::default(),
            users: HashMap::default(),
            notices: PendingNotices::default(),
            resync: None,
            order: BTreeMap::new(),
            next_number: 0,
            frozen: None,
            uncertain_until: 0,
            is_closing: false,
            dropped: 0,
            collapsed: 0,
        }
    }

    /// Takes an event.
    pub fn record(&mut self, event: &Event, now: Ms) {
        let (subject, before, status, at_unix_ms, since_unix_ms) = match event {
            Event::Count(event) => {
                let subject = Subject::Count(Arc::clone(&event.room));
                if self.is_selected(&subject) {
                    // Nodes pause at different times, so nobody knows which number the receiver was told last.
                    let times = (event.at_unix_ms, event.at_unix_ms);
                    self.put(subject, None, Status::Count(event.observers), times, now);
                }
                return;
            }
            Event::Member(event) => {
                let subject = Subject::Member(Arc::clone(&event.room), Arc::clone(&event.user));
                let (before, status) = match &event.change {
                    MemberChange::Joined(state) => (Status::Absent(None), Status::Present(state.clone())),
                    MemberChange::Updated { before, now } => {
                        (Status::Present(before.clone()), Status::Present(now.clone()))
                    }
                    MemberChange::Left { reason, before } => {
                        (Status::Present(before.clone()), Status::Absent(Some(*reason)))
                    }
                };
                (subject, before, status, event.at_unix_ms, event.since_unix_ms)
            }
            Event::Room(event) => {
                let (before, status) = presence(event.is_occupied);
                (Subject::Room(Arc::clone(&event.room)), before, status, event.at_unix_ms, event.at_unix_ms)
            }
            Event::User(event) => {
                let (before, status) = presence(event.is_online);
                (Subject::User(Arc::clone(&event.user)), before, status, event.at_unix_ms, event.since_unix_ms)
            }
            Event::Notice(notice) => return self.record_notice(notice, now),
        };
        if self.is_selected(&subject) {
            self.put(subject, Some(before), status, (at_unix_ms, since_unix_ms), now);
        }
    }

    fn is_selected(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Member(room, _) | Subject::Room(room) | Subject::Count(room) => {
                self.settings.selection.has_room(room)
            }
            Subject::User(_) | Subject::Everything | Subject::Notice(_) => true,
        }
    }

    /// Merges a status into the pending change of its subject. `times` are when it came true and since when the subject
    /// is present.
    fn put(&mut self, subject: Subject, before: Option<Status>, status: Status, times: (u64, u64), now: Ms) {
        let earliest = self.earliest(&subject);
        let waits = matches!(status, Status::Absent(_)) && !self.is_closing;
        let ready = if waits { now + self.settings.delay.as_millis() as Ms } else { now };
        let place = (ready.max(earliest), self.next_number);
        let (at_unix_ms, since_unix_ms) = times;
        let known = self.take(&subject);
        let is_new = known.is_none();
        let entry = match known {
            Some(entry) => {
                let place = if entry.moves(&status) { place } else { entry.place };
                Entry { now: status, at_unix_ms, since_unix_ms, place, ..entry }
            }
            None => {
                let before = before.filter(|_| !self.is_uncertain(&subject, now));
                Entry { before, now: status, at_unix_ms, since_unix_ms, first: now, place }
            }
        };
        self.next_number += 1;
        if !entry.kind(&subject).is_some_and(|kind| self.settings.selection.has(kind)) {
            return;
        }
        if is_new && self.is_full() && !self.drop_notice() {
            self.dropped += 1;
            return;
        }
        self.insert(subject, entry);
        if self.order.len() > self.settings.max_changes {
            self.shrink(now);
        }
    }

    fn is_full(&self) -> bool {
        self.settings.overflow == Overflow::Drop && self.order.len() >= self.settings.max_changes
    }

    fn insert(&mut self, subject: Subject, entry: Entry) {
        self.order.insert(entry.place, subject.clone());
        match subject {
            Subject::Member(room, user) => drop(self.rooms.entry(room).or_default().members.insert(user, entry)),
            Subject::Room(room) => self.rooms.entry(room).or_default().occupancy = Some(entry),
            Subject::Count(room) => self.rooms.entry(room).or_default().count = Some(entry),
            Subject::User(user) => drop(self.users.insert(user, entry)),
            Subject::Everything | Subject::Notice(_) => {}
        }
    }

    fn take(&mut self, subject: &Subject) -> Option<Entry> {
        let entry = match subject {
            Subject::Member(room, user) => self.rooms.get_mut(room)?.members.remove(user),
            Subject::Room(room) => self.rooms.get_mut(room)?.occupancy.take(),
            Subject::Count(room) => self.rooms.get_mut(room)?.count.take(),
            Subject::User(user) => self.users.remove(user),
            Subject::Everything | Subject::Notice(_) => None,
        };
        if let Subject::Member(room, _) | Subject::Room(room) | Subject::Count(room) = subject
            && self.rooms.get(room).is_some_and(RoomQueue::is_empty)
        {
            self.rooms.remove(room);
        }
        let entry = entry?;
        self.order.remove(&entry.place);
        Some(entry)
    }

    /// What the receiver knows is uncertain until then: another node has delivered before.
    pub fn uncertain_until(&mut self, until: Ms) {
        self.uncertain_until = self.uncertain_until.max(until);
    }

    /// From now on nothing waits for returns or for other changes.
    pub fn close(&mut self) {
        self.is_closing = true;
    }

    /// The number of changes that were not delivered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.changes.len())
    }

    /// Whether everything was delivered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Since when the oldest change is pending. Looks at all of them.
    #[must_use]
    pub fn oldest(&self) -> Option<Ms> {
        let entries = self.rooms.values().flat_map(RoomQueue::entries).chain(self.users.values());
        let resyncs = self.rooms.values().filter_map(|queue| queue.resync).chain(self.resync);
        let pending = entries.map(|entry| entry.first).chain(resyncs.map(|resync| resync.first));
        pending.chain(self.notices.firsts()).chain(self.frozen.iter().map(|frozen| frozen.first)).min()
    }

    /// Changes that were dropped, and rooms that collapsed, so far.
    #[must_use]
    pub fn losses(&self) -> (u64, u64) {
        (self.dropped, self.collapsed)
    }
}

fn presence(is_present: bool) -> (Status, Status) {
    let (present, absent) = (Status::Present(None), Status::Absent(None));
    if is_present { (absent, present) } else { (present, absent) }
}
