//! What a socket does not take at once: answers, and what a tick brings, each within its bound.
//!
//! Nothing of this is there while the socket takes everything.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{Connection, Phase};
use crate::websocket::outbox::{MAX_SLICES, Outbox};
use crate::worker::Worker;

/// Answers that a client may leave unread before its messages are left unread too.
const MAX_UNREAD_ANSWERS: usize = 64 * 1024;
/// Events that may wait for a client that is told each of them: some 10,000. They are references to frames that all share.
const MAX_WAITING_EVENTS: usize = 1024 * 1024;
/// A client must have taken what waits for it within this time, or it is dropped: what it holds back is memory of ours.
const OUTBOX_DEADLINE: Duration = Duration::from_secs(30);
/// And what is long may take longer: this many bytes a second more, some 256 kbit/s.
const SLOWEST_BYTES_PER_SECOND: usize = 32 * 1024;

#[derive(Debug, Default)]
pub(super) struct Outbound {
    outbox: Outbox,
    /// Bytes of answers among it, or somewhat more: see [`Outbound::advance`].
    answers: usize,
    /// Bytes of events that came behind others and wait, or somewhat more.
    events: usize,
    /// The reader, if it waits for the outbox.
    reader: Option<Waker>,
}

/// What is put into an outbox, which bounds each in its own way.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// To what the client sent: bounded by what more is read of it.
    Answer,
    /// What a tick brought to a socket that had nothing waiting: it is the first in the outbox, and not more than one batch.
    Whole,
    /// What a tick brought, behind other things.
    Event,
}

impl Outbound {
    /// Takes out what was written. What of it was an answer and what an event nobody notes, but neither is more than all that is
    /// left: with a batch in front both stay as they are, behind it they shrink with the outbox.
    fn advance(&mut self, written: usize) {
        self.outbox.advance(written);
        let left = self.outbox.bytes();
        self.answers = self.answers.min(left);
        self.events = self.events.min(left);
    }
}

impl Connection {
    /// Whether something waits for the socket to take it.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.with_outbound(|outbound| outbound.is_some())
    }

    /// Sends answers to what the client sent; they are always kept. Empties the buffer.
    pub fn answer(self: &Rc<Self>, worker: &Rc<Worker>, answers: &mut BytesMut) {
        if answers.is_empty() {
            return;
        }
        let written = if self.is_blocked() { 0 } else { self.try_write(&[IoSlice::new(answers)]) };
        if written < answers.len() {
            let rest = Bytes::copy_from_slice(&answers[written..]);
            self.queue(worker, [rest].into_iter(), Kind::Answer);
        }
        answers.clear();
    }

    /// Sends frames that others get too. False if the socket is still busy with earlier ones: then nothing was sent.
    pub fn deliver(self: &Rc<Self>, worker: &Rc<Worker>, frames: &[&Bytes]) -> bool {
        if self.is_blocked() {
            return false;
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
                self.queue(worker, rest, Kind::Whole);
                return true;
            }
        }
        true
    }

    /// Has frames wait for a socket that is busy with earlier ones. False if too many wait already: then nothing was kept.
    pub fn wait_behind(self: &Rc<Self>, worker: &Rc<Worker>, frames: &[&Bytes]) -> bool {
        let waiting = self.with_outbound(|outbound| outbound.as_ref().map_or(0, |outbound| outbound.events));
        let more: usize = frames.iter().map(|frame| frame.len()).sum();
        // One batch always fits, however many came or went in its tick: a long one must not cost all who are a little behind.
        let fits = waiting == 0 || waiting + more <= MAX_WAITING_EVENTS;
        if fits {
            self.queue(worker, frames.iter().copied().cloned(), Kind::Event);
        }
        fits
    }

    /// Writes what the socket takes; 0 if it takes nothing. A broken socket takes everything: the reader finds out about it.
    /// Nearly always it is one slice, and `send` is a good deal cheaper than `writev`.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> usize {
        let written = match slices {
            [slice] => self.stream.try_write(slice),
            slices => self.stream.try_write_vectored(slices),
        };
        match written {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => slices.iter().map(|slice| slice.len()).sum(),
        }
    }

    fn queue(self: &Rc<Self>, worker: &Rc<Worker>, frames: impl Iterator<Item = Bytes>, kind: Kind) {
        let idle = !self.is_blocked();
        let mut outbound = self.outbound.take().unwrap_or_default();
        let before = outbound.outbox.bytes();
        frames.for_each(|frame| outbound.outbox.push(frame));
        let more = outbound.outbox.bytes() - before;
        match kind {
            Kind::Answer => outbound.answers += more,
            Kind::Event => outbound.events += more,
            Kind::Whole => {}
        }
        self.outbound.set(Some(outbound));
        if idle {
            tokio::task::spawn_local(drain(Rc::clone(self), Rc::clone(worker)));
        }
    }

    /// Whether the client must read before more of what it sends is looked at. Then the reader is woken when it has.
    pub(super) fn must_wait(&self, context: Option<&Context<'_>>) -> bool {
        let Some(mut outbound) = self.outbound.take() else { return false };
        let wait = outbound.answers > MAX_UNREAD_ANSWERS && self.phase.get() != Phase::Dead;
        if let (true, Some(context)) = (wait, context) {
            outbound.reader = Some(context.waker().clone());
        }
        self.outbound.set(Some(outbound));
        wait
    }

    /// Whether no more messages should be taken for now.
    pub(crate) fn is_choked(&self) -> bool {
        self.must_wait(None)
    }

    pub(super) fn wake_reader(&self) {
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
    fn unsent(&self) -> usize {
        self.with_outbound(|outbound| outbound.as_ref().map_or(0, |waiting| waiting.outbox.bytes()))
    }

    /// Writes from the outbox until it is empty or the socket is full. Returns how many bytes that were.
    fn flush(&self) -> usize {
        self.with_outbound(|outbound| {
            let Some(waiting) = outbound.as_mut() else { return 0 };
            let before = waiting.outbox.bytes();
            while !waiting.outbox.is_empty() {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let used = waiting.outbox.slices(&mut slices);
                let written = self.try_write(&slices[..used]);
                if written == 0 {
                    break;
                }
                waiting.advance(written);
            }
            before - waiting.outbox.bytes()
        })
    }
}

