//! `renew`: tokens of all connections end at the same moment, so all of them are renewed within a few seconds. What
//! does a renewal cost, and does an observer notice?

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;
use wire::frame;
use wire::room::{Diff, RoomMirror, Snapshot};
use wire::token::unix_s;

use super::server_checks::number_at;
use super::window::{self, Mark, Window};
use crate::cli::RenewArgs;
use crate::clients::{self, ClientSpec, Clients, lost_of};
use crate::connection::{Client, Connection, Message, SendOutcome};
use crate::credentials::Credentials;
use crate::disconnect::Disconnect;
use crate::error_log::ErrorLog;
use crate::interrupt::Interrupt;
use crate::latency::Latency;
use crate::procfs::NANOS_PER_MICRO;
use crate::progress::Progress;
use crate::protocol::{ClientProtocol, Observe, Role, message_kind};
use crate::report::Report;
use crate::schedule::nanos;

/// Longer than a page of a snapshot, and than a diff with all members.
const KEEP_BYTES: usize = 4 << 20;
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// What the connections cost without renewals is measured for this long before.
const CALM: Duration = Duration::from_secs(2);
/// The limit of sends between two reads.
const SENDS_PER_TURN: usize = 64;
/// How long the server may take to answer the close frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &RenewArgs, interrupt: &Interrupt) -> Result<Report> {
    args.check()?;
    let (members, size) = (args.connections as usize, (args.connections + args.observers) as usize);
    let mut target = clients::check(&args.server, size)?;
    let end_s = unix_s() + args.lifetime.as_secs();
    let lasting = target.credentials.clone();
    target.credentials.valid_until_s = Some(end_s);
    let mut report = Report::new("renew");
    window::record_server(&args.server, &mut report);
    report.set("connections", args.connections);
    report.set("observers", args.observers);
    report.set("lifetime_s", args.lifetime.as_secs());
    report.set("within_s", args.within.as_secs_f64());
    report.set("stay_s", args.stay.as_secs_f64());

    let role_of = |index: usize| if index < members { Role::Member(Observe::None) } else { Role::Observer };
    let spec = ClientSpec { size, rooms: 1, role_of: &role_of, observers_at: None };
    let mut audience = Audience::new(spec.protocol(&args.server), members, args.observers as usize);
    let mut clients = Clients::connect(&args.server, &spec, target, KEEP_BYTES, &mut audience, interrupt)?;
    audience.wait_until_complete(args.deadline, &mut clients, interrupt)?;

    let calm = Span::begin(&clients)?;
    turn_until(Instant::now() + CALM, &mut clients, &mut audience, interrupt)?;
    let calm = calm.end(&clients)?;
    audience.is_watching = true;
    let span = Span::begin(&clients)?;
    renew_all(args, &lasting, &mut clients, &mut audience, interrupt)?;
    let span = span.end(&clients)?;
    let left_s = end_s.saturating_sub(unix_s());
    if !args.stay.is_zero() {
        let end = Instant::now() + Duration::from_secs(left_s) + args.stay;
        turn_until(end, &mut clients, &mut audience, interrupt)?;
    }
    report.ended_early = interrupt.is_requested();
    span.window.describe(&clients, &mut report);
    describe(&audience, &calm, &span, size, &mut report);
    report.figure("left_before_end_s", left_s as f64, "from the last renewal until the first tokens ended; 0: later");
    report.problems.extend(audience.problems(size));
    clients.engine.close_all(CLOSE_TIMEOUT)?;
    Ok(report)
}

/// CPU time and ticks of a part of the run.
struct Span<W> {
    window: W,
    ticks: Option<u64>,
}

fn ticks(clients: &Clients) -> Option<u64> {
    number_at(&clients.target, "/v1/stats", "ticks").ok()
}

impl Span<Mark> {
    fn begin(clients: &Clients) -> Result<Self> {
        let ticks = ticks(clients);
        Ok(Self { window: Mark::now(&clients.meter, clients.engine.traffic())?, ticks })
    }

