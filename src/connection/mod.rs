//! One client connection: its socket, its sessions, and the rooms that it has joined or observes.
//!
//! An idle connection is this struct and a task of three pointers: no buffer, no timer, no channel. Bytes are read into
//! the worker's scratch buffer; only an incomplete frame or message is kept until the rest arrives. Writes go directly
//! to the socket; only bytes that the socket does not accept are kept until it does.

mod outbound;

use std::cell::{Cell, OnceCell};
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::task::{Context, Poll};

use self::outbound::Outbound;
use crate::inline_vec::InlineVec;
use crate::presence::{Audience, Room, Session, Tick};
use crate::protocol::{Protocol, SessionNumber};
use crate::websocket::decoder::Fragments;
use crate::websocket::stream::Stream;

pub use self::outbound::{Delivery, Written};

/// Identifies a connection of a worker. The slot in the slab may be reused, the serial number is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId {
    /// The slot in the slab.
    pub index: u32,
    /// Counts the connections of the worker.
    pub serial: u32,
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Messages are handled.
    Open,
    /// The server has sent a close frame and waits for the client's.
    Closing,
    /// The client violated RFC 6455: everything that it still sends is ignored.
    Failed,
    /// The connection has ended.
    Dead,
}

/// One client connection. It belongs to one worker and stays on its thread.
pub struct Connection {
    /// Its slot and serial number on the worker.
    pub id: ConnectionId,
    /// The wire protocol.
    pub protocol: Protocol,
    /// The first session, nearly always the only one. Set when the user is known: at the upgrade or with a later
    /// message. Not set for anonymous observers.
    session: OnceCell<Arc<Session>>,
    /// Its phase. Written by the worker.
    pub phase: Cell<Phase>,
    /// The lower half of the tick of the last sign of life, which is enough to tell how long ago that was.
    last_heard: Cell<u32>,
    /// The rooms that it has joined or observes.
    subscriptions: Cell<Subscriptions>,
    /// Whether its presence has ended, so that it is ended once.
    pub released: Cell<bool>,
    stream: Stream,
    /// The parts that few connections have.
    extra: Cell<Option<Box<Extra>>>,
    /// Bytes that wait for the socket. `None` while the socket accepts everything.
    outbound: Cell<Option<Box<Outbound>>>,
}

/// The rooms of a connection.
pub type Subscriptions = InlineVec<Subscription>;

/// A room that the connection has joined, observes, or both.
#[derive(Debug)]
pub struct Subscription {
    /// The room.
    pub room: Arc<Room>,
    /// The session that has joined the room, if one has.
    pub member: Option<SessionNumber>,
    /// How it observes the room. Meaningless while it does not ([`ObserverState::Absent`]).
    pub audience: Audience,
    /// Its state as an observer of the room.
    pub state: ObserverState,
}

/// The state of an observer, with its slot in the fanout of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObserverState {
    /// It does not observe the room.
    Absent,
    /// It waits for a snapshot.
    Pending(u32),
    /// It receives each change.
    Attached(u32),
    /// It missed changes because its socket was full. It receives a snapshot when the socket accepts bytes again.
    Lagging(u32),
}

/// The parts that few connections have.
#[derive(Debug, Default)]
struct Extra {
    partial: Option<Partial>,
    /// Sessions after the first, for protocols in which one connection acts for several users.
    sessions: Vec<Arc<Session>>,
}

