//! The diffs of one room, kept once for all its observers.
//!
//! A server that encodes a diff once sends the same bytes to all observers. The first observer that receives a diff
//! gets it parsed and applied to the log's mirror. For the others it suffices that their message has the same bytes as
//! the log's next entry: by induction their mirrors are the same. An entry is kept until all followers have received
//! it.

use std::collections::VecDeque;

use wire::room::{self, Diff, Members};

use super::messages::read;

/// The log of one epoch of a room.
#[derive(Debug)]
pub(crate) struct SharedLog {
    pub(crate) epoch: String,
    /// At `seq`.
    pub(crate) members: Members,
    pub(crate) seq: u64,
    /// Diffs up to `seq`, oldest first, without gaps. Entries that all followers have received are removed.
    entries: VecDeque<LogEntry>,
    /// Observers that use this log instead of a mirror of their own.
    followers: u32,
}

#[derive(Debug)]
pub(crate) struct LogEntry {
    bytes: Box<[u8]>,
    /// How many members joined, changed or left.
    pub(crate) changes: u32,
    /// When the joins in it were planned.
    pub(crate) joined_ns: Box<[u64]>,
    /// Followers that have not received it.
    waiting: u32,
}

impl SharedLog {
    /// Starts with the mirror of the first follower.
    pub(crate) fn new(epoch: &str, seq: u64, members: Members) -> Self {
        Self { epoch: epoch.to_owned(), members, seq, entries: VecDeque::new(), followers: 1 }
    }

    /// The entry of diff `seq`, if a follower still waits for it.
    #[inline]
    pub(crate) fn entry(&self, seq: u64) -> Option<&LogEntry> {
        let back = self.seq.checked_sub(seq)?;
        self.entries.get(self.entries.len().checked_sub(1 + usize::try_from(back).ok()?)?)
    }

    /// The entry of diff `seq`, if it consists of these bytes.
    #[inline]
    pub(crate) fn entry_if(&self, seq: u64, bytes: &[u8]) -> Option<&LogEntry> {
        self.entry(seq).filter(|entry| *entry.bytes == *bytes)
    }

    /// Appends the next diff, which one follower has just received.
    pub(crate) fn append(&mut self, diff: &Diff<'_>, bytes: &[u8], joined_ns: Box<[u64]>) -> Result<(), String> {
        let applied = room::apply(&mut self.members, diff);
        self.seq = diff.seq;
        let entry = LogEntry { bytes: bytes.into(), changes: diff.changes(), joined_ns, waiting: self.followers - 1 };
        self.entries.push_back(entry);
        self.remove_received();
        applied
    }

    /// Whether the entry has the same content, perhaps in other bytes.
    pub(crate) fn has_same_content(&self, diff: &Diff<'_>) -> bool {
        self.entry(diff.seq).is_some_and(|entry| read::<Diff<'_>>(&entry.bytes, true).as_ref() == Ok(diff))
    }

    /// A follower has received diff `seq`.
    #[inline]
    pub(crate) fn received(&mut self, seq: u64) {
        let position = (self.entries.len() as u64).checked_sub(1 + self.seq - seq);
        if let Some(entry) = position.and_then(|position| self.entries.get_mut(position as usize)) {
            entry.waiting = entry.waiting.saturating_sub(1);
        }
        self.remove_received();
    }

    /// Adds a follower that is at `self.seq`.
    pub(crate) fn follow(&mut self) {
        self.followers += 1;
    }

    /// Removes a follower that is at `seq`.
    pub(crate) fn unfollow(&mut self, seq: u64) {
        self.followers -= 1;
        for next in seq + 1..=self.seq {
            self.received(next);
        }
    }

    fn remove_received(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.waiting == 0) {
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &[u8] = br#"{"type":"diff","room":"r","seq":8,"count":1,"joined":[{"user":"a"}]}"#;
    const REORDERED: &[u8] = br#"{"seq":8,"type":"diff","room":"r","count":1,"joined":[{"user":"a"}]}"#;

    fn log_with_two_followers() -> SharedLog {
        let mut log = SharedLog::new("e", 7, Members::default());
        log.follow();
        log.append(&read(DIFF, true).unwrap(), DIFF, [5].into()).unwrap();
        log
    }

    #[test]
    fn an_entry_is_kept_until_all_followers_have_received_it() {
        let mut log = log_with_two_followers();
        assert_eq!((log.seq, log.members.len()), (8, 1));
        let entry = log.entry_if(8, DIFF).expect("one follower has not received it");
        assert_eq!((entry.changes, &*entry.joined_ns), (1, [5].as_slice()));
        assert!(log.entry_if(8, REORDERED).is_none());
        assert!(log.has_same_content(&read(REORDERED, true).unwrap()));
        assert!(log.entry(7).is_none() && log.entry(9).is_none());
        log.received(8);
        assert!(log.entry(8).is_none());
    }

    #[test]
    fn entries_do_not_wait_for_an_observer_that_stopped_following() {
        let mut log = log_with_two_followers();
        log.unfollow(7);
        assert!(log.entries.is_empty());
    }
}
