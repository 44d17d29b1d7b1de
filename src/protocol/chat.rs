//! The chat seed: `GET /ws`.
//!
//! ```text
//! C  {"type":"join","payload":{"user":U}}      first, or an error and close 1008; too late, close 1008
//! C  {"type":"msg","payload":{"text":X}}       at most 4,096 bytes; blank text is ignored, and so is a user it claims
//! C  {"type":"ping"}
//!
//! S  {"type":"msg","payload":{"user":U,"text":X,"ts":T}}       to all, the sender too
//! S  {"type":"join","payload":{"user":U,"ts":T}}               {"type":"leave","payload":{"user":U,"ts":T}}
//! S  {"type":"pong","ts":T}                                    {"type":"error","message":M}
//! ```
//!
//! `T` is in seconds since the Unix epoch with milliseconds, for messages that of the tick. Joins and leaves are those of the lobby,
//! whatever protocol its members speak. So are messages: a text is the data `{"text":X}` of a message of the lobby, and data that is an
//! object with a `text` is one; other data is not for this protocol. In a tick joins come first and leaves last, so nobody is heard before or after being there.
//! A newcomer first gets the history. A connection is the presence, as in [`super::status`].

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use simd_json::prelude::{TypedScalarValue, ValueAsScalar, ValueIntoString};

use crate::json::{self, Reader, Value, put_number, put_string};
use crate::presence::{Diff, RoomMessage};
use crate::websocket::frame::append_text_frame;

/// The longest text of a message, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 4096;
/// The history holds no more than this, however many messages it may hold: each newcomer is sent all of it.
const MAX_HISTORY_BYTES: usize = 1024 * 1024;

/// The first message was not a join with a user's name.
pub const MISSING_JOIN: &str = "missing join/user";
/// A second join on one connection.
pub const ALREADY_JOINED: &str = "already joined";
/// A text of more than [`MAX_TEXT_BYTES`].
pub const TEXT_TOO_LONG: &str = "text too long, at most 4096 bytes";
/// The client, or everybody together, says more than is passed on.
pub const SLOW_DOWN: &str = "slow down";

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Come in under this name, which has not been checked; empty if there is none.
    Join(&'a str),
    /// Say this to all: the data of a message, which holds the text.
    Say(String),
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
        Some(_) => Ok(Request::Say(format!("{{\"text\":{}}}", json::compact(value)))),
    }
}

