//! What a socket does not accept at once: replies, and the frames of a tick, each within its bound.
//!
//! Nothing of this exists while the socket accepts everything.

use std::io::IoSlice;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};

use super::{Connection, Phase};
use crate::websocket::outbox::{MAX_SLICES, Outbox};

/// Replies that a client may leave unread before its messages are left unread too.
const MAX_UNREAD_REPLY_BYTES: usize = 64 * 1024;
/// Events that may wait for a client of a protocol that skips none: some 10,000. They are references to shared frames.
const MAX_WAITING_EVENT_BYTES: usize = 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Outbound {
    outbox: Outbox,
    /// Bytes of replies among it, or somewhat more: see [`Outbound::advance`].
    replies: usize,
    /// Bytes of events that came behind others and wait, or somewhat more.
    events: usize,
    /// The reader, if it waits for the outbox.
    reader: Option<Waker>,
}

/// What is put into an outbox, which bounds each in its own way.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A reply to what the client sent: bounded by how much more is read from it.
    Reply,
    /// Frames of a tick for a socket that had nothing waiting: the first in the outbox, and not more than one batch.
    Batch,
    /// Frames of a tick behind other things.
    Event,
}

/// Whether a write went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a queue that has just begun needs a task that sends it"]
pub enum Written {
    /// It was sent, or put behind what waits already.
    Done,
    /// The rest waits, and nothing waited before: start to send it when the socket accepts more.
    Blocked,
}

/// What became of frames that others get too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Accepted.
    Accepted(Written),
    /// Nothing was sent: the socket is still busy with earlier frames.
    Busy,
}

impl Outbound {
    /// Takes out what was written. Which part of it was replies and which events is not recorded, but neither is more than all
    /// that is left: with a batch in front both stay as they are, behind it they shrink with the outbox.
    fn advance(&mut self, written: usize) {
        self.outbox.advance(written);
        let left = self.outbox.bytes();
        self.replies = self.replies.min(left);
        self.events = self.events.min(left);
    }
}

impl Connection {
    /// Whether something waits for the socket.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.with_outbound(|outbound| outbound.is_some())
    }

    /// Sends replies to what the client sent; they are always kept. Empties the buffer.
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

    /// Sends frames that others get too, unless the socket is still busy with earlier ones.
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

    /// Puts frames behind earlier ones that the socket is busy with. [`Delivery::Busy`] if too many wait already: then nothing
    /// was kept.
    pub fn wait_behind(&self, frames: &[&Bytes]) -> Delivery {
        let waiting = self.with_outbound(|outbound| outbound.as_ref().map_or(0, |outbound| outbound.events));
        let more: usize = frames.iter().map(|frame| frame.len()).sum();
        // One batch always fits, however many users came or went in its tick: a long one must not cost all clients that are a
        // little behind.
        if waiting > 0 && waiting + more > MAX_WAITING_EVENT_BYTES {
            return Delivery::Busy;
        }
        Delivery::Accepted(self.queue(frames.iter().copied().cloned(), Kind::Event))
    }

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

    /// Whether the client must read before more of what it sends is decoded. Then the waker of `context` is called when it has.
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

    fn with_outbound<R>(&self, look: impl FnOnce(&mut Option<Box<Outbound>>) -> R) -> R {
        let mut outbound = self.outbound.take();
        let result = look(&mut outbound);
        self.outbound.set(outbound);
        result
    }

    /// Bytes that wait for the socket.
    pub(crate) fn unsent(&self) -> usize {
        self.with_outbound(|outbound| outbound.as_ref().map_or(0, |waiting| waiting.outbox.bytes()))
    }

    /// Writes from the outbox until it is empty or the socket is full. Returns how many bytes were written.
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

    /// Nothing waits any more, or what waits is given up.
    pub(crate) fn drop_outbound(&self) {
        self.wake_reader();
        self.outbound.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_waiting_bytes_never_exceed_the_outbox() {
        let mut outbound = Outbound { replies: 20, events: 200, ..Outbound::default() };
        outbound.outbox.push(vec![0; 1000].into());
        outbound.outbox.push(vec![0; 220].into());
        for (written, replies, events) in [(900, 20, 200), (100, 20, 200), (150, 20, 70), (60, 10, 10), (10, 0, 0)] {
            outbound.advance(written);
            assert_eq!((outbound.replies, outbound.events), (replies, events), "after {written} more");
        }
    }
}
