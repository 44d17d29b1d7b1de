//! What a run tells the others about one lane, once a tick with changes and once a second in any case.
//!
//! ```text
//! n1.18c\t41                                    the run, and how many events it has told in this lane
//! joined\tlobby:alice\t1700000000000            "room:user" as in the hash, since when, written when and state if there is one
//! updated\tlobby:bob\t1700000000000\t1700000000123\t{"mood":"ok"}
//! left\tlobby:carol\ttimeout
//! said\tlobby:alice\t5\t"hello"                 with its number: it may be told twice
//! removed\t*:dave\t3\tkicked                     wherever it is; behind another tab only of this login
//! ```
//!
//! Lines and tabs and not JSON: names and compact JSON hold neither, so nothing is escaped and nothing is nested.

use super::schema::{field, hold, parse_field, parse_hold, parse_number};
use crate::json::Reader;
use crate::presence::kick::Kick;
use crate::presence::{Reason, State};

/// The word for a user who is to go.
const REMOVED: &str = "removed";
/// Stands where others have their room.
const ANYWHERE: &str = "*";
/// What is said may be no longer than a message of the longest protocol.
const MAX_SAID_BYTES: usize = 64 * 1024;

/// An event that was read.
#[derive(Debug, Clone)]
pub struct Event {
    /// Who tells it.
    pub run: String,
    /// Its number; of one that tells nothing, the number of the last that did.
    pub seq: u64,
    /// What it tells, in order.
    pub lines: Vec<Line>,
    /// Users who are to go, by number: they are told several times, and are no events.
    pub kicks: Vec<(u64, Kick)>,
}

/// One thing that an event tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where.
    pub room: String,
    /// Who.
    pub user: String,
    /// What.
    pub what: Happened,
}

/// What happened to a user in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// The run holds it, since then, with this state.
    Held {
        /// Milliseconds since the Unix epoch.
        since_unix_ms: u64,
        /// What was written there.
        state: Option<State>,
    },
    /// The run does not hold it any more.
    Left(Reason),
    /// The user said something.
    RoomMessage {
        /// How much had been said in the lane by then, this included.
        number: u64,
        /// Compact JSON.
        data: String,
    },
}

/// Writes an event, line by line.
#[derive(Debug)]
pub struct Writer(String);

impl Writer {
    /// With nothing told yet.
    #[must_use]
    pub fn new(run: &str, seq: u64) -> Self {
        Self(format!("{run}\t{seq}"))
    }

    /// The run holds a user.
    pub fn held(&mut self, joined: bool, room: &str, user: &str, since_unix_ms: u64, state: Option<&State>) {
        let word = if joined { "joined" } else { "updated" };
        self.line(word, room, user, &hold(since_unix_ms, state));
    }

    /// It does not any more.
    pub fn left(&mut self, room: &str, user: &str, reason: Reason) {
        self.line("left", room, user, reason.as_str());
    }

    /// A user said something; the run's message of this number in this lane.
    pub fn said(&mut self, number: u64, room: &str, user: &str, data: &str) {
        self.line("said", room, user, &format!("{number}\t{data}"));
    }

    /// A user is to go at once, wherever it is; the run's kick of this number.
    pub fn removed(&mut self, number: u64, kick: &Kick) {
        let login = kick.login.map(|login| format!("\t{login}")).unwrap_or_default();
        self.line(REMOVED, ANYWHERE, &kick.user, &format!("{number}\t{}{login}", kick.reason.as_str()));
    }

    /// The message.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }

    fn line(&mut self, word: &str, room: &str, user: &str, rest: &str) {
        for part in ["\n", word, "\t", &field(room, user), "\t", rest] {
            self.0.push_str(part);
        }
    }
}

