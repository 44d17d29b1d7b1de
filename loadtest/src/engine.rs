//! All clients on one thread and one epoll instance. The scenario decides when to send; the engine moves bytes and
//! hands what arrives to the scenario's [`Client`]. No timers, threads or buffers per client.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};
use wire::frame;

use crate::connection::{Client, Connection, HEAD_BYTES, NullClient, ReadContext, SendOutcome, Traffic};
use crate::handshake::Handshake;
use crate::socket;
use crate::target::Target;
use crate::timerfd::TimerFd;

const TIMER: Token = Token(usize::MAX);
/// Events per turn; more would only delay the sends that come after them.
const EVENTS_PER_TURN: usize = 1024;
/// More than a server usually sends to one client per tick, so one read is enough.
const MIN_BUFFER_BYTES: usize = 256 * 1024;
/// The first result of a non-blocking connect; `ErrorKind` has no stable name for it.
const EINPROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();
/// RFC 6455 section 7.4.1: normal closure, going away.
const CLOSE_NORMAL: u16 = 1000;
const CLOSE_GOING_AWAY: u16 = 1001;

/// How a client ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// A close frame, then the end of the stream.
    Clean,
    /// A close frame with 1001, as when a page is reloaded, then the end of the stream.
    GoingAway,
    /// A reset, as when a middlebox drops the connection. It leaves no port in TIME_WAIT, so storms can follow each
    /// other.
    Reset,
}

pub(crate) struct Engine {
    poll: Poll,
    events: Events,
    timer: TimerFd,
    server: Endpoint,
    /// Clients below this index are observers and connect there instead of to `server`.
    observer_endpoint: Option<(usize, Endpoint)>,
    /// Local addresses, used in turn. Empty: the kernel chooses.
    sources: Vec<IpAddr>,
    /// By client index. `None` before `open` and after the connection ended.
    connections: Vec<Option<Connection>>,
    live: usize,
    buffer: Vec<u8>,
    keep_bytes: usize,
    traffic: Traffic,
}

/// Where to connect, and the handshake for it.
struct Endpoint {
    address: SocketAddr,
    is_encrypted: bool,
    handshake: Handshake,
}

impl Endpoint {
    fn new(target: &Target, seed: u64) -> Self {
        Self {
            address: target.address,
            is_encrypted: target.is_encrypted,
            handshake: Handshake::new(&target.authority, target.credentials.clone(), seed),
        }
    }
}

impl Engine {
    /// Of messages longer than `keep_bytes` clients get only the beginning.
    pub(crate) fn new(target: &Target, sources: Vec<IpAddr>, seed: u64, keep_bytes: usize) -> Result<Self> {
        let poll = Poll::new().context("cannot create an epoll instance")?;
        let timer = TimerFd::register(poll.registry(), TIMER)?;
        let keep_bytes = keep_bytes.max(HEAD_BYTES);
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            timer,
            server: Endpoint::new(target, seed),
            observer_endpoint: None,
            sources,
            connections: Vec::new(),
            live: 0,
            buffer: vec![0; MIN_BUFFER_BYTES.max(2 * keep_bytes)],
            keep_bytes,
            traffic: Traffic::default(),
        })
    }

    /// Makes clients below `observers` connect to `target`. `seed` must be that of `new`: all requests carry the same
    /// key, so the expected answer is the same.
    pub(crate) fn set_observer_target(&mut self, target: &Target, observers: usize, seed: u64) {
        self.observer_endpoint = Some((observers, Endpoint::new(target, seed)));
    }

    /// Connections that are open or connecting.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Starts a connection; [`Client::opened`] or [`Client::closed`] follows.
    pub(crate) fn open(&mut self, index: usize, path: &str) -> Result<()> {
        let endpoint = self.endpoint_of(index);
        let request = endpoint.handshake.request(path);
        let mut stream = self.connect(index).with_context(|| format!("cannot connect to {}", endpoint.address))?;
        // Registered once for both: with edge triggering, writability costs nothing until a write is refused.
        self.poll
            .registry()
            .register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)
            .context("cannot register a socket with epoll")?;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, || None);
        }
        let endpoint = self.endpoint_of(index);
        let socket = match endpoint.is_encrypted {
            true => socket::Socket::encrypted(stream, endpoint.address.ip()).context("cannot use TLS")?,
            false => socket::Socket::plain(stream),
        };
        self.connections[index] = Some(Connection::new(index, socket, request));
        self.live += 1;
        Ok(())
    }

    /// See [`Connection::try_send`].
    #[inline]
    pub(crate) fn try_send(&mut self, index: usize, frame: &[u8]) -> SendOutcome {
        match self.connections.get_mut(index) {
            Some(Some(connection)) => connection.try_send(frame),
            _ => SendOutcome::Closed,
        }
    }

    /// Ends a connection from this side; [`Client::closed`] is not called.
    pub(crate) fn close(&mut self, index: usize, how: Close) {
        let Some(mut connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.live -= 1;
        match how {
            Close::Clean => connection.send(&frame::masked(frame::CLOSE, &CLOSE_NORMAL.to_be_bytes())),
            Close::GoingAway => connection.send(&frame::masked(frame::CLOSE, &CLOSE_GOING_AWAY.to_be_bytes())),
            Close::Reset => connection.reset_on_drop(),
        }
    }

    /// Waits up to `wait` for events and handles them. Returns early on a signal.
    pub(crate) fn turn(&mut self, wait: Duration, client: &mut impl Client) -> Result<()> {
        let timeout = if wait.is_zero() {
            Some(Duration::ZERO)
        } else {
            self.timer.arm(wait)?;
            None
        };
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error).context("epoll failed"),
        }
        let mut context = ReadContext {
            handshake: &self.server.handshake,
            buffer: &mut self.buffer,
            traffic: &mut self.traffic,
            keep_bytes: self.keep_bytes,
        };
        for event in &self.events {
            // The timer has no slot, and a connection that ended earlier in this turn has an empty one.
            let Some(slot) = self.connections.get_mut(event.token().0) else {
                continue;
            };
            let Some(connection) = slot else { continue };
            if let Err(disconnect) = connection.on_event(event, &mut context, client) {
                *slot = None;
                self.live -= 1;
                client.closed(event.token().0, disconnect);
            }
        }
        Ok(())
    }

    /// Handles events for this long, or until no connection is left.
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

    /// Sends a close frame on every connection and gives the server `timeout` to answer.
    pub(crate) fn close_all(&mut self, timeout: Duration) -> Result<()> {
        let close = frame::masked(frame::CLOSE, &CLOSE_NORMAL.to_be_bytes());
        for connection in self.connections.iter_mut().flatten() {
            connection.send(&close);
        }
        self.turn_for(timeout, &mut NullClient)?;
        self.connections.clear();
        self.live = 0;
        Ok(())
    }

    fn endpoint_of(&self, index: usize) -> &Endpoint {
        let observer_endpoint = self.observer_endpoint.as_ref().filter(|(observers, _)| index < *observers);
        observer_endpoint.map_or(&self.server, |(_, endpoint)| endpoint)
    }

    fn connect(&self, index: usize) -> std::io::Result<TcpStream> {
        let server = self.endpoint_of(index).address;
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
