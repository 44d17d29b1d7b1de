//! Whole lists that slow clients have not read: how many bytes each room may have of them.

use std::collections::HashMap;

use super::batch::UnreadExcess;
use crate::memory_budget::{MAX_UNREAD_BYTES, MemoryBudget};
use crate::presence::Tick;

/// Above this part of the limit, clients that read nothing are disconnected; those with the most unread bytes go first.
const STALLED_PART: usize = 8;
/// Above this part of the limit, clients that read slowly are disconnected as well.
const SLOW_PART: usize = 2;
/// How often rooms without unread lists are removed.
const CLEAN_EVERY_TICKS: Tick = 16;

/// The unread lists of all rooms.
#[derive(Debug)]
pub(super) struct UnreadLists {
    all: MemoryBudget,
    /// The lists of rooms that have long ones.
    rooms: HashMap<u64, MemoryBudget>,
}

impl Default for UnreadLists {
    fn default() -> Self {
        Self::new(MAX_UNREAD_BYTES)
    }
}

impl UnreadLists {
    pub(super) fn new(limit: usize) -> Self {
        Self { all: MemoryBudget::new(limit), rooms: HashMap::new() }
    }

    /// Counts short lists, which are encoded even beyond the limit.
    pub(super) fn short(&self) -> &MemoryBudget {
        &self.all
    }

    /// Counts the lists of one room, if a further list of this many bytes fits into the room's share: as many bytes as
    /// are free, and one list in any case. So one room can take half of the limit, and each of two rooms a third.
    pub(super) fn long(&mut self, room: u64, bytes: usize) -> Option<&MemoryBudget> {
        let free = self.all.limit().saturating_sub(self.all.held());
        let held = self.rooms.get(&room).map_or(0, MemoryBudget::held);
        let fits = free > 0 && (held == 0 || held + bytes <= free);
        fits.then(|| &*self.rooms.entry(room).or_insert_with(|| self.all.part()))
    }

    /// The bytes to free by disconnecting clients.
    pub(super) fn excess(&self) -> UnreadExcess {
        let beyond = |part: usize| self.all.held().saturating_sub(self.all.limit() / part);
        UnreadExcess { of_stalled: beyond(STALLED_PART), of_all: beyond(SLOW_PART) }
    }

    /// Removes rooms without unread lists.
    pub(super) fn clean(&mut self, now: Tick) {
        if !self.rooms.is_empty() && now.is_multiple_of(CLEAN_EVERY_TICKS) {
            self.rooms.retain(|_, unread| unread.held() > 0);
            self.rooms.shrink_to(2 * self.rooms.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const LIMIT: usize = 1 << 20;
    const LIST: usize = 10 * 1024;

    /// Encodes lists of a room until its share is used up.
    fn fill(unread: &mut UnreadLists, room: u64, lists: &mut Vec<Bytes>) -> usize {
        let before = lists.len();
        while let Some(budget) = unread.long(room, LIST) {
            lists.push(budget.count(vec![b'x'; LIST].into()));
        }
        lists.len() - before
    }

    #[test]
    fn rooms_share_what_is_free() {
        let (mut unread, mut lists) = (UnreadLists::new(LIMIT), Vec::new());
        let all = LIMIT / LIST;
        let first = fill(&mut unread, 1, &mut lists);
        assert_eq!(first, all / 2);
        for room in 2..6 {
            assert!(fill(&mut unread, room, &mut lists) > 0, "room {room} has no share");
        }
        assert!(unread.excess().of_all > 0);
        lists.clear();
        unread.clean(CLEAN_EVERY_TICKS);
        assert!(unread.rooms.is_empty() && unread.excess() == UnreadExcess::default());
    }
}
