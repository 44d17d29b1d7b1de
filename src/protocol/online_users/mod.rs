//! The protocol of online-users clients: `GET /ws/{user_id}`.
//!
//! ```text
//! C  heartbeat                                             every 5 s; renews the lease
//! S  {"type": "online_users", "users": ["user1", …]}       on connect and after each join or leave; sorted
//! S  {"type": "heartbeat_ack"}                             reply to a heartbeat
//! S  {"type": "error", "message": "Unknown message"}       reply to any other message
//! ```
//!
//! Users stay online until their lease ends, even after the connection is closed. Only heartbeats renew the lease.

mod name_list;

use std::sync::Arc;

use bytes::{BufMut, Bytes};

use super::handshake::{bad_request, id_segment};
use super::{
    AtClose, Client, CloseCodes, Command, Handshake, Identity, Missed, OnClose, Presence, Protocol, Rules, Upgrade,
};
use crate::broadcast::encoder::{Encoder, Pacing};
use crate::broadcast::{RoomUpdate, Snapshot};
use crate::json::{Reader, put_list, put_string};
use crate::memory_budget::MemoryBudget;
use crate::presence::Audience;
use crate::websocket::Refusal;
use crate::websocket::decoder::Limits;
use crate::websocket::frame::text_frame;
use name_list::NameList;

/// Observers of the list of user ids.
pub const NAMES: Audience = Protocol::OnlineUsers.audience(0);

pub(super) static RULES: Rules = Rules {
    name: "online_users",
    presence: Presence::Lease { any_frame_renews: false },
    missed: Missed::Snapshot,
    observes_first: false,
    events: None,
    identity: Identity::AtUpgrade { missing: || bad_request("the user id is missing: /ws/USER") },
    on_close: OnClose { clean: AtClose::LeaseEnds, lost: AtClose::LeaseEnds, drained: AtClose::LeaseEnds },
    close_codes: CloseCodes::STANDARD,
    limits: Limits::PRESENCE,
    subprotocol: None,
    audiences: 1,
    counting: None,
    status: None,
    user_message: None,
    health: None,
    renewed: None,
    upgrade,
    greet: |client, _| {
        client.join_lobby_at_once(NAMES);
    },
    receive,
    receive_binary: None,
    too_big: None,
    alarm: None,
    encoders: |_| vec![Box::<Lists>::default()],
};

/// The reply to a heartbeat, as a complete frame.
const HEARTBEAT_ACK: &[u8] = b"\x81\x19{\"type\": \"heartbeat_ack\"}";

/// The reply to any other message, as a complete frame.
const UNKNOWN_MESSAGE: &[u8] = b"\x81\x2f{\"type\": \"error\", \"message\": \"Unknown message\"}";

fn upgrade(handshake: &Handshake<'_>) -> Option<Result<Upgrade, Refusal>> {
    let user = handshake.path.strip_prefix("/ws/").filter(|user| !user.contains('/'))?;
    Some(id_segment(user, "the user id").map(|user| Upgrade::new(Protocol::OnlineUsers, Some(user))))
}

fn receive(client: &mut Client<'_>, _: &mut Reader, text: &[u8]) {
    if is_heartbeat(text) {
        // Acknowledged whatever the outcome, as clients of this protocol expect.
        let _ = client.execute(Command::Heartbeat);
        client.replies.extend_from_slice(HEARTBEAT_ACK);
    } else {
        client.count_refusal();
        client.replies.extend_from_slice(UNKNOWN_MESSAGE);
    }
}

/// Whether a message is a heartbeat. The protocol has no other message.
#[must_use]
pub fn is_heartbeat(text: &[u8]) -> bool {
    text == b"heartbeat"
}

/// The frame with the list of these users, which must be sorted.
pub fn encode_list<'a>(users: impl IntoIterator<Item = &'a Arc<str>>) -> Bytes {
    text_frame(|buffer| {
        buffer.put_slice(br#"{"type": "online_users", "users": ["#);
        put_list(buffer, users, |buffer, user| put_string(buffer, user));
        buffer.put_slice(b"]}");
    })
}

/// Encodes the lists. Clients of this protocol observe only the lobby, so there is at most one.
#[derive(Debug, Default)]
struct Lists {
    /// `None` while nobody observes the room.
    lobby: Option<NameList>,
}

impl Encoder for Lists {
    fn pacing(&self) -> Pacing {
        Pacing::Lists
    }

    fn follow(&mut self, update: RoomUpdate<'_>, is_observed: bool) {
        if !is_observed {
            self.lobby = None;
            return;
        }
        let list = self.lobby.get_or_insert_with(|| NameList::new(update.room));
        if !list.follow(update) {
            *list = NameList::new(update.room);
            list.follow(update);
        }
    }

    fn is_ready(&self) -> bool {
        self.lobby.as_ref().is_some_and(NameList::is_complete)
    }

    fn snapshot(&mut self, _: RoomUpdate<'_>, unread: &MemoryBudget) -> Snapshot {
        Snapshot::new(self.lobby.as_mut().map(NameList::encode), unread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_replies_are_valid_frames() {
        for frame in [HEARTBEAT_ACK, UNKNOWN_MESSAGE] {
            assert_eq!(frame[0], 0x81);
            assert_eq!(usize::from(frame[1]), frame.len() - 2);
            serde_json::from_slice::<serde_json::Value>(&frame[2..]).unwrap();
        }
    }

    #[test]
    fn only_the_exact_text_is_a_heartbeat() {
        assert!(is_heartbeat(b"heartbeat"));
        for text in ["", "heartbeat ", "Heartbeat", "{\"type\":\"heartbeat\"}"] {
            assert!(!is_heartbeat(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn the_list_has_the_documented_spacing() {
        let users: Vec<Arc<str>> = vec!["a\"b".into(), "user2".into()];
        let frame = encode_list(&users);
        assert_eq!(&frame[2..], br#"{"type": "online_users", "users": ["a\"b","user2"]}"#);
    }
}
