//! Messages on a partition's events channel: each incarnation publishes one per tick with changes, and at least one per
//! second.
//!
//! ```text
//! n1.18c\t41                                    the incarnation, and the number of events published in this partition
//! joined\tlobby:alice\t1700000000000            "room:user" as in the hash, since when
//! updated\tlobby:bob\t17…\t17…\t{"mood":"ok"}    since when, when the state was written, and the state
//! left\tlobby:carol\ttimeout
//! message\tlobby:alice\t5\t"hello"              with its number: it may be published twice; no user: the application
//! observers\tlobby:\t3                          connections of this node that observe the room
//! kicked\t*:dave\t3\tkicked                     from all rooms; with one more part only the connections of that login
//! ```
//!
//! The format is lines and tabs, not JSON: names and compact JSON contain neither, so nothing needs to be escaped.

use super::schema::{encode_hold, member_field, parse_field, parse_hold, parse_number};
use crate::json::Reader;
use crate::presence::kick::Kick;
use crate::presence::{Reason, State};

/// The first word of a line about a kick.
const KICKED: &str = "kicked";
/// Stands in place of the room if all rooms are meant.
const ALL_ROOMS: &str = "*";
/// The size limit of a room message: the longest message of any protocol.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// A message of another incarnation.
#[derive(Debug, Clone)]
pub struct EventMessage {
    /// The incarnation that published it.
    pub incarnation: String,
    /// The number of this event; without changes, the number of the last event that had some.
    pub seq: u64,
    /// The changes, in order.
    pub changes: Vec<RemoteChange>,
    /// Numbered kicks. They are published several times and do not count as changes.
    pub kicks: Vec<(u64, Kick)>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteChange {
    /// The incarnation holds a user.
    Held {
        /// The room.
        room: String,
        /// The user.
        user: String,
        /// Since when, in milliseconds since the Unix epoch.
        since_unix_ms: u64,
        /// The state that was set there.
        state: Option<State>,
    },
    /// The incarnation no longer holds a user.
    Left {
        /// The room.
        room: String,
        /// The user.
        user: String,
        /// Why.
        reason: Reason,
    },
    /// A message was published to a room.
    Message {
        /// The room.
        room: String,
        /// The member that published it; `None` for the application.
        user: Option<String>,
        /// Counts the messages that the incarnation has published in this partition.
        number: u64,
        /// Compact JSON.
        data: String,
    },
    /// The incarnation has this number of observers of a room.
    Observers {
        /// The room.
        room: String,
        /// The number.
        count: u64,
    },
}

/// Writes a message line by line.
#[derive(Debug)]
pub struct EventWriter(String);

impl EventWriter {
    /// A message without changes.
    #[must_use]
    pub fn new(incarnation: &str, seq: u64) -> Self {
        Self(format!("{incarnation}\t{seq}"))
    }

    /// Adds that the incarnation holds a user.
    pub fn held(&mut self, joined: bool, room: &str, user: &str, since_unix_ms: u64, state: Option<&State>) {
        let word = if joined { "joined" } else { "updated" };
        self.line(word, room, user, &encode_hold(since_unix_ms, state));
    }

    /// Adds that the incarnation no longer holds a user.
    pub fn left(&mut self, room: &str, user: &str, reason: Reason) {
        self.line("left", room, user, reason.as_str());
    }

    /// Adds a message of a member, or of the application, to a room.
    pub fn message(&mut self, number: u64, room: &str, user: Option<&str>, data: &str) {
        self.line("message", room, user.unwrap_or_default(), &format!("{number}\t{data}"));
    }

    /// Adds the number of observers of a room.
    pub fn observers(&mut self, room: &str, count: u64) {
        self.line("observers", room, "", itoa::Buffer::new().format(count));
    }

    /// Adds a kick.
    pub fn kick(&mut self, number: u64, kick: &Kick) {
        let login = kick.login.map(|login| format!("\t{login}")).unwrap_or_default();
        self.line(KICKED, ALL_ROOMS, &kick.user, &format!("{number}\t{}{login}", kick.reason.as_str()));
    }

    /// The text to publish.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }

