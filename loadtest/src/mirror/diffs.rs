//! The mirrors of those who are told a snapshot and then diffs (native). Each observer has a mirror of its own from its
//! snapshot until it stands where the room's chronicle stands and knows the same; then it follows that.
//!
//! Nobody ever asks for a resync: it would hide the gap that this is to find. A snapshot that comes unasked is a server
//! skipping a slow reader forward, which is allowed and counted.

use std::collections::HashMap;

use super::arrivals::Arrivals;
use super::chronicle::Chronicle;
use super::members::Members;
use super::own::{Own, check_next};
use super::wire::{Diff, Snapshot, read};
use super::{Complaints, Seen, Truth};
use crate::connection::Message;
use crate::protocol::{Dialect, message_kind};

#[derive(Debug)]
pub(crate) struct Diffs {
    dialect: Dialect,
    /// By observer.
    mirrors: Vec<Mirror>,
    chronicles: Vec<Chronicle>,
    /// Room and epoch → its chronicle.
    known: HashMap<(Box<str>, Box<str>), usize>,
    pub(crate) complaints: Complaints,
    pub(crate) skipped_forward: u64,
}

#[derive(Debug)]
enum Mirror {
    /// Nothing was seen yet.
    Blank,
    Own(Box<Own>),
    Following {
        chronicle: usize,
        seq: u64,
    },
    /// Was told what cannot be: nothing it shows from now on means anything.
    Broken,
}

impl Diffs {
    pub(crate) fn new(dialect: Dialect, observers: usize) -> Self {
        Self {
            dialect,
            mirrors: (0..observers).map(|_| Mirror::Blank).collect(),
            chronicles: Vec::new(),
            known: HashMap::new(),
            complaints: Complaints::default(),
            skipped_forward: 0,
        }
    }

    /// What an observer has read. Returns what it saw, if that was a delivery of presence.
    #[inline]
    pub(crate) fn take(
        &mut self,
        observer: usize,
        message: &Message<'_>,
        arrivals: &mut Arrivals,
        now_ns: u64,
    ) -> Option<Seen> {
        if let Mirror::Following { chronicle, seq } = &mut self.mirrors[observer] {
            let chronicle = &mut self.chronicles[*chronicle];
            if let Some(entry) = chronicle.entry_if(*seq + 1, message.payload) {
                arrivals.read(&entry.joined_ns, now_ns);
                let seen = Seen { changes: entry.changes };
                *seq += 1;
                chronicle.passed(*seq);
                return Some(seen);
            }
        }
        let outcome = match message_kind(message.payload) {
            Some("diff") => read(message.payload, message.is_whole)
                .and_then(|diff| self.diff(observer, &diff, message.payload, arrivals, now_ns)),
            Some("snapshot") => read(message.payload, message.is_whole)
                .and_then(|snapshot| self.snapshot(observer, snapshot))
                .map(|()| Seen { changes: 0 }),
            _ => return None,
        };
        match outcome {
            Ok(seen) => Some(seen),
            Err(complaint) => {
                self.complaints.add(format!("{}: {complaint}", self.dialect.user(observer)));
                self.leave_chronicle(observer);
                self.mirrors[observer] = Mirror::Broken;
                Some(Seen { changes: 0 })
            }
        }
    }

    /// The connection is gone; its mirror stays as it is.
    pub(crate) fn closed(&mut self, observer: usize) {
        self.leave_chronicle(observer);
        self.mirrors[observer] = Mirror::Broken;
    }

    fn leave_chronicle(&mut self, observer: usize) {
        if let Mirror::Following { chronicle, seq } = self.mirrors[observer] {
            self.chronicles[chronicle].unfollow(seq);
        }
    }

    fn check_room(&self, observer: usize, room: &str) -> Result<(), String> {
        let own = self.dialect.room(observer);
        if own == room { Ok(()) } else { Err(format!("observes {own} and was told about {room}")) }
    }