/// The text in the data of a message, as a JSON string; `None` if there is none to be shown.
fn text_in(reader: &mut Reader, data: &str) -> Option<String> {
    reader.read(data.as_bytes(), |data| {
        let text = data.filter(Value::is_object)?.get("text")?;
        text.as_str().filter(|text| !text.trim().is_empty()).map(|_| json::compact(&text))
    })
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

/// The messages of one tick, a frame each.
#[derive(Debug, Default)]
pub struct Messages {
    /// All of them.
    pub frames: Bytes,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Messages {
    /// What a tick brought.
    #[must_use]
    pub fn encode(reader: &mut Reader, diff: &Diff, said: &[RoomMessage], unix_ms: u64) -> Self {
        let (mut buffer, mut ends) = (BytesMut::new(), Vec::new());
        let mut put = |kind: &str, user: &str, text: Option<&str>| {
            put_message(&mut buffer, kind, user, text, unix_ms);
            ends.push(buffer.len());
        };
        diff.joined.iter().for_each(|(user, _)| put("join", user, None));
        for said in said {
            if let Some(text) = text_in(reader, &said.data) {
                put("msg", &said.user, Some(&text));
            }
        }
        diff.left.iter().for_each(|(user, _)| put("leave", user, None));
        Self { frames: buffer.freeze(), ends }
    }

    /// The last `count` frames, oldest first.
    fn last(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        let first = self.ends.len().saturating_sub(count);
        (first..self.ends.len()).map(|at| {
            let start = if at == 0 { 0 } else { self.ends[at - 1] };
            &self.frames[start..self.ends[at]]
        })
    }
}

/// The last messages, for newcomers. Owned by the tick.
#[derive(Debug, Default)]
pub struct History {
    most: usize,
    frames: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// All of it as it was last sent; newcomers of a quiet chat share it.
    sent: Option<Bytes>,
    /// Somebody has chatted since the start: before that there is nothing to remember.
    pub begun: bool,
}

impl History {
    /// A history of so many messages at most.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// Adds what a tick brought.
    pub fn add(&mut self, messages: &Messages) {
        for frame in messages.last(self.most) {
            self.bytes += frame.len();
            self.frames.push_back(frame.into());
        }
        while self.frames.len() > self.most || self.bytes > MAX_HISTORY_BYTES {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.len();
        }
        if !messages.ends.is_empty() {
            self.sent = None;
        }
    }

    /// All of it, oldest first. What is put together anew goes through `made`.
    pub fn frames(&mut self, made: impl FnOnce(Bytes) -> Bytes) -> Bytes {
        let frames = self.sent.take().unwrap_or_else(|| {
            let mut buffer = BytesMut::with_capacity(self.bytes);
            self.frames.iter().for_each(|frame| buffer.put_slice(frame));
            made(buffer.freeze())
        });
        self.sent.insert(frames).clone()
    }
}

fn put_message(buffer: &mut BytesMut, kind: &str, user: &str, text: Option<&str>, unix_ms: u64) {
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"type":""#);
        buffer.put_slice(kind.as_bytes());
        buffer.put_slice(br#"","payload":{"user":"#);
        put_string(buffer, user);
        if let Some(text) = text {
            buffer.put_slice(br#","text":"#);
            buffer.put_slice(text.as_bytes());
        }
        put_ts(buffer, unix_ms);
        buffer.put_slice(b"}}");
    });
}

fn put_ts(buffer: &mut BytesMut, unix_ms: u64) {
    buffer.put_slice(br#","ts":"#);
    put_number(buffer, unix_ms / 1000);
    let milliseconds = unix_ms % 1000;
    let digits = [milliseconds / 100, milliseconds / 10 % 10, milliseconds % 10].map(|digit| b'0' + digit as u8);
    buffer.put_u8(b'.');
    buffer.put_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Reason;
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
        check(r#"{"type":"msg","payload":{"text":"Hi","user":"eve"}}"#, Ok(Request::Say(r#"{"text":"Hi"}"#.into())));
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
        check(&text(MAX_TEXT_BYTES), Ok(Request::Say(json!({"text": "x".repeat(MAX_TEXT_BYTES)}).to_string())));
        check(&text(MAX_TEXT_BYTES + 1), Err(TEXT_TOO_LONG));
        assert!(TEXT_TOO_LONG.contains(&MAX_TEXT_BYTES.to_string()), "the message names the limit");
    }

    fn said(user: &str, text: &str) -> RoomMessage {
        RoomMessage { user: user.into(), data: json!({ "text": text }).to_string().into(), from_here: true }
    }

    fn encode(diff: &Diff, said: &[RoomMessage], unix_ms: u64) -> Messages {
        Messages::encode(&mut Reader::default(), diff, said, unix_ms)
    }

    #[test]
    fn data_with_a_text_is_a_message_and_other_data_is_none() {
        let check = |data: Value, want: Option<&str>| {
            let said = RoomMessage { user: "ann".into(), data: data.to_string().into(), from_here: true };
            let messages = encode(&Diff::default(), &[said], 0);
            let got: Vec<Value> = messages.last(usize::MAX).map(read).collect();
            let texts: Vec<_> = got.iter().map(|message| message["payload"]["text"].as_str().unwrap()).collect();
            assert_eq!(texts, want.into_iter().collect::<Vec<_>>(), "{data}");
        };
        check(json!({"text": "Hi"}), Some("Hi"));
        check(json!({"colour": "red", "text": "a \"b\"\n"}), Some("a \"b\"\n"));
        for other in [json!("Hi"), json!(null), json!(7), json!(["text"]), json!({}), json!({"x": {"text": "Hi"}})] {
            check(other, None);
        }
        for blank in [json!({"text": 7}), json!({"text": null}), json!({"text": " "}), json!({"text": ["Hi"]})] {
            check(blank, None);
        }
    }

    fn read(frame: &[u8]) -> Value {
        let head = if frame[1] == 126 { 4 } else { 2 };
        serde_json::from_slice(&frame[head..]).unwrap()
    }

    #[test]
    fn a_tick_reads_joins_then_messages_then_leaves() {
        let diff =
            Diff { joined: vec![("ann".into(), None)], updated: vec![], left: vec![("bob".into(), Reason::Closed)] };
        let messages = encode(&diff, &[said("bob", "so \"long\""), said("ann", "hi")], 1_700_000_000_007);
        let got: Vec<Value> = messages.last(usize::MAX).map(read).collect();
        let ts = 1_700_000_000.007;
        assert_eq!(
            got,
            [
                json!({"type": "join", "payload": {"user": "ann", "ts": ts}}),
                json!({"type": "msg", "payload": {"user": "bob", "text": "so \"long\"", "ts": ts}}),
                json!({"type": "msg", "payload": {"user": "ann", "text": "hi", "ts": ts}}),
                json!({"type": "leave", "payload": {"user": "bob", "ts": ts}}),
            ]
        );
        let mut pong = BytesMut::new();
        put_pong(&mut pong, 1_700_000_000_120);
        assert_eq!(&pong[2..], br#"{"type":"pong","ts":1700000000.120}"#);
    }

    #[test]
    fn history_is_bounded_in_bytes_too() {
        let mut history = History::new(100_000);
        let long: Vec<RoomMessage> = (0..100).map(|_| said("ann", &"x".repeat(MAX_TEXT_BYTES))).collect();
        for _ in 0..5 {
            history.add(&encode(&Diff::default(), &long, 0));
        }
        let bytes = history.frames(|frames| frames).len();
        assert!(bytes <= MAX_HISTORY_BYTES && bytes > MAX_HISTORY_BYTES - 2 * MAX_TEXT_BYTES, "{bytes}");
    }

    proptest! {
        #[test]
        fn history_keeps_the_last_in_order(most in 0usize..20, ticks in prop::collection::vec(0usize..30, 0..8)) {
            let (mut history, mut all) = (History::new(most), Vec::new());
            for count in ticks {
                let said: Vec<RoomMessage> = (0..count).map(|n| said("ann", &format!("{}", all.len() + n))).collect();
                let messages = encode(&Diff::default(), &said, 0);
                all.extend(messages.last(usize::MAX).map(<[u8]>::to_vec));
                history.add(&messages);
            }
            let last = &all[all.len().saturating_sub(most)..];
            prop_assert_eq!(&history.frames(|frames| frames)[..], &last.concat()[..]);
        }

        #[test]
        fn any_text_comes_through_as_it_was(text in "\\PC{0,200}|(?s).{0,50}") {
            let sent = json!({"type": "msg", "payload": {"text": text}}).to_string();
            decode(&mut Reader::default(), sent.as_bytes(), |got| match got.unwrap() {
                Request::Say(data) => assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), json!({ "text": text })),
                other => assert!(other == Request::Blank && text.trim().is_empty()),
            });
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&mut Reader::default(), &bytes, |got| got.is_ok());
        }
    }
}
