//! A room: its members (live), what observers have received (announced), and the channel for the difference.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use tokio::sync::broadcast;

use crate::wire::{Detail, Gone, Member, MembersPage, Message, Reason, encode};

/// A client that is more ticks behind gets a new snapshot.
const UPDATES_KEPT: usize = 16;
const PAGE_MEMBERS: usize = 1000;

/// The complete messages of one tick for the observers of a room. Each connection sends those it observes.
#[derive(Default)]
pub struct Update {
    pub diff: Option<String>,
    /// Pages of a snapshot, if an observer needs one.
    pub snapshot: Vec<String>,
    pub count: Option<String>,
}

pub struct Room {
    pub name: Arc<str>,
    epoch: String,
    updates: broadcast::Sender<Arc<Update>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seq: u64,
    /// User → connections in the room.
    members: HashMap<Arc<str>, usize>,
    announced: BTreeSet<Arc<str>>,
    /// Reasons of leaves, for users who joined or left since the last tick.
    reasons: HashMap<Arc<str>, Reason>,
    wants_snapshot: bool,
    wants_count: bool,
}

impl Room {
    pub fn new(name: Arc<str>, epoch: String) -> Self {
        Self { name, epoch, updates: broadcast::channel(UPDATES_KEPT).0, state: Mutex::default() }
    }

    pub fn join(&self, user: &Arc<str>) {
        let mut state = self.state.lock().unwrap();
        let connections = state.members.entry(Arc::clone(user)).or_default();
        *connections += 1;
        if *connections == 1 {
            // Not sent: a user who is present at the tick has not left.
            state.reasons.insert(Arc::clone(user), Reason::Left);
        }
    }

    pub fn leave(&self, user: &Arc<str>, reason: Reason) {
        let mut state = self.state.lock().unwrap();
        let Some(connections) = state.members.get_mut(user) else { return };
        *connections -= 1;
        if *connections == 0 {
            state.members.remove(user);
            state.reasons.insert(Arc::clone(user), reason);
        }
    }

    /// Subscribes to updates. The next one contains the snapshot or count to start with.
    pub fn observe(&self, detail: Detail) -> broadcast::Receiver<Arc<Update>> {
        let mut state = self.state.lock().unwrap();
        match detail {
            Detail::Members => state.wants_snapshot = true,
            Detail::Count => state.wants_count = true,
        }
        self.updates.subscribe()
    }

    pub fn count(&self) -> usize {
        self.state.lock().unwrap().announced.len()
    }

    pub fn is_empty(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.members.is_empty() && state.announced.is_empty() && self.updates.receiver_count() == 0
    }

    /// Announces the net change since the last tick.
    pub fn settle(&self) {
        let mut state = self.state.lock().unwrap();
        let mut update = Update::default();
        let changed = state.announce();
        let is_observed = self.updates.receiver_count() > 0;
        if let Some((joined, left)) = changed {
            state.seq += 1;
            if is_observed {
                let (room, seq, count) = (&*self.name, state.seq, state.announced.len());
                update.diff = Some(encode(&Message::Diff { room, seq, count, joined: &joined, left: &left }));
                state.wants_count = true;
            }
        }
        if std::mem::take(&mut state.wants_count) && is_observed {
            let (seq, count) = (state.seq, state.announced.len());
            update.count = Some(encode(&Message::Count { room: &self.name, seq, count }));
        }
        if std::mem::take(&mut state.wants_snapshot) && is_observed {
            update.snapshot = self.encode_snapshot(&state);
        }
        if is_observed {
            // It fails if the last observer has just left.
            let _ = self.updates.send(Arc::new(update));
        }
    }

    fn encode_snapshot(&self, state: &State) -> Vec<String> {
        let members: Vec<Member> = state.announced.iter().map(|user| Member { user: Arc::clone(user) }).collect();
        let pages = members.len().div_ceil(PAGE_MEMBERS).max(1);
        let page_of = |page: usize| {
            let end = members.len().min((page + 1) * PAGE_MEMBERS);
            encode(&Message::Snapshot {
                room: &self.name,
                epoch: &self.epoch,
                seq: state.seq,
                count: members.len(),
                members: &members[page * PAGE_MEMBERS..end],
                page: page + 1,
                pages,
            })
        };
        (0..pages).map(page_of).collect()
    }

    /// A page of announced members after the user `after`, as JSON.
    pub fn members_page(&self, after: &str, limit: usize) -> String {
        let state = self.state.lock().unwrap();
        let after: Arc<str> = after.into();
        let mut following = state.announced.range((Bound::Excluded(after), Bound::Unbounded));
        let members: Vec<Member> =
            following.by_ref().take(limit).map(|user| Member { user: Arc::clone(user) }).collect();
        let last = members.last().map(|member| member.user.to_string());
        let next = last.filter(|_| following.next().is_some());
        let (seq, count) = (state.seq, state.announced.len());
        encode(&MembersPage { room: &self.name, epoch: &self.epoch, seq, count, members, next })
    }
}

impl State {
    /// Updates the announced members. Returns the difference, if there is one.
    fn announce(&mut self) -> Option<(Vec<Member>, Vec<Gone>)> {
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        for (user, reason) in std::mem::take(&mut self.reasons) {
            if self.members.contains_key(&user) {
                if self.announced.insert(Arc::clone(&user)) {
                    joined.push(Member { user });
                }
            } else if self.announced.remove(&user) {
                left.push(Gone { user, reason });
            }
        }
        (!joined.is_empty() || !left.is_empty()).then_some((joined, left))
    }
}
