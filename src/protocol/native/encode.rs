//! Encodes frames for native clients.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::ErrorReply;
use crate::json::{put_list, put_member, put_number, put_string};
use crate::presence::{Diff, Info, Reason, Room, RoomMessage, State, UserStatus, is_internal};
use crate::websocket::frame::{append_text_frame, kept_text_frame, text_frame, trimmed};

/// Members per page of a snapshot: at some 40 bytes per member, a page is about as long as a socket buffer accepts at
/// once.
pub const PAGE_MEMBERS: usize = 1000;

/// The content of the first frame of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Welcome<'a> {
    /// The user of the connection; visitors have none.
    pub user: Option<&'a str>,
    /// The name of the connection, for logs and support.
    pub connection: &'a str,
    /// The id of the node.
    pub node: &'a str,
    /// The length of a lease: a member who is silent for longer leaves.
    pub ttl_ms: u64,
    /// The interval at which clients send heartbeats.
    pub heartbeat_ms: u64,
    /// The interval at which changes are sent.
    pub tick_ms: u64,
    /// The time until the client's credential expires, if it does.
    pub expires_in_ms: Option<u64>,
}

/// Appends the welcome.
pub fn put_welcome(buffer: &mut BytesMut, welcome: &Welcome<'_>) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"type":"welcome","protocol":"presence.v1""#);
        if let Some(user) = welcome.user {
            buffer.put_slice(br#","user":"#);
            put_string(buffer, user);
        }
        buffer.put_slice(br#","connection":"#);
        put_string(buffer, welcome.connection);
        buffer.put_slice(br#","node":"#);
        put_string(buffer, welcome.node);
        if let Some(expires_in_ms) = welcome.expires_in_ms {
            buffer.put_slice(br#","expires_in_ms":"#);
            put_number(buffer, expires_in_ms);
        }
        put_numbers(
            buffer,
            &[("ttl_ms", welcome.ttl_ms), ("heartbeat_ms", welcome.heartbeat_ms), ("tick_ms", welcome.tick_ms)],
        );
    });
}

/// Appends the result of a renewal: the time until the new token expires, or why it is refused.
pub fn put_renewed(buffer: &mut BytesMut, renewed: Result<u64, &str>) {
    match renewed {
        Ok(expires_in_ms) => append_text_frame(buffer, |buffer| {
            buffer.put_slice(br#"{"type":"authenticated""#);
            put_numbers(buffer, &[("expires_in_ms", expires_in_ms)]);
        }),
        Err(message) => put_error(buffer, &ErrorReply::new("bad_token", message.to_owned()).about("auth", "")),
    }
}

/// Appends whether the node is connected to the other nodes, and if not, since when.
pub fn put_health(buffer: &mut BytesMut, degraded_since_unix_ms: Option<u64>) {
    append_text_frame(buffer, |buffer| match degraded_since_unix_ms {
        Some(since) => {
            buffer.put_slice(br#"{"type":"health","degraded":true"#);
            put_numbers(buffer, &[("since", since)]);
        }
        None => buffer.put_slice(br#"{"type":"health","degraded":false}"#),
    });
}

/// Appends the answer to a heartbeat that asked for one.
pub fn put_heartbeat_ack(buffer: &mut BytesMut, unix_ms: u64) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"type":"heartbeat_ack""#);
        put_numbers(buffer, &[("ts", unix_ms)]);
    });
}

/// Appends the reply to a message that was not understood or not executed.
pub fn put_error(buffer: &mut BytesMut, error: &ErrorReply) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"type":"error","code":"#);
        put_string(buffer, error.code);
        buffer.put_slice(br#","message":"#);
        put_string(buffer, &error.message);
        if let Some(type_sent) = &error.type_sent {
            buffer.put_slice(br#","type_sent":"#);
            put_string(buffer, type_sent);
        }
        if let Some(room) = &error.room {
            buffer.put_slice(br#","room":"#);
            put_string(buffer, room);
        }
        buffer.put_u8(b'}');
    });
}

/// The changes of a room in one tick.
#[must_use]
pub fn encode_diff(room: &Room, seq: u64, count: usize, diff: &Diff) -> Bytes {
    kept_text_frame(|buffer| {
        put_room_head(buffer, "diff", room);
        put_seq_and_count(buffer, seq, count);
        put_members_field(buffer, ",\"joined\":", &diff.joined);
        put_members_field(buffer, ",\"updated\":", &diff.updated);
        if !diff.left.is_empty() {
            buffer.put_slice(b",\"left\":[");
            put_list(buffer, &diff.left, put_left);
            buffer.put_u8(b']');
        }
        buffer.put_u8(b'}');
    })
}

/// The number of members.
#[must_use]
pub fn encode_count(room: &Room, seq: u64, count: usize) -> Bytes {
    text_frame(|buffer| {
        put_room_head(buffer, "count", room);
        put_seq_and_count(buffer, seq, count);
        buffer.put_u8(b'}');
    })
}

/// Messages of a room, one frame per message. Messages of the application have no `user`.
#[must_use]
pub fn encode_messages<'a>(room: &Room, messages: impl Iterator<Item = &'a RoomMessage>, unix_ms: u64) -> Bytes {
    let mut buffer = BytesMut::new();
    for RoomMessage { user, data, .. } in messages {
        append_text_frame(&mut buffer, |buffer| {
            put_room_head(buffer, "message", room);
            if let Some(user) = user {
                buffer.put_slice(b",\"user\":");
                put_string(buffer, user);
            }
            buffer.put_slice(b",\"data\":");
            buffer.put_slice(data.as_bytes());
            put_numbers(buffer, &[("ts", unix_ms)]);
        });
    }
    trimmed(buffer)
}

/// A message of the application to the user of a connection.
#[must_use]
pub fn encode_user_message(data: &str, unix_ms: u64) -> Bytes {
    kept_text_frame(|buffer| {
        buffer.reserve(data.len() + 64);
        buffer.put_slice(br#"{"type":"message","data":"#);
        buffer.put_slice(data.as_bytes());
        put_numbers(buffer, &[("ts", unix_ms)]);
    })
}

/// The status of one user, without a frame: it is copied into the frames of all watchers of the user. Empty for users
/// that clients cannot name.
#[must_use]
pub fn encode_user_status(user: &str, status: &UserStatus) -> Bytes {
    if is_internal(user) {
        return Bytes::new();
    }
    let mut buffer = BytesMut::with_capacity(64 + user.len());
    buffer.put_slice(br#"{"user":"#);
    put_string(&mut buffer, user);
    buffer.put_slice(if status.online { br#","online":true"# } else { br#","online":false"# });
    if let Some(since) = status.since_unix_ms {
        buffer.put_slice(br#","since":"#);
        put_number(&mut buffer, since);
    }
    if let Some(state) = status.state.as_ref().and_then(State::json) {
        buffer.put_slice(br#","state":"#);
        buffer.put_slice(state.as_bytes());
    }
    buffer.put_u8(b'}');
    trimmed(buffer)
}

/// The `status` frame around users that [`encode_user_status`] encoded.
#[must_use]
pub fn encode_status(users: &[&Bytes]) -> Bytes {
    text_frame(|buffer| {
        buffer.put_slice(br#"{"type":"status","users":["#);
        put_list(buffer, users, |buffer, user| buffer.put_slice(user));
        buffer.put_slice(b"]}");
    })
}

/// The announced members of a room, in pages of [`PAGE_MEMBERS`]. Only the tick changes the roster, so the pages are
/// consistent although the roster is unlocked between them.
#[must_use]
pub fn encode_snapshot(room: &Room) -> Vec<Bytes> {
    let pages = room.read(|roster| roster.count().div_ceil(PAGE_MEMBERS).max(1));
    let mut after: Option<Arc<str>> = None;
    (1..=pages)
        .map(|page| {
            text_frame(|buffer| {
                room.read(|roster| {
                    buffer.reserve(roster.count().min(PAGE_MEMBERS) * 40);
                    put_room_head(buffer, "snapshot", room);
                    buffer.put_slice(b",\"epoch\":");
                    put_string(buffer, room.epoch());
                    put_seq_and_count(buffer, roster.seq(), roster.count());
                    buffer.put_slice(b",\"members\":[");
                    let members: Vec<_> = roster.members_after(after.as_deref()).take(PAGE_MEMBERS).collect();
                    put_list(buffer, &members, |buffer, (user, state)| {
                        put_member_with(buffer, user, *state);
                    });
                    after = members.last().map(|(user, _)| Arc::clone(user));
                });
                buffer.put_u8(b']');
                put_numbers(buffer, &[("page", page as u64), ("pages", pages as u64)]);
            })
        })
        .collect()
}

fn put_left(buffer: &mut BytesMut, (user, reason): &(Arc<str>, Reason)) {
    buffer.put_slice(br#"{"user":"#);
    put_string(buffer, user);
    buffer.put_slice(br#","reason":"#);
    put_string(buffer, reason.as_str());
    buffer.put_u8(b'}');
}

fn put_members_field(buffer: &mut BytesMut, field: &str, members: &[(Arc<str>, Option<State>)]) {
    if !members.is_empty() {
        buffer.put_slice(field.as_bytes());
        buffer.put_u8(b'[');
        put_list(buffer, members, |buffer, (user, state)| put_member_with(buffer, user, state.as_ref()));
        buffer.put_u8(b']');
    }
}

fn put_member_with(buffer: &mut BytesMut, user: &str, state: Option<&State>) {
    let info = state.and_then(State::info).map(Info::as_str);
    put_member(buffer, user, state.and_then(State::json), info);
}

fn put_room_head(buffer: &mut BytesMut, kind: &str, room: &Room) {
    buffer.put_slice(br#"{"type":""#);
    buffer.put_slice(kind.as_bytes());
    buffer.put_slice(br#"","room":"#);
    put_string(buffer, room.name());
}

fn put_seq_and_count(buffer: &mut BytesMut, seq: u64, count: usize) {
    buffer.put_slice(br#","seq":"#);
    put_number(buffer, seq);
    buffer.put_slice(br#","count":"#);
    put_number(buffer, count);
}

/// Appends the last fields of a message, all numbers, and its closing bracket.
fn put_numbers(buffer: &mut BytesMut, fields: &[(&str, u64)]) {
    for (name, number) in fields {
        buffer.put_slice(b",\"");
        buffer.put_slice(name.as_bytes());
        buffer.put_slice(b"\":");
        put_number(buffer, *number);
    }
    buffer.put_u8(b'}');
}
