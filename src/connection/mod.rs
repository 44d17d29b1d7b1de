//! One client connection: its socket, its sessions, and the rooms that it has joined or observes.
//!
//! An idle connection is this struct, in a slab of its worker, and nothing else: no task, no buffer, no timer, no
//! channel. Bytes are read into a buffer of the worker; only an incomplete frame or message is kept until the rest
//! arrives. Writes go directly to the socket; only bytes that the socket does not accept are kept until it does.

mod backlog;
mod outbound;
mod sessions;
mod subscriptions;

use std::any::Any;
use std::net::Shutdown;
use std::sync::Arc;

use slab::Slab;

use self::outbound::Outbound;
use crate::presence::{Session, Tick};
use crate::protocol::Protocol;
use crate::tls;
use crate::websocket::decoder::Unfinished;
use crate::websocket::stream::{Received, Stream, Transport};

pub use self::outbound::Delivery;
pub use self::subscriptions::{ObserverState, Subscription, Subscriptions};

/// The memory of an idle connection in one room, as measured.
const IDLE_BYTES: usize = 600;
/// What TLS adds, as measured.
const TLS_BYTES: usize = 4100;
/// About what a room costs that a connection has joined or observes, with its membership.
const SUBSCRIPTION_BYTES: usize = 300;

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
    /// The PROXY header has not arrived.
    AwaitingProxyHeader,
    /// The client has sent nothing, or may not begin the TLS handshake yet.
    AwaitingTls,
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
    socket: Stream,
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
    /// Whether it is not read for a while, because the client caused too much work.
    pub is_paused: bool,
}

/// The parts that few connections have.
#[derive(Debug, Default)]
struct Extra {
    /// The state of TLS, if the connection is encrypted.
    tls: Option<Box<tls::Session>>,
    partial: Option<Partial>,
    /// Sessions after the first, for protocols in which one connection acts for several users.
    sessions: Vec<Arc<Session>>,
    /// Bytes that wait for the socket.
    outbound: Outbound,
    /// What the protocol keeps about the connection.
    data: Option<ProtocolData>,
    /// The number by which messages leave this connection out, if it has one.
    number: Option<u64>,
}

/// What a protocol keeps about a connection, in a type of its own.
pub type ProtocolData = Box<dyn Any + Send>;

/// Input that is incomplete or was not decoded yet.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    /// Bytes that were not decoded: nearly always an incomplete frame.
    pub(crate) tail: Vec<u8>,
    pub(crate) unfinished: Option<Unfinished>,
    /// When the oldest part of it arrived.
    pub(crate) since: Tick,
    /// Whether the tail may have complete frames: decoding stopped because the client does not read its replies.
    pub(crate) backlog: bool,
}

impl Partial {
    /// Bytes of memory that it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.tail.capacity() + self.unfinished.as_ref().map_or(0, Unfinished::memory_bytes)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("Connection");
        debug.field("id", &self.id).field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection that was accepted and is not a WebSocket yet. The protocol is a placeholder.
    pub fn new(id: ConnectionId, protocol: Protocol, transport: Transport, now: Tick) -> Self {
        let Transport { socket, tls } = transport;
        Self {
            session: None,
            subscriptions: Subscriptions::default(),
            extra: tls.map(|tls| Box::new(Extra { tls: Some(tls), ..Extra::default() })),
            id,
            last_heard: now as u32,
            socket: socket.into(),
            protocol,
            phase: Phase::AwaitingRequest,
            input: Input::Nothing,
            is_websocket: false,
            released: false,
            is_ready: false,
            is_slow: false,
            is_paused: false,
        }
    }

    /// Its socket.
    pub fn stream(&self) -> &Stream {
        &self.socket
    }

    /// Takes it apart: the transport goes to another thread.
    pub fn into_transport(self) -> (Stream, Option<Box<tls::Session>>) {
        (self.socket, self.extra.and_then(|extra| extra.tls))
    }

    /// Begins to encrypt it.
    pub fn encrypt(&mut self, tls: tls::Session) {
        self.extra.get_or_insert_default().tls = Some(Box::new(tls));
    }

