//! The listening sockets of a worker.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use tracing::debug;

use crate::log_limit::warn_limited;
use crate::metrics::ThreadCounters;
use crate::node::Node;

/// The pause when the limit of sockets is reached, or when the system has no descriptor or memory for another
/// connection.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// When this many sockets are left, each new one closes an HTTP connection that is idle.
const SCARCE_SOCKETS: usize = 16;

/// The listening sockets that a worker is given.
#[derive(Debug, Default)]
pub struct ListeningSockets {
    /// Where everything is served.
    pub public: Vec<TcpListener>,
    /// Where only probes and counters are served.
    pub internal: Vec<TcpListener>,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: Option<IpAddr>,
    /// Whether only probes and counters are served to it.
    pub(super) is_internal: bool,
}

/// A listening socket of a worker.
#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    is_internal: bool,
    /// Whether connections may wait to be accepted.
    is_ready: bool,
}

/// The listeners of a worker.
#[derive(Debug)]
pub(super) struct Listeners {
    listeners: Vec<Listener>,
    /// The listener to begin with, so that they take turns.
    next: usize,
    /// No descriptors are left, or the limit of sockets is reached: nothing is accepted until then.
    paused_until: Option<Instant>,
    /// Whether the log has a line about the pause already.
    warned: bool,
}

impl Listeners {
    /// The token of the first listener. No connection has it: its slot would be beyond any slab.
    const FIRST_TOKEN: usize = usize::MAX - 24;

    /// Registers the sockets with the poll.
    pub(super) fn new(sockets: ListeningSockets, registry: &Registry) -> io::Result<Self> {
        let ListeningSockets { public, internal } = sockets;
        let sockets = public.into_iter().map(|socket| (socket, false));
        let sockets = sockets.chain(internal.into_iter().map(|socket| (socket, true)));
        let listener = |(socket, is_internal)| Listener { socket, is_internal, is_ready: false };
        let listeners: Vec<_> = sockets.map(listener).collect();
        for (number, listener) in listeners.iter().enumerate() {
            let token = Token(Self::FIRST_TOKEN + number);
            registry.register(&mut SourceFd(&listener.socket.as_raw_fd()), token, Interest::READABLE)?;
        }
        Ok(Self { listeners, next: 0, paused_until: None, warned: false })
    }

    /// Notes that connections wait if the token is that of a listener. Returns whether it is.
    pub(super) fn note_ready(&mut self, token: Token) -> bool {
        let number = token.0.checked_sub(Self::FIRST_TOKEN);
        let listener = number.and_then(|number| self.listeners.get_mut(number));
        listener.map(|listener| listener.is_ready = true).is_some()
    }

    /// Whether connections may wait that can be accepted now.
    pub(super) fn is_ready(&self) -> bool {
        self.paused_until.is_none() && self.listeners.iter().any(|listener| listener.is_ready)
    }

    /// Has `accept` look at every listener once more, whether the poll reported it or not.
    pub(super) fn look_again(&mut self) {
        self.paused_until = None;
        self.listeners.iter_mut().for_each(|listener| listener.is_ready = true);
    }

    /// Whether nothing is accepted at present. Ends a pause that is over.
    pub(super) fn is_paused(&mut self) -> bool {
        self.paused_until = self.paused_until.filter(|until| Instant::now() < *until);
        self.paused_until.is_some()
    }

    /// Closes them.
    pub(super) fn close(&mut self) {
        self.listeners.clear();
    }

    /// Accepts a connection; `None` if none can be accepted now.
    pub(super) fn accept(&mut self, node: &Node, counters: &ThreadCounters) -> Option<Accepted> {
        loop {
            let listener = self.next_ready()?;
            let sockets = node.sockets.load(Ordering::Relaxed);
            let max_sockets = node.config.limits.max_sockets();
            if sockets + SCARCE_SOCKETS >= max_sockets || node.has_too_many_plain_sockets() {
                node.idle_sockets.close_oldest();
            }
            if sockets >= max_sockets {
                self.pause(|| warn_limited!(sockets, "all sockets are in use; new clients wait"));
                continue;
            }
            let is_internal = listener.is_internal;
            match acceptfrom_with(&listener.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((stream, peer)) => {
                    self.warned = false;
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    return Some(Accepted { stream: stream.into(), peer: peer.map(|peer| peer.ip()), is_internal });
                }
                Err(Errno::AGAIN) => listener.is_ready = false,
                Err(error) if concerns_one_connection(error) => {
                    debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    counters.accept_errors.add(1);
                    self.pause(|| warn_limited!(%error, "cannot accept connections for now"));
                }
            }
        }
    }

    /// The next listener with waiting connections, in turn.
    fn next_ready(&mut self) -> Option<&mut Listener> {
        if self.paused_until.is_some() {
            return None;
        }
        let count = self.listeners.len();
        let mut numbers = (0..count).map(|number| (self.next + number) % count);
        let number = numbers.find(|number| self.listeners[*number].is_ready)?;
        self.next = number + 1;
        self.listeners.get_mut(number)
    }

    /// Accepts nothing for a while. Warns the first time.
    fn pause(&mut self, warn: impl FnOnce()) {
        self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
        if !std::mem::replace(&mut self.warned, true) {
            warn();
        }
    }
}

/// Whether an error is about the accepted connection and not about the listener.
fn concerns_one_connection(error: Errno) -> bool {
    matches!(error, Errno::CONNABORTED | Errno::CONNREFUSED | Errno::CONNRESET | Errno::INTR)
}
