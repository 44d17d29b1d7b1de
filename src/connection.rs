//! One client: a parked socket, and what it has joined and looks at.
//!
//! An idle connection is this struct, a task of three pointers, and nothing else: no buffer, no timer, no channel. Bytes are
//! read into the worker's scratch buffer; only an unfinished frame or message is kept, and only until it is finished. Writes go
//! straight to the socket; only what it does not take is kept, and only until it does.

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::io::{self, IoSlice, Read};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::dialect::Dialect;
use crate::presence::{Audience, Room, Session, Tick};
use crate::socket::inbound::Fragments;
use crate::socket::outbox::{MAX_SLICES, Outbox};
use crate::worker::Worker;

/// Reads of one connection before the others get their turn. Nearly always the first read takes everything and the second finds
/// that out without asking the kernel; a flood is taken in turns.
const CHUNKS_PER_TURN: usize = 2;
/// Answers that a client may leave unread before its messages are left unread too.
const MAX_UNREAD_ANSWERS: usize = 64 * 1024;
/// Events that may wait for a client that is told each of them: some 10,000. They are references to frames that all share.
const MAX_WAITING_EVENTS: usize = 1024 * 1024;
/// A client must have taken what waits for it within this time, or it is dropped: what it holds back is memory of ours.
const OUTBOX_DEADLINE: Duration = Duration::from_secs(30);
/// And what is long may take longer: this many bytes a second more, some 256 kbit/s.
const SLOWEST_BYTES_PER_SECOND: usize = 32 * 1024;

/// Finds a connection again, unless it is gone: its place in the worker's slab and which of its holders it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId {
    /// The place in the slab.
    pub index: u32,
    /// Counts the connections of the worker.
    pub serial: u32,
}

/// How far a connection's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Frames are taken.
    Open,
    /// The server has sent a close frame and waits for the client's.
    Closing,
    /// The client broke the protocol: nothing it sends is looked at.
    Failed,
    /// Over.
    Dead,
}

/// One client connection. Belongs to one worker and never leaves its thread.
pub struct Connection {
    /// Where the worker finds it.
    pub id: ConnectionId,
    /// What it speaks.
    pub dialect: Dialect,
    /// Whose it is; holds the lease, where there is one. Set when the user is known, which the upgrade says or the first message.
    pub session: OnceCell<Arc<Session>>,
    /// How far it has come. Written by the worker.
    pub phase: Cell<Phase>,
    /// The lower half of the tick of the last bytes that were read: what is asked is how long ago that was.
    last_heard: Cell<u32>,
    /// Rooms joined or looked at.
    subscriptions: Cell<Subscriptions>,
    /// Whether the presence of this connection has been ended; then a second end does nothing.
    pub released: Cell<bool>,
    stream: TcpStream,
    /// Only while a frame or message is unfinished.
    pub(crate) inbound: Cell<Option<Box<Inbound>>>,
    /// Only while the socket does not take everything.
    outbound: Cell<Option<Box<Outbound>>>,
}

/// Rooms of a connection: nearly always one, which needs no allocation of its own.
pub type Subscriptions = SmallVec<[Subscription; 1]>;

/// A room that the connection has joined, or looks at, or both.
#[derive(Debug)]
pub struct Subscription {
    /// The room.
    pub room: Arc<Room>,
    /// Whether the session is a member.
    pub joined: bool,
    /// How it looks at it; of no meaning while the place is [`Place::Nowhere`].
    pub audience: Audience,
    /// Where it stands among the room's observers on this worker.
    pub place: Place,
}

/// Where an observer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It does not look.
    Nowhere,
    /// It waits for its snapshot.
    Pending(u32),
    /// It gets each change.
    Attached(u32),
    /// It missed changes because its socket was full, and gets a snapshot when it is not.
    Lagging(u32),
}

/// What has been read and is not whole yet.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    pub(crate) tail: Vec<u8>,
    pub(crate) fragments: Option<Fragments>,
    /// The tail may hold whole frames: reading stopped because answers were not read.
    pub(crate) backlog: bool,
}

#[derive(Debug, Default)]
struct Outbound {
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

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("Connection");
        debug.field("id", &self.id).field("phase", &self.phase.get()).finish_non_exhaustive()
    }
}