    fn end(self, clients: &Clients) -> Result<Span<Window>> {
        let window = self.window.until(&Mark::now(&clients.meter, clients.engine.traffic())?);
        Ok(Span { window, ticks: self.ticks.zip(ticks(clients)).map(|(before, after)| after - before) })
    }
}

impl Span<Window> {
    fn cores(&self) -> Option<f64> {
        self.window.server.map(|server| server.ran_ns as f64 / nanos(self.window.length) as f64)
    }

    fn ticks_per_s(&self) -> Option<f64> {
        self.ticks.map(|ticks| ticks as f64 / self.window.length.as_secs_f64())
    }
}

fn turn_until(end: Instant, clients: &mut Clients, audience: &mut Audience, interrupt: &Interrupt) -> Result<()> {
    while !interrupt.is_requested() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        clients.engine.turn(left.min(POLL_INTERVAL), audience)?;
    }
    Ok(())
}

/// Sends another token on each connection at its moment, and waits for all answers.
fn renew_all(
    args: &RenewArgs,
    lasting: &Credentials,
    clients: &mut Clients,
    audience: &mut Audience,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(args.server.seed);
    let mut due: Vec<(u64, usize)> =
        (0..clients.size).map(|index| (random.u64(..=nanos(args.within)), index)).collect();
    due.sort_unstable();
    audience.planned_ns = vec![0; clients.size];
    due.iter().for_each(|(planned_ns, index)| audience.planned_ns[*index] = *planned_ns);
    audience.started = Instant::now();
    let (mut next, mut progress) = (0, Progress::new("renewals", clients.size as u64));
    while audience.answered() < clients.size as u64 && !interrupt.is_requested() {
        if audience.started.elapsed() > args.within + args.deadline {
            bail!("only {} of {} renewals were answered", audience.answered(), clients.size);
        }
        let elapsed_ns = nanos(audience.started.elapsed());
        let first = next;
        while next < due.len() && next < first + SENDS_PER_TURN && due[next].0 <= elapsed_ns {
            let index = due[next].1;
            let token = lasting.token(&clients.protocol.user(index)).unwrap_or_default();
            let message = json!({"type": "auth", "token": token}).to_string();
            if clients.engine.try_send(index, &frame::masked(frame::TEXT, message.as_bytes())) != SendOutcome::Sent {
                audience.lost.add(format!("{}: its socket is full or closed", clients.protocol.user(index)));
            }
            next += 1;
        }
        let wait = match due.get(next) {
            Some((planned_ns, _)) => Duration::from_nanos(planned_ns.saturating_sub(elapsed_ns)).min(POLL_INTERVAL),
            None => POLL_INTERVAL,
        };
        clients.engine.turn(wait, audience)?;
        progress.set(audience.answered());
        if clients.engine.live() < clients.size {
            bail!("connections were lost: {}", audience.lost.examples());
        }
    }
    progress.finish();
    Ok(())
}

fn describe(audience: &Audience, calm: &Span<Window>, span: &Span<Window>, size: usize, report: &mut Report) {
    report.figure("renewals", audience.answered() as f64, "tokens that the server accepted in the window");
    if let Some((server, calm_cores)) = span.window.server.zip(calm.cores()) {
        let idle_ns = calm_cores * nanos(span.window.length) as f64;
        let per_renewal_us = (server.ran_ns as f64 - idle_ns).max(0.0) / NANOS_PER_MICRO / size as f64;
        let meaning = "signature, claims and answer; without what the connections cost in the calm before";
        report.figure("server_cpu_per_renewal_us", per_renewal_us, meaning);
        report.figure("server_cpu_cores_before", calm_cores, "in the calm before the renewals");
    }
    if let Some((ticks, before)) = span.ticks_per_s().zip(calm.ticks_per_s()) {
        report.figure("ticks_per_s", ticks, "completed by the server while tokens were renewed");
        report.figure("ticks_per_s_before", before, "in the calm before");
    }
    let meaning = "joins, leaves and updates that observers received since the renewals began; each is a problem";
    report.figure("changes_seen", audience.changes.count as f64, meaning);
    report.latency("renewal", audience.round_trip.summary());
}

