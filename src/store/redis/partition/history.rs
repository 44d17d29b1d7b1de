//! The histories of rooms in one partition: messages of the partition's users, in a sorted set per room.
//!
//! Every node knows the same set, limited to the latest messages. This node writes the messages that Redis lacks and
//! reads those that it lacks itself, so all nodes agree in the end, after any outage or loss of data. Writing a message
//! twice changes nothing.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::super::command::{RedisCommand, RedisReply};
use super::super::event::is_message_data;
use super::super::field::{decode_user, encode_user};
use super::super::schema::{Schema, parse_number};
use super::Partition;
use crate::json::Reader;
use crate::presence::{Form, MessageStamp, Tick, is_stored_id};
use crate::store::{History, KeptMessage};

/// A history expires this long after its last message.
const HISTORY_TTL_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// The limit of bytes of messages that are added to a pipeline because Redis lacks them.
const MAX_MISSING_BYTES: usize = 256 * 1024;

/// Scores are floating-point numbers, which are exact up to this one.
const MAX_SCORE: u64 = 1 << 53;

/// The histories of one partition.
#[derive(Debug)]
pub(super) struct Histories {
    rooms: Vec<RoomHistory>,
    max_messages: usize,
    /// The key of a history holds something else.
    is_spoiled: bool,
    /// Messages of later times have their times from wrong clocks: they are neither read nor written, and removed.
    latest_unix_ms: u64,
}

#[derive(Debug)]
struct RoomHistory {
    room: Arc<str>,
    known: History<KeptMessage>,
    /// Known messages that Redis lacks.
    missing: BTreeSet<MessageStamp>,
    /// Messages that Redis lacked and that were written over this connection. If they are not among the latest in Redis
    /// nevertheless, something else takes their place there, and nodes would ask each other to read forever.
    repaired: BTreeSet<MessageStamp>,
    /// When the expiry was last set over this connection.
    renewed: Option<Tick>,
}

impl Histories {
    pub(super) fn new(rooms: &[Arc<str>], max_messages: usize) -> Self {
        let history = |room: &Arc<str>| RoomHistory {
            room: Arc::clone(room),
            known: History::new(max_messages),
            missing: BTreeSet::new(),
            repaired: BTreeSet::new(),
            renewed: None,
        };
        let rooms = if max_messages == 0 { Vec::new() } else { rooms.iter().map(history).collect() };
        Self { rooms, max_messages, is_spoiled: false, latest_unix_ms: u64::MAX }
    }

    /// Removes messages of later times than this, and accepts no more of them. True if there were any: they may have
    /// displaced others.
    pub(super) fn set_latest(&mut self, unix_ms: u64) -> bool {
        self.latest_unix_ms = unix_ms;
        let mut has_removed = false;
        for history in &mut self.rooms {
            if history.known.set_latest(unix_ms) {
                has_removed = true;
                history.missing.retain(|stamp| history.known.get(stamp).is_some());
            }
        }
        has_removed
    }

    /// Adds a message. False if it is known or too old, or if the room keeps no history.
    pub(super) fn add(&mut self, message: &KeptMessage) -> bool {
        let Some(history) = self.rooms.iter_mut().find(|history| history.room == message.room) else { return false };
        history.known.insert(message.stamp, message.bytes(), message.clone())
    }

    /// A message that this node has published cannot be written at once.
    pub(super) fn postpone(&mut self, room: &str, stamp: MessageStamp) {
        let history = self.rooms.iter_mut().find(|history| *history.room == *room);
        if let Some(history) = history {
            history.missing.insert(stamp);
        }
    }

    /// The connection is new: what Redis has must be read.
    pub(super) fn reconnected(&mut self) {
        for history in &mut self.rooms {
            history.missing.clear();
            history.repaired.clear();
            history.renewed = None;
        }
    }

    /// Redis has lost its data, or its keys hold something else.
    pub(super) fn lost(&mut self, is_spoiled: bool) {
        self.is_spoiled |= is_spoiled;
        for history in &mut self.rooms {
            history.missing = history.known.iter().map(|(stamp, _)| *stamp).collect();
            history.repaired.clear();
            history.renewed = None;
        }
    }

    /// The number of messages that Redis lacks.
    pub(super) fn missing(&self) -> usize {
        self.rooms.iter().map(|history| history.missing.len()).sum()
    }

    /// The commands that read all histories.
    pub(super) fn read(&self, schema: &Schema, partition: usize) -> Vec<RedisCommand> {
        let key = |history: &RoomHistory| schema.history_key(partition, &history.room);
        let (last, score) = (self.max_messages, self.latest_unix_ms.min(MAX_SCORE));
        self.rooms.iter().map(|history| RedisCommand::SortedSetLast { key: key(history), last, score }).collect()
    }

