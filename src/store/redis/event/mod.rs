//! Messages on a partition's events channel: each incarnation publishes one per tick with changes, and at least one per
//! second.
//!
//! ```text
//! n1.18c\t41                                    the incarnation, and the number of events published in this partition
//! joined\tlobby:alice\t1700000000000            "room:user" as in the hash, since when
//! updated\tlobby:bob\t17…\t17…\t{"mood":"ok"}    since when, when the state was written, and the state
//! left\tlobby:carol\ttimeout
//! message\tlobby:alice\t17…\t5\t"hello"        when it was published, and its number: it may be published twice; no
//!                                               user: the application
//! message\tlobby:\t17…\t5!1f\t"hello"           the same, but not for the connection with this hexadecimal number
//! event\tlobby:alice\t17…\t5\t{"event":"e"}     the same with the data of an event
//! relayed\tchat:\t17…\t5\t{"event":"e"}           as "event", of a client that is not a member
//! last\tnews:\t17…\t7\t{"event":"e"}             as "event", and it is the room's last one for later observers
//! kept\tlobby:alice\t17…\t6\t{"text":"hello"}   as "message", and it belongs to the history of the room
//! to_user\t*:erin\t17…\t7\t{"n":1}              a message of the application to the connections of a user
//! history                                       messages are kept for later observers that were not published
//! observers\tlobby:\t3                          connections of this node that observe the room
//! kicked\t*:dave\t3\t250\tkicked                from all rooms, requested 250 ms ago; with one more part only the
//!                                               connections of that login
//! ```
//!
//! The format is lines and tabs, not JSON: names and compact JSON contain neither, so nothing needs to be escaped.

use std::borrow::Cow;

use super::field::{member_field, parse_field};
use super::schema::{encode_hold, incarnation_number, parse_hold, parse_number};
use crate::json::{Reader, is_valid};
use crate::presence::kick::Kick;
use crate::presence::{Form, Keeping, MessageStamp, Publisher, Reason, RoomMessage, State, UserMessage, is_internal};

/// The first word of a line about a kick.
const KICKED: &str = "kicked";
/// The first word of a line about a message, and of one whose data is an event.
const MESSAGE: &str = "message";
const EVENT: &str = "event";
/// The first word of a line about a message that belongs to the history of its room.
const KEPT: &str = "kept";
/// The first word of a line about a message that is the last one of its room for later observers.
const LAST: &str = "last";
/// The first word of a line about a message of a client that is not a member.
const RELAYED: &str = "relayed";
/// The first word of a line about a message to a user.
const TO_USER: &str = "to_user";
/// A line that says that messages are kept for later observers that were not published.
const HISTORY: &str = "history";
/// Stands in place of the room if all rooms are meant.
const ALL_ROOMS: &str = "*";
/// The size limit of a room message: the longest message of any protocol. An event of an application has 10 KiB of
/// data, and each byte may be written as an escape.
const MAX_MESSAGE_BYTES: usize = 96 * 1024;

/// A message of another incarnation.
#[derive(Debug, Clone)]
pub struct EventMessage {
    /// The incarnation that published it.
    pub incarnation: String,
    /// The number of this event; without changes, the number of the last event that had some.
    pub seq: u64,
    /// The changes, in order.
    pub changes: Vec<RemoteChange>,
    /// Whether messages are kept for later observers that were not published.
    pub history_changed: bool,
    /// They are published several times and do not count as changes.
    pub kicks: Vec<RemoteKick>,
}

/// A kick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteKick {
    /// Counts the kicks that the incarnation has published in this partition.
    pub number: u64,
    /// How long ago it was requested, in milliseconds.
    pub age_ms: u64,
    /// The kick.
    pub kick: Kick,
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
        /// When it was published, and which message of the incarnation it is.
        stamp: MessageStamp,
        /// What the data is.
        form: Form,
        /// The number of a connection that does not receive it.
        excluded: Option<u64>,
        /// Who published it.
        publisher: Publisher,
        /// Whether later observers receive it.
        keeping: Keeping,
        /// Compact JSON.
        data: String,
    },
    /// The application published a message to the connections of a user.
    ToUser {
        /// The user.
        user: String,
        /// When it was published, and which message of the incarnation it is.
        stamp: MessageStamp,
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

    /// Adds a message to a room.
    pub fn message(&mut self, room: &str, message: &RoomMessage) {
        let RoomMessage { user, data, excluded, stamp: MessageStamp { unix_ms, number, .. }, .. } = message;
        let excluded = excluded.map(|excluded| format!("!{excluded:x}")).unwrap_or_default();
        let is_of_observer = user.is_none() && message.publisher == Publisher::Client;
        let word = match (message.form, message.keeping) {
            (Form::Plain, Keeping::History) => KEPT,
            (Form::Plain, _) => MESSAGE,
            (Form::Event, Keeping::Last) => LAST,
            (Form::Event, _) if is_of_observer => RELAYED,
            (Form::Event, _) => EVENT,
        };
        self.line(word, room, user.as_deref().unwrap_or_default(), &format!("{unix_ms}\t{number}{excluded}\t{data}"));
    }

    /// Adds a message to a user.
    pub fn message_to_user(&mut self, message: &UserMessage) {
        let UserMessage { user, data, stamp: MessageStamp { unix_ms, number, .. }, .. } = message;
        self.line(TO_USER, ALL_ROOMS, user, &format!("{unix_ms}\t{number}\t{data}"));
    }

    /// Adds that messages are kept for later observers that were not published.
    pub fn history_changed(&mut self) {
        self.0.push('\n');
        self.0.push_str(HISTORY);
    }

    /// Adds the number of observers of a room.
    pub fn observers(&mut self, room: &str, count: u64) {
        self.line("observers", room, "", itoa::Buffer::new().format(count));
    }

    /// Adds a kick.
    pub fn kick(&mut self, number: u64, age_ms: u64, kick: &Kick) {
        let login = kick.login.map(|login| format!("\t{login}")).unwrap_or_default();
        self.line(KICKED, ALL_ROOMS, &kick.user, &format!("{number}\t{age_ms}\t{}{login}", kick.reason.as_str()));
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
    /// Whether it has changes. Such events are numbered, so that nodes notice if they miss one.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        self.history_changed || !self.changes.is_empty()
    }

    /// Reads a message; `None` if any line of it is invalid.
    #[must_use]
    pub fn parse(text: &str, json: &mut Reader) -> Option<Self> {
        let mut lines = text.split('\n');
        let (incarnation, seq) = lines.next()?.split_once('\t')?;
        let (incarnation, seq) = (incarnation.to_owned(), parse_number(seq)?);
        let number = incarnation_number(&incarnation);
        let mut message = Self { incarnation, seq, changes: Vec::new(), kicks: Vec::new(), history_changed: false };
        for line in lines {
            match line.strip_prefix(KICKED) {
                _ if line == HISTORY => message.history_changed = true,
                Some(kick) => message.kicks.push(parse_kick(kick)?),
                None => message.changes.push(RemoteChange::parse(line, number, json)?),
            }
        }
        Some(message)
    }
}

