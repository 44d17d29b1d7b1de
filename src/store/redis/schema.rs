//! Names of keys and formats of values in Redis. `docs/redis.md` documents them for other programs.
//!
//! ```text
//! presence:{k}:u:<user>               string, EX ttl   JSON: a node that holds the user, the rooms and states there
//! presence:{k}:h:<incarnation>        hash             what an incarnation holds in partition k:
//!                                                      "room:user" → since[\twritten\tstate],
//!                                                      "room:" → number of observers, metadata "@" and "#"
//! presence:{k}:events                 channel          changes of partition k; see `event`
//! presence:{nodes}:incarnations       set              incarnations that may be alive
//! presence:{nodes}:incarnation:<name> string, EX ttl   the lease of an incarnation, with the format of all this
//! presence:{nodes}:id:<node>          string, EX ttl   the incarnation that uses this node id
//! ```
//!
//! The part in braces decides the slot on a cluster (Redis Cluster specification, "Hash tags"): all keys of a partition
//! are on one master and can share pipelines.

use std::time::Duration;

use bytes::BytesMut;

use super::command::RedisReply;
use crate::json::{Reader, is_object, put_list, put_number, put_string};
use crate::presence::{LocalHolds, MAX_STATE_BYTES, State, check_id};

/// The version of these names and formats. A node refuses to start beside nodes that use another one.
///
/// 1: without a version in the lease. 2: names of keys and events as documented, numbers of observers, messages without
/// a user.
pub const FORMAT: u64 = 2;
/// The metadata field with the number of the last event that the hash includes. All other fields have a colon.
pub const LAST_SEQ_FIELD: &str = "@";
/// The metadata field that counts rewrites of the hash. If it is the same before and after a scan, all pages are of one
/// revision.
pub const REVISION_FIELD: &str = "#";
/// Stands in [`LAST_SEQ_FIELD`] while the hash is being rewritten.
const PARTIAL: &str = "partial";
/// A hash expires after this many leases without renewal. Living nodes delete hashes of dead incarnations earlier.
const HASH_LEASES: u32 = 10;

/// The names that a node uses, and the lease of its keys.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The first word of every key.
    pub prefix: String,
    /// The number of partitions that users are spread over.
    pub partitions: usize,
    /// The id of this node.
    pub node: String,
    /// The incarnation of this node: `<node id>.<number in hexadecimal>`. A restarted node has a new one.
    pub incarnation: String,
    /// The lease of keys.
    pub ttl: Duration,
}

impl Schema {
    /// The partition of a user: CRC-32 (IEEE, as in zlib) of the name, modulo the number of partitions.
    #[must_use]
    pub fn partition_of(&self, user: &str) -> usize {
        match self.partitions {
            1 => 0,
            partitions => crc32fast::hash(user.as_bytes()) as usize % partitions,
        }
    }

    /// The key under which other programs look up a user.
    #[must_use]
    pub fn user_key(&self, user: &str) -> String {
        // Built for each user in each half lease: concatenating is faster than `format!`.
        [&self.prefix, ":{", itoa::Buffer::new().format(self.partition_of(user)), "}:u:", user].concat()
    }

    /// The hash of what an incarnation holds in a partition.
    #[must_use]
    pub fn hash_key(&self, partition: usize, incarnation: &str) -> String {
        format!("{}:{{{partition}}}:h:{incarnation}", self.prefix)
    }

    /// The channel of a partition's changes.
    #[must_use]
    pub fn events_channel(&self, partition: usize) -> String {
        format!("{}:{{{partition}}}:events", self.prefix)
    }

    /// The set of incarnations.
    #[must_use]
    pub fn incarnations_key(&self) -> String {
        format!("{}:{{nodes}}:incarnations", self.prefix)
    }

    /// The lease of an incarnation.
    #[must_use]
    pub fn lease_key(&self, incarnation: &str) -> String {
        format!("{}:{{nodes}}:incarnation:{incarnation}", self.prefix)
    }

