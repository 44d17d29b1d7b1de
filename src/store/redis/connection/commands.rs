//! Commands and replies in the form of the `redis` crate.

use redis::{Cmd, Value};

use super::super::command::{RedisCommand, RedisReply};
use super::super::schema::{LAST_SEQ_FIELD, REVISION_FIELD};
use super::error_text;

/// The length of `SET`, `PX` and the longest number.
const SET_OVERHEAD_BYTES: usize = 3 + 2 + 20;
/// The number of fields per page of a hash, roughly.
const SCAN_COUNT: usize = 1000;
/// Scores are floating-point numbers. Nodes write whole ones, which are exact up to this one.
const MAX_SCORE: f64 = (1_u64 << 53) as f64;

/// The command for the wire. On a cluster, events use sharded channels.
pub(super) fn pack(command: &RedisCommand, is_cluster: bool) -> Cmd {
    use RedisCommand as Command;
    let mut packed = match command {
        // Nearly all commands are of this kind: allocate room for its five arguments at once.
        Command::Set { key, value, .. } => Cmd::with_capacity(5, key.len() + value.len() + SET_OVERHEAD_BYTES),
        _ => Cmd::new(),
    };
    match command {
        Command::Set { key, value, ttl_ms } => put_ttl(packed.arg("SET").arg(key).arg(value), *ttl_ms),
        Command::SetIfAbsent { key, value, ttl_ms } => {
            put_ttl(packed.arg("SET").arg(key).arg(value).arg("NX"), *ttl_ms)
        }
        Command::Unlink(key) => packed.arg("UNLINK").arg(key),
        Command::Expire { key, ttl_ms } => packed.arg("PEXPIRE").arg(key).arg(*ttl_ms),
        Command::MultiGet(keys) => packed.arg("MGET").arg(keys),
        Command::HashSet { key, fields } => {
            let packed = packed.arg("HSET").arg(key);
            fields.iter().fold(packed, |packed, (field, value)| packed.arg(field).arg(value))
        }
        Command::HashDelete { key, fields } => packed.arg("HDEL").arg(key).arg(fields),
        Command::HashIncrement { key, field, by } => packed.arg("HINCRBY").arg(key).arg(*field).arg(*by),
        Command::TimeToLive(key) => packed.arg("PTTL").arg(key),
        Command::HashMetadata(key) => packed.arg("HMGET").arg(key).arg(LAST_SEQ_FIELD).arg(REVISION_FIELD),
        Command::HashScan { key, cursor } => packed.arg("HSCAN").arg(key).arg(*cursor).arg("COUNT").arg(SCAN_COUNT),
        Command::SortedSetAdd { key, members } => {
            let packed = packed.arg("ZADD").arg(key);
            members.iter().fold(packed, |packed, (score, member)| packed.arg(*score).arg(member))
        }
        Command::SortedSetTrim { key, keep } => packed.arg("ZREMRANGEBYRANK").arg(key).arg(0).arg(-1 - (*keep as i64)),
        Command::SortedSetLast { key, last, score } => {
            packed.arg("ZREVRANGEBYSCORE").arg(key).arg(*score).arg("-inf").arg("LIMIT").arg(0).arg(*last)
        }
        Command::SortedSetScores { key, last } => {
            packed.arg("ZRANGE").arg(key).arg(-(*last as i64)).arg(-1).arg("WITHSCORES")
        }
        Command::SortedSetRemove { key, members } => packed.arg("ZREM").arg(key).arg(members),
        Command::SortedSetRemoveBelow { key, score } => packed.arg("ZREMRANGEBYSCORE").arg(key).arg("-inf").arg(*score),
        Command::SortedSetRemoveAbove { key, score } => {
            packed.arg("ZREMRANGEBYSCORE").arg(key).arg(format!("({score}")).arg("+inf")
        }
        Command::Time => packed.arg("TIME"),
        Command::SetAdd { key, member } => packed.arg("SADD").arg(key).arg(member),
        Command::SetRemove { key, member } => packed.arg("SREM").arg(key).arg(member),
        Command::SetMembers(key) => packed.arg("SMEMBERS").arg(key),
        Command::Publish { channel, message } => {
            let word = if is_cluster { "SPUBLISH" } else { "PUBLISH" };
            packed.arg(word).arg(channel).arg(message)
        }
    };
    packed
}

