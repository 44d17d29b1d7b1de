//! Tells the sinks which members joined and left.

use std::sync::Arc;

use crate::presence::{Now, Room, RoomChange};
use crate::store::{MemberChange, MemberEvent, Sinks};

/// Collects the events of a tick for the sinks.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    sinks: Arc<Sinks>,
    /// Of the present tick.
    events: Vec<MemberEvent>,
}

impl Reporter {
    pub(super) fn new(sinks: Arc<Sinks>) -> Self {
        Self { sinks, events: Vec::new() }
    }

    /// Collects the joins and leaves of a room that was settled just now.
    pub(super) fn collect(&mut self, room: &Room, change: &RoomChange, now: Now) {
        if self.sinks.is_empty() {
            return;
        }
        let event = |user: &Arc<str>, change| MemberEvent {
            at_unix_ms: now.unix_ms,
            room: Arc::clone(room.name()),
            user: Arc::clone(user),
            change,
        };
        self.events.extend(change.diff.left.iter().map(|(user, reason)| event(user, MemberChange::Left(*reason))));
        self.events
            .extend(change.diff.joined.iter().map(|(user, state)| event(user, MemberChange::Joined(state.clone()))));
    }

    /// Hands the events of the tick over.
    pub(super) fn flush(&mut self) {
        self.sinks.record(&self.events);
        self.events.clear();
    }
}
