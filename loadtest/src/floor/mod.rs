//! The floor: the least work that any epoll server must do for a WebSocket heartbeat. One thread accepts, answers the
//! handshake, reads, unmasks, compares and counts. With `--tick` and `--bytes` it also sends a frame to every
//! connection.
//!
//! It is not a presence server: no users, rooms, timeouts, pings, fragments or outbox. The ratio of a server's cost to
//! the floor's shows what these features cost.

mod counters;
mod floor_socket;

use std::io::{self, ErrorKind, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use wire::frame;

use crate::cli::FloorArgs;
use crate::interrupt::Interrupt;
use crate::limits;
use counters::FloorCounters;
use floor_socket::{BUFFER_BYTES, Finished, FloorSocket};

const LISTENER: Token = Token(usize::MAX);
const EVENTS_PER_TURN: usize = 1024;
/// The limit of file descriptors may be absurdly high; beyond this many sockets the table grows on demand.
const MAX_RESERVED: usize = 1 << 20;
/// How often Ctrl-C and `--duration` are checked while nothing happens.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

struct Floor {
    poll: Poll,
    listener: TcpListener,
    /// By token.
    sockets: Vec<Option<FloorSocket>>,
    /// Tokens that are free again.
    free: Vec<usize>,
    counters: FloorCounters,
    ack: bool,
}

/// Serves until `--duration` is over or Ctrl-C, then prints the counters.
pub(crate) fn run(args: &FloorArgs, interrupt: &Interrupt) -> Result<()> {
    let capacity = limits::raise_descriptors()?;
    let mut floor = Floor::bind(args, capacity)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "floor listening on ws://{}", floor.listener.local_addr()?)?;
    stdout.flush()?;
    floor.serve(args, interrupt)?;
    writeln!(stdout, "{}", floor.counters.json()).context("cannot print the counters")
}

impl Floor {
    /// Reserves a slot for every possible socket: unused slots cost no memory, and growing the table later would cost
    /// time.
    fn bind(args: &FloorArgs, capacity: u64) -> Result<Self> {
        let mut listener =
            TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
        let poll = Poll::new().context("cannot create an epoll instance")?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)
            .context("cannot register the listener with epoll")?;
        Ok(Self {
            poll,
            listener,
            sockets: Vec::with_capacity(usize::try_from(capacity)?.min(MAX_RESERVED)),
            free: Vec::new(),
            counters: FloorCounters::default(),
            ack: args.ack,
        })
    }

    fn serve(&mut self, args: &FloorArgs, interrupt: &Interrupt) -> Result<()> {
        let tick_frame = frame::unmasked(frame::TEXT, &vec![b'x'; usize::from(args.bytes.unwrap_or(0))]);
        let tick = args.tick.unwrap_or(Duration::MAX);
        let started = Instant::now();
        let mut next_tick = started.checked_add(tick);
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut buffer = vec![0; BUFFER_BYTES];
        while !interrupt.is_requested() && args.duration.is_none_or(|duration| started.elapsed() < duration) {
            let to_tick = next_tick.map_or(POLL_INTERVAL, |at| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, Some(to_tick.min(POLL_INTERVAL))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    return Err(error).context("epoll failed");
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(index) => self.read(index, event.is_read_closed(), &mut buffer),
                }
            }
            if next_tick.is_some_and(|at| at <= Instant::now()) {
                self.send_to_all(&tick_frame);
                next_tick = next_tick.and_then(|at| at.checked_add(tick));
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    let index = self.free.pop().unwrap_or(self.sockets.len());
                    stream.set_nodelay(true)?;
                    self.poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
                    if index == self.sockets.len() {
                        self.sockets.push(None);
                    }
                    self.sockets[index] = Some(FloorSocket::new(stream));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => bail!("cannot accept after {} connections: {error}", self.counters.connections),
            }
        }
    }

    #[inline]
    fn read(&mut self, index: usize, reads_to_end: bool, buffer: &mut [u8]) {
        let Some(socket) = &mut self.sockets[index] else {
            return;
        };
        if let Err(Finished) = socket.read(reads_to_end, buffer, self.ack, &mut self.counters) {
            self.counters.connections -= u64::from(socket.is_open());
            self.sockets[index] = None;
            self.free.push(index);
        }
    }

    fn send_to_all(&mut self, tick_frame: &[u8]) {
        for socket in self.sockets.iter_mut().flatten().filter(|socket| socket.is_open()) {
            if socket.send(tick_frame) {
                self.counters.deliveries += 1;
            } else {
                self.counters.skipped += 1;
            }
        }
    }
}
