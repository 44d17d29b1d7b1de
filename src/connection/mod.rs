//! One client: a parked socket, and what it has joined and looks at.
//!
//! An idle connection is this struct, a task of three pointers, and nothing else: no buffer, no timer, no channel. Bytes are
//! read into the worker's scratch buffer; only an unfinished frame or message is kept, and only until it is finished. Writes go
//! straight to the socket; only what it does not take is kept, and only until it does.

mod outbound;

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use self::outbound::Outbound;
use crate::inline_vec::InlineVec;
use crate::presence::{Audience, Room, Session, Tick};
use crate::protocol::Protocol;
use crate::websocket::decoder::Fragments;
use crate::worker::Worker;

/// Reads of one connection before the others get their turn. Nearly always the first read takes everything and the second finds
/// that out without asking the kernel; a flood is taken in turns.
const CHUNKS_PER_TURN: usize = 2;

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
    pub protocol: Protocol,
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

/// Rooms of a connection.
pub type Subscriptions = InlineVec<Subscription>;

/// A room that the connection has joined, or looks at, or both.
#[derive(Debug)]
pub struct Subscription {
    /// The room.
    pub room: Arc<Room>,
    /// Whether the session is a member.
    pub joined: bool,
    /// How it looks at it; of no meaning while the place is [`ObserverState::Nowhere`].
    pub audience: Audience,
    /// Where it stands among the room's observers on this worker.
    pub place: ObserverState,
}

/// Where an observer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObserverState {
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

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("Connection");
        debug.field("id", &self.id).field("phase", &self.phase.get()).finish_non_exhaustive()
    }
}

impl Connection {
    /// A new connection over a socket.
    pub fn new(id: ConnectionId, protocol: Protocol, stream: TcpStream, now: Tick) -> Self {
        Self {
            id,
            protocol,
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

    /// Each has the size class of the allocator that the memory budget counts on (DESIGN: at most 1 KB per idle connection).
    #[test]
    fn what_an_idle_connection_owns_stays_small() {
        const RC_COUNTS: usize = 2 * size_of::<usize>();
        // 112 in the server: a socket of the tokio that tests are built with is 8 bytes larger.
        assert!(size_of::<Connection>() + RC_COUNTS <= 120, "{}", size_of::<Connection>());
        assert!(size_of::<Session>() + RC_COUNTS <= 80, "{}", size_of::<Session>());
        assert!(size_of::<Subscriptions>() <= 24, "{}", size_of::<Subscriptions>());
        assert!(size_of::<Reader>() <= 16, "{}", size_of::<Reader>());
    }
}
