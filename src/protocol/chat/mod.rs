//! The protocol of chat clients: `GET /ws`.
//!
//! ```text
//! C  {"type":"join","payload":{"user":U}}      must come first and in time, or the connection is closed with 1008;
//!                                              with a credential, U is the user of the credential
//! C  {"type":"msg","payload":{"text":X}}       the limit is 4,096 bytes; blank text and other fields are ignored
//! C  {"type":"ping"}
//!
//! S  {"type":"msg","payload":{"user":U,"text":X,"ts":T}}       to all clients, the sender too
//! S  {"type":"join","payload":{"user":U,"ts":T}}               {"type":"leave","payload":{"user":U,"ts":T}}
//! S  {"type":"pong","ts":T}                                    {"type":"error","message":M}
//! ```
//!
//! `T` is in seconds since the Unix epoch with milliseconds; a message has the time of its tick. Clients see the joins,
//! leaves and messages of all members of the lobby, whatever their protocol. A text is published as the data
//! `{"text":X}` of a room message. Messages of other protocols are sent to chat clients if their data is an object with
//! a `text`. Within a tick joins come first and leaves last, so that all messages of a user come between the two. A new
//! client receives the history first. There is no lease: as in [`super::online_status`], the user is online as long as
//! the connection is open.

mod events;
mod history;

use bytes::{BufMut, Bytes, BytesMut};
use simd_json::prelude::{ValueAsScalar, ValueIntoString};

use super::{
    AtClose, Client, CloseCodes, Command, Identity, Missed, OnClose, Presence, Protocol, Refused, Rules, Upgrade,
};
use crate::broadcast::encoder::{Encoder, Pacing};
use crate::broadcast::{RoomUpdate, Snapshot};
use crate::json::{self, Reader, Value, put_string};
use crate::memory_budget::MemoryBudget;
use crate::os::unix_ms;
use crate::presence::{Audience, Diff, Form, IdError, LOBBY, Reason, Room, RoomMessage, check_id};
use crate::store::KeptMessage;
use crate::websocket::close;
use crate::websocket::decoder::Limits;
use crate::websocket::frame::append_text_frame;
use history::{History, Messages, put_ts, text_in};

/// Observers of joins, messages and leaves.
pub const CHAT: Audience = Protocol::Chat.audience(0);

pub(super) static RULES: Rules = Rules {
    name: "chat",
    presence: Presence::Connection,
    missed: Missed::Queue,
    observes_first: true,
    events: Some(events::FORMAT),
    identity: Identity::FirstMessage { deadline: |config| config.limits.header_timeout, reason: MISSING_JOIN },
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
    upgrade: |handshake| (handshake.path == "/ws").then(|| Ok(Upgrade::new(Protocol::Chat, None))),
    greet: |_, _| {}, // The client sends the first message.
    receive: |client, reader, text| decode(reader, text, |request| receive(client, request)),
    receive_binary: None,
    too_big: None,
    alarm: None,
    encoders: |config| vec![Box::new(Chat::new(config.chat.history))],
};

const LEAVE: AtClose = AtClose::Leave(Reason::Closed);
/// The longest text of a message, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 4096;

/// The error if the first message is not a join with a user.
pub const MISSING_JOIN: &str = "missing join/user";
/// The error for a second join on one connection.
pub const ALREADY_JOINED: &str = "already joined";
/// The error for a text of more than [`MAX_TEXT_BYTES`].
pub const TEXT_TOO_LONG: &str = "text too long, at most 4096 bytes";
/// The error if the join names another user than the client's credential does.
pub const OTHER_USER: &str = "user is not the one of your credential";
/// The error if the client's credential does not allow `publish` in the lobby.
pub const NO_PUBLISHING: &str = "your credential does not allow `publish` in `lobby`";
/// The error if the client sends too many messages, or all clients together too many bytes.
pub const SLOW_DOWN: &str = "slow down";

fn receive(client: &mut Client<'_>, request: Result<Request<'_>, &'static str>) {
    if !client.has_rooms() {
        return join(client, if let Ok(Request::Join(user)) = request { user } else { "" });
    }
    let done = request.and_then(|request| match request {
        Request::Join(_) => Err(ALREADY_JOINED),
        Request::Publish(data) => {
            client.execute(Command::Publish { room: LOBBY, data }).map_err(|refused| match refused {
                Refused::RateLimited => SLOW_DOWN,
                Refused::Forbidden(_) => NO_PUBLISHING,
                _ => MISSING_JOIN,
            })
        }
        Request::Blank => Ok(()),
        Request::Ping => {
            put_pong(client.replies, unix_ms());
            Ok(())
        }
    });
    if let Err(message) = done {
        refuse(client, message);
    }
}