/// Waits for a slow socket and sends it what it missed. Lives only as long as the outbox.
async fn drain(connection: Rc<Connection>, worker: Rc<Worker>) {
    let mut due = connection.unsent();
    while due > 0 {
        let deadline = OUTBOX_DEADLINE + Duration::from_secs((due / SLOWEST_BYTES_PER_SECOND) as u64);
        match tokio::time::timeout(deadline, send(&connection, &worker, due)).await {
            // What came meanwhile has a time of its own.
            Ok(left) => due = left,
            Err(_) => {
                worker.counters.connections_too_slow.add(1);
                connection.abort();
                break;
            }
        }
    }
    connection.wake_reader();
    connection.outbound.set(None);
    match connection.phase.get() {
        Phase::Failed => connection.finish_writing(),
        Phase::Open => worker.catch_up(&connection),
        Phase::Closing | Phase::Dead => {}
    }
}

/// Writes this many bytes of the outbox as the socket takes them. Returns how many wait then; none if the connection is over.
async fn send(connection: &Rc<Connection>, worker: &Rc<Worker>, mut due: usize) -> usize {
    while due > 0 {
        if connection.phase.get() == Phase::Dead || connection.stream.writable().await.is_err() {
            return 0;
        }
        let written = connection.flush();
        due = due.saturating_sub(written);
        if written > 0 && connection.phase.get() == Phase::Open {
            worker.sign_of_life(connection, worker.node.now()); // Its end of the socket acknowledges.
        }
        if !connection.is_choked() {
            connection.wake_reader();
        }
    }
    connection.unsent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_waiting_is_never_more_than_what_waits() {
        let mut outbound = Outbound { answers: 20, events: 200, ..Outbound::default() };
        outbound.outbox.push(vec![0; 1000].into());
        outbound.outbox.push(vec![0; 220].into());
        for (written, answers, events) in [(900, 20, 200), (100, 20, 200), (150, 20, 70), (60, 10, 10), (10, 0, 0)] {
            outbound.advance(written);
            assert_eq!((outbound.answers, outbound.events), (answers, events), "after {written} more");
        }
    }
}