    fn diff(
        &mut self,
        observer: usize,
        diff: &Diff<'_>,
        bytes: &[u8],
        arrivals: &mut Arrivals,
        now_ns: u64,
    ) -> Result<Seen, String> {
        self.check_room(observer, &diff.room)?;
        self.settle_in(observer, &diff.room)?;
        let dialect = self.dialect;
        match &mut self.mirrors[observer] {
            Mirror::Broken => {}
            Mirror::Blank => return Err("was told a diff before any snapshot".to_owned()),
            Mirror::Own(own) if own.pages_to_come > 0 => own.held.push(bytes.to_vec()),
            Mirror::Own(own) => {
                own.apply(diff)?;
                let joined_ns = planned(diff, dialect, arrivals);
                arrivals.read(&joined_ns, now_ns);
                self.settle_in(observer, &diff.room)?;
            }
            Mirror::Following { chronicle, seq } => {
                let chronicle = &mut self.chronicles[*chronicle];
                check_next(diff.seq, *seq)?;
                *seq = diff.seq;
                let joined_ns = planned(diff, dialect, arrivals);
                arrivals.read(&joined_ns, now_ns);
                if diff.seq > chronicle.seq {
                    chronicle.append(diff, bytes, joined_ns)?;
                } else {
                    let same = chronicle.says_the_same(diff);
                    chronicle.passed(diff.seq);
                    if !same {
                        return Err(format!("diff {} says something else than to others", diff.seq));
                    }
                }
            }
        }
        Ok(Seen { changes: diff.changes() })
    }

    fn snapshot(&mut self, observer: usize, snapshot: Snapshot<'_>) -> Result<(), String> {
        self.check_room(observer, &snapshot.room)?;
        if matches!(self.mirrors[observer], Mirror::Broken) {
            return Ok(());
        }
        let room = snapshot.room.clone();
        if snapshot.page == 1 {
            self.skipped_forward += u64::from(!matches!(self.mirrors[observer], Mirror::Blank));
            self.leave_chronicle(observer);
            self.mirrors[observer] = Mirror::Own(Box::new(Own::new(&snapshot)));
        }
        let Mirror::Own(own) = &mut self.mirrors[observer] else {
            return Err(format!("page {} of a snapshot came without the first", snapshot.page));
        };
        own.add_page(snapshot)?;
        self.settle_in(observer, &room)
    }

    /// Has an observer follow its room's chronicle, if both stand at the same diff.
    fn settle_in(&mut self, observer: usize, room: &str) -> Result<(), String> {
        let Mirror::Own(own) = &mut self.mirrors[observer] else { return Ok(()) };
        if own.pages_to_come > 0 {
            return Ok(());
        }
        let seq = own.seq;
        let next = self.chronicles.len();
        let chronicle = *self.known.entry((room.into(), own.epoch.clone())).or_insert(next);
        if chronicle == next {
            self.chronicles.push(Chronicle::new(&own.epoch, seq, std::mem::take(&mut own.members)));
        } else {
            let known = &mut self.chronicles[chronicle];
            if known.seq != seq {
                return Ok(());
            }
            if let Some(difference) = own.members.difference(&known.members) {
                return Err(format!("at seq {seq} sees another {room} than others: {difference}"));
            }
            known.follow();
        }
        self.mirrors[observer] = Mirror::Following { chronicle, seq };
        Ok(())
    }

    /// How the observers of a room differ from what the server says of it.
    pub(crate) fn differences(&self, truth: &Truth) -> Complaints {
        let mut complaints = Complaints::default();
        let room_number = (0..self.dialect.rooms as usize).find(|number| self.dialect.room_name(*number) == truth.room);
        let observers =
            room_number.into_iter().flat_map(|first| (first..self.mirrors.len()).step_by(self.dialect.rooms as usize));
        let mut judged = HashMap::new();
        for observer in observers {
            let difference = match &self.mirrors[observer] {
                Mirror::Broken => Some("lost track before".to_owned()),
                Mirror::Blank => Some("has seen nothing".to_owned()),
                Mirror::Own(own) => difference(&own.epoch, own.seq, &own.members, truth),
                Mirror::Following { chronicle, seq } => {
                    let known = &self.chronicles[*chronicle];
                    if *seq == known.seq {
                        judged
                            .entry(*chronicle)
                            .or_insert_with(|| difference(&known.epoch, *seq, &known.members, truth))
                            .clone()
                    } else {
                        Some(format!("stands at seq {seq}, the server at {}", truth.seq))
                    }
                }
            };
            if let Some(difference) = difference {
                complaints.add(format!("{} in {}: {difference}", self.dialect.user(observer), truth.room));
            }
        }
        complaints
    }
}

fn planned(diff: &Diff<'_>, dialect: Dialect, arrivals: &mut Arrivals) -> Box<[u64]> {
    diff.joined.iter().map(|member| arrivals.told(dialect.index_of(&member.user))).collect()
}

