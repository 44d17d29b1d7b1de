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
mod checks;
mod handshakes;
mod late_greetings;
pub mod listeners;
mod proxy_header;
mod renewals;
mod revocations;
mod tick_times;
mod tls;
mod turns;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use mio::event::Event;
use mio::{Events, Poll, Token, Waker};

use self::awaiting_request::{AwaitingRequest, CHECK_INTERVAL};
use self::handshakes::Handshakes;
use self::late_greetings::LateGreetings;
use self::listeners::{ACCEPT_PAUSE, Listeners, ListeningSockets};
use self::tick_times::TickTimes;
use super::http_side::Http;
use super::mailbox::{Mail, Mailbox};
use super::{Codec, Worker};
use crate::broadcast::Batch;
use crate::connection::{ConnectionId, Connections, Input, Phase, find_connection};
use crate::fanout::Deliveries;
use crate::node::Node;
use crate::os;
use crate::presence::Tick;
use crate::websocket::close;
use crate::websocket::stream::READ_BYTES;

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
    /// TLS handshakes.
    handshakes: Handshakes,
    /// Connections that are greeted later.
    late_greetings: LateGreetings,
    /// Where the search for revoked credentials continues, if it is not done.
    next_revoked_slot: Option<usize>,
    /// The read buffer, shared by all connections.
    scratch: Box<[u8]>,
    codec: Codec,
    /// The deliveries of the present tick that were not written yet.
    deliveries: Option<Deliveries>,
    /// The tick of the last batch that was executed.
    tick: Tick,
    /// When it began, until it is done.
    tick_times: Option<TickTimes>,
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
    pub fn new(number: usize, node: Arc<Node>, sockets: ListeningSockets, http: Box<dyn Http>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let counters = Arc::clone(&node.metrics.workers[number]);
        let workers = node.config.limits.workers;
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
            handshakes: Handshakes::new(workers),
            late_greetings: LateGreetings::default(),
            next_revoked_slot: None,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            codec: Codec::default(),
            deliveries: None,
            tick: 0,
            tick_times: None,
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
            self.continue_handshakes();
            events.iter().for_each(|event| self.handle(event));
            for _ in 0..listed {
                self.continue_with_next();
            }
            self.give_turns();
            self.send_renewals();
            self.continue_revoking();
            self.accept();
            self.end_silent_sockets();
            self.end_slow_handshakes();
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
        let is_busy = !self.worker.ready.is_empty()
            || self.worker.has_turn()
            || self.deliveries.is_some()
            || self.next_revoked_slot.is_some();
        if is_busy || self.listeners.is_ready() || self.handshakes.is_ready() {
            return Some(Duration::ZERO);
        }
        if is_paused {
            return Some(ACCEPT_PAUSE);
        }
        (!self.awaiting_request.is_empty() || !self.handshakes.is_empty()).then_some(CHECK_INTERVAL)
    }

    /// Handles what the poll reports about a socket. The mailbox is looked at in every turn.
    fn handle(&mut self, event: &Event) {
        let token = event.token();
        if token == MAILBOX || self.listeners.note_ready(token) {
            return;
        }
        let id = connection_id(token);
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        if event.is_writable() {
            self.worker.continue_writing(connection);
        }
        // The end of the stream may have arrived together with bytes, and is not reported again.
        let ends = event.is_read_closed() || event.is_error();
        if ends && self.worker.is_pausing(connection) {
            // Its earlier messages are no reason to keep it: nobody waits for the answers.
            self.worker.abort(connection);
        }
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
            Phase::AwaitingProxyHeader => self.read_proxy_header(id),
            Phase::AwaitingTls => self.look_at_first_byte(id),
            Phase::AwaitingRequest => self.read_request(id),
            _ => self.worker.read(connection, &mut self.scratch, &mut self.codec),
        }
        self.remove_if_dead(id);
    }

    fn remove_if_dead(&mut self, id: ConnectionId) {
        if find_connection(&mut self.connections, id).is_some_and(|connection| connection.phase == Phase::Dead) {
            let mut connection = self.connections.remove(id.index as usize);
            connection.close_tls();
            if !connection.is_websocket {
                self.awaiting_request.remove(id);
                self.end_handshake(id);
            }
            if !self.late_greetings.is_empty() {
                self.late_greetings.remove(&id.serial);
            }
            self.worker.disconnected(&mut connection);
        }
    }

    fn take_mail(&mut self) {
        // The next batch waits until the deliveries of the last one are written.
        let Mail { batch, drain, stop, arrivals, renewed, .. } = self.mailbox.take(self.deliveries.is_none());
        self.is_stopped = stop;
        if drain && self.drain.is_none() {
            self.start_drain();
        }
        if let Some((batch, sent)) = batch {
            self.tick_times = Some(TickTimes::begin(&batch, sent, &self.worker.counters));
            self.execute(&batch);
        }
        arrivals.into_iter().for_each(|arrival| self.take_arrival(arrival));
        renewed.into_iter().for_each(|(id, renewed)| self.take_renewed(id, renewed));
    }

    fn execute(&mut self, batch: &Batch) {
        let tick = batch.now.tick;
        self.tick = tick;
        self.worker.turns.start_tick();
        self.check_connections(tick);
        if let Some(health) = batch.health {
            self.send_health(health.degraded_since_unix_ms);
        }
        self.kick(&batch.kicks);
        self.revoke(&batch.revoked);
        if batch.unread_excess.of_stalled > 0 {
            self.worker.shed_unread(&mut self.connections, batch.unread_excess);
        }
        if batch.memory_excess > 0 {
            self.give_up_requests(&self.awaiting_request.to_shed(batch.memory_excess));
            self.worker.shed_memory(&mut self.connections, batch.memory_excess);
        }
        let (mut deliveries, requested) = self.worker.fanout.plan(batch, &mut self.connections);
        if self.worker.address(batch, &self.connections, &mut deliveries) {
            deliveries.group_by_connection();
        }
        self.deliveries = Some(deliveries);
        self.worker.charge_for_replies(&mut self.connections, requested);
        // Before others use up what may change in this tick.
        self.give_turns();
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
        if let Some(times) = self.tick_times.take() {
            times.finish(self.worker.node.started, &self.worker.counters);
        }
        self.worker.node.ticks_done[self.worker.number].send_replace(self.tick);
        if self.tick.is_multiple_of(RETURN_MEMORY_EVERY_TICKS) {
            self.worker.ready.shrink_to(EVENTS_PER_TURN);
            os::return_memory();
        }
        if let Some(Drain { wave_clients, .. }) = self.drain {
            let open = self.connections.iter_mut().filter(|(_, connection)| connection.phase == Phase::Open);
            for (_, connection) in open.take(wave_clients) {
                let code = connection.protocol.rules().close_codes.restart;
                self.worker.close(connection, code, close::RESTART_REASON);
            }
        }
    }

    /// Sends the health of the node to all clients whose protocol has a message for it. Those that wait for their
    /// greeting are told with it.
    fn send_health(&mut self, degraded_since_unix_ms: Option<u64>) {
        for (_, connection) in self.connections.iter_mut().filter(|(_, connection)| connection.phase == Phase::Open) {
            if let Some(put_health) = connection.protocol.rules().health
                && !Self::awaits_greeting(&self.late_greetings, connection)
            {
                let mut frame = BytesMut::new();
                put_health(&mut frame, degraded_since_unix_ms);
                self.worker.reply(connection, &mut frame);
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
        // The rest of requests that have begun may still arrive.
        let is_reading = self.awaiting_request.has_heads() && self.tick < *deadline;
        if has_connections(&self.worker) || self.deliveries.is_some() || is_reading {
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
