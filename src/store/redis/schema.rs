//! The names of keys and the form of values; `docs/redis.md` shows them to whoever reads them from elsewhere.
//!
//! ```text
//! presence:{k}:u:<user>          string, EX ttl   JSON: who holds the user, where, with what state
//! presence:{k}:h:<run>           hash             what a run holds in lane k: "room:user" → since[\twritten\tstate]; "@" → seq, "#" → edition
//! presence:{k}:events            channel          what a run holds from now on, and does not any more; see `event`
//! presence:{nodes}:runs          set              runs that may be alive
//! presence:{nodes}:run:<run>     string, EX ttl   the lease of a run
//! presence:{nodes}:id:<node>     string, EX ttl   the run that goes by this node id
//! ```
//!
//! What stands in braces decides the slot on a cluster (Redis Cluster specification, "Hash tags"), so that all keys of a lane are
//! on one master and can share pipelines.

use std::time::Duration;

use bytes::BytesMut;

use super::command::Reply;
use crate::json::{Reader, is_object, put_list, put_number, put_string};
use crate::presence::{LocalHolds, MAX_STATE_BYTES, State, check_id};

/// The field of a run's hash that says up to which event it is whole. No other field is without a colon.
pub const HEADER: &str = "@";
/// The field that says how often the hash has been written anew: who reads it page by page has read one hash and not two.
pub const EDITION: &str = "#";
/// In the header of a hash that is being written anew.
const PARTIAL: &str = "partial";
/// A hash that nobody renews is gone after so many leases: it is cleaned up earlier by any node that lives.
const HASH_LEASES: u32 = 10;

/// What a node calls itself, and where it puts things.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The first word of every key.
    pub prefix: String,
    /// Lanes that users are spread over.
    pub lanes: usize,
    /// The id of this node.
    pub node: String,
    /// This life of it.
    pub run: String,
    /// How long keys stay without being renewed.
    pub ttl: Duration,
}

/// Up to which event a hash is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Everything up to this event is in it.
    Whole(u64),
    /// It is being written.
    Partial,
}

impl Schema {
    /// The lane of a user: CRC-32 (IEEE, as in zlib) of the name, modulo the lanes.
    #[must_use]
    pub fn lane_of(&self, user: &str) -> usize {
        match self.lanes {
            1 => 0,
            lanes => crc32fast::hash(user.as_bytes()) as usize % lanes,
        }
    }

    /// Where services look a user up.
    #[must_use]
    pub fn user_key(&self, user: &str) -> String {
        // Written for each user in each half lease: without the detour of a format.
        [&self.prefix, ":{", itoa::Buffer::new().format(self.lane_of(user)), "}:u:", user].concat()
    }

    /// What a run holds in a lane.
    #[must_use]
    pub fn hash_key(&self, lane: usize, run: &str) -> String {
        format!("{}:{{{lane}}}:h:{run}", self.prefix)
    }

    /// Where changes of a lane are told.
    #[must_use]
    pub fn events(&self, lane: usize) -> String {
        format!("{}:{{{lane}}}:events", self.prefix)
    }

    /// The set of runs.
    #[must_use]
    pub fn runs_key(&self) -> String {
        format!("{}:{{nodes}}:runs", self.prefix)
    }

    /// The lease of a run.
    #[must_use]
    pub fn run_key(&self, run: &str) -> String {
        format!("{}:{{nodes}}:run:{run}", self.prefix)
    }

    /// Who goes by this node's id.
    #[must_use]
    pub fn id_key(&self) -> String {
        format!("{}:{{nodes}}:id:{}", self.prefix, self.node)
    }

    /// How long keys stay, in milliseconds.
    #[must_use]
    pub fn ttl_ms(&self) -> u64 {
        self.ttl.as_millis() as u64
    }

    /// How long a hash stays that nobody renews, in milliseconds.
    #[must_use]
    pub fn hash_ttl_ms(&self) -> u64 {
        (self.ttl * HASH_LEASES).max(Duration::from_secs(60)).as_millis() as u64
    }

    /// How often a run says that it lives: each second, or more often when leases are short.
    #[must_use]
    pub fn beacon_every(&self) -> Duration {
        (self.ttl / 4).min(Duration::from_secs(1))
    }

    /// What is written for a user.
    #[must_use]
    pub fn user_value(&self, held: &LocalHolds) -> String {
        let mut buffer = BytesMut::with_capacity(128);
        buffer.extend_from_slice(br#"{"node":"#);
        put_string(&mut buffer, &self.node);
        buffer.extend_from_slice(br#","since":"#);
        put_number(&mut buffer, held.since_unix_ms);
        buffer.extend_from_slice(br#","rooms":{"#);
        put_list(&mut buffer, &held.rooms, |buffer, (room, state)| {
            put_string(buffer, room);
            buffer.extend_from_slice(b":");
            let state = state.as_ref().filter(|state| !state.is_cleared());
            buffer.extend_from_slice(state.map_or("null", State::as_str).as_bytes());
        });
        buffer.extend_from_slice(b"}}");
        // Everything in it was text.
        String::from_utf8(buffer.into()).unwrap_or_default()
    }
}

/// What the head of a hash says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Up to which event it is whole.
    pub header: Header,
    /// How often it has been written anew.
    pub edition: u64,
}

impl Head {
    /// Reads the answer to [`HashHead`](super::command::Command::HashHead): `None` if there is no such hash, or something else in its place.
    ///
    /// # Errors
    /// What Redis complains about.
    pub fn parse(reply: Option<&Reply>) -> Result<Option<Self>, String> {
        match reply {
            Some(Reply::Texts(texts)) => Ok(match &texts[..] {
                [Some(header), Some(edition)] => {
                    Header::parse(header).zip(edition.parse().ok()).map(|(header, edition)| Self { header, edition })
                }
                _ => None,
            }),
            Some(Reply::WrongType) => Ok(None),
            Some(reply) => Err(reply.complaint()),
            None => Err("an empty answer".to_owned()),
        }
    }
}

impl Header {
    /// As it stands in the hash.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Whole(seq) => seq.to_string(),
            Self::Partial => PARTIAL.to_owned(),
        }
    }

