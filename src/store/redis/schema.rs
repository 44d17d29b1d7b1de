//! Names of keys and formats of values in Redis. `docs/redis.md` documents them for other programs.
//!
//! ```text
//! presence:{k}:u:<user>               string, EX ttl   JSON: a node that holds the user, and rooms there
//! presence:{k}:h:<incarnation>        hash             what an incarnation holds in partition k:
//!                                                      "room:user" → since[\twritten\tstate[\tissued\tinfo]],
//!                                                      "room:" → number of observers, metadata "@" and "#"
//! presence:{k}:history:<room>          sorted set, EX 7 d  the latest messages of the partition's users
//! presence:{k}:last:<room>            string, EX 1800  the last message of the application to a room that keeps one
//! presence:{k}:webhooks               string, EX ttl   the node that delivers webhooks; see `delivery_leases`
//! presence:{k}:events[:<database>]    channel          changes of partition k; see `event`
//! presence:{nodes}:incarnations       set              incarnations that may be alive
//! presence:{nodes}:incarnation:<name> string, EX ttl   the lease of an incarnation, with the format of all this
//! presence:{nodes}:id:<node>          string, EX ttl   the incarnation that uses this node id
//! presence:{nodes}:revoked[:version]  sorted set       revocations, by their ends; which change is the last
//! ```
//!
//! The part in braces decides the slot on a cluster (Redis Cluster specification, "Hash tags"): all keys of a partition
//! are on one master and can share pipelines.

use std::time::Duration;

use bytes::BytesMut;

use super::command::RedisReply;
use super::identity::IdentityRules;
use crate::json::{Reader, is_object, is_valid, put_list, put_number, put_string};
use crate::presence::{Info, LocalRooms, MAX_STATE_BYTES, State};
use crate::store::deliveries::partition_of;

/// The version of these names and formats. A node refuses to start beside nodes that use another one.
///
/// 1: without a version in the lease. 2: names of keys and events as documented, numbers of observers, messages without
/// a user. 3: keys of users without states, with a list of rooms; histories, messages with their times; the ttl in the
/// lease, the database in the channel, the age of kicks. 4: infos of users behind their states. 5: rooms and users of
/// applications, messages that leave a connection out, of clients that are no members, to users; last messages.
pub const FORMAT: u64 = 5;
/// The metadata field with the number of the last event that the hash includes. All other fields have a colon.
pub const LAST_SEQ_FIELD: &str = "@";
/// The metadata field that counts rewrites of the hash. If it is the same before and after a scan, all pages are of one
/// revision.
pub const REVISION_FIELD: &str = "#";
/// The limit of rooms in a user's key.
pub const MAX_KEY_ROOMS: usize = 100;
/// The limit of bytes of their names together: 100 names of 40 bytes.
const MAX_KEY_ROOM_BYTES: usize = 4096;
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
    /// The number of the database. Channels are shared by all databases of a Redis, so their names include it.
    pub database: i64,
    /// The id of this node.
    pub node: String,
    /// The incarnation of this node: `<node id>.<number in hexadecimal>`. A restarted node has a new one.
    pub incarnation: String,
    /// The lease of keys.
    pub ttl: Duration,
    /// Where the identity of clients comes from.
    pub identity: IdentityRules,
}