    /// The incarnation that uses this node's id.
    #[must_use]
    pub fn id_key(&self) -> String {
        format!("{}:{{nodes}}:id:{}", self.prefix, self.node)
    }

    /// The lease of keys, in milliseconds.
    #[must_use]
    pub fn ttl_ms(&self) -> u64 {
        self.ttl.as_millis() as u64
    }

    /// The lease of hashes, in milliseconds.
    #[must_use]
    pub fn hash_ttl_ms(&self) -> u64 {
        (self.ttl * HASH_LEASES).max(Duration::from_secs(60)).as_millis() as u64
    }

    /// The time between two heartbeats of a node: one second, or less if leases are short.
    #[must_use]
    pub fn heartbeat_interval(&self) -> Duration {
        (self.ttl / 4).min(Duration::from_secs(1))
    }

    /// The value of a user's key.
    #[must_use]
    pub fn user_value(&self, holds: &LocalHolds) -> String {
        let mut buffer = BytesMut::with_capacity(128);
        buffer.extend_from_slice(br#"{"node":"#);
        put_string(&mut buffer, &self.node);
        buffer.extend_from_slice(br#","since":"#);
        put_number(&mut buffer, holds.since_unix_ms);
        buffer.extend_from_slice(br#","rooms":{"#);
        put_list(&mut buffer, &holds.rooms, |buffer, (room, state)| {
            put_string(buffer, room);
            buffer.extend_from_slice(b":");
            let state = state.as_ref().filter(|state| !state.is_cleared());
            buffer.extend_from_slice(state.map_or("null", State::as_str).as_bytes());
        });
        buffer.extend_from_slice(b"}}");
        // All parts are text.
        String::from_utf8(buffer.into()).unwrap_or_default()
    }
}

/// The metadata of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// The last event that the hash includes.
    pub last_seq: LastSeq,
    /// How often the hash has been rewritten.
    pub revision: u64,
}

/// The last event that a hash includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastSeq {
    /// The hash is complete up to this event.
    Complete(u64),
    /// The hash is being rewritten.
    Partial,
}

impl Metadata {
    /// Reads the reply to [`HashMetadata`](super::command::RedisCommand::HashMetadata): `None` if the hash does not
    /// exist, or the key holds something else.
    ///
    /// # Errors
    /// The error that Redis reports.
    pub fn parse(reply: Option<&RedisReply>) -> Result<Option<Self>, String> {
        match reply {
            Some(RedisReply::Texts(texts)) => Ok(match &texts[..] {
                [Some(last_seq), Some(revision)] => LastSeq::parse(last_seq)
                    .zip(revision.parse().ok())
                    .map(|(last_seq, revision)| Self { last_seq, revision }),
                _ => None,
            }),
            Some(RedisReply::WrongType) => Ok(None),
            Some(reply) => Err(reply.error_text()),
            None => Err("an empty reply".to_owned()),
        }
    }
}

impl LastSeq {
    /// The value of [`LAST_SEQ_FIELD`].
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Complete(seq) => seq.to_string(),
            Self::Partial => PARTIAL.to_owned(),
        }
    }

    /// Reads the value; `None` if it is neither a number nor `partial`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == PARTIAL { Some(Self::Partial) } else { parse_number(text).map(Self::Complete) }
    }
}

/// The field of a user in a room: the room with its colons and percent signs escaped, a colon, the user.
#[must_use]
pub fn member_field(room: &str, user: &str) -> String {
    match room.contains(['%', ':']) {
        true => format!("{}:{user}", room.replace('%', "%25").replace(':', "%3A")),
        false => format!("{room}:{user}"),
    }
}

/// The field with the number of observers of a room. A user id is never empty, so it differs from the fields of
/// members.
#[must_use]
pub fn observers_field(room: &str) -> String {
    member_field(room, "")
}

