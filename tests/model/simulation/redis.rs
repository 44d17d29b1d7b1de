//! A Redis of the commands that the store uses, on simulated time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rollcall::store::redis::command::{Command, Reply};

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Hash(BTreeMap<String, String>),
    Set(BTreeSet<String>),
}

/// Keys with their ends, and messages for those who listen.
#[derive(Debug, Default)]
pub(crate) struct Redis {
    keys: HashMap<String, (Value, Option<u64>)>,
    pub(crate) published: Vec<(String, String)>,
    pub(crate) now_ms: u64,
}

impl Redis {
    /// Loses everything.
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
    }

    /// Puts something else under every hash.
    pub(crate) fn spoil(&mut self) {
        for (value, _) in self.keys.values_mut().filter(|(value, _)| !matches!(value, Value::Text(_))) {
            *value = Value::Text("something else".to_owned());
        }
    }

    pub(crate) fn run(&mut self, commands: &[Command]) -> Vec<Reply> {
        commands.iter().map(|command| self.act(command)).collect()
    }

    fn act(&mut self, command: &Command) -> Reply {
        let now = self.now_ms;
        self.keys.retain(|_, (_, ends)| ends.is_none_or(|ends| ends > now));
        match command {
            Command::Set { key, value, ttl_ms } => {
                self.keys.insert(key.clone(), (Value::Text(value.clone()), Some(now + ttl_ms)));
                Reply::Done
            }
            Command::Claim { key, value, ttl_ms } => {
                self.keys.entry(key.clone()).or_insert((Value::Text(value.clone()), Some(now + ttl_ms)));
                Reply::Done
            }
            Command::Unlink(key) => {
                self.keys.remove(key);
                Reply::Done
            }
            Command::Keep { key, ttl_ms } => {
                if let Some((_, ends)) = self.keys.get_mut(key) {
                    *ends = Some(now + ttl_ms);
                }
                Reply::Done
            }
            Command::Get(keys) => Reply::Texts(keys.iter().map(|key| self.text(key)).collect()),
            Command::Publish { channel, message } => {
                self.published.push((channel.clone(), message.clone()));
                Reply::Done
            }
            Command::HashSet { key, fields } => self.hash(key, |hash| {
                hash.extend(fields.iter().cloned());
                Reply::Done
            }),
            Command::HashRemove { key, fields } => self.hash(key, |hash| {
                fields.iter().for_each(|field| drop(hash.remove(field)));
                Reply::Done
            }),
            Command::HashCount { key, field, by } => self.hash(key, |hash| {
                let text = hash.entry((*field).to_owned()).or_insert("0".to_owned());
                let number = text.parse().unwrap_or(0) + *by as i64;
                *text = number.to_string();
                Reply::Number(number)
            }),
            Command::HashHead(key) => {
                self.hash(key, |hash| Reply::Texts(["@", "#"].map(|field| hash.get(field).cloned()).into()))
            }
            Command::HashScan { key, cursor } => self.hash(key, |hash| {
                // A few at a time: pages and events come in between each other. Each field has a place of its own, so that what is
                // there all the time is found.
                let page = |field: &str| field.bytes().map(u64::from).sum::<u64>() % 4;
                let fields = hash.clone().into_iter().filter(|(field, _)| page(field) == *cursor).collect();
                Reply::Page { cursor: (cursor + 1) % 4, fields }
            }),
            Command::SetAdd { key, member } => self.set(key, |set| {
                set.insert(member.clone());
                Reply::Done
            }),
            Command::SetRemove { key, member } => self.set(key, |set| {
                set.remove(member);
                Reply::Done
            }),
            Command::SetMembers(key) => self.set(key, |set| Reply::Texts(set.iter().cloned().map(Some).collect())),
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.keys.get(key) {
            Some((Value::Text(text), _)) => Some(text.clone()),
            _ => None,
        }
    }

    fn hash(&mut self, key: &str, act: impl FnOnce(&mut BTreeMap<String, String>) -> Reply) -> Reply {
        let (value, _) = self.keys.entry(key.to_owned()).or_insert((Value::Hash(BTreeMap::new()), None));
        let Value::Hash(hash) = value else { return Reply::WrongType };
        let reply = act(hash);
        if hash.is_empty() {
            self.keys.remove(key);
        }
        reply
    }

    fn set(&mut self, key: &str, act: impl FnOnce(&mut BTreeSet<String>) -> Reply) -> Reply {
        let (value, _) = self.keys.entry(key.to_owned()).or_insert((Value::Set(BTreeSet::new()), None));
        let Value::Set(set) = value else { return Reply::WrongType };
        let reply = act(set);
        if set.is_empty() {
            self.keys.remove(key);
        }
        reply
    }

    /// Whether no key would outlive all nodes.
    pub(crate) fn everything_ends(&self) -> bool {
        self.keys.values().all(|(_, ends)| ends.is_some())
    }

    /// Keys that a program outside would look at.
    pub(crate) fn texts(&self, prefix: &str) -> BTreeSet<String> {
        let now = self.now_ms;
        let alive = self.keys.iter().filter(|(_, (_, ends))| ends.is_none_or(|ends| ends > now));
        alive.filter_map(|(key, _)| key.strip_prefix(prefix).map(str::to_owned)).collect()
    }
}
