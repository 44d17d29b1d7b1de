//! Bytes that the socket did not accept: replies and frames of ticks, each with its own bound.
//!
//! Nothing is allocated while the socket accepts everything.

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};

use super::{Connection, Extra, Phase};
use crate::presence::Tick;
use crate::websocket::outbox::{MAX_SLICES, Outbox};

/// Bytes of replies that wait for a client before the server stops reading its messages.
const MAX_UNREAD_REPLY_BYTES: usize = 64 * 1024;
/// Bytes of events that wait for a client whose protocol must not skip any: some 10,000 events. They reference shared
/// frames.
const MAX_WAITING_EVENT_BYTES: usize = 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Outbound {
    outbox: Outbox,
    /// An upper bound of the bytes of replies in the outbox, see [`Outbound::advance`].
    replies: usize,
    /// An upper bound of the bytes of events in the outbox that were queued behind other frames.
    events: usize,
    /// Bytes that the client must read before the deadline; 0 if it has none.
    due: usize,
    deadline: Tick,
}

/// What is put into the outbox. Each kind is bounded in its own way.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A reply. Bounded because the server stops reading from the client.
    Reply,
    /// Frames of a tick for an empty outbox. Bounded because this can be only one batch.
    Batch,
    /// Frames of a tick behind other frames. Bounded by [`MAX_WAITING_EVENT_BYTES`].
    Event,
}

/// The result of delivering frames of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// They were sent or queued.
    Accepted,
    /// They were dropped, because earlier bytes still wait.
    Busy,
}

impl Outbound {
    pub(super) fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Removes bytes that were written. It is not recorded which of them were replies or events, but neither can be
    /// more than all bytes that are left: behind a batch both counts stay, and as the outbox empties they shrink with
    /// it.
    fn advance(&mut self, written: usize) {
        self.outbox.advance(written);
        let left = self.outbox.bytes();
        self.replies = self.replies.min(left);
        self.events = self.events.min(left);
        self.due = self.due.saturating_sub(written);
    }

    /// Whether the client has not read its bytes in time. Bytes without a deadline receive one; `wait` returns how long
    /// this many bytes may wait.
    fn is_overdue(&mut self, now: Tick, wait: impl Fn(usize) -> Tick) -> bool {
        if self.due == 0 {
            self.due = self.outbox.bytes();
            self.deadline = now + wait(self.due);
        }
        now >= self.deadline
    }
}