/// Whole seconds as `EX`, which is what people write; other times in milliseconds.
fn put_ttl(packed: &mut Cmd, ttl_ms: u64) -> &mut Cmd {
    match ttl_ms.is_multiple_of(1000) {
        true => packed.arg("EX").arg(ttl_ms / 1000),
        false => packed.arg("PX").arg(ttl_ms),
    }
}

/// The reply to a command. `moved` says whether it comes from the server to which the slot is moving.
pub(super) fn reply(command: &RedisCommand, value: Value, moved: bool) -> RedisReply {
    use RedisCommand as Command;
    let is_for_texts = matches!(
        command,
        Command::MultiGet(_) | Command::SetMembers(_) | Command::HashMetadata(_) | Command::SortedSetLast { .. }
    );
    match (command, value) {
        (_, Value::ServerError(error)) if error.code() == "WRONGTYPE" => RedisReply::WrongType,
        (_, Value::ServerError(error)) => RedisReply::Error(error_text(&error)),
        (Command::HashIncrement { .. } | Command::TimeToLive(_), Value::Int(number)) => RedisReply::Number(number),
        (Command::Expire { .. }, Value::Int(0)) => RedisReply::Missing,
        (_, Value::Array(values) | Value::Set(values)) if is_for_texts => {
            RedisReply::Texts(values.into_iter().map(text).collect())
        }
        (Command::HashScan { .. }, Value::Array(parts)) => page(parts, moved),
        (Command::Time, Value::Array(parts)) => time(parts),
        (Command::SortedSetScores { .. }, Value::Array(values)) => RedisReply::Scores(scores(values)),
        (_, value) if is_for_texts || matches!(command, Command::HashScan { .. } | Command::SortedSetScores { .. }) => {
            RedisReply::Error(format!("the reply is not a list: {value:.200?}"))
        }
        _ => RedisReply::Done,
    }
}

/// Seconds and microseconds.
fn time(parts: Vec<Value>) -> RedisReply {
    let mut numbers = parts.into_iter().map(|part| text(part)?.parse::<i64>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(seconds), Some(micros)) => RedisReply::Number(seconds.saturating_mul(1000).saturating_add(micros / 1000)),
        _ => RedisReply::Error("the reply is not a time".to_owned()),
    }
}

fn page(parts: Vec<Value>, moved: bool) -> RedisReply {
    let mut parts = parts.into_iter();
    let cursor = parts.next().and_then(text).and_then(|cursor| cursor.parse().ok());
    let (Some(cursor), Some(Value::Array(values))) = (cursor, parts.next()) else {
        return RedisReply::Error("the reply is not a page of a hash".to_owned());
    };
    let mut fields = Vec::with_capacity(values.len() / 2);
    let mut values = values.into_iter().map(text);
    while let (Some(field), Some(value)) = (values.next(), values.next()) {
        // Nodes write only text; skip anything else.
        fields.extend(field.zip(value));
    }
    RedisReply::Page { cursor, fields, moved }
}

/// Members with scores: pairs, or in RESP 2 one after the other. Anything that nodes do not write is left out.
fn scores(values: Vec<Value>) -> Vec<(String, u64)> {
    let is_pair = |value: &Value| matches!(value, Value::Array(_));
    let values: Vec<Value> = match values.first() {
        Some(first) if is_pair(first) => {
            let parts = |value| match value {
                Value::Array(pair) if pair.len() == 2 => pair,
                _ => Vec::new(),
            };
            values.into_iter().flat_map(parts).collect()
        }
        _ => values,
    };
    let mut scores = Vec::with_capacity(values.len() / 2);
    let mut values = values.into_iter();
    while let (Some(member), Some(score)) = (values.next(), values.next()) {
        let score = match score {
            Value::Double(score) => Some(score),
            score => text(score).and_then(|score| score.parse().ok()),
        };
        let score = score.filter(|score: &f64| (0.0..MAX_SCORE).contains(score)).map(|score| score as u64);
        scores.extend(text(member).zip(score));
    }
    scores
}

/// A text; `None` if it is something else.
pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
