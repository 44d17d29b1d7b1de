//! The server's own word: counters of `/v1/stats` and the counts of rooms, before and after. A server that
//! has neither is measured all the same, and the report says that nobody vouched for it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cli::CrowdArgs;
use crate::crowd::Crowd;
use crate::engine::Client;
use crate::http::get_json;
use crate::protocol::Protocol;
use crate::report::Report;
use crate::target::Target;

/// What was sent may still be in sockets. While the number moves the server is at work; after this it is not.
const QUIET_FOR: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Each takes a request; a thousand rooms are judged by the first of them.
const ROOMS_ASKED: usize = 64;

/// A counter of the server as it stood before the load.
pub(crate) struct HeartbeatCount {
    before: Option<u64>,
}

impl HeartbeatCount {
    /// Reads the counter, or notes why there is none.
    pub(crate) fn start(args: &CrowdArgs, target: &Target, report: &mut Report) -> Self {
        if args.server.no_verify {
            report.notes.push("not compared with the server's counters (--no-verify)".to_owned());
            return Self { before: None };
        }
        if args.server.protocol == Protocol::Chat {
            return Self { before: None }; // Its pings are questions, each of which is answered.
        }
        let before = read_counter(target);
        if let Err(error) = &before {
            report.notes.push(format!("the server has no heartbeat counter to compare with: {error:#}"));
        }
        Self { before: before.ok() }
    }

    /// How many of `sent` the server has not taken yet, at this moment. What it owes is not in its CPU time.
    pub(crate) fn owed(&self, sent: u64, target: &Target) -> Option<u64> {
        let counted = read_counter(target).ok()?.checked_sub(self.before?)?;
        Some(sent.saturating_sub(counted))
    }

    /// Waits until the server has counted `sent` more; a different number is a problem.
    pub(crate) fn check(
        &self,
        sent: u64,
        crowd: &mut Crowd,
        client: &mut impl Client,
        report: &mut Report,
    ) -> Result<()> {
        let Some(before) = self.before else {
            return Ok(());
        };
        let is_right = |now: u64| now == before + sent;
        match settle(crowd, client, read_counter, is_right)? {
            Ok(now) if is_right(now) => {}
            Ok(now) => report
                .problems
                .push(format!("the server counted {} heartbeats, {sent} were sent", now.saturating_sub(before))),
            Err(error) => report.problems.push(format!("the server's counter cannot be read any more: {error:#}")),
        }
        Ok(())
    }
}

/// Checks that every room holds at least the users who joined it; others may be there as well.
pub(crate) fn check_rooms(
    args: &CrowdArgs,
    when: &str,
    crowd: &mut Crowd,
    client: &mut impl Client,
    report: &mut Report,
) -> Result<()> {
    if args.server.no_verify || args.server.protocol != Protocol::Native {
        return Ok(());
    }
    let rooms = args.rooms as usize;
    for number in 0..rooms.min(ROOMS_ASKED) {
        // Users are dealt in turn, so the first rooms have one more when it does not come out even.
        let expected = (crowd.size / rooms + usize::from(number < crowd.size % rooms)) as u64;
        let room = crowd.dialect.room_name(number);
        let path = format!("/v1/rooms/{room}/count");
        let read = |target: &Target| number_at(target, &path, "count");
        let problem = match settle(crowd, client, read, |count| count >= expected)? {
            Ok(count) if count >= expected => continue,
            Ok(count) => format!("{when}: {room} counts {count} users, {expected} are in"),
            Err(error) => format!("{when}: the count of {room} cannot be read: {error:#}"),
        };
        // One wrong room is enough to know; the next would take its time as well.
        report.problems.push(problem);
        break;
    }
    Ok(())
}

/// Reads a number until it is right, or until it has not changed for a while. The outer error is ours.
fn settle(
    crowd: &mut Crowd,
    client: &mut impl Client,
    read: impl Fn(&Target) -> Result<u64>,
    is_right: impl Fn(u64) -> bool,
) -> Result<Result<u64>> {
    let mut last = None;
    let mut changed = Instant::now();
    loop {
        let now = read(&crowd.target);
        let known = now.as_ref().ok().copied();
        let over = changed.elapsed() > QUIET_FOR || crowd.engine.live() == 0;
        if over || known.is_some_and(&is_right) {
            return Ok(now);
        }
        if known != last {
            last = known;
            changed = Instant::now();
        }
        crowd.engine.turn_for(ASK_EVERY, client)?;
    }
}

fn read_counter(target: &Target) -> Result<u64> {
    number_at(target, "/v1/stats", "heartbeats")
}

fn number_at(target: &Target, path: &str, field: &str) -> Result<u64> {
    let value = get_json(target, path)?;
    value.get(field).and_then(Value::as_u64).with_context(|| format!("GET {path} has no number {field:?}"))
}
