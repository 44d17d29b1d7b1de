//! The client's side of the Pusher protocol 7: what clients send, and what they read. No sockets.
//!
//! ```text
//! GET /app/loadtest?protocol=7    ◄ pusher:connection_established   ► pusher:subscribe (signed with the secret)
//!                                 ◄ pusher_internal:subscription_succeeded, member_added, member_removed
//!                                 ► pusher:unsubscribe
//! ```
//!
//! Each room is a presence channel. Frames of servers may have their fields in any order, and `data` as JSON or as JSON
//! in a string.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json};
use wire::{frame, signature};

/// The server needs an app with this key and this secret.
pub(crate) const KEY: &str = "loadtest";
const SECRET: &str = "loadtest-secret";
/// Event names that make a client ready, as they stand in a frame.
const ESTABLISHED: &str = "pusher:connection_established";
const SUBSCRIBED: &str = "pusher_internal:subscription_succeeded";

/// What a frame of the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The connection is open; its id is part of signatures.
    Established {
        socket_id: String,
    },
    /// The user ids of all members, the subscriber included.
    Roster {
        users: Vec<String>,
    },
    Added {
        user: String,
    },
    Removed {
        user: String,
    },
    /// An error of the connection or of a subscription, as the server wrote it.
    Error(String),
    Other,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(default)]
    data: Value,
}

pub(crate) fn path(base_path: &str) -> String {
    format!("{base_path}/app/{KEY}?protocol=7&client=loadtest&version={}", env!("CARGO_PKG_VERSION"))
}

/// The presence channel of a room.
pub(crate) fn channel(room: &str) -> String {
    format!("presence-{room}")
}

/// The complete frame that subscribes a connection to the channel of a room, as a user.
pub(crate) fn subscribe(socket_id: &str, room: &str, user: &str) -> Vec<u8> {
    let channel = channel(room);
    let channel_data = json!({ "user_id": user, "user_info": { "name": user } }).to_string();
    let signature = signature::hex(SECRET, &format!("{socket_id}:{channel}:{channel_data}"));
    let auth = format!("{KEY}:{signature}");
    let data = json!({ "auth": auth, "channel_data": channel_data, "channel": channel });
    text(&json!({ "event": "pusher:subscribe", "data": data }))
}

/// The complete frame that ends the subscription of a room.
pub(crate) fn unsubscribe(room: &str) -> Vec<u8> {
    text(&json!({ "event": "pusher:unsubscribe", "data": { "channel": channel(room) } }))
}

fn text(message: &Value) -> Vec<u8> {
    frame::masked(frame::TEXT, message.to_string().as_bytes())
}

/// The id of the connection, if this is the first frame of the server.
pub(crate) fn socket_id(payload: &[u8]) -> Option<String> {
    match contains(payload, ESTABLISHED).then(|| event(payload))? {
        Ok(Event::Established { socket_id }) => Some(socket_id),
        _ => None,
    }
}

/// Whether a frame confirms a subscription. Works with the beginning of a frame.
pub(crate) fn is_subscribed(payload: &[u8]) -> bool {
    contains(payload, SUBSCRIBED)
}

fn contains(payload: &[u8], name: &str) -> bool {
    payload.windows(name.len()).any(|window| window == name.as_bytes())
}

/// Reads a frame of the server.
pub(crate) fn event(payload: &[u8]) -> Result<Event, String> {
    let frame: Frame<'_> = serde_json::from_slice(payload).map_err(|error| format!("a frame is not JSON: {error}"))?;
    let data = match frame.data {
        Value::String(text) if frame.event.starts_with("pusher") => {
            serde_json::from_str(&text).map_err(|error| format!("the data of {} is not JSON: {error}", frame.event))?
        }
        data => data,
    };
    let missing = |field: &str| format!("{} has no {field}", frame.event);
    let user = || id(&data["user_id"]).ok_or_else(|| missing("user_id"));
    Ok(match &*frame.event {
        ESTABLISHED => Event::Established { socket_id: id(&data["socket_id"]).ok_or_else(|| missing("socket_id"))? },
        SUBSCRIBED => {
            let ids = data["presence"]["ids"].as_array().ok_or_else(|| missing("ids"))?;
            Event::Roster { users: ids.iter().filter_map(id).collect() }
        }
        "pusher_internal:member_added" => Event::Added { user: user()? },
        "pusher_internal:member_removed" => Event::Removed { user: user()? },
        "pusher:error" | "pusher:subscription_error" => Event::Error(data.to_string()),
        _ => Event::Other,
    })
}

/// An id is a string or a number.
fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_has_the_id_that_is_signed() {
        let first =
            br#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\",\"activity_timeout\":120}"}"#;
        assert_eq!(socket_id(first), Some("1.2".to_owned()));
        assert_eq!(socket_id(br#"{"event":"pusher:pong","data":{}}"#), None);
        let frame = subscribe("1.2", "lobby", "user-000007");
        let (header, mut payload) = (6 + 2, frame[8..].to_vec());
        let mask = &frame[header - 4..header];
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        let sent: Value = serde_json::from_slice(&payload).expect("a message of 126 bytes and more");
        let data = &sent["data"];
        assert_eq!((&sent["event"], &data["channel"]), (&json!("pusher:subscribe"), &json!("presence-lobby")));
        assert_eq!(data["channel_data"], r#"{"user_id":"user-000007","user_info":{"name":"user-000007"}}"#);
        // echo -n '1.2:presence-lobby:{…}' | openssl dgst -sha256 -hmac loadtest-secret
        let auth = "loadtest:57fd81745396754fc199ba4d1b0f7de21b760a8d5ef13eeb7958eb8801415021";
        assert_eq!(data["auth"], auth);
    }

    #[test]
    fn data_is_json_or_text_and_fields_have_any_order() {
        for (payload, expected) in [
            (
                concat!(
                    r#"{"channel":"c","data":"{\"presence\":{\"count\":2,\"hash\":{},\"ids\":[\"a\",7]}}","#,
                    r#""event":"pusher_internal:subscription_succeeded"}"#
                ),
                Event::Roster { users: vec!["a".to_owned(), "7".to_owned()] },
            ),
            (
                r#"{"event":"pusher_internal:member_added","channel":"c","data":{"user_id":"a","user_info":null}}"#,
                Event::Added { user: "a".to_owned() },
            ),
            (
                r#"{"event":"pusher_internal:member_removed","channel":"c","data":"{\"user_id\":7}"}"#,
                Event::Removed { user: "7".to_owned() },
            ),
            (r#"{"event":"pusher:error","data":{"code":4301}}"#, Event::Error(r#"{"code":4301}"#.to_owned())),
            (r#"{"event":"news","channel":"c","data":"text"}"#, Event::Other),
            (r#"{"event":"pusher:cache_miss","channel":"c"}"#, Event::Other),
        ] {
            assert_eq!(event(payload.as_bytes()), Ok(expected), "{payload}");
        }
        assert!(event(br#"{"event":"pusher_internal:member_added","data":"{}"}"#).is_err());
        assert!(event(b"{").is_err());
    }
}
