//! Compares a run with the server's own counters: `/v1/stats` and the member counts of rooms, before and after the
//! load. A server that has neither is measured as well, and the report notes what was not checked.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cli::ClientArgs;
use crate::clients::Clients;
use crate::connection::Client;
use crate::http::get_json;
use crate::protocol::Protocol;
use crate::report::Report;
use crate::target::Target;

/// The last messages may still be in sockets. A number that has not changed for this long is final.
const QUIET_FOR: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The limit of rooms that are checked; each takes a request.
const ROOMS_CHECKED: usize = 64;

/// The server's heartbeat counter before the load.
pub(crate) struct HeartbeatCount {
    before: Option<u64>,
}

impl HeartbeatCount {
    /// Reads the counter, or notes in the report why there is none.
    pub(crate) fn start(args: &ClientArgs, target: &Target, report: &mut Report) -> Self {
        if args.server.no_verify {
            report.notes.push("the run was not compared with the server's counters (--no-verify)".to_owned());
            return Self { before: None };
        }
        if args.server.protocol == Protocol::Chat {
            return Self { before: None }; // Each of its pings is answered, which is checked instead.
        }
        let before = read_counter(target);
        if let Err(error) = &before {
            report.notes.push(format!("the server has no heartbeat counter: {error:#}"));
        }
        Self { before: before.ok() }
    }

    /// Whether the server has a counter.
    pub(crate) fn is_known(&self) -> bool {
        self.before.is_some()
    }

    /// How many of `sent` heartbeats the server has not processed at this moment.
    pub(crate) fn backlog(&self, sent: u64, target: &Target) -> Option<u64> {
        let counted = read_counter(target).ok()?.checked_sub(self.before?)?;
        Some(sent.saturating_sub(counted))
    }

    /// Waits until the server has counted `sent` heartbeats. Another number is a problem.
    pub(crate) fn check(
        &self,
        sent: u64,
        clients: &mut Clients,
        client: &mut impl Client,
        report: &mut Report,
    ) -> Result<()> {
        let Some(before) = self.before else {
            return Ok(());
        };
        let is_right = |now: u64| now == before + sent;
        match settle(clients, client, read_counter, is_right)? {
            Ok(now) if is_right(now) => {}
            Ok(now) => report
                .problems
                .push(format!("the server counted {} heartbeats; {sent} were sent", now.saturating_sub(before))),
            Err(error) => report.problems.push(format!("the server's counter can no longer be read: {error:#}")),
        }
        Ok(())
    }
}

/// Checks that every room has at least the members that joined it. Other users may be in it too.
pub(crate) fn check_rooms(
    args: &ClientArgs,
    when: &str,
    clients: &mut Clients,
    client: &mut impl Client,
    report: &mut Report,
) -> Result<()> {
    if args.server.no_verify || args.server.protocol != Protocol::Native {
        return Ok(());
    }
    let rooms = args.rooms as usize;
    for number in 0..rooms.min(ROOMS_CHECKED) {
        // Rooms are assigned round-robin, so the first rooms may have one member more.
        let expected = (clients.size / rooms + usize::from(number < clients.size % rooms)) as u64;
        let room = clients.protocol.room_name(number);
        let path = format!("/v1/rooms/{room}/count");
        let read = |target: &Target| number_at(target, &path, "count");
        let problem = match settle(clients, client, read, |count| count >= expected)? {
            Ok(count) if count >= expected => continue,
            Ok(count) => format!("{when}: {room} counts {count} members; {expected} have joined"),
            Err(error) => format!("{when}: the count of {room} cannot be read: {error:#}"),
        };
        // One wrong room suffices, and each takes QUIET_FOR.
        report.problems.push(problem);
        break;
    }
    Ok(())
}

/// Reads a number until it is right, or until it has not changed for QUIET_FOR. The outer error is the engine's, the
/// inner one the server's.
fn settle(
    clients: &mut Clients,
    client: &mut impl Client,
    read: impl Fn(&Target) -> Result<u64>,
    is_right: impl Fn(u64) -> bool,
) -> Result<Result<u64>> {
    let mut last = None;
    let mut changed = Instant::now();
    loop {
        let now = read(&clients.target);
        let known = now.as_ref().ok().copied();
        let is_final = changed.elapsed() > QUIET_FOR || clients.engine.live() == 0;
        if is_final || known.is_some_and(&is_right) {
            return Ok(now);
        }
        if known != last {
            last = known;
            changed = Instant::now();
        }
        clients.engine.turn_for(POLL_INTERVAL, client)?;
    }
}

fn read_counter(target: &Target) -> Result<u64> {
    number_at(target, "/v1/stats", "heartbeats")
}

/// A number of a JSON document of the server.
pub(super) fn number_at(target: &Target, path: &str, field: &str) -> Result<u64> {
    let value = get_json(target, path)?;
    value.get(field).and_then(Value::as_u64).with_context(|| format!("GET {path} has no number {field:?}"))
}
