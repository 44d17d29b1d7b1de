//! The messages of a tick as frames, and the latest of them for new clients.
//!
//! Messages have a history of their own, so that joins and leaves cannot displace them. It is the same on all nodes.
//! Joins and leaves are those that this node has announced; each has its place after the latest message that this node
//! knew at the time.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use simd_json::prelude::ValueAsScalar;

use crate::json::{self, Reader, put_number, put_string};
use crate::presence::{Diff, Form, MessageStamp, RoomMessage};
use crate::store::History as MessageHistory;
use crate::websocket::frame::append_text_frame;

/// The limit of bytes of joins and leaves in the history, whatever `--history` allows.
const MAX_EVENT_BYTES: usize = 256 * 1024;

/// The messages of one tick, one frame per message.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// All frames.
    pub(super) frames: Bytes,
    /// The end of each frame in `frames`, and the stamp if it is not a join or a leave.
    ends: Vec<(usize, Option<MessageStamp>)>,
}

impl Messages {
    /// Encodes the joins, messages and leaves of a tick.
    #[must_use]
    pub(super) fn encode(reader: &mut Reader, diff: &Diff, messages: &[RoomMessage], unix_ms: u64) -> Self {
        let (mut buffer, mut ends) = (BytesMut::new(), Vec::new());
        let mut put = |kind: &str, user: &str, text: Option<&str>, stamp: Option<MessageStamp>| {
            put_message(&mut buffer, kind, user, text, stamp.map_or(unix_ms, |stamp| stamp.unix_ms));
            ends.push((buffer.len(), stamp));
        };
        diff.joined.iter().for_each(|(user, _)| put("join", user, None, None));
        for message in messages {
            // Messages of the application have no user, and chat clients cannot show messages without one.
            if message.form == Form::Plain
                && let Some((user, text)) = message.user.as_ref().zip(text_in(reader, &message.data))
            {
                put("msg", user, Some(&text), Some(message.stamp));
            }
        }
        diff.left.iter().for_each(|(user, _)| put("leave", user, None, None));
        Self { frames: buffer.freeze(), ends }
    }

    /// All frames, each with its stamp if it is not a join or a leave.
    fn iter(&self) -> impl Iterator<Item = (&[u8], Option<MessageStamp>)> {
        let starts = [0].into_iter().chain(self.ends.iter().map(|(end, _)| *end));
        starts.zip(&self.ends).map(|(start, (end, stamp))| (&self.frames[start..*end], *stamp))
    }

    pub(super) fn contains(&self, stamp: &MessageStamp) -> bool {
        self.ends.iter().any(|(_, of_frame)| of_frame.as_ref() == Some(stamp))
    }
}

/// The latest messages, for new clients. Owned by the tick.
#[derive(Debug)]
pub(super) struct History {
    messages: MessageHistory<Box<[u8]>>,
    /// Joins and leaves, each with the latest message before it. Oldest first.
    events: VecDeque<(MessageStamp, Box<[u8]>)>,
    max_events: usize,
    event_bytes: usize,
    /// The latest message that was ever added.
    latest: MessageStamp,
    /// All frames joined. Shared by new clients until the next message.
    joined: Option<Bytes>,
}

impl History {
    /// An empty history with this limit of messages, and the same limit of joins and leaves.
    #[must_use]
    pub(super) fn new(max: usize) -> Self {
        Self {
            messages: MessageHistory::new(max),
            events: VecDeque::new(),
            max_events: max,
            event_bytes: 0,
            latest: MessageStamp::default(),
            joined: None,
        }
    }

    /// Adds the messages of a tick.
    pub(super) fn add(&mut self, messages: &Messages) {
        for (frame, stamp) in messages.iter() {
            match stamp {
                Some(stamp) => self.add_message(stamp, frame.into()),
                None => {
                    self.event_bytes += frame.len();
                    self.events.push_back((self.latest, frame.into()));
                    self.joined = None;
                }
            }
        }
        self.drop_old_events();
    }

    /// Removes messages of later times than this, and adds no more of them.
    pub(super) fn set_latest(&mut self, unix_ms: u64) {
        if self.messages.set_latest(unix_ms) {
            self.latest = self.messages.iter().next_back().map(|(stamp, _)| *stamp).unwrap_or_default();
            self.joined = None;
        }
    }

