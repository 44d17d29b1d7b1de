//! Whether a connection is still alive: what counts as a sign of life, which clients are pinged, and which are disconnected.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::Worker;
use crate::config::{Config, Liveness};
use crate::connection::{Connection, Delivery, Phase};
use crate::presence::{Now, Tick};
use crate::protocol::{Identity, Presence, Protocol};
use crate::websocket::{PING, close};

/// How long a client may take to reply to a close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Durations in ticks, and other settings in the form in which they are used.
#[derive(Debug, Clone)]
pub(super) struct Times {
    pub(super) ttl: Tick,
    pub(super) grace: Tick,
    /// A connection silent for this long is pinged: half the ttl, and somewhat more, so that clients that send a heartbeat every half
    /// ttl are not pinged all the time.
    ping_after: Tick,
    pub(super) close_wait: Tick,
    /// Connections without a lease are pinged each time this has passed.
    ping_interval: Tick,
    /// What one connection publishes is counted by the second.
    pub(super) second: Tick,
    /// By protocol: whether any sign of life renews the lease; otherwise only heartbeats and other commands do.
    any_frame_renews: Vec<bool>,
    /// By protocol: the time for the first message, if it names the user.
    join_wait: Vec<Option<Tick>>,
}

impl Times {
    pub(super) fn new(config: &Config) -> Self {
        let half = config.ticks(config.presence.ttl / 2);
        let rules = Protocol::ALL.iter().map(|protocol| protocol.rules());
        let any_frame_renews = |presence: Presence| match presence {
            Presence::Lease { any_frame_renews } => {
                config.presence.liveness.map_or(any_frame_renews, |rule| rule == Liveness::Any)
            }
            Presence::Connection => false,
        };
        let join_wait = |identity: &Identity| match identity {
            Identity::FirstMessage { deadline, .. } => Some(config.ticks(deadline(config))),
            Identity::AtUpgrade { .. } | Identity::PerSubscription => None,
        };
        Self {
            ttl: config.ticks(config.presence.ttl),
            grace: config.ticks(config.presence.grace),
            ping_after: half + (half / 10).max(1),
            close_wait: config.ticks(CLOSE_WAIT),
            ping_interval: config.ticks(config.presence.ping_interval),
            second: config.ticks(Duration::from_secs(1)),
            any_frame_renews: rules.clone().map(|rules| any_frame_renews(rules.presence)).collect(),
            join_wait: rules.map(|rules| join_wait(&rules.identity)).collect(),
        }
    }

    /// Whether any sign of life renews the lease of a connection; otherwise only heartbeats and other commands do.
    pub(super) fn any_frame_renews(&self, protocol: Protocol) -> bool {
        self.any_frame_renews[protocol as usize]
    }

    /// How long a connection may take to name its user; `None` if it need not, or has.
    fn join_wait(&self, connection: &Connection) -> Option<Tick> {
        self.join_wait[connection.protocol as usize].filter(|_| connection.session().is_none())
    }

    /// When to check a new connection.
    pub(super) fn first_check(&self, protocol: Protocol) -> Tick {
        match self.join_wait[protocol as usize] {
            Some(join_wait) => join_wait.min(self.ping_interval),
            None if protocol.rules().presence.is_lease() => self.ping_after,
            None => self.ping_interval,
        }
    }

    /// How far ahead a connection is checked, at the most.
    pub(super) fn longest_check(&self) -> Tick {
        self.ttl.max(self.close_wait).max(self.ping_interval)
    }
}

impl Worker {
    /// Something came from the client, or it took something that waited for it.
    pub(super) fn sign_of_life(&self, connection: &Connection, now: Now) {
        if self.times.join_wait(connection).is_some() {
            return; // Until the first message this counts the time since the connection was opened.
        }
        connection.heard(now.tick);
        if self.times.any_frame_renews(connection.protocol) {
            connection.for_each_session(|session| self.node.registry.renew(session, now));
        }
    }

    /// Pings silent connections; disconnects those that stay silent, do not name their user, or do not finish closing.
    pub(super) fn check_connections(self: &Rc<Self>, now: Tick) {
        let mut due = Vec::new();
        self.checks.borrow_mut().take_due(now, &mut due);
        for id in due {
            let connection =
                self.connections.borrow().get(id.index as usize).filter(|known| known.id == id).map(Rc::clone);
            let Some(connection) = connection else { continue };
            match self.check(&connection, now) {
                Some(next) => self.checks.borrow_mut().insert(next, id),
                None => connection.abort(),
            }
        }
    }

    /// Checks one connection. Returns when to check it again, or `None` if it has been silent for too long.
    fn check(self: &Rc<Self>, connection: &Rc<Connection>, now: Tick) -> Option<Tick> {
        let (silent, times) = (connection.silent_for(now), &self.times);
        if connection.phase.get() != Phase::Open {
            return (silent < times.close_wait).then(|| now - silent + times.close_wait);
        }
        if let Some(join_wait) = times.join_wait(connection) {
            if silent >= join_wait {
                return Some(self.close_unnamed(connection, now));
            }
            return Some(now + (join_wait - silent).min(times.ping_interval));
        }
        let leased = connection.protocol.rules().presence.is_lease();
        // Without a lease a ping is due at every check: a client that was not heard since the last one did not answer it.
        let (quiet, patience) = if leased { (times.ping_after, times.ttl) } else { (0, times.ping_interval) };
        if silent > patience {
            self.counters.connections_timed_out.add(1);
            return None;
        }
        if silent < quiet {
            return Some(now - silent + quiet);
        }
        if let Delivery::Accepted(written) = connection.deliver(&[&Bytes::from_static(PING)]) {
            self.send_later(connection, written);
        } // Else its socket is full: a ping on top would not help.
        Some(if leased { now - silent + patience + 1 } else { now + patience })
    }

    /// Closes a connection that has not named its user in time. Returns when to check it again.
    fn close_unnamed(self: &Rc<Self>, connection: &Rc<Connection>, now: Tick) -> Tick {
        self.counters.connections_timed_out.add(1);
        let reason = match connection.protocol.rules().identity {
            Identity::FirstMessage { reason, .. } => reason,
            Identity::AtUpgrade { .. } | Identity::PerSubscription => "",
        };
        self.close(connection, close::POLICY, reason);
        now + self.times.close_wait
    }
}
