//! A room: an inbox where workers report what moved, and a roster of what has been announced.
//!
//! The inbox is touched on joins and leaves and held for a push. The roster is moved by the tick alone; snapshots and the HTTP
//! API read it, a page at a time, so that no reader of a huge room holds it for long.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{AUDIENCES, Audience, AudienceSet, Observers, Reason, Roster, State};

/// What is said in a room in one tick, names included: some 300 KiB a second to each who listens, at the default tick.
const MAX_SAID_BYTES: usize = 32 * 1024;

/// What changed in a room between two sequence numbers, each list sorted by user. An empty one is never sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Members who were not there before, with their states.
    pub joined: Vec<(Arc<str>, Option<State>)>,
    /// Members whose state is another now.
    pub updated: Vec<(Arc<str>, Option<State>)>,
    /// Members who are gone, and why.
    pub left: Vec<(Arc<str>, Reason)>,
}

impl Diff {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty() && self.updated.is_empty() && self.left.is_empty()
    }

    /// Whether the set of members changed, not only somebody's state.
    #[must_use]
    pub fn moved(&self) -> bool {
        !(self.joined.is_empty() && self.left.is_empty())
    }
}

/// Something that a member said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomMessage {
    /// Who.
    pub user: Arc<str>,
    /// What: compact JSON text.
    pub data: Box<str>,
    /// By a session of this node: the others have still to hear of it.
    pub from_here: bool,
}

/// What the store has to be told about a user in a room: whether this node holds it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldChange {
    /// It does, as of now or with another state.
    Held {
        /// What sessions of this node wrote last.
        state: Option<State>,
        /// It did not before.
        joined: bool,
    },
    /// It does not any more.
    Released(Reason),
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
    /// What was said since then, in order.
    pub said: Vec<RoomMessage>,
    /// What sessions of this node changed, sorted by user; collected only for a registry with a store.
    pub told: Vec<(Arc<str>, HoldChange)>,
    /// Audiences in which somebody waits for a snapshot.
    pub wanted: AudienceSet,
    /// Per worker, whom to tell.
    pub observers: SmallVec<[Observers; 4]>,
    /// Whether diffs are to be remembered: somebody has observed the members and may come back to resume.
    pub keeps_history: bool,
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
    /// What members said, and how many bytes that is: at most [`MAX_SAID_BYTES`].
    said: Vec<RoomMessage>,
    said_bytes: usize,
    wanted: AudienceSet,
    /// Per worker; kept up by `observe` and `unobserve`.
    observers: SmallVec<[Observers; 4]>,
    keeps_history: bool,
}

/// Whether a report put the room into the dirty list, or why it could not be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    Queue,
    AlreadyQueued,
    Closed,
}

/// The word of the live truth about one user that reported a change.
#[derive(Debug)]
pub(super) enum LiveState {
    Online(Option<State>),
    Offline(Reason),
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
                said: Vec::new(),
                said_bytes: 0,
                wanted: AudienceSet::default(),
                observers: SmallVec::from_elem([0; AUDIENCES], workers),
                keeps_history: false,
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

    /// Takes what a member says to the next tick; false if too much has been said already.
    pub(super) fn publish(&self, said: RoomMessage) -> (Reported, bool) {
        let (reported, taken) = self.with_inbox(|inbox| {
            let bytes = size_of::<RoomMessage>() + said.user.len() + said.data.len();
            let fits = inbox.said_bytes + bytes <= MAX_SAID_BYTES;
            if fits {
                inbox.said_bytes += bytes;
                inbox.said.push(said);
            }
            fits
        });
        (reported, taken.unwrap_or(false))
    }

    /// Counts an observer in or out (`by` is 1 or -1).
    pub(super) fn count_observer(&self, worker: usize, audience: Audience, by: i32) -> Reported {
        let count = |inbox: &mut Inbox| {
            let observers = &mut inbox.observers[worker][audience as usize];
            *observers = observers.saturating_add_signed(by);
        };
        self.with_inbox(count).0
    }

    /// Asks for a snapshot at the next tick (or only for a visit, when history will do). Returns the generation of the asking.
    pub(super) fn want(&self, audience: Audience, snapshot: bool) -> (Reported, u64) {
        let (reported, generation) = self.with_inbox(|inbox| {
            inbox.keeps_history |= audience == Audience::Members;
            if snapshot {
                inbox.wanted.insert(audience);
            }
            inbox.generation
        });
        (reported, generation.unwrap_or(0))
    }

    /// Puts the room on the dirty list again without news: something was put off to a later tick.
    pub(super) fn revisit(&self, wanted: AudienceSet) -> Reported {
        self.with_inbox(|inbox| inbox.wanted.0 |= wanted.0).0
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
            said: std::mem::take(&mut inbox.said),
            told: Vec::new(),
            wanted: std::mem::take(&mut inbox.wanted),
            observers: inbox.observers.clone(),
            keeps_history: inbox.keeps_history,
        };
        inbox.said_bytes = 0;
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
        if !change.keeps_history {
            roster.forget_history();
        }
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
            && inbox.said.is_empty()
            && inbox.observers.iter().flatten().all(|observers| *observers == 0);
        inbox.closed |= unused;
        unused
    }
}
