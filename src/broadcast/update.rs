//! The change of one room in one tick, as encoders see it.

use std::sync::Arc;

use crate::presence::{Audience, AudienceSet, Form, Keeping, Now, Room, RoomChange, RoomMessage, Roster};

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
    /// What new observers are told of the last message of the application.
    pub last: Last<'a>,
    /// The number of observers, if they are told it.
    pub observers: Option<ObserverCount>,
    /// The time of the tick.
    pub now: Now,
}

/// How many observers a room has on all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObserverCount {
    /// The number. New observers are told it.
    pub number: u64,
    /// Whether observers that have a snapshot are told it in this tick.
    pub is_due: bool,
}

/// What new observers of a room are told of the last message of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Last<'a> {
    /// Nothing: the room keeps none, or the message is one of this tick.
    #[default]
    Nothing,
    /// This message.
    Message(&'a str),
    /// That there is none.
    Missing,
    /// It is not known yet, so new observers wait.
    Unknown,
}

impl<'a> RoomUpdate<'a> {
    /// Whether an observer of this audience waits for a snapshot.
    pub(super) fn requests(&self, audience: Audience) -> bool {
        self.change.requested.contains(audience) && self.in_use.contains(audience)
    }

    /// The last message of the application, if it is one of this tick: snapshots do not have it.
    #[must_use]
    pub fn last_of_tick(self) -> Option<&'a RoomMessage> {
        let kept = self.messages.iter().filter(|message| message.keeping == Keeping::Last);
        let last = kept.reduce(|last, next| if next.stamp.is_after(last.stamp) { next } else { last });
        last.filter(|_| self.last == Last::Nothing)
    }

    /// Whether the sender of a message leaves in this tick. The message is delivered before the leave.
    #[must_use]
    pub fn is_leaving(&self, message: &RoomMessage) -> bool {
        let left = &self.change.diff.left;
        message.user.as_ref().is_some_and(|sender| left.binary_search_by(|(user, _)| user.cmp(sender)).is_ok())
    }

    /// The messages of this form: those of members who leave in this tick if `leaving`, else all others.
    pub fn messages_of(self, form: Form, leaving: bool) -> impl Iterator<Item = &'a RoomMessage> {
        self.messages.iter().filter(move |message| message.form == form && self.is_leaving(message) == leaving)
    }
}

/// Keeps the messages that are delivered: those of the application, of members, and of users whose leave this tick
/// announces. A message is dropped if observers never learn of its sender: a user who joins and leaves within the tick,
/// or leaves while the room is settled.
pub(super) fn retain_deliverable(room: &Room, change: &mut RoomChange) {
    let RoomChange { messages, diff, .. } = change;
    let left = |user: &Arc<str>| diff.left.binary_search_by(|(left, _)| left.cmp(user)).is_ok();
    let is_known = |roster: &Roster, message: &RoomMessage| {
        message.user.as_ref().is_none_or(|user| roster.contains(user) || left(user))
    };
    room.read(|roster| messages.retain(|message| is_known(roster, message)));
}
