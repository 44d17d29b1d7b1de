//! Grants on live connections: when they expire, and how they are renewed.
//!
//! A client sends a new token before the old one expires; for a grant of the application, the server asks again. Both
//! are verified on an HTTP thread, which answers through the mailbox. A connection that has sent a token is not read
//! meanwhile. The times of grants are those of the wall clock; the check of a silent connection only says when to look.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use foldhash::fast::RandomState;

use super::Worker;
use super::commands::Commands;
use super::price::Price;
use super::verifications::{RenewalId, RenewalJob, Verifications};
use crate::auth::{Action, Denied, Grant, NextCredential, Reason, RenewalRequest, Renewed};
use crate::connection::{Connection, ObserverState, Phase};
use crate::presence::Tick;
use crate::protocol::{Command, Refused};
use crate::websocket::close;

/// The application is asked again after this time if it did not answer.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);
/// A verification that takes longer counts as undecided.
const LONGEST_VERIFICATION: Duration = Duration::from_secs(10);
/// A connection is closed after this many refused tokens within [`FAILURES_WITHIN`].
const MAX_FAILURES: usize = 3;
const FAILURES_WITHIN: Duration = Duration::from_secs(60);

/// The renewals of a worker. Empty unless grants expire.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    /// The renewals that are being verified.
    verifications: Verifications,
    /// When the tokens of a connection were refused, by serial number.
    failures: HashMap<u32, Vec<Tick>, RandomState>,
    /// When the application was last asked about a connection that stays although it did not answer.
    asked: HashMap<u32, Tick, RandomState>,
}

impl Renewals {
    /// Whether a connection is not read because its token is being verified.
    pub(super) fn is_waiting(&self, serial: u32) -> bool {
        self.verifications.of(serial).is_some_and(|waiting| waiting.is_asked_by_client)
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&mut self, serial: u32) {
        self.verifications.forget(serial);
        self.failures.remove(&serial);
        self.asked.remove(&serial);
    }
}

/// What happens to a connection because of the age of its grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// Nothing before this time, in milliseconds since the Unix epoch.
    Valid { until_unix_ms: u64 },
    /// The application is asked again, now and at this time.
    Due { until_unix_ms: u64 },
    /// The connection is closed with this code and reason.
    Over(u16, &'static str),
}

/// The age of a grant that expires at this time, in seconds since the Unix epoch. The application is asked again about
/// sessions that it granted; a client sends new tokens itself.
fn age(expires_at: u32, is_session: bool, waits: Waits, unix_ms: u64) -> Age {
    let expires = u64::from(expires_at) * 1000;
    let until = |expires: u64, wait: Duration| expires.saturating_add(wait.as_millis() as u64);
    match is_session {
        false if unix_ms < until(expires, waits.expired) => Age::Valid { until_unix_ms: until(expires, waits.expired) },
        false => Age::Over(close::EXPIRED, "the token has expired"),
        true if unix_ms < expires => Age::Valid { until_unix_ms: expires },
        true if unix_ms < until(expires, waits.stale) => {
            Age::Due { until_unix_ms: until(unix_ms, RECHECK_INTERVAL).min(until(expires, waits.stale)) }
        }
        true => Age::Over(close::TRY_AGAIN, "the application did not confirm the session"),
    }
}

/// How long connections stay after their grants have expired.
#[derive(Debug, Clone, Copy)]
struct Waits {
    /// Those that began with a token.
    expired: Duration,
    /// Those that the application does not confirm.
    stale: Duration,
}

impl Worker {
    /// Has the token of a client verified, if it began with one.
    pub(super) fn renew(&mut self, connection: &mut Connection, token: &str) -> Result<(), Refused> {
        let began_with_token = self.grants.get(connection.id).is_some_and(|grant| grant.expires_at > 0)
            && self.grants.rechecked(connection.id).is_none();
        let Some(session) = connection.session().filter(|_| began_with_token) else { return Err(Refused::NoToken) };
        let user = Arc::clone(session.user());
        let address = self.addresses.of(connection);
        let credential = NextCredential::Token(token.into());
        self.verify(connection, RenewalRequest { user, credential, address }, true);
        connection.is_paused = true;
        Ok(())
    }

    fn verify(&mut self, connection: &Connection, request: RenewalRequest, is_asked_by_client: bool) {
        let deadline = self.node.now().tick + self.node.config.ticks(LONGEST_VERIFICATION);
        self.renewals.verifications.begin(connection.id, request, deadline, is_asked_by_client);
    }

    /// What is to be verified since the last call.
    pub(super) fn take_renewals(&mut self) -> Vec<RenewalJob> {
        self.renewals.verifications.take_jobs()
    }