    /// Adds one message.
    fn add_message(&mut self, stamp: MessageStamp, frame: Box<[u8]>) {
        if !self.messages.accepts(stamp) {
            return;
        }
        self.latest = self.latest.max(stamp);
        if self.messages.insert(stamp, frame.len(), frame) {
            self.joined = None;
        }
    }

    /// Adds a message from before the start of this node, or of another node.
    pub(super) fn restore(&mut self, stamp: MessageStamp, user: &str, text: &str) {
        let mut frame = BytesMut::new();
        put_message(&mut frame, "msg", user, Some(text), stamp.unix_ms);
        self.add_message(stamp, frame[..].into());
        self.drop_old_events();
    }

    /// Takes out what the messages of a tick contain.
    pub(super) fn remove(&mut self, messages: &Messages) {
        for (_, stamp) in messages.iter() {
            if stamp.is_some_and(|stamp| self.messages.remove(&stamp)) {
                self.joined = None;
            }
        }
    }

    /// Drops joins and leaves that come before the oldest message, and those above the limits.
    fn drop_old_events(&mut self) {
        let dropped = self.messages.dropped();
        while let Some((place, _)) = self.events.front()
            && (dropped.is_some_and(|dropped| *place <= dropped)
                || self.events.len() > self.max_events
                || self.event_bytes > MAX_EVENT_BYTES)
        {
            self.event_bytes -= self.events.pop_front().map_or(0, |(_, frame)| frame.len());
        }
    }

