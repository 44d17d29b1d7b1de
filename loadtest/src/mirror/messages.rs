//! Presence messages of servers, as far as a mirror needs them. Snapshots and diffs of the native protocol are in
//! `wire::room`.
//!
//! ```text
//! online-users   {"type": "online_users", "users": [U, …]}
//! online-status  {"type":"USER_ONLINE","userId":U,…}   {"type":"USER_OFFLINE","userId":U,…}
//! chat           {"type":"join","payload":{"user":U,…}}   {"type":"leave","payload":{"user":U,…}}
//! ```

use std::borrow::Cow;

use serde::Deserialize;

/// The names of all users who are online.
#[derive(Debug, Deserialize)]
pub(crate) struct UserList<'a> {
    #[serde(borrow)]
    pub(crate) users: Vec<Cow<'a, str>>,
}

/// A user came online or went offline.
#[derive(Debug, PartialEq)]
pub(crate) struct UserEvent<'a> {
    pub(crate) user: Cow<'a, str>,
    pub(crate) is_online: bool,
}

/// An event as it is sent. The protocols name the user in different fields.
#[derive(Debug, Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default, rename = "userId", borrow)]
    user_id: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    payload: Option<EventPayload<'a>>,
}

#[derive(Debug, Deserialize)]
struct EventPayload<'a> {
    #[serde(borrow)]
    user: Cow<'a, str>,
}

/// The field that names the user.
enum UserField {
    UserId,
    Payload,
}

/// For the kinds of messages that are events: whether the user is online, and where it is named.
fn event_kind(kind: &str) -> Option<(bool, UserField)> {
    match kind {
        "USER_ONLINE" => Some((true, UserField::UserId)),
        "USER_OFFLINE" => Some((false, UserField::UserId)),
        "join" => Some((true, UserField::Payload)),
        "leave" => Some((false, UserField::Payload)),
        _ => None,
    }
}

/// Whether messages of this kind are events.
pub(crate) fn is_event(kind: &str) -> bool {
    event_kind(kind).is_some()
}

/// Parses an event of online-status or chat.
pub(crate) fn event(payload: &[u8], is_whole: bool) -> Result<UserEvent<'_>, String> {
    let raw: RawEvent<'_> = read(payload, is_whole)?;
    let event = event_kind(&raw.kind).and_then(|(is_online, field)| {
        let user = match field {
            UserField::UserId => raw.user_id,
            UserField::Payload => raw.payload.map(|EventPayload { user }| user),
        };
        Some(UserEvent { user: user?, is_online })
    });
    event.ok_or_else(|| format!("names no user: {}", beginning(payload)))
}

/// Parses a message. The error shows the beginning of the message.
pub(crate) fn read<'a, T: Deserialize<'a>>(payload: &'a [u8], is_whole: bool) -> Result<T, String> {
    if !is_whole {
        return Err(format!("a message exceeds the limit of what is kept: {}…", beginning(payload)));
    }
    serde_json::from_slice(payload).map_err(|error| format!("{error} in {}", beginning(payload)))
}

fn beginning(payload: &[u8]) -> Cow<'_, str> {
    const SHOWN_BYTES: usize = 120;
    String::from_utf8_lossy(&payload[..payload.len().min(SHOWN_BYTES)])
}
