//! The floor: what any server on epoll must pay for a WebSocket heartbeat, and nothing else. One thread:
//! accept, answer the handshake, `read`, unmask, compare, count. With `--tick` and `--bytes` also a plain
//! `send` loop to all.
//!
//! It is no presence server: no users, no rooms, no timeouts, no pings, no fragments, no outbox. What it
//! leaves out is what the others are measured for.

mod socket;

use std::io::{self, ErrorKind, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use crate::cli::FloorArgs;
use crate::interrupt::Interrupt;
use crate::{frame, limits};
use socket::{Finished, Socket};

const LISTENER: Token = Token(usize::MAX);
const EVENTS_PER_TURN: usize = 1024;
/// Many heartbeats; a client that sends more at once is read twice.
const BUFFER_BYTES: usize = 16 * 1024;
/// An fd limit may be absurdly high; beyond this the table grows as it must.
const MAX_RESERVED: usize = 1 << 20;
/// How often Ctrl-C and `--duration` are looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// All the state there is besides the sockets.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Upgraded and not closed.
    pub(crate) connections: u64,
    pub(crate) heartbeats: u64,
    /// Frames of the tick that were sent.
    pub(crate) deliveries: u64,
    /// Frames of the tick that a full socket did not take.
    pub(crate) skipped: u64,
}

impl Counters {
    pub(crate) fn json(&self) -> String {
        let Self { connections, heartbeats, deliveries, skipped } = self;
        format!(
            r#"{{"connections":{connections},"heartbeats":{heartbeats},"deliveries":{deliveries},"skipped":{skipped}}}"#
        )
    }
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    /// By token.
    sockets: Vec<Option<Socket>>,
    /// Tokens to use again.
    free: Vec<usize>,
    counters: Counters,
    ack: bool,
}

/// Serves until `--duration` is over or Ctrl-C; prints the counters.
pub(crate) fn run(args: &FloorArgs, interrupt: &Interrupt) -> Result<()> {
    let most = limits::raise_descriptors()?;
    let mut floor = Floor::bind(args, most)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "floor listening on ws://{}", floor.listener.local_addr()?)?;
    stdout.flush()?;
    floor.serve(args, interrupt)?;
    writeln!(stdout, "{}", floor.counters.json()).context("cannot print the counters")
}

impl Floor {
    /// Reserves slots for as many sockets as there can be: what is not used costs no memory, and growing would.
    fn bind(args: &FloorArgs, most: u64) -> Result<Self> {
        let mut listener =
            TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
        let poll = Poll::new().context("cannot make an epoll instance")?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).context("cannot watch the listener")?;
        Ok(Self {
            poll,
            listener,
            sockets: Vec::with_capacity(usize::try_from(most)?.min(MAX_RESERVED)),
            free: Vec::new(),
            counters: Counters::default(),
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
        while !interrupt.is_asked() && args.duration.is_none_or(|duration| started.elapsed() < duration) {
            let to_tick = next_tick.map_or(LOOK_EVERY, |at| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, Some(to_tick.min(LOOK_EVERY))) {
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
                    self.sockets[index] = Some(Socket::new(stream));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => bail!("cannot accept after {} connections: {error}", self.counters.connections),
            }
        }
    }

    #[inline]
    fn read(&mut self, index: usize, to_the_end: bool, buffer: &mut [u8]) {
        let Some(socket) = &mut self.sockets[index] else {
            return;
        };
        if let Err(Finished) = socket.read(to_the_end, buffer, self.ack, &mut self.counters) {
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
