//! One client: a parked socket, its sessions, and the rooms it has joined or observes.
//!
//! An idle connection is this struct, a task of three pointers, and nothing else: no buffer, no timer, no channel. Bytes are
//! read into the worker's scratch buffer; only an unfinished frame or message is kept, and only until it is finished. Writes go
//! straight to the socket; only what the socket does not accept is kept, and only until it does.

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

/// Finds a connection again unless it is gone: its slot in the worker's slab, and which of the slot's users it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId {
    /// The slot in the slab.
    pub index: u32,
    /// Counts the connections of the worker.
    pub serial: u32,
}

/// How far the life of a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Frames are decoded.
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
    /// The wire protocol.
    pub protocol: Protocol,
    /// The first session, which nearly every connection has and which is nearly always the only one. Not set before the user
    /// is known, which is at the upgrade or with a later message; never set for anonymous observers.
    session: OnceCell<Arc<Session>>,
    /// How far it has come. Written by the worker.
    pub phase: Cell<Phase>,
    /// The lower half of the tick of the last sign of life: what is asked is how long ago that was.
    last_heard: Cell<u32>,
    /// Rooms joined or observed.
    subscriptions: Cell<Subscriptions>,
    /// Whether the presence of this connection has ended; then a second end does nothing.
    pub released: Cell<bool>,
    stream: Stream,
    /// What few connections have, and those not for long.
    extra: Cell<Option<Box<Extra>>>,
    /// Only while the socket does not accept everything.
    outbound: Cell<Option<Box<Outbound>>>,
}

/// The rooms of a connection.
pub type Subscriptions = InlineVec<Subscription>;

/// A room that the connection has joined, or observes, or both.
#[derive(Debug)]
pub struct Subscription {
    /// The room.
    pub room: Arc<Room>,
    /// The session that is a member, if one is.
    pub member: Option<SessionNumber>,
    /// How it observes the room; of no meaning while it does not ([`ObserverState::Absent`]).
    pub audience: Audience,
    /// Its entry among the observers of the room on this worker.
    pub state: ObserverState,
}

/// The state of an observer, with its slot in the fanout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObserverState {
    /// It does not observe.
    Absent,
    /// It waits for its snapshot.
    Pending(u32),
    /// It gets each change.
    Attached(u32),
    /// It missed changes because its socket was full, and gets a snapshot when it is not.
    Lagging(u32),
}

/// The parts of a connection that are seldom there.
#[derive(Debug, Default)]
struct Extra {
    partial: Option<Partial>,
    /// Sessions after the first, for protocols in which one connection acts for several users.
    sessions: Vec<Arc<Session>>,
}

/// Input that is not complete yet.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    pub(crate) tail: Vec<u8>,
    pub(crate) fragments: Option<Fragments>,
    /// The tail may hold complete frames: decoding stopped because replies were not read.
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

    /// The first session; `None` for a connection whose user is not known, and for anonymous observers.
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.session.get()
    }

    /// The session of this number.
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

    /// Adds a session, one per distinct user. `None` if the connection has the highest number of sessions already.
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

    fn with_extra<R>(&self, look: impl FnOnce(&Extra) -> Option<R>) -> Option<R> {
        let extra = self.extra.take();
        let result = extra.as_deref().and_then(look);
        self.extra.set(extra);
        result
    }

    /// Notes a sign of life.
    pub fn heard(&self, now: Tick) {
        self.last_heard.set(now as u32);
    }

    /// How many ticks ago the last sign of life was.
    #[must_use]
    pub fn silent_for(&self, now: Tick) -> Tick {
        Tick::from((now as u32).wrapping_sub(self.last_heard.get()))
    }

    /// Reads or changes the rooms of the connection. `look` must not come back here.
    pub fn with_subscriptions<R>(&self, look: impl FnOnce(&mut Subscriptions) -> R) -> R {
        let mut subscriptions = self.subscriptions.take();
        let result = look(&mut subscriptions);
        self.subscriptions.set(subscriptions);
        result
    }

    /// Takes the input that is not complete.
    pub(crate) fn take_partial(&self) -> Option<Partial> {
        let mut extra = self.extra.take()?;
        let partial = extra.partial.take();
        if !extra.sessions.is_empty() {
            self.extra.set(Some(extra));
        }
        partial
    }

    /// Keeps input that is not complete.
    pub(crate) fn keep_partial(&self, partial: Partial) {
        let mut extra = self.extra.take().unwrap_or_default();
        extra.partial = Some(partial);
        self.extra.set(Some(extra));
    }

    /// Whether complete frames wait that were not decoded because replies were not read.
    pub(crate) fn has_backlog(&self) -> bool {
        self.with_extra(|extra| extra.partial.as_ref().map(|partial| partial.backlog)).unwrap_or(false)
    }

    /// Ends the connection from the server's side: the reader finds the end of the stream.
    pub fn abort(&self) {
        self.phase.set(Phase::Dead);
        self.stream.shutdown(Shutdown::Both);
        self.wake_reader();
    }

    /// Tells the client that nothing more comes, so that it closes too (RFC 6455, section 7.1.1). What waits is sent first.
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

    /// Each has the allocator's size class that the memory budget of an idle connection counts on.
    #[test]
    fn the_parts_of_an_idle_connection_stay_small() {
        const RC_COUNTS: usize = 2 * size_of::<usize>();
        // 112 in the server: a socket of the tokio that tests are built with is 8 bytes larger.
        assert!(size_of::<Connection>() + RC_COUNTS <= 120, "{}", size_of::<Connection>());
        assert!(size_of::<Session>() + RC_COUNTS <= 80, "{}", size_of::<Session>());
        assert!(size_of::<Subscriptions>() <= 24, "{}", size_of::<Subscriptions>());
    }
}
