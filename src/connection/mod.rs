//! One client connection: its socket, its sessions, and the rooms that it has joined or observes.
//!
//! An idle connection is this struct, in a slab of its worker, and nothing else: no task, no buffer, no timer, no
//! channel. Bytes are read into a buffer of the worker; only an incomplete frame or message is kept until the rest
//! arrives. Writes go directly to the socket; only bytes that the socket does not accept are kept until it does.

mod outbound;

use std::net::Shutdown;
use std::sync::Arc;

use slab::Slab;

use self::outbound::Outbound;
use crate::inline_vec::InlineVec;
use crate::presence::{Audience, Room, Session, Tick};
use crate::protocol::{Protocol, SessionNumber};
use crate::websocket::decoder::Fragments;
use crate::websocket::stream::{Received, Stream};

pub use self::outbound::Delivery;

/// The connections of a worker, by slot.
pub type Connections = Slab<Connection>;

/// The connection with this id, if it has not been removed.
pub fn find_connection(connections: &mut Connections, id: ConnectionId) -> Option<&mut Connection> {
    connections.get_mut(id.index as usize).filter(|connection| connection.id == id)
}

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
    /// The first request has not arrived: it is not a WebSocket yet.
    AwaitingRequest,
    /// Messages are handled.
    Open,
    /// The server has sent a close frame and waits for the client's.
    Closing,
    /// The client violated RFC 6455: everything that it still sends is ignored.
    Failed,
    /// The connection has ended and is removed in the present turn of the loop or the next one.
    Dead,
}

/// What the socket is known to have received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Nothing that was not read.
    Nothing,
    /// Perhaps more bytes.
    Bytes,
    /// Perhaps more bytes, then the end of the stream: it is read until then.
    End,
}

/// One client connection. It belongs to one worker.
///
/// A heartbeat touches only these 64 bytes, which are one cache line, and the session.
#[repr(align(64))]
pub struct Connection {
    /// The first session, nearly always the only one. Set when the user is known: at the upgrade or with a later
    /// message. Not set for anonymous observers.
    session: Option<Arc<Session>>,
    /// The rooms that it has joined or observes.
    pub subscriptions: Subscriptions,
    /// The parts that few connections have.
    extra: Option<Box<Extra>>,
    /// Its slot and serial number on the worker.
    pub id: ConnectionId,
    /// The lower half of the tick of the last sign of life, which is enough to tell how long ago that was.
    last_heard: u32,
    stream: Stream,
    /// The wire protocol.
    pub protocol: Protocol,
    /// Its phase.
    pub phase: Phase,
    /// What the socket is known to have received.
    pub input: Input,
    /// Whether it is a WebSocket, or was one until it ended.
    pub is_websocket: bool,
    /// Whether its presence has ended, so that it is ended once.
    pub released: bool,
    /// Whether it is in the worker's list of connections to continue with.
    pub is_ready: bool,
    /// Whether it is in the worker's list of slow connections.
    pub is_slow: bool,
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
    /// Bytes that wait for the socket.
    outbound: Outbound,
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
        debug.field("id", &self.id).field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection that was accepted and is not a WebSocket yet. The protocol is a placeholder.
    pub fn new(id: ConnectionId, protocol: Protocol, stream: Stream, now: Tick) -> Self {
        Self {
            session: None,
            subscriptions: Subscriptions::default(),
            extra: None,
            id,
            last_heard: now as u32,
            stream,
            protocol,
            phase: Phase::AwaitingRequest,
            input: Input::Nothing,
            is_websocket: false,
            released: false,
            is_ready: false,
            is_slow: false,
        }
    }

    /// Its transport.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Takes it apart: the transport goes to another thread.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Makes it a WebSocket of this protocol.
    pub fn open(&mut self, protocol: Protocol, now: Tick) {
        (self.protocol, self.phase, self.is_websocket) = (protocol, Phase::Open, true);
        self.heard(now);
    }

