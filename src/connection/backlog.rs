//! Events for a client that is far behind: joins and leaves that cancel out are dropped, so that the backlog follows
//! the number of users and not the number of events.
//!
//! Messages keep their order, and are sent after the join of their sender and before the leave. Joins and leaves of
//! other users may be sent after messages that were published later.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use foldhash::quality::RandomState;

use crate::protocol::{Event, EventFormat, EventKind};
use crate::websocket::frame::split_frames;

/// The limit of bytes of messages, which do not cancel out: as many as may wait before there is a backlog.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Memory of a join or leave without its user id: an entry of each map, and the overhead of the allocation.
const CHANGE_BYTES: usize = 140;
/// The longest time of an event, in ISO 8601.
const MAX_TIME_BYTES: usize = 24;

/// The events that wait for one client.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Joins and leaves, at most one per user, in the order in which they arrived and are sent.
    changes: BTreeMap<u64, Change>,
    /// The place in `changes` of each user, by the JSON of the user id.
    places: HashMap<Arc<[u8]>, u64, RandomState>,
    next_place: u64,
    messages: VecDeque<Message>,
    message_bytes: usize,
    /// Bytes of memory, by estimate.
    bytes: usize,
}

/// A join or leave.
#[derive(Debug)]
struct Change {
    user: Arc<[u8]>,
    kind: EventKind,
    time: [u8; MAX_TIME_BYTES],
    time_bytes: u8,
    /// Whether messages of the user wait that were sent after this join.
    has_messages: bool,
}

#[derive(Debug)]
struct Message {
    /// The JSON of the user id; empty if the frame is no event.
    user: Box<[u8]>,
    frame: Box<[u8]>,
}

/// Messages that wait exceed their limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyMessages;

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.messages.is_empty()
    }

    /// The memory that it takes, by estimate.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the events of a tick. Returns how many were dropped because they cancel out.
    pub(super) fn add(&mut self, frames: &[u8], format: EventFormat) -> Result<u64, TooManyMessages> {
        let (mut dropped, mut silenced) = (0, Vec::new());
        for (frame, payload) in split_frames(frames) {
            let event = (format.read)(payload).filter(|event| event.time.len() <= MAX_TIME_BYTES);
            match event {
                Some(event @ Event { kind: EventKind::Joined | EventKind::Left, user, .. }) => {
                    let before = self.change(user).map(|change| (change.kind, change.has_messages));
                    match before {
                        None => self.insert(event),
                        Some((kind, _)) if kind == event.kind => {}
                        Some((_, has_messages)) => {
                            dropped += 2;
                            self.remove(user);
                            // Messages of a user whose join was never sent are dropped, as within a tick.
                            if has_messages {
                                silenced.push(user);
                            }
                        }
                    }
                }
                Some(Event { user, .. }) => self.push(user, frame),
                None => self.push(b"", frame),
            }
        }
        if !silenced.is_empty() {
            silenced.sort_unstable();
            let is_kept = |message: &Message| silenced.binary_search(&&*message.user).is_err();
            dropped += self.retain_messages(is_kept);
        }
        if self.message_bytes > MAX_MESSAGE_BYTES { Err(TooManyMessages) } else { Ok(dropped) }
    }

    /// Takes some frames to send: at least one if there are any.
    pub(super) fn take(&mut self, buffer: &mut BytesMut, bytes: usize, format: EventFormat) {
        while buffer.len() < bytes {
            if let Some(message) = self.messages.pop_front() {
                if self.change(&message.user).is_some_and(|change| change.kind == EventKind::Joined)
                    && let Some(joined) = self.remove(&message.user)
                {
                    joined.put(buffer, format);
                }
                buffer.extend_from_slice(&message.frame);
                self.forget(&message);
                continue;
            }
            let Some((_, first)) = self.changes.pop_first() else { return };
            self.forget_change(&first);
            first.put(buffer, format);
        }
    }

    fn change(&mut self, user: &[u8]) -> Option<&mut Change> {
        self.changes.get_mut(self.places.get(user)?)
    }

    fn insert(&mut self, event: Event<'_>) {
        let mut time = [0; MAX_TIME_BYTES];
        time[..event.time.len()].copy_from_slice(event.time);
        let (kind, time_bytes, user) = (event.kind, event.time.len() as u8, Arc::<[u8]>::from(event.user));
        self.bytes += user.len() + CHANGE_BYTES;
        self.places.insert(Arc::clone(&user), self.next_place);
        self.changes.insert(self.next_place, Change { user, kind, time, time_bytes, has_messages: false });
        self.next_place += 1;
    }

    fn remove(&mut self, user: &[u8]) -> Option<Change> {
        let change = self.changes.remove(self.places.get(user)?)?;
        self.forget_change(&change);
        Some(change)
    }

    /// Removes the place of a change that was taken, and subtracts its memory.
    fn forget_change(&mut self, change: &Change) {
        self.places.remove(&change.user);
        self.bytes -= change.user.len() + CHANGE_BYTES;
    }

    fn push(&mut self, user: &[u8], frame: &[u8]) {
        if let Some(change) = self.change(user) {
            change.has_messages = change.kind == EventKind::Joined;
        }
        let message = Message { user: user.into(), frame: frame.into() };
        self.message_bytes += message.bytes();
        self.bytes += message.bytes();
        self.messages.push_back(message);
    }

    fn retain_messages(&mut self, is_kept: impl Fn(&Message) -> bool) -> u64 {
        let (before, bytes_before) = (self.messages.len(), self.message_bytes);
        self.messages.retain(is_kept);
        self.message_bytes = self.messages.iter().map(Message::bytes).sum();
        self.bytes -= bytes_before - self.message_bytes;
        (before - self.messages.len()) as u64
    }

    /// Subtracts the memory of a message that was taken.
    fn forget(&mut self, message: &Message) {
        self.message_bytes -= message.bytes();
        self.bytes -= message.bytes();
    }
}

