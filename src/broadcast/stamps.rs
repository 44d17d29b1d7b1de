//! The stamps of messages that are published on this node.

use crate::presence::{MessageStamp, RoomMessage, UserMessage};

/// Without a store that tells the time, clocks of nodes may differ by this much: a stamp that is further in the future
/// says nothing about time.
const MAX_CLOCK_DIFFERENCE_MS: u64 = 60_000;

/// Gives a message a later time than all messages that this node has seen, even if the clocks of other nodes are ahead:
/// a reply comes after the message that it replies to (Kulkarni et al., "Logical Physical Clocks", 2014).
#[derive(Debug)]
pub(super) struct Stamps {
    incarnation: u64,
    last_number: u64,
    /// The latest time of a message of another node.
    seen_unix_ms: u64,
}

impl Stamps {
    pub(super) fn new(incarnation: u64) -> Self {
        Self { incarnation, last_number: 0, seen_unix_ms: 0 }
    }

    /// Stamps the messages of this node.
    pub(super) fn stamp(&mut self, messages: &mut [RoomMessage], unix_ms: u64) {
        if self.seen_unix_ms > unix_ms.saturating_add(MAX_CLOCK_DIFFERENCE_MS) {
            self.seen_unix_ms = 0; // The clock was wrong and has been set back.
        }
        for message in messages {
            if message.is_local {
                message.stamp = self.next(unix_ms);
            } else {
                self.see(message.stamp, unix_ms);
            }
        }
    }

    /// Stamps the messages to users of this node. Nobody answers those of other nodes: they have no stamp to follow.
    pub(super) fn stamp_to_users(&mut self, messages: &mut [UserMessage], unix_ms: u64) {
        for message in messages.iter_mut().filter(|message| message.is_local) {
            message.stamp = self.next(unix_ms);
        }
    }

    fn next(&mut self, unix_ms: u64) -> MessageStamp {
        self.last_number += 1;
        let unix_ms = unix_ms.max(self.seen_unix_ms + 1);
        MessageStamp { unix_ms, incarnation: self.incarnation, number: self.last_number }
    }

    /// Takes note of a message of another node.
    pub(super) fn see(&mut self, stamp: MessageStamp, unix_ms: u64) {
        let is_other = stamp.incarnation != self.incarnation;
        if is_other && stamp.unix_ms <= unix_ms.saturating_add(MAX_CLOCK_DIFFERENCE_MS) {
            self.seen_unix_ms = self.seen_unix_ms.max(stamp.unix_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(stamps: &mut Stamps, unix_ms: u64) -> MessageStamp {
        let mut messages = [RoomMessage::local(None, "1".into())];
        stamps.stamp(&mut messages, unix_ms);
        messages[0].stamp
    }

    #[test]
    fn a_reply_comes_after_its_message_although_clocks_differ() {
        let (mut ahead, mut behind) = (Stamps::new(1), Stamps::new(2));
        let question = stamped(&mut ahead, 50_000);
        behind.stamp(&mut [RoomMessage::remote(None, "1".into(), question)], 10_000);
        let answer = stamped(&mut behind, 10_100);
        assert!(answer > question, "{answer:?} {question:?}");
        assert!(stamped(&mut behind, 10_200) > answer);
        assert_eq!(stamped(&mut behind, 60_000).unix_ms, 60_000, "the clock counts again once it is ahead");
    }

    #[test]
    fn a_clock_that_is_wrong_by_more_than_a_minute_is_not_followed() {
        let mut stamps = Stamps::new(1);
        stamps.see(MessageStamp { unix_ms: u64::MAX, incarnation: 2, number: 1 }, 10_000);
        assert_eq!(stamped(&mut stamps, 10_000).unix_ms, 10_000);
    }

    #[test]
    fn a_clock_that_is_set_back_counts_again() {
        let mut stamps = Stamps::new(1);
        stamps.see(MessageStamp { unix_ms: 90_000_000, incarnation: 2, number: 1 }, 90_000_000);
        assert_eq!(stamped(&mut stamps, 90_000_000).unix_ms, 90_000_001);
        assert_eq!(stamped(&mut stamps, 10_000).unix_ms, 10_000);
    }
}