fn difference(epoch: &str, seq: u64, members: &Members, truth: &Truth) -> Option<String> {
    if *epoch != *truth.epoch || seq != truth.seq {
        return Some(format!("stands at {epoch} seq {seq}, the server at {} seq {}", truth.epoch, truth.seq));
    }
    members.difference(&truth.members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;

    const DIALECT: Dialect = Dialect { protocol: Protocol::Native, rooms: 1, first_user: 0 };
    const SNAPSHOT: &str = r#"{"type":"snapshot","room":"lobby","epoch":"e","seq":1,"count":1,"members":[{"user":"a"}],"page":1,"pages":1}"#;
    const B_JOINS: &str = r#"{"type":"diff","room":"lobby","seq":2,"count":2,"joined":[{"user":"b"}]}"#;
    const A_LEAVES: &str = r#"{"type":"diff","room":"lobby","seq":3,"count":1,"left":[{"user":"a","reason":"left"}]}"#;

    /// Tells each observer its messages and compares them with the truth at seq 3.
    fn check(told: &[&[&str]], complaint: Option<&str>) {
        let mut diffs = Diffs::new(DIALECT, told.len());
        let mut arrivals = Arrivals::new();
        for (observer, messages) in told.iter().enumerate() {
            for payload in *messages {
                let message = Message { payload: payload.as_bytes(), is_whole: true };
                diffs.take(observer, &message, &mut arrivals, 0);
            }
        }
        let members = ["b"].into_iter().collect();
        let differences = diffs.differences(&Truth { room: "lobby".into(), epoch: "e".into(), seq: 3, members });
        match complaint {
            None => assert_eq!((differences.examples, diffs.complaints.examples), (Vec::new(), Vec::new())),
            Some(words) => {
                assert!(differences.count > 0);
                let all = format!("{:?} {:?}", diffs.complaints.examples, differences.examples);
                assert!(all.contains(words), "{all}");
            }
        }
    }

    #[test]
    fn those_who_are_told_the_same_know_the_truth() {
        check(&[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, B_JOINS, A_LEAVES]], None);
    }

    #[test]
    fn the_order_of_fields_does_not_matter() {
        let reordered = r#"{"seq":2,"type":"diff","count":2,"room":"lobby","joined":[{"user":"b"}]}"#;
        // Its kind is not found at the front, so it is not taken for a diff at all: the gap shows it.
        check(&[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, reordered, A_LEAVES]], Some("seq 3 came after 1"));
        let spaced = r#"{"type": "diff", "room": "lobby", "seq": 2, "count": 2, "joined": [{"user": "b"}]}"#;
        check(&[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, spaced, A_LEAVES]], None);
    }

    #[test]
    fn gaps_and_lies_are_found() {
        check(&[&[SNAPSHOT, A_LEAVES]], Some("seq 3 came after 1"));
        check(&[&[SNAPSHOT, B_JOINS, B_JOINS]], Some("seq 2 came after 2"));
        check(&[&[SNAPSHOT, B_JOINS]], Some("stands at e seq 2"));
        check(&[&[B_JOINS]], Some("before any snapshot"));
        check(&[&[]], Some("has seen nothing"));
        let other = r#"{"type":"diff","room":"lobby","seq":2,"count":2,"joined":[{"user":"c"}]}"#;
        check(
            &[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, other, A_LEAVES]],
            Some("sees another lobby than others: c is a ghost"),
        );
        check(&[&[SNAPSHOT, &B_JOINS.replace("lobby", "attic")]], Some("was told about attic"));
    }

    #[test]
    fn diffs_between_pages_apply_on_top() {
        let first = r#"{"type":"snapshot","room":"lobby","epoch":"e","seq":1,"count":2,"members":[{"user":"0"}],"page":1,"pages":2}"#;
        let second = r#"{"type":"snapshot","room":"lobby","epoch":"e","seq":1,"count":2,"members":[{"user":"a"}],"page":2,"pages":2}"#;
        let leave = r#"{"type":"diff","room":"lobby","seq":2,"count":1,"left":[{"user":"a"}]}"#;
        let swap = r#"{"type":"diff","room":"lobby","seq":3,"count":1,"joined":[{"user":"b"}],"left":[{"user":"0"}]}"#;
        check(&[&[first, leave, second, swap]], None);
        check(&[&[second]], Some("without the first"));
    }

    #[test]
    fn a_slow_reader_may_be_skipped_forward() {
        let later = r#"{"type":"snapshot","room":"lobby","epoch":"e","seq":3,"count":1,"members":[{"user":"b"}],"page":1,"pages":1}"#;
        check(&[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, later]], None);
        check(&[&[SNAPSHOT, later], &[SNAPSHOT, B_JOINS, A_LEAVES]], None);
        let wrong = later.replace(r#""user":"b""#, r#""user":"x""#);
        check(&[&[SNAPSHOT, B_JOINS, A_LEAVES], &[SNAPSHOT, &wrong]], Some("sees another lobby than others"));
    }
}