/// The room of a field, and its user; without a user, it is a field with a number of observers. `None` if the field is
/// not of this form.
#[must_use]
pub fn parse_field(field: &str) -> Option<(String, Option<&str>)> {
    let (room, user) = field.split_once(':')?;
    let room = room.replace("%3A", ":").replace("%25", "%");
    let user = Some(user).filter(|user| !user.is_empty());
    let is_valid = check_id(&room).is_ok() && user.is_none_or(|user| check_id(user).is_ok());
    is_valid.then_some((room, user))
}

/// A number that another node has written. Numbers from 2⁵³ on (the limit of JSON numbers) are refused: no node counts
/// that far.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number < 1 << 53)
}

/// A hold in a hash or an event: since when, and the state with the time at which it was written. Tabs separate the
/// parts: names and compact JSON contain none.
#[must_use]
pub fn encode_hold(since_unix_ms: u64, state: Option<&State>) -> String {
    match state {
        Some(state) => format!("{since_unix_ms}\t{}\t{}", state.written_unix_ms(), state.as_str()),
        None => since_unix_ms.to_string(),
    }
}

/// Reads what [`encode_hold`] writes; `None` if it is invalid. A state is copied into frames unchanged, so it is
/// checked here.
#[must_use]
pub fn parse_hold(text: &str, json: &mut Reader) -> Option<(u64, Option<State>)> {
    let mut parts = text.splitn(3, '\t');
    let since = parse_number(parts.next()?)?;
    let Some(written) = parts.next() else { return Some((since, None)) };
    let (written, state) = (parse_number(written)?, parts.next()?);
    let is_state = state.is_empty() || state.len() <= MAX_STATE_BYTES && is_object(json, state);
    is_state.then(|| (since, Some(State::written(state, written))))
}

/// The number in the name of an incarnation; later incarnations have greater numbers. A name without one comes last.
#[must_use]
pub fn incarnation_number(name: &str) -> u64 {
    name.rsplit_once('.').and_then(|(_, number)| u64::from_str_radix(number, 16).ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schema(partitions: usize) -> Schema {
        let (node, incarnation) = ("n1".to_owned(), "n1.18c".to_owned());
        Schema { prefix: "presence".to_owned(), partitions, node, incarnation, ttl: Duration::from_secs(10) }
    }

    #[test]
    fn keys_are_as_documented() {
        let schema = schema(1);
        assert_eq!(schema.user_key("alice"), "presence:{0}:u:alice");
        assert_eq!(schema.hash_key(0, "n1.18c"), "presence:{0}:h:n1.18c");
        assert_eq!(schema.events_channel(0), "presence:{0}:events");
        assert_eq!(schema.lease_key("n1.18c"), "presence:{nodes}:incarnation:n1.18c");
        // zlib.crc32(b"alice") % 16 in Python.
        assert_eq!(self::schema(16).partition_of("alice"), 0x278e_bc47_usize % 16);
    }

    #[test]
    fn invalid_values_of_other_nodes_are_refused() {
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
        assert_eq!(parse_field("lobby:al\nice"), None);
        assert_eq!(parse_field(":"), None);
        assert_eq!(LastSeq::parse("12x"), None);
    }

    proptest! {
        #[test]
        fn fields_are_read_back(room in "[^\\pC]{1,20}", user in "[^\\pC]{1,20}") {
            let (member, observers) = (member_field(&room, &user), observers_field(&room));
            prop_assert_eq!(parse_field(&member), Some((room.clone(), Some(user.as_str()))));
            prop_assert_eq!(parse_field(&observers), Some((room, None)));
        }
    }

    #[test]
    fn incarnations_are_ordered_by_their_numbers() {
        assert!(incarnation_number("b.9") < incarnation_number("a.10"));
        assert_eq!(incarnation_number("node.1.ff"), 255);
        assert_eq!(incarnation_number("no number"), u64::MAX);
    }
}
