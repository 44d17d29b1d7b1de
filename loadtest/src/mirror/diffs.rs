//! Mirrors for the native protocol: a snapshot, then diffs. An observer has a mirror of its own until it is at the same
//! `seq` as its room's shared log and has the same members; then it follows the log.
//!
//! Clients never request a resync, because that would hide a gap. A snapshot that the server sends unrequested brings a
//! slow reader up to date; this is allowed and counted.

use std::collections::HashMap;

use wire::room::{self, Diff, Members, RoomMirror, Snapshot};

use super::delivery::Delivery;
use super::join_times::JoinTimes;
use super::messages::read;
use super::room_state::RoomState;
use super::shared_log::SharedLog;
use crate::connection::Message;
use crate::error_log::ErrorLog;
use crate::protocol::{ClientProtocol, message_kind};

#[derive(Debug)]
pub(crate) struct Diffs {
    protocol: ClientProtocol,
    /// By observer.
    mirrors: Vec<Mirror>,
    logs: Vec<SharedLog>,
    /// (room, epoch) → index in `logs`.
    log_of: HashMap<(Box<str>, Box<str>), usize>,
    pub(crate) errors: ErrorLog,
    pub(crate) unrequested_snapshots: u64,
}

#[derive(Debug)]
enum Mirror {
    /// Nothing was received yet.
    Empty,
    Own(Box<RoomMirror>),
    Following {
        log: usize,
        seq: u64,
    },
    /// Received a message that a correct server cannot send. Later messages are ignored.
    Broken,
}

impl Diffs {
    pub(crate) fn new(protocol: ClientProtocol, observers: usize) -> Self {
        Self {
            protocol,
            mirrors: (0..observers).map(|_| Mirror::Empty).collect(),
            logs: Vec::new(),
            log_of: HashMap::new(),
            errors: ErrorLog::default(),
            unrequested_snapshots: 0,
        }
    }

    /// Handles a message that an observer received. `None`: it is not about presence.
    #[inline]
    pub(crate) fn apply(
        &mut self,
        observer: usize,
        message: &Message<'_>,
        join_times: &mut JoinTimes,
        now_ns: u64,
    ) -> Option<Delivery> {
        if let Mirror::Following { log, seq } = &mut self.mirrors[observer] {
            let log = &mut self.logs[*log];
            if let Some(entry) = log.entry_if(*seq + 1, message.payload) {
                join_times.record(&entry.joined_ns, now_ns);
                let delivery = Delivery { changes: entry.changes };
                *seq += 1;
                log.received(*seq);
                return Some(delivery);
            }
        }
        let outcome = match message_kind(message.payload) {
            Some("diff") => read(message.payload, message.is_whole)
                .and_then(|diff| self.apply_diff(observer, &diff, message.payload, join_times, now_ns)),
            Some("snapshot") => read(message.payload, message.is_whole)
                .and_then(|snapshot| self.apply_snapshot(observer, &snapshot))
                .map(|()| Delivery { changes: 0 }),
            _ => return None,
        };
        match outcome {
            Ok(delivery) => Some(delivery),
            Err(error) => {
                self.errors.add(format!("{}: {error}", self.protocol.user(observer)));
                self.leave_log(observer);
                self.mirrors[observer] = Mirror::Broken;
                Some(Delivery { changes: 0 })
            }
        }
    }

    /// The observer's connection is lost.
    pub(crate) fn closed(&mut self, observer: usize) {
        self.leave_log(observer);
        self.mirrors[observer] = Mirror::Broken;
    }

    fn leave_log(&mut self, observer: usize) {
        if let Mirror::Following { log, seq } = self.mirrors[observer] {
            self.logs[log].unfollow(seq);
        }
    }

    fn check_room(&self, observer: usize, room: &str) -> Result<(), String> {
        let own = self.protocol.room(observer);
        if own == room { Ok(()) } else { Err(format!("observes {own} and received a message about {room}")) }
    }

    fn apply_diff(
        &mut self,
        observer: usize,
        diff: &Diff<'_>,
        bytes: &[u8],
        join_times: &mut JoinTimes,
        now_ns: u64,
    ) -> Result<Delivery, String> {
        self.check_room(observer, &diff.room)?;
        self.try_follow(observer, &diff.room)?;
        let protocol = self.protocol;
        match &mut self.mirrors[observer] {
            Mirror::Broken => {}
            Mirror::Empty => return Err("received a diff before a snapshot".to_owned()),
            Mirror::Own(own) => {
                let is_paging = own.is_paging();
                own.apply_diff(diff)?;
                if !is_paging {
                    let joined_ns = planned(diff, protocol, join_times);
                    join_times.record(&joined_ns, now_ns);
                    self.try_follow(observer, &diff.room)?;
                }
            }
            Mirror::Following { log, seq } => {
                let log = &mut self.logs[*log];
                room::check_seq(diff.seq, *seq)?;
                *seq = diff.seq;
                let joined_ns = planned(diff, protocol, join_times);
                join_times.record(&joined_ns, now_ns);
                if diff.seq > log.seq {
                    log.append(diff, bytes, joined_ns)?;
                } else {
                    let is_same = log.has_same_content(diff);
                    log.received(diff.seq);
                    if !is_same {
                        return Err(format!("diff {} differs from what other observers received", diff.seq));
                    }
                }
            }
        }
        Ok(Delivery { changes: diff.changes() })
    }