    /// Whether a connection is not read because its token is being verified.
    pub(super) fn is_renewing(&self, connection: &Connection) -> bool {
        self.renewals.is_waiting(connection.id.serial)
    }

    /// Reads a connection again whose renewal is decided, unless it waits for something else.
    fn resume(&mut self, connection: &mut Connection) {
        if connection.is_paused && !self.is_pausing(connection) && !self.turns.is_waiting(connection.id.serial) {
            connection.is_paused = false;
            self.continue_later(connection);
        }
    }

    /// The next verification that takes too long.
    pub(super) fn next_overdue_renewal(&mut self, now: Tick) -> Option<RenewalId> {
        self.renewals.verifications.next_overdue(now)
    }

    /// Looks at the grant of a connection that is being checked. Closes the connection if the grant has been over for
    /// too long. Returns when to look again, if that is known.
    pub(super) fn check_grant(&mut self, connection: &mut Connection, now: Tick) -> Option<Tick> {
        let age = self.age_of_grant(connection)?;
        let unix_ms = self.node.now().unix_ms;
        let tick_at = |at: u64| now + self.times.ticks_of(at.saturating_sub(unix_ms)).max(1);
        match age {
            Age::Valid { until_unix_ms } => Some(tick_at(until_unix_ms)),
            Age::Due { until_unix_ms } => {
                let look_again = tick_at(until_unix_ms);
                self.recheck(connection, now);
                Some(look_again)
            }
            Age::Over(code, reason) => {
                self.counters.connections_expired.add(1);
                self.close(connection, code, reason);
                Some(now + self.times.close_wait)
            }
        }
    }

    /// The close code and the reason for a connection whose grant has been over for too long already when it opens.
    pub(super) fn is_grant_over(&self, connection: &Connection) -> Option<(u16, &'static str)> {
        match self.age_of_grant(connection)? {
            Age::Over(code, reason) => Some((code, reason)),
            Age::Valid { .. } | Age::Due { .. } => None,
        }
    }

    /// `None` if the connection has no grant, or one that does not expire.
    fn age_of_grant(&self, connection: &Connection) -> Option<Age> {
        let expires_at = self.grants.get(connection.id).map(|held| held.expires_at).filter(|at| *at > 0)?;
        let config = &self.node.config;
        let stale = config.callback.as_ref().map_or(Duration::ZERO, |callback| callback.stale);
        // A token that is accepted until the leeway ends must not be closed before.
        let leeway = config.tokens.as_ref().map_or(Duration::ZERO, |tokens| tokens.rules.leeway);
        let waits = Waits { expired: config.limits.expired_wait.max(leeway), stale };
        Some(age(expires_at, self.grants.rechecked(connection.id).is_some(), waits, self.node.now().unix_ms))
    }

    /// Asks the application again, unless it was asked a moment ago.
    fn recheck(&mut self, connection: &Connection, now: Tick) {
        let interval = self.node.config.ticks(RECHECK_INTERVAL);
        let serial = connection.id.serial;
        let asked = self.renewals.asked.get(&serial).is_some_and(|asked| now < asked + interval);
        let (Some(session), Some(user)) = (self.grants.rechecked(connection.id), connection.session()) else { return };
        if asked || self.renewals.verifications.of(serial).is_some() {
            return;
        }
        let request = RenewalRequest {
            user: Arc::clone(user.user()),
            credential: NextCredential::Session(session),
            address: None,
        };
        self.renewals.asked.insert(serial, now);
        self.verify(connection, request, false);
    }

    /// Whether the application has not confirmed the session of a connection in time: it may join no new rooms.
    pub(super) fn is_stale(&self, connection: &Connection) -> bool {
        !self.renewals.asked.is_empty() && self.renewals.asked.contains_key(&connection.id.serial)
    }

    /// Handles the result of a verification. The replies are sent by the caller.
    pub(super) fn renewed(
        &mut self,
        connection: &mut Connection,
        id: RenewalId,
        renewed: Renewed,
        replies: &mut BytesMut,
    ) {
        let Some(waiting) = self.renewals.verifications.end(id) else { return };
        if connection.phase != Phase::Open {
            return;
        }
        let other_issuer = || Denied::new(Reason::OtherUser, "the token is of another issuer");
        let is_same = |grant: &Arc<Grant>| self.grants.is_of_same_issuer(connection.id, grant);
        let renewed = renewed.and_then(|grant| if is_same(&grant) { Ok(grant) } else { Err(other_issuer()) });
        // It may have been revoked after it was checked.
        let renewed = renewed.and_then(|grant| self.unless_revoked(connection, grant));
        match renewed {
            Ok(grant) => self.accept_renewal(connection, &grant, waiting.is_asked_by_client, replies),
            Err(denied) if waiting.is_asked_by_client => self.refuse_renewal(connection, &denied, replies),
            // The connection stays for a while.
            Err(denied) if denied.reason == Reason::Undecided => {}
            Err(denied) => {
                self.counters.connections_expired.add(1);
                self.close(connection, close::POLICY, &denied.close_reason());
            }
        }
        self.resume(connection);
    }

