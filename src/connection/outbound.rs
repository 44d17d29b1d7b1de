//! Bytes that the socket did not accept: replies and frames of ticks, each with its own bound.
//!
//! Nothing is allocated while the socket accepts everything.

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};

use super::backlog::Backlog;
use super::{Connection, Extra, Phase};
use crate::presence::Tick;
use crate::protocol::EventFormat;
use crate::websocket::outbox::{MAX_SLICES, Outbox};

/// Bytes of replies that wait for a client before the server stops reading its messages.
const MAX_UNREAD_REPLY_BYTES: usize = 64 * 1024;
/// Bytes of events or messages that wait for a client whose protocol must not skip any: some 10,000 events. They
/// reference shared frames.
const MAX_WAITING_EVENT_BYTES: usize = 1024 * 1024;

/// Bytes that move from the backlog to the outbox at a time.
const BACKLOG_SLICE_BYTES: usize = 32 * 1024;

#[derive(Debug, Default)]
pub(super) struct Outbound {
    outbox: Outbox,
    /// An upper bound of the bytes of replies in the outbox, see [`Outbound::advance`].
    replies: usize,
    /// An upper bound of the bytes of events in the outbox that were queued behind other frames.
    events: usize,
    /// The number of checks in a row in which the socket has accepted nothing.
    stalled_checks: u32,
    /// Bytes that the client must read before the deadline; 0 if it has none.
    due: usize,
    deadline: Tick,
    /// Events that are sent after the outbox, which is not empty if there are any.
    backlog: Option<Box<Backlog>>,
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
        self.stalled_checks = 0;
    }

    /// Moves some events from the backlog to an empty outbox.
    fn take_from_backlog(&mut self, format: EventFormat) {
        if let Some(backlog) = self.backlog.as_mut().filter(|_| self.outbox.is_empty()) {
            let mut buffer = BytesMut::with_capacity(BACKLOG_SLICE_BYTES + BACKLOG_SLICE_BYTES / 4);
            backlog.take(&mut buffer, BACKLOG_SLICE_BYTES, format);
            self.outbox.push(buffer.freeze());
            if backlog.is_empty() {
                self.backlog = None;
            }
        }
    }

    /// Whether the client has not read its bytes in time. Bytes without a deadline receive one; `wait` returns how long
    /// this many bytes may wait.
    fn is_overdue(&mut self, now: Tick, wait: impl Fn(usize) -> Tick) -> bool {
        self.stalled_checks += 1;
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

    fn try_write(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let tls = self.extra.as_mut().and_then(|extra| extra.tls.as_deref_mut());
        self.socket.try_write(tls, slices)
    }

    /// Sends replies, or queues them; they are never dropped. Empties the buffer.
    pub fn reply(&mut self, replies: &mut BytesMut) {
        if replies.is_empty() {
            return;
        }
        let written = if self.is_blocked() { 0 } else { self.try_write(&[IoSlice::new(replies)]) };
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
            let mut written = self.try_write(&slices[..chunk.len()]);
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
        if self.backlog_bytes() > 0 {
            return Delivery::Busy;
        }
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

    /// Keeps events of a tick behind everything that waits, without those that cancel out. Returns how many were
    /// dropped; `None` if too many bytes of messages wait.
    pub fn keep_events(&mut self, frames: &[&Bytes]) -> Option<u64> {
        let format = self.protocol.rules().events?;
        let backlog = self.extra.get_or_insert_default().outbound.backlog.get_or_insert_default();
        frames.iter().map(|frame| backlog.add(frame, format).ok()).sum()
    }

    /// The memory of the events that [`Connection::keep_events`] keeps, by estimate.
    #[must_use]
    pub fn backlog_bytes(&self) -> usize {
        self.extra.as_ref().and_then(|extra| extra.outbound.backlog.as_ref()).map_or(0, |backlog| backlog.bytes())
    }

    /// The bytes that count as kept for a slow client: its backlog, or the messages that wait for it. An upper bound.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        let messages = |extra: &Extra| if self.protocol.keeps_messages() { extra.outbound.events } else { 0 };
        self.backlog_bytes() + self.extra.as_deref().map_or(0, messages)
    }

    /// Drops the events that [`Connection::keep_events`] keeps: nothing may follow a close frame. The messages that
    /// wait do not count as kept from now on.
    pub fn drop_backlog(&mut self) {
        if let Some(extra) = &mut self.extra {
            (extra.outbound.backlog, extra.outbound.events) = (None, 0);
        }
    }

    /// Drops what waits for the socket, except the frames that may have been written in part.
    pub fn drop_unsent(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.outbound.outbox.keep_first();
            extra.outbound.advance(0);
        }
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

    /// Whether the client's messages are not read for now: it must read its replies first, or is over a work budget.
    #[must_use]
    pub fn must_wait(&self) -> bool {
        let replies = self.extra.as_ref().map_or(0, |extra| extra.outbound.replies);
        (self.is_paused || replies > MAX_UNREAD_REPLY_BYTES) && self.phase != Phase::Dead
    }

    /// How many bytes wait for the socket, and in how many checks in a row it has accepted nothing.
    #[must_use]
    pub fn unread(&self) -> (usize, u32) {
        self.extra.as_ref().map_or((0, 0), |extra| (extra.outbound.outbox.bytes(), extra.outbound.stalled_checks))
    }

    /// Whether bytes wait for the socket that the client has not read in time. `wait` returns how many ticks this many
    /// bytes may wait.
    pub fn is_overdue(&mut self, now: Tick, wait: impl Fn(usize) -> Tick) -> bool {
        self.extra.as_mut().is_some_and(|extra| extra.outbound.is_overdue(now, wait))
    }

    /// Writes from the outbox until it is empty or the socket is full. Returns the number of bytes written.
    pub fn flush(&mut self) -> usize {
        let format = self.protocol.rules().events;
        let Some(Extra { outbound, tls, .. }) = self.extra.as_deref_mut() else { return 0 };
        let mut written = 0;
        while !outbound.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let used = outbound.outbox.slices(&mut slices);
            let accepted = self.socket.try_write(tls.as_deref_mut(), &slices[..used]);
            if accepted == 0 {
                break;
            }
            written += accepted;
            outbound.advance(accepted);
            if let Some(format) = format {
                outbound.take_from_backlog(format);
            }
        }
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
