//! The live state of one user: the user's rooms, and for each room the sessions and the other nodes that hold the user
//! there.

use std::sync::Arc;

use smallvec::SmallVec;

use super::change::HoldChange;
use super::remote_hold::{IncarnationId, RemoteHold};
use super::room::Reported;
use super::{Now, Reason, Room, State};

/// One user in one room. Guarded by the lock of the user's shard.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) room: Arc<Room>,
    /// The state that sessions of this node set last. Meaningless if there are none.
    pub(super) state: Option<State>,
    /// The number of sessions of this node that hold the user here.
    pub(super) sessions: u32,
    /// Whether the user is in the room's inbox already.
    pub(super) pending: bool,
    /// Whether sessions of this node changed something since the room was last settled.
    pub(super) changed_here: bool,
    /// Whether the store knows that this node holds the user here.
    pub(super) known_to_store: bool,
    /// Why the last hold ended.
    pub(super) reason: Reason,
    /// Other nodes that hold the user here. Boxed: most members have none.
    pub(super) remote: Option<Box<SmallVec<[RemoteHold; 1]>>>,
}

impl Membership {
    /// A membership that no session and no node holds yet. The caller reports it to the room.
    pub(super) fn empty(room: &Arc<Room>) -> Self {
        Self {
            room: Arc::clone(room),
            state: None,
            sessions: 0,
            pending: true,
            changed_here: false,
            known_to_store: false,
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

    /// What to show: the latest state that was set on any node, and the latest info. It is the same on every node, in
    /// whatever order they arrive there.
    pub(super) fn latest_state(&self) -> Option<State> {
        let here = self.state.iter().filter(|_| self.sessions > 0);
        let remote = self.remote.iter().flat_map(|holds| holds.iter()).filter_map(|hold| hold.state.as_ref());
        State::latest(here.chain(remote))
    }

    /// Makes a state that is set now later than the states of other nodes, even if their clocks are ahead. The state of
    /// a session that returns keeps its time.
    pub(super) fn newer_than_remote(&self, state: State, now: Now) -> State {
        let remote = self.remote.iter().flat_map(|holds| holds.iter()).filter_map(|hold| hold.state.as_ref());
        match remote.map(State::written_unix_ms).max() {
            Some(latest) if state.written_unix_ms() == now.unix_ms && latest >= now.unix_ms => {
                state.stamped(latest.saturating_add(1))
            }
            _ => state,
        }
    }

    /// Returns the change for the store since the last call, if sessions of this node changed anything.
    pub(super) fn take_hold_change(&mut self) -> Option<HoldChange> {
        if !std::mem::take(&mut self.changed_here) {
            return None;
        }
        let is_held = self.sessions > 0;
        let was_known = std::mem::replace(&mut self.known_to_store, is_held);
        match (is_held, was_known) {
            (true, _) => Some(HoldChange::Held { state: self.state.clone(), joined: !was_known }),
            (false, true) => Some(HoldChange::Released(self.reason)),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_is_small() {
        assert!(size_of::<Membership>() <= 32);
    }
}
