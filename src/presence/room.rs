//! A room: an inbox in which workers report changes, and a roster with the announced members.
//!
//! Joins and leaves lock the inbox, each for one push. Only the tick changes the roster; snapshots and the HTTP API
//! read it one page at a time, so that no reader of a huge room locks it for long.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::change::{Diff, HoldChange, LiveState, ObserversChange};
use super::histories::{HasHistory, Histories};
use super::message::Publisher;
use super::{Audience, AudienceSet, MAX_AUDIENCES, Observers, RoomMessage, Roster};

/// Bytes of messages of clients that a room accepts per tick, user ids included: some 300 KiB per second to each
/// observer at the default tick.
const MAX_CLIENT_BYTES_PER_TICK: usize = 32 * 1024;
/// The same for messages of the application, which has a key and paces itself.
const MAX_APPLICATION_BYTES_PER_TICK: usize = 1024 * 1024;

impl Publisher {
    const fn max_bytes_per_tick(self) -> usize {
        match self {
            Self::Client => MAX_CLIENT_BYTES_PER_TICK,
            Self::Application => MAX_APPLICATION_BYTES_PER_TICK,
        }
    }
}

/// The result of settling a room.
#[derive(Debug)]
pub struct RoomChange {
    /// Counts how often the room was settled. Serves observers whose request was made in an earlier generation.
    pub generation: u64,
    /// The sequence number of the announced state.
    pub seq: u64,
    /// The number of announced members.
    pub count: usize,
    /// The changes since the room was last settled. Empty if there were only requests or messages.
    pub diff: Diff,
    /// Messages published since then, in order.
    pub messages: Vec<RoomMessage>,
    /// Changes for the store, sorted by user. Always empty in a registry without a store.
    pub hold_changes: Vec<(Arc<str>, HoldChange)>,
    /// Audiences in which an observer waits for a snapshot.
    pub requested: AudienceSet,
    /// Per worker, the audiences in which it has observers.
    pub observed: SmallVec<[AudienceSet; 16]>,
    /// How the number of observers has changed, for the store.
    pub observers_change: Option<ObserversChange>,
    /// Audiences of which the room has had observers: one of them may return and resume.
    pub observed_before: AudienceSet,
}

/// A room and its members.
#[derive(Debug)]
pub struct Room {
    id: u64,
    name: Arc<str>,
    epoch: Box<str>,
    inbox: Mutex<Inbox>,
    roster: Mutex<Roster>,
    /// Of all rooms, to which it reports the length of its own.
    histories: Arc<Histories>,
}

/// What was reported since the last tick. Written by workers, taken by the tick.
#[derive(Debug)]
struct Inbox {
    /// Whether the registry has removed the room. Callers that still have it must look its name up again.
    closed: bool,
    /// Whether the room is in the dirty list already.
    queued: bool,
    generation: u64,
    /// Users with a change, each once (the membership is marked as pending).
    changed: Vec<Arc<str>>,
    messages: Vec<RoomMessage>,
    /// Bytes of `messages` by [`Publisher`], each with its own limit.
    message_bytes: [usize; 2],
    requested: AudienceSet,
    /// The number of observers per worker.
    observers: SmallVec<[Observers; 4]>,
    /// Their number at the last settlement. The store writes this number: it is told only of changes from one settled
    /// number to another.
    settled_observers: u64,
    observed_before: AudienceSet,
}

/// What the caller does after a report to a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    /// Add the room to the dirty list.
    Queue,
    /// Nothing: the room is in the dirty list already.
    AlreadyQueued,
    /// Look the room up again: this one is closed and did not accept the report.
    Closed,
}

impl Inbox {
    fn count_observers(&self) -> u64 {
        self.observers.iter().flatten().map(|observers| u64::from(*observers)).sum()
    }
}

impl HasHistory for Room {
    fn give_up_history(&self) -> usize {
        let mut roster = self.roster.lock();
        let bytes = roster.history_bytes();
        roster.forget_history();
        bytes
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.histories.remove(self.id, self.roster.get_mut().history_bytes());
    }
}

impl Room {
    pub(super) fn new(id: u64, name: Arc<str>, epoch: Box<str>, workers: usize, histories: Arc<Histories>) -> Self {
        Self {
            id,
            name,
            epoch,
            inbox: Mutex::new(Inbox {
                closed: false,
                queued: false,
                generation: 0,
                changed: Vec::new(),
                messages: Vec::new(),
                message_bytes: [0; 2],
                requested: AudienceSet::default(),
                observers: SmallVec::from_elem([0; MAX_AUDIENCES], workers),
                settled_observers: 0,
                observed_before: AudienceSet::default(),
            }),
            roster: Mutex::new(Roster::default()),
            histories,
        }
    }

