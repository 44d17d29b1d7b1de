//! Bytes that the socket did not accept: replies and frames of ticks, each with its own bound.
//!
//! Nothing is allocated while the socket accepts everything.

use std::io::IoSlice;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};

use super::{Connection, Phase};
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
    /// The reader, if it waits until the client has read its replies.
    reader: Option<Waker>,
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

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an outbox that was empty before needs a task that sends it"]
pub enum Written {
    /// It was sent, or queued behind other bytes.
    Done,
    /// Bytes wait in an outbox that was empty before: the caller starts the task that sends them.
    Blocked,
}

/// The result of delivering frames of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// They were sent or queued.
    Accepted(Written),
    /// They were dropped, because earlier bytes still wait.
    Busy,
}

impl Outbound {
    /// Removes bytes that were written. It is not recorded which of them were replies or events, but neither can be
    /// more than all bytes that are left: behind a batch both counts stay, and as the outbox empties they shrink with
    /// it.
    fn advance(&mut self, written: usize) {
        self.outbox.advance(written);
        let left = self.outbox.bytes();
        self.replies = self.replies.min(left);
        self.events = self.events.min(left);
    }
}

impl Connection {
    /// Whether bytes wait for the socket.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.with_outbound(|outbound| outbound.is_some())
    }

    /// Sends replies, or queues them; they are never dropped. Empties the buffer.
    pub fn reply(&self, replies: &mut BytesMut) -> Written {
        if replies.is_empty() {
            return Written::Done;
        }
        let written = if self.is_blocked() { 0 } else { self.stream.try_write(&[IoSlice::new(replies)]) };
        let result = match replies.get(written..) {
            Some(rest) if !rest.is_empty() => self.queue(std::iter::once(Bytes::copy_from_slice(rest)), Kind::Reply),
            _ => Written::Done,
        };
        replies.clear();
        result
    }

    /// Sends frames of a tick, unless earlier bytes still wait.
    pub fn deliver(&self, frames: &[&Bytes]) -> Delivery {
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
                return Delivery::Accepted(self.queue(rest, Kind::Batch));
            }
        }
        Delivery::Accepted(Written::Done)
    }

    /// Queues frames of a tick behind the bytes that wait. [`Delivery::Busy`] if that would exceed the limit; then
    /// nothing is queued.
    pub fn wait_behind(&self, frames: &[&Bytes]) -> Delivery {
        let waiting = self.with_outbound(|outbound| outbound.as_ref().map_or(0, |outbound| outbound.events));
        let more: usize = frames.iter().map(|frame| frame.len()).sum();
        // One batch always fits, however long it is: otherwise one tick with many joins would disconnect all clients
        // that are slightly behind.
        if waiting > 0 && waiting + more > MAX_WAITING_EVENT_BYTES {
            return Delivery::Busy;
        }
        Delivery::Accepted(self.queue(frames.iter().copied().cloned(), Kind::Event))
    }

    /// Appends frames to the outbox.
    fn queue(&self, frames: impl Iterator<Item = Bytes>, kind: Kind) -> Written {
        let waiting = self.outbound.take();
        let written = if waiting.is_some() { Written::Done } else { Written::Blocked };
        let mut outbound = waiting.unwrap_or_default();
        let before = outbound.outbox.bytes();
        frames.for_each(|frame| outbound.outbox.push(frame));
        let more = outbound.outbox.bytes() - before;
        match kind {
            Kind::Reply => outbound.replies += more,
            Kind::Event => outbound.events += more,
            Kind::Batch => {}
        }
        self.outbound.set(Some(outbound));
        written
    }

    /// Whether the client must read its replies before more of its messages are decoded. If so, the waker of `context`
    /// is called when it has read them.
    pub(crate) fn must_wait(&self, context: Option<&Context<'_>>) -> bool {
        let Some(mut outbound) = self.outbound.take() else { return false };
        let wait = outbound.replies > MAX_UNREAD_REPLY_BYTES && self.phase.get() != Phase::Dead;
        if let (true, Some(context)) = (wait, context) {
            outbound.reader = Some(context.waker().clone());
        }
        self.outbound.set(Some(outbound));
        wait
    }

    pub(crate) fn wake_reader(&self) {
        self.with_outbound(|outbound| {
            if let Some(waker) = outbound.as_mut().and_then(|outbound| outbound.reader.take()) {
                waker.wake();
            }
        });
    }

    fn with_outbound<R>(&self, act: impl FnOnce(&mut Option<Box<Outbound>>) -> R) -> R {
        let mut outbound = self.outbound.take();
        let result = act(&mut outbound);
        self.outbound.set(outbound);
        result
    }

    /// The number of bytes that wait for the socket.
    pub(crate) fn unsent_bytes(&self) -> usize {
        self.with_outbound(|outbound| outbound.as_ref().map_or(0, |waiting| waiting.outbox.bytes()))
    }

    /// Writes from the outbox until it is empty or the socket is full. Returns the number of bytes written.
    pub(crate) fn flush(&self) -> usize {
        self.with_outbound(|outbound| {
            let Some(waiting) = outbound.as_mut() else { return 0 };
            let before = waiting.outbox.bytes();
            while !waiting.outbox.is_empty() {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let used = waiting.outbox.slices(&mut slices);
                let written = self.stream.try_write(&slices[..used]);
                if written == 0 {
                    break;
                }
                waiting.advance(written);
            }
            before - waiting.outbox.bytes()
        })
    }

    /// Drops the outbox and everything in it.
    pub(crate) fn drop_outbound(&self) {
        self.wake_reader();
        self.outbound.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
