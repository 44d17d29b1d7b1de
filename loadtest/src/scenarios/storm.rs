//! `storm`: all clients are cut off at once and come back, as after a deploy or a broken load balancer. How long until
//! everybody is in again, how many attempts failed, what did each connection cost?

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::StormArgs;
use crate::connection::{Connection, Message};
use crate::crowd::{self, Crowd, Losses};
use crate::engine::{Client, Close};
use crate::interrupt::Interrupt;
use crate::latency::Latency;
use crate::loss::Loss;
use crate::probe::NANOS_PER_MICRO;
use crate::progress::Progress;
use crate::protocol::{Dialect, Role, Step};
use crate::report::Report;
use crate::scenarios::verify;
use crate::scenarios::window::{self, Mark, Window};

/// Nothing is read but the kind of a message.
const KEEP_BYTES: usize = 1024;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Connects between two looks at what came in.
const OPENS_PER_TURN: usize = 32;
/// A client that was refused tries again after this time.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How long the server may take to answer the close frames.
const FAREWELL: Duration = Duration::from_secs(2);

/// The clients of one round, on their way back.
struct Return<'a> {
    dialect: Dialect,
    role: Role,
    /// By client: when its present attempt began; `None` while it waits for its turn.
    begun: Vec<Option<Instant>>,
    is_in: Vec<bool>,
    in_count: usize,
    /// When clients are due, the next one last.
    waiting: Vec<(Instant, usize)>,
    /// By client: when it was to come back.
    planned: Vec<Instant>,
    tally: &'a mut Tally,
}

/// Of all rounds.
struct Tally {
    /// From the connect to being in, of the attempts that succeeded.
    handshake: Latency,
    /// From the planned return to being in, failed attempts included.
    back: Latency,
    failures: Losses,
    /// Connections that ended although they were in.
    losses: Losses,
}

pub(crate) fn run(args: &StormArgs, interrupt: &Interrupt) -> Result<Report> {
    args.crowd.check()?;
    let server = &args.crowd.server;
    let target = crowd::check(server, args.crowd.connections as usize)?;
    let mut report = Report::new("storm");
    window::record_crowd(&args.crowd, &mut report);
    report.set("rounds", args.rounds);
    report.set("spread_s", args.spread.as_secs_f64());

    let mut crowd = Crowd::gather_alike(&args.crowd, target, KEEP_BYTES, interrupt)?;
    let mut tally = Tally {
        handshake: Latency::new(),
        back: Latency::new(),
        failures: Losses::default(),
        losses: Losses::default(),
    };
    crowd.engine.turn_for(args.pause, &mut tally)?;
    let mut random = fastrand::Rng::with_seed(server.seed);
    let start = Mark::now(&crowd.meter, crowd.engine.traffic())?;
    let mut end = Mark::now(&crowd.meter, crowd.engine.traffic())?;
    let mut times = Vec::new();
    for round in 1..=args.rounds {
        let Some(time) = come_back(args, &mut crowd, &mut tally, &mut random, interrupt)? else { break };
        times.push(time);
        eprintln!("round {round} of {}: all in after {:.3} s", args.rounds, time.as_secs_f64());
        crowd.engine.turn_for(args.pause, &mut tally)?;
        end = Mark::now(&crowd.meter, crowd.engine.traffic())?;
        if interrupt.is_asked() {
            break;
        }
    }
    if times.is_empty() {
        bail!("interrupted before everybody had come back once");
    }
    // A round that was cut short is in the latencies, and not in the costs.
    let window = start.until(&end);
    report.ended_early = times.len() < args.rounds as usize;
    window.describe(&crowd, &mut report);
    describe(&times, &tally, &crowd, &window, &mut report);
    if crowd.engine.live() == crowd.size {
        verify::check_rooms(&args.crowd, "after the storms", &mut crowd, &mut tally, &mut report)?;
    }
    report.problems.extend(tally.losses.problem(crowd.size * times.len()));
    crowd.engine.farewell(FAREWELL)?;
    Ok(report)
}

/// One round: cuts everybody off and waits until they are in again. `None` if it was interrupted.
fn come_back(
    args: &StormArgs,
    crowd: &mut Crowd,
    tally: &mut Tally,
    random: &mut fastrand::Rng,
    interrupt: &Interrupt,
) -> Result<Option<Duration>> {
    (0..crowd.size).for_each(|index| crowd.engine.close(index, Close::Abrupt));
    let started = Instant::now();
    let mut round = Return::new(args, crowd, tally, started, random);
    let in_flight = args.crowd.server.in_flight.map_or(usize::MAX, |limit| limit as usize);
    let mut progress = Progress::new("coming back", crowd.size as u64);
    while round.in_count < crowd.size {
        if interrupt.is_asked() {
            return Ok(None);
        }
        if started.elapsed() > args.deadline {
            let (in_count, examples) = (round.in_count, round.tally.failures.examples.join("; "));
            bail!("after {:?} only {in_count} of {} were in again: {examples}", args.deadline, crowd.size);
        }
        let wait = round.open_what_is_due(in_flight, crowd)?;
        crowd.engine.turn(wait, &mut round)?;
        progress.set(round.in_count as u64);
    }
    progress.finish();
    Ok(Some(started.elapsed()))
}