    /// A number that no other room of this process has or had.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether this is its name.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        *self.name == *name
    }

    /// Identifies the room from its creation to its removal, on one incarnation of the node. `seq` counts within it.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Reads the announced state.
    pub fn read<R>(&self, read: impl FnOnce(&Roster) -> R) -> R {
        read(&self.roster.lock())
    }

    /// Keeps the frame of diff `seq` for clients that resume.
    pub fn remember(self: &Arc<Self>, seq: u64, frame: Bytes) {
        let mut roster = self.roster.lock();
        let before = roster.history_bytes();
        roster.remember(seq, frame);
        let after = roster.history_bytes();
        drop(roster);
        self.histories.change(self.id, self, before, after);
    }

    pub(super) fn report(&self, user: &Arc<str>) -> Reported {
        self.with_inbox(|inbox| inbox.changed.push(Arc::clone(user))).0
    }

    /// Adds a message to the next tick. False if the room has too many bytes of messages of such publishers in this
    /// tick already.
    pub(super) fn publish(&self, message: RoomMessage) -> (Reported, bool) {
        let (reported, accepted) = self.with_inbox(|inbox| {
            let (by, bytes) = (message.publisher, message.bytes());
            let published = &mut inbox.message_bytes[by as usize];
            let fits = *published + bytes <= by.max_bytes_per_tick();
            if fits {
                *published += bytes;
                inbox.messages.push(message);
            }
            fits
        });
        (reported, accepted.unwrap_or(false))
    }

    /// Whether this tick has space for this many bytes of messages of such publishers.
    pub(super) fn has_space(&self, by: Publisher, bytes: usize) -> bool {
        self.inbox.lock().message_bytes[by as usize] + bytes <= by.max_bytes_per_tick()
    }

    /// Changes the number of observers; `by` is 1 or -1.
    pub(super) fn count_observer(&self, worker: usize, audience: Audience, by: i32) -> Reported {
        let count = |inbox: &mut Inbox| {
            let observers = &mut inbox.observers[worker][audience.index()];
            *observers = observers.saturating_add_signed(by);
        };
        self.with_inbox(count).0
    }

    /// The number of observers on this node.
    pub(super) fn observers(&self) -> u64 {
        self.inbox.lock().count_observers()
    }

    /// Whether it has members on any node, or observers on this one.
    pub(super) fn is_used(&self) -> bool {
        self.observers() > 0 || self.read(Roster::count) > 0
    }

    /// The number of observers on this node when the room was last settled.
    pub(super) fn settled_observers(&self) -> u64 {
        self.inbox.lock().settled_observers
    }

    /// Requests a snapshot at the next tick, or only an update if the history is enough (`snapshot` is false). Returns
    /// the generation of the request.
    pub(super) fn request_snapshot(&self, audience: Audience, snapshot: bool) -> (Reported, u64) {
        let (reported, generation) = self.with_inbox(|inbox| {
            inbox.observed_before.insert(audience);
            if snapshot {
                inbox.requested.insert(audience);
            }
            inbox.generation
        });
        (reported, generation.unwrap_or(0))
    }

    /// Makes the next tick settle the room again although nothing changed, because these snapshots were deferred.
    pub(super) fn defer(&self, requested: AudienceSet) -> Reported {
        self.with_inbox(|inbox| inbox.requested = inbox.requested.union(requested)).0
    }

    /// Calls `act` with the inbox, unless the room is closed.
    fn with_inbox<R>(&self, act: impl FnOnce(&mut Inbox) -> R) -> (Reported, Option<R>) {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return (Reported::Closed, None);
        }
        let result = act(&mut inbox);
        let reported = if inbox.queued { Reported::AlreadyQueued } else { Reported::Queue };
        inbox.queued = true;
        (reported, Some(result))
    }

    /// Takes the inbox, gets the live state of each user in it from `live_state_of`, and applies it to the roster.
    pub(super) fn settle(
        &self,
        mut live_state_of: impl FnMut(&Arc<str>) -> (LiveState, Option<HoldChange>),
    ) -> RoomChange {
        let mut inbox = self.inbox.lock();
        inbox.queued = false;
        inbox.generation += 1;
        let mut changed = std::mem::take(&mut inbox.changed);
        let observers = inbox.count_observers();
        let settled_observers = std::mem::replace(&mut inbox.settled_observers, observers);
        let mut change = RoomChange {
            generation: inbox.generation,
            seq: 0,
            count: 0,
            diff: Diff::default(),
            messages: std::mem::take(&mut inbox.messages),
            hold_changes: Vec::new(),
            requested: std::mem::take(&mut inbox.requested),
            observed: inbox.observers.iter().map(AudienceSet::with_observers).collect(),
            observers_change: ObserversChange::between(settled_observers, observers),
            observed_before: inbox.observed_before,
        };
        inbox.message_bytes = [0; 2];
        drop(inbox);
        // Sorted like the roster, so that the lists of the diff are sorted too.
        changed.sort_unstable();
        let live_state_of = |user: Arc<str>| {
            let (live_state, hold_change) = live_state_of(&user);
            change.hold_changes.extend(hold_change.map(|hold_change| (Arc::clone(&user), hold_change)));
            (live_state, user)
        };
        let live_states: Vec<_> = changed.into_iter().map(live_state_of).collect();
        let mut roster = self.roster.lock();
        for (live_state, user) in live_states {
            roster.apply(live_state, user, &mut change.diff);
        }
        roster.seq += u64::from(!change.diff.is_empty());
        (change.seq, change.count) = (roster.seq, roster.members.len());
        drop(roster);
        change
    }

    /// Closes the room if it has no members, no observers and an empty inbox. Returns whether it did.
    pub(super) fn try_close(&self) -> bool {
        let roster = self.roster.lock();
        let mut inbox = self.inbox.lock();
        let unused = roster.members.is_empty()
            && inbox.changed.is_empty()
            && inbox.messages.is_empty()
            && inbox.observers.iter().flatten().all(|observers| *observers == 0);
        inbox.closed |= unused;
        unused
    }
}
