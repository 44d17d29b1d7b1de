//! The event loop of a worker: one thread, one poll, all of its connections.
//!
//! Sockets are registered once, for reading and writing, edge-triggered: the poll reports a socket once when it begins
//! to have bytes, not again while it has some. So a connection that was not read to the end is put into a list, and
//! the loop continues with it in the next turn, after the other connections.
//!
//! A turn handles the sockets that the poll reported, one read each; continues with the listed connections, one read
//! each; accepts some connections; writes a slice of the tick's deliveries; and takes what is in the mailbox. The loop
//! waits only if nothing is left to do.

mod arrivals;
mod awaiting_request;
mod listeners;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use mio::event::Event;
use mio::{Events, Poll, Token, Waker};

use self::awaiting_request::{AwaitingRequest, CHECK_INTERVAL};
use self::listeners::{ACCEPT_PAUSE, Listeners};
use super::http_side::Http;
use super::mailbox::{Mail, Mailbox};
use super::{Codec, Worker};
use crate::broadcast::Batch;
use crate::connection::{ConnectionId, Connections, Input, Phase, find_connection};
use crate::fanout::Deliveries;
use crate::node::Node;
use crate::presence::Tick;
use crate::presence::kick::Kick;
use crate::websocket::close;

/// The limit of bytes per read. A heartbeat has 15 bytes; the limit matters for clients that send a flood, which is
/// read in parts so that it does not delay other clients much.
const SCRATCH_BYTES: usize = 16 * 1024;
/// The limit of sockets that one call of the poll reports.
const EVENTS_PER_TURN: usize = 256;
/// The token of the mailbox's waker. No connection has it: its slot would be beyond any slab.
const MAILBOX: Token = Token(usize::MAX);
/// How often the allocator is made to return free memory to the system.
const RETURN_MEMORY_EVERY_TICKS: u64 = 16;
/// The least number of clients that are disconnected per tick while draining, so that a small server stops quickly.
const MIN_WAVE_CLIENTS: usize = 256;

/// A worker with its connections and its poll. Created on any thread, run on its own.
#[derive(Debug)]
pub struct EventLoop {
    worker: Worker,
    connections: Connections,
    poll: Poll,
    listeners: Listeners,
    http: Box<dyn Http>,
    mailbox: Arc<Mailbox>,
    next_serial: u32,
    /// The connections whose first request has not arrived.
    awaiting_request: AwaitingRequest,
    /// The read buffer, shared by all connections.
    scratch: Box<[u8]>,
    codec: Codec,
    /// The deliveries of the present tick that were not written yet.
    deliveries: Option<Deliveries>,
    /// The tick of the last batch that was executed.
    tick: Tick,
    drain: Option<Drain>,
    /// Whether the loop must end at once.
    is_stopped: bool,
}

/// The progress of stopping.
#[derive(Debug)]
struct Drain {
    /// The number of clients to disconnect per tick.
    wave_clients: usize,
    /// The tick after which the worker ends even if HTTP requests are still being handled.
    deadline: Tick,
    /// Whether the worker may still give connections to its HTTP thread.
    serves_http: bool,
}

