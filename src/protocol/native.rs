//! The native protocol `presence.v1`: `GET /v1/connect?user=alice[&room=lobby…]`.
//!
//! ```text
//! C  heartbeat   (the bare text)            {"type":"heartbeat","ack":true?}
//! C  {"type":"join","room":R,"state":{…}?,"observe":true?,"detail":"members"|"count"?,"resume":{"epoch":E,"seq":N}?}
//! C  {"type":"leave","room":R}              {"type":"state","room":R,"state":{…}|null}
//! C  {"type":"observe","room":R,"detail":…?,"resume":…?}      {"type":"unobserve","room":R}      {"type":"resync","room":R}
//! C  {"type":"message","room":R,"data":any JSON}      {"type":"watch","users":[U,…]}      {"type":"unwatch","users":[U,…]}
//!
//! S  {"type":"welcome","protocol":"presence.v1","user":U,"connection":C,"node":N,"ttl_ms":…,"heartbeat_ms":…,"tick_ms":…}
//! S  {"type":"snapshot","room":R,"epoch":E,"seq":N,"count":K,"members":[{"user":U,"state":{…}?},…],"page":1,"pages":1}
//! S  {"type":"diff","room":R,"seq":N,"count":K,"joined":[…]?,"updated":[…]?,"left":[{"user":U,"reason":…},…]?}
//! S  {"type":"count","room":R,"seq":N,"count":K}              {"type":"heartbeat_ack","ts":MS}
//! S  {"type":"health","degraded":true,"since":MS}              {"type":"health","degraded":false}
//! S  {"type":"message","room":R,"user":U,"data":…,"ts":MS}      those of one tick are told together
//! S  {"type":"status","users":[{"user":U,"online":true|false,"since":MS?,"state":{…}?},…]}
//! S  {"type":"error","code":…,"message":…,"type_sent":…?}
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use simd_json::prelude::{TypedScalarValue, ValueAsScalar, ValueIntoString};

use super::{Command, Resume};
use crate::json::{self, Reader, Value, put_list, put_member, put_number, put_string};
use crate::presence::{Audience, Diff, MAX_STATE_BYTES, Reason, Room, RoomMessage, State, UserStatus, check_id};
use crate::websocket::frame::{append_text_frame, text_frame};

/// The subprotocol's name (RFC 6455, 1.9).
pub const SUBPROTOCOL: &str = "presence.v1";
/// The longest data of a message, as compact JSON.
pub const MAX_DATA_BYTES: usize = 4096;
/// Members on one page of a snapshot: at some 40 bytes each a page is about as long as one socket buffer takes at once.
pub const PAGE_MEMBERS: usize = 1000;

/// Why a message was not understood or not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The word that programs look at.
    pub code: &'static str,
    /// The sentence that people look at.
    pub message: Cow<'static, str>,
    /// The message's type, when that is what was not known.
    pub type_sent: Option<String>,
}

impl Refusal {
    /// A refusal with this code and message.
    pub fn new(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), type_sent: None }
    }

    fn field(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new("bad_field", message)
    }
}

/// Reads a text message and hands the command, or why there is none, to `act`.
pub fn decode<R>(reader: &mut Reader, text: &[u8], act: impl FnOnce(Result<Command<'_>, Refusal>) -> R) -> R {
    // Nearly every message is one of these: no parser for them.
    if text == b"heartbeat" || text == br#"{"type":"heartbeat"}"# {
        return act(Ok(Command::Heartbeat { ack: false }));
    }
    reader.read(text, |value| match value {
        Some(value) => act(command(&value)),
        None => act(Err(Refusal::new(
            "bad_json",
            "a message is one JSON object, nested at most 8 deep, or the text heartbeat",
        ))),
    })
}

