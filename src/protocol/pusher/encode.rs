//! Encodes frames for Pusher clients. `data` of the server's own events is a string that contains JSON.

use bytes::{BufMut, BytesMut};

use super::errors::SubscriptionError;
use crate::json::{put_as_string, put_list, put_number, put_string};
use crate::presence::{Info, Roster, State, app_user_id, is_internal};
use crate::websocket::frame::append_text_frame;

/// The time of silence after which clients send a ping, in seconds. Clients take it, or their own 120 s if that is
/// less. The server pings by itself, so a lower value would only add traffic.
const ACTIVITY_TIMEOUT_SECONDS: u32 = 120;

/// Appends the first frame of a connection.
pub(super) fn put_established(buffer: &mut BytesMut, socket_id: &str) {
    put_event(buffer, "pusher:connection_established", None, |data| {
        data.put_slice(br#"{"socket_id":"#);
        put_string(data, socket_id);
        data.put_slice(br#","activity_timeout":"#);
        put_number(data, ACTIVITY_TIMEOUT_SECONDS);
        data.put_u8(b'}');
    });
}

/// Appends the reply to a ping.
pub(super) fn put_pong(buffer: &mut BytesMut) {
    put_event(buffer, "pusher:pong", None, |data| data.put_slice(b"{}"));
}

/// Appends that the client is signed in, with the user data as the application wrote it.
pub(super) fn put_signed_in(buffer: &mut BytesMut, user_data: &str) {
    put_event(buffer, "pusher:signin_success", None, |data| {
        data.put_slice(br#"{"user_data":"#);
        put_string(data, user_data);
        data.put_u8(b'}');
    });
}

/// Appends an error that is about no channel.
pub(super) fn put_error(buffer: &mut BytesMut, code: Option<u16>, message: &str) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"event":"pusher:error","data":{"code":"#);
        match code {
            Some(code) => put_number(buffer, code),
            None => buffer.put_slice(b"null"),
        }
        buffer.put_slice(br#","message":"#);
        put_string(buffer, message);
        buffer.put_slice(b"}}");
    });
}

/// Appends the reply to a subscription that fails.
pub(super) fn put_subscription_error(buffer: &mut BytesMut, channel: &str, error: SubscriptionError) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"event":"pusher:subscription_error","channel":"#);
        put_string(buffer, channel);
        buffer.put_slice(br#","data":{"type":"#);
        put_string(buffer, error.kind);
        buffer.put_slice(br#","error":"#);
        put_string(buffer, error.message);
        buffer.put_slice(br#","status":"#);
        put_number(buffer, error.status);
        buffer.put_slice(b"}}");
    });
}

/// Appends that the client is subscribed to a channel without members.
pub(super) fn put_succeeded(buffer: &mut BytesMut, channel: &str) {
    put_event(buffer, "pusher_internal:subscription_succeeded", Some(channel), |data| data.put_slice(b"{}"));
}

/// Appends that the client is subscribed to a presence channel: all its members.
pub(super) fn put_roster(buffer: &mut BytesMut, channel: &str, roster: &Roster) {
    put_event(buffer, "pusher_internal:subscription_succeeded", Some(channel), |data| {
        data.reserve(roster.count() * 48);
        data.put_slice(br#"{"presence":{"count":"#);
        put_number(data, roster.count());
        data.put_slice(br#","ids":["#);
        put_list(data, roster.members_after(None), |data, (user, state)| put_user_id(data, user, state));
        data.put_slice(br#"],"hash":{"#);
        put_list(data, roster.members_after(None), |data, (user, state)| {
            put_string(data, app_user_id(user));
            data.put_u8(b':');
            data.put_slice(state.and_then(State::info).map_or("null", Info::as_str).as_bytes());
        });
        data.put_slice(b"}}}");
    });
}

/// Appends that a user is now a member.
pub(super) fn put_added(buffer: &mut BytesMut, channel: &str, user: &str, state: Option<&State>) {
    put_event(buffer, "pusher_internal:member_added", Some(channel), |data| {
        data.put_slice(br#"{"user_id":"#);
        put_user_id(data, user, state);
        if let Some(info) = state.and_then(State::info) {
            data.put_slice(br#","user_info":"#);
            data.put_slice(info.as_str().as_bytes());
        }
        data.put_u8(b'}');
    });
}

/// Appends that a member has another info, or none any more. Clients that do not know this event ignore it.
pub(super) fn put_updated(buffer: &mut BytesMut, channel: &str, user: &str, info: &Info) {
    put_event(buffer, "rollcall:member_updated", Some(channel), |data| {
        data.put_slice(br#"{"user_id":"#);
        put_string(data, app_user_id(user));
        data.put_slice(br#","user_info":"#);
        data.put_slice(if info.as_str().is_empty() { b"null" } else { info.as_str().as_bytes() });
        data.put_u8(b'}');
    });
}

/// Appends that a user is not a member any more. The state is the user's last one.
pub(super) fn put_removed(buffer: &mut BytesMut, channel: &str, user: &str, state: Option<&State>) {
    put_event(buffer, "pusher_internal:member_removed", Some(channel), |data| {
        data.put_slice(br#"{"user_id":"#);
        put_user_id(data, user, state);
        data.put_u8(b'}');
    });
}

/// Appends an event that was published to a channel: an object with its event and data.
pub(super) fn put_published(buffer: &mut BytesMut, channel: &str, event: &str) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"channel":"#);
        put_string(buffer, channel);
        buffer.put_u8(b',');
        buffer.put_slice(event.strip_prefix('{').unwrap_or(event).as_bytes());
    });
}

/// Appends that a channel has no last event.
pub(super) fn put_cache_miss(buffer: &mut BytesMut, channel: &str) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"event":"pusher:cache_miss","channel":"#);
        put_string(buffer, channel);
        buffer.put_u8(b'}');
    });
}

/// Appends how many connections are subscribed to a channel.
pub(super) fn put_count(buffer: &mut BytesMut, channel: &str, count: u64) {
    put_event(buffer, "pusher_internal:subscription_count", Some(channel), |data| {
        data.put_slice(br#"{"subscription_count":"#);
        put_number(data, count);
        data.put_u8(b'}');
    });
}

/// Appends a user id as the client's application wrote it: a string, or the number in the state. The state of users of
/// all protocols is their own.
fn put_user_id(buffer: &mut BytesMut, user: &str, state: Option<&State>) {
    match state.and_then(State::json).filter(|_| is_internal(user)) {
        Some(number) => buffer.put_slice(number.as_bytes()),
        None => put_string(buffer, app_user_id(user)),
    }
}

/// Appends an event of the server, whose data is a string with the JSON that is written.
pub(super) fn put_event(buffer: &mut BytesMut, event: &str, channel: Option<&str>, data: impl FnOnce(&mut BytesMut)) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"event":"#);
        put_string(buffer, event);
        if let Some(channel) = channel {
            buffer.put_slice(br#","channel":"#);
            put_string(buffer, channel);
        }
        buffer.put_slice(br#","data":"#);
        put_as_string(buffer, data);
        buffer.put_u8(b'}');
    });
}
