//! `pusher`: members of presence channels of the Pusher protocol. Some come and go while all others hear of it; then
//! half of all reload at once. What does it cost, and is each client told the truth?

mod members;
mod mirror;
mod reloads;
mod visits;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::{PusherArgs, Reload};
use crate::clients::{self, ClientSpec, Clients, lost_of};
use crate::engine::Close;
use crate::interrupt::Interrupt;
use crate::protocol::{Observe, Protocol, Role};
use crate::report::Report;
use crate::scenarios::window::{self, Mark};
use members::Members;
use mirror::{Judgement, RoundCounts};

/// A list has all members of its channel.
const KEEP_BYTES: usize = 1024 * 1024;
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long the server may take to answer the close frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// One run: all clients, what they know, and the judgements so far.
struct PusherRun<'a> {
    args: &'a PusherArgs,
    clients: Clients,
    members: Members,
    /// Counts of all rounds. The lists are compared at the end of the last round.
    judged: Judgement,
    counted: RoundCounts,
    random: fastrand::Rng,
}

pub(crate) fn run(args: &PusherArgs, interrupt: &Interrupt) -> Result<Report> {
    let mut args = args.clone();
    args.server.protocol = Protocol::Pusher;
    args.check()?;
    let target = clients::check(&args.server, args.connections())?;
    let mut report = Report::new("pusher");
    record_settings(&args, &mut report);
    let member_count = args.members as usize;
    let role_of = |index| if index < member_count { Role::Member(Observe::Members) } else { Role::NoRoom };
    let spec = ClientSpec { size: args.connections(), rooms: args.rooms, role_of: &role_of, observers_at: None };
    let mut members = Members::new(spec.protocol(&args.server), spec.size, member_count);
    (0..member_count).for_each(|member| members.mirrors.joins(member));
    let clients = Clients::connect(&args.server, &spec, target, KEEP_BYTES, &mut members, interrupt)?;
    members.has_started = true;
    let random = fastrand::Rng::with_seed(args.server.seed);
    let (judged, counted) = (Judgement::default(), RoundCounts::default());
    let mut run = PusherRun { args: &args, clients, members, judged, counted, random };
    run.drive(interrupt, &mut report)?;
    run.clients.engine.close_all(CLOSE_TIMEOUT)?;
    Ok(report)
}

fn record_settings(args: &PusherArgs, report: &mut Report) {
    window::record_server(&args.server, report);
    report.set("members", args.members);
    report.set("rooms", args.rooms);
    report.set("visitors", args.visitors);
    report.set("rate_per_s", args.rate);
    report.set("duration_s", args.duration.as_secs_f64());
    report.set("reloads", args.reloads);
    report.set("reload", if args.reload == Reload::Page { "page" } else { "reset" });
    report.set("away_s", args.away.as_secs_f64());
    report.set("pause_s", args.pause.as_secs_f64());
}

impl PusherRun<'_> {
    fn drive(&mut self, interrupt: &Interrupt, report: &mut Report) -> Result<()> {
        self.settle(interrupt)?;
        let start = Mark::now(&self.clients.meter, self.clients.engine.traffic())?;
        let first = self.members.mirrors.judge();
        if first.absent + first.ghosts > 0 {
            report.problems.push(format!("the first lists are wrong: {first:?}"));
        }
        if self.args.rate > 0 {
            self.visits(interrupt, report)?;
        }
        if self.args.reloads > 0 {
            self.reloads(interrupt, report)?;
        }
        let window = start.until(&Mark::now(&self.clients.meter, self.clients.engine.traffic())?);
        report.ended_early = interrupt.is_requested();
        window.describe(&self.clients, report);
        self.describe(report);
        Ok(())
    }

    /// Starts a round in which members for which `watches` is true are judged.
    fn start_round(&mut self, watches: impl Fn(usize) -> bool) {
        let members = self.args.members as usize;
        self.members.mirrors.start_round(|client| client < members && watches(client));
    }

    /// Waits until every watcher has heard of everything, then for late events, and judges.
    fn end_round(&mut self, interrupt: &Interrupt) -> Result<(Judgement, RoundCounts)> {
        self.settle(interrupt)?;
        self.clients.engine.turn_for(self.args.pause, &mut self.members)?;
        self.settle(interrupt)?;
        let (judgement, counts) = (self.members.mirrors.judge(), self.members.mirrors.counts);
        self.judged.missing += judgement.missing;
        self.judged.phantom_joins += judgement.phantom_joins;
        self.judged.phantom_leaves += judgement.phantom_leaves;
        (self.judged.absent, self.judged.ghosts) = (judgement.absent, judgement.ghosts);
        self.counted.events += counts.events;
        self.counted.duplicates += counts.duplicates;
        self.counted.resyncs += counts.resyncs;
        Ok((judgement, counts))
    }

    /// Waits until nothing is missing, or until the pause is over.
    fn settle(&mut self, interrupt: &Interrupt) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < self.args.pause && !interrupt.is_requested() {
            self.clients.engine.turn_for(POLL_INTERVAL, &mut self.members)?;
            let judgement = self.members.mirrors.judge();
            if judgement.missing + judgement.absent + judgement.ghosts == 0 {
                break;
            }
            if self.clients.engine.live() == 0 {
                bail!("all connections were lost: {}", self.members.lost.examples());
            }
        }
        Ok(())
    }

    fn how_to_close(&self) -> Close {
        match self.args.reload {
            Reload::Page => Close::GoingAway,
            Reload::Reset => Close::Reset,
        }
    }

    fn describe(&self, report: &mut Report) {
        let Judgement { missing, phantom_joins, phantom_leaves, absent, ghosts } = self.judged;
        let meaning = "joins and leaves, counted per member that did not hear of them";
        report.figure("missing_events", missing as f64, meaning);
        report.figure("duplicate_events", self.counted.duplicates as f64, "events that contradict the client's list");
        let meaning = "joins and leaves that did not happen, counted per member that heard of them";
        report.figure("phantom_events", (phantom_joins + phantom_leaves) as f64, meaning);
        report.figure("false_leaves", phantom_leaves as f64, "leaves among them");
        report.figure("absent_at_end", absent as f64, "members that lists lack at the end");
        report.figure("ghosts_at_end", ghosts as f64, "users in lists at the end who are not members");
        report.figure("resyncs", self.counted.resyncs as f64, "lists that replaced another one");
        let problems = [
            self.members.errors.problem("errors of the server"),
            self.members.lost.problem(&lost_of(self.clients.size)),
        ];
        report.problems.extend(problems.into_iter().flatten());
    }
}