fn command<'a>(message: &Value<'_, 'a>) -> Result<Command<'a>, Refusal> {
    if !message.is_object() {
        return Err(Refusal::new("bad_json", "a message is a JSON object, or the text heartbeat"));
    }
    let kind = text(message, "type")?.ok_or_else(|| Refusal::field("`type` is missing"))?;
    match kind {
        "heartbeat" => Ok(Command::Heartbeat { ack: flag(message, "ack", false)? }),
        "join" => {
            let observe = flag(message, "observe", true)?;
            let audience = detail(message)?;
            let state = state(message)?;
            Ok(Command::Join {
                room: room(message)?,
                state,
                audience: observe.then_some(audience),
                resume: resume(message)?,
            })
        }
        "leave" => Ok(Command::Leave { room: room(message)? }),
        "state" if message.get("state").is_none() => {
            Err(Refusal::field("`state` is missing: an object, or null to clear it"))
        }
        "state" => Ok(Command::SetState { room: room(message)?, state: state(message)? }),
        "observe" => {
            Ok(Command::Observe { room: room(message)?, audience: detail(message)?, resume: resume(message)? })
        }
        "unobserve" => Ok(Command::Unobserve { room: room(message)? }),
        "resync" => Ok(Command::Resync { room: room(message)? }),
        "message" => Ok(Command::Say { room: room(message)?, data: data(message)? }),
        "watch" => Ok(Command::Watch { users: users(message)? }),
        "unwatch" => Ok(Command::Unwatch { users: users(message)? }),
        _ => Err(unknown(
            kind,
            "is not a type: heartbeat, join, leave, state, observe, unobserve, resync, message, watch or unwatch",
        )),
    }
}

fn unknown(kind: &str, what: &str) -> Refusal {
    // What is sent back is bounded, whatever was sent.
    let short: String = kind.chars().take(64).collect();
    Refusal { code: "unknown_type", message: format!("`{short}` {what}").into(), type_sent: Some(short) }
}

fn room<'a>(message: &Value<'_, 'a>) -> Result<&'a str, Refusal> {
    let room = text(message, "room")?.ok_or_else(|| Refusal::field("`room` is missing"))?;
    check_id(room).map_err(|error| Refusal::field(format!("`room` {error}")))
}

fn users<'a>(message: &Value<'_, 'a>) -> Result<Vec<&'a str>, Refusal> {
    let list = message.get("users").ok_or_else(|| Refusal::field("`users` is missing"))?;
    let list = list.as_array().ok_or_else(|| Refusal::field("`users` must be a list of names"))?;
    let user = |value: Value<'_, 'a>| {
        let user = value.into_string().ok_or_else(|| Refusal::field("`users` must be a list of strings"))?;
        check_id(user).map_err(|error| Refusal::field(format!("a name in `users` {error}")))
    };
    list.iter().map(user).collect()
}

fn text<'a>(message: &Value<'_, 'a>, field: &str) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = message.get(field) else { return Ok(None) };
    // `into_string` and not `as_str`: its text lives as long as the input, not as this value.
    value.into_string().map(Some).ok_or_else(|| Refusal::field(format!("`{field}` must be a string")))
}

fn flag(message: &Value<'_, '_>, field: &str, default: bool) -> Result<bool, Refusal> {
    let Some(value) = message.get(field) else { return Ok(default) };
    value.as_bool().ok_or_else(|| Refusal::field(format!("`{field}` must be true or false")))
}

fn detail(message: &Value<'_, '_>) -> Result<Audience, Refusal> {
    match text(message, "detail")? {
        None | Some("members") => Ok(Audience::Members),
        Some("count") => Ok(Audience::Count),
        Some(_) => Err(Refusal::field("`detail` must be \"members\" or \"count\"")),
    }
}

fn state(message: &Value<'_, '_>) -> Result<Option<State>, Refusal> {
    let Some(value) = message.get("state").filter(|value| !value.is_null()) else { return Ok(None) };
    if !value.is_object() {
        return Err(Refusal::field("`state` must be an object, or null"));
    }
    compact("state", &value, MAX_STATE_BYTES).map(|text| Some(State::from(text)))
}

fn data(message: &Value<'_, '_>) -> Result<String, Refusal> {
    let value = message.get("data").ok_or_else(|| Refusal::field("`data` is missing: any JSON"))?;
    compact("data", &value, MAX_DATA_BYTES)
}

fn compact(field: &str, value: &Value<'_, '_>, most: usize) -> Result<String, Refusal> {
    let text = json::compact(value);
    if text.len() > most {
        let message = format!("`{field}` has {} bytes of JSON, at most {most} go", text.len());
        return Err(Refusal::new("too_large", message));
    }
    Ok(text)
}

fn resume<'a>(message: &Value<'_, 'a>) -> Result<Option<Resume<'a>>, Refusal> {
    let Some(value) = message.get("resume").filter(|value| !value.is_null()) else { return Ok(None) };
    let epoch = value.get("epoch").and_then(ValueIntoString::into_string);
    let seq = value.get("seq").and_then(|seq| seq.as_u64());
    match (epoch, seq) {
        (Some(epoch), Some(seq)) => Ok(Some(Resume { epoch, seq })),
        _ => Err(Refusal::field("`resume` must be {\"epoch\": string, \"seq\": whole number}")),
    }
}

