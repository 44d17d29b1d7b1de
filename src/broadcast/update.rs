//! The change of one room in one tick, as encoders see it.

use std::sync::Arc;

use crate::presence::{Audience, AudienceSet, Now, Room, RoomChange, RoomMessage, Roster};

/// A room that changed, or whose observers requested a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct RoomUpdate<'a> {
    /// The room.
    pub room: &'a Arc<Room>,
    /// The result of settling the room.
    pub change: &'a RoomChange,
    /// Messages to deliver, in order.
    pub messages: &'a [RoomMessage],
    /// Audiences that have observers.
    pub in_use: AudienceSet,
    /// The time of the tick.
    pub now: Now,
}

impl<'a> RoomUpdate<'a> {
    /// Whether an observer of this audience waits for a snapshot.
    pub(super) fn requests(&self, audience: Audience) -> bool {
        self.change.requested.contains(audience) && self.in_use.contains(audience)
    }

    /// Whether the sender of a message leaves in this tick. The message is delivered before the leave.
    #[must_use]
    pub fn is_leaving(&self, message: &RoomMessage) -> bool {
        let left = &self.change.diff.left;
        message.user.as_ref().is_some_and(|sender| left.binary_search_by(|(user, _)| user.cmp(sender)).is_ok())
    }

    /// The messages of members who leave in this tick if `leaving`, else all others.
    pub fn messages_of(self, leaving: bool) -> impl Iterator<Item = &'a RoomMessage> {
        self.messages.iter().filter(move |message| self.is_leaving(message) == leaving)
    }
}

/// The messages that are delivered: those of the application, of members, and of users whose leave this tick announces.
/// A message is dropped if observers never learn of its sender: a user who joins and leaves within the tick, or leaves
/// while the room is settled.
pub(super) fn deliverable(room: &Room, change: &RoomChange) -> Vec<RoomMessage> {
    if change.messages.is_empty() {
        return Vec::new();
    }
    let left = |user: &Arc<str>| change.diff.left.binary_search_by(|(left, _)| left.cmp(user)).is_ok();
    let is_known = |roster: &Roster, message: &RoomMessage| {
        message.user.as_ref().is_none_or(|user| roster.contains(user) || left(user))
    };
    room.read(|roster| change.messages.iter().filter(|message| is_known(roster, message)).cloned().collect())
}