impl Connection {
    /// A new connection over a socket.
    pub fn new(id: ConnectionId, dialect: Dialect, stream: TcpStream, now: Tick) -> Self {
        Self {
            id,
            dialect,
            session: OnceCell::new(),
            phase: Cell::new(Phase::Open),
            last_heard: Cell::new(now as u32),
            subscriptions: Cell::default(),
            released: Cell::new(false),
            stream,
            inbound: Cell::new(None),
            outbound: Cell::new(None),
        }
    }

    /// Notes that bytes were read.
    pub fn heard(&self, now: Tick) {
        self.last_heard.set(now as u32);
    }

    /// How many ticks ago bytes were read.
    #[must_use]
    pub fn silent_for(&self, now: Tick) -> Tick {
        Tick::from((now as u32).wrapping_sub(self.last_heard.get()))
    }

    /// Looks at the rooms of the connection, or changes them. `look` must not come back here.
    pub fn with_subscriptions<R>(&self, look: impl FnOnce(&mut Subscriptions) -> R) -> R {
        let mut subscriptions = self.subscriptions.take();
        let result = look(&mut subscriptions);
        self.subscriptions.set(subscriptions);
        result
    }

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

    /// Ends the connection from our side: the reader finds the end of the stream.
    pub fn abort(&self) {
        self.phase.set(Phase::Dead);
        // It may have gone already; then there is nothing to shut down.
        let _ = SockRef::from(&self.stream).shutdown(std::net::Shutdown::Both);
        self.wake_reader();
    }

    /// Tells the client that nothing more comes, so that it closes too (RFC 6455, 7.1.1). What waits is sent first.
    pub fn finish_writing(&self) {
        if !self.is_blocked() {
            let _ = SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
        }
    }

    /// Reads what has come. A short read tells tokio that there is no more, as its own `poll_read` does: without it each message
    /// would cost a second call that finds nothing. That `poll_read` wants the stream for itself, or split behind one more
    /// allocation; here reads and writes share it.
    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            let mut read = 0;
            let result = self.stream.try_io(Interest::READABLE, || {
                read = (&*SockRef::from(&self.stream)).read(buffer)?;
                if read > 0 && read < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && read == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Ready(Ok(read)),
                result => return Poll::Ready(result.map(|()| read)),
            }
        }
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
    fn must_wait(&self, context: Option<&Context<'_>>) -> bool {
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

    fn wake_reader(&self) {
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
            worker.sign_of_life(connection, worker.shared.now()); // Its end of the socket acknowledges.
        }
        if !connection.is_choked() {
            connection.wake_reader();
        }
    }
    connection.unsent()
}

/// The task of a connection: reads until the end.
#[derive(Debug)]
pub struct Reader {
    connection: Rc<Connection>,
    worker: Rc<Worker>,
}

impl Reader {
    /// A reader of the connection.
    pub fn new(connection: Rc<Connection>, worker: Rc<Worker>) -> Self {
        Self { connection, worker }
    }

    fn poll_chunk(&self, context: &mut Context<'_>) -> Poll<ControlFlow<()>> {
        if self.connection.must_wait(Some(context)) {
            return Poll::Pending;
        }
        if self.worker.has_backlog(&self.connection) {
            return Poll::Ready(self.worker.receive(&self.connection, &mut []));
        }
        let mut scratch = self.worker.scratch.borrow_mut();
        match ready!(self.connection.poll_read(context, &mut scratch)) {
            Ok(read) if read > 0 => Poll::Ready(self.worker.receive(&self.connection, &mut scratch[..read])),
            _ => Poll::Ready(ControlFlow::Break(())),
        }
    }
}

impl Future for Reader {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..CHUNKS_PER_TURN {
            if ready!(self.poll_chunk(context)).is_break() {
                self.worker.disconnected(&self.connection);
                return Poll::Ready(());
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
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

    /// Each has the size class of the allocator that the memory budget counts on (DESIGN: at most 1 KB per idle connection).
    #[test]
    fn what_an_idle_connection_owns_stays_small() {
        const RC_COUNTS: usize = 2 * size_of::<usize>();
        assert!(size_of::<Connection>() + RC_COUNTS <= 128, "{}", size_of::<Connection>());
        assert!(size_of::<Session>() + RC_COUNTS <= 80, "{}", size_of::<Session>());
        assert!(size_of::<Subscription>() <= 24, "{}", size_of::<Subscription>());
        assert!(size_of::<Reader>() <= 16, "{}", size_of::<Reader>());
    }
}
