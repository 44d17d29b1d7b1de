//! One user in the live truth: the rooms it is in, how many sessions hold it there, and which other nodes do.

use std::sync::Arc;

use smallvec::SmallVec;

use super::change::HoldChange;
use super::remote_hold::{IncarnationId, RemoteHold};
use super::room::Reported;
use super::{Now, Reason, Room, State};
use crate::inline_vec::InlineVec;

/// One user, in all rooms.
#[derive(Debug)]
pub(super) struct User {
    pub(super) since_unix_ms: u64,
    pub(super) memberships: InlineVec<Membership>,
}

/// One user in one room. All of it is guarded by the shard of the user.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) room: Arc<Room>,
    /// What sessions of this node wrote last; of no meaning without one.
    pub(super) state: Option<State>,
    /// Sessions of this node that count here.
    pub(super) sessions: u32,
    /// The user stands in the room's inbox already.
    pub(super) pending: bool,
    /// Sessions of this node have changed something since the room was settled last.
    pub(super) moved: bool,
    /// The store knows that this node holds the user here.
    pub(super) told: bool,
    /// Why the last hold ended.
    pub(super) reason: Reason,
    /// Other nodes that hold the user here. Boxed: most members have none.
    pub(super) remote: Option<Box<SmallVec<[RemoteHold; 1]>>>,
}

impl User {
    pub(super) fn membership(&mut self, room: &Arc<Room>) -> Option<&mut Membership> {
        self.memberships.iter_mut().find(|membership| Arc::ptr_eq(&membership.room, room))
    }
}

impl Membership {
    /// Held by nobody yet, and reported.
    pub(super) fn empty(room: &Arc<Room>) -> Self {
        Self {
            room: Arc::clone(room),
            state: None,
            sessions: 0,
            pending: true,
            moved: false,
            told: false,
            reason: Reason::Left,
            remote: None,
        }
    }

    /// Whether a session of this node or another node holds the user here.
    pub(super) fn is_online(&self) -> bool {
        self.sessions > 0 || self.remote.is_some()
    }

    /// The other nodes that hold the user here.
    pub(super) fn other_holders(&self) -> impl Iterator<Item = IncarnationId> {
        self.remote.iter().flat_map(|holds| holds.iter()).map(|hold| hold.incarnation)
    }

    pub(super) fn report(&mut self, user: &Arc<str>) -> Reported {
        if std::mem::replace(&mut self.pending, true) { Reported::AlreadyQueued } else { self.room.report(user) }
    }

    /// The state to show: of all that were written on any node the last. The same on every node, whatever came in first.
    pub(super) fn shown_state(&self) -> Option<State> {
        let here = self.state.iter().filter(|_| self.sessions > 0);
        let remote = self.remote.iter().flat_map(|holds| holds.iter()).filter_map(|hold| hold.state.as_ref());
        let last = here.chain(remote).max_by_key(|state| state.age_key());
        last.filter(|state| !state.is_cleared()).cloned()
    }

    /// The state as it is to be kept: one that is written now is later than any other node's, whatever the clocks publish. One that
    /// comes back with its session is as old as it was.
    pub(super) fn dated(&self, state: State, now: Now) -> State {
        let remote = self.remote.iter().flat_map(|holds| holds.iter()).filter_map(|hold| hold.state.as_ref());
        match remote.map(State::written_unix_ms).max() {
            Some(latest) if state.written_unix_ms() == now.unix_ms && latest >= now.unix_ms => {
                state.stamped(latest.saturating_add(1))
            }
            _ => state,
        }
    }

    /// What the store has to be told about this node's sessions since the last time, if anything.
    pub(super) fn tell(&mut self) -> Option<HoldChange> {
        let (moved, told) = (std::mem::take(&mut self.moved), self.told);
        self.told = moved && self.sessions > 0 || !moved && told;
        match (self.sessions > 0, told) {
            _ if !moved => None,
            (true, told) => Some(HoldChange::Held { state: self.state.clone(), joined: !told }),
            (false, true) => Some(HoldChange::Released(self.reason)),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_in_one_room_takes_no_more_than_that_room() {
        assert_eq!(size_of::<User>(), size_of::<Membership>() + 8);
        assert!(size_of::<Membership>() <= 32);
    }
}