    /// Takes the replies to [`read`](Self::read). Returns the messages that this node did not know.
    ///
    /// # Errors
    /// The error that Redis reports.
    pub(super) fn merge(&mut self, replies: &[RedisReply], json: &mut Reader) -> Result<Vec<KeptMessage>, String> {
        let (mut new, mut is_spoiled) = (Vec::new(), false);
        for (history, reply) in self.rooms.iter_mut().zip(replies) {
            let texts = match reply {
                RedisReply::Texts(texts) => texts,
                RedisReply::WrongType => {
                    is_spoiled = true;
                    continue;
                }
                reply => return Err(reply.error_text()),
            };
            let mut present = HashSet::new();
            for message in texts.iter().flatten().filter_map(|text| parse_kept(&history.room, text, json)) {
                present.insert((message.stamp.incarnation, message.stamp.number));
                if history.known.insert(message.stamp, message.bytes(), message.clone()) {
                    new.push(message);
                }
            }
            let RoomHistory { known, repaired, .. } = &mut *history;
            repaired.retain(|stamp| known.get(stamp).is_some());
            let is_missing = |stamp: &&MessageStamp| {
                !present.contains(&(stamp.incarnation, stamp.number)) && !repaired.contains(stamp)
            };
            history.missing = known.iter().map(|(stamp, _)| stamp).filter(is_missing).copied().collect();
        }
        if is_spoiled {
            self.lost(true);
        }
        Ok(new)
    }

    /// Adds commands that write messages that were published, and some that Redis lacks. True if it lacked any: other
    /// nodes may lack them as well.
    pub(super) fn write(
        &mut self,
        published: &[(&Arc<str>, MessageStamp)],
        schema: &Schema,
        partition: usize,
        (now, renew_after): (Tick, Tick),
        commands: &mut Vec<RedisCommand>,
    ) -> bool {
        let is_spoiled = std::mem::take(&mut self.is_spoiled);
        let mut has_written_missing = false;
        for history in &mut self.rooms {
            let key = schema.history_key(partition, &history.room);
            if is_spoiled {
                commands.push(RedisCommand::Unlink(key.clone()));
            }
            let published = published.iter().filter(|(room, _)| **room == history.room);
            let mut stamps: BTreeSet<MessageStamp> = published.map(|(_, stamp)| *stamp).collect();
            has_written_missing |= history.take_missing(&mut stamps);
            let known = stamps.iter().filter_map(|stamp| history.known.get(stamp));
            let members: Vec<_> = known.map(|message| (message.stamp.unix_ms, encode_kept(message))).collect();
            if members.is_empty() {
                continue;
            }
            commands.push(RedisCommand::SortedSetAdd { key: key.clone(), members });
            if self.latest_unix_ms != u64::MAX {
                commands.push(RedisCommand::SortedSetRemoveAbove { key: key.clone(), score: self.latest_unix_ms });
            }
            // This node has dropped messages, or is about to: its history is as long as it may get.
            if history.known.dropped().is_some() || history.known.len() >= self.max_messages {
                commands.push(RedisCommand::SortedSetTrim { key: key.clone(), keep: history.known.len() });
            }
            if history.renewed.is_none_or(|renewed| now.saturating_sub(renewed) >= renew_after) {
                history.renewed = Some(now);
                commands.push(RedisCommand::Expire { key, ttl_ms: HISTORY_TTL_MS });
            }
        }
        has_written_missing
    }
}

impl Partition {
    /// Keeps histories of these rooms, with up to this number of messages.
    #[must_use]
    pub fn with_histories(self, rooms: &[Arc<str>], max_messages: usize) -> Self {
        Self { histories: Histories::new(rooms, max_messages), ..self }
    }

    /// Removes messages of later times than this, and accepts no more of them. True if there were any: the histories
    /// are to be read then.
    pub fn limit_times(&mut self, latest_unix_ms: u64) -> bool {
        self.histories.set_latest(latest_unix_ms)
    }

    /// The commands that read the histories.
    #[must_use]
    pub fn read_histories(&self) -> Vec<RedisCommand> {
        self.histories.read(&self.schema, self.number)
    }

    /// Takes the replies to [`read_histories`](Self::read_histories). Returns the messages that this node did not know;
    /// those that Redis lacks are written.
    ///
    /// # Errors
    /// The error that Redis reports.
    pub fn merge_histories(&mut self, replies: &[RedisReply], json: &mut Reader) -> Result<Vec<KeptMessage>, String> {
        self.histories.merge(replies, json)
    }