    fn accept_renewal(&mut self, connection: &mut Connection, grant: &Arc<Grant>, tell: bool, replies: &mut BytesMut) {
        let former = self.grants.get(connection.id).and_then(|former| former.info.clone());
        if tell {
            self.charge(connection, Price::ACCEPTED_TOKEN);
        }
        self.renewals.asked.remove(&connection.id.serial);
        self.grants.set(connection.id, grant);
        self.end_forbidden(connection, grant);
        let info = match (&grant.info, former) {
            (None, Some(_)) => Some(grant.no_info(self.node.now().unix_ms)),
            (info, _) => info.clone(),
        };
        if let (Some(info), Some(session)) = (info, connection.session()) {
            let rooms = self.node.registry.set_info(session, &info, self.node.now());
            self.charge(connection, Price::of_info(&info, rooms));
        }
        if let Some(put) = connection.protocol.rules().renewed.filter(|_| tell) {
            let expires_in_ms = grant.expires_in_ms(self.node.now().unix_ms).unwrap_or_default();
            put(replies, Ok(expires_in_ms));
        }
    }

    fn refuse_renewal(&mut self, connection: &mut Connection, denied: &Denied, replies: &mut BytesMut) {
        let (now, within) = (self.node.now().tick, self.node.config.ticks(FAILURES_WITHIN));
        let failures = self.renewals.failures.entry(connection.id.serial).or_default();
        failures.retain(|failed| now < failed + within);
        failures.push(now);
        let is_over_limit = failures.len() >= MAX_FAILURES;
        if let Some(put) = connection.protocol.rules().renewed {
            put(replies, Err(&denied.message));
        }
        self.charge(connection, Price::REFUSED_TOKEN);
        if is_over_limit {
            self.reply(connection, replies);
            // 1008 would keep a client away whose token may be good.
            let is_undecided = denied.reason == Reason::Undecided;
            let code = if is_undecided { close::TRY_AGAIN } else { close::POLICY };
            self.close(connection, code, "too many refused tokens");
        }
    }

    /// Ends what a connection has that its new grant does not allow.
    fn end_forbidden(&mut self, connection: &mut Connection, grant: &Grant) {
        let may = |action, room: &str| grant.permissions.allow(action, room);
        let rooms: Vec<_> = connection.subscriptions.iter().map(|known| Arc::clone(known.room.name())).collect();
        for room in rooms {
            if !may(Action::Join, &room) {
                Commands::new(self, connection).end(Command::Leave { room: &room });
            }
            let known = connection.subscriptions.iter().find(|known| known.room.is_named(&room));
            let Some(audience) = known.filter(|known| known.state != ObserverState::Absent).map(|known| known.audience)
            else {
                continue;
            };
            let sees_numbers_only = connection.protocol.is_numbers_only(audience);
            if may(Action::Observe, &room) || sees_numbers_only && may(Action::Count, &room) {
                continue;
            }
            match connection.protocol.numbers_only(audience).filter(|_| may(Action::Count, &room)) {
                Some(numbers) => drop(self.fanout.observe(connection, &room, numbers, None)),
                None => Commands::new(self, connection).end(Command::Unobserve { room: &room }),
            }
        }
        let unwatched = self.fanout.watched_by(connection, |user| !grant.permissions.allow_watch(user));
        let users = unwatched.iter().map(|user| &**user).collect();
        Commands::new(self, connection).end(Command::Unwatch { users });
        self.fanout.permit_watching(connection, &grant.permissions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_time_after_it_expires_and_an_application_is_asked_then() {
        let waits = Waits { expired: Duration::from_secs(25), stale: Duration::from_secs(60) };
        let token = |unix_ms| age(100, false, waits, unix_ms);
        assert_eq!(token(99_000), Age::Valid { until_unix_ms: 125_000 });
        assert_eq!(token(124_999), Age::Valid { until_unix_ms: 125_000 });
        assert!(matches!(token(125_000), Age::Over(close::EXPIRED, _)));
        let session = |unix_ms| age(100, true, waits, unix_ms);
        assert_eq!(session(99_999), Age::Valid { until_unix_ms: 100_000 });
        assert_eq!(session(100_000), Age::Due { until_unix_ms: 110_000 });
        assert_eq!(session(155_000), Age::Due { until_unix_ms: 160_000 });
        assert!(matches!(session(160_000), Age::Over(close::TRY_AGAIN, _)));
    }
}