/// Handles the first message. It must name a valid user, or the connection is closed.
fn join(client: &mut Client<'_>, user: &str) {
    let error = match check_id(user) {
        Ok(user) if let Err(reason) = client.check_user(&user) => {
            refuse(client, reason);
            return client.close(close::TRY_AGAIN, reason);
        }
        Ok(user) if client.identify(&user).is_none() => {
            refuse(client, OTHER_USER);
            return client.close(close::POLICY, OTHER_USER);
        }
        Ok(_) => {
            client.join_lobby_or_close(CHAT);
            return;
        }
        Err(IdError::Empty) => MISSING_JOIN.to_owned(),
        Err(error) => format!("user {error}"),
    };
    refuse(client, &error);
    client.close(close::POLICY, MISSING_JOIN);
}

fn refuse(client: &mut Client<'_>, message: &str) {
    client.count_refusal();
    put_error(client.replies, message);
}

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Join as this user, which is not checked yet; empty if there is none.
    Join(&'a str),
    /// Publish this data, which has the text.
    Publish(String),
    /// A message without text: nothing to publish.
    Blank,
    /// Reply with a pong.
    Ping,
}

/// Decodes a text message and passes the request, or the error to reply with, to `act`.
pub fn decode<R>(reader: &mut Reader, text: &[u8], act: impl FnOnce(Result<Request<'_>, &'static str>) -> R) -> R {
    reader.read(text, |value| match value.filter(Value::is_object) {
        Some(value) => act(request(&value)),
        None => act(Err("invalid json")),
    })
}

fn request<'a>(message: &Value<'_, 'a>) -> Result<Request<'a>, &'static str> {
    let payload = json::field(message, "payload");
    let field = |name: &str| payload.as_ref().and_then(|payload| json::field(payload, name));
    match json::field(message, "type").and_then(ValueIntoString::into_string) {
        Some("join") => Ok(Request::Join(field("user").and_then(ValueIntoString::into_string).unwrap_or_default())),
        Some("msg") => match field("text") {
            Some(text) => publish(&text),
            None => Ok(Request::Blank),
        },
        Some("ping") => Ok(Request::Ping),
        _ => Err("unknown type"),
    }
}

fn publish<'a>(value: &Value<'_, 'a>) -> Result<Request<'a>, &'static str> {
    match value.as_str() {
        None => Err("text must be a string"),
        Some(text) if text.len() > MAX_TEXT_BYTES => Err(TEXT_TOO_LONG),
        Some(text) if text.trim().is_empty() => Ok(Request::Blank),
        Some(_) => Ok(Request::Publish(format!("{{\"text\":{}}}", json::compact(value)))),
    }
}

/// Appends the reply to a ping.
pub fn put_pong(buffer: &mut BytesMut, unix_ms: u64) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"type":"pong""#);
        put_ts(buffer, unix_ms);
        buffer.put_u8(b'}');
    });
}

/// Appends an error.
pub fn put_error(buffer: &mut BytesMut, message: &str) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"type":"error","message":"#);
        put_string(buffer, message);
        buffer.put_u8(b'}');
    });
}

/// Encodes the messages of each tick, and keeps the history for new clients.
#[derive(Debug)]
struct Chat {
    history: History,
    /// Whether `history` may contain messages.
    keeps_history: bool,
    /// Whether a chat client has connected since the start. Before that only messages are recorded.
    has_begun: bool,
    /// The messages of the last recorded tick. They are added to the history in the next one.
    latest: Messages,
    reader: Reader,
}

impl Chat {
    fn new(history: usize) -> Self {
        let keeps_history = history > 0;
        let (history, latest) = (History::new(history), Messages::default());
        Self { history, keeps_history, has_begun: false, latest, reader: Reader::default() }
    }
}

impl Encoder for Chat {
    fn pacing(&self) -> Pacing {
        Pacing::Snapshots
    }

    fn has_history(&self) -> bool {
        true
    }

    fn records(&self, update: RoomUpdate<'_>) -> bool {
        let has_entries = self.has_begun || self.keeps_history && !update.messages.is_empty();
        has_entries && update.room.is_named(LOBBY)
    }

    fn keeps(&mut self, room: &Room, message: &RoomMessage) -> bool {
        self.keeps_history
            && room.is_named(LOBBY)
            && message.form == Form::Plain
            && message.user.is_some()
            && text_in(&mut self.reader, &message.data).is_some()
    }

