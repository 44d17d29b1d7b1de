//! One thread: its connections, what their clients ask for, and its share of the fan-out.
//!
//! A worker runs a `current_thread` runtime, so nothing here is shared but the registry. Three kinds of tasks run on it: the
//! acceptor, the mailbox (one batch a tick), and one small task per connection.

mod commands;
mod kick;
mod liveness;
mod rate_limit;
mod reader;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use slab::Slab;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::connection::{Connection, ConnectionId, Phase, Reader};
use crate::fanout::Fanout;
use crate::json;
use crate::metrics::WorkerCounters;
use crate::node::Node;
use crate::presence::{Reason, Tick, Wheel};
use crate::protocol::Protocol;
use crate::websocket::{close, put_close};
use liveness::Times;

/// What one read takes at most. A heartbeat is 15 bytes; this is for floods, which are taken in bites that delay nobody much.
const SCRATCH_BYTES: usize = 16 * 1024;
/// Rooms that one connection may have joined or look at.
pub const MAX_ROOMS_PER_CONNECTION: usize = 100;

/// The state of one worker thread.
pub struct Worker {
    /// Its number.
    pub number: usize,
    /// What it shares with the others.
    pub node: Arc<Node>,
    /// Its counters; nobody else writes them.
    pub counters: Arc<WorkerCounters>,
    /// Where every read of every connection goes.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// Who looks at which room.
    pub(crate) fanout: RefCell<Fanout>,
    /// The tick of the last batch that was done, for those who wait for one.
    pub done: watch::Sender<Tick>,
    /// RestSessions that are being answered.
    pub requests: Cell<usize>,
    /// The server is stopping: no new connections.
    pub draining: Cell<bool>,
    connections: RefCell<Slab<Rc<Connection>>>,
    next_serial: Cell<u32>,
    /// When to look whether a connection is still alive.
    checks: RefCell<Wheel<ConnectionId>>,
    json: RefCell<json::Reader>,
    answers: RefCell<BytesMut>,
    /// Who has said how much on this worker.
    rate_limits: RefCell<rate_limit::RateLimits>,
    /// Whose connections are where.
    owners: RefCell<kick::Owners>,
    times: Times,
}

/// What was agreed at the upgrade.
#[derive(Debug, Clone)]
pub struct Upgrade {
    /// The protocol.
    pub protocol: Protocol,
    /// The user that the connection speaks for, if the request says so.
    pub user: Option<Box<str>>,
    /// Rooms to join at once.
    pub rooms: Vec<Box<str>>,
    /// The login that it came with, if the user's.
    pub login: Option<u64>,
}

