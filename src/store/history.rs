//! The latest messages of a room, as nodes share them: a set that only loses its oldest elements. Nodes that receive
//! messages in different orders end with the same messages in the same order.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::presence::MessageStamp;

/// The limit of bytes in a history: each new observer receives all of it.
pub const MAX_HISTORY_BYTES: usize = 1024 * 1024;

/// A message that belongs to the history of its room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptMessage {
    /// The room.
    pub room: Arc<str>,
    /// The member who published it; `None` for the application.
    pub user: Option<Arc<str>>,
    /// Compact JSON text.
    pub data: Arc<str>,
    /// When and where it was published.
    pub stamp: MessageStamp,
}

impl KeptMessage {
    /// About how much memory it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.user.as_ref().map_or(0, |user| user.len()) + self.data.len()
    }
}

/// Messages in some form, ordered by their stamps. The oldest are dropped.
#[derive(Debug)]
pub struct History<M> {
    max_messages: usize,
    messages: BTreeMap<MessageStamp, (M, usize)>,
    bytes: usize,
    /// The latest message that was dropped. Older ones are not accepted again.
    dropped: Option<MessageStamp>,
    /// Messages of later times are not accepted.
    latest_unix_ms: u64,
}

impl<M> History<M> {
    /// An empty history with this limit of messages.
    #[must_use]
    pub fn new(max_messages: usize) -> Self {
        Self { max_messages, messages: BTreeMap::new(), bytes: 0, dropped: None, latest_unix_ms: u64::MAX }
    }

    /// Removes messages of later times than this, and accepts no more of them. True if there were any.
    pub fn set_latest(&mut self, unix_ms: u64) -> bool {
        self.latest_unix_ms = unix_ms;
        let before = (self.messages.len(), self.dropped);
        while let Some(last) = self.messages.last_entry()
            && last.key().unix_ms > unix_ms
        {
            let (_, bytes) = last.remove();
            self.bytes -= bytes;
        }
        self.dropped = self.dropped.filter(|dropped| dropped.unix_ms <= unix_ms);
        (self.messages.len(), self.dropped) != before
    }

    /// Whether a message of this time may be added.
    #[must_use]
    pub fn accepts(&self, stamp: MessageStamp) -> bool {
        stamp.unix_ms <= self.latest_unix_ms
    }

    /// Adds a message. False if it is known, too old, or of the future.
    pub fn insert(&mut self, stamp: MessageStamp, bytes: usize, message: M) -> bool {
        if !self.accepts(stamp) {
            return false;
        }
        if self.dropped.is_some_and(|dropped| stamp <= dropped) || self.messages.contains_key(&stamp) {
            return false;
        }
        self.messages.insert(stamp, (message, bytes));
        self.bytes += bytes;
        while self.messages.len() > self.max_messages || self.bytes > MAX_HISTORY_BYTES {
            let Some((oldest, (_, bytes))) = self.messages.pop_first() else { break };
            self.bytes -= bytes;
            self.dropped = Some(oldest);
        }
        self.messages.contains_key(&stamp)
    }

    /// Takes a message out. False if it is not in the history.
    pub fn remove(&mut self, stamp: &MessageStamp) -> bool {
        let removed = self.messages.remove(stamp);
        self.bytes -= removed.as_ref().map_or(0, |(_, bytes)| *bytes);
        removed.is_some()
    }

    /// The message with this stamp.
    #[must_use]
    pub fn get(&self, stamp: &MessageStamp) -> Option<&M> {
        self.messages.get(stamp).map(|(message, _)| message)
    }

    /// All messages, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&MessageStamp, &M)> {
        self.messages.iter().map(|(stamp, (message, _))| (stamp, message))
    }

    /// The latest message that was dropped.
    #[must_use]
    pub fn dropped(&self) -> Option<MessageStamp> {
        self.dropped
    }

    /// The number of bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(unix_ms: u64) -> MessageStamp {
        MessageStamp { unix_ms, incarnation: 1, number: unix_ms }
    }

    proptest! {
        #[test]
        fn histories_agree_in_any_order_of_messages(
            max in 0usize..6,
            first in prop::collection::vec(0u64..20, 0..40),
        ) {
            let insert = |order: &[u64]| {
                let mut history = History::new(max);
                for at in order {
                    history.insert(stamp(*at), 1, *at);
                }
                history.iter().map(|(_, at)| *at).collect::<Vec<_>>()
            };
            let mut sorted = first.clone();
            sorted.sort_unstable();
            sorted.dedup();
            let latest = sorted[sorted.len().saturating_sub(max)..].to_vec();
            prop_assert_eq!(insert(&first), latest.clone());
            let reversed: Vec<_> = first.iter().rev().copied().collect();
            prop_assert_eq!(insert(&reversed), latest);
        }
    }

    #[test]
    fn messages_of_the_future_displace_no_others() {
        let mut history = History::new(2);
        (101..105).for_each(|at| assert!(history.insert(stamp(at), 1, at)));
        assert!(!history.insert(stamp(2), 1, 2), "the history is full of messages of the future");
        assert!(history.set_latest(10) && history.is_empty() && history.bytes() == 0);
        assert!(!history.set_latest(10) && !history.insert(stamp(101), 1, 101));
        assert!(history.insert(stamp(2), 1, 2) && history.insert(stamp(10), 1, 10));
        assert!(!history.set_latest(11) && history.len() == 2);
    }

    #[test]
    fn bytes_are_bounded_and_dropped_messages_stay_dropped() {
        let mut history = History::new(usize::MAX);
        assert!(history.insert(stamp(1), 10, ()));
        assert!(history.insert(stamp(2), MAX_HISTORY_BYTES, ()), "the first one is dropped");
        assert_eq!((history.len(), history.dropped()), (1, Some(stamp(1))));
        assert!(!history.insert(stamp(1), 1, ()) && !history.insert(stamp(2), 1, ()));
        assert!(history.remove(&stamp(2)) && history.is_empty() && history.bytes() == 0);
        assert!(!history.insert(stamp(1), 1, ()));
    }
}
