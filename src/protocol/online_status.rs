//! The protocol of online-status clients: `GET /ws-online-status?userId=123`.
//!
//! ```text
//! S  {"type":"CONNECTION_ESTABLISHED","userId":123,"timestamp":T,"connectionId":"123-1704110400000"}      at once
//! S  {"type":"USER_ONLINE","userId":123,"timestamp":T}        for each online user, then for each join
//! S  {"type":"USER_OFFLINE","userId":123,"timestamp":T}       for each leave
//! ```
//!
//! `T` is ISO 8601 in UTC with milliseconds, `"2024-01-01T12:00:00.000Z"`; an event has the time of its tick. Users
//! receive no events about themselves. Messages of clients are ignored. A user id that is a whole number is a number in
//! JSON.
//!
//! There is no lease: the user is online as long as the connection is open, and goes offline with the next tick after
//! it ends.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};

use super::event::split_value;
use super::handshake::id;
use super::{AtClose, Client, CloseCodes, Handshake, Identity, Missed, OnClose, Presence, Protocol, Rules, Upgrade};
use super::{Event, EventFormat, EventKind};
use crate::broadcast::encoder::{Encoder, Pacing};
use crate::broadcast::{RoomUpdate, Snapshot, Spans};
use crate::json::put_string;
use crate::memory_budget::MemoryBudget;
use crate::os::unix_ms;
use crate::presence::{Audience, Diff, Reason, Room};
use crate::websocket::decoder::Limits;
use crate::websocket::frame::{append_text_frame, trimmed};
use crate::websocket::{Refusal, close};

/// Observers of events: one per join or leave.
pub const EVENTS: Audience = Protocol::OnlineStatus.audience(0);

pub(super) static RULES: Rules = Rules {
    name: "online_status",
    presence: Presence::Connection,
    missed: Missed::Queue,
    observes_first: false,
    events: Some(EventFormat { read: read_event, put: put_read_event }),
    // Refused with a close frame, because clients of this protocol expect the handshake to succeed.
    identity: Identity::AtUpgrade { missing: || Refusal::close(close::POLICY, "User ID required") },
    on_close: OnClose { clean: LEAVE, lost: LEAVE, drained: AtClose::Stay },
    close_codes: CloseCodes::STANDARD,
    limits: Limits::PRESENCE,
    subprotocol: None,
    audiences: 1,
    counting: None,
    status: None,
    user_message: None,
    health: None,
    renewed: None,
    upgrade: |handshake| (handshake.path == "/ws-online-status").then(|| upgrade(handshake)),
    greet,
    receive: |_, _, _| {},
    receive_binary: None,
    too_big: None,
    alarm: None,
    encoders: |_| vec![Box::new(Events)],
};

const LEAVE: AtClose = AtClose::Leave(Reason::Closed);
/// Events per page of a snapshot: at some 80 bytes per event, about as much as a socket buffer accepts at once.
const PAGE_EVENTS: usize = 1000;
/// Memory reserved per event: 76 bytes and the user id. The buffer grows for longer ids.
const EVENT_BYTES: usize = 90;
/// Larger numbers are not exact in JavaScript (ECMA-262, `Number.MAX_SAFE_INTEGER`), so ids above it stay strings.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

fn upgrade(handshake: &Handshake<'_>) -> Result<Upgrade, Refusal> {
    let user = handshake.parameter("userId")?.filter(|user| !user.is_empty());
    let user = user.map(|user| id(&user, "userId")).transpose()?;
    Ok(Upgrade::new(Protocol::OnlineStatus, user))
}

fn greet(client: &mut Client<'_>, upgrade: &Upgrade) {
    if client.join_lobby_at_once(EVENTS) {
        put_established(client.replies, upgrade.user.as_deref().unwrap_or_default(), unix_ms());
    }
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

/// The changes of one tick: a frame per join and leave.
#[must_use]
pub fn encode_changes(diff: &Diff, unix_ms: u64) -> Bytes {
    let timestamp = timestamp(unix_ms);
    let mut buffer = BytesMut::with_capacity((diff.joined.len() + diff.left.len()) * EVENT_BYTES);
    diff.joined.iter().for_each(|(user, _)| put_event(&mut buffer, "USER_ONLINE", user, &timestamp));
    diff.left.iter().for_each(|(user, _)| put_event(&mut buffer, "USER_OFFLINE", user, &timestamp));
    trimmed(buffer)
}

/// All announced members as events, in pages of `PAGE_EVENTS`. Only the tick changes the roster, so the pages are
/// consistent.
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
        pages.push(trimmed(buffer));
    }
}

