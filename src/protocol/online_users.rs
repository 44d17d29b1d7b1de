//! The online-users seed over WebSocket: `GET /ws/{user_id}`.
//!
//! ```text
//! C  heartbeat                                             each 5 s; renews the lease
//! S  {"type": "online_users", "users": ["user1", …]}       on connect, then whenever the set changed, sorted
//! S  {"type": "heartbeat_ack"}                             to every heartbeat
//! S  {"type": "error", "message": "Unknown message"}       to anything else
//! ```
//!
//! Closing leaves the user online until its lease ends. Only heartbeats renew the lease, as the seed documents it.

use std::sync::Arc;

use bytes::{BufMut, Bytes};

use super::Command;
use crate::json::{put_list, put_string};
use crate::websocket::frame::text_frame;

/// The answer to a heartbeat, as a finished frame.
pub const HEARTBEAT_ACK: &[u8] = b"\x81\x19{\"type\": \"heartbeat_ack\"}";

/// The answer to anything else, as a finished frame.
pub const UNKNOWN_MESSAGE: &[u8] = b"\x81\x2f{\"type\": \"error\", \"message\": \"Unknown message\"}";

/// The command of a text message; `None` if it is not one, which is answered with [`UNKNOWN_MESSAGE`].
#[must_use]
pub fn decode(text: &[u8]) -> Option<Command<'static>> {
    (text == b"heartbeat").then_some(Command::Heartbeat { ack: true })
}

/// The list of everyone, from their names in order.
pub fn encode_list<'a>(users: impl IntoIterator<Item = &'a Arc<str>>) -> Bytes {
    text_frame(|buffer| {
        buffer.put_slice(br#"{"type": "online_users", "users": ["#);
        put_list(buffer, users, |buffer, user| put_string(buffer, user));
        buffer.put_slice(b"]}");
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_well_formed_frames() {
        for frame in [HEARTBEAT_ACK, UNKNOWN_MESSAGE] {
            assert_eq!(frame[0], 0x81);
            assert_eq!(usize::from(frame[1]), frame.len() - 2);
            serde_json::from_slice::<serde_json::Value>(&frame[2..]).unwrap();
        }
    }

    #[test]
    fn only_the_heartbeat_is_known() {
        assert_eq!(decode(b"heartbeat"), Some(Command::Heartbeat { ack: true }));
        for text in ["", "heartbeat ", "Heartbeat", "{\"type\":\"heartbeat\"}"] {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_list_reads_as_the_seed_writes_it() {
        let users: Vec<Arc<str>> = vec!["a\"b".into(), "user2".into()];
        let frame = encode_list(&users);
        assert_eq!(&frame[2..], br#"{"type": "online_users", "users": ["a\"b","user2"]}"#);
    }
}
