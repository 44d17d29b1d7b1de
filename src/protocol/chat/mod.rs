//! The protocol of chat clients: `GET /ws`.
//!
//! ```text
//! C  {"type":"join","payload":{"user":U}}      first, or an error and close 1008; too late, close 1008
//! C  {"type":"msg","payload":{"text":X}}       the limit is 4,096 bytes; blank text is ignored, and so is a user it claims
//! C  {"type":"ping"}
//!
//! S  {"type":"msg","payload":{"user":U,"text":X,"ts":T}}       to all, the sender too
//! S  {"type":"join","payload":{"user":U,"ts":T}}               {"type":"leave","payload":{"user":U,"ts":T}}
//! S  {"type":"pong","ts":T}                                    {"type":"error","message":M}
//! ```
//!
//! `T` is in seconds since the Unix epoch with milliseconds; a message has the time of its tick. Joins and leaves are those of the
//! lobby, whatever protocol its members speak. So are messages: a text is the data `{"text":X}` of a message of the lobby, and data
//! that is an object with a `text` is shown as one; other data is not sent to chat clients. Within a tick joins come first and
//! leaves last, so no user is seen to speak before joining or after leaving. A new client first gets the history. The connection is
//! the presence, as in [`super::online_status`].

mod history;

use bytes::{BufMut, Bytes, BytesMut};
use simd_json::prelude::{TypedScalarValue, ValueAsScalar, ValueIntoString};

use super::{AtClose, Client, Command, Identity, Missed, OnClose, Presence, Protocol, Refused, Rules, Upgrade};
use crate::broadcast::encoder::{Encoder, Pacing};
use crate::broadcast::{RoomUpdate, Snapshot};
use crate::json::{self, Reader, Value, put_string};
use crate::memory_budget::MemoryBudget;
use crate::os::unix_ms;
use crate::presence::{Audience, IdError, LOBBY, Reason, check_id};
use crate::websocket::close;
use crate::websocket::decoder::Limits;
use crate::websocket::frame::append_text_frame;
use history::{History, Messages, put_ts};

/// Observers of joins, messages and leaves.
pub const CHAT: Audience = Protocol::Chat.audience(0);

pub(super) static RULES: Rules = Rules {
    presence: Presence::Connection,
    missed: Missed::Queue,
    identity: Identity::FirstMessage { deadline: |config| config.limits.header_timeout, reason: MISSING_JOIN },
    on_close: OnClose { clean: LEAVE, lost: LEAVE, drained: AtClose::Stay },
    limits: Limits::PRESENCE,
    subprotocol: None,
    audiences: 1,
    status: None,
    health: None,
    upgrade: |handshake| (handshake.path == "/ws").then(|| Ok(Upgrade::new(Protocol::Chat, None))),
    greet: |_, _| {}, // The first message is the client's.
    receive: |client, reader, text| decode(reader, text, |request| receive(client, request)),
    receive_binary: None,
    encoders: |config| vec![Box::new(Chat::new(config.chat.history))],
};

const LEAVE: AtClose = AtClose::Leave(Reason::Closed);
/// The longest text of a message, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 4096;

/// The first message was not a join with a user's name.
pub const MISSING_JOIN: &str = "missing join/user";
/// A second join on one connection.
pub const ALREADY_JOINED: &str = "already joined";
/// A text of more than [`MAX_TEXT_BYTES`].
pub const TEXT_TOO_LONG: &str = "text too long, at most 4096 bytes";
/// The client, or everybody together, says more than is passed on.
pub const SLOW_DOWN: &str = "slow down";

fn receive(client: &mut Client<'_>, request: Result<Request<'_>, &'static str>) {
    if !client.is_identified() {
        return join(client, if let Ok(Request::Join(user)) = request { user } else { "" });
    }
    let done = request.and_then(|request| match request {
        Request::Join(_) => Err(ALREADY_JOINED),
        Request::Publish(data) => {
            client.execute(Command::Publish { room: LOBBY, data }).map_err(|refused| match refused {
                Refused::RateLimited => SLOW_DOWN,
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

/// The first message names the user, or ends the connection.
fn join(client: &mut Client<'_>, user: &str) {
    let error = match check_id(user) {
        Ok(user) => {
            client.identify(user);
            let _ = client.execute(Command::join_lobby(CHAT));
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

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Come in under this name, which has not been checked; empty if there is none.
    Join(&'a str),
    /// Say this to all: the data of a message, which holds the text.
    Publish(String),
    /// Nothing to publish.
    Blank,
    /// Answer with a pong.
    Ping,
}

/// Reads a text message and hands the request, or the message of the error that answers it, to `act`.
pub fn decode<R>(reader: &mut Reader, text: &[u8], act: impl FnOnce(Result<Request<'_>, &'static str>) -> R) -> R {
    reader.read(text, |value| match value.filter(Value::is_object) {
        Some(value) => act(request(&value)),
        None => act(Err("invalid json")),
    })
}

fn request<'a>(message: &Value<'_, 'a>) -> Result<Request<'a>, &'static str> {
    let field = |name: &str| message.get("payload").filter(Value::is_object).and_then(|payload| payload.get(name));
    match message.get("type").and_then(ValueIntoString::into_string) {
        Some("join") => Ok(Request::Join(field("user").and_then(ValueIntoString::into_string).unwrap_or_default())),
        Some("msg") => match field("text").filter(|text| !text.is_null()) {
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

/// Appends the answer to a ping.
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

/// What new clients are sent, and the messages of each tick.
#[derive(Debug)]
struct Chat {
    history: History,
    /// A chat client has been here since the start: before that nothing is recorded.
    has_begun: bool,
    /// The messages of the latest tick with any: they become history when the next ones come.
    latest: Messages,
    reader: Reader,
}

impl Chat {
    fn new(history: usize) -> Self {
        let (history, latest) = (History::new(history), Messages::default());
        Self { history, has_begun: false, latest, reader: Reader::default() }
    }
}

impl Encoder for Chat {
    fn pacing(&self) -> Pacing {
        Pacing::Snapshots
    }

    fn records(&self, update: RoomUpdate<'_>) -> bool {
        self.has_begun && update.room.is_named(LOBBY)
    }

    fn changes(&mut self, update: RoomUpdate<'_>) -> Option<Bytes> {
        self.has_begun = true;
        self.history.add(&self.latest);
        self.latest = Messages::encode(&mut self.reader, &update.change.diff, update.messages, update.now.unix_ms);
        Some(self.latest.frames.clone()).filter(|frames| !frames.is_empty())
    }

    fn snapshot(&mut self, _: RoomUpdate<'_>, unread: &MemoryBudget) -> Snapshot {
        let history = self.history.frames(|frames| unread.count(frames));
        let pages = [history, self.latest.frames.clone()].into_iter().filter(|page| !page.is_empty());
        Snapshot { pages: pages.collect(), spans: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn check(text: &str, want: Result<Request<'_>, &'static str>) {
        decode(&mut Reader::default(), text.as_bytes(), move |got| assert_eq!(got, want, "{text}"));
    }

    #[test]
    fn requests_are_read_or_named() {
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
        fn any_text_comes_through_as_it_was(text in "\\PC{0,200}|(?s).{0,50}") {
            let sent = json!({"type": "msg", "payload": {"text": text}}).to_string();
            decode(&mut Reader::default(), sent.as_bytes(), |got| match got.unwrap() {
                Request::Publish(data) => assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), json!({ "text": text })),
                other => assert!(other == Request::Blank && text.trim().is_empty()),
            });
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&mut Reader::default(), &bytes, |got| got.is_ok());
        }
    }
}