    /// The first session; `None` while the user is not known, and for anonymous observers.
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }

    /// The session with this number.
    pub fn session_at(&self, number: SessionNumber) -> Option<&Arc<Session>> {
        match number.index() {
            0 => self.session.as_ref(),
            index => self.extra.as_ref()?.sessions.get(index - 1),
        }
    }

    /// The number of the session of this user, if the connection has one.
    pub fn session_of(&self, user: &str) -> Option<SessionNumber> {
        let at = self.sessions().position(|session| **session.user() == *user)?;
        SessionNumber::new(at)
    }

    /// Adds a session, one per distinct user. `None` if the connection has the maximum number of sessions already.
    pub fn add_session(&mut self, session: Arc<Session>) -> Option<SessionNumber> {
        let number = SessionNumber::new(self.sessions().count())?;
        match self.session {
            None => self.session = Some(session),
            Some(_) => self.extra.get_or_insert_default().sessions.push(session),
        }
        Some(number)
    }

    /// All its sessions, in the order of their numbers.
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.session.iter().chain(self.extra.iter().flat_map(|extra| &extra.sessions))
    }

    /// Records a sign of life.
    pub fn heard(&mut self, now: Tick) {
        self.last_heard = now as u32;
    }

    /// The number of ticks since the last sign of life.
    #[must_use]
    pub fn silent_for(&self, now: Tick) -> Tick {
        let silent = (now as u32).wrapping_sub(self.last_heard);
        // A sign of life may have a later tick than the batch that is executed.
        if silent > u32::MAX / 2 { 0 } else { Tick::from(silent) }
    }

    /// Takes the input that is incomplete or was not decoded yet.
    pub(crate) fn take_partial(&mut self) -> Option<Partial> {
        let partial = self.extra.as_mut()?.partial.take();
        self.drop_empty_extra();
        partial
    }

    /// Keeps input that is incomplete or was not decoded yet.
    pub(crate) fn keep_partial(&mut self, partial: Partial) {
        self.extra.get_or_insert_default().partial = Some(partial);
    }

    /// Whether complete frames may wait that were not decoded, because the client does not read its replies.
    pub(crate) fn has_backlog(&self) -> bool {
        self.extra.as_ref().and_then(|extra| extra.partial.as_ref()).is_some_and(|partial| partial.backlog)
    }

    /// Frees the memory of the rare parts if there are none any more.
    fn drop_empty_extra(&mut self) {
        let is_empty =
            |extra: &Extra| extra.partial.is_none() && extra.sessions.is_empty() && extra.outbound.is_empty();
        if self.extra.as_deref().is_some_and(is_empty) {
            self.extra = None;
        }
    }

    /// Ends the connection at once. The worker removes it.
    pub fn abort(&mut self) {
        self.phase = Phase::Dead;
        self.stream.shutdown(Shutdown::Both);
    }

    /// Shuts down the sending direction, so that the client closes the connection (RFC 6455, section 7.1.1). Does
    /// nothing while bytes wait for the socket; the writer calls it again when they are sent.
    pub fn finish_writing(&self) {
        if !self.is_blocked() {
            self.stream.shutdown(Shutdown::Write);
        }
    }

    /// Reads what has arrived, and notes whether more may have. `None` if nothing has arrived, or if the connection has
    /// ended: it is [`Phase::Dead`] then.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.stream.read(buffer) {
            Received::Bytes(read) => {
                // A read that does not fill the buffer has emptied the socket. (It may also end at urgent data. What is
                // behind that is read with the next segment.)
                if read < buffer.len() && self.input == Input::Bytes {
                    self.input = Input::Nothing;
                }
                Some(read)
            }
            Received::Nothing => {
                self.input = Input::Nothing;
                None
            }
            Received::End => {
                self.phase = Phase::Dead;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory budget of an idle connection depends on these sizes.
    #[test]
    fn an_idle_connection_is_one_cache_line_and_a_session() {
        // A slot of the slab has a connection, or the number of the next free slot.
        type Slot = Result<Connection, usize>;
        assert_eq!((size_of::<Connection>(), size_of::<Slot>()), (64, 64));
        const ARC_COUNTS: usize = 2 * size_of::<usize>();
        assert!(size_of::<Session>() + ARC_COUNTS <= 80, "{}", size_of::<Session>());
    }
}