    /// Reads it; `None` if it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == PARTIAL { Some(Self::Partial) } else { parse_number(text).map(Self::Whole) }
    }
}

/// The field of a user in a room: the room, with its colons and percent signs escaped, a colon, the user.
#[must_use]
pub fn field(room: &str, user: &str) -> String {
    match room.contains(['%', ':']) {
        true => format!("{}:{user}", room.replace('%', "%25").replace(':', "%3A")),
        false => format!("{room}:{user}"),
    }
}

/// The room and the user of a field; `None` if it is not one.
#[must_use]
pub fn parse_field(field: &str) -> Option<(String, &str)> {
    let (room, user) = field.split_once(':')?;
    let room = room.replace("%3A", ":").replace("%25", "%");
    (check_id(&room).is_ok() && check_id(user).is_ok()).then_some((room, user))
}

/// A number that another node has written: what no node ever counts to is refused (2⁵³, as far as JSON's numbers go).
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number < 1 << 53)
}

/// What is known of a hold, in a hash and in events: since when, and the state with the time at which it was written. Tabs
/// separate them: there are none in names and compact JSON.
#[must_use]
pub fn hold(since_unix_ms: u64, state: Option<&State>) -> String {
    match state {
        Some(state) => format!("{since_unix_ms}\t{}\t{}", state.written_unix_ms(), state.as_str()),
        None => since_unix_ms.to_string(),
    }
}

/// Reads what [`hold`] writes; `None` if it cannot have. A state goes into frames as it is, so it is looked at here.
#[must_use]
pub fn parse_hold(text: &str, json: &mut Reader) -> Option<(u64, Option<State>)> {
    let mut parts = text.splitn(3, '\t');
    let since = parse_number(parts.next()?)?;
    let Some(written) = parts.next() else { return Some((since, None)) };
    let (written, state) = (parse_number(written)?, parts.next()?);
    let is_state = state.is_empty() || state.len() <= MAX_STATE_BYTES && is_object(json, state);
    is_state.then(|| (since, Some(State::written(state, written))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schema(lanes: usize) -> Schema {
        let (node, run) = ("n1".to_owned(), "n1.18c".to_owned());
        Schema { prefix: "presence".to_owned(), lanes, node, run, ttl: Duration::from_secs(10) }
    }

    #[test]
    fn keys_are_as_documented() {
        let schema = schema(1);
        assert_eq!(schema.user_key("alice"), "presence:{0}:u:alice");
        assert_eq!(schema.hash_key(0, "n1.18c"), "presence:{0}:h:n1.18c");
        assert_eq!(schema.events(0), "presence:{0}:events");
        assert_eq!(schema.run_key("n1.18c"), "presence:{nodes}:run:n1.18c");
        // zlib.crc32(b"alice") % 16 in Python.
        assert_eq!(self::schema(16).lane_of("alice"), 0x278e_bc47_usize % 16);
    }

    #[test]
    fn what_others_write_is_read_with_care() {
        let mut json = Reader::default();
        let mut check = |text: &str, want: Option<(u64, Option<&str>)>| {
            let read = parse_hold(text, &mut json);
            let read = read.as_ref().map(|(since, state)| (*since, state.as_ref().map(State::as_str)));
            assert_eq!(read, want, "{text:?}");
        };
        check("17", Some((17, None)));
        check("17\t18\t{\"a\":1}", Some((17, Some("{\"a\":1}"))));
        check("17\t18\t", Some((17, Some(""))));
        check("17\t18", None);
        check("17\t18\t{\"a\":1", None);
        check("17\t18\t[1]", None);
        check(&format!("17\t18\t{{\"a\":\"{}\"}}", "x".repeat(1024)), None);
        check("", None);
        check("-1", None);
        check("9007199254740992", None);
        check("17\t18446744073709551615\t{}", None);
        assert_eq!(parse_field("lobby"), None);
        assert_eq!(parse_field(":alice"), None);
        assert_eq!(parse_field("lobby:"), None);
        assert_eq!(Header::parse("12x"), None);
    }

    proptest! {
        #[test]
        fn fields_are_read_back(room in "[^\\pC]{1,20}", user in "[^\\pC]{1,20}") {
            let field = field(&room, &user);
            prop_assert_eq!(parse_field(&field), Some((room, user.as_str())));
        }
    }
}
