//! All clients on one thread and one epoll. The scenario decides when something is sent; the engine moves
//! bytes and tells the scenario what came. No timers, no threads, no buffers per client.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::alarm::Alarm;
use crate::connection::{Connection, HEAD_BYTES, Message, Offer, Shared, Traffic};
use crate::frame;
use crate::handshake::Handshake;
use crate::loss::Loss;
use crate::target::Target;

const ALARM: Token = Token(usize::MAX);
/// Events taken at once; more only delays the sends that wait behind them.
const EVENTS_PER_TURN: usize = 1024;
/// One read takes what a server sends in a tick to one client, and often more.
const MIN_BUFFER_BYTES: usize = 256 * 1024;
/// What a non-blocking connect says at first; `ErrorKind` has no stable name for it.
const EINPROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();
/// RFC 6455 §7.4.1: normal closure.
const CLOSE_NORMAL: u16 = 1000;

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// A close frame, then the end of the stream.
    Goodbye,
    /// A reset, as when a middlebox forgets the connection. It leaves no port waiting (TIME_WAIT), so storms
    /// can follow each other.
    Abrupt,
}

/// What a scenario hears. A connection may be answered through the reference that comes along.
pub(crate) trait Client {
    /// The handshake is done.
    fn opened(&mut self, _connection: &mut Connection) {}
    fn message(&mut self, _connection: &mut Connection, _message: &Message<'_>) {}
    /// The connection is over; its index may be opened again.
    fn closed(&mut self, _index: usize, _loss: Loss) {}
}

/// A client that does not care, for the time before and after the figures are taken.
pub(crate) struct Deaf;

impl Client for Deaf {}

pub(crate) struct Engine {
    poll: Poll,
    events: Events,
    alarm: Alarm,
    server: Place,
    /// Where clients below this index connect instead.
    observed: Option<(usize, Place)>,
    /// Local addresses in turn; empty: the kernel's choice.
    sources: Vec<IpAddr>,
    /// By client index. `None` before `open` and after the end.
    connections: Vec<Option<Connection>>,
    live: usize,
    buffer: Vec<u8>,
    keep_bytes: usize,
    traffic: Traffic,
}

/// Where to connect, and what to say there.
struct Place {
    address: SocketAddr,
    handshake: Handshake,
}

impl Place {
    fn new(target: &Target, seed: u64) -> Self {
        Self { address: target.address, handshake: Handshake::new(&target.authority, seed) }
    }
}

impl Engine {
    /// Messages longer than `keep_bytes` are shown to clients by their beginning only.
    pub(crate) fn new(target: &Target, sources: Vec<IpAddr>, seed: u64, keep_bytes: usize) -> Result<Self> {
        let poll = Poll::new().context("cannot make an epoll instance")?;
        let alarm = Alarm::register(poll.registry(), ALARM)?;
        let keep_bytes = keep_bytes.max(HEAD_BYTES);
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            alarm,
            server: Place::new(target, seed),
            observed: None,
            sources,
            connections: Vec::new(),
            live: 0,
            buffer: vec![0; MIN_BUFFER_BYTES.max(2 * keep_bytes)],
            keep_bytes,
            traffic: Traffic::default(),
        })
    }

    /// Has clients below `observers` connect there. With the seed of `new`: one key is in all requests, so one answer is right.
    pub(crate) fn observe(&mut self, target: &Target, observers: usize, seed: u64) {
        self.observed = Some((observers, Place::new(target, seed)));
    }

    /// Connections that are open or on their way.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Starts a connection; the client hears `opened` or `closed`.
    pub(crate) fn open(&mut self, index: usize, path: &str) -> Result<()> {
        let place = self.place_of(index);
        let request = place.handshake.request(path);
        let mut stream = self.connect(index).with_context(|| format!("cannot connect to {}", place.address))?;
        // Both at once and for good: edge-triggered, writability costs nothing until a write was refused.
        self.poll
            .registry()
            .register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)
            .context("cannot watch a socket")?;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, || None);
        }
        self.connections[index] = Some(Connection::new(index, stream, request));
        self.live += 1;
        Ok(())
    }

    /// Offers a finished frame to one client's connection.
    #[inline]
    pub(crate) fn offer(&mut self, index: usize, frame: &[u8]) -> Offer {
        match self.connections.get_mut(index) {
            Some(Some(connection)) => connection.offer(frame),
            _ => Offer::Gone,
        }
    }

    /// Ends a connection from this side; its client hears nothing of it.
    pub(crate) fn close(&mut self, index: usize, how: Close) {
        let Some(mut connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.live -= 1;
        match how {
            Close::Goodbye => connection.push(&frame::masked(frame::CLOSE, &CLOSE_NORMAL.to_be_bytes())),
            Close::Abrupt => connection.reset_on_drop(),
        }
    }

    /// Waits up to `wait` for events and handles those that are there. Returns early on a signal.
    pub(crate) fn turn(&mut self, wait: Duration, client: &mut impl Client) -> Result<()> {
        let timeout = if wait.is_zero() {
            Some(Duration::ZERO)
        } else {
            self.alarm.set(wait)?;
            None
        };
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error).context("epoll failed"),
        }
        let mut shared = Shared {
            handshake: &self.server.handshake,
            buffer: &mut self.buffer,
            traffic: &mut self.traffic,
            keep_bytes: self.keep_bytes,
        };
        for event in &self.events {
            // The alarm has no slot, and neither has a connection that ended earlier in this turn.
            let Some(slot) = self.connections.get_mut(event.token().0) else {
                continue;
            };
            let Some(connection) = slot else { continue };
            if let Err(loss) = connection.on_event(event, &mut shared, client) {
                *slot = None;
                self.live -= 1;
                client.closed(event.token().0, loss);
            }
        }
        Ok(())
    }

    /// Handles events for this long, or until nobody is left.
    pub(crate) fn turn_for(&mut self, length: Duration, client: &mut impl Client) -> Result<()> {
        let started = Instant::now();
        while self.live > 0 {
            let left = length.saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            self.turn(left, client)?;
        }
        Ok(())
    }

    /// Says goodbye on every connection and gives the server `patience` to answer.
    pub(crate) fn farewell(&mut self, patience: Duration) -> Result<()> {
        let goodbye = frame::masked(frame::CLOSE, &CLOSE_NORMAL.to_be_bytes());
        for connection in self.connections.iter_mut().flatten() {
            connection.push(&goodbye);
        }
        self.turn_for(patience, &mut Deaf)?;
        self.connections.clear();
        self.live = 0;
        Ok(())
    }

    fn place_of(&self, index: usize) -> &Place {
        self.observed.as_ref().filter(|(observers, _)| index < *observers).map_or(&self.server, |(_, place)| place)
    }

    fn connect(&self, index: usize) -> std::io::Result<TcpStream> {
        let server = self.place_of(index).address;
        let socket = Socket::new(Domain::for_address(server), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if !self.sources.is_empty() {
            let source = self.sources[index % self.sources.len()];
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(TcpStream::from_std(socket.into()))
    }
}
