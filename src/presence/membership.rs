//! One user in the live truth: the rooms it is in, and how many of its sessions hold it there.

use std::sync::Arc;

use smallvec::SmallVec;

use super::room::Reported;
use super::{Reason, Room, State};

/// One user, in all rooms.
#[derive(Debug)]
pub(super) struct User {
    pub(super) since_unix_ms: u64,
    /// Nearly always one: no allocation of its own for that.
    pub(super) memberships: SmallVec<[Membership; 1]>,
}

/// One user in one room. All of it is guarded by the shard of the user.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) room: Arc<Room>,
    pub(super) state: Option<State>,
    /// Sessions that count here; the member is online while there is one.
    pub(super) sessions: u32,
    /// The user stands in the room's inbox already.
    pub(super) pending: bool,
    /// Why the last session ended.
    pub(super) reason: Reason,
}

impl User {
    pub(super) fn membership(&mut self, room: &Arc<Room>) -> Option<&mut Membership> {
        self.memberships.iter_mut().find(|membership| Arc::ptr_eq(&membership.room, room))
    }
}

impl Membership {
    pub(super) fn new(room: &Arc<Room>, state: Option<&State>) -> Self {
        Self { room: Arc::clone(room), state: state.cloned(), sessions: 1, pending: true, reason: Reason::Left }
    }

    pub(super) fn report(&mut self, user: &Arc<str>) -> Reported {
        if std::mem::replace(&mut self.pending, true) { Reported::AlreadyQueued } else { self.room.report(user) }
    }
}
