//! The last message of the application to a room, for later observers: kept in the tick that delivers it, and found for
//! the observers that a later tick serves.

use std::sync::Arc;

use super::{AudienceFrames, Broadcaster, Last, RoomFrames};
use crate::presence::{AudienceSet, Form, Keeping, Now, Publisher, Room, RoomChange, RoomMessage, Tick};
use crate::store::{LastFound, LastMessage};

/// How often messages that are too old are dropped.
const EXPIRE_EVERY_TICKS: Tick = 64;

impl Broadcaster {
    /// Whether the room keeps the last of its messages, and one of them is the application's. If so, that one comes
    /// after the last message before, although clocks of nodes differ.
    pub(super) fn follow_last(&mut self, room: &Room, change: &RoomChange, unix_ms: u64) -> bool {
        let keeps_last = change.messages.iter().any(is_of_application)
            && self.encoders.audiences.iter().any(|encoder| encoder.keeps_last(room));
        if keeps_last && let Some(stamp) = self.last_messages.stamp(room.name()) {
            self.stamps.see(stamp, unix_ms);
        }
        keeps_last
    }

    /// Keeps the last message of the application on this node.
    pub(super) fn keep_last(&self, room: &Room, change: &mut RoomChange) {
        let Some(last) = change.messages.iter_mut().rev().find(|message| is_of_application(message)) else { return };
        last.keeping = Keeping::Last;
        let message = LastMessage { stamp: last.stamp, data: (*last.data).into() };
        self.last_messages.published(room.name(), message);
    }

    /// The last message, if an observer waits for it.
    pub(super) fn find_last(&self, room: &Arc<Room>, change: &RoomChange, in_use: AudienceSet) -> Option<LastFound> {
        let mut requested = change.requested.iter().filter(|audience| in_use.contains(*audience));
        let keeps_last = requested.any(|audience| {
            self.encoders.audiences.get(audience.index()).is_some_and(|encoder| encoder.keeps_last(room))
        });
        keeps_last.then(|| self.last_messages.find(room.name()))
    }

    /// Forgets what the store has answered about a room that is closed.
    pub(super) fn forget_last(&self, room: &Room, change: &RoomChange) {
        let mut observed = change.observed_before.iter();
        if observed.any(|audience| self.encoders.audiences.get(audience.index()).is_some_and(|it| it.keeps_last(room)))
        {
            self.last_messages.closed(room.name());
        }
    }

    /// Reports that the last message of a room is missing, if new observers were told so.
    pub(super) fn note_missing_last(&mut self, room: &Room, last: Last<'_>, frames: &RoomFrames) {
        let is_told = |frames: &AudienceFrames| {
            let encoder = self.encoders.audiences.get(frames.audience.index());
            frames.snapshot.is_some() && encoder.is_some_and(|encoder| encoder.keeps_last(room))
        };
        if last == Last::Missing && frames.audiences.iter().any(is_told) {
            self.reporter.last_is_missing(room);
        }
    }

    /// Drops messages that are too old, every now and then.
    pub(super) fn expire_last_messages(&self, now: Now) {
        if now.tick.is_multiple_of(EXPIRE_EVERY_TICKS) {
            self.last_messages.expire();
        }
    }
}

/// Whether the application has published this event on this node.
fn is_of_application(message: &RoomMessage) -> bool {
    message.is_local && message.publisher == Publisher::Application && message.form == Form::Event
}

/// What new observers are told. They receive the messages of this tick in any case.
pub(super) fn last_of<'a>(found: &'a LastFound, change: &RoomChange) -> Last<'a> {
    match found {
        LastFound::Message(last, _) if change.messages.iter().any(|message| message.stamp == last.stamp) => {
            Last::Nothing
        }
        LastFound::Message(last, _) => Last::Message(&last.data),
        _ if change.messages.iter().any(|message| message.keeping == Keeping::Last) => Last::Nothing,
        LastFound::Nothing => Last::Missing,
        LastFound::Unknown => Last::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::presence::{Audience, MessageStamp, Registry, Settings};

    #[test]
    fn new_observers_receive_a_message_of_their_tick_once_and_are_not_told_that_there_is_none() {
        let registry = Registry::new(Settings { ttl: 10, workers: 1, incarnation: 1 });
        let observed = registry.observe("room", 0, Audience::new(0), true);
        let stamp = |number| MessageStamp { unix_ms: 5, incarnation: 1, number };
        let message = |number| RoomMessage::remote(None, "1".into(), stamp(number)).kept(Keeping::Last);
        let found = |number| LastFound::Message(LastMessage { stamp: stamp(number), data: "1".into() }, Duration::MAX);
        let check = |messages: &[RoomMessage], found: &LastFound, want: Last<'_>| {
            let change = RoomChange { messages: messages.to_vec(), ..registry.settle(&observed.room) };
            assert_eq!(last_of(found, &change), want, "{found:?} {messages:?}");
        };
        check(&[], &found(1), Last::Message("1"));
        check(&[message(2)], &found(1), Last::Message("1"));
        check(&[message(2), message(3)], &found(3), Last::Nothing);
        check(&[message(2)], &LastFound::Nothing, Last::Nothing);
        check(&[message(2)], &LastFound::Unknown, Last::Nothing);
        check(&[message(2).kept(Keeping::No)], &LastFound::Nothing, Last::Missing);
        check(&[], &LastFound::Unknown, Last::Unknown);
    }
}