/// All clients, and what the observers know.
struct Audience {
    protocol: ClientProtocol,
    members: usize,
    mirrors: Vec<RoomMirror>,
    /// Since the renewals began, nothing may change.
    is_watching: bool,
    started: Instant,
    /// By client: when its renewal was due. Empty before.
    planned_ns: Vec<u64>,
    round_trip: Latency,
    accepted: u64,
    changes: ErrorLog,
    refused: ErrorLog,
    wrong: ErrorLog,
    lost: ErrorLog,
}

impl Audience {
    fn new(protocol: ClientProtocol, members: usize, observers: usize) -> Self {
        Self {
            protocol,
            members,
            mirrors: vec![RoomMirror::default(); observers],
            is_watching: false,
            started: Instant::now(),
            planned_ns: Vec::new(),
            round_trip: Latency::new(),
            accepted: 0,
            changes: ErrorLog::default(),
            refused: ErrorLog::default(),
            wrong: ErrorLog::default(),
            lost: ErrorLog::default(),
        }
    }

    fn answered(&self) -> u64 {
        self.accepted + self.refused.count
    }

    /// Waits until every observer knows all members.
    fn wait_until_complete(&mut self, deadline: Duration, clients: &mut Clients, interrupt: &Interrupt) -> Result<()> {
        let begin = Instant::now();
        while !self.mirrors.iter().all(|mirror| mirror.members.len() >= self.members) {
            let known = self.mirrors.iter().map(|mirror| mirror.members.len()).min().unwrap_or(0);
            if begin.elapsed() > deadline || interrupt.is_requested() || self.wrong.count > 0 {
                bail!("an observer knows {known} of {} members: {}", self.members, self.wrong.examples());
            }
            clients.engine.turn(POLL_INTERVAL, self)?;
        }
        Ok(())
    }

    fn observe(&mut self, index: usize, kind: &str, payload: &[u8]) -> Result<(), String> {
        let user = self.protocol.user(index);
        let mirror = &mut self.mirrors[index - self.members];
        if kind == "snapshot" {
            let page: Snapshot<'_> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
            if self.is_watching {
                self.changes.add(format!("{user} received another snapshot"));
            }
            return mirror.apply_page(&page).map(drop);
        }
        let diff: Diff<'_> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        if self.is_watching {
            for _ in 0..diff.changes() {
                self.changes.add(format!("{user} received {}", String::from_utf8_lossy(payload)));
            }
        }
        mirror.apply_diff(&diff)
    }

    fn problems(&self, size: usize) -> Vec<String> {
        let known = self.mirrors.iter().find(|mirror| mirror.members.len() != self.members);
        let mut problems: Vec<_> = [
            self.changes.problem("changes were seen by observers"),
            self.refused.problem("renewals were refused"),
            self.wrong.problem("messages to observers were wrong"),
            self.lost.problem(&lost_of(size)),
        ]
        .into_iter()
        .flatten()
        .collect();
        problems
            .extend(known.map(|mirror| format!("a mirror has {} of {} members", mirror.members.len(), self.members)));
        problems
    }
}

impl Client for Audience {
    fn message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        let index = connection.index();
        match message_kind(message.payload) {
            Some("authenticated") => {
                self.accepted += 1;
                let planned_ns = self.planned_ns.get(index).copied().unwrap_or_default();
                self.round_trip.record_ns(nanos(self.started.elapsed()).saturating_sub(planned_ns));
            }
            Some("error") => self.refused.add(String::from_utf8_lossy(message.payload).into_owned()),
            Some(kind @ ("snapshot" | "diff")) if index >= self.members => {
                let kind = kind.to_owned();
                if let Err(error) = self.observe(index, &kind, message.payload) {
                    self.wrong.add(format!("{}: {error}", self.protocol.user(index)));
                }
            }
            _ => {}
        }
    }

    fn closed(&mut self, index: usize, disconnect: Disconnect) {
        self.lost.add(format!("{}: {disconnect}", self.protocol.user(index)));
    }
}
