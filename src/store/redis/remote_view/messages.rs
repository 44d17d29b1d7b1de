//! Messages of other nodes: to rooms, and of the application to users.

use std::sync::Arc;

use super::super::event::RemoteChange;
use super::FollowUp;
use crate::presence::{Keeping, Publisher, Registry, RoomMessage, UserMessage};
use crate::store::{KeptMessage, LastMessage, LastMessages};

/// Where this node keeps last messages, and the latest time that a message can have.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) messages: Arc<LastMessages>,
    /// Messages of later times have their times from wrong clocks, and would displace all others.
    pub(super) latest_unix_ms: u64,
}

/// Adds a message to the next tick. If it belongs to a history, it belongs to the follow-up.
pub(super) fn publish(registry: &Registry, last: &Last, message: &RemoteChange, follow_up: &mut FollowUp) {
    match message {
        RemoteChange::Message { room, user, stamp, form, excluded, publisher, keeping, data } => {
            if *keeping == Keeping::Last && stamp.unix_ms <= last.latest_unix_ms {
                // First: a tick that delivers it serves new observers as well, and the next one may.
                let message = LastMessage { stamp: *stamp, data: data.as_str().into() };
                last.messages.heard(&room.as_str().into(), message);
            }
            let message = RoomMessage::remote(user.as_deref().map(Into::into), data.as_str().into(), *stamp);
            let message = message.in_form(*form).except(*excluded).kept(*keeping);
            registry.publish_remote(room, if *publisher == Publisher::Client { message.of_client() } else { message });
            if *keeping == Keeping::History {
                let (room, user) = (room.as_str().into(), user.as_deref().map(Into::into));
                follow_up.kept.push(KeptMessage { room, user, data: data.as_str().into(), stamp: *stamp });
            }
        }
        RemoteChange::ToUser { user, stamp, data } => {
            // Beyond the limit it is dropped, as a message to a room is.
            registry.application_messages.add(UserMessage::remote(user, data, *stamp));
        }
        RemoteChange::Held { .. } | RemoteChange::Left { .. } | RemoteChange::Observers { .. } => {}
    }
}
