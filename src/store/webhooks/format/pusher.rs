//! The format of Pusher:
//! `{"time_ms":1700000000000,"events":[{"name":"member_added","channel":"presence-a","user_id":"7"}]}`.
//!
//! Each request has the events of one application and is signed with its key and secret. Receivers refuse requests that
//! are older than five minutes, so each attempt has its own time and signature.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::value::RawValue;

use crate::json::{put_number, put_string};
use crate::outgoing::Request;
use crate::presence::{AppRooms, app_user_id};
use crate::signature::sign;
use crate::store::webhooks::queue::{Change, Fit, Status, Subject, kind_of};
use crate::store::webhooks::selection::Kind;
use crate::store::{Happening, Notice};

/// A key and its secret.
type Key = (Box<str>, Box<str>);

/// The keys of applications. They may change while the server runs.
#[derive(Clone)]
pub struct AppKeys(Arc<dyn Fn(u64) -> Option<Key> + Send + Sync>);

impl fmt::Debug for AppKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AppKeys(hidden)")
    }
}

impl AppKeys {
    /// The key and the secret that this returns for an application.
    pub fn new(of: impl Fn(u64) -> Option<Key> + Send + Sync + 'static) -> Self {
        Self(Arc::new(of))
    }

    pub(super) fn of(&self, app: u64) -> Option<Key> {
        (self.0)(app)
    }
}

/// An attempt at a request with these events.
pub(super) fn attempt(events: &Bytes, (key, secret): &Key, unix_ms: u64) -> Option<Request> {
    let mut body = BytesMut::with_capacity(events.len() + 64);
    body.put_slice(b"{\"time_ms\":");
    put_number(&mut body, unix_ms);
    body.put_slice(b",\"events\":[");
    body.put_slice(events);
    body.put_slice(b"]}");
    let signature = sign(secret.as_bytes(), &[&body]);
    let request = Request::post(body.freeze());
    Some(request.and("x-pusher-key", key.as_bytes()).and("x-pusher-signature", signature.as_bytes()))
}

/// Adds the event of a change, if it is of the same application as the events before it. `node` is the first part of
/// the socket ids of this node.
pub(super) fn put_event(
    buffer: &mut BytesMut,
    change: &Change,
    rooms: AppRooms,
    app: &mut Option<u64>,
    node: u32,
) -> Fit {
    let (room, name) = match change {
        Change::Status {
            subject: Subject::Room(room) | Subject::Member(room, _) | Subject::Count(room),
            kind,
            now,
            ..
        } => (room, name(*kind, now)),
        Change::Notice(_, notice) => (&notice.room, kind_of(notice).name()),
        Change::Status { .. } | Change::Resync(_) => return Fit::Other,
    };
    let Some((of_channel, channel)) = rooms.channel(room) else { return Fit::Other };
    if *app.get_or_insert(of_channel) != of_channel {
        return Fit::Other;
    }
    buffer.put_slice(b"{\"name\":");
    put_string(buffer, name);
    buffer.put_slice(b",\"channel\":");
    put_string(buffer, &channel);
    match change {
        Change::Status { subject: Subject::Member(_, user), .. } => put_user_id(buffer, user),
        Change::Status { now: Status::Count(observers), .. } => {
            buffer.put_slice(b",\"subscription_count\":");
            put_number(buffer, *observers);
        }
        Change::Notice(_, Notice { what: Happening::ClientEvent { event, user, connection }, .. }) => {
            put_client_event(buffer, event);
            buffer.put_slice(b",\"socket_id\":");
            put_string(buffer, &format!("{node}.{connection}"));
            user.iter().for_each(|user| put_user_id(buffer, user));
        }
        _ => {}
    }
    buffer.put_u8(b'}');
    Fit::Taken
}

fn name(kind: Kind, now: &Status) -> &'static str {
    match (kind, now) {
        (Kind::RoomOccupied, _) => "channel_occupied",
        (Kind::RoomVacated, _) => "channel_vacated",
        (_, Status::Present(_)) => "member_added",
        (_, Status::Absent(_)) => "member_removed",
        (_, Status::Count(_)) => "subscription_count",
    }
}

fn put_user_id(buffer: &mut BytesMut, user: &str) {
    buffer.put_slice(b",\"user_id\":");
    put_string(buffer, app_user_id(user));
}