impl Schema {
    /// The partition of a user: CRC-32 (IEEE, as in zlib) of the name, modulo the number of partitions.
    #[must_use]
    pub fn partition_of(&self, user: &str) -> usize {
        partition_of(user, self.partitions)
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

    /// The latest messages of a partition's users to a room.
    #[must_use]
    pub fn history_key(&self, partition: usize, room: &str) -> String {
        format!("{}:{{{partition}}}:history:{room}", self.prefix)
    }

    /// The last message of the application to a room that keeps one.
    #[must_use]
    pub fn last_key(&self, room: &str) -> String {
        format!("{}:{{{}}}:last:{room}", self.prefix, self.partition_of(room))
    }

    /// The channel of a partition's changes.
    #[must_use]
    pub fn events_channel(&self, partition: usize) -> String {
        match self.database {
            0 => format!("{}:{{{partition}}}:events", self.prefix),
            database => format!("{}:{{{partition}}}:events:{database}", self.prefix),
        }
    }

    /// The lease of a partition's webhooks.
    #[must_use]
    pub fn deliveries_key(&self, partition: usize) -> String {
        format!("{}:{{{partition}}}:webhooks", self.prefix)
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

    /// The list of revocations.
    #[must_use]
    pub fn revoked_key(&self) -> String {
        format!("{}:{{nodes}}:revoked", self.prefix)
    }

    /// Which change of the list of revocations is the last.
    #[must_use]
    pub fn revoked_version_key(&self) -> String {
        format!("{}:{{nodes}}:revoked:version", self.prefix)
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

    /// A node that has published nothing in a partition for this time cannot publish there: three heartbeats, and one
    /// second for a slow Redis.
    #[must_use]
    pub fn silence_limit(&self) -> Duration {
        self.heartbeat_interval() * 3 + Duration::from_secs(1)
    }

    /// When a hash was last renewed, in milliseconds before now, from the reply to
    /// [`TimeToLive`](super::command::RedisCommand::TimeToLive). `None` if the hash does not exist or does not expire.
    #[must_use]
    pub fn hash_age_ms(&self, reply: Option<&RedisReply>) -> Option<u64> {
        let Some(RedisReply::Number(left_ms)) = reply else { return None };
        let left_ms = u64::try_from(*left_ms).ok()?;
        Some(self.hash_ttl_ms().saturating_sub(left_ms))
    }

    /// The value of a user's key.
    #[must_use]
    pub fn user_value(&self, held: &LocalRooms) -> String {
        let mut buffer = BytesMut::with_capacity(128);
        buffer.extend_from_slice(br#"{"node":"#);
        put_string(&mut buffer, &self.node);
        buffer.extend_from_slice(br#","since":"#);
        put_number(&mut buffer, held.since_unix_ms);
        buffer.extend_from_slice(br#","rooms":["#);
        let mut bytes = 0;
        let fitting = held.rooms.iter().take(MAX_KEY_ROOMS).take_while(|room| {
            bytes += room.len();
            bytes <= MAX_KEY_ROOM_BYTES
        });
        put_list(&mut buffer, fitting, |buffer, room| put_string(buffer, room));
        buffer.extend_from_slice(b"]}");
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

/// A number that another node has written. Numbers from 2⁵³ on (the limit of JSON numbers) are refused: no node counts
/// that far.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number < 1 << 53)
}

/// A hold in a hash or an event: since when, the state with the time at which it was written, and the info with the
/// time at which its credential was issued. Tabs separate the parts: names and compact JSON contain none.
#[must_use]
pub fn encode_hold(since_unix_ms: u64, state: Option<&State>) -> String {
    match state {
        Some(state) => {
            let (written, json) = (state.written_unix_ms(), state.as_str());
            match state.info() {
                Some(info) => format!("{since_unix_ms}\t{written}\t{json}\t{}\t{}", info.issued_at(), info.as_str()),
                None => format!("{since_unix_ms}\t{written}\t{json}"),
            }
        }
        None => since_unix_ms.to_string(),
    }
}

/// Reads what [`encode_hold`] writes; `None` if it is invalid. States and infos are copied into frames unchanged, so
/// they are checked here. In the rooms of applications they are any JSON, and elsewhere objects.
#[must_use]
pub fn parse_hold(text: &str, is_internal: bool, json: &mut Reader) -> Option<(u64, Option<State>)> {
    let mut parts = text.splitn(5, '\t');
    let since = parse_number(parts.next()?)?;
    let Some(written) = parts.next() else { return Some((since, None)) };
    let (written, state) = (parse_number(written)?, parts.next()?);
    let info = match parts.next() {
        Some(issued_at) => Some((parse_number(issued_at)?, parts.next()?)),
        None => None,
    };
    let mut is_json = |text: &str| if is_internal { is_valid(text) } else { is_object(json, text) };
    let mut is_kept = |text: &str| text.is_empty() || text.len() <= MAX_STATE_BYTES && is_json(text);
    let are_valid = is_kept(state) && info.is_none_or(|(_, info)| is_kept(info));
    let info = info.map(|(issued_at, info)| Info::new(info, issued_at));
    are_valid.then(|| (since, Some(State::written(state, written).with_info(info))))
}

/// The number in the name of an incarnation; later incarnations have greater numbers. A name without one comes last.
#[must_use]
pub fn incarnation_number(name: &str) -> u64 {
    name.rsplit_once('.').and_then(|(_, number)| u64::from_str_radix(number, 16).ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(partitions: usize) -> Schema {
        let (node, incarnation) = ("n1".to_owned(), "n1.18c".to_owned());
        let prefix = "presence".to_owned();
        let identity = IdentityRules::default();
        Schema { prefix, partitions, database: 0, node, incarnation, ttl: Duration::from_secs(10), identity }
    }

    #[test]
    fn keys_are_as_documented() {
        let schema = schema(1);
        assert_eq!(schema.user_key("alice"), "presence:{0}:u:alice");
        assert_eq!(schema.hash_key(0, "n1.18c"), "presence:{0}:h:n1.18c");
        assert_eq!(schema.events_channel(0), "presence:{0}:events");
        assert_eq!(Schema { database: 4, ..schema.clone() }.events_channel(0), "presence:{0}:events:4");
        assert_eq!(schema.lease_key("n1.18c"), "presence:{nodes}:incarnation:n1.18c");
        // zlib.crc32(b"alice") % 16 in Python.
        assert_eq!(self::schema(16).partition_of("alice"), 0x278e_bc47_usize % 16);
    }

    #[test]
    fn invalid_values_of_other_nodes_are_refused() {
        let mut json = Reader::default();
        let mut check = |text: &str, want: Option<(u64, Option<&str>)>| {
            let read = parse_hold(text, false, &mut json);
            let read = read.as_ref().map(|(since, state)| (*since, state.as_ref().map(State::as_str)));
            assert_eq!(read, want, "{text:?}");
        };
        check("17", Some((17, None)));
        check("17\t18\t{\"a\":1}", Some((17, Some("{\"a\":1}"))));
        check("17\t18\t", Some((17, Some(""))));
        check("17\t18\t{}\t5\t{\"n\":1}", Some((17, Some("{}"))));
        check("17\t0\t\t5\t{\"n\":1}", Some((17, Some(""))));
        check("17\t18\t{}\t5", None);
        check("17\t18\t{}\t5\t[]", None);
        check("17\t18\t{}\tx\t{}", None);
        check("17\t18\t{}\t5\t{}\t6", None);
        check("17\t18", None);
        check("17\t18\t{\"a\":1", None);
        check("17\t18\t[1]", None);
        check(&format!("17\t18\t{{\"a\":\"{}\"}}", "x".repeat(1024)), None);
        check("", None);
        check("-1", None);
        check("9007199254740992", None);
        check("17\t18446744073709551615\t{}", None);
        assert_eq!(LastSeq::parse("12x"), None);
    }

    #[test]
    fn incarnations_are_ordered_by_their_numbers() {
        assert!(incarnation_number("b.9") < incarnation_number("a.10"));
        assert_eq!(incarnation_number("node.1.ff"), 255);
        assert_eq!(incarnation_number("no number"), u64::MAX);
    }
}
