//! Storms of reloads: the connections of half of all members end at the same moment, and each member is back a moment
//! later. The other half must hear nothing of it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{POLL_INTERVAL, PusherRun};
use crate::error_log::ErrorLog;
use crate::interrupt::Interrupt;
use crate::procfs::NANOS_PER_MICRO;
use crate::pusher;
use crate::report::Report;
use crate::scenarios::window::Mark;
use crate::schedule::nanos;

/// The limit of connects between two reads.
const OPENS_PER_TURN: usize = 32;
/// A client whose attempt failed tries again after this time.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What all storms together cost.
struct StormTotals {
    reloads: u64,
    cpu_ns: u64,
    all_back: Vec<Duration>,
    failures: ErrorLog,
    /// Events about members that clients received.
    events: u64,
    false_leaves: u64,
}

impl PusherRun<'_> {
    pub(super) fn reloads(&mut self, interrupt: &Interrupt, report: &mut Report) -> Result<()> {
        let mut totals = StormTotals {
            reloads: 0,
            cpu_ns: 0,
            all_back: Vec::new(),
            failures: ErrorLog::default(),
            events: 0,
            false_leaves: 0,
        };
        for round in 0..self.args.reloads as usize {
            if interrupt.is_requested() {
                break;
            }
            self.storm(round, &mut totals, interrupt)?;
        }
        report.latency("reconnect_to_list", self.members.back.summary());
        totals.describe(report);
        Ok(())
    }

    fn storm(&mut self, round: usize, totals: &mut StormTotals, interrupt: &Interrupt) -> Result<()> {
        let rooms = self.args.rooms as usize;
        // Half of each channel.
        let reloads = move |client: usize| client / rooms % 2 == round % 2;
        self.start_round(|client| !reloads(client));
        let start = Mark::now(&self.clients.meter, self.clients.engine.traffic())?;
        let how = self.how_to_close();
        let (started, away_ns) = (Instant::now(), nanos(self.args.away));
        let mut waiting = Vec::new();
        for client in (0..self.args.members as usize).filter(|client| reloads(*client)) {
            self.clients.engine.close(client, how);
            self.members.mirrors.disconnected(client);
            let away_ns = self.random.u64(away_ns / 2..=away_ns * 3 / 2);
            waiting.push((started + Duration::from_nanos(away_ns), client));
        }
        let expected = waiting.len();
        totals.reloads += expected as u64;
        waiting.sort_unstable_by_key(|(due, _)| std::cmp::Reverse(*due));
        self.members.reconnecting = waiting.iter().map(|(due, client)| (*client, *due)).collect();
        while !self.members.reconnecting.is_empty() && !interrupt.is_requested() {
            if started.elapsed() > self.args.deadline {
                let (missing, examples) = (self.members.reconnecting.len(), totals.failures.examples());
                bail!("after {:?} {missing} of {expected} members were not back: {examples}", self.args.deadline);
            }
            let wait = self.open_due(&mut waiting)?;
            self.clients.engine.turn(wait, &mut self.members)?;
            // An attempt that failed is repeated.
            for (client, disconnect) in std::mem::take(&mut self.members.failed) {
                totals.failures.add(disconnect.to_string());
                waiting.insert(0, (Instant::now() + RETRY_AFTER, client));
            }
        }
        totals.all_back.push(started.elapsed());
        self.settle(interrupt)?;
        let window = start.until(&Mark::now(&self.clients.meter, self.clients.engine.traffic())?);
        totals.cpu_ns += window.server.map_or(0, |server| server.ran_ns);
        let (judgement, counts) = self.end_round(interrupt)?;
        totals.events += counts.events;
        totals.false_leaves += judgement.phantom_leaves;
        Ok(())
    }

    /// Opens the connections that are due, the next one last. Returns the time until the next.
    fn open_due(&mut self, waiting: &mut Vec<(Instant, usize)>) -> Result<Duration> {
        for _ in 0..OPENS_PER_TURN {
            let now = Instant::now();
            match waiting.last() {
                Some((due, client)) if *due <= now => {
                    let path = pusher::path(&self.clients.target.base_path);
                    self.clients.engine.open(*client, &path)?;
                    waiting.pop();
                }
                Some((due, _)) => return Ok((*due - now).min(POLL_INTERVAL)),
                None => return Ok(POLL_INTERVAL),
            }
        }
        Ok(Duration::ZERO)
    }
}

impl StormTotals {
    fn describe(mut self, report: &mut Report) {
        self.all_back.sort_unstable();
        let median = self.all_back.get(self.all_back.len() / 2).map_or(0.0, Duration::as_secs_f64);
        let reloads = self.reloads.max(1) as f64;
        report.figure("reloads", self.reloads as f64, "in all storms");
        report.figure("all_back_s", median, "until all members of a storm were back; median of the storms");
        report.figure("failed_attempts", self.failures.count as f64, "refused or broken, and repeated");
        report.figure("events_per_reload", self.events as f64 / reloads, "that clients received, in all");
        let meaning = "members that heard a leave of a member who reloaded, per reload";
        report.figure("false_leaves_per_reload", self.false_leaves as f64 / reloads, meaning);
        if self.cpu_ns > 0 {
            let cost_us = self.cpu_ns as f64 / NANOS_PER_MICRO / reloads;
            report.figure("server_cpu_per_reload_us", cost_us, "loss, handshake, join, and what others are sent");
        }
        if self.failures.count > 0 {
            report.notes.push(format!("failed attempts: {}", self.failures.examples()));
        }
    }
}
