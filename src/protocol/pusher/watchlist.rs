//! Encodes which watched users are online.

use bytes::{BufMut, Bytes, BytesMut};

use super::encode::put_event;
use super::user_id::signed_in_id;
use crate::broadcast::encoder::StatusEncoder;
use crate::json::{put_list, put_string};
use crate::presence::UserStatus;
use crate::websocket::frame::trimmed;

/// Online and offline, as the first byte of a user that is encoded, and the name of the event.
const EVENTS: [(u8, &[u8]); 2] = [(b'+', b"online"), (b'-', b"offline")];

/// The statuses of users who have signed in, or have not.
pub(super) const STATUS: StatusEncoder = StatusEncoder { user: encode_user, frame: encode_frame };

/// Whether the user is online, and the user id as a JSON string.
fn encode_user(user: &str, status: &UserStatus) -> Bytes {
    let Some(id) = signed_in_id(user) else { return Bytes::new() };
    let mut buffer = BytesMut::with_capacity(id.len() + 3);
    buffer.put_u8(EVENTS[usize::from(!status.online)].0);
    put_string(&mut buffer, id);
    buffer.freeze()
}

fn encode_frame(users: &[&Bytes]) -> Bytes {
    let of = |mark: u8| users.iter().filter_map(move |user| user.strip_prefix(&[mark]));
    let mut frame = BytesMut::new();
    put_event(&mut frame, "pusher_internal:watchlist_events", None, |data| {
        data.put_slice(br#"{"events":["#);
        let events = EVENTS.iter().filter(|(mark, _)| of(*mark).next().is_some());
        put_list(data, events, |data, (mark, name)| {
            data.put_slice(br#"{"name":""#);
            data.put_slice(name);
            data.put_slice(br#"","user_ids":["#);
            put_list(data, of(*mark), BytesMut::put_slice);
            data.put_slice(b"]}");
        });
        data.put_slice(b"]}");
    });
    trimmed(frame)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::user_id::signed_in_user;
    use super::*;

    #[test]
    fn a_frame_has_an_event_for_online_and_one_for_offline() {
        let check = |users: &[(&str, bool)], events: &Value| {
            let status = |online| UserStatus { online, ..UserStatus::default() };
            let users = users.iter().map(|(id, online)| encode_user(&signed_in_user(1, id), &status(*online)));
            let users: Vec<Bytes> = users.collect();
            let frame = encode_frame(&users.iter().collect::<Vec<_>>());
            let start = frame.iter().position(|byte| *byte == b'{').expect("an object");
            let frame: Value = serde_json::from_slice(&frame[start..]).expect("JSON");
            assert_eq!(frame["event"], "pusher_internal:watchlist_events");
            assert!(frame.get("channel").is_none());
            let data: Value = serde_json::from_str(frame["data"].as_str().expect("a string")).expect("JSON");
            assert_eq!(data, json!({ "events": events }));
        };
        check(&[("a", true)], &json!([{"name": "online", "user_ids": ["a"]}]));
        check(&[("#8\"\t", false), ("-", false)], &json!([{"name": "offline", "user_ids": ["#8\"\t", "-"]}]));
        check(
            &[("a", true), ("b", false), ("c", true)],
            &json!([{"name": "online", "user_ids": ["a", "c"]}, {"name": "offline", "user_ids": ["b"]}]),
        );
    }

    #[test]
    fn users_whom_its_clients_cannot_watch_are_not_encoded() {
        let status = UserStatus::default();
        for user in ["ann", "#ann", "\0pusher:1:ann", "\0pusher:1:\0#ann"] {
            assert!(encode_user(user, &status).is_empty(), "{user:?}");
        }
        assert!(crate::protocol::native::encode_user_status("\0pusher:1:#ann", &status).is_empty());
    }
}