/// The name and the data of an event, which are nested to any depth. The data is always a string: what the client sent,
/// or the JSON text of another value.
fn put_client_event(buffer: &mut BytesMut, event: &str) {
    let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(event).unwrap_or_default();
    let field = |name| fields.get(name).map_or("null", |value| value.get());
    buffer.put_slice(b",\"event\":");
    buffer.put_slice(field("event").as_bytes());
    buffer.put_slice(b",\"data\":");
    match field("data") {
        text if text.starts_with('"') => buffer.put_slice(text.as_bytes()),
        json => put_string(buffer, json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::AppName;

    #[test]
    fn each_application_has_requests_of_its_own() {
        let member = |app: u64, user: &str, kind, now| {
            let (room, user) = (format!("\0pusher:{app}:presence-a"), AppName::of_user(app, user));
            let subject = Subject::Member(room.into(), user.into());
            Change::Status { subject, kind, now, at_unix_ms: 1, since_unix_ms: 1 }
        };
        let (mut buffer, mut app) = (BytesMut::new(), None);
        let mut put = |change: &Change| put_event(&mut buffer, change, AppRooms::shared_by(1), &mut app, 9);
        assert_eq!(put(&member(1, "#7", Kind::MemberJoined, Status::Present(None))), Fit::Taken);
        assert_eq!(put(&member(2, "7", Kind::MemberJoined, Status::Present(None))), Fit::Other);
        assert_eq!(put(&member(1, "8", Kind::MemberLeft, Status::Absent(None))), Fit::Taken);
        assert_eq!(put(&Change::Resync(Subject::Everything)), Fit::Other);
        let (room, now) = ("\0pusher:1:news".into(), Status::Present(None));
        let (subject, kind) = (Subject::Room(room), Kind::RoomOccupied);
        assert_eq!(put(&Change::Status { subject, kind, now, at_unix_ms: 1, since_unix_ms: 1 }), Fit::Taken);
        let member = Subject::Member("lobby".into(), "ann".into());
        let joined = |subject| {
            let (kind, now) = (Kind::MemberJoined, Status::Present(None));
            Change::Status { subject, kind, now, at_unix_ms: 1, since_unix_ms: 1 }
        };
        assert_eq!(put(&joined(member)), Fit::Taken, "a room that the application shares");
        assert_eq!(put(&joined(Subject::Member("a b".into(), "ann".into()))), Fit::Other, "not a channel");
        let expected = "{\"name\":\"member_added\",\"channel\":\"presence-a\",\"user_id\":\"#7\"}\
                        {\"name\":\"member_removed\",\"channel\":\"presence-a\",\"user_id\":\"8\"}\
                        {\"name\":\"channel_occupied\",\"channel\":\"news\"}\
                        {\"name\":\"member_added\",\"channel\":\"presence-lobby\",\"user_id\":\"ann\"}";
        assert_eq!(String::from_utf8_lossy(&buffer), expected);
    }

    #[test]
    fn the_data_of_a_client_event_is_a_string_and_its_name_is_passed_on_as_it_is() {
        let put = |what| {
            let notice = Notice { room: "\0pusher:1:presence-a".into(), what };
            let mut buffer = BytesMut::new();
            let fit =
                put_event(&mut buffer, &Change::Notice(Subject::Notice(0), notice), AppRooms::default(), &mut None, 12);
            assert_eq!(fit, Fit::Taken);
            String::from_utf8_lossy(&buffer).into_owned()
        };
        let event = |event: &str, user: Option<String>| {
            put(Happening::ClientEvent { event: event.into(), user: user.map(Into::into), connection: 34 })
        };
        let check = |data: &str, user: Option<&str>, want: &str| {
            let text = format!(r#"{{"event":"client-\ud800","data":{data},"user_id":1}}"#);
            let user_id = user.map(|user| AppName::of_user(1, user));
            let head = r#"{"name":"client_event","channel":"presence-a","event":"client-\ud800","data":"#;
            let user = user.map(|user| format!(r#","user_id":"{user}""#)).unwrap_or_default();
            assert_eq!(event(&text, user_id), format!(r#"{head}{want},"socket_id":"12.34"{user}}}"#));
        };
        check(r#"{"a":"b"}"#, Some("7"), r#""{\"a\":\"b\"}""#);
        check(r#""x\"\ud800""#, Some("#8"), r#""x\"\ud800""#);
        check("1.50", None, r#""1.50""#);
        check("null", None, r#""null""#);
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        check(&deep, None, &format!("\"{deep}\""));
        assert_eq!(put(Happening::CacheMiss), r#"{"name":"cache_miss","channel":"presence-a"}"#);
    }
}
