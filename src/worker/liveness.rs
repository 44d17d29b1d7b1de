//! Whether a connection is still alive: what counts as a sign of life, who is pinged, and who is dropped.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::Worker;
use crate::config::{Config, Liveness};
use crate::connection::{Connection, Phase};
use crate::presence::{Now, Tick};
use crate::protocol::{Protocol, chat};
use crate::websocket::{PING, close};

/// How long a client may take to answer a close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Durations in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) ttl: Tick,
    pub(super) grace: Tick,
    /// A connection silent for this long is pinged: half the ttl, and somewhat more, so that clients that rest_heartbeat at half the ttl
    /// are not pinged all the time.
    ping_after: Tick,
    pub(super) close_wait: Tick,
    /// Connections without a lease are pinged each time this has passed.
    ping_interval: Tick,
    /// A connection that is to publish who it is must do so within this time.
    join_wait: Tick,
    /// What one connection may publish is counted by the second.
    pub(super) second: Tick,
}

impl Times {
    pub(super) fn new(config: &Config) -> Self {
        let half = config.ticks(config.presence.ttl / 2);
        Self {
            ttl: config.ticks(config.presence.ttl),
            grace: config.ticks(config.presence.grace),
            ping_after: half + (half / 10).max(1),
            close_wait: config.ticks(CLOSE_WAIT),
            ping_interval: config.ticks(config.presence.ping_interval),
            join_wait: config.ticks(config.limits.header_timeout),
            second: config.ticks(Duration::from_secs(1)),
        }
    }

    /// When to look at a new connection.
    pub(super) fn first_check(&self, protocol: Protocol) -> Tick {
        match protocol {
            Protocol::Chat => self.join_wait.min(self.ping_interval),
            _ if protocol.has_lease() => self.ping_after,
            _ => self.ping_interval,
        }
    }

    /// How far ahead a connection is looked at, at the most.
    pub(super) fn longest_check(&self) -> Tick {
        self.ttl.max(self.close_wait).max(self.ping_interval)
    }
}

impl Worker {
    /// Something came from the client, or it took something that waited for it.
    pub(crate) fn sign_of_life(&self, connection: &Connection, now: Now) {
        if is_to_join(connection) {
            return; // Only the join will do: until then this counts the time since the connection was opened.
        }
        connection.heard(now.tick);
        if self.any_counts(connection.protocol)
            && let Some(session) = connection.session.get()
        {
            self.node.registry.renew(session, now);
        }
    }

    /// Pings connections that have been silent, drops those that stay so, and those that do not join or do not finish closing.
    pub(crate) fn check_connections(self: &Rc<Self>, now: Tick) {
        let mut due = Vec::new();
        self.checks.borrow_mut().take_due(now, &mut due);
        for id in due {
            let connection =
                self.connections.borrow().get(id.index as usize).filter(|held| held.id == id).map(Rc::clone);
            let Some(connection) = connection else { continue };
            match self.check(&connection, now) {
                Some(next) => self.checks.borrow_mut().insert(next, id),
                None => connection.abort(),
            }
        }
    }

    /// Looks after one connection. Returns when to look again, or `None` if it has been silent for too long.
    fn check(self: &Rc<Self>, connection: &Rc<Connection>, now: Tick) -> Option<Tick> {
        let (silent, times) = (connection.silent_for(now), &self.times);
        if connection.phase.get() != Phase::Open {
            return (silent < times.close_wait).then(|| now - silent + times.close_wait);
        }
        if is_to_join(connection) {
            if silent >= times.join_wait {
                self.counters.connections_timed_out.add(1);
                self.close(connection, close::POLICY, chat::MISSING_JOIN);
                return Some(now + times.close_wait);
            }
            return Some(now + (times.join_wait - silent).min(times.ping_interval));
        }
        let leased = connection.protocol.has_lease();
        // Without a lease a ping comes each time: whoever has not been heard since the last one did not answer it.
        let (quiet, patience) = if leased { (times.ping_after, times.ttl) } else { (0, times.ping_interval) };
        if silent > patience {
            self.counters.connections_timed_out.add(1);
            return None;
        }
        if silent < quiet {
            return Some(now - silent + quiet);
        }
        // A full socket has other trouble than silence, and gets no ping on top.
        connection.deliver(self, &[&Bytes::from_static(PING)]);
        Some(if leased { now - silent + patience + 1 } else { now + patience })
    }

    /// Whether any sign of life renews the lease of such a connection; otherwise only heartbeats do.
    pub(super) fn any_counts(&self, protocol: Protocol) -> bool {
        match self.node.config.presence.liveness {
            _ if !protocol.has_lease() => false,
            Some(rule) => rule == Liveness::Any,
            None => protocol != Protocol::OnlineUsers,
        }
    }
}

/// Whether a connection has still to publish whose it is: a chat's does so with its first message.
fn is_to_join(connection: &Connection) -> bool {
    connection.protocol == Protocol::Chat && connection.session.get().is_none()
}