impl Change {
    fn put(&self, buffer: &mut BytesMut, format: EventFormat) {
        let time = &self.time[..usize::from(self.time_bytes)];
        (format.put)(buffer, Event { kind: self.kind, user: &self.user, time });
    }
}

impl Message {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.user.len() + self.frame.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::config::MAX_BACKLOG_BYTES;
    use crate::websocket::frame::append_text_frame;

    /// `+ann`, `-ann`, and `ann: hello`.
    const FORMAT: EventFormat = EventFormat {
        read: |payload| {
            let (kind, user) = match payload.split_first()? {
                (b'+', user) => (EventKind::Joined, user),
                (b'-', user) => (EventKind::Left, user),
                _ => (EventKind::Message, payload.split(|byte| *byte == b':').next()?),
            };
            Some(Event { kind, user, time: b"" })
        },
        put: |buffer, event| {
            append_text_frame(buffer, |buffer| {
                buffer.extend_from_slice(if event.kind == EventKind::Joined { b"+" } else { b"-" });
                buffer.extend_from_slice(event.user);
            });
        },
    };

    fn frames<'a>(events: impl IntoIterator<Item = &'a str>) -> BytesMut {
        let mut frames = BytesMut::new();
        for event in events {
            append_text_frame(&mut frames, |buffer| buffer.extend_from_slice(event.as_bytes()));
        }
        frames
    }

    fn lines(frames: &[u8]) -> Vec<String> {
        split_frames(frames).map(|(_, payload)| String::from_utf8_lossy(payload).into_owned()).collect()
    }

    /// Takes everything.
    fn drain(backlog: &mut Backlog) -> Vec<String> {
        let mut buffer = BytesMut::new();
        backlog.take(&mut buffer, usize::MAX, FORMAT);
        assert!(backlog.is_empty() && backlog.bytes() == 0 && backlog.message_bytes == 0);
        lines(&buffer)
    }

    /// What is sent after these events.
    fn check(events: &str, sent: &str) {
        let mut backlog = Backlog::default();
        backlog.add(&frames(events.split(", ")), FORMAT).unwrap();
        assert_eq!(drain(&mut backlog).join(", "), sent, "{events}");
    }

    #[test]
    fn events_that_cancel_out_are_not_sent() {
        check("+ann, +bob, -ann", "+bob");
        check("-ann, +ann", "");
        check("-ann, +ann, -ann", "-ann");
        check("+ann, -ann, +ann", "+ann");
    }

    #[test]
    fn messages_come_after_the_join_of_their_sender_and_before_the_leave() {
        check("+ann, +bob, bob: hi, cid: oh, -cid", "+bob, bob: hi, cid: oh, +ann, -cid");
        check("ann: 1, -ann, +ann, ann: 2, -ann", "ann: 1, ann: 2, -ann");
        check("+ann, ann: 1, bob: 2, -ann", "bob: 2");
    }

    #[test]
    fn events_are_sent_in_the_order_in_which_they_came() {
        check("+zoe, -bob, +ann, -zoe, +cid", "-bob, +ann, +cid");
        check("+zoe, -bob, -zoe, +zoe", "-bob, +zoe");
    }

    #[test]
    fn a_flood_of_made_up_users_fits_however_long_it_lasts() {
        // 4,000 users per second, each online for 10 s; the client is sent 700 events per second (64 KB).
        let (per_tick, online_for, sent_per_tick) = (400, 100, 70);
        let event = |sign: char, tick: usize, number: usize| format!("{sign}made-up-{tick}-{number}");
        let (mut backlog, mut most) = (Backlog::default(), 0);
        for tick in 0..3 * online_for {
            let joins = (0..per_tick).map(|number| event('+', tick, number));
            let left = tick.checked_sub(online_for).into_iter();
            let leaves = left.flat_map(|tick| (0..per_tick).map(move |number| event('-', tick, number)));
            let events: Vec<String> = joins.chain(leaves).collect();
            backlog.add(&frames(events.iter().map(String::as_str)), FORMAT).unwrap();
            let mut sent = BytesMut::new();
            backlog.take(&mut sent, sent_per_tick * (2 + event('+', 100, 100).len()), FORMAT);
            most = most.max(backlog.bytes());
        }
        assert!(most < MAX_BACKLOG_BYTES, "{most}");
    }

    #[test]
    fn messages_are_bounded() {
        let mut backlog = Backlog::default();
        let long = format!("ann: {}", "x".repeat(100_000));
        let added: Vec<_> = (0..11).map(|_| backlog.add(&frames([&*long]), FORMAT)).collect();
        assert_eq!((added[9], added[10]), (Ok(0), Err(TooManyMessages)));
    }

    proptest! {
        #[test]
        fn the_client_ends_up_with_the_users_who_are_online(
            steps in prop::collection::vec((0u8..6, 0u8..4), 0..200),
        ) {
            let (mut backlog, mut online, mut told) = (Backlog::default(), BTreeSet::new(), BTreeSet::new());
            let mut tell = |lines: Vec<String>| {
                for line in lines {
                    match line.split_at(1) {
                        ("+", user) => assert!(told.insert(user.to_owned()), "{line}"),
                        ("-", user) => assert!(told.remove(user), "{line}"),
                        _ => assert!(told.contains(line.split(':').next().unwrap()), "{line}"),
                    }
                }
                told.clone()
            };
            for (user, step) in steps {
                let user = format!("u{user}");
                let event = match step {
                    0 | 1 if online.insert(user.clone()) => format!("+{user}"),
                    0 | 1 => format!("{user}: hello"),
                    2 if online.remove(&user) => format!("-{user}"),
                    2 => continue,
                    _ => {
                        let mut buffer = BytesMut::new();
                        backlog.take(&mut buffer, 1, FORMAT);
                        tell(lines(&buffer));
                        continue;
                    }
                };
                backlog.add(&frames([&*event]), FORMAT).unwrap();
            }
            prop_assert_eq!(tell(drain(&mut backlog)), online);
        }
    }
}