/// Input that is incomplete or was not decoded yet.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    /// Bytes that were not decoded: nearly always an incomplete frame.
    pub(crate) tail: Vec<u8>,
    pub(crate) fragments: Option<Fragments>,
    /// Whether the tail may have complete frames: decoding stopped because the client does not read its replies.
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
    pub fn new(id: ConnectionId, protocol: Protocol, stream: Stream, now: Tick) -> Self {
        Self {
            id,
            protocol,
            session: OnceCell::new(),
            phase: Cell::new(Phase::Open),
            last_heard: Cell::new(now as u32),
            subscriptions: Cell::default(),
            released: Cell::new(false),
            stream,
            extra: Cell::new(None),
            outbound: Cell::new(None),
        }
    }

    /// The first session; `None` while the user is not known, and for anonymous observers.
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.session.get()
    }

    /// The session with this number.
    pub fn session_at(&self, number: SessionNumber) -> Option<Arc<Session>> {
        match number.index() {
            0 => self.session.get().cloned(),
            index => self.with_extra(|extra| extra.sessions.get(index - 1).cloned()),
        }
    }

    /// The number of the session of this user, if the connection has one.
    pub fn session_of(&self, user: &str) -> Option<SessionNumber> {
        let is_its = |session: &Arc<Session>| **session.user() == *user;
        if self.session.get().is_some_and(is_its) {
            return Some(SessionNumber::FIRST);
        }
        self.with_extra(|extra| extra.sessions.iter().position(is_its)).and_then(|at| SessionNumber::new(at + 1))
    }

    /// Adds a session, one per distinct user. `None` if the connection has the maximum number of sessions already.
    pub fn add_session(&self, session: Arc<Session>) -> Option<SessionNumber> {
        let Err(session) = self.session.set(session) else { return Some(SessionNumber::FIRST) };
        let mut extra = self.extra.take().unwrap_or_default();
        let number = SessionNumber::new(extra.sessions.len() + 1);
        if number.is_some() {
            extra.sessions.push(session);
        }
        self.extra.set(Some(extra));
        number
    }

    /// Calls `act` for each session.
    pub fn for_each_session(&self, mut act: impl FnMut(&Arc<Session>)) {
        let Some(first) = self.session.get() else { return };
        act(first);
        if let Some(extra) = self.extra.take() {
            extra.sessions.iter().for_each(act);
            self.extra.set(Some(extra));
        }
    }

    fn with_extra<R>(&self, read: impl FnOnce(&Extra) -> Option<R>) -> Option<R> {
        let extra = self.extra.take();
        let result = extra.as_deref().and_then(read);
        self.extra.set(extra);
        result
    }

    /// Records a sign of life.
    pub fn heard(&self, now: Tick) {
        self.last_heard.set(now as u32);
    }

    /// The number of ticks since the last sign of life.
    #[must_use]
    pub fn silent_for(&self, now: Tick) -> Tick {
        Tick::from((now as u32).wrapping_sub(self.last_heard.get()))
    }

    /// Reads or changes the rooms of the connection. `act` must not call this function again for the same connection.
    pub fn with_subscriptions<R>(&self, act: impl FnOnce(&mut Subscriptions) -> R) -> R {
        let mut subscriptions = self.subscriptions.take();
        let result = act(&mut subscriptions);
        self.subscriptions.set(subscriptions);
        result
    }

    /// Takes the input that is incomplete or was not decoded yet.
    pub(crate) fn take_partial(&self) -> Option<Partial> {
        let mut extra = self.extra.take()?;
        let partial = extra.partial.take();
        if !extra.sessions.is_empty() {
            self.extra.set(Some(extra));
        }
        partial
    }

    /// Keeps input that is incomplete or was not decoded yet.
    pub(crate) fn keep_partial(&self, partial: Partial) {
        let mut extra = self.extra.take().unwrap_or_default();
        extra.partial = Some(partial);
        self.extra.set(Some(extra));
    }

    /// Whether complete frames may wait that were not decoded, because the client does not read its replies.
    pub(crate) fn has_backlog(&self) -> bool {
        self.with_extra(|extra| extra.partial.as_ref().map(|partial| partial.backlog)).unwrap_or(false)
    }

    /// Ends the connection at once. The reader notices the end of the stream and cleans up.
    pub fn abort(&self) {
        self.phase.set(Phase::Dead);
        self.stream.shutdown(Shutdown::Both);
        self.wake_reader();
    }

    /// Shuts down the sending direction, so that the client closes the connection (RFC 6455, section 7.1.1). Does
    /// nothing while bytes wait for the socket; the writer calls it again when they are sent.
    pub fn finish_writing(&self) {
        if !self.is_blocked() {
            self.stream.shutdown(Shutdown::Write);
        }
    }

    /// Reads what has arrived.
    pub fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_read(context, buffer)
    }

    /// Waits until the socket accepts more.
    pub async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limits are size classes of the allocator. The memory budget of an idle connection depends on them.
    #[test]
    fn the_parts_of_an_idle_connection_fit_their_size_classes() {
        const RC_COUNTS: usize = 2 * size_of::<usize>();
        // 112 in the server. In tests, tokio is built with features that make a socket 8 bytes larger.
        assert!(size_of::<Connection>() + RC_COUNTS <= 120, "{}", size_of::<Connection>());
        assert!(size_of::<Session>() + RC_COUNTS <= 80, "{}", size_of::<Session>());
        assert!(size_of::<Subscriptions>() <= 24, "{}", size_of::<Subscriptions>());
    }
}
