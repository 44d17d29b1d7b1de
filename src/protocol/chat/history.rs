//! The messages of a tick as frames, and the latest of them for new clients.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use simd_json::prelude::ValueAsScalar;

use crate::json::{self, Reader, Value, put_number, put_string};
use crate::presence::{Diff, RoomMessage};
use crate::websocket::frame::append_text_frame;

/// The limit of bytes in the history, whatever `--history` allows, because each new client receives all of it.
const MAX_HISTORY_BYTES: usize = 1024 * 1024;

/// The messages of one tick, one frame per message.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// All frames.
    pub(super) frames: Bytes,
    /// The end of each frame in `frames`.
    ends: Vec<usize>,
}

impl Messages {
    /// Encodes the joins, messages and leaves of a tick.
    #[must_use]
    pub(super) fn encode(reader: &mut Reader, diff: &Diff, messages: &[RoomMessage], unix_ms: u64) -> Self {
        let (mut buffer, mut ends) = (BytesMut::new(), Vec::new());
        let mut put = |kind: &str, user: &str, text: Option<&str>| {
            put_message(&mut buffer, kind, user, text, unix_ms);
            ends.push(buffer.len());
        };
        diff.joined.iter().for_each(|(user, _)| put("join", user, None));
        for message in messages {
            // Messages of the application have no user, and chat clients cannot show messages without one.
            if let Some((user, text)) = message.user.as_ref().zip(text_in(reader, &message.data)) {
                put("msg", user, Some(&text));
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

/// The latest messages, for new clients. Owned by the tick.
#[derive(Debug, Default)]
pub(super) struct History {
    max_messages: usize,
    frames: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// All frames joined. Shared by new clients until the next message.
    joined: Option<Bytes>,
}

impl History {
    /// An empty history with this limit of messages.
    #[must_use]
    pub(super) fn new(max_messages: usize) -> Self {
        Self { max_messages, ..Self::default() }
    }

    /// Adds the messages of a tick.
    pub(super) fn add(&mut self, messages: &Messages) {
        for frame in messages.last(self.max_messages) {
            self.bytes += frame.len();
            self.frames.push_back(frame.into());
        }
        while self.frames.len() > self.max_messages || self.bytes > MAX_HISTORY_BYTES {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.len();
        }
        if !messages.ends.is_empty() {
            self.joined = None;
        }
    }

    /// All frames joined, oldest first. When they are joined again, `wrap` is called with the new bytes.
    pub(super) fn frames(&mut self, wrap: impl FnOnce(Bytes) -> Bytes) -> Bytes {
        let frames = self.joined.take().unwrap_or_else(|| {
            let mut buffer = BytesMut::with_capacity(self.bytes);
            self.frames.iter().for_each(|frame| buffer.put_slice(frame));
            wrap(buffer.freeze())
        });
        self.joined.insert(frames).clone()
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

pub(super) fn put_ts(buffer: &mut BytesMut, unix_ms: u64) {
    buffer.put_slice(br#","ts":"#);
    put_number(buffer, unix_ms / 1000);
    let milliseconds = unix_ms % 1000;
    let digits = [milliseconds / 100, milliseconds / 10 % 10, milliseconds % 10].map(|digit| b'0' + digit as u8);
    buffer.put_u8(b'.');
    buffer.put_slice(&digits);
}

/// The text in the data of a message, as a JSON string; `None` if there is none or it is blank.
fn text_in(reader: &mut Reader, data: &str) -> Option<String> {
    reader.read(data.as_bytes(), |data| {
        let text = data.filter(Value::is_object)?.get("text")?;
        text.as_str().filter(|text| !text.trim().is_empty()).map(|_| json::compact(&text))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::MAX_TEXT_BYTES;
    use super::*;
    use crate::presence::Reason;

    fn message(user: &str, data: &Value) -> RoomMessage {
        RoomMessage { user: Some(user.into()), data: data.to_string().into(), is_local: true }
    }

    fn text_message(user: &str, text: &str) -> RoomMessage {
        message(user, &json!({ "text": text }))
    }

    fn encode(diff: &Diff, messages: &[RoomMessage], unix_ms: u64) -> Messages {
        Messages::encode(&mut Reader::default(), diff, messages, unix_ms)
    }

    fn read(frame: &[u8]) -> Value {
        let header = if frame[1] == 126 { 4 } else { 2 };
        serde_json::from_slice(&frame[header..]).unwrap()
    }

    #[test]
    fn only_data_with_a_text_that_is_not_blank_becomes_a_chat_message() {
        let check = |data: Value, expected: Option<&str>| {
            let messages = encode(&Diff::default(), &[message("ann", &data)], 0);
            let got: Vec<Value> = messages.last(usize::MAX).map(read).collect();
            let texts: Vec<_> = got.iter().map(|message| message["payload"]["text"].as_str().unwrap()).collect();
            assert_eq!(texts, expected.into_iter().collect::<Vec<_>>(), "{data}");
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

    #[test]
    fn within_a_tick_joins_come_first_then_messages_then_leaves() {
        let diff =
            Diff { joined: vec![("ann".into(), None)], updated: vec![], left: vec![("bob".into(), Reason::Closed)] };
        let sent = [text_message("bob", "so \"long\""), text_message("ann", "hi")];
        let messages = encode(&diff, &sent, 1_700_000_000_007);
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
    }

    #[test]
    fn the_history_is_bounded_in_bytes_too() {
        let mut history = History::new(100_000);
        let long: Vec<RoomMessage> = (0..100).map(|_| text_message("ann", &"x".repeat(MAX_TEXT_BYTES))).collect();
        for _ in 0..5 {
            history.add(&encode(&Diff::default(), &long, 0));
        }
        let bytes = history.frames(|frames| frames).len();
        assert!(bytes <= MAX_HISTORY_BYTES && bytes > MAX_HISTORY_BYTES - 2 * MAX_TEXT_BYTES, "{bytes}");
    }

    proptest! {
        #[test]
        fn the_history_has_the_latest_messages_in_order(
            max_messages in 0usize..20,
            ticks in prop::collection::vec(0usize..30, 0..8),
        ) {
            let (mut history, mut all) = (History::new(max_messages), Vec::new());
            for count in ticks {
                let sent: Vec<RoomMessage> =
                    (0..count).map(|n| text_message("ann", &format!("{}", all.len() + n))).collect();
                let messages = encode(&Diff::default(), &sent, 0);
                all.extend(messages.last(usize::MAX).map(<[u8]>::to_vec));
                history.add(&messages);
            }
            let last = &all[all.len().saturating_sub(max_messages)..];
            prop_assert_eq!(&history.frames(|frames| frames)[..], &last.concat()[..]);
        }
    }
}