impl Event {
    /// Reads a message; `None` if it is not an event. A line that makes no sense makes none of it credible.
    #[must_use]
    pub fn parse(text: &str, json: &mut Reader) -> Option<Self> {
        let mut lines = text.split('\n');
        let (run, seq) = lines.next()?.split_once('\t')?;
        let mut event = Self { run: run.to_owned(), seq: parse_number(seq)?, lines: Vec::new(), kicks: Vec::new() };
        for line in lines {
            match line.strip_prefix(REMOVED) {
                Some(kick) => event.kicks.push(parse_removal(kick)?),
                None => event.lines.push(Line::parse(line, json)?),
            }
        }
        Some(event)
    }
}

/// Reads what stands behind the word of a kick.
fn parse_removal(line: &str) -> Option<(u64, Kick)> {
    let mut parts = line.strip_prefix('\t')?.split('\t');
    let (_, user) = parse_field(parts.next()?)?;
    let number = parse_number(parts.next()?)?;
    let reason = Reason::parse(parts.next()?)?;
    let login = match parts.next() {
        Some(login) => Some(login.parse().ok()?),
        None => None,
    };
    Some((number, Kick { user: user.into(), login, reason }))
}

impl Line {
    fn parse(line: &str, json: &mut Reader) -> Option<Self> {
        let mut parts = line.splitn(3, '\t');
        let (word, field, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let (room, user) = parse_field(field)?;
        let what = match word {
            "joined" | "updated" => {
                let (since_unix_ms, state) = parse_hold(rest, json)?;
                Happened::Held { since_unix_ms, state }
            }
            "left" => Happened::Left(Reason::parse(rest)?),
            "said" => {
                let (number, data) = rest.split_once('\t')?;
                let fits = data.len() <= MAX_SAID_BYTES && json.read(data.as_bytes(), |value| value.is_some());
                Happened::RoomMessage { number: parse_number(number)?, data: fits.then(|| data.to_owned())? }
            }
            _ => return None,
        };
        Some(Self { room, user: user.to_owned(), what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_back_as_documented() {
        let mut writer = Writer::new("n1.18c", 41);
        writer.held(true, "lobby", "alice", 1, None);
        writer.held(false, "a:b%", "bob smith", 2, Some(&State::written("{\"mood\":\"ok\"}", 3)));
        writer.left("lobby", "carol", Reason::Timeout);
        writer.said(5, "lobby", "alice", "\"hello\"");
        writer.removed(3, &Kick { user: "dave".into(), login: Some(7), reason: Reason::Left });
        let text = writer.finish();
        assert_eq!(
            text,
            "n1.18c\t41\njoined\tlobby:alice\t1\nupdated\ta%3Ab%25:bob smith\t2\t3\t{\"mood\":\"ok\"}\nleft\tlobby:carol\ttimeout\nsaid\tlobby:alice\t5\t\"hello\"\nremoved\t*:dave\t3\tleft\t7"
        );
        let event = Event::parse(&text, &mut Reader::default()).unwrap();
        assert_eq!((event.run.as_str(), event.seq, event.lines.len()), ("n1.18c", 41, 4));
        assert_eq!((event.lines[1].room.as_str(), event.lines[1].user.as_str()), ("a:b%", "bob smith"));
        assert_eq!(event.lines[2].what, Happened::Left(Reason::Timeout));
        assert_eq!(event.lines[3].what, Happened::RoomMessage { number: 5, data: "\"hello\"".to_owned() });
        assert_eq!((event.kicks[0].0, event.kicks[0].1.login), (3, Some(7)));
    }

    #[test]
    fn what_makes_no_sense_is_no_event() {
        let mut json = Reader::default();
        for text in [
            "",
            "n1",
            "n1\t18446744073709551615",
            "n1\tx",
            "n1\t1\n",
            "n1\t1\nleft\tlobby:alice\tbored",
            "n1\t1\njoined\tlobby\t1",
            "n1\t1\nsaid\tlobby:a\t1\thello",
            "n1\t1\nsaid\tlobby:a\t\"hello\"",
        ] {
            assert!(Event::parse(text, &mut json).is_none(), "{text:?}");
        }
        assert_eq!(Event::parse("n1\t7", &mut json).unwrap().lines, []);
    }
}
