//! The limit of rooms: how many there are, and who opened them.

use dashmap::{DashMap, Entry};
use foldhash::quality::RandomState;

use super::Room;
use crate::quota::{Owner, Quota};

/// The number of rooms, and the owners of some of them: the users and addresses that opened them.
#[derive(Debug)]
pub(super) struct RoomQuota {
    quota: Quota,
    /// By id of the room.
    owners: DashMap<u64, Owner, RandomState>,
}

impl RoomQuota {
    pub(super) fn new(limit: u64) -> Self {
        Self { quota: Quota::in_all(limit), owners: DashMap::default() }
    }

    pub(super) fn created(&self) {
        self.quota.add(&Owner::default(), 1);
    }

    pub(super) fn removed(&self, room: &Room) {
        self.quota.subtract(&Owner::default(), 1);
        if let Some((_, owner)) = self.owners.remove(&room.id()) {
            self.quota.unassign(&owner, 1);
        }
    }

    /// The limit, how many rooms there are, and how many of them the known owners opened.
    pub(super) fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Records who opened a room.
    pub(super) fn own(&self, room: &Room, owner: Owner) {
        if let Entry::Vacant(entry) = self.owners.entry(room.id()) {
            entry.insert(owner);
            self.quota.assign(&owner, 1);
        }
    }
}
