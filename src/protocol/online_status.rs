//! The protocol of online-status clients: `GET /ws-online-status?userId=123`.
//!
//! ```text
//! S  {"type":"CONNECTION_ESTABLISHED","userId":123,"timestamp":T,"connectionId":"123-1704110400000"}      at once
//! S  {"type":"USER_ONLINE","userId":123,"timestamp":T}        users that are online already, then each that comes
//! S  {"type":"USER_OFFLINE","userId":123,"timestamp":T}       each that goes
//! ```
//!
//! `T` is ISO 8601 in UTC with milliseconds, `"2024-01-01T12:00:00.000Z"`; an event has the time of its tick. Users are not told
//! about themselves. What a client sends is ignored. A user id that reads as a whole number is a number in JSON.
//!
//! The connection is the presence: there is no lease, and the user is offline with the next tick after it ends, in whatever way.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};

use super::handshake::id;
use super::{AtClose, Client, Command, Handshake, Identity, Missed, OnClose, Presence, Protocol, Rules, Upgrade};
use crate::broadcast::encoder::{Encoder, Pacing};
use crate::broadcast::{RoomUpdate, Snapshot, Spans};
use crate::json::put_string;
use crate::memory_budget::MemoryBudget;
use crate::os::unix_ms;
use crate::presence::{Audience, Diff, Reason, Room};
use crate::websocket::decoder::Limits;
use crate::websocket::frame::append_text_frame;
use crate::websocket::{Refusal, close};

/// Observers of events: one per user that comes or goes.
pub const EVENTS: Audience = Protocol::OnlineStatus.audience(0);

pub(super) static RULES: Rules = Rules {
    presence: Presence::Connection,
    missed: Missed::Queue,
    // The close frame says what is missing: clients of this protocol expect the handshake to succeed.
    identity: Identity::AtUpgrade { missing: || Refusal::close(close::POLICY, "User ID required") },
    on_close: OnClose { clean: LEAVE, lost: LEAVE, drained: AtClose::Stay },
    limits: Limits::PRESENCE,
    subprotocol: None,
    audiences: 1,
    status: None,
    health: None,
    upgrade: |handshake| (handshake.path == "/ws-online-status").then(|| upgrade(handshake)),
    greet,
    receive: |_, _, _| {},
    receive_binary: None,
    encoders: |_| vec![Box::new(Events)],
};

const LEAVE: AtClose = AtClose::Leave(Reason::Closed);
/// Events in one page of a snapshot: at some 80 bytes each about as much as one socket buffer takes at once.
const PAGE_EVENTS: usize = 1000;
/// Memory reserved for an event: 76 bytes and the user id. For longer ids the buffer grows.
const EVENT_BYTES: usize = 90;
/// Beyond this the numbers of JavaScript are not exact (ECMA-262, `Number.MAX_SAFE_INTEGER`): such an id stays a string.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

fn upgrade(handshake: &Handshake<'_>) -> Result<Upgrade, Refusal> {
    let query = handshake.query()?;
    let user = query.first("userId").filter(|user| !user.is_empty());
    let user = user.map(|user| id(user, "userId")).transpose()?;
    Ok(Upgrade::new(Protocol::OnlineStatus, user))
}

fn greet(client: &mut Client<'_>, upgrade: &Upgrade) {
    put_established(client.replies, upgrade.user.as_deref().unwrap_or_default(), unix_ms());
    let _ = client.execute(Command::join_lobby(EVENTS));
}

#[derive(Debug)]
struct Events;

impl Encoder for Events {
    fn pacing(&self) -> Pacing {
        Pacing::Snapshots
    }

    fn changes(&mut self, update: RoomUpdate<'_>) -> Option<Bytes> {
        let diff = &update.change.diff;
        diff.changes_members().then(|| encode_changes(diff, update.now.unix_ms))
    }

    fn snapshot(&mut self, update: RoomUpdate<'_>, unread: &MemoryBudget) -> Snapshot {
        let (pages, spans) = encode_roster(update.room, update.now.unix_ms);
        Snapshot { spans: Some(spans), ..Snapshot::new(pages, unread) }
    }
}