fn put_event(buffer: &mut BytesMut, kind: &str, user: &str, timestamp: &str) {
    append_text_frame(buffer, |buffer| {
        put_head(buffer, kind, user, timestamp);
        buffer.put_u8(b'}');
    });
}

/// An event that [`put_event`] wrote.
fn read_event(payload: &[u8]) -> Option<Event<'_>> {
    let kinds = [("USER_ONLINE", EventKind::Joined), ("USER_OFFLINE", EventKind::Left)];
    let typed = payload.strip_prefix(br#"{"type":""#)?;
    let (name, kind) = kinds.into_iter().find(|(name, _)| typed.starts_with(name.as_bytes()))?;
    let (user, rest) = split_value(typed[name.len()..].strip_prefix(br#"","userId":"#)?)?;
    let time = rest.strip_prefix(br#","timestamp":""#)?.strip_suffix(br#""}"#)?;
    Some(Event { kind, user, time })
}

fn put_read_event(buffer: &mut BytesMut, event: Event<'_>) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"type":""#);
        buffer.put_slice(if event.kind == EventKind::Joined { b"USER_ONLINE" } else { b"USER_OFFLINE" });
        buffer.put_slice(br#"","userId":"#);
        buffer.put_slice(event.user);
        buffer.put_slice(br#","timestamp":""#);
        buffer.put_slice(event.time);
        buffer.put_slice(br#""}"#);
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

/// Whether a user id is a whole number in its only form: `007` and `-0` are not.
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
    use crate::websocket::frame::split_frames;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOON: u64 = 1_704_110_400_000;

    /// The messages in consecutive server frames.
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
    fn the_first_message_has_the_documented_bytes() {
        let mut buffer = BytesMut::new();
        put_established(&mut buffer, "123", NOON);
        let expected = r#"{"type":"CONNECTION_ESTABLISHED","userId":123,"timestamp":"2024-01-01T12:00:00.000Z","connectionId":"123-1704110400000"}"#;
        assert_eq!(std::str::from_utf8(&buffer[2..]).unwrap(), expected);
    }

    #[test]
    fn each_join_and_leave_is_one_frame() {
        let diff = Diff {
            joined: vec![("7".into(), None), ("ann".into(), None)],
            updated: vec![("bob".into(), None)],
            left: vec![("carl".into(), Reason::Closed)],
            ..Diff::default()
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
    fn ids_that_are_safe_whole_numbers_are_numbers_and_all_others_strings() {
        for number in ["0", "123", "-5", "9007199254740991"] {
            assert_eq!(id(number), json!(number.parse::<i64>().unwrap()));
        }
        for text in ["007", "-0", "+5", "1.5", "1e3", "9007199254740992", "99999999999999999999", "١", "a\"b", "-"] {
            assert_eq!(id(text), json!(text));
        }
    }

    /// A room with these announced members.
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
    fn the_roster_is_encoded_in_pages_and_each_entry_can_be_cut_out() {
        let users = || (0..2 * PAGE_EVENTS + 1).map(|number| format!("user-{number:05}"));
        let (pages, spans) = encode_roster(&room(users()), NOON);
        assert_eq!(pages.len(), 3);
        let listed: Vec<String> = pages
            .iter()
            .flat_map(|page| messages(page))
            .map(|message| message["userId"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(listed, users().collect::<Vec<_>>());
        for user in users() {
            let (page, range) = spans.find(&user).unwrap();
            assert_eq!(messages(&pages[page][range])[0]["userId"], user);
        }
        assert!(spans.find("nobody").is_none());
        assert_eq!(encode_roster(&room(std::iter::empty()), NOON).0.len(), 0);
    }

    proptest! {
        #[test]
        fn an_event_that_was_read_is_written_as_it_was(user in "[^\\p{Cc}]{1,40}|[0-9]{1,9}", joined in any::<bool>()) {
            let mut written = BytesMut::new();
            put_event(&mut written, if joined { "USER_ONLINE" } else { "USER_OFFLINE" }, &user, &timestamp(NOON));
            let (_, payload) = split_frames(&written).next().unwrap();
            let event = read_event(payload).unwrap();
            prop_assert_eq!(event.kind == EventKind::Joined, joined);
            let mut again = BytesMut::new();
            put_read_event(&mut again, event);
            prop_assert_eq!(again, written);
        }

        #[test]
        fn any_user_id_and_time_is_encoded_without_loss(
            user in "[^\\p{Cc}]{1,40}",
            number in any::<i64>(),
            unix_ms in 0u64..4_000_000_000_000,
        ) {
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
