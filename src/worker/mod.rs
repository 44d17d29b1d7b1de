//! A worker: its connections, the commands of their clients, and its share of the fanout.
//!
//! A worker is a thread with an event loop of its own ([`event_loop`]) and shares only the [`Node`] and its [`mailbox`]
//! with other threads. The loop owns the connections; everything else that the handlers of a connection need is the
//! [`Worker`], so that both can be borrowed mutably at the same time.

mod addresses;
mod alarms;
mod backlogs;
mod commands;
pub mod event_loop;
mod grants;
pub mod http_side;
mod kick;
mod liveness;
pub mod mailbox;
mod named_clients;
mod price;
mod quotas;
mod rate_limit;
mod reader;
mod refusals;
mod renewals;
mod revoke;
mod slow;
mod throttle;
mod turns;
mod user_messages;
pub mod verifications;
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
use crate::presence::{Credential, Reason, Session, Wheel};
use crate::protocol::{AtClose, SessionNumber};
use crate::websocket::put_close;
use backlogs::Backlogs;
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
    alarms: alarms::Alarms,
    /// The next liveness check of each connection.
    checks: Wheel<ConnectionId>,
    /// Connections that the next turn of the loop continues with: they have input that was not handled, or have ended.
    ready: VecDeque<ConnectionId>,
    /// Connections that have, or had, bytes that wait for the socket or for the rest of a message. Checked once per
    /// second.
    slow: Vec<ConnectionId>,
    rate_limits: rate_limit::RateLimits,
    /// What connections may do.
    grants: grants::Grants,
    renewals: renewals::Renewals,
    throttle: throttle::Throttle,
    addresses: addresses::Addresses,
    /// The sockets that are no WebSockets yet, of clients that have limits.
    permits: quotas::Permits,
    named_clients: named_clients::NamedClients,
    refusal_answers: refusals::Answers,
    turns: turns::Turns,
    /// The memory of events for clients that are far behind.
    backlogs: Backlogs,
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
    /// Its credential was revoked.
    Revoked,
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
            alarms: alarms::Alarms::default(),
            checks: Wheel::new(times.longest_check() + 1),
            ready: VecDeque::new(),
            slow: Vec::new(),
            rate_limits: rate_limit::RateLimits::default(),
            renewals: renewals::Renewals::default(),
            grants: grants::Grants::new(node.auth.revocations.hashes().clone()),
            throttle: throttle::Throttle::new(times.second),
            addresses: addresses::Addresses::default(),
            permits: quotas::Permits::default(),
            named_clients: named_clients::NamedClients::default(),
            refusal_answers: refusals::Answers::default(),
            turns: turns::Turns::default(),
            backlogs: Backlogs::new(node.config.limits.max_backlog_bytes),
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
        self.count_user(connection.id, user);
        let registry = &self.node.registry;
        let now = self.node.now();
        connection.heard(now.tick);
        let session = match connection.protocol.rules().presence.is_lease() {
            true => registry.open_session(user, now),
            false => {
                let session = registry.open_unleased_session(user);
                session.begin(now.unix_ms);
                session
            }
        };
        let number = connection.add_session(session);
        self.index_user(connection, user, login);
        number
    }

    /// Takes the last user of a connection away, who has joined nothing.
    fn forget_session(&mut self, connection: &mut Connection, number: SessionNumber) {
        let Some(session) = connection.remove_last_session(number) else { return };
        self.node.registry.end_session(&session, Reason::Left);
        self.uncount_user(connection.id, session.user());
        self.unindex_user(connection, session.user());
    }

    /// Ends what a connection had, before it is removed.
    fn disconnected(&mut self, connection: &mut Connection) {
        self.counters.sockets.subtract(1);
        self.node.sockets.fetch_sub(1, Ordering::Relaxed);
        if !connection.is_websocket {
            self.permits.take(connection.id);
            self.named_clients.take(connection.id);
            self.addresses.forget(connection.id);
            return;
        }
        self.count_closed(connection);
        self.throttle.forget(connection.id.serial);
        self.renewals.forget(connection.id.serial);
        self.turns.forget(connection.id.serial);
        self.addresses.forget(connection.id);
        self.drop_backlog(connection);
        self.release(connection, Ending::Lost);
        self.grants.forget(connection.id);
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
        let is_signed = connection.protocol.rules().is_signed();
        let credential = self.credential(connection.id);
        let lost = if self.is_draining { on_close.drained } else { on_close.lost };
        for session in connection.sessions() {
            let at_close = match ending {
                Ending::Clean => on_close.clean,
                // An application's client acts for one person, whatever its users are named.
                Ending::Kicked(kick) if kick.user == *session.user() || is_signed => AtClose::Leave(kick.reason),
                Ending::Revoked => AtClose::Leave(Reason::Kicked),
                Ending::Kicked(_) | Ending::Lost => lost,
            };
            self.end_session(session, at_close, credential);
        }
    }

    fn end_session(&self, session: &Arc<Session>, at_close: AtClose, credential: Option<Credential>) {
        let registry = &self.node.registry;
        let detach = |time| registry.detach_session_of(session, credential, time, self.node.now());
        match at_close {
            AtClose::Leave(reason) => registry.end_session(session, reason),
            AtClose::Grace => detach(self.times.grace),
            AtClose::LeaseEnds => detach(self.times.ttl),
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
        self.drop_backlog(connection);
        self.release(connection, Ending::Lost);
        connection.phase = phase;
        connection.is_paused = false; // The client's close frame is behind what it sent before.
        let now = self.node.now().tick;
        connection.heard(now); // From now on, silence is measured from the start of the closing.
        self.checks.insert(now + self.times.close_wait, connection.id);
    }

    /// Drops the events that wait for a client that is far behind.
    fn drop_backlog(&mut self, connection: &mut Connection) {
        self.backlogs.change(connection.kept_bytes(), 0);
        connection.drop_backlog();
    }

    /// Ends a connection at once.
    fn abort(&mut self, connection: &mut Connection) {
        connection.abort();
        self.continue_later(connection);
    }
}