    fn apply_snapshot(&mut self, observer: usize, snapshot: &Snapshot<'_>) -> Result<(), String> {
        self.check_room(observer, &snapshot.room)?;
        if matches!(self.mirrors[observer], Mirror::Broken) {
            return Ok(());
        }
        if snapshot.page == 1 {
            self.unrequested_snapshots += u64::from(!matches!(self.mirrors[observer], Mirror::Empty));
            self.leave_log(observer);
            self.mirrors[observer] = Mirror::Own(Box::default());
        }
        let Mirror::Own(own) = &mut self.mirrors[observer] else {
            return Err(format!("page {} of a snapshot came without the first page", snapshot.page));
        };
        own.apply_page(snapshot)?;
        self.try_follow(observer, &snapshot.room)
    }

    /// Makes an observer follow its room's log if both are at the same `seq`.
    fn try_follow(&mut self, observer: usize, room: &str) -> Result<(), String> {
        let Mirror::Own(own) = &mut self.mirrors[observer] else { return Ok(()) };
        if own.is_paging() {
            return Ok(());
        }
        let seq = own.seq;
        let next = self.logs.len();
        let index = *self.log_of.entry((room.into(), own.epoch.as_str().into())).or_insert(next);
        if index == next {
            self.logs.push(SharedLog::new(&own.epoch, seq, std::mem::take(&mut own.members)));
        } else {
            let log = &mut self.logs[index];
            if log.seq != seq {
                return Ok(());
            }
            if let Some(difference) = room::difference(&own.members, &log.members) {
                return Err(format!("at seq {seq} sees another {room} than other observers: {difference}"));
            }
            log.follow();
        }
        self.mirrors[observer] = Mirror::Following { log: index, seq };
        Ok(())
    }

    /// How the mirrors of a room differ from what the server lists.
    pub(crate) fn differences(&self, expected: &RoomState) -> ErrorLog {
        let mut errors = ErrorLog::default();
        let rooms = self.protocol.rooms as usize;
        let room_number = (0..rooms).find(|number| self.protocol.room_name(*number) == expected.room);
        let observers = room_number.into_iter().flat_map(|first| (first..self.mirrors.len()).step_by(rooms));
        let mut log_differences = HashMap::new();
        for observer in observers {
            let difference = match &self.mirrors[observer] {
                Mirror::Broken => Some("its mirror is broken".to_owned()),
                Mirror::Empty => Some("received nothing".to_owned()),
                Mirror::Own(own) => difference(&own.epoch, own.seq, &own.members, expected),
                Mirror::Following { log: index, seq } => {
                    let log = &self.logs[*index];
                    if *seq == log.seq {
                        log_differences
                            .entry(*index)
                            .or_insert_with(|| difference(&log.epoch, *seq, &log.members, expected))
                            .clone()
                    } else {
                        Some(format!("is at seq {seq}, the server at seq {}", expected.seq))
                    }
                }
            };
            if let Some(difference) = difference {
                errors.add(format!("{} in {}: {difference}", self.protocol.user(observer), expected.room));
            }
        }
        errors
    }
}

fn planned(diff: &Diff<'_>, protocol: ClientProtocol, join_times: &mut JoinTimes) -> Box<[u64]> {
    diff.joined.iter().map(|member| join_times.announced(protocol.index_of(&member.user))).collect()
}

fn difference(epoch: &str, seq: u64, members: &Members, expected: &RoomState) -> Option<String> {
    if *epoch != *expected.epoch || seq != expected.seq {
        let (server_epoch, server_seq) = (&expected.epoch, expected.seq);
        return Some(format!("is at epoch {epoch} seq {seq}, the server at epoch {server_epoch} seq {server_seq}"));
    }
    room::difference(members, &expected.members)
}

#[cfg(test)]
mod tests {
    use super::super::room_state::members_of;
    use super::*;
    use crate::protocol::Protocol;