impl Connection {
    /// Whether bytes wait for the socket.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.outbound.is_empty())
    }

    /// Sends replies, or queues them; they are never dropped. Empties the buffer.
    pub fn reply(&mut self, replies: &mut BytesMut) {
        if replies.is_empty() {
            return;
        }
        let written = if self.is_blocked() { 0 } else { self.stream.try_write(&[IoSlice::new(replies)]) };
        if let Some(rest) = replies.get(written..).filter(|rest| !rest.is_empty()) {
            self.queue(std::iter::once(Bytes::copy_from_slice(rest)), Kind::Reply);
        }
        replies.clear();
    }

    /// Sends frames of a tick, unless earlier bytes still wait.
    pub fn deliver(&mut self, frames: &[&Bytes]) -> Delivery {
        if self.is_blocked() {
            return Delivery::Busy;
        }
        for (position, chunk) in frames.chunks(MAX_SLICES).enumerate() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            for (slice, frame) in slices.iter_mut().zip(chunk) {
                *slice = IoSlice::new(frame);
            }
            let mut written = self.stream.try_write(&slices[..chunk.len()]);
            if written < chunk.iter().map(|frame| frame.len()).sum() {
                let rest = frames[position * MAX_SLICES..].iter().filter_map(|frame| {
                    let skipped = written.min(frame.len());
                    written -= skipped;
                    (skipped < frame.len()).then(|| frame.slice(skipped..))
                });
                self.queue(rest, Kind::Batch);
                return Delivery::Accepted;
            }
        }
        Delivery::Accepted
    }

    /// Queues frames of a tick behind the bytes that wait. [`Delivery::Busy`] if that would exceed the limit; then
    /// nothing is queued.
    pub fn wait_behind(&mut self, frames: &[&Bytes]) -> Delivery {
        let waiting = self.extra.as_ref().map_or(0, |extra| extra.outbound.events);
        let more: usize = frames.iter().map(|frame| frame.len()).sum();
        // One batch always fits, however long it is: otherwise one tick with many joins would disconnect all clients
        // that are slightly behind.
        if waiting > 0 && waiting + more > MAX_WAITING_EVENT_BYTES {
            return Delivery::Busy;
        }
        self.queue(frames.iter().copied().cloned(), Kind::Event);
        Delivery::Accepted
    }

    /// Appends frames to the outbox.
    fn queue(&mut self, frames: impl Iterator<Item = Bytes>, kind: Kind) {
        let outbound = &mut self.extra.get_or_insert_default().outbound;
        let before = outbound.outbox.bytes();
        frames.for_each(|frame| outbound.outbox.push(frame));
        let more = outbound.outbox.bytes() - before;
        match kind {
            Kind::Reply => outbound.replies += more,
            Kind::Event => outbound.events += more,
            Kind::Batch => {}
        }
    }

    /// Whether the client must read its replies before more of its messages are read and decoded.
    #[must_use]
    pub fn must_wait(&self) -> bool {
        let replies = self.extra.as_ref().map_or(0, |extra| extra.outbound.replies);
        replies > MAX_UNREAD_REPLY_BYTES && self.phase != Phase::Dead
    }

    /// Whether bytes wait for the socket that the client has not read in time. `wait` returns how many ticks this many
    /// bytes may wait.
    pub fn is_overdue(&mut self, now: Tick, wait: impl Fn(usize) -> Tick) -> bool {
        self.extra.as_mut().is_some_and(|extra| extra.outbound.is_overdue(now, wait))
    }

    /// Writes from the outbox until it is empty or the socket is full. Returns the number of bytes written.
    pub fn flush(&mut self) -> usize {
        let Some(Extra { outbound, .. }) = self.extra.as_deref_mut() else { return 0 };
        let before = outbound.outbox.bytes();
        while !outbound.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let used = outbound.outbox.slices(&mut slices);
            let written = self.stream.try_write(&slices[..used]);
            if written == 0 {
                break;
            }
            outbound.advance(written);
        }
        let written = before - outbound.outbox.bytes();
        if outbound.is_empty() {
            *outbound = Outbound::default();
            self.drop_empty_extra();
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_read_are_overdue_at_their_deadline() {
        let wait = |bytes: usize| if bytes > 100 { 320 } else { 300 };
        let mut outbound = Outbound::default();
        outbound.outbox.push(vec![0; 1000].into());
        assert!(!outbound.is_overdue(100, wait), "the deadline is 420");
        outbound.outbox.push(vec![0; 10].into());
        assert!(!outbound.is_overdue(419, wait) && outbound.is_overdue(420, wait));
        outbound.advance(1000);
        assert!(!outbound.is_overdue(420, wait), "bytes that were queued later have their own deadline");
        assert!(!outbound.is_overdue(719, wait) && outbound.is_overdue(720, wait));
    }

    #[test]
    fn the_counts_of_replies_and_events_never_exceed_the_outbox() {
        let mut outbound = Outbound { replies: 20, events: 200, ..Outbound::default() };
        outbound.outbox.push(vec![0; 1000].into());
        outbound.outbox.push(vec![0; 220].into());
        for (written, replies, events) in [(900, 20, 200), (100, 20, 200), (150, 20, 70), (60, 10, 10), (10, 0, 0)] {
            outbound.advance(written);
            assert_eq!((outbound.replies, outbound.events), (replies, events), "after {written} more bytes");
        }
    }
}