    /// The state of TLS, if it is encrypted.
    pub fn tls(&self) -> Option<&tls::Session> {
        self.extra.as_ref()?.tls.as_deref()
    }

    /// Writes records that wait for the socket and belong to nothing in the outbox.
    pub fn flush_tls(&mut self) {
        if let Some(tls) = self.extra.as_mut().and_then(|extra| extra.tls.as_deref_mut()) {
            self.socket.flush(tls);
        }
    }

    /// Sends close_notify if it is encrypted, unless bytes wait for the socket.
    pub fn close_tls(&mut self) {
        if self.is_blocked() {
            return;
        }
        if let Some(tls) = self.extra.as_mut().and_then(|extra| extra.tls.as_deref_mut()) {
            tls.close();
            self.socket.flush(tls);
        }
    }

    /// Makes it a WebSocket of this protocol.
    pub fn open(&mut self, protocol: Protocol, now: Tick) {
        (self.protocol, self.phase, self.is_websocket) = (protocol, Phase::Open, true);
        self.heard(now);
    }

    /// About how much memory it takes, with all that waits for it.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let (unread, _) = self.unread();
        let partial = self.partial().map_or(0, Partial::memory_bytes);
        let tls = self.tls().map_or(0, |tls| TLS_BYTES + tls.buffer_bytes());
        IDLE_BYTES + tls + self.subscriptions.len() * SUBSCRIPTION_BYTES + unread + self.backlog_bytes() + partial
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

    /// Makes incomplete input count from now on.
    pub(crate) fn restart_partial(&mut self, now: Tick) {
        if let Some(partial) = self.extra.as_mut().and_then(|extra| extra.partial.as_mut()) {
            partial.since = now;
        }
    }

    /// Input that is incomplete or was not decoded yet, if there is any.
    pub(crate) fn partial(&self) -> Option<&Partial> {
        self.extra.as_ref()?.partial.as_ref()
    }

    /// Whether complete frames may wait that were not decoded, because the client does not read its replies.
    pub(crate) fn has_backlog(&self) -> bool {
        self.partial().is_some_and(|partial| partial.backlog)
    }

    /// What the protocol keeps about it. Taken while a message is handled, and put back then.
    pub(crate) fn data_mut(&mut self) -> &mut Option<ProtocolData> {
        &mut self.extra.get_or_insert_default().data
    }

    /// The number by which messages leave it out, if it has one.
    pub(crate) fn number(&self) -> Option<u64> {
        self.extra.as_ref()?.number
    }

    pub(crate) fn set_number(&mut self, number: u64) {
        self.extra.get_or_insert_default().number = Some(number);
    }

    /// Frees the memory of the rare parts if there are none any more.
    fn drop_empty_extra(&mut self) {
        let is_empty = |extra: &Extra| {
            let has_own = extra.tls.is_some() || extra.data.is_some() || extra.number.is_some();
            !has_own && extra.partial.is_none() && extra.sessions.is_empty() && extra.outbound.is_empty()
        };
        if self.extra.as_deref().is_some_and(is_empty) {
            self.extra = None;
        }
    }

    /// Ends the connection at once. The worker removes it.
    pub fn abort(&mut self) {
        self.phase = Phase::Dead;
        self.close_tls();
        self.socket.shutdown(Shutdown::Both);
    }

    /// Shuts down the sending direction, so that the client closes the connection (RFC 6455, section 7.1.1). Does
    /// nothing while bytes wait for the socket; the writer calls it again when they are sent.
    pub fn finish_writing(&mut self) {
        if !self.is_blocked() {
            self.close_tls();
            self.socket.shutdown(Shutdown::Write);
        }
    }

    /// Reads what has arrived, and notes whether more may have. `None` if nothing has arrived, or if the connection has
    /// ended: it is [`Phase::Dead`] then.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let tls = self.extra.as_mut().and_then(|extra| extra.tls.as_deref_mut());
        match self.socket.read(tls, buffer) {
            Received::Bytes { count, is_all } => {
                if is_all && self.input == Input::Bytes {
                    self.input = Input::Nothing;
                }
                Some(count)
            }
            Received::Incomplete { is_all } => {
                if is_all && self.input == Input::Bytes {
                    self.input = Input::Nothing;
                }
                None
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
