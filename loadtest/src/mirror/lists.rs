//! The mirrors of those who are told the whole list each time (online-users). As with diffs, a list that is known by
//! its bytes is not parsed again.

use std::collections::VecDeque;

use super::arrivals::Arrivals;
use super::members::Members;
use super::wire::{List, read};
use super::{Complaints, Seen, Truth};
use crate::connection::Message;
use crate::protocol::{Dialect, message_kind};

/// Lists held although all have read them: a server that tells the same set in another order is not parsed each time.
const KEPT: usize = 8;

#[derive(Debug)]
pub(crate) struct Lists {
    dialect: Dialect,
    /// By observer: the number of the list that it read last.
    read: Vec<Option<u64>>,
    /// Different lists in the order in which somebody first read them; the last is number `newest`.
    entries: VecDeque<Entry>,
    newest: u64,
    /// Of the newest list.
    members: Members,
    pub(crate) complaints: Complaints,
}

#[derive(Debug)]
struct Entry {
    bytes: Box<[u8]>,
    /// Users that are in it and not in the one before, or the other way round.
    changes: u32,
    joined_ns: Vec<u64>,
}

impl Lists {
    pub(crate) fn new(dialect: Dialect, observers: usize) -> Self {
        Self {
            dialect,
            read: vec![None; observers],
            entries: VecDeque::new(),
            newest: 0,
            members: Members::default(),
            complaints: Complaints::default(),
        }
    }

    /// What an observer has read. Returns what it saw, if that was a list.
    #[inline]
    pub(crate) fn take(
        &mut self,
        observer: usize,
        message: &Message<'_>,
        arrivals: &mut Arrivals,
        now_ns: u64,
    ) -> Option<Seen> {
        let next = self.read[observer].map_or(self.newest, |number| number + 1);
        let number = (next..=self.newest).find(|number| self.is(*number, message.payload));
        let number = match number {
            Some(number) => number,
            None if message_kind(message.payload) != Some("online_users") => return None,
            None => match self.append(message, arrivals) {
                Ok(()) => self.newest,
                Err(complaint) => {
                    self.complaints.add(format!("{}: {complaint}", self.dialect.user(observer)));
                    return Some(Seen { changes: 0 });
                }
            },
        };
        // Lists that a server left out for this observer are in the one that it got.
        let mut changes = 0;
        if self.read[observer].is_some() {
            for entry in (next..=number).filter_map(|number| self.entry(number)) {
                changes += entry.changes;
                arrivals.read(&entry.joined_ns, now_ns);
            }
        }
        self.read[observer] = Some(number);
        Some(Seen { changes })
    }

    /// The connection is gone; nobody waits for it.
    pub(crate) fn closed(&mut self, observer: usize) {
        self.read[observer] = None;
    }

    /// How the last lists of the observers differ from the truth.
    pub(crate) fn differences(&self, truth: &Truth) -> Complaints {
        let mut complaints = Complaints::default();
        let newest = self.members.difference(&truth.members);
        for (observer, number) in self.read.iter().enumerate() {
            let difference = match number {
                None => Some("has seen nothing".to_owned()),
                Some(number) if *number == self.newest => newest.clone(),
                Some(number) => match self.entry(*number).map(|entry| parse(&entry.bytes, true)) {
                    Some(Ok(members)) => members.difference(&truth.members),
                    _ => Some("was not told the last lists".to_owned()),
                },
            };
            if let Some(difference) = difference {
                complaints.add(format!("{}: {difference}", self.dialect.user(observer)));
            }
        }
        complaints
    }

    fn append(&mut self, message: &Message<'_>, arrivals: &mut Arrivals) -> Result<(), String> {
        let members = parse(message.payload, message.is_whole)?;
        let joined: Vec<&str> = members.names().filter(|name| !self.members.contains(name)).collect();
        let left = self.members.names().filter(|name| !members.contains(name)).count();
        let entry = Entry {
            bytes: message.payload.into(),
            changes: u32::try_from(joined.len() + left).unwrap_or(u32::MAX),
            joined_ns: joined.iter().map(|name| arrivals.told(self.dialect.index_of(name))).collect(),
        };
        self.forget();
        self.entries.push_back(entry);
        self.newest += 1;
        self.members = members;
        Ok(())
    }

    fn is(&self, number: u64, bytes: &[u8]) -> bool {
        self.entry(number).is_some_and(|entry| *entry.bytes == *bytes)
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        let back = usize::try_from(self.newest.checked_sub(number)?).ok()?;
        self.entries.get(self.entries.len().checked_sub(1 + back)?)
    }

    /// Drops lists that everybody has read.
    fn forget(&mut self) {
        if self.entries.len() <= KEPT {
            return;
        }
        let slowest = self.read.iter().flatten().min().copied().unwrap_or(self.newest);
        let unread = usize::try_from(self.newest - slowest).unwrap_or(usize::MAX);
        let keep = unread.saturating_add(1).max(KEPT);
        self.entries.drain(..self.entries.len().saturating_sub(keep));
    }
}

fn parse(bytes: &[u8], is_whole: bool) -> Result<Members, String> {
    let list: List<'_> = read(bytes, is_whole)?;
    let members: Members = list.users.iter().map(|user| &**user).collect();
    if members.len() == list.users.len() { Ok(members) } else { Err("a list names somebody twice".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;

    const DIALECT: Dialect = Dialect { protocol: Protocol::OnlineUsers, rooms: 1, first_user: 0 };

    fn list(users: &[&str]) -> String {
        format!(r#"{{"type": "online_users", "users": {users:?}}}"#)
    }

    /// Tells each observer its lists; `truth` is who is online at the end.
    fn check(told: &[&[String]], truth: &[&str], wrong: u64) -> Lists {
        let mut lists = Lists::new(DIALECT, told.len());
        let mut arrivals = Arrivals::new();
        for (observer, payloads) in told.iter().enumerate() {
            for payload in *payloads {
                let message = Message { payload: payload.as_bytes(), is_whole: true };
                assert!(lists.take(observer, &message, &mut arrivals, 0).is_some());
            }
        }
        let members = truth.iter().copied().collect();
        let truth = Truth { room: "lobby".into(), epoch: String::new(), seq: 0, members };
        assert_eq!(lists.differences(&truth).count, wrong, "{:?}", lists.differences(&truth));
        lists
    }

    #[test]
    fn the_last_list_counts_in_any_order() {
        let (ab, ba) = (list(&["a", "b"]), list(&["b", "a"]));
        check(&[&[list(&["a"]), ab.clone()], &[ba]], &["a", "b"], 0);
        check(&[&[list(&["a"]), ab.clone()], &[list(&["a"])]], &["a", "b"], 1);
        check(&[&[ab], &[]], &["a"], 2);
    }

    #[test]
    fn a_name_twice_is_a_complaint() {
        assert_eq!(check(&[&[list(&["a", "a"])]], &["a"], 1).complaints.count, 1);
    }

    #[test]
    fn what_all_have_read_is_forgotten() {
        let many: Vec<String> = (0..50).map(|number| list(&["a", &format!("n{number}")])).collect();
        let lists = check(&[&many], &["a", "n49"], 0);
        assert!(lists.entries.len() <= KEPT + 1, "{}", lists.entries.len());
    }
}
