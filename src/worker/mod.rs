//! A worker: its connections, the commands of their clients, and its share of the fanout.
//!
//! A worker is a thread with an event loop of its own ([`event_loop`]) and shares only the [`Node`] and its [`mailbox`]
//! with other threads. The loop owns the connections; everything else that the handlers of a connection need is the
//! [`Worker`], so that both can be borrowed mutably at the same time.

mod commands;
pub mod event_loop;
pub mod http_side;
mod kick;
mod liveness;
pub mod mailbox;
mod rate_limit;
mod reader;
mod writer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;

use crate::connection::{Connection, ConnectionId, Phase};
use crate::fanout::Fanout;
use crate::json;
use crate::metrics::ThreadCounters;
use crate::node::Node;
use crate::presence::kick::Kick;
use crate::presence::{Session, Wheel};
use crate::protocol::{AtClose, SessionNumber};
use crate::websocket::put_close;
use liveness::Times;

/// The state of one worker, except for its connections.
pub struct Worker {
    number: usize,
    /// What it shares with the other threads.
    node: Arc<Node>,
    /// Its counters. No other thread writes them.
    counters: Arc<ThreadCounters>,
    /// The observers of each room.
    fanout: Fanout,
    /// The next liveness check of each connection.
    checks: Wheel<ConnectionId>,
    /// Connections that the next turn of the loop continues with: they have input that was not handled, or have ended.
    ready: VecDeque<ConnectionId>,
    /// Connections that have, or had, bytes waiting for the socket. Checked once per second.
    slow: Vec<ConnectionId>,
    rate_limits: rate_limit::RateLimits,
    /// The connections of each user.
    user_index: kick::UserIndex,
    times: Times,
    /// Whether the server is stopping.
    is_draining: bool,
}

/// What decoding messages and replying to them needs. Shared by all connections of a worker.
#[derive(Debug, Default)]
struct Codec {
    json: json::Reader,
    /// The replies to the messages of one read.
    replies: BytesMut,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy)]
enum Ending<'a> {
    /// The client closed it with 1000, or without a code, as `close()` in a browser does.
    Clean,
    /// The connection ended in any other way.
    Lost,
    /// One of its users was kicked or signed out.
    Kicked(&'a Kick),
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Worker").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker without connections.
    fn new(number: usize, node: Arc<Node>) -> Self {
        let times = Times::new(&node.config);
        Self {
            number,
            counters: Arc::clone(&node.metrics.workers[number]),
            fanout: Fanout::new(Arc::clone(&node), number),
            checks: Wheel::new(times.longest_check() + 1),
            ready: VecDeque::new(),
            slow: Vec::new(),
            rate_limits: rate_limit::RateLimits::default(),
            user_index: kick::UserIndex::default(),
            times,
            is_draining: false,
            node,
        }
    }

    /// Has the next turn of the loop continue with this connection.
    fn continue_later(&mut self, connection: &mut Connection) {
        if !std::mem::replace(&mut connection.is_ready, true) {
            self.ready.push_back(connection.id);
        }
    }

    /// Adds a user to a connection. Returns the number of the user's session, which is new unless the connection has
    /// one; `None` if the connection has the maximum number of sessions.
    fn identify(&mut self, connection: &mut Connection, user: &str, login: Option<u64>) -> Option<SessionNumber> {
        if let Some(known) = connection.session_of(user) {
            return Some(known);
        }
        SessionNumber::new(connection.sessions().count())?;
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

    /// Ends what a connection had, before it is removed.
    fn disconnected(&mut self, connection: &mut Connection) {
        self.counters.sockets.subtract(1);
        self.node.sockets.fetch_sub(1, Ordering::Relaxed);
        if !connection.is_websocket {
            return;
        }
        self.release(connection, Ending::Lost);
        // A command may have added an observation after the release.
        self.fanout.forget(connection);
        self.unindex_users(connection);
        self.counters.connections.subtract(1);
        self.node.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends the presence of a connection according to the rules of its protocol. Later calls do nothing.
    fn release(&mut self, connection: &mut Connection, ending: Ending<'_>) {
        if std::mem::replace(&mut connection.released, true) {
            return;
        }
        self.fanout.forget(connection);
        let on_close = &connection.protocol.rules().on_close;
        let lost = if self.is_draining { on_close.drained } else { on_close.lost };
        for session in connection.sessions() {
            let at_close = match ending {
                Ending::Clean => on_close.clean,
                Ending::Kicked(kick) if kick.user == *session.user() => AtClose::Leave(kick.reason),
                Ending::Kicked(_) | Ending::Lost => lost,
            };
            self.end_session(session, at_close);
        }
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
    fn close(&mut self, connection: &mut Connection, code: u16, reason: &str) {
        if connection.phase != Phase::Open {
            return;
        }
        let mut replies = BytesMut::new();
        put_close(&mut replies, code, reason);
        self.reply(connection, &mut replies);
        self.expect_close(connection, Phase::Closing);
    }

    /// Ends the presence of a connection and gives the client a limited time to close it.
    fn expect_close(&mut self, connection: &mut Connection, phase: Phase) {
        self.release(connection, Ending::Lost);
        connection.phase = phase;
        let now = self.node.now().tick;
        connection.heard(now); // From now on, silence is measured from the start of the closing.
        self.checks.insert(now + self.times.close_wait, connection.id);
    }

    /// Ends a connection at once.
    fn abort(&mut self, connection: &mut Connection) {
        connection.abort();
        self.continue_later(connection);
    }
}
