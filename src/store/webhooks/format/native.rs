//! The native format:
//! `{"node","sent_at","events":[{"id","type","room","user","info"?,"state"?,"since","version","at"},…]}`, signed as
//! Standard Webhooks defines it.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::json::{put_number, put_string};
use crate::outgoing::Request;
use crate::presence::{AppName, Info, State};
use crate::store::webhooks::queue::{Change, Status, Subject, kind_of};
use crate::store::webhooks::signature::{SigningKey, signature};
use crate::store::webhooks::stamp::Stamps;

/// The begin of a body, with the node that sends and when it made the request.
pub(super) fn put_head(buffer: &mut BytesMut, node: &str, unix_ms: u64) {
    buffer.put_slice(b"{\"node\":");
    put_string(buffer, node);
    buffer.put_slice(b",\"sent_at\":");
    put_number(buffer, unix_ms);
    buffer.put_slice(b",\"events\":[");
}

/// An attempt at a request.
pub(super) fn attempt(id: &str, body: &Bytes, keys: &[SigningKey], unix_ms: u64) -> Request {
    let timestamp = (unix_ms / 1000).to_string();
    let signature = signature(keys, id, &timestamp, body);
    Request::post(body.clone())
        .and("webhook-id", id.as_bytes())
        .and("webhook-timestamp", timestamp.as_bytes())
        .and("webhook-signature", signature.as_bytes())
}

/// The event of a change.
pub(super) fn put_event(buffer: &mut BytesMut, change: &Change, stamps: &Stamps, unix_ms: u64) {
    buffer.put_slice(b"{\"id\":");
    put_string(buffer, &stamps.id());
    buffer.put_slice(b",\"type\":");
    let at_unix_ms = match change {
        Change::Resync(subject) => {
            put_string(buffer, "resync");
            put_subject(buffer, subject);
            unix_ms
        }
        Change::Status { subject, kind, now, at_unix_ms, since_unix_ms } => {
            put_string(buffer, kind.name());
            put_subject(buffer, subject);
            put_status(buffer, subject, now, *at_unix_ms, *since_unix_ms);
            *at_unix_ms
        }
        // The settings of this format do not select notices.
        Change::Notice(_, notice) => {
            put_string(buffer, kind_of(notice).name());
            put_subject(buffer, &Subject::Room(Arc::clone(&notice.room)));
            unix_ms
        }
    };
    buffer.put_slice(b",\"version\":");
    put_number(buffer, stamps.version(unix_ms));
    buffer.put_slice(b",\"at\":");
    put_number(buffer, at_unix_ms);
    buffer.put_u8(b'}');
}

/// Room and user. Those of an application have the application, and the names that it uses.
fn put_subject(buffer: &mut BytesMut, subject: &Subject) {
    let (room, user) = match subject {
        Subject::Everything | Subject::Notice(_) => (None, None),
        Subject::Room(room) | Subject::Count(room) => (Some(room), None),
        Subject::Member(room, user) => (Some(room), Some(user)),
        Subject::User(user) => (None, Some(user)),
    };
    let app = room.or(user).and_then(|name| AppName::parse(name));
    if let Some(AppName { app, .. }) = app {
        put_field(buffer, "app", &app.to_string());
    }
    if let Some(room) = room {
        match AppName::parse(room) {
            Some(channel) => put_field(buffer, "channel", channel.name),
            None => put_field(buffer, "room", room),
        }
    }
    if let Some(user) = user {
        let id = AppName::parse(user).map(|name| name.user_id());
        put_field(buffer, "user", id.unwrap_or(user));
    }
}

fn put_status(buffer: &mut BytesMut, subject: &Subject, now: &Status, at_unix_ms: u64, since_unix_ms: u64) {
    match (subject, now) {
        (Subject::Member(..), Status::Present(shown)) => {
            if let Some(info) = shown.as_ref().and_then(State::info).map(Info::as_str).filter(|info| !info.is_empty()) {
                put_json(buffer, "info", info);
            }
            if let Some(state) = shown.as_ref().and_then(State::json) {
                put_json(buffer, "state", state);
            }
        }
        (Subject::Member(..), Status::Absent(Some(reason))) => put_field(buffer, "reason", reason.as_str()),
        (Subject::User(_), Status::Absent(_)) => put_json(buffer, "last_seen", &at_unix_ms.to_string()),
        _ => {}
    }
    if matches!(subject, Subject::Member(..) | Subject::User(_)) {
        put_json(buffer, "since", &since_unix_ms.to_string());
    }
}

fn put_field(buffer: &mut BytesMut, name: &str, value: &str) {
    put_json(buffer, name, "");
    put_string(buffer, value);
}

/// A field whose value is JSON.
fn put_json(buffer: &mut BytesMut, name: &str, json: &str) {
    buffer.put_u8(b',');
    put_string(buffer, name);
    buffer.put_u8(b':');
    buffer.put_slice(json.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Reason;
    use crate::store::webhooks::selection::Kind;

    fn change(subject: Subject, kind: Kind, now: Status) -> Change {
        Change::Status { subject, kind, now, at_unix_ms: 8, since_unix_ms: 7 }
    }

    fn check(change: &Change, expected: &str) {
        let mut buffer = BytesMut::new();
        put_event(&mut buffer, change, &Stamps::new(0xa), 9);
        assert_eq!(String::from_utf8_lossy(&buffer), format!("{{\"id\":\"a-0\",{expected}}}"));
    }

    #[test]
    fn each_event_has_the_documented_fields() {
        let member = || Subject::Member("a \"b\"".into(), "alice".into());
        let state = State::from("{\"n\":1}".to_owned()).with_info(Some(Info::new("{\"i\":2}", 1)));
        check(
            &change(member(), Kind::MemberJoined, Status::Present(Some(state))),
            "\"type\":\"member_joined\",\"room\":\"a \\\"b\\\"\",\"user\":\"alice\",\"info\":{\"i\":2},\
             \"state\":{\"n\":1},\"since\":7,\"version\":9000,\"at\":8",
        );
        check(
            &change(member(), Kind::MemberLeft, Status::Absent(Some(Reason::NodeLost))),
            "\"type\":\"member_left\",\"room\":\"a \\\"b\\\"\",\"user\":\"alice\",\"reason\":\"node_lost\",\
             \"since\":7,\"version\":9000,\"at\":8",
        );
        check(
            &change(Subject::Room("r".into()), Kind::RoomVacated, Status::Absent(None)),
            "\"type\":\"room_vacated\",\"room\":\"r\",\"version\":9000,\"at\":8",
        );
        check(
            &change(Subject::User("u".into()), Kind::UserOffline, Status::Absent(None)),
            "\"type\":\"user_offline\",\"user\":\"u\",\"last_seen\":8,\"since\":7,\"version\":9000,\"at\":8",
        );
        check(&Change::Resync(Subject::Everything), "\"type\":\"resync\",\"version\":9000,\"at\":9");
        check(
            &change(
                Subject::Member("\0pusher:3:presence-x".into(), "\0pusher:3:7:8".into()),
                Kind::MemberJoined,
                Status::Present(None),
            ),
            "\"type\":\"member_joined\",\"app\":\"3\",\"channel\":\"presence-x\",\"user\":\"7:8\",\"since\":7,\
             \"version\":9000,\"at\":8",
        );
    }
}