    fn line(&mut self, word: &str, room: &str, user: &str, rest: &str) {
        for part in ["\n", word, "\t", &member_field(room, user), "\t", rest] {
            self.0.push_str(part);
        }
    }
}

impl EventMessage {
    /// Reads a message; `None` if any line of it is invalid.
    #[must_use]
    pub fn parse(text: &str, json: &mut Reader) -> Option<Self> {
        let mut lines = text.split('\n');
        let (incarnation, seq) = lines.next()?.split_once('\t')?;
        let (incarnation, seq) = (incarnation.to_owned(), parse_number(seq)?);
        let mut message = Self { incarnation, seq, changes: Vec::new(), kicks: Vec::new() };
        for line in lines {
            match line.strip_prefix(KICKED) {
                Some(kick) => message.kicks.push(parse_kick(kick)?),
                None => message.changes.push(RemoteChange::parse(line, json)?),
            }
        }
        Some(message)
    }
}

/// Reads what follows the word [`KICKED`].
fn parse_kick(line: &str) -> Option<(u64, Kick)> {
    let mut parts = line.strip_prefix('\t')?.split('\t');
    let (_, user) = parse_field(parts.next()?)?;
    let number = parse_number(parts.next()?)?;
    let reason = Reason::parse(parts.next()?)?;
    let login = match parts.next() {
        Some(login) => Some(login.parse().ok()?),
        None => None,
    };
    Some((number, Kick { user: user?.into(), login, reason }))
}

impl RemoteChange {
    /// The name that decides the partition: the user, or the room if the change is not about a user.
    #[must_use]
    pub fn partition_key(&self) -> &str {
        match self {
            Self::Held { user, .. } | Self::Left { user, .. } => user,
            Self::Message { room, user, .. } => user.as_ref().unwrap_or(room),
            Self::Observers { room, .. } => room,
        }
    }

    fn parse(line: &str, json: &mut Reader) -> Option<Self> {
        let mut parts = line.splitn(3, '\t');
        let (word, field, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let (room, user) = parse_field(field)?;
        let user = user.map(str::to_owned);
        match word {
            "joined" | "updated" => {
                let (since_unix_ms, state) = parse_hold(rest, json)?;
                Some(Self::Held { room, user: user?, since_unix_ms, state })
            }
            "left" => Some(Self::Left { room, user: user?, reason: Reason::parse(rest)? }),
            "message" => {
                let (number, data) = rest.split_once('\t')?;
                let fits = data.len() <= MAX_MESSAGE_BYTES && json.read(data.as_bytes(), |value| value.is_some());
                let data = fits.then(|| data.to_owned())?;
                Some(Self::Message { room, user, number: parse_number(number)?, data })
            }
            "observers" if user.is_none() => Some(Self::Observers { room, count: parse_number(rest)? }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back_as_documented() {
        let mut writer = EventWriter::new("n1.18c", 41);
        writer.held(true, "lobby", "alice", 1, None);
        writer.held(false, "a:b%", "bob smith", 2, Some(&State::written("{\"mood\":\"ok\"}", 3)));
        writer.left("lobby", "carol", Reason::Timeout);
        writer.message(5, "lobby", Some("alice"), "\"hello\"");
        writer.message(6, "a:b%", None, "{}");
        writer.observers("a:b%", 3);
        writer.kick(3, &Kick { user: "dave".into(), login: Some(7), reason: Reason::Left });
        let text = writer.finish();
        assert_eq!(
            text,
            "n1.18c\t41\njoined\tlobby:alice\t1\nupdated\ta%3Ab%25:bob smith\t2\t3\t{\"mood\":\"ok\"}\n\
             left\tlobby:carol\ttimeout\nmessage\tlobby:alice\t5\t\"hello\"\nmessage\ta%3Ab%25:\t6\t{}\n\
             observers\ta%3Ab%25:\t3\nkicked\t*:dave\t3\tleft\t7"
        );
        let message = EventMessage::parse(&text, &mut Reader::default()).unwrap();
        assert_eq!((message.incarnation.as_str(), message.seq, message.changes.len()), ("n1.18c", 41, 6));
        let (room, user) = (|| "lobby".to_owned(), |name: &str| name.to_owned());
        assert_eq!(message.changes[1].partition_key(), "bob smith");
        let carol = RemoteChange::Left { room: room(), user: user("carol"), reason: Reason::Timeout };
        assert_eq!(message.changes[2], carol);
        let data = "\"hello\"".to_owned();
        let of_alice = RemoteChange::Message { room: room(), user: Some(user("alice")), number: 5, data };
        assert_eq!(message.changes[3], of_alice);
        assert_eq!(message.changes[4].partition_key(), "a:b%");
        assert_eq!(message.changes[5], RemoteChange::Observers { room: "a:b%".to_owned(), count: 3 });
        assert_eq!((message.kicks[0].0, message.kicks[0].1.login), (3, Some(7)));
    }

    #[test]
    fn invalid_messages_are_refused() {
        let mut json = Reader::default();
        for text in [
            "",
            "n1",
            "n1\t18446744073709551615",
            "n1\tx",
            "n1\t1\n",
            "n1\t1\nleft\tlobby:alice\tbored",
            "n1\t1\njoined\tlobby\t1",
            "n1\t1\nmessage\tlobby:a\t1\thello",
            "n1\t1\nmessage\tlobby:a\t\"hello\"",
            "n1\t1\njoined\tlobby:\t1",
            "n1\t1\nleft\tlobby:\tclosed",
            "n1\t1\nobservers\tlobby:a\t1",
            "n1\t1\nobservers\tlobby:\t-1",
            "n1\t1\nkicked\t*:\t3\tkicked",
        ] {
            assert!(EventMessage::parse(text, &mut json).is_none(), "{text:?}");
        }
        assert_eq!(EventMessage::parse("n1\t7", &mut json).unwrap().changes, []);
    }
}