impl Upgrade {
    /// A connection of this protocol, and of this user if the request names one.
    pub fn new(protocol: Protocol, user: Option<String>) -> Self {
        Self { protocol, user: user.map(Into::into), rooms: Vec::new(), login: None }
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Worker").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker without connections.
    pub fn new(number: usize, node: Arc<Node>) -> Self {
        let times = Times::new(&node.config);
        Self {
            number,
            counters: Arc::clone(&node.metrics.workers[number]),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            fanout: RefCell::default(),
            done: watch::Sender::new(0),
            requests: Cell::new(0),
            draining: Cell::new(false),
            connections: RefCell::default(),
            next_serial: Cell::new(0),
            checks: RefCell::new(Wheel::new(times.longest_check() + 1)),
            json: RefCell::default(),
            answers: RefCell::default(),
            rate_limits: RefCell::default(),
            owners: RefCell::default(),
            times,
            node,
        }
    }

    /// Takes over a socket after its upgrade, with the answer to it, which goes out with the greeting, and what was read ahead.
    pub fn park(self: &Rc<Self>, stream: TcpStream, mut answers: BytesMut, read_ahead: &[u8], upgrade: &Upgrade) {
        let now = self.node.now();
        self.node.connections.fetch_add(1, Ordering::Relaxed);
        let connection = self.admit(upgrade.protocol, stream, now.tick);
        if let Some(user) = &upgrade.user {
            self.identify(&connection, user, upgrade.login);
        }
        self.greet(&connection, upgrade, &mut answers);
        connection.answer(self, &mut answers);
        let mut read_ahead = read_ahead.to_vec();
        if !read_ahead.is_empty() && self.receive(&connection, &mut read_ahead).is_break() {
            return self.disconnected(&connection);
        }
        tokio::task::spawn_local(Reader::new(connection, Rc::clone(self)));
    }

    /// Gives a connection its user, once.
    fn identify(&self, connection: &Connection, user: &str, login: Option<u64>) {
        let registry = &self.node.registry;
        connection.heard(self.node.now().tick);
        connection.session.get_or_init(|| match connection.protocol.has_lease() {
            true => registry.open_session(user, self.node.now()),
            false => registry.open_unleased_session(user),
        });
        self.note_owner(connection, user, login);
    }

    fn admit(&self, protocol: Protocol, stream: TcpStream, now: Tick) -> Rc<Connection> {
        let mut connections = self.connections.borrow_mut();
        let serial = self.next_serial.get();
        self.next_serial.set(serial.wrapping_add(1));
        let entry = connections.vacant_entry();
        let id = ConnectionId { index: entry.key() as u32, serial };
        let connection = Rc::new(Connection::new(id, protocol, stream, now));
        entry.insert(Rc::clone(&connection));
        self.checks.borrow_mut().insert(now + self.times.first_check(protocol), id);
        self.counters.connections.add(1);
        self.counters.connections_opened.add(1);
        connection
    }

    /// Sends the snapshots that a connection missed while its socket was full.
    pub(crate) fn catch_up(&self, connection: &Rc<Connection>) {
        self.fanout.borrow_mut().catch_up(self, connection);
    }

    /// The reader has come to the end: everything of the connection goes.
    pub(crate) fn disconnected(self: &Rc<Self>, connection: &Rc<Connection>) {
        self.release(connection, Ending::Lost);
        // Released connections look at nothing; one left behind here would hold its socket for ever.
        self.fanout.borrow_mut().forget(self, connection);
        if connection.is_blocked() {
            connection.abort(); // Nobody is there to read what still waits.
        }
        connection.phase.set(Phase::Dead);
        let index = connection.id.index as usize;
        let mut connections = self.connections.borrow_mut();
        if connections.get(index).is_some_and(|held| held.id == connection.id) {
            connections.remove(index);
            self.forget_owner(connection);
            self.counters.connections.subtract(1);
            self.node.connections.fetch_sub(1, Ordering::Relaxed);
            self.socket_closed();
        }
    }

    /// A socket of this worker is gone.
    pub fn socket_closed(&self) {
        self.counters.sockets.subtract(1);
        self.node.sockets.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends the presence of a connection as its protocol wants it. Once.
    fn release(&self, connection: &Rc<Connection>, ending: Ending) {
        if connection.released.replace(true) {
            return;
        }
        self.fanout.borrow_mut().forget(self, connection);
        let registry = &self.node.registry;
        let Some(session) = connection.session.get() else { return };
        match (connection.protocol, ending) {
            (_, Ending::Removed(reason)) => registry.end_session(session, reason),
            (Protocol::Native, Ending::Clean) => registry.end_session(session, Reason::Closed),
            (Protocol::Native, Ending::Lost) => registry.detach_session(session, self.times.grace, self.node.now()),
            // It stays until its lease ends.
            (Protocol::OnlineUsers, _) => registry.detach_session(session, self.times.ttl, self.node.now()),
            // The server goes and not its users: they are not to see each other leave.
            (Protocol::Status | Protocol::Chat, Ending::Lost) if self.draining.get() => {}
            (Protocol::Status | Protocol::Chat, _) => registry.end_session(session, Reason::Closed),
            #[cfg(feature = "echo")]
            (Protocol::Echo, _) => registry.end_session(session, Reason::Closed),
        }
    }

    /// Sends a close frame and waits for the client's.
    fn close(self: &Rc<Self>, connection: &Rc<Connection>, code: u16, reason: &str) {
        if connection.phase.get() != Phase::Open {
            return;
        }
        let mut answers = BytesMut::new();
        put_close(&mut answers, code, reason);
        connection.answer(self, &mut answers);
        self.expect_close(connection, Phase::Closing);
    }

    /// Ends the presence of a connection and gives the client some time to close it.
    fn expect_close(&self, connection: &Rc<Connection>, phase: Phase) {
        self.release(connection, Ending::Lost);
        connection.phase.set(phase);
        let now = self.node.now().tick;
        connection.heard(now); // From here on this counts the time of the closing.
        self.checks.borrow_mut().insert(now + self.times.close_wait, connection.id);
    }

    /// Whether no further connection may be taken.
    pub(crate) fn is_full(&self) -> bool {
        self.node.connections.load(Ordering::Relaxed) >= self.node.config.limits.max_connections
    }

    /// Tells all native clients whether other nodes are seen.
    pub(crate) fn tell_health(self: &Rc<Self>, frame: &[u8]) {
        for connection in self.open(usize::MAX, |connection| connection.protocol == Protocol::Native) {
            connection.answer(self, &mut BytesMut::from(frame));
        }
    }

    /// Connections open on this worker.
    pub(crate) fn connections_open(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Asks up to `most` clients to come back elsewhere, or later.
    pub(crate) fn send_away(self: &Rc<Self>, most: usize) {
        for connection in self.open(most, |_| true) {
            self.close(&connection, close::RESTART, close::RESTART_REASON);
        }
    }

    /// Up to so many of the connections that are open and are asked for. Copies, since what is done to them may remove some.
    fn open(&self, most: usize, is_asked: impl Fn(&Connection) -> bool) -> Vec<Rc<Connection>> {
        let connections = self.connections.borrow();
        let open = connections.iter().filter(|(_, open)| open.phase.get() == Phase::Open && is_asked(open));
        open.take(most).map(|(_, connection)| Rc::clone(connection)).collect()
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The client closed it with 1000, or without a code, as `close()` in a browser does.
    Clean,
    /// Any other way.
    Lost,
    /// The user is to go at once.
    Removed(Reason),
}
