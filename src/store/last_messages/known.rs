//! The messages that this node knows, within a limit of bytes: those that it has known for longest are dropped first.
//! So a message that was read for an observer stays until it is sent, although it may end before all others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;

use super::{LastFound, LastMessage, Ms};

/// About what a message takes besides its text and the name of its room.
const ENTRY_BYTES: usize = 320;

/// Messages by room.
#[derive(Debug)]
pub(super) struct Known {
    limit: usize,
    rooms: HashMap<Arc<str>, Last, RandomState>,
    /// All rooms, in the order in which their messages end.
    by_end: BTreeMap<(Ms, u64), Arc<str>>,
    /// All rooms, in the order in which this node took their messages.
    by_number: BTreeMap<u64, Arc<str>>,
    bytes: usize,
    next_number: u64,
}

/// How this node came to know a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// It has published the message.
    Published,
    /// Another node has, and this one heard of it then.
    Heard,
    /// It has read the message from the store.
    Read,
}

/// The last message of a room.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) message: LastMessage,
    /// Until when it is kept.
    pub(super) end: Ms,
    /// Counts the messages that this node has taken.
    number: u64,
    pub(super) source: Source,
    /// Since when this node has listened without interruption when it heard of a message of the room last.
    pub(super) heard_in: u64,
}

impl Last {
    /// It is kept for this time from now on.
    pub(super) fn left(&self, now: Ms) -> Duration {
        Duration::from_millis(self.end.saturating_sub(now))
    }
}

impl Known {
    pub(super) fn new(limit: usize) -> Self {
        let (rooms, by_end, by_number) = (HashMap::default(), BTreeMap::new(), BTreeMap::new());
        Self { limit, rooms, by_end, by_number, bytes: 0, next_number: 0 }
    }

    /// Lowers the limit. It counts from the next message on.
    pub(super) fn limit_to(&mut self, bytes: usize) {
        self.limit = self.limit.min(bytes);
    }

    pub(super) fn get(&self, room: &str) -> Option<&Last> {
        self.rooms.get(room)
    }

    /// What this node knows about a room.
    pub(super) fn found(&self, room: &str, now: Ms) -> LastFound {
        self.get(room).map_or(LastFound::Nothing, |last| LastFound::Message(last.message.clone(), last.left(now)))
    }

    pub(super) fn get_mut(&mut self, room: &str) -> Option<&mut Last> {
        self.rooms.get_mut(room)
    }

    pub(super) fn rooms(&self) -> impl Iterator<Item = (&Arc<str>, &Last)> {
        self.rooms.iter()
    }

    /// Takes a message. Returns the rooms whose messages are dropped for it; `None` if a later message of the room is
    /// known, or this one. What this node publishes is later than what it knows, whatever clocks say.
    pub(super) fn insert(
        &mut self,
        room: &Arc<str>,
        message: LastMessage,
        end: Ms,
        source: Source,
    ) -> Option<Vec<Arc<str>>> {
        let is_later = |last: &Last| source == Source::Published || message.stamp.is_after(last.message.stamp);
        if self.rooms.get(room).is_some_and(|last| !is_later(last)) {
            return None;
        }
        let heard_in = self.remove(room).map_or(0, |former| former.heard_in);
        let number = self.next_number;
        self.next_number += 1;
        self.bytes += bytes(room, &message);
        self.by_end.insert((end, number), Arc::clone(room));
        self.by_number.insert(number, Arc::clone(room));
        self.rooms.insert(Arc::clone(room), Last { message, end, number, source, heard_in });
        let mut dropped = Vec::new();
        // The message itself is the last in this order.
        while self.bytes > self.limit && self.rooms.len() > 1 {
            let Some((_, oldest)) = self.by_number.pop_first() else { break };
            self.remove(&oldest);
            dropped.push(oldest);
        }
        Some(dropped)
    }

    /// Drops the messages that end by this time. Returns their rooms.
    pub(super) fn expire(&mut self, now: Ms) -> Vec<Arc<str>> {
        let mut dropped = Vec::new();
        while let Some(first) = self.by_end.first_entry()
            && first.key().0 <= now
        {
            let room = first.remove();
            self.remove(&room);
            dropped.push(room);
        }
        dropped
    }

    fn remove(&mut self, room: &str) -> Option<Last> {
        let last = self.rooms.remove(room)?;
        self.by_end.remove(&(last.end, last.number));
        self.by_number.remove(&last.number);
        self.bytes -= bytes(room, &last.message);
        Some(last)
    }
}

fn bytes(room: &str, message: &LastMessage) -> usize {
    ENTRY_BYTES + room.len() + message.data.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::MessageStamp;

    fn insert(known: &mut Known, room: &str, unix_ms: u64, end: Ms) -> bool {
        let stamp = MessageStamp { unix_ms, incarnation: 1, number: unix_ms };
        let message = LastMessage { stamp, data: "x".repeat(100).into() };
        known.insert(&room.into(), message, end, Source::Heard).is_some()
    }

    fn rooms(known: &Known) -> Vec<&str> {
        let mut rooms: Vec<_> = known.rooms().map(|(room, _)| &**room).collect();
        rooms.sort_unstable();
        rooms
    }

    #[test]
    fn the_latest_message_of_a_room_counts_in_whatever_order_they_come() {
        let mut known = Known::new(10_000);
        assert!(insert(&mut known, "a", 5, 50) && !insert(&mut known, "a", 4, 60) && !insert(&mut known, "a", 5, 60));
        assert!(insert(&mut known, "a", 6, 55));
        assert_eq!(known.get("a").unwrap().message.stamp.unix_ms, 6);
        assert_eq!((known.by_end.len(), known.by_number.len(), known.bytes), (1, 1, ENTRY_BYTES + 101));
    }

    #[test]
    fn what_this_node_publishes_counts_although_its_clock_was_set_back() {
        let message = |unix_ms, incarnation, number| LastMessage {
            stamp: MessageStamp { unix_ms, incarnation, number },
            data: "1".into(),
        };
        let mut known = Known::new(10_000);
        let mut take = |message, source| known.insert(&"a".into(), message, 50, source).is_some();
        assert!(take(message(9000, 1, 1), Source::Published) && take(message(10, 1, 2), Source::Published));
        assert!(!take(message(9000, 1, 1), Source::Read) && take(message(5, 1, 3), Source::Heard));
        assert!(take(message(9000, 2, 1), Source::Heard) && take(message(20, 1, 4), Source::Published));
    }

    #[test]
    fn messages_end_and_those_known_for_longest_are_dropped_first() {
        let mut known = Known::new(3 * (ENTRY_BYTES + 101));
        ["a", "b", "c"].into_iter().zip([30, 10, 20]).for_each(|(room, end)| assert!(insert(&mut known, room, 1, end)));
        assert_eq!(rooms(&known), ["a", "b", "c"]);
        insert(&mut known, "d", 1, 5);
        assert_eq!(rooms(&known), ["b", "c", "d"], "the message that was taken last is not dropped");
        known.expire(10);
        assert_eq!(rooms(&known), ["c"]);
        known.limit_to(10);
        insert(&mut known, "e", 1, 30);
        assert_eq!(rooms(&known), ["e"], "nor is the only one");
        known.expire(40);
        assert!(known.rooms.is_empty() && known.by_end.is_empty() && known.by_number.is_empty() && known.bytes == 0);
    }
}
