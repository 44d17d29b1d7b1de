//! `storm`: all connections are reset at once and the clients reconnect, as after a deployment or a failure of a load
//! balancer. How long until all have rejoined, how many attempts failed, what did each connection cost?

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::StormArgs;
use crate::clients::{self, Clients, lost_of};
use crate::connection::{Client, Connection, Message};
use crate::disconnect::Disconnect;
use crate::engine::Close;
use crate::error_log::ErrorLog;
use crate::interrupt::Interrupt;
use crate::latency::Latency;
use crate::procfs::NANOS_PER_MICRO;
use crate::progress::Progress;
use crate::protocol::{ClientProtocol, Reaction, Role};
use crate::report::Report;
use crate::scenarios::server_checks;
use crate::scenarios::window::{self, Mark, Window};
use crate::schedule::nanos;

/// Only the kind of a message is read.
const KEEP_BYTES: usize = 1024;
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The limit of connects between two reads.
const OPENS_PER_TURN: usize = 32;
/// A client whose attempt failed tries again after this time.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How long the server may take to answer the close frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The clients of one round while they reconnect.
struct Reconnecting<'a> {
    protocol: ClientProtocol,
    role: Role,
    /// By client: when its current attempt started; `None` while it waits for its turn.
    started: Vec<Option<Instant>>,
    joined: Vec<bool>,
    joined_count: usize,
    /// When clients are due, the next one last.
    waiting: Vec<(Instant, usize)>,
    /// By client: when it was planned to reconnect.
    planned: Vec<Instant>,
    totals: &'a mut StormTotals,
}

/// Of all rounds.
struct StormTotals {
    /// From the connect until the client has joined; successful attempts only.
    connect_to_joined: Latency,
    /// From the planned reconnect until the client has joined, including failed attempts.
    reset_to_joined: Latency,
    failures: ErrorLog,
    /// Connections that ended after the client had joined.
    lost: ErrorLog,
}

pub(crate) fn run(args: &StormArgs, interrupt: &Interrupt) -> Result<Report> {
    args.clients.check()?;
    let server = &args.clients.server;
    let target = clients::check(server, args.clients.connections as usize)?;
    let mut report = Report::new("storm");
    window::record_clients(&args.clients, &mut report);
    report.set("rounds", args.rounds);
    report.set("spread_s", args.spread.as_secs_f64());

    let mut clients = Clients::connect_members(&args.clients, target, KEEP_BYTES, interrupt)?;
    let mut totals = StormTotals::new();
    clients.engine.turn_for(args.pause, &mut totals)?;
    let mut random = fastrand::Rng::with_seed(server.seed);
    let start = Mark::now(&clients.meter, clients.engine.traffic())?;
    let mut end = Mark::now(&clients.meter, clients.engine.traffic())?;
    let mut times = Vec::new();
    for round in 1..=args.rounds {
        let Some(time) = run_round(args, &mut clients, &mut totals, &mut random, interrupt)? else { break };
        times.push(time);
        eprintln!("round {round} of {}: all rejoined after {:.3} s", args.rounds, time.as_secs_f64());
        clients.engine.turn_for(args.pause, &mut totals)?;
        end = Mark::now(&clients.meter, clients.engine.traffic())?;
        if interrupt.is_requested() {
            break;
        }
    }
    if times.is_empty() {
        bail!("interrupted before the first round was complete");
    }
    // A round that was interrupted is included in the latencies, but not in the costs.
    let window = start.until(&end);
    report.ended_early = times.len() < args.rounds as usize;
    window.describe(&clients, &mut report);
    describe(&times, &totals, &clients, &window, &mut report);
    if clients.engine.live() == clients.size {
        server_checks::check_rooms(&args.clients, "after the storms", &mut clients, &mut totals, &mut report)?;
    }
    report.problems.extend(totals.lost.problem(&lost_of(clients.size * times.len())));
    clients.engine.close_all(CLOSE_TIMEOUT)?;
    Ok(report)
}

/// Resets all connections and waits until all clients have rejoined. `None`: it was interrupted.
fn run_round(
    args: &StormArgs,
    clients: &mut Clients,
    totals: &mut StormTotals,
    random: &mut fastrand::Rng,
    interrupt: &Interrupt,
) -> Result<Option<Duration>> {
    (0..clients.size).for_each(|index| clients.engine.close(index, Close::Reset));
    let started = Instant::now();
    let mut round = Reconnecting::new(args, clients, totals, started, random);
    let in_flight = args.clients.server.in_flight.map_or(usize::MAX, |limit| limit as usize);
    let mut progress = Progress::new("reconnecting", clients.size as u64);
    while round.joined_count < clients.size {
        if interrupt.is_requested() {
            return Ok(None);
        }
        if started.elapsed() > args.deadline {
            let (joined, examples) = (round.joined_count, round.totals.failures.examples());
            bail!("after {:?} only {joined} of {} clients had rejoined: {examples}", args.deadline, clients.size);
        }
        let wait = round.open_due(in_flight, clients)?;
        clients.engine.turn(wait, &mut round)?;
        progress.set(round.joined_count as u64);
    }
    progress.finish();
    Ok(Some(started.elapsed()))
}

