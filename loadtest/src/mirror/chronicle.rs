//! What the observers of one room are told, kept once for all of them.
//!
//! A server that encodes a diff once sends the same bytes to everybody. So the first to read a diff has it parsed and
//! applied to the one mirror that is kept; for all others it is enough that theirs are the same bytes as the next
//! entry: by induction their mirrors are the same. A diff is held until all who follow have read it.

use std::collections::VecDeque;

use super::members::Members;
use super::wire::{Diff, read};

/// One life of a room.
#[derive(Debug)]
pub(crate) struct Chronicle {
    pub(crate) epoch: Box<str>,
    /// At `seq`.
    pub(crate) members: Members,
    pub(crate) seq: u64,
    /// The diffs up to `seq`, oldest first, without a gap; those that all have read are gone.
    entries: VecDeque<Entry>,
    /// Observers that read this chronicle instead of having a mirror of their own.
    followers: u32,
}

#[derive(Debug)]
pub(crate) struct Entry {
    bytes: Box<[u8]>,
    /// Members that joined, changed or left.
    pub(crate) changes: u32,
    /// When the joins in it were planned.
    pub(crate) joined_ns: Box<[u64]>,
    /// Followers that have not read it yet.
    waiting: u32,
}

impl Chronicle {
    /// Starts with what its first follower knows.
    pub(crate) fn new(epoch: &str, seq: u64, members: Members) -> Self {
        Self { epoch: epoch.into(), members, seq, entries: VecDeque::new(), followers: 1 }
    }

    /// The diff `seq`, if it is known and not read by all.
    #[inline]
    pub(crate) fn entry(&self, seq: u64) -> Option<&Entry> {
        let back = self.seq.checked_sub(seq)?;
        self.entries.get(self.entries.len().checked_sub(1 + usize::try_from(back).ok()?)?)
    }

    /// The same, if these are its bytes.
    #[inline]
    pub(crate) fn entry_if(&self, seq: u64, bytes: &[u8]) -> Option<&Entry> {
        self.entry(seq).filter(|entry| *entry.bytes == *bytes)
    }

    /// Appends the diff that comes next; its first reader has it from here.
    pub(crate) fn append(&mut self, diff: &Diff<'_>, bytes: &[u8], joined_ns: Box<[u64]>) -> Result<(), String> {
        let applied = self.members.apply(diff);
        self.seq = diff.seq;
        let entry = Entry { bytes: bytes.into(), changes: diff.changes(), joined_ns, waiting: self.followers - 1 };
        self.entries.push_back(entry);
        self.forget_what_all_have_read();
        applied
    }

    /// Whether the entry says the same in other bytes.
    pub(crate) fn says_the_same(&self, diff: &Diff<'_>) -> bool {
        self.entry(diff.seq).is_some_and(|entry| read::<Diff<'_>>(&entry.bytes, true).as_ref() == Ok(diff))
    }

    /// A follower has read the entry.
    #[inline]
    pub(crate) fn passed(&mut self, seq: u64) {
        let position = (self.entries.len() as u64).checked_sub(1 + self.seq - seq);
        if let Some(entry) = position.and_then(|position| self.entries.get_mut(position as usize)) {
            entry.waiting = entry.waiting.saturating_sub(1);
        }
        self.forget_what_all_have_read();
    }

    /// One more reads from `self.seq` on.
    pub(crate) fn follow(&mut self) {
        self.followers += 1;
    }

    /// A follower that stood at `seq` reads no more.
    pub(crate) fn unfollow(&mut self, seq: u64) {
        self.followers -= 1;
        for next in seq + 1..=self.seq {
            self.passed(next);
        }
    }

    fn forget_what_all_have_read(&mut self) {
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

    fn of_two_followers() -> Chronicle {
        let mut chronicle = Chronicle::new("e", 7, Members::default());
        chronicle.follow();
        chronicle.append(&read(DIFF, true).unwrap(), DIFF, [5].into()).unwrap();
        chronicle
    }

    #[test]
    fn an_entry_is_held_until_all_have_read_it() {
        let mut chronicle = of_two_followers();
        assert_eq!((chronicle.seq, chronicle.members.len()), (8, 1));
        let entry = chronicle.entry_if(8, DIFF).expect("one follower has not read it");
        assert_eq!((entry.changes, &*entry.joined_ns), (1, [5].as_slice()));
        assert!(chronicle.entry_if(8, REORDERED).is_none());
        assert!(chronicle.says_the_same(&read(REORDERED, true).unwrap()));
        assert!(chronicle.entry(7).is_none() && chronicle.entry(9).is_none());
        chronicle.passed(8);
        assert!(chronicle.entry(8).is_none());
    }

    #[test]
    fn who_stops_following_is_not_waited_for() {
        let mut chronicle = of_two_followers();
        chronicle.unfollow(7);
        assert!(chronicle.entries.is_empty());
    }
}
