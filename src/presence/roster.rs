//! The announced members of a room, sorted by user, and the latest diffs, for clients that resume.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::change::{Diff, LiveState};
use super::{State, is_internal};

/// Diffs kept per room for `resume`: at 10 diffs per second, the worst case, the last 6.4 seconds; in quiet rooms
/// hours.
const HISTORY_DIFFS: usize = 64;
/// Bytes of diffs kept per room. The oldest are dropped first; a client that missed more receives a snapshot.
const HISTORY_BYTES: usize = 64 * 1024;

/// What a short frame counts as: it was built in a buffer of this length.
const LEAST_FRAME_BYTES: usize = 256;

/// The announced state. Written by the tick, read by snapshots and the HTTP API.
#[derive(Debug, Default)]
pub struct Roster {
    pub(super) seq: u64,
    pub(super) members: BTreeMap<Arc<str>, Option<State>>,
    /// Encoded diffs up to `seq`, oldest first, without gaps.
    history: VecDeque<(u64, Bytes)>,
    history_bytes: usize,
}

impl Roster {
    /// The sequence number of the announced state; 0 before the first change.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The number of members.
    #[must_use]
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Whether the user is a member.
    #[must_use]
    pub fn contains(&self, user: &str) -> bool {
        self.members.contains_key(user)
    }

    /// What a member shows; `None` if the user is not a member.
    #[must_use]
    pub fn state_of(&self, user: &str) -> Option<Option<&State>> {
        self.members.get(user).map(Option::as_ref)
    }

    /// Members sorted by user, only those behind `after` if it is given.
    pub fn members_after(&self, after: Option<&str>) -> impl Iterator<Item = (&Arc<str>, Option<&State>)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.members.range::<str, _>((start, Bound::Unbounded)).map(|(user, state)| (user, state.as_ref()))
    }

    /// The frames of the diffs `since + 1 ..= until`, if the history still has all of them.
    #[must_use]
    pub fn history(&self, since: u64, until: u64) -> Option<Vec<Bytes>> {
        if since == until {
            return Some(Vec::new());
        }
        let (oldest, newest) = (self.history.front()?.0, self.history.back()?.0);
        if since > until || since + 1 < oldest || until > newest {
            return None;
        }
        let wanted = self.history.iter().filter(|(seq, _)| (since + 1..=until).contains(seq));
        Some(wanted.map(|(_, frame)| frame.clone()).collect())
    }

    /// Applies the live state of a user, and records in the diff what that changed.
    pub(super) fn apply(&mut self, live_state: LiveState, user: Arc<str>, diff: &mut Diff) {
        match live_state {
            LiveState::Online(state) => match self.members.entry(user) {
                Entry::Vacant(entry) => {
                    diff.joined.push((Arc::clone(entry.key()), state.clone()));
                    entry.insert(state);
                }
                Entry::Occupied(mut announced) if *announced.get() != state => {
                    let update = State::update(announced.get().as_ref(), state.as_ref());
                    diff.updated.push((Arc::clone(announced.key()), update));
                    announced.insert(state);
                }
                Entry::Occupied(_) => {}
            },
            LiveState::Offline(reason) => {
                if let Some(last) = self.members.remove(&*user) {
                    if is_internal(&user) {
                        diff.last_states.extend(last.map(|state| (Arc::clone(&user), state)));
                    }
                    diff.left.push((user, reason));
                }
            }
        }
    }

    /// The length of the history, about as much as it takes in memory.
    pub(super) fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    pub(super) fn remember(&mut self, seq: u64, frame: Bytes) {
        if self.history.back().is_some_and(|(newest, _)| newest + 1 != seq) {
            self.forget_history();
        }
        self.history_bytes += counted_bytes(&frame);
        if self.history.is_empty() {
            self.history.reserve_exact(1); // Otherwise there would be room for four, and many rooms hardly change.
        }
        self.history.push_back((seq, frame));
        while self.history.len() > HISTORY_DIFFS || self.history_bytes > HISTORY_BYTES {
            let Some((_, oldest)) = self.history.pop_front() else { break };
            self.history_bytes -= counted_bytes(&oldest);
        }
    }

    pub(super) fn forget_history(&mut self) {
        self.history = VecDeque::new();
        self.history_bytes = 0;
    }
}

/// What a frame counts as. Frames have at least [`LEAST_FRAME_BYTES`] of memory.
fn counted_bytes(frame: &Bytes) -> usize {
    frame.len().max(LEAST_FRAME_BYTES)
}
