//! A simulated Redis with the commands that the store uses, on simulated time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rollcall::store::redis::command::{RedisCommand, RedisReply};

use super::EPOCH_MS;

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Hash(BTreeMap<String, String>),
    Set(BTreeSet<String>),
    SortedSet(BTreeSet<(u64, String)>),
}

/// Keys with their expiry times, and messages that were published.
#[derive(Debug, Default)]
pub(crate) struct SimulatedRedis {
    keys: HashMap<String, (Value, Option<u64>)>,
    pub(crate) published: Vec<(String, String)>,
    pub(crate) now_ms: u64,
    pub(crate) refuses_to_publish: bool,
}

impl SimulatedRedis {
    /// Loses all data.
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
    }

    /// Replaces every hash and set by a text.
    pub(crate) fn spoil(&mut self) {
        for (value, _) in self.keys.values_mut().filter(|(value, _)| !matches!(value, Value::Text(_))) {
            *value = Value::Text("something else".to_owned());
        }
    }

    pub(crate) fn execute(&mut self, commands: &[RedisCommand]) -> Vec<RedisReply> {
        commands.iter().map(|command| self.execute_one(command)).collect()
    }

    fn execute_one(&mut self, command: &RedisCommand) -> RedisReply {
        let now = self.now_ms;
        self.keys.retain(|_, (_, expiry)| expiry.is_none_or(|expiry| expiry > now));
        match command {
            RedisCommand::Set { key, value, ttl_ms } => {
                self.keys.insert(key.clone(), (Value::Text(value.clone()), Some(now + ttl_ms)));
                RedisReply::Done
            }
            RedisCommand::SetIfAbsent { key, value, ttl_ms } => {
                self.keys.entry(key.clone()).or_insert((Value::Text(value.clone()), Some(now + ttl_ms)));
                RedisReply::Done
            }
            RedisCommand::Unlink(key) => {
                self.keys.remove(key);
                RedisReply::Done
            }
            RedisCommand::Expire { key, ttl_ms } => {
                let Some((_, expiry)) = self.keys.get_mut(key) else { return RedisReply::Missing };
                *expiry = Some(now + ttl_ms);
                RedisReply::Done
            }
            RedisCommand::MultiGet(keys) => RedisReply::Texts(keys.iter().map(|key| self.text(key)).collect()),
            RedisCommand::Publish { .. } if self.refuses_to_publish => RedisReply::Error("NOPERM".to_owned()),
            RedisCommand::Publish { channel, message } => {
                self.published.push((channel.clone(), message.clone()));
                RedisReply::Done
            }
            RedisCommand::HashSet { key, fields } => self.with_hash(key, |hash| {
                hash.extend(fields.iter().cloned());
                RedisReply::Done
            }),
            RedisCommand::HashDelete { key, fields } => self.with_hash(key, |hash| {
                fields.iter().for_each(|field| drop(hash.remove(field)));
                RedisReply::Done
            }),
            RedisCommand::HashIncrement { key, field, by } => self.with_hash(key, |hash| {
                let text = hash.entry((*field).to_owned()).or_insert("0".to_owned());
                let number = text.parse().unwrap_or(0) + *by as i64;
                *text = number.to_string();
                RedisReply::Number(number)
            }),
            RedisCommand::HashMetadata(key) => {
                self.with_hash(key, |hash| RedisReply::Texts(["@", "#"].map(|field| hash.get(field).cloned()).into()))
            }
            RedisCommand::TimeToLive(key) => RedisReply::Number(match self.keys.get(key) {
                Some((_, Some(expiry))) => (expiry - now) as i64,
                Some((_, None)) => -1,
                None => -2,
            }),
            RedisCommand::HashScan { key, cursor } => self.with_hash(key, |hash| {
                // Small pages, so that events arrive in between. The page of a field never changes, so a field that
                // exists during the whole scan is found.
                let page = |field: &str| field.bytes().map(u64::from).sum::<u64>() % 4;
                let fields = hash.clone().into_iter().filter(|(field, _)| page(field) == *cursor).collect();
                RedisReply::Page { cursor: (cursor + 1) % 4, fields, moved: false }
            }),
            RedisCommand::SetAdd { .. }
            | RedisCommand::SetRemove { .. }
            | RedisCommand::SetMembers(_)
            | RedisCommand::SortedSetAdd { .. }
            | RedisCommand::SortedSetTrim { .. }
            | RedisCommand::SortedSetLast { .. }
            | RedisCommand::SortedSetScores { .. }
            | RedisCommand::SortedSetRemove { .. }
            | RedisCommand::SortedSetRemoveAbove { .. }
            | RedisCommand::SortedSetRemoveBelow { .. } => self.execute_on_set(command),
            RedisCommand::Time => RedisReply::Number((EPOCH_MS + now) as i64),
        }
    }

    fn execute_on_set(&mut self, command: &RedisCommand) -> RedisReply {
        match command {
            RedisCommand::SortedSetAdd { key, members } => self.with_sorted_set(key, |set| {
                set.extend(members.iter().cloned());
                RedisReply::Done
            }),
            RedisCommand::SortedSetScores { key, last } => self.with_sorted_set(key, |set| {
                let members = set.iter().skip(set.len().saturating_sub(*last));
                RedisReply::Scores(members.map(|(score, member)| (member.clone(), *score)).collect())
            }),
            RedisCommand::SortedSetRemove { key, members } => self.with_sorted_set(key, |set| {
                set.retain(|(_, member)| !members.contains(member));
                RedisReply::Done
            }),
            RedisCommand::SortedSetRemoveBelow { key, score } => self.with_sorted_set(key, |set| {
                set.retain(|(at, _)| at > score);
                RedisReply::Done
            }),
            RedisCommand::SortedSetRemoveAbove { key, score } => self.with_sorted_set(key, |set| {
                set.retain(|(at, _)| at <= score);
                RedisReply::Done
            }),
            RedisCommand::SortedSetTrim { key, keep } => self.with_sorted_set(key, |set| {
                while set.len() > *keep {
                    set.pop_first();
                }
                RedisReply::Done
            }),
            RedisCommand::SortedSetLast { key, last, score } => self.with_sorted_set(key, |set| {
                let members = set.iter().rev().filter(|(at, _)| at <= score).take(*last);
                RedisReply::Texts(members.map(|(_, member)| Some(member.clone())).collect())
            }),
            RedisCommand::SetAdd { key, member } => self.with_set(key, |set| {
                set.insert(member.clone());
                RedisReply::Done
            }),
            RedisCommand::SetRemove { key, member } => self.with_set(key, |set| {
                set.remove(member);
                RedisReply::Done
            }),
            RedisCommand::SetMembers(key) => {
                self.with_set(key, |set| RedisReply::Texts(set.iter().cloned().map(Some).collect()))
            }
            _ => RedisReply::Done,
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.keys.get(key) {
            Some((Value::Text(text), _)) => Some(text.clone()),
            _ => None,
        }
    }

    fn with_hash(&mut self, key: &str, act: impl FnOnce(&mut BTreeMap<String, String>) -> RedisReply) -> RedisReply {
        let (value, _) = self.keys.entry(key.to_owned()).or_insert((Value::Hash(BTreeMap::new()), None));
        let Value::Hash(hash) = value else { return RedisReply::WrongType };
        let reply = act(hash);
        if hash.is_empty() {
            self.keys.remove(key);
        }
        reply
    }

    fn with_set(&mut self, key: &str, act: impl FnOnce(&mut BTreeSet<String>) -> RedisReply) -> RedisReply {
        let (value, _) = self.keys.entry(key.to_owned()).or_insert((Value::Set(BTreeSet::new()), None));
        let Value::Set(set) = value else { return RedisReply::WrongType };
        let reply = act(set);
        if set.is_empty() {
            self.keys.remove(key);
        }
        reply
    }

    fn with_sorted_set(
        &mut self,
        key: &str,
        act: impl FnOnce(&mut BTreeSet<(u64, String)>) -> RedisReply,
    ) -> RedisReply {
        let (value, _) = self.keys.entry(key.to_owned()).or_insert((Value::SortedSet(BTreeSet::new()), None));
        let Value::SortedSet(set) = value else { return RedisReply::WrongType };
        let reply = act(set);
        if set.is_empty() {
            self.keys.remove(key);
        }
        reply
    }

    /// Whether every key expires.
    pub(crate) fn all_keys_expire(&self) -> bool {
        self.keys.values().all(|(_, expiry)| expiry.is_some())
    }

    /// What follows this prefix in the names of all living keys.
    pub(crate) fn names_after(&self, prefix: &str) -> BTreeSet<String> {
        let now = self.now_ms;
        let living = self.keys.iter().filter(|(_, (_, expiry))| expiry.is_none_or(|expiry| expiry > now));
        living.filter_map(|(key, _)| key.strip_prefix(prefix).map(str::to_owned)).collect()
    }
}