/// Whether this is data of this form: a JSON text that is not too long.
pub(super) fn is_message_data(form: Form, data: &str, json: &mut Reader) -> bool {
    let mut is_json = |data: &str| match form {
        Form::Event => is_valid(data),
        Form::Plain => json.read(data.as_bytes(), |value| value.is_some()),
    };
    data.len() <= MAX_MESSAGE_BYTES && is_json(data)
}

/// Reads when a message of this form was published and its number, which connection it leaves out, and its data.
fn parse_message(
    form: Form,
    rest: &str,
    incarnation: u64,
    json: &mut Reader,
) -> Option<(MessageStamp, Option<u64>, String)> {
    let mut parts = rest.splitn(3, '\t');
    let (unix_ms, number) = (parse_number(parts.next()?)?, parts.next()?);
    let (number, excluded) =
        number.split_once('!').map_or((number, None), |(number, excluded)| (number, Some(excluded)));
    let excluded = match excluded {
        Some(excluded) => Some(u64::from_str_radix(excluded, 16).ok()?),
        None => None,
    };
    let data = parts.next().filter(|data| is_message_data(form, data, json))?.to_owned();
    Some((MessageStamp { unix_ms, incarnation, number: parse_number(number)? }, excluded, data))
}

/// Reads what follows the word [`KICKED`].
fn parse_kick(line: &str) -> Option<RemoteKick> {
    let mut parts = line.strip_prefix('\t')?.split('\t');
    let (_, user) = parse_field(parts.next()?)?;
    let (number, age_ms) = (parse_number(parts.next()?)?, parse_number(parts.next()?)?);
    let reason = Reason::parse(parts.next()?)?;
    let login = match parts.next() {
        Some(login) => Some(login.parse().ok()?),
        None => None,
    };
    let user = (*user?).into();
    Some(RemoteKick { number, age_ms, kick: Kick { user, login, reason, requested_unix_ms: None } })
}

impl RemoteChange {
    /// The name that decides the partition: the user, or the room if the change is not about a user.
    #[must_use]
    pub fn partition_key(&self) -> &str {
        match self {
            Self::Held { user, .. } | Self::Left { user, .. } | Self::ToUser { user, .. } => user,
            Self::Message { room, user, .. } => user.as_ref().unwrap_or(room),
            Self::Observers { room, .. } => room,
        }
    }

    fn parse(line: &str, incarnation: u64, json: &mut Reader) -> Option<Self> {
        let mut parts = line.splitn(3, '\t');
        let (word, field, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let (room, user) = parse_field(field)?;
        let user = user.map(Cow::into_owned);
        match word {
            "joined" | "updated" => {
                let (since_unix_ms, state) = parse_hold(rest, is_internal(&room), json)?;
                Some(Self::Held { room, user: user?, since_unix_ms, state })
            }
            "left" => Some(Self::Left { room, user: user?, reason: Reason::parse(rest)? }),
            MESSAGE | KEPT | EVENT | RELAYED | LAST => {
                let form = if matches!(word, MESSAGE | KEPT) { Form::Plain } else { Form::Event };
                let (stamp, excluded, data) = parse_message(form, rest, incarnation, json)?;
                let is_of_client = user.is_some() || word == RELAYED;
                let publisher = if is_of_client { Publisher::Client } else { Publisher::Application };
                let keeping = match word {
                    KEPT => Keeping::History,
                    LAST => Keeping::Last,
                    _ => Keeping::No,
                };
                Some(Self::Message { room, user, stamp, form, excluded, publisher, keeping, data })
            }
            TO_USER => {
                let (stamp, _, data) = parse_message(Form::Plain, rest, incarnation, json)?;
                Some(Self::ToUser { user: user?, stamp, data })
            }
            "observers" if user.is_none() => Some(Self::Observers { room, count: parse_number(rest)? }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
