//! Liveness of connections: what counts as a sign of life, when clients are pinged, and when they are disconnected.

use std::time::Duration;

use bytes::Bytes;

use super::Worker;
use crate::config::{Config, Liveness};
use crate::connection::{Connection, Delivery, Phase};
use crate::presence::{Now, Tick};
use crate::protocol::{Identity, Presence, Protocol};
use crate::websocket::PING;

/// How long a client may take to reply to a close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The settings of liveness: durations in ticks, rules by protocol.
#[derive(Debug, Clone)]
pub(super) struct Times {
    pub(super) ttl: Tick,
    pub(super) grace: Tick,
    /// A connection with a lease is pinged when it has been silent for this long: somewhat more than half the ttl, so
    /// that clients that send a heartbeat every half ttl are not pinged. With a long ttl it is the ping interval:
    /// proxies cut connections that are silent for longer.
    ping_after: Tick,
    pub(super) close_wait: Tick,
    /// The time for a whole message, from its first bytes on.
    pub(super) message_wait: Tick,
    /// Connections without a lease are pinged at this interval.
    ping_interval: Tick,
    /// One second, for the rate limit of messages and for pauses.
    pub(super) second: Tick,
    tick: Duration,
    /// By protocol: whether any frame renews the lease; if not, only commands do.
    any_frame_renews: Vec<bool>,
    /// By protocol: the time for the first message, if that joins.
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
            Identity::AtUpgrade { .. } | Identity::PerSubscription | Identity::Signed => None,
        };
        let ping_interval = config.ticks(config.presence.ping_interval);
        Self {
            ttl: config.ticks(config.presence.ttl),
            grace: config.ticks(config.presence.grace),
            ping_after: (half + (half / 10).max(1)).min(ping_interval),
            close_wait: config.ticks(CLOSE_WAIT),
            message_wait: config.ticks(config.limits.header_timeout),
            ping_interval,
            second: config.ticks(Duration::from_secs(1)),
            tick: config.presence.tick,
            any_frame_renews: rules.clone().map(|rules| any_frame_renews(rules.presence)).collect(),
            join_wait: rules.map(|rules| join_wait(&rules.identity)).collect(),
        }
    }

    /// A number of milliseconds in ticks, rounded up.
    pub(super) fn ticks_of(&self, millis: u64) -> Tick {
        u128::from(millis).saturating_mul(1_000_000).div_ceil(self.tick.as_nanos()) as Tick
    }

    /// Whether any frame renews the lease of a connection; if not, only commands do.
    pub(super) fn any_frame_renews(&self, protocol: Protocol) -> bool {
        self.any_frame_renews[protocol as usize]
    }

    /// The time that a connection has to join with its first message; `None` if it need not, or has done so.
    fn join_wait(&self, connection: &Connection) -> Option<Tick> {
        self.join_wait[connection.protocol as usize].filter(|_| connection.subscriptions.is_empty())
    }

    /// When to check a new connection.
    pub(super) fn first_check(&self, protocol: Protocol) -> Tick {
        match self.join_wait[protocol as usize] {
            Some(join_wait) => join_wait.min(self.ping_interval),
            None if protocol.rules().presence.is_lease() => self.ping_after,
            None => self.ping_interval,
        }
    }

    /// The longest time between two checks of a connection.
    pub(super) fn longest_check(&self) -> Tick {
        self.ttl.max(self.close_wait).max(self.ping_interval)
    }
}

impl Worker {
    /// Records that the client sent something, or read something that waited for it.
    pub(super) fn sign_of_life(&self, connection: &mut Connection, now: Now) {
        if self.times.join_wait(connection).is_some() {
            return; // Until the first message, silence is measured from the opening of the connection.
        }
        connection.heard(now.tick);
        if self.times.any_frame_renews(connection.protocol) {
            connection.sessions().for_each(|session| self.node.registry.renew(session, now));
        }
    }

    /// Checks one connection: closes it if its grant is over, or pings it if it is silent. Returns when to check it
    /// again, or `None` if it has been silent for too long.
    pub(super) fn check(&mut self, connection: &mut Connection, now: Tick) -> Option<Tick> {
        let grant_check = if connection.phase == Phase::Open { self.check_grant(connection, now) } else { None };
        let next = self.check_silence(connection, now)?;
        Some(grant_check.map_or(next, |grant_check| next.min(grant_check)))
    }

    fn check_silence(&mut self, connection: &mut Connection, now: Tick) -> Option<Tick> {
        if self.turns.is_waiting(connection.id.serial) || self.is_renewing(connection) {
            self.sign_of_life(connection, self.node.now()); // It is not read meanwhile.
        }
        let (silent, times) = (connection.silent_for(now), &self.times);
        if connection.phase != Phase::Open {
            return (silent < times.close_wait).then(|| now - silent + times.close_wait);
        }
        if let Some(join_wait) = times.join_wait(connection) {
            if silent >= join_wait {
                return Some(self.close_unnamed(connection, now));
            }
            return Some(now + (join_wait - silent).min(times.ping_interval));
        }
        let has_lease = connection.protocol.rules().presence.is_lease();
        // Without a lease, each check sends a ping. A client that was silent since the last check did not reply to it.
        let (ping_after, timeout) = if has_lease { (times.ping_after, times.ttl) } else { (0, times.ping_interval) };
        if silent > timeout {
            self.counters.connections_timed_out.add(1);
            return None;
        }
        if silent < ping_after {
            return Some(now - silent + ping_after);
        }
        // If the socket is full, no ping is sent: it would only wait behind the other bytes.
        let next = if has_lease { (now - silent + timeout + 1).min(now + ping_after) } else { now + timeout };
        if connection.deliver(&[&Bytes::from_static(PING)]) == Delivery::Accepted {
            self.note_blocked(connection);
        }
        Some(next)
    }

    /// Closes a connection that has not joined in time. Returns when to check it again.
    fn close_unnamed(&mut self, connection: &mut Connection, now: Tick) -> Tick {
        self.counters.connections_timed_out.add(1);
        let reason = match connection.protocol.rules().identity {
            Identity::FirstMessage { reason, .. } => reason,
            Identity::AtUpgrade { .. } | Identity::PerSubscription | Identity::Signed => "",
        };
        self.close(connection, connection.protocol.rules().close_codes.policy, reason);
        now + self.times.close_wait
    }
}
