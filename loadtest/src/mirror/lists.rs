//! Mirrors for the online-users protocol: each message lists all users. A list whose bytes are known is not parsed
//! again.

use std::collections::VecDeque;

use wire::room::{Members, difference};

use super::delivery::Delivery;
use super::join_times::JoinTimes;
use super::messages::{UserList, read};
use super::room_state::{RoomState, members_of};
use crate::connection::Message;
use crate::error_log::ErrorLog;
use crate::protocol::{ClientProtocol, message_kind};

/// Lists that are kept although all observers have received them. A server that repeats a set of users in another order
/// is then not parsed each time.
const KEPT: usize = 8;

#[derive(Debug)]
pub(crate) struct Lists {
    protocol: ClientProtocol,
    /// By observer: the number of the list that it received last.
    received: Vec<Option<u64>>,
    /// Different lists in the order in which an observer first received them. The last one has the number `newest`.
    entries: VecDeque<ListEntry>,
    newest: u64,
    /// The newest list.
    members: Members,
    pub(crate) errors: ErrorLog,
}

#[derive(Debug)]
struct ListEntry {
    bytes: Box<[u8]>,
    /// How many users joined or left since the previous list.
    changes: u32,
    joined_ns: Vec<u64>,
}

impl Lists {
    pub(crate) fn new(protocol: ClientProtocol, observers: usize) -> Self {
        Self {
            protocol,
            received: vec![None; observers],
            entries: VecDeque::new(),
            newest: 0,
            members: Members::default(),
            errors: ErrorLog::default(),
        }
    }

    /// Handles a message that an observer received. `None`: it is not a list.
    #[inline]
    pub(crate) fn apply(
        &mut self,
        observer: usize,
        message: &Message<'_>,
        join_times: &mut JoinTimes,
        now_ns: u64,
    ) -> Option<Delivery> {
        let next = self.received[observer].map_or(self.newest, |number| number + 1);
        let known = (next..=self.newest).find(|number| self.has_bytes(*number, message.payload));
        let number = match known {
            Some(number) => number,
            None if message_kind(message.payload) != Some("online_users") => return None,
            None => match self.append(message, join_times) {
                Ok(()) => self.newest,
                Err(error) => {
                    self.errors.add(format!("{}: {error}", self.protocol.user(observer)));
                    return Some(Delivery { changes: 0 });
                }
            },
        };
        // The list includes the changes of lists that the server skipped for this observer.
        let mut changes = 0;
        if self.received[observer].is_some() {
            for entry in (next..=number).filter_map(|number| self.entry(number)) {
                changes += entry.changes;
                join_times.record(&entry.joined_ns, now_ns);
            }
        }
        self.received[observer] = Some(number);
        Some(Delivery { changes })
    }

    /// The observer's connection is lost; entries do not wait for it.
    pub(crate) fn closed(&mut self, observer: usize) {
        self.received[observer] = None;
    }

    /// How the observers' last lists differ from the expected users.
    pub(crate) fn differences(&self, expected: &RoomState) -> ErrorLog {
        let mut errors = ErrorLog::default();
        let newest = difference(&self.members, &expected.members);
        for (observer, number) in self.received.iter().enumerate() {
            let difference = match number {
                None => Some("received nothing".to_owned()),
                Some(number) if *number == self.newest => newest.clone(),
                Some(number) => match self.entry(*number).map(|entry| parse(&entry.bytes, true)) {
                    Some(Ok(members)) => difference(&members, &expected.members),
                    _ => Some("did not receive the last lists".to_owned()),
                },
            };
            if let Some(difference) = difference {
                errors.add(format!("{}: {difference}", self.protocol.user(observer)));
            }
        }
        errors
    }

