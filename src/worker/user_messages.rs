//! Messages of the application to users: finds the connections of each user and encodes each message once per format.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Worker;
use crate::broadcast::Batch;
use crate::broadcast::encoder::UserMessageEncoder;
use crate::connection::{Connection, ConnectionId, Connections, Phase};
use crate::fanout::Deliveries;
use crate::presence::UserMessage;

/// Connections, with the formats of their protocols.
type Receivers = Vec<(ConnectionId, UserMessageEncoder)>;

/// The frames of one message, by format.
type Frames = SmallVec<[(UserMessageEncoder, u32); 1]>;

impl Worker {
    /// Adds the messages of a tick to the deliveries: each once per connection of its user. Returns whether there are
    /// any.
    pub(super) fn address(&self, batch: &Batch, connections: &Connections, deliveries: &mut Deliveries) -> bool {
        let mut is_any = false;
        // The connections of the last user: an application often sends one user several messages.
        let mut known: Option<(&Arc<str>, Receivers)> = None;
        for message in batch.user_messages.iter() {
            if known.as_ref().is_none_or(|(user, _)| **user != message.user) {
                known = Some((&message.user, self.receivers(&message.user, connections)));
            }
            let mut frames = Frames::new();
            for (connection, encode) in known.iter().flat_map(|(_, receivers)| receivers) {
                let frame = frame(&mut frames, *encode, message, batch.now.unix_ms, deliveries);
                deliveries.push(*connection, frame);
                is_any = true;
            }
        }
        is_any
    }

    /// The connections that have this user, with the formats of their protocols.
    fn receivers(&self, user: &str, connections: &Connections) -> Receivers {
        let receiver = |connection: &Connection| {
            let is_of_user = connection.phase == Phase::Open && connection.session_of(user).is_some();
            let encode = connection.protocol.rules().user_message.filter(|_| is_of_user)?;
            Some((connection.id, encode))
        };
        let slots = self.slots_of(user).into_iter();
        slots.filter_map(|slot| receiver(connections.get(slot as usize)?)).collect()
    }
}

/// The index of a message's frame in this format.
fn frame(
    frames: &mut Frames,
    encode: UserMessageEncoder,
    message: &UserMessage,
    unix_ms: u64,
    deliveries: &mut Deliveries,
) -> u32 {
    if let Some((_, frame)) = frames.iter().find(|(known, _)| std::ptr::fn_addr_eq(*known, encode)) {
        return *frame;
    }
    let bytes: Bytes = encode(&message.data, unix_ms);
    let frame = deliveries.add_to_user(bytes);
    frames.push((encode, frame));
    frame
}