    /// Takes a message of another node that belongs to a history. False if it was known.
    pub fn add_kept(&mut self, message: &KeptMessage) -> bool {
        self.histories.add(message)
    }
}

impl RoomHistory {
    /// Moves messages that Redis lacks to `stamps`, the latest first. True if there were any.
    fn take_missing(&mut self, stamps: &mut BTreeSet<MessageStamp>) -> bool {
        let (before, mut bytes) = (stamps.len(), 0);
        while bytes < MAX_MISSING_BYTES
            && let Some(stamp) = self.missing.pop_last()
        {
            bytes += self.known.get(&stamp).map_or(0, KeptMessage::bytes);
            stamps.insert(stamp);
            self.repaired.insert(stamp);
        }
        stamps.len() > before
    }
}

/// A member of the sorted set. Tabs separate the parts: names and compact JSON contain none.
fn encode_kept(message: &KeptMessage) -> String {
    let KeptMessage { user, data, stamp: MessageStamp { unix_ms, incarnation, number }, .. } = message;
    let user = encode_user(user.as_deref().unwrap_or_default());
    format!("{unix_ms}\t{incarnation:x}\t{number}\t{user}\t{data}")
}

/// Reads what [`encode_kept`] writes; `None` if it is invalid.
fn parse_kept(room: &Arc<str>, text: &str, json: &mut Reader) -> Option<KeptMessage> {
    let mut parts = text.splitn(5, '\t');
    let unix_ms = parse_number(parts.next()?)?;
    let incarnation = u64::from_str_radix(parts.next()?, 16).ok()?;
    let number = parse_number(parts.next()?)?;
    let (user, data) = (Some(parts.next()?).filter(|user| !user.is_empty()).map(decode_user), parts.next()?);
    let is_valid = user.as_deref().is_none_or(is_stored_id) && is_message_data(Form::Plain, data, json);
    let stamp = MessageStamp { unix_ms, incarnation, number };
    is_valid.then(|| KeptMessage {
        room: Arc::clone(room),
        user: user.as_deref().map(Arc::from),
        data: data.into(),
        stamp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_back_and_invalid_ones_are_ignored() {
        let (room, mut json): (Arc<str>, _) = ("lobby".into(), Reader::default());
        let stamp = MessageStamp { unix_ms: 1_700_000_000_000, incarnation: 0x18c, number: 7 };
        for user in [Some("alice"), None] {
            let user = user.map(Arc::from);
            let message = KeptMessage { room: Arc::clone(&room), user, data: "{\"text\":\"hi\"}".into(), stamp };
            assert_eq!(parse_kept(&room, &encode_kept(&message), &mut json), Some(message));
        }
        for text in
            ["", "1\t2\t3\talice", "x\t2\t3\talice\t1", "1\tx y\t3\talice\t1", "1\t2\t3\talice\t{", "1\t2\t3\ta\nb\t1"]
        {
            assert_eq!(parse_kept(&room, text, &mut json), None, "{text:?}");
        }
    }

    #[test]
    fn messages_that_redis_lacks_are_written_once_whatever_takes_their_place_there() {
        let (room, mut json): (Arc<str>, _) = ("lobby".into(), Reader::default());
        let (prefix, node, incarnation) = ("p".to_owned(), "n1".to_owned(), "n1.1".to_owned());
        let ttl = std::time::Duration::from_secs(10);
        let identity = crate::store::redis::IdentityRules::default();
        let schema = Schema { prefix, partitions: 1, database: 0, node, incarnation, ttl, identity };
        let mut histories = Histories::new(std::slice::from_ref(&room), 2);
        let message = |number| KeptMessage {
            room: Arc::clone(&room),
            user: None,
            data: "1".into(),
            stamp: MessageStamp { unix_ms: 1, incarnation: 1, number },
        };
        assert!(histories.add(&message(9)) && histories.add(&message(10)));
        // Of messages with one time, Redis keeps those whose text is greater, and others do not belong there at all.
        let in_redis = [RedisReply::Texts(vec![Some(encode_kept(&message(9))), Some("garbage".to_owned())])];
        let mut repair = |histories: &mut Histories| {
            histories.merge(&in_redis, &mut json).unwrap();
            let mut commands = Vec::new();
            let is_announced = histories.write(&[], &schema, 0, (0, 100), &mut commands);
            assert_eq!(is_announced, !commands.is_empty());
            is_announced
        };
        assert_eq!([(); 3].map(|()| repair(&mut histories)), [true, false, false]);
        histories.reconnected();
        assert!(repair(&mut histories), "what Redis has is unknown after an outage");
        histories.lost(false);
        assert_eq!(histories.missing(), 2);
    }
}
