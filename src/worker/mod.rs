//! A worker thread: its connections, the commands of their clients, and its share of the fanout.
//!
//! A worker runs a `current_thread` runtime and shares only the [`Node`] with other workers. It runs three kinds of
//! tasks: the accept loop, the loop that receives the ticker's signals (one batch per tick), and one small task per
//! connection.

mod commands;
mod kick;
mod liveness;
mod rate_limit;
mod reader;
pub mod thread;
mod writer;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use slab::Slab;
use tokio::sync::watch;

use crate::connection::{Connection, ConnectionId, Phase};
use crate::fanout::Fanout;
use crate::json;
use crate::metrics::WorkerCounters;
use crate::node::Node;
use crate::presence::{Reason, Session, Tick, Wheel};
use crate::protocol::{AtClose, Client, Protocol, SessionNumber, Upgrade};
use crate::websocket::put_close;
use crate::websocket::stream::Stream;
use commands::Commands;
use liveness::Times;
use reader::Reader;

/// The limit of bytes per read. A heartbeat has 15 bytes; the limit matters for clients that send a flood, which is
/// read in parts so that it does not delay other clients much.
const SCRATCH_BYTES: usize = 16 * 1024;

/// The state of one worker thread.
pub struct Worker {
    /// Its number.
    pub number: usize,
    /// What it shares with the other threads.
    pub node: Arc<Node>,
    /// Its counters. No other thread writes them.
    pub counters: Arc<WorkerCounters>,
    /// The read buffer, shared by all connections.
    scratch: RefCell<Box<[u8]>>,
    /// The observers of each room.
    fanout: RefCell<Fanout>,
    /// The tick of the last batch that was executed, for requests that wait for a tick.
    pub done: watch::Sender<Tick>,
    /// The number of HTTP requests that are being handled.
    pub requests: Cell<usize>,
    /// Whether the server is stopping and accepts no new connections.
    pub draining: Cell<bool>,
    connections: RefCell<Slab<Rc<Connection>>>,
    next_serial: Cell<u32>,
    /// The next liveness check of each connection.
    checks: RefCell<Wheel<ConnectionId>>,
    json: RefCell<json::Reader>,
    /// The buffer for replies, shared by all connections.
    replies: RefCell<BytesMut>,
    rate_limits: RefCell<rate_limit::RateLimits>,
    /// The connections of each user.
    user_index: RefCell<kick::UserIndex>,
    times: Times,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The client closed it with 1000, or without a code, as `close()` in a browser does.
    Clean,
    /// The connection ended in any other way.
    Lost,
    /// The user was kicked or signed out.
    Kicked(Reason),
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
            fanout: RefCell::new(Fanout::new(Arc::clone(&node), number)),
            done: watch::Sender::new(0),
            requests: Cell::new(0),
            draining: Cell::new(false),
            connections: RefCell::default(),
            next_serial: Cell::new(0),
            checks: RefCell::new(Wheel::new(times.longest_check() + 1)),
            json: RefCell::default(),
            replies: RefCell::default(),
            rate_limits: RefCell::default(),
            user_index: RefCell::default(),
            times,
            node,
        }
    }

    /// Starts a connection after its upgrade. `replies` has the HTTP response, which is sent together with the
    /// greeting; `read_ahead` has the bytes that the client sent after its request.
    pub fn open_connection(
        self: &Rc<Self>,
        stream: Stream,
        mut replies: BytesMut,
        read_ahead: &[u8],
        upgrade: &Upgrade,
    ) {
        let now = self.node.now();
        self.node.connections.fetch_add(1, Ordering::Relaxed);
        let connection = self.add_connection(upgrade.protocol, stream, now.tick);
        if let Some(user) = &upgrade.user {
            self.identify(&connection, user, upgrade.login);
        }
        let host = Commands::new(self, &connection);
        (upgrade.protocol.rules().greet)(&mut Client::new(&host, &mut replies), upgrade);
        self.reply(&connection, &mut replies);
        let mut read_ahead = read_ahead.to_vec();
        if !read_ahead.is_empty() && self.receive(&connection, &mut read_ahead).is_break() {
            return self.disconnected(&connection);
        }
        tokio::task::spawn_local(Reader::new(connection, Rc::clone(self)));
    }

    /// Adds a user to a connection. Returns the number of the user's session, which is new unless the connection has
    /// one.
    fn identify(&self, connection: &Connection, user: &str, login: Option<u64>) -> Option<SessionNumber> {
        if let Some(known) = connection.session_of(user) {
            return Some(known);
        }
        let registry = &self.node.registry;
        let now = self.node.now();
        connection.heard(now.tick);
        let number = connection.add_session(match connection.protocol.rules().presence.is_lease() {
            true => registry.open_session(user, now),
            false => registry.open_unleased_session(user),
        });
        self.index_user(connection, user, login);
        number
    }

    /// Adds a connection to the slab, the checks and the counters.
    fn add_connection(&self, protocol: Protocol, stream: Stream, now: Tick) -> Rc<Connection> {
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

    /// Removes a connection after its stream has ended.
    fn disconnected(self: &Rc<Self>, connection: &Rc<Connection>) {
        self.release(connection, Ending::Lost);
        // The connection was released, perhaps long ago. An observation that was added since would keep its socket
        // open.
        self.fanout.borrow_mut().forget(connection);
        if connection.is_blocked() {
            connection.abort(); // The client is gone and cannot read the bytes that still wait.
        }
        connection.phase.set(Phase::Dead);
        let index = connection.id.index as usize;
        let mut connections = self.connections.borrow_mut();
        if connections.get(index).is_some_and(|known| known.id == connection.id) {
            connections.remove(index);
            self.unindex_users(connection);
            self.counters.connections.subtract(1);
            self.node.connections.fetch_sub(1, Ordering::Relaxed);
            self.socket_closed();
        }
    }

    /// Counts a socket of this worker that was closed.
    pub fn socket_closed(&self) {
        self.counters.sockets.subtract(1);
        self.node.sockets.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends the presence of a connection according to the rules of its protocol. Later calls do nothing.
    fn release(&self, connection: &Rc<Connection>, ending: Ending) {
        if connection.released.replace(true) {
            return;
        }
        self.fanout.borrow_mut().forget(connection);
        let rules = connection.protocol.rules();
        let at_close = match ending {
            Ending::Kicked(reason) => AtClose::Leave(reason),
            Ending::Clean => rules.on_close.clean,
            Ending::Lost if self.draining.get() => rules.on_close.drained,
            Ending::Lost => rules.on_close.lost,
        };
        connection.for_each_session(|session| self.end_session(session, at_close));
    }

    fn end_session(&self, session: &Arc<Session>, at_close: AtClose) {
        let registry = &self.node.registry;
        match at_close {
            AtClose::Leave(reason) => registry.end_session(session, reason),
            AtClose::Grace => registry.detach_session(session, self.times.grace, self.node.now()),
            AtClose::LeaseEnds => registry.detach_session(session, self.times.ttl, self.node.now()),
            AtClose::Stay => {}
        }
    }

    /// Sends a close frame and waits for the client's.
    fn close(self: &Rc<Self>, connection: &Rc<Connection>, code: u16, reason: &str) {
        if connection.phase.get() != Phase::Open {
            return;
        }
        let mut replies = BytesMut::new();
        put_close(&mut replies, code, reason);
        self.reply(connection, &mut replies);
        self.expect_close(connection, Phase::Closing);
    }

    /// Ends the presence of a connection and gives the client a limited time to close it.
    fn expect_close(&self, connection: &Rc<Connection>, phase: Phase) {
        self.release(connection, Ending::Lost);
        connection.phase.set(phase);
        let now = self.node.now().tick;
        connection.heard(now); // From now on, silence is measured from the start of the closing.
        self.checks.borrow_mut().insert(now + self.times.close_wait, connection.id);
    }

    /// Whether the limit of connections is reached.
    pub fn is_full(&self) -> bool {
        self.node.connections.load(Ordering::Relaxed) >= self.node.config.limits.max_connections
    }

    /// The number of connections of this worker, in any phase.
    fn connection_count(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Up to `limit` of the open connections that `is_selected` returns true for. References are copied, because the
    /// caller may remove connections while it iterates.
    fn open_connections(&self, limit: usize, is_selected: impl Fn(&Connection) -> bool) -> Vec<Rc<Connection>> {
        let connections = self.connections.borrow();
        let open = connections.iter().filter(|(_, open)| open.phase.get() == Phase::Open && is_selected(open));
        open.take(limit).map(|(_, connection)| Rc::clone(connection)).collect()
    }
}