    /// All frames joined, oldest first. When they are joined again, `wrap` is called with the new bytes.
    pub(super) fn frames(&mut self, wrap: impl FnOnce(Bytes) -> Bytes) -> Bytes {
        let frames = self.joined.take().unwrap_or_else(|| {
            let mut buffer = BytesMut::with_capacity(self.messages.bytes() + self.event_bytes);
            let mut events = self.events.iter().peekable();
            for (stamp, frame) in self.messages.iter() {
                while let Some((_, event)) = events.next_if(|(place, _)| place < stamp) {
                    buffer.put_slice(event);
                }
                buffer.put_slice(frame);
            }
            events.for_each(|(_, event)| buffer.put_slice(event));
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
pub(super) fn text_in(reader: &mut Reader, data: &str) -> Option<String> {
    reader.read(data.as_bytes(), |data| {
        let text = json::field(&data?, "text")?;
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
    use crate::store::history::MAX_HISTORY_BYTES;

    fn stamp(number: u64) -> MessageStamp {
        MessageStamp { unix_ms: 1_700_000_000_007, incarnation: 1, number }
    }

    fn message(user: &str, data: &Value) -> RoomMessage {
        let mut message = RoomMessage::local(Some(user.into()), data.to_string().into());
        message.stamp = stamp(0);
        message
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
            let got: Vec<Value> = messages.iter().map(|(frame, _)| read(frame)).collect();
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
            Diff { joined: vec![("ann".into(), None)], left: vec![("bob".into(), Reason::Closed)], ..Diff::default() };
        let sent = [text_message("bob", "so \"long\""), text_message("ann", "hi")];
        let messages = encode(&diff, &sent, 1_700_000_000_007);
        let got: Vec<Value> = messages.iter().map(|(frame, _)| read(frame)).collect();
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

    /// The history as `+user`, `-user` or a text.
    fn shown(history: &mut History) -> Vec<String> {
        let (frames, mut lines, mut at) = (history.frames(|frames| frames), Vec::new(), 0);
        while at < frames.len() {
            let (header, length) = match frames[at + 1] {
                126 => (4, usize::from(u16::from_be_bytes([frames[at + 2], frames[at + 3]]))),
                length => (2, usize::from(length)),
            };
            let message = read(&frames[at..at + header + length]);
            let payload = &message["payload"];
            lines.push(match message["type"].as_str().unwrap() {
                "join" => format!("+{}", payload["user"].as_str().unwrap()),
                "leave" => format!("-{}", payload["user"].as_str().unwrap()),
                _ => payload["text"].as_str().unwrap().to_owned(),
            });
            at += header + length;
        }
        lines
    }

    /// A tick in which users join, send numbered messages, and leave.
    fn tick(joined: &[&str], numbers: &[u64], left: &[&str]) -> Messages {
        let joined = joined.iter().map(|user| ((*user).into(), None)).collect();
        let left = left.iter().map(|user| ((*user).into(), Reason::Closed)).collect();
        let sent: Vec<_> = numbers
            .iter()
            .map(|number| RoomMessage { stamp: stamp(*number), ..text_message("ann", &number.to_string()) })
            .collect();
        encode(&Diff { joined, left, ..Diff::default() }, &sent, 0)
    }

    #[test]
    fn users_who_come_and_go_do_not_push_messages_out() {
        let mut history = History::new(5);
        history.add(&tick(&["ann"], &[1, 2], &[]));
        for guest in 0..100 {
            let name = format!("guest{guest}");
            history.add(&tick(&[&name], &[], &[]));
            history.add(&tick(&[], &[], &[&name]));
        }
        history.add(&tick(&[], &[3], &[]));
        let events = ["-guest97", "+guest98", "-guest98", "+guest99", "-guest99"];
        assert_eq!(shown(&mut history), [&["1", "2"][..], &events, &["3"]].concat());
        history.add(&tick(&[], &[4, 5, 6, 7], &["ann"]));
        let remaining = ["3", "4", "5", "6", "7", "-ann"];
        assert_eq!(shown(&mut history), remaining, "events before the oldest message go with it");
        history.add(&tick(&[], &[8, 9], &[]));
        assert_eq!(shown(&mut history), ["5", "6", "7", "-ann", "8", "9"]);
    }

    #[test]
    fn messages_of_other_nodes_are_sorted_in_and_shown_once() {
        let mut history = History::new(5);
        history.add(&tick(&["ann"], &[2, 6], &["bob"]));
        for number in [4, 2, 9, 6] {
            history.restore(stamp(number), "cid", &format!("\"{number}\""));
        }
        assert_eq!(shown(&mut history), ["+ann", "2", "4", "6", "-bob", "9"]);
        // A message that arrives with a tick after it was restored.
        let latest = tick(&["dan"], &[4], &[]);
        history.remove(&latest);
        assert_eq!(shown(&mut history), ["+ann", "2", "6", "-bob", "9"]);
        history.add(&latest);
        assert_eq!(shown(&mut history), ["+ann", "2", "4", "6", "-bob", "9", "+dan"]);
    }

    #[test]
    fn the_history_is_bounded_in_bytes_too() {
        let mut history = History::new(100_000);
        for round in 0..5 {
            let long =
                |number| RoomMessage { stamp: stamp(number), ..text_message("ann", &"x".repeat(MAX_TEXT_BYTES)) };
            let long: Vec<RoomMessage> = (0..100).map(|number| long(round * 100 + number)).collect();
            history.add(&encode(&Diff::default(), &long, 0));
        }
        let bytes = history.frames(|frames| frames).len();
        assert!(bytes <= MAX_HISTORY_BYTES && bytes > MAX_HISTORY_BYTES - 2 * MAX_TEXT_BYTES, "{bytes}");
        let mut history = History::new(100_000);
        for guest in 0..10_000 {
            history.add(&tick(&[&format!("guest{guest}")], &[], &[]));
        }
        let bytes = history.frames(|frames| frames).len();
        assert!(bytes <= MAX_EVENT_BYTES && bytes > MAX_EVENT_BYTES - 200, "{bytes}");
    }

    proptest! {
        #[test]
        fn the_history_has_the_latest_messages_in_order(
            max in 0usize..20,
            ticks in prop::collection::vec(0u64..30, 0..8),
        ) {
            let (mut history, mut all) = (History::new(max), Vec::new());
            for count in ticks {
                let numbers: Vec<u64> = (all.len() as u64..).take(count as usize).collect();
                history.add(&tick(&[], &numbers, &[]));
                all.extend(numbers.iter().map(u64::to_string));
            }
            prop_assert_eq!(&shown(&mut history)[..], &all[all.len().saturating_sub(max)..]);
        }
    }
}