impl EventLoop {
    /// The loop of the worker with this number, which accepts connections on these listeners.
    ///
    /// # Errors
    /// If the system has no descriptor for the poll or does not accept a listener.
    pub fn new(number: usize, node: Arc<Node>, sockets: Vec<TcpListener>, http: Box<dyn Http>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let counters = Arc::clone(&node.metrics.workers[number]);
        let mailbox = Arc::new(Mailbox::new(Waker::new(poll.registry(), MAILBOX)?, counters));
        Ok(Self {
            worker: Worker::new(number, node),
            connections: Connections::new(),
            listeners: Listeners::new(sockets, poll.registry())?,
            poll,
            http,
            mailbox,
            next_serial: 0,
            awaiting_request: AwaitingRequest::default(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            codec: Codec::default(),
            deliveries: None,
            tick: 0,
            drain: None,
            is_stopped: false,
        })
    }

    /// Its mailbox, for the other threads.
    #[must_use]
    pub fn mailbox(&self) -> Arc<Mailbox> {
        Arc::clone(&self.mailbox)
    }

    /// Runs until the worker has drained. Blocks the thread.
    ///
    /// # Errors
    /// If the poll fails.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !self.is_stopped {
            let longest_wait = self.longest_wait();
            match self.poll.poll(&mut events, longest_wait) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let was_quiet = self.worker.ready.is_empty() && events.iter().all(|event| event.token() == MAILBOX);
            let was_draining = self.drain.is_some();
            // Connections that are listed in this turn have their turn in the next one.
            let listed = self.worker.ready.len().min(EVENTS_PER_TURN);
            events.iter().for_each(|event| self.handle(event));
            for _ in 0..listed {
                self.continue_with_next();
            }
            self.accept();
            self.end_silent_sockets();
            // The next batch may have come while the deliveries of the last one were written.
            let is_tick_done = self.deliver();
            if self.mailbox.is_notified() || is_tick_done {
                self.take_mail();
            }
            // In a quiet turn, no request waits to be read that had arrived when the listeners were closed.
            if was_draining && was_quiet && self.is_drained() {
                break;
            }
        }
        Ok(())
    }

    /// How long the poll may wait; `None` until something happens.
    fn longest_wait(&mut self) -> Option<Duration> {
        let is_paused = self.listeners.is_paused();
        if !self.worker.ready.is_empty() || self.deliveries.is_some() || self.listeners.is_ready() {
            return Some(Duration::ZERO);
        }
        if is_paused {
            return Some(ACCEPT_PAUSE);
        }
        (!self.awaiting_request.is_empty()).then_some(CHECK_INTERVAL)
    }

    /// Handles what the poll reports about a socket. The mailbox is looked at in every turn.
    fn handle(&mut self, event: &Event) {
        let token = event.token();
        if token == MAILBOX || self.listeners.note_ready(token) {
            return;
        }
        let id = connection_id(token);
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        if event.is_writable() && connection.is_blocked() {
            self.worker.flush(connection);
        }
        // The end of the stream may have arrived together with bytes, and is not reported again.
        let ends = event.is_read_closed() || event.is_error();
        if ends || event.is_readable() {
            connection.input = if ends { Input::End } else { Input::Bytes };
            self.read(id);
        } else {
            self.remove_if_dead(id);
        }
    }

    /// Continues with the next listed connection: it has input that was not handled, or has ended.
    fn continue_with_next(&mut self) {
        let Some(id) = self.worker.ready.pop_front() else { return };
        if let Some(connection) = find_connection(&mut self.connections, id) {
            connection.is_ready = false;
            self.read(id);
        }
    }

    /// Reads from a connection once. Removes it if it has ended.
    fn read(&mut self, id: ConnectionId) {
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        match connection.phase {
            Phase::AwaitingRequest => self.read_request(id),
            _ => self.worker.read(connection, &mut self.scratch, &mut self.codec),
        }
        self.remove_if_dead(id);
    }

    fn remove_if_dead(&mut self, id: ConnectionId) {
        if find_connection(&mut self.connections, id).is_some_and(|connection| connection.phase == Phase::Dead) {
            let mut connection = self.connections.remove(id.index as usize);
            if !connection.is_websocket {
                self.awaiting_request.remove(id);
            }
            self.worker.disconnected(&mut connection);
        }
    }

    fn take_mail(&mut self) {
        // The next batch waits until the deliveries of the last one are written.
        let Mail { batch, drain, stop, arrivals, .. } = self.mailbox.take(self.deliveries.is_none());
        self.is_stopped = stop;
        if drain && self.drain.is_none() {
            self.start_drain();
        }
        if let Some((batch, sent)) = batch {
            let lag_us = sent.elapsed().as_micros() as u64;
            self.worker.counters.loop_lag_us.add(lag_us);
            self.worker.counters.loop_lag_us_max.raise(lag_us);
            self.execute(&batch);
        }
        arrivals.into_iter().for_each(|arrival| self.take_arrival(arrival));
    }

    fn execute(&mut self, batch: &Batch) {
        let tick = batch.now.tick;
        self.tick = tick;
        self.check_connections(tick);
        if let Some(health) = batch.health {
            self.send_health(health.degraded_since_unix_ms);
        }
        self.kick(&batch.kicks);
        self.deliveries = Some(self.worker.fanout.plan(batch, &mut self.connections));
    }

    /// Writes a slice of the deliveries. Returns whether it was the last one, with which the tick is done.
    fn deliver(&mut self) -> bool {
        let Some(deliveries) = &mut self.deliveries else { return false };
        if self.worker.deliver(deliveries, &mut self.connections) {
            return false;
        }
        self.deliveries = None;
        self.finish_tick();
        true
    }

    fn finish_tick(&mut self) {
        self.worker.node.ticks_done[self.worker.number].send_replace(self.tick);
        if self.tick.is_multiple_of(RETURN_MEMORY_EVERY_TICKS) {
            self.worker.ready.shrink_to(EVENTS_PER_TURN);
            return_memory();
        }
        if let Some(Drain { wave_clients, .. }) = self.drain {
            let open = self.connections.iter_mut().filter(|(_, connection)| connection.phase == Phase::Open);
            for (_, connection) in open.take(wave_clients) {
                self.worker.close(connection, close::RESTART, close::RESTART_REASON);
            }
        }
    }

    /// Pings silent connections. Disconnects clients that stay silent, do not name their user, do not finish closing or
    /// do not read.
    fn check_connections(&mut self, now: Tick) {
        let mut due = Vec::new();
        self.worker.checks.take_due(now, &mut due);
        for id in due {
            let Some(connection) = find_connection(&mut self.connections, id) else { continue };
            match self.worker.check(connection, now) {
                Some(next) => self.worker.checks.insert(next, id),
                None => self.worker.abort(connection),
            }
        }
        if now.is_multiple_of(self.worker.times.second) {
            for id in std::mem::take(&mut self.worker.slow) {
                if let Some(connection) = find_connection(&mut self.connections, id) {
                    self.worker.check_outbox(connection, now);
                }
            }
        }
    }

    /// Sends the health of the node to all clients whose protocol has a message for it.
    fn send_health(&mut self, degraded_since_unix_ms: Option<u64>) {
        for (_, connection) in self.connections.iter_mut().filter(|(_, connection)| connection.phase == Phase::Open) {
            if let Some(put_health) = connection.protocol.rules().health {
                let mut frame = BytesMut::new();
                put_health(&mut frame, degraded_since_unix_ms);
                self.worker.reply(connection, &mut frame);
            }
        }
    }

    /// Executes kicks.
    fn kick(&mut self, kicks: &[Kick]) {
        for kick in kicks {
            for slot in self.worker.start_kick(kick) {
                if let Some(connection) = self.connections.get_mut(slot as usize) {
                    self.worker.kick_connection(connection, kick);
                }
            }
        }
    }

    /// Disconnects the clients in waves from now on.
    fn start_drain(&mut self) {
        let config = &self.worker.node.config;
        let waves = config.ticks(config.limits.drain.mul_f64(0.6)).max(1) as usize;
        let wave_clients = self.connections.len().div_ceil(waves).max(MIN_WAVE_CLIENTS);
        // A request that is incomplete at the deadline would not be handled in time.
        let deadline = self.tick + config.ticks(config.limits.drain.mul_f64(0.8));
        self.worker.is_draining = true;
        self.drain = Some(Drain { wave_clients, deadline, serves_http: true });
        self.stop_accepting();
    }

    /// Whether the worker has stopped. First it waits until all WebSockets are closed, then until its HTTP thread has
    /// served everything, then it closes its mailbox.
    fn is_drained(&mut self) -> bool {
        let Some(Drain { deadline, serves_http, .. }) = &mut self.drain else { return false };
        // Without connections that have not sent a request.
        let has_connections = |worker: &Worker| worker.counters.connections.get() > 0;
        if has_connections(&self.worker) || self.deliveries.is_some() {
            return false;
        }
        if std::mem::replace(serves_http, false) {
            self.http.close();
        }
        if self.worker.node.http_threads.load(Ordering::Acquire) > 0 && self.tick < *deadline {
            return false;
        }
        // Sockets that arrived in the last moment.
        let late = self.mailbox.close();
        late.into_iter().for_each(|arrival| self.take_arrival(arrival));
        !has_connections(&self.worker)
    }
}

/// The token of a connection's socket.
const _: () = assert!(usize::BITS == 64, "a token has the slot and the serial number of a connection");

fn token(id: ConnectionId) -> Token {
    Token((u64::from(id.serial) << 32 | u64::from(id.index)) as usize)
}

fn connection_id(token: Token) -> ConnectionId {
    let token = token.0 as u64;
    ConnectionId { index: token as u32, serial: (token >> 32) as u32 }
}

/// Makes the allocator return free memory after a storm of connections.
///
/// mimalloc returns pages to the system some time after they were freed, but it checks the time only when another page
/// is freed: a server that is idle after a storm would keep the memory (measured: 10,000 connections at once leave some
/// 1.5 MiB, 150 bytes per connection). A block of this size has its own page; freeing it makes the allocator check. The
/// block is not written, so it costs two calls and no memory.
fn return_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
}
