//! The limit of rooms, as workers check it.

use std::sync::atomic::Ordering;

use super::Registry;
use crate::presence::Room;
use crate::quota::{Owner, Quota};

impl Registry {
    /// The limit of rooms, how many there are, and how many of them clients with known owners opened.
    #[must_use]
    pub fn room_quota(&self) -> &Quota {
        self.room_quota.quota()
    }

    /// Whether a room of this name would be new, and rooms are scarce, so that each owner is limited to a share.
    #[must_use]
    pub fn is_scarce(&self, name: &str) -> bool {
        self.room_quota().is_tight(1) && self.room(name).is_none()
    }

    /// Rooms with at least this id do not exist yet.
    #[must_use]
    pub fn next_room_id(&self) -> u64 {
        self.next_room.load(Ordering::Relaxed)
    }

    /// Records who opened a room.
    pub fn own_room(&self, room: &Room, owner: Owner) {
        self.room_quota.own(room, owner);
    }
}