    fn restore(&mut self, messages: &[KeptMessage]) {
        for message in messages.iter().filter(|message| *message.room == *LOBBY && self.keeps_history) {
            let text = text_in(&mut self.reader, &message.data);
            // What arrived with the latest tick is added later.
            if let Some((user, text)) = message.user.as_ref().zip(text)
                && !self.latest.contains(&message.stamp)
            {
                self.history.restore(message.stamp, user, &text);
            }
        }
    }

    fn limit_times(&mut self, latest_unix_ms: u64) {
        self.history.set_latest(latest_unix_ms);
    }

    fn changes(&mut self, update: RoomUpdate<'_>) -> Option<Bytes> {
        self.has_begun |= update.in_use.contains(CHAT);
        self.history.add(&self.latest);
        let nobody_came = Diff::default();
        let diff = if self.has_begun { &update.change.diff } else { &nobody_came };
        self.latest = Messages::encode(&mut self.reader, diff, update.messages, update.now.unix_ms);
        self.history.remove(&self.latest);
        Some(self.latest.frames.clone()).filter(|frames| !frames.is_empty())
    }

    fn snapshot(&mut self, _: RoomUpdate<'_>, unread: &MemoryBudget) -> Snapshot {
        let history = self.history.frames(|frames| unread.count(frames));
        let pages = [history, self.latest.frames.clone()].into_iter().filter(|page| !page.is_empty());
        Snapshot { pages: pages.collect(), ..Snapshot::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn check(text: &str, expected: Result<Request<'_>, &'static str>) {
        decode(&mut Reader::default(), text.as_bytes(), move |got| assert_eq!(got, expected, "{text}"));
    }

    #[test]
    fn each_message_becomes_a_request_or_an_error() {
        check(r#"{"type":"join","payload":{"user":"alice"}}"#, Ok(Request::Join("alice")));
        check(r#"{"type":"join","payload":{"user":7}}"#, Ok(Request::Join("")));
        check(r#"{"type":"join","payload":"alice"}"#, Ok(Request::Join("")));
        check(r#"{"type":"join"}"#, Ok(Request::Join("")));
        check(
            r#"{"type":"msg","payload":{"text":"Hi","user":"eve"}}"#,
            Ok(Request::Publish(r#"{"text":"Hi"}"#.into())),
        );
        for blank in [
            r#"{"type":"msg"}"#,
            r#"{"type":"msg","payload":{"text":" \n"}}"#,
            r#"{"type":"msg","payload":{"text":null}}"#,
        ] {
            check(blank, Ok(Request::Blank));
        }
        check(r#"{"type":"msg","payload":{"text":7}}"#, Err("text must be a string"));
        check(r#"{"type":"ping"}"#, Ok(Request::Ping));
        for unknown in ["{}", r#"{"type":"shout"}"#, r#"{"type":7}"#] {
            check(unknown, Err("unknown type"));
        }
        for invalid in ["", "ping", "[]", "{", "7", "null"] {
            check(invalid, Err("invalid json"));
        }
        let text = |length: usize| json!({"type": "msg", "payload": {"text": "x".repeat(length)}}).to_string();
        check(&text(MAX_TEXT_BYTES), Ok(Request::Publish(json!({"text": "x".repeat(MAX_TEXT_BYTES)}).to_string())));
        check(&text(MAX_TEXT_BYTES + 1), Err(TEXT_TOO_LONG));
        assert!(TEXT_TOO_LONG.contains(&MAX_TEXT_BYTES.to_string()), "the message names the limit");
    }

    #[test]
    fn a_pong_has_milliseconds() {
        let mut pong = BytesMut::new();
        put_pong(&mut pong, 1_700_000_000_120);
        assert_eq!(&pong[2..], br#"{"type":"pong","ts":1700000000.120}"#);
    }

    proptest! {
        #[test]
        fn any_text_that_is_not_blank_is_published_unchanged(text in "\\PC{0,200}|(?s).{0,50}") {
            let sent = json!({"type": "msg", "payload": {"text": text}}).to_string();
            decode(&mut Reader::default(), sent.as_bytes(), |got| match got.unwrap() {
                Request::Publish(data) => {
                    assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), json!({ "text": text }));
                }
                other => assert!(other == Request::Blank && text.trim().is_empty()),
            });
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&mut Reader::default(), &bytes, |got| got.is_ok());
        }
    }
}
