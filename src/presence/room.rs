//! A room: an inbox where workers report what moved, and a roster of what has been announced.
//!
//! The inbox is touched on joins and leaves and held for a push. The roster is moved by the tick alone; snapshots and the HTTP
//! API read it, a page at a time, so that no reader of a huge room holds it for long.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::change::{Diff, HoldChange, LiveState};
use super::{Audience, AudienceSet, MAX_AUDIENCES, Observers, Roster};

/// Messages of a room in one tick, names included: some 300 KiB per second to each observer, at the default tick.
const MAX_MESSAGE_BYTES_PER_TICK: usize = 32 * 1024;

/// A message to the observers of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomMessage {
    /// The member that published it; `None` for the application.
    pub user: Option<Arc<str>>,
    /// Compact JSON text.
    pub data: Box<str>,
    /// Published on this node: other nodes are still to be told.
    pub is_local: bool,
}

/// What the tick found when it settled a room.
#[derive(Debug)]
pub struct RoomChange {
    /// Counts settlements; observers who asked in an earlier generation are served by this one.
    pub generation: u64,
    /// The sequence number of the announced state.
    pub seq: u64,
    /// Members in it.
    pub count: usize,
    /// What is new since the last one; empty if only observers asked for something.
    pub diff: Diff,
    /// Messages published since then, in order.
    pub messages: Vec<RoomMessage>,
    /// What sessions of this node changed, sorted by user; collected only for a registry with a store.
    pub told: Vec<(Arc<str>, HoldChange)>,
    /// Audiences in which an observer waits for a snapshot.
    pub requested: AudienceSet,
    /// Per worker, the number of observers.
    pub observers: SmallVec<[Observers; 4]>,
    /// Audiences that the room has had observers of: one may return and ask for what it missed.
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
}

/// What has been reported since the last tick. Written by workers, taken by the tick.
#[derive(Debug)]
struct Inbox {
    /// The registry has let go of the room: whoever still holds it must look the name up again.
    closed: bool,
    /// The room is in the dirty list already.
    queued: bool,
    generation: u64,
    /// Users who reported a change, each once (its membership is marked pending).
    changed: Vec<Arc<str>>,
    /// Published messages, and how many bytes they have: the limit is [`MAX_MESSAGE_BYTES_PER_TICK`].
    messages: Vec<RoomMessage>,
    message_bytes: usize,
    requested: AudienceSet,
    /// Per worker; kept up by `observe` and `unobserve`.
    observers: SmallVec<[Observers; 4]>,
    observed_before: AudienceSet,
}

/// Whether a report put the room into the dirty list, or why it could not be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    Queue,
    AlreadyQueued,
    Closed,
}

impl Room {
    pub(super) fn new(id: u64, name: Arc<str>, epoch: Box<str>, workers: usize) -> Self {
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
                message_bytes: 0,
                requested: AudienceSet::default(),
                observers: SmallVec::from_elem([0; MAX_AUDIENCES], workers),
                observed_before: AudienceSet::default(),
            }),
            roster: Mutex::new(Roster::default()),
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

    /// Whether that is its name.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        *self.name == *name
    }

    /// Names one life of the room on one run of the node: `seq` counts within it.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Reads the announced state.
    pub fn read<R>(&self, read: impl FnOnce(&Roster) -> R) -> R {
        read(&self.roster.lock())
    }

    /// Keeps the frame of diff `seq` for those who resume.
    pub fn remember(&self, seq: u64, frame: Bytes) {
        self.roster.lock().remember(seq, frame);
    }

    pub(super) fn report(&self, user: &Arc<str>) -> Reported {
        self.with_inbox(|inbox| inbox.changed.push(Arc::clone(user))).0
    }

    /// Takes a message to the next tick; false if the room has too many bytes of messages already.
    pub(super) fn publish(&self, message: RoomMessage) -> (Reported, bool) {
        let (reported, taken) = self.with_inbox(|inbox| {
            let user_bytes = message.user.as_ref().map_or(0, |user| user.len());
            let bytes = size_of::<RoomMessage>() + user_bytes + message.data.len();
            let fits = inbox.message_bytes + bytes <= MAX_MESSAGE_BYTES_PER_TICK;
            if fits {
                inbox.message_bytes += bytes;
                inbox.messages.push(message);
            }
            fits
        });
        (reported, taken.unwrap_or(false))
    }

    /// Counts an observer in or out (`by` is 1 or -1).
    pub(super) fn count_observer(&self, worker: usize, audience: Audience, by: i32) -> Reported {
        let count = |inbox: &mut Inbox| {
            let observers = &mut inbox.observers[worker][audience.index()];
            *observers = observers.saturating_add_signed(by);
        };
        self.with_inbox(count).0
    }

    /// Requests a snapshot at the next tick (or only an update, when history will do). Returns the generation of the request.
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

    /// Puts the room on the dirty list again although nothing changed: something was deferred to a later tick.
    pub(super) fn defer(&self, requested: AudienceSet) -> Reported {
        self.with_inbox(|inbox| inbox.requested = inbox.requested.union(requested)).0
    }

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

    /// Takes the inbox, asks `live_state_of` for the last word about each user in it, and moves the roster.
    pub(super) fn settle(
        &self,
        mut live_state_of: impl FnMut(&Arc<str>) -> (LiveState, Option<HoldChange>),
    ) -> RoomChange {
        let mut inbox = self.inbox.lock();
        inbox.queued = false;
        inbox.generation += 1;
        let mut changed = std::mem::take(&mut inbox.changed);
        let mut change = RoomChange {
            generation: inbox.generation,
            seq: 0,
            count: 0,
            diff: Diff::default(),
            messages: std::mem::take(&mut inbox.messages),
            told: Vec::new(),
            requested: std::mem::take(&mut inbox.requested),
            observers: inbox.observers.clone(),
            observed_before: inbox.observed_before,
        };
        inbox.message_bytes = 0;
        drop(inbox);
        // In the roster's order: the walk goes forward, and the lists of the diff come out sorted.
        changed.sort_unstable();
        let live_state_of = |user: Arc<str>| {
            let (word, told) = live_state_of(&user);
            change.told.extend(told.map(|told| (Arc::clone(&user), told)));
            (word, user)
        };
        let words: Vec<_> = changed.into_iter().map(live_state_of).collect();
        let mut roster = self.roster.lock();
        for (word, user) in words {
            roster.apply(word, user, &mut change.diff);
        }
        roster.seq += u64::from(!change.diff.is_empty());
        (change.seq, change.count) = (roster.seq, roster.members.len());
        drop(roster);
        change
    }

    /// Closes the room if nobody is in it, nobody looks at it and nothing is on its way to it.
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