/// Appends the first message of a connection.
pub fn put_established(buffer: &mut BytesMut, user: &str, unix_ms: u64) {
    append_text_frame(buffer, |buffer| {
        put_head(buffer, "CONNECTION_ESTABLISHED", user, &timestamp(unix_ms));
        buffer.put_slice(br#","connectionId":"#);
        put_string(buffer, &format!("{user}-{unix_ms}"));
        buffer.put_u8(b'}');
    });
}

/// One tick's change of the room, a frame for each user that came or went.
#[must_use]
pub fn encode_changes(diff: &Diff, unix_ms: u64) -> Bytes {
    let timestamp = timestamp(unix_ms);
    let mut buffer = BytesMut::with_capacity((diff.joined.len() + diff.left.len()) * EVENT_BYTES);
    diff.joined.iter().for_each(|(user, _)| put_event(&mut buffer, "USER_ONLINE", user, &timestamp));
    diff.left.iter().for_each(|(user, _)| put_event(&mut buffer, "USER_OFFLINE", user, &timestamp));
    buffer.freeze()
}

/// All announced members as events, in pages of 1,000. Only the tick moves the roster, so the pages agree.
#[must_use]
pub fn encode_roster(room: &Room, unix_ms: u64) -> (Vec<Bytes>, Spans) {
    let timestamp = timestamp(unix_ms);
    let (mut pages, mut spans, mut after): (Vec<Bytes>, _, Option<Arc<str>>) = (Vec::new(), Vec::new(), None);
    loop {
        let page: Vec<Arc<str>> = room.read(|roster| {
            roster.members_after(after.as_deref()).take(PAGE_EVENTS).map(|(user, _)| Arc::clone(user)).collect()
        });
        let Some(last) = page.last() else { return (pages, Spans::new(spans)) };
        after = Some(Arc::clone(last));
        let mut buffer = BytesMut::with_capacity(page.len() * EVENT_BYTES);
        for user in page {
            let start = buffer.len() as u32;
            put_event(&mut buffer, "USER_ONLINE", &user, &timestamp);
            spans.push((user, pages.len() as u32, start..buffer.len() as u32));
        }
        pages.push(buffer.freeze());
    }
}

fn put_event(buffer: &mut BytesMut, kind: &str, user: &str, timestamp: &str) {
    append_text_frame(buffer, |buffer| {
        put_head(buffer, kind, user, timestamp);
        buffer.put_u8(b'}');
    });
}

fn put_head(buffer: &mut BytesMut, kind: &str, user: &str, timestamp: &str) {
    buffer.put_slice(br#"{"type":""#);
    buffer.put_slice(kind.as_bytes());
    buffer.put_slice(br#"","userId":"#);
    match is_number(user) {
        true => buffer.put_slice(user.as_bytes()),
        false => put_string(buffer, user),
    }
    buffer.put_slice(br#","timestamp":""#);
    buffer.put_slice(timestamp.as_bytes());
    buffer.put_u8(b'"');
}

/// Whether a user id reads as a whole number and is read back as the same text: `007` and `-0` are not.
fn is_number(user: &str) -> bool {
    user.parse::<i64>()
        .is_ok_and(|number| number.unsigned_abs() <= MAX_SAFE_INTEGER && itoa::Buffer::new().format(number) == user)
}

fn timestamp(unix_ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{Now, Registry, Settings};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOON: u64 = 1_704_110_400_000;

    /// The messages in a run of server frames.
    fn messages(mut bytes: &[u8]) -> Vec<Value> {
        let mut messages = Vec::new();
        while let [0x81, short, ..] = *bytes {
            let (head, length) = match short {
                126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
                short => (2, usize::from(short)),
            };
            messages.push(serde_json::from_slice(&bytes[head..head + length]).unwrap());
            bytes = &bytes[head + length..];
        }
        assert!(bytes.is_empty(), "whole frames only");
        messages
    }

    fn id(user: &str) -> Value {
        let mut buffer = BytesMut::new();
        put_event(&mut buffer, "USER_ONLINE", user, "");
        messages(&buffer)[0]["userId"].clone()
    }

    #[test]
    fn the_first_message_is_the_seeds_to_the_byte() {
        let mut buffer = BytesMut::new();
        put_established(&mut buffer, "123", NOON);
        let expected = r#"{"type":"CONNECTION_ESTABLISHED","userId":123,"timestamp":"2024-01-01T12:00:00.000Z","connectionId":"123-1704110400000"}"#;
        assert_eq!(std::str::from_utf8(&buffer[2..]).unwrap(), expected);
    }

    #[test]
    fn changes_are_a_frame_for_each_user() {
        let diff = Diff {
            joined: vec![("7".into(), None), ("ann".into(), None)],
            updated: vec![("bob".into(), None)],
            left: vec![("carl".into(), Reason::Closed)],
        };
        let timestamp = "2024-01-01T12:00:00.007Z";
        let expected = [
            json!({"type": "USER_ONLINE", "userId": 7, "timestamp": timestamp}),
            json!({"type": "USER_ONLINE", "userId": "ann", "timestamp": timestamp}),
            json!({"type": "USER_OFFLINE", "userId": "carl", "timestamp": timestamp}),
        ];
        assert_eq!(messages(&encode_changes(&diff, NOON + 7)), expected);
    }

    #[test]
    fn whole_numbers_stay_numbers_and_all_else_is_text() {
        for number in ["0", "123", "-5", "9007199254740991"] {
            assert_eq!(id(number), json!(number.parse::<i64>().unwrap()));
        }
        for text in ["007", "-0", "+5", "1.5", "1e3", "9007199254740992", "99999999999999999999", "١", "a\"b", "-"] {
            assert_eq!(id(text), json!(text));
        }
    }

    /// A room with these members, announced.
    fn room(users: impl Iterator<Item = String>) -> Arc<Room> {
        let registry = Registry::new(Settings { ttl: 100, workers: 1, incarnation: 1 });
        let now = Now::default();
        for user in users {
            registry.join(&registry.open_unleased_session(&user), "lobby", None, now);
        }
        let attachment = registry.observe("lobby", 0, EVENTS, true);
        registry.settle(&attachment.room);
        attachment.room
    }

    #[test]
    fn the_list_comes_in_pieces_and_each_user_can_be_cut_out() {
        let users = || (0..2 * PAGE_EVENTS + 1).map(|number| format!("user-{number:05}"));
        let (pages, spans) = encode_roster(&room(users()), NOON);
        assert_eq!(pages.len(), 3);
        let told: Vec<String> = pages
            .iter()
            .flat_map(|page| messages(page))
            .map(|message| message["userId"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(told, users().collect::<Vec<_>>());
        for user in users() {
            let (page, range) = spans.find(&user).unwrap();
            assert_eq!(messages(&pages[page][range])[0]["userId"], user);
        }
        assert!(spans.find("nobody").is_none());
        assert_eq!(encode_roster(&room(std::iter::empty()), NOON).0.len(), 0);
    }

    proptest! {
        #[test]
        fn any_user_comes_through_as_itself(user in "[^\\p{Cc}]{1,40}", number in any::<i64>(), unix_ms in 0u64..4_000_000_000_000) {
            prop_assert_eq!(id(&user).as_str().map_or_else(|| id(&user).to_string(), str::to_owned), user);
            let id = id(&number.to_string());
            prop_assert_eq!(id.is_number(), number.unsigned_abs() <= MAX_SAFE_INTEGER);
            let text = timestamp(unix_ms);
            prop_assert_eq!(text.len(), "2024-01-01T12:00:00.000Z".len());
            let read = humantime::parse_rfc3339(&text).unwrap().duration_since(UNIX_EPOCH).unwrap();
            prop_assert_eq!(read.as_millis() as u64, unix_ms);
        }
    }
}