impl<'a> Reconnecting<'a> {
    fn new(
        args: &StormArgs,
        clients: &Clients,
        totals: &'a mut StormTotals,
        started: Instant,
        random: &mut fastrand::Rng,
    ) -> Self {
        let spread_ns = nanos(args.spread);
        let planned: Vec<Instant> =
            (0..clients.size).map(|_| started + Duration::from_nanos(random.u64(..=spread_ns))).collect();
        let mut waiting: Vec<(Instant, usize)> = planned.iter().copied().zip(0..).collect();
        random.shuffle(&mut waiting);
        waiting.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Self {
            protocol: clients.protocol,
            role: Role::Member(args.clients.observe),
            started: vec![None; clients.size],
            joined: vec![false; clients.size],
            joined_count: 0,
            waiting,
            planned,
            totals,
        }
    }

    /// Opens the connections that are due. Returns the time until the next one.
    fn open_due(&mut self, in_flight: usize, clients: &mut Clients) -> Result<Duration> {
        for _ in 0..OPENS_PER_TURN {
            let pending = clients.engine.live() - self.joined_count;
            let Some((due, index)) = self.waiting.last().copied().filter(|_| pending < in_flight) else {
                return Ok(POLL_INTERVAL);
            };
            let now = Instant::now();
            if due > now {
                return Ok((due - now).min(POLL_INTERVAL));
            }
            self.waiting.pop();
            self.started[index] = Some(now);
            clients.engine.open(index, &self.protocol.path(&clients.target.base_path, index, self.role))?;
        }
        Ok(Duration::ZERO)
    }

    fn apply(&mut self, connection: &mut Connection, reaction: &Reaction) {
        if let Some(frame) = &reaction.send {
            connection.send(frame);
        }
        let index = connection.index();
        if reaction.is_ready && !self.joined[index] {
            self.joined[index] = true;
            self.joined_count += 1;
            let now = Instant::now();
            self.totals.reset_to_joined.record_ns(nanos(now - self.planned[index]));
            if let Some(started) = self.started[index] {
                self.totals.connect_to_joined.record_ns(nanos(now - started));
            }
        }
    }
}

impl Client for Reconnecting<'_> {
    fn opened(&mut self, connection: &mut Connection) {
        let reaction = self.protocol.on_open(connection.index());
        self.apply(connection, &reaction);
    }

    fn message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        if !self.joined[connection.index()] {
            let reaction = self.protocol.on_message(connection.index(), self.role, message.payload);
            self.apply(connection, &reaction);
        }
    }

    fn closed(&mut self, index: usize, disconnect: Disconnect) {
        let error = format!("{}: {disconnect}", self.protocol.user(index));
        if std::mem::take(&mut self.joined[index]) {
            self.joined_count -= 1;
            self.totals.lost.add(error);
        } else {
            self.totals.failures.add(error);
        }
        // The end of the queue, behind clients that have not tried yet.
        self.waiting.insert(0, (Instant::now() + RETRY_AFTER, index));
    }
}

impl StormTotals {
    fn new() -> Self {
        Self {
            connect_to_joined: Latency::new(),
            reset_to_joined: Latency::new(),
            failures: ErrorLog::default(),
            lost: ErrorLog::default(),
        }
    }
}

/// Between the rounds no connection may be lost.
impl Client for StormTotals {
    fn closed(&mut self, index: usize, disconnect: Disconnect) {
        self.lost.add(format!("client {index}: {disconnect}"));
    }
}

fn describe(times: &[Duration], totals: &StormTotals, clients: &Clients, window: &Window, report: &mut Report) {
    let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let reconnects = (clients.size * times.len()) as f64;
    report.figure("rounds", times.len() as f64, "in each, all connections were reset and all clients rejoined");
    report.figure("all_rejoined_s", median, "from the reset until all had rejoined; median of the rounds");
    report.figure("all_rejoined_min_s", seconds[0], "the fastest round");
    report.figure("all_rejoined_max_s", seconds[seconds.len() - 1], "the slowest round");
    report.figure("handshakes_per_s", clients.size as f64 / median, "in the median round");
    report.figure("failed_attempts", totals.failures.count as f64, "refused or broken before the join, and repeated");
    let per_reconnect_us = |cpu_ns: u64| cpu_ns as f64 / NANOS_PER_MICRO / reconnects;
    if let Some(server) = window.server {
        let meaning = "for its loss, handshake and join; includes the cost of idle connections in the pauses";
        report.figure("server_cpu_per_connection_us", per_reconnect_us(server.ran_ns), meaning);
    }
    report.figure("generator_cpu_per_connection_us", per_reconnect_us(window.own.ran_ns), "of this process");
    report.latency("connect_to_joined", totals.connect_to_joined.summary());
    report.latency("reset_to_joined", totals.reset_to_joined.summary());
    if totals.failures.count > 0 {
        report.notes.push(format!("failed attempts: {}", totals.failures.examples()));
    }
}