impl<'a> Return<'a> {
    fn new(
        args: &StormArgs,
        crowd: &Crowd,
        tally: &'a mut Tally,
        started: Instant,
        random: &mut fastrand::Rng,
    ) -> Self {
        let spread_ns = u64::try_from(args.spread.as_nanos()).unwrap_or(u64::MAX);
        let planned: Vec<Instant> =
            (0..crowd.size).map(|_| started + Duration::from_nanos(random.u64(..=spread_ns))).collect();
        let mut waiting: Vec<(Instant, usize)> = planned.iter().copied().zip(0..).collect();
        random.shuffle(&mut waiting);
        waiting.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Self {
            dialect: crowd.dialect,
            role: Role::Member(args.crowd.observe),
            begun: vec![None; crowd.size],
            is_in: vec![false; crowd.size],
            in_count: 0,
            waiting,
            planned,
            tally,
        }
    }

    /// Returns how long nobody is due.
    fn open_what_is_due(&mut self, in_flight: usize, crowd: &mut Crowd) -> Result<Duration> {
        for _ in 0..OPENS_PER_TURN {
            let on_their_way = crowd.engine.live() - self.in_count;
            let Some((due, index)) = self.waiting.last().copied().filter(|_| on_their_way < in_flight) else {
                return Ok(LOOK_EVERY);
            };
            let now = Instant::now();
            if due > now {
                return Ok((due - now).min(LOOK_EVERY));
            }
            self.waiting.pop();
            self.begun[index] = Some(now);
            crowd.engine.open(index, &self.dialect.path(&crowd.target.base_path, index, self.role))?;
        }
        Ok(Duration::ZERO)
    }

    fn apply(&mut self, connection: &mut Connection, step: &Step) {
        if let Some(frame) = &step.send {
            connection.push(frame);
        }
        let index = connection.index();
        if step.joined && !self.is_in[index] {
            self.is_in[index] = true;
            self.in_count += 1;
            let now = Instant::now();
            let nanos = |since: Instant| u64::try_from((now - since).as_nanos()).unwrap_or(u64::MAX);
            self.tally.back.record_ns(nanos(self.planned[index]));
            if let Some(begun) = self.begun[index] {
                self.tally.handshake.record_ns(nanos(begun));
            }
        }
    }
}

impl Client for Return<'_> {
    fn opened(&mut self, connection: &mut Connection) {
        let step = self.dialect.on_open(connection.index());
        self.apply(connection, &step);
    }

    fn message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        if !self.is_in[connection.index()] {
            let step = self.dialect.on_message(connection.index(), self.role, message.payload);
            self.apply(connection, &step);
        }
    }

    fn closed(&mut self, index: usize, loss: Loss) {
        let user = self.dialect.user(index);
        if std::mem::take(&mut self.is_in[index]) {
            self.in_count -= 1;
            self.tally.losses.add(&user, &loss);
        } else {
            self.tally.failures.add(&user, &loss);
        }
        // First in the vector is last in line, behind those who have not tried yet.
        self.waiting.insert(0, (Instant::now() + RETRY_AFTER, index));
    }
}

/// Between rounds nobody may go.
impl Client for Tally {
    fn closed(&mut self, index: usize, loss: Loss) {
        self.losses.add(&format!("client {index}"), &loss);
    }
}

fn describe(times: &[Duration], tally: &Tally, crowd: &Crowd, window: &Window, report: &mut Report) {
    let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let returned = (crowd.size * times.len()) as f64;
    report.figure("rounds", times.len() as f64, "all cut off with a reset, all back");
    report.figure("all_in_s", median, "from the cut until everybody was in again: median of the rounds");
    report.figure("all_in_min_s", seconds[0], "");
    report.figure("all_in_max_s", seconds[seconds.len() - 1], "");
    report.figure("handshakes_per_s", crowd.size as f64 / median, "in the median round");
    report.figure("failed_attempts", tally.failures.count as f64, "refused or broken before they were in, tried again");
    let each_us = |cpu_ns: u64| cpu_ns as f64 / NANOS_PER_MICRO / returned;
    if let Some(server) = window.server {
        let meaning = "to lose it, take it back and have it join; with what all of them cost in the pauses";
        report.figure("server_cpu_per_connection_us", each_us(server.ran_ns), meaning);
    }
    report.figure("generator_cpu_per_connection_us", each_us(window.own.ran_ns), "");
    report.latency("connect_to_in", tally.handshake.summary());
    report.latency("cut_to_in", tally.back.summary());
    if tally.failures.count > 0 {
        report.notes.push(format!("failed attempts: {}", tally.failures.examples.join("; ")));
    }
}
