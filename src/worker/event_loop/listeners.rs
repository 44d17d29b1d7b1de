//! The listening sockets of a worker.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use tracing::{debug, warn};

use crate::metrics::ThreadCounters;
use crate::node::Node;

/// The pause when the limit of sockets is reached, or when the system has no descriptor or memory for another
/// connection.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket of a worker.
#[derive(Debug)]
struct Listener {
    socket: TcpListener,
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
    const FIRST_TOKEN: usize = usize::MAX - 16;

    /// Registers the sockets with the poll.
    pub(super) fn new(sockets: Vec<TcpListener>, registry: &Registry) -> io::Result<Self> {
        for (number, socket) in sockets.iter().enumerate() {
            let token = Token(Self::FIRST_TOKEN + number);
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        }
        let listeners = sockets.into_iter().map(|socket| Listener { socket, is_ready: false }).collect();
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
    pub(super) fn accept(&mut self, node: &Node, counters: &ThreadCounters) -> Option<TcpStream> {
        loop {
            let listener = self.next_ready()?;
            let sockets = node.sockets.load(Ordering::Relaxed);
            if sockets >= node.config.limits.max_sockets() {
                self.pause(|| warn!(sockets, "all sockets are in use; new clients wait"));
                continue;
            }
            match accept_with(&listener.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(stream) => {
                    self.warned = false;
                    return Some(stream.into());
                }
                Err(Errno::AGAIN) => listener.is_ready = false,
                Err(error) if concerns_one_connection(error) => {
                    debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    counters.accept_errors.add(1);
                    self.pause(|| warn!(%error, "cannot accept connections for now"));
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
