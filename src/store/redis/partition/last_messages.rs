//! The last messages of rooms in one partition: a key per room, which each node that publishes overwrites.
//!
//! If nodes publish at the same moment, the key may have the earlier message; the node that published the other one
//! hears of the earlier one, and writes again. A key that was lost is written only if no node was faster.

use std::sync::Arc;
use std::time::Duration;

use super::super::command::{RedisCommand, RedisReply};
use super::super::event::is_message_data;
use super::super::schema::{Schema, parse_number};
use super::{Partition, WriteBatch};
use crate::json::Reader;
use crate::presence::{Form, MessageStamp};
use crate::store::{Answer, LastMessage, LastMessages, Taken, Unwritten};

/// The limit of bytes of last messages per pipeline.
const MAX_WRITTEN_BYTES: usize = 256 * 1024;
/// The limit of bytes that are written again between two heartbeats, because Redis has lost them: heartbeats wait
/// meanwhile.
pub(super) const MAX_RESENT_BYTES: usize = 4 * 1024 * 1024;

impl Partition {
    /// Writes the last messages of its rooms.
    #[must_use]
    pub fn with_last_messages(self, last_messages: Arc<LastMessages>) -> Self {
        Self { last_messages, ..self }
    }

    /// The number of last messages that may be written before the next heartbeat.
    pub(super) fn pending_last_messages(&self) -> usize {
        let lost = if self.resendable_bytes > 0 { self.last_messages.lost_messages(self.number) } else { 0 };
        self.last_messages.unwritten(self.number) + lost
    }

    /// Adds commands that write some of the messages that are not written.
    pub(super) fn write_last_messages(&mut self, batch: &mut WriteBatch) {
        let mut taken = self.last_messages.take_unwritten(self.number, MAX_WRITTEN_BYTES);
        let free = MAX_WRITTEN_BYTES.saturating_sub(bytes(&taken));
        let lost = self.last_messages.take_lost(self.number, free.min(self.resendable_bytes));
        self.resendable_bytes = self.resendable_bytes.saturating_sub(bytes(&lost));
        taken.extend(lost);
        for Taken { room, how, message, left } in taken {
            let (key, value) = (self.schema.last_key(&room), encode(&message));
            // `SET` accepts no time of 0.
            let ttl_ms = (left.as_millis() as u64).max(1);
            batch.commands.push(match how {
                Unwritten::New | Unwritten::Repaired => RedisCommand::Set { key, value, ttl_ms },
                Unwritten::Lost => RedisCommand::SetIfAbsent { key, value, ttl_ms },
            });
            // Behind the command, in the same pipeline: other nodes that read again find it.
            self.has_unpublished |= how == Unwritten::Repaired;
            batch.last_messages.push((room, how));
        }
    }

    /// Whether other nodes are to be told to read last messages that were not published. Not before all are written.
    pub(super) fn take_unpublished(&mut self) -> bool {
        let may_tell = !self.publish_refused && self.last_messages.unwritten(self.number) == 0;
        may_tell && std::mem::take(&mut self.has_unpublished)
    }
}

fn bytes(taken: &[Taken]) -> usize {
    taken.iter().map(|taken| taken.room.len() + taken.message.data.len()).sum()
}

/// The commands that read the last messages of these rooms.
#[must_use]
pub fn read(rooms: &[Arc<str>], schema: &Schema) -> Vec<RedisCommand> {
    let keys: Vec<_> = rooms.iter().map(|room| schema.last_key(room)).collect();
    let times: Vec<_> = keys.iter().cloned().map(RedisCommand::TimeToLive).collect();
    [RedisCommand::MultiGet(keys)].into_iter().chain(times).collect()
}

/// The replies to [`read`], by room.
///
/// # Errors
/// The error that Redis reports.
pub fn answers(
    rooms: Vec<Arc<str>>,
    replies: &[RedisReply],
    latest_unix_ms: u64,
) -> Result<Vec<(Arc<str>, Answer)>, String> {
    let (texts, times) = match replies {
        [RedisReply::Texts(texts), times @ ..] => (texts, times),
        [reply, ..] => return Err(reply.error_text()),
        [] => return Err("an empty reply".to_owned()),
    };
    let mut json = Reader::default();
    let answers = rooms.into_iter().zip(texts.iter().zip(times)).map(|(room, (text, time))| {
        let message = text.as_deref().and_then(|text| parse(text, &mut json));
        let message = message.filter(|message| message.stamp.unix_ms <= latest_unix_ms);
        let left = match time {
            RedisReply::Number(ms) => u64::try_from(*ms).ok().map(Duration::from_millis),
            _ => None,
        };
        (room, message.zip(left))
    });
    Ok(answers.collect())
}

/// The value of a key. Tabs separate the parts: compact JSON contains none.
fn encode(message: &LastMessage) -> String {
    let LastMessage { data, stamp: MessageStamp { unix_ms, incarnation, number } } = message;
    format!("{unix_ms}\t{incarnation:x}\t{number}\t{data}")
}

/// Reads what [`encode`] writes; `None` if it is invalid.
fn parse(text: &str, json: &mut Reader) -> Option<LastMessage> {
    let mut parts = text.splitn(4, '\t');
    let unix_ms = parse_number(parts.next()?)?;
    let incarnation = u64::from_str_radix(parts.next()?, 16).ok()?;
    let number = parse_number(parts.next()?)?;
    let data = parts.next().filter(|data| is_message_data(Form::Event, data, json))?;
    Some(LastMessage { stamp: MessageStamp { unix_ms, incarnation, number }, data: data.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> LastMessage {
        let data = r#"{"event":"e","data":"\t"}"#.into();
        LastMessage { stamp: MessageStamp { unix_ms: 1_700_000_000_000, incarnation: 0x18c, number: 7 }, data }
    }

    #[test]
    fn values_are_read_back_and_invalid_ones_are_ignored() {
        let mut json = Reader::default();
        assert_eq!(parse(&encode(&message()), &mut json), Some(message()));
        for text in ["", "1\t2\t3", "x\t2\t3\t1", "1\tx y\t3\t1", "1\t2\t3\t{", "-1\t2\t3\t1"] {
            assert_eq!(parse(text, &mut json), None, "{text:?}");
        }
    }

    #[test]
    fn answers_have_the_time_that_is_left() {
        let rooms = || vec!["a".into(), "b".into(), "c".into()];
        let texts = RedisReply::Texts(vec![Some(encode(&message())), None, Some("garbage".to_owned())]);
        let times = [5, -2, 5].map(RedisReply::Number);
        let replies: Vec<_> = [texts].into_iter().chain(times).collect();
        let expected = [Some((message(), Duration::from_millis(5))), None, None];
        let read = |latest| answers(rooms(), &replies, latest).unwrap().into_iter().map(|(_, answer)| answer);
        assert_eq!(read(u64::MAX).collect::<Vec<_>>(), expected);
        assert_eq!(read(5).flatten().count(), 0, "its time is that of a wrong clock");
        assert!(answers(rooms(), &[RedisReply::WrongType], 5).is_err() && answers(rooms(), &[], 5).is_err());
    }
}
