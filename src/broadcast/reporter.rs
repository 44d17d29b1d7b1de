//! Tells the sinks which members joined and left.
//!
//! Several nodes may announce the same change to their observers; one of them reports it. The registry knows whether it
//! is this one ([`Registry::reports_join`], [`Registry::reports_leave`]).

use std::sync::Arc;

use crate::presence::{Now, Registry, Room, RoomChange};
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

    /// Collects the joins and leaves that this node reports, of a room that was settled just now.
    pub(super) fn collect(&mut self, registry: &Registry, room: &Room, change: &RoomChange, now: Now) {
        if self.sinks.is_empty() {
            return;
        }
        let mut push = |user: &Arc<str>, change| {
            let (room, user) = (Arc::clone(room.name()), Arc::clone(user));
            self.events.push(MemberEvent { at_unix_ms: now.unix_ms, room, user, change });
        };
        for (user, reason) in &change.diff.left {
            if registry.reports_leave(user, *reason) {
                push(user, MemberChange::Left(*reason));
            }
        }
        for (user, state) in &change.diff.joined {
            if registry.reports_join(room, user) {
                push(user, MemberChange::Joined(state.clone()));
            }
        }
        registry.forget_ended();
    }

    /// Hands the events of the tick over.
    pub(super) fn flush(&mut self) {
        // Taken, so that the memory of a tick with many changes is freed.
        self.sinks.record(&std::mem::take(&mut self.events));
    }
}