/// What the first frame of a connection tells the client.
#[derive(Debug, Clone, Copy)]
pub struct Welcome<'a> {
    /// The user that the connection speaks for.
    pub user: &'a str,
    /// Names the connection, for logs and support.
    pub connection: &'a str,
    /// Names the node.
    pub node: &'a str,
    /// A member silent for this long is gone.
    pub ttl_ms: u64,
    /// How often to send heartbeats.
    pub heartbeat_ms: u64,
    /// How often changes are told.
    pub tick_ms: u64,
}

/// Appends the welcome.
pub fn put_welcome(buffer: &mut BytesMut, welcome: &Welcome<'_>) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"type":"welcome","protocol":"presence.v1","user":"#);
        put_string(buffer, welcome.user);
        buffer.put_slice(br#","connection":"#);
        put_string(buffer, welcome.connection);
        buffer.put_slice(br#","node":"#);
        put_string(buffer, welcome.node);
        put_numbers(
            buffer,
            &[("ttl_ms", welcome.ttl_ms), ("heartbeat_ms", welcome.heartbeat_ms), ("tick_ms", welcome.tick_ms)],
        );
    });
}

/// Appends whether the node has lost sight of the others, and since when.
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

/// Appends the answer to a message that was not understood or not carried out.
pub fn put_error(buffer: &mut BytesMut, refusal: &Refusal) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"type":"error","code":"#);
        put_string(buffer, refusal.code);
        buffer.put_slice(br#","message":"#);
        put_string(buffer, &refusal.message);
        if let Some(type_sent) = &refusal.type_sent {
            buffer.put_slice(br#","type_sent":"#);
            put_string(buffer, type_sent);
        }
        buffer.put_u8(b'}');
    });
}

/// One tick's change of a room.
#[must_use]
pub fn encode_diff(room: &Room, seq: u64, count: usize, diff: &Diff) -> Bytes {
    text_frame(|buffer| {
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

/// What was said in a room in one tick, a frame each.
#[must_use]
pub fn encode_messages<'a>(room: &Room, said: impl Iterator<Item = &'a RoomMessage>, unix_ms: u64) -> Bytes {
    let mut buffer = BytesMut::new();
    for RoomMessage { user, data, .. } in said {
        append_text_frame(&mut buffer, |buffer| {
            put_room_head(buffer, "message", room);
            buffer.put_slice(b",\"user\":");
            put_string(buffer, user);
            buffer.put_slice(b",\"data\":");
            buffer.put_slice(data.as_bytes());
            put_numbers(buffer, &[("ts", unix_ms)]);
        });
    }
    buffer.freeze()
}

/// One user in a `status`, without the frame: each goes into the frames of all who watch it.
#[must_use]
pub fn encode_user_status(user: &str, sight: &UserStatus) -> Bytes {
    let mut buffer = BytesMut::with_capacity(64 + user.len());
    buffer.put_slice(br#"{"user":"#);
    put_string(&mut buffer, user);
    buffer.put_slice(if sight.online { br#","online":true"# } else { br#","online":false"# });
    if let Some(since) = sight.since_unix_ms {
        buffer.put_slice(br#","since":"#);
        put_number(&mut buffer, since);
    }
    if let Some(state) = &sight.state {
        buffer.put_slice(br#","state":"#);
        buffer.put_slice(state.as_str().as_bytes());
    }
    buffer.put_u8(b'}');
    buffer.freeze()
}

/// A `status` of users that [`encode_user_status`] has encoded.
#[must_use]
pub fn encode_status(sights: &[&Bytes]) -> Bytes {
    text_frame(|buffer| {
        buffer.put_slice(br#"{"type":"status","users":["#);
        put_list(buffer, sights, |buffer, sight| buffer.put_slice(sight));
        buffer.put_slice(b"]}");
    })
}

/// The announced state of a room, in pages of [`PAGE_MEMBERS`]. Only the tick moves that state, so the pages agree although
/// the roster is free for other readers between them.
#[must_use]
pub fn encode_snapshot(room: &Room) -> Arc<[Bytes]> {
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
                        put_member(buffer, user, state.map(State::as_str));
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
        put_list(buffer, members, |buffer, (user, state)| put_member(buffer, user, state.as_ref().map(State::as_str)));
        buffer.put_u8(b']');
    }
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
