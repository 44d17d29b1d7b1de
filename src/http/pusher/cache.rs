//! The last event of a cache channel.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::call::Call;
use crate::deadline::timeout;
use crate::json::put_number;
use crate::protocol::data_of_event;
use crate::store::{LastFound, LastMessage};

/// The store may take this long to answer. Then what this node knows counts.
const PATIENCE: Duration = Duration::from_secs(1);

/// The last event of the channel that is this room, and for how long it is kept. If this node does not know, it waits
/// for the store.
pub(super) async fn cached(call: &Call, room: &str) -> Option<(LastMessage, Duration)> {
    let (room, messages): (Arc<str>, _) = (room.into(), call.node().store.last_messages());
    let ask = async {
        loop {
            match messages.find(&room) {
                LastFound::Unknown => call.wait_for_ticks(1).await,
                found => return found,
            }
        }
    };
    match timeout(PATIENCE, ask).await.unwrap_or_else(|_| messages.find_here(&room)) {
        LastFound::Message(message, left) => Some((message, left)),
        LastFound::Nothing | LastFound::Unknown => None,
    }
}

/// Appends the field of an object, with a comma before it.
pub(super) fn put_cached(buffer: &mut BytesMut, cached: Option<&(LastMessage, Duration)>) {
    buffer.put_slice(br#","cache":"#);
    let Some((data, left)) = cached.and_then(|(message, left)| Some((data_of_event(&message.data)?, left))) else {
        return buffer.put_slice(b"null");
    };
    buffer.put_slice(br#"{"data":"#);
    buffer.put_slice(data.as_bytes());
    buffer.put_slice(br#","ttl":"#);
    put_number(buffer, left.as_secs());
    buffer.put_u8(b'}');
}