    fn append(&mut self, message: &Message<'_>, join_times: &mut JoinTimes) -> Result<(), String> {
        let members = parse(message.payload, message.is_whole)?;
        let joined: Vec<&str> =
            members.keys().filter(|name| !self.members.contains_key(*name)).map(String::as_str).collect();
        let left = self.members.keys().filter(|name| !members.contains_key(*name)).count();
        let entry = ListEntry {
            bytes: message.payload.into(),
            changes: u32::try_from(joined.len() + left).unwrap_or(u32::MAX),
            joined_ns: joined.iter().map(|name| join_times.announced(self.protocol.index_of(name))).collect(),
        };
        self.remove_received();
        self.entries.push_back(entry);
        self.newest += 1;
        self.members = members;
        Ok(())
    }

    fn has_bytes(&self, number: u64, bytes: &[u8]) -> bool {
        self.entry(number).is_some_and(|entry| *entry.bytes == *bytes)
    }

    fn entry(&self, number: u64) -> Option<&ListEntry> {
        let back = usize::try_from(self.newest.checked_sub(number)?).ok()?;
        self.entries.get(self.entries.len().checked_sub(1 + back)?)
    }

    /// Removes lists that all observers have received.
    fn remove_received(&mut self) {
        if self.entries.len() <= KEPT {
            return;
        }
        let slowest = self.received.iter().flatten().min().copied().unwrap_or(self.newest);
        let waiting = usize::try_from(self.newest - slowest).unwrap_or(usize::MAX);
        let keep = waiting.saturating_add(1).max(KEPT);
        self.entries.drain(..self.entries.len().saturating_sub(keep));
    }
}

fn parse(bytes: &[u8], is_whole: bool) -> Result<Members, String> {
    let list: UserList<'_> = read(bytes, is_whole)?;
    let members = members_of(list.users.iter().map(|user| &**user));
    if members.len() == list.users.len() { Ok(members) } else { Err("a list contains a user twice".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;

    const PROTOCOL: ClientProtocol =
        ClientProtocol { kind: Protocol::OnlineUsers, rooms: 1, first_user: 0, user_digits: 6 };

    fn list(users: &[&str]) -> String {
        format!(r#"{{"type": "online_users", "users": {users:?}}}"#)
    }

    /// Gives each observer its lists. `online` are the users at the end, `wrong` is the number of observers that
    /// differ.
    fn check(received: &[&[String]], online: &[&str], wrong: u64) -> Lists {
        let mut lists = Lists::new(PROTOCOL, received.len());
        let mut join_times = JoinTimes::new();
        for (observer, payloads) in received.iter().enumerate() {
            for payload in *payloads {
                let message = Message { payload: payload.as_bytes(), is_whole: true };
                assert!(lists.apply(observer, &message, &mut join_times, 0).is_some());
            }
        }
        let members = members_of(online.iter().copied());
        let expected = RoomState { room: "lobby".into(), epoch: String::new(), seq: 0, members };
        assert_eq!(lists.differences(&expected).count, wrong, "{:?}", lists.differences(&expected));
        lists
    }

    #[test]
    fn the_last_list_is_compared_regardless_of_its_order() {
        let (ab, ba) = (list(&["a", "b"]), list(&["b", "a"]));
        check(&[&[list(&["a"]), ab.clone()], &[ba]], &["a", "b"], 0);
        check(&[&[list(&["a"]), ab.clone()], &[list(&["a"])]], &["a", "b"], 1);
        check(&[&[ab], &[]], &["a"], 2);
    }

    #[test]
    fn a_user_listed_twice_is_an_error() {
        assert_eq!(check(&[&[list(&["a", "a"])]], &["a"], 1).errors.count, 1);
    }

    #[test]
    fn lists_that_all_observers_have_received_are_removed() {
        let many: Vec<String> = (0..50).map(|number| list(&["a", &format!("n{number}")])).collect();
        let lists = check(&[&many], &["a", "n49"], 0);
        assert!(lists.entries.len() <= KEPT + 1, "{}", lists.entries.len());
    }
}