    const PROTOCOL: ClientProtocol = ClientProtocol { kind: Protocol::Native, rooms: 1, first_user: 0, user_digits: 6 };
    const SNAPSHOT: &str = r#"{"type":"snapshot","room":"lobby","epoch":"e","seq":1,"count":1,"members":[{"user":"a"}],"page":1,"pages":1}"#;
    const B_JOINS: &str = r#"{"type":"diff","room":"lobby","seq":2,"count":2,"joined":[{"user":"b"}]}"#;
    const A_LEAVES: &str = r#"{"type":"diff","room":"lobby","seq":3,"count":1,"left":[{"user":"a","reason":"left"}]}"#;

    /// Gives each observer its messages and compares the mirrors with a room that contains only b, at seq 3.
    fn check(received: &[&[&str]], error: Option<&str>) {
        let mut diffs = Diffs::new(PROTOCOL, received.len());
        let mut join_times = JoinTimes::new();
        for (observer, messages) in received.iter().enumerate() {
            for payload in *messages {
                let message = Message { payload: payload.as_bytes(), is_whole: true };
                diffs.apply(observer, &message, &mut join_times, 0);
            }
        }
        let expected = RoomState { room: "lobby".into(), epoch: "e".into(), seq: 3, members: members_of(["b"]) };
        let differences = diffs.differences(&expected);
        match error {
            None => assert_eq!((differences.examples, diffs.errors.examples), (Vec::new(), Vec::new())),
            Some(words) => {
                assert!(differences.count > 0);
                let all = format!("{:?} {:?}", diffs.errors.examples, differences.examples);
                assert!(all.contains(words), "{all}");
            }
        }
    }

    #[test]
    fn observers_with_the_same_messages_match_the_server() {
        check(&[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, B_JOINS, A_LEAVES]], None);
    }

    #[test]
    fn formatting_of_a_diff_may_differ_between_observers() {
        let spaced = r#"{"type": "diff", "room": "lobby", "seq": 2, "count": 2, "joined": [{"user": "b"}]}"#;
        check(&[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, spaced, A_LEAVES]], None);
        // A message whose first field is not its type is not recognized as a diff; the gap reveals it.
        let reordered = r#"{"seq":2,"type":"diff","count":2,"room":"lobby","joined":[{"user":"b"}]}"#;
        check(&[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, reordered, A_LEAVES]], Some("seq 3 follows seq 1"));
    }

    #[test]
    fn gaps_and_contradictions_are_found() {
        check(&[&[SNAPSHOT, A_LEAVES]], Some("seq 3 follows seq 1"));
        check(&[&[SNAPSHOT, B_JOINS, B_JOINS]], Some("seq 2 follows seq 2"));
        check(&[&[SNAPSHOT, B_JOINS]], Some("is at epoch e seq 2"));
        check(&[&[B_JOINS]], Some("before a snapshot"));
        check(&[&[]], Some("received nothing"));
        let other = r#"{"type":"diff","room":"lobby","seq":2,"count":2,"joined":[{"user":"c"}]}"#;
        check(
            &[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, other, A_LEAVES]],
            Some("sees another lobby than other observers: c is a ghost"),
        );
        check(&[&[SNAPSHOT, &B_JOINS.replace("lobby", "attic")]], Some("received a message about attic"));
    }

    #[test]
    fn diffs_between_the_pages_of_a_snapshot_apply_to_the_complete_snapshot() {
        let first = r#"{"type":"snapshot","room":"lobby","epoch":"e","seq":1,"count":2,"members":[{"user":"0"}],"page":1,"pages":2}"#;
        let second = r#"{"type":"snapshot","room":"lobby","epoch":"e","seq":1,"count":2,"members":[{"user":"a"}],"page":2,"pages":2}"#;
        let leave = r#"{"type":"diff","room":"lobby","seq":2,"count":1,"left":[{"user":"a"}]}"#;
        let swap = r#"{"type":"diff","room":"lobby","seq":3,"count":1,"joined":[{"user":"b"}],"left":[{"user":"0"}]}"#;
        check(&[&[first, leave, second, swap]], None);
        check(&[&[second]], Some("without the first page"));
    }

    #[test]
    fn a_slow_reader_may_receive_a_new_snapshot() {
        let later = r#"{"type":"snapshot","room":"lobby","epoch":"e","seq":3,"count":1,"members":[{"user":"b"}],"page":1,"pages":1}"#;
        check(&[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, later]], None);
        check(&[&[SNAPSHOT, later], &[SNAPSHOT, B_JOINS, A_LEAVES]], None);
        let wrong = later.replace(r#""user":"b""#, r#""user":"x""#);
        check(&[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, &wrong]], Some("sees another lobby than other observers"));
    }
}
