//! `churn`, `rooms` and `soak`: people join and leave on a schedule while others look on. How soon do they see it, what does each
//! delivery cost, and does everybody know the truth in the end?

mod gallery;
mod moves;
mod plan;
mod residents;
mod truth;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::{ChurnArgs, SoakArgs};
use crate::crowd::{self, Crowd, Guests};
use crate::interrupt::Interrupt;
use crate::latency::Latency;
use crate::probe::NANOS_PER_MICRO;
use crate::progress::Progress;
use crate::protocol::{Observe, Role};
use crate::report::Report;
use crate::scenarios::keepalive::Keepalive;
use crate::scenarios::samples::Samples;
use crate::scenarios::window::{self, Mark, Window};
use crate::target::Target;
use gallery::{Deliveries, Gallery};
use moves::Moves;
use plan::Plan;
use residents::Residents;

/// A snapshot page has 1,000 members; a list of everybody has all.
const KEEP_BYTES: usize = 8 * 1024 * 1024;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A join that leaves this much after its time is counted as late.
const LATE_AFTER_NS: u64 = 1_000_000;
/// Joins and leaves between two looks at what came in, when behind.
const ACTS_PER_TURN: u64 = 32;
/// How long the server may take to answer the close frames.
const FAREWELL: Duration = Duration::from_secs(2);
/// A server that stands still for longer than somebody stays rightly shows nothing of it.
const MAX_MISSED_SHARE: f64 = 0.01;

const SKIPPED_NOTE: &str = "join_to_seen lacks the joins that slow readers found in snapshots instead";

/// Everybody, and what they do.
pub(crate) struct Stage {
    crowd: Crowd,
    gallery: Gallery,
    moves: Moves,
    keepalive: Option<Keepalive>,
    samples: Option<Samples>,
    observers: usize,
    observers_join: bool,
    plan: Plan,
    /// From the planned time to the write, in the window.
    send_delay: Latency,
}

pub(crate) fn run(scenario: &'static str, args: &ChurnArgs, interrupt: &Interrupt) -> Result<Report> {
    args.check()?;
    let target = crowd::check(&args.server, args.connections())?;
    let observed = args.observe_url.as_deref().map(|url| crowd::resolve("--observe-url", url)).transpose()?;
    let mut report = Report::new(scenario);
    record_settings(args, &mut report);
    let stage = Stage::set(args, 0, target, observed, interrupt)?;
    stage.play(args, interrupt, report)
}

/// Churn, and all else that happens to people, for long.
pub(crate) fn soak(args: &SoakArgs, interrupt: &Interrupt) -> Result<Report> {
    args.check()?;
    let churn = args.churn();
    let residents = args.residents as usize;
    let target = crowd::check(&args.server, churn.connections() + residents)?;
    let mut report = Report::new("soak");
    record_settings(&churn, &mut report);
    report.set("residents", args.residents);
    report.set("states_per_s", args.states);
    report.set("drops_per_s", args.drops);
    let mut stage = Stage::set(&churn, residents, target, None, interrupt)?;
    let (dialect, first_slot) = (stage.crowd.dialect, churn.connections());
    let base_path = &stage.crowd.target.base_path;
    stage.gallery.residents = Some(Residents::new(args, dialect, base_path, first_slot));
    stage.samples = Some(Samples::new(nanos(args.sample_every)));
    stage.play(&churn, interrupt, report)
}

fn record_settings(args: &ChurnArgs, report: &mut Report) {
    window::record_server(&args.server, report);
    window::record_run(&args.run, report);
    if let Some(url) = &args.observe_url {
        report.set("observe_url", url.as_str());
    }
    report.set("observers", args.observers);
    report.set("observers_join", args.observers_join);
    report.set("members", args.members);
    report.set("rate_per_s", args.rate);
    report.set("rooms", args.rooms);
    report.set("heartbeat_every_s", args.heartbeat_interval().map_or(0.0, |interval| interval.as_secs_f64()));
}

impl Stage {
    /// Connects everybody and has half of those who come and go be in.
    fn set(
        args: &ChurnArgs,
        residents: usize,
        target: Target,
        observed: Option<Target>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let (observers, half) = (args.observers as usize, args.members as usize);
        let looking = if args.observers_join { Role::Member(Observe::Members) } else { Role::Onlooker };
        let movers_end = args.connections();
        let role_of = move |index: usize| match index {
            index if index < observers => looking,
            index if index >= observers + half && index < movers_end => Role::Visitor,
            _ => Role::Member(Observe::None),
        };
        let connects = args.server.protocol.joins_by_connecting();
        let size = if connects { observers + half } else { movers_end + residents };
        let observers_at = observed.map(|observed| (observers, observed));
        let guests = Guests { size, rooms: args.rooms, role_of: &role_of, observers_at };
        let mut gallery = Gallery::new(guests.dialect(&args.server), observers, observers + half);
        let crowd = Crowd::gather(&args.server, &guests, target, KEEP_BYTES, &mut gallery, interrupt)?;
        let interval = args.heartbeat_interval();
        Ok(Self {
            moves: Moves::new(&crowd, observers, half, movers_end + residents),
            keepalive: interval.map(|interval| Keepalive::new(&crowd, movers_end + residents, interval)),
            crowd,
            gallery,
            observers,
            observers_join: args.observers_join || connects,
            samples: None,
            plan: Plan::new(args.rate, args.server.seed),
            send_delay: Latency::new(),
        })
    }

    /// The whole run, once everybody is there.
    fn play(mut self, args: &ChurnArgs, interrupt: &Interrupt, mut report: Report) -> Result<Report> {
        if !args.server.no_verify {
            truth::wait_for_a_clean_start(&mut self, args.patience(), interrupt)?;
        }
        let (window, deliveries, tally) = self.drive(args, interrupt)?;
        report.ended_early = interrupt.is_asked();
        window.describe(&self.crowd, &mut report);
        self.describe_moves(args, &tally, &window, &mut report);
        describe_deliveries(&deliveries, &window, &mut report);
        if let Some(samples) = self.samples.take() {
            samples.describe(&mut report);
        }
        if let Some(residents) = &mut self.gallery.residents {
            residents.come_back(u64::MAX, &mut self.crowd)?;
            report.figure("cut_off", residents.dropped as f64, "residents whose connections were reset");
            report.figure("states_changed", residents.changed as f64, "by residents");
        }
        truth::verify(&mut self, args.server.no_verify, args.patience(), &mut report)?;
        self.describe_end(&mut report);
        self.crowd.engine.farewell(FAREWELL)?;
        Ok(report)
    }

    /// Warm-up and window: what passed, what was delivered and what was sent in the window.
    fn drive(&mut self, args: &ChurnArgs, interrupt: &Interrupt) -> Result<(Window, Deliveries, moves::Tally)> {
        self.gallery.started = Instant::now();
        self.gallery.mirrors.begin();
        self.act_until(args.run.warm_up, "warm-up", interrupt)?;
        if interrupt.is_asked() {
            bail!("interrupted before the measured window began");
        }
        self.gallery.arrivals.window_start_ns = nanos(args.run.warm_up);
        self.send_delay = Latency::new();
        let start = Mark::now(&self.crowd.meter, self.crowd.engine.traffic())?;
        let (deliveries, tally) = (self.gallery.deliveries, self.moves.tally);
        self.act_until(args.run.warm_up + args.run.duration, "churn", interrupt)?;
        // A server that gets no CPU tells late. A window in which it tells nothing says nothing, so it ends with the first word.
        let ended = Instant::now();
        let is_silent =
            |stage: &Self| stage.gallery.deliveries.count == deliveries.count && stage.crowd.engine.live() > 0;
        while is_silent(self) && ended.elapsed() < args.patience() && !interrupt.is_asked() {
            self.listen(LOOK_EVERY)?;
        }
        let window = start.until(&Mark::now(&self.crowd.meter, self.crowd.engine.traffic())?);
        Ok((window, self.gallery.deliveries.since(deliveries), self.moves.tally.since(tally)))
    }

    fn act_until(&mut self, end: Duration, label: &'static str, interrupt: &Interrupt) -> Result<()> {
        let end_ns = nanos(end);
        let first = self.plan.done();
        let mut progress = Progress::new(label, self.plan.planned_before(end_ns).saturating_sub(first));
        loop {
            let elapsed_ns = nanos(self.gallery.started.elapsed());
            if elapsed_ns >= end_ns || interrupt.is_asked() {
                break;
            }
            self.act_on_what_is_due(elapsed_ns)?;
            let wait = self.until_next(end_ns);
            self.crowd.engine.turn(wait, &mut self.gallery)?;
            if self.crowd.engine.live() == 0 {
                bail!("all connections were lost: {}", self.gallery.losses.examples.join("; "));
            }
            progress.set(self.plan.done() - first);
        }
        progress.finish();
        Ok(())
    }

    fn act_on_what_is_due(&mut self, elapsed_ns: u64) -> Result<()> {
        for _ in 0..ACTS_PER_TURN {
            let Some((planned_ns, act)) = self.plan.take_due(elapsed_ns) else { break };
            let now_ns = nanos(self.gallery.started.elapsed());
            let delay_ns = now_ns.saturating_sub(planned_ns);
            self.moves.act(act, [planned_ns, now_ns], &mut self.crowd, &mut self.gallery.arrivals)?;
            self.moves.tally.late += u64::from(delay_ns > LATE_AFTER_NS);
            self.send_delay.record_ns(delay_ns);
        }
        if let Some(residents) = &mut self.gallery.residents {
            residents.act(elapsed_ns, &mut self.crowd)?;
        }
        if let Some(samples) = &mut self.samples {
            samples.look(elapsed_ns, &self.crowd.meter)?;
        }
        self.keep_alive();
        Ok(())
    }

    fn keep_alive(&mut self) {
        if let Some(keepalive) = &mut self.keepalive {
            keepalive.send_due(nanos(self.gallery.started.elapsed()), &mut self.crowd);
        }
    }

    /// Does nothing but stay alive and read.
    fn listen(&mut self, length: Duration) -> Result<()> {
        self.keep_alive();
        self.crowd.engine.turn_for(length, &mut self.gallery)
    }

    /// How long nothing is due; no time if something is.
    fn until_next(&self, end_ns: u64) -> Duration {
        let heartbeat_ns = self.keepalive.as_ref().map_or(u64::MAX, Keepalive::next_ns);
        let resident_ns = self.gallery.residents.as_ref().map_or(u64::MAX, Residents::next_ns);
        let next_ns = self.plan.next_ns().min(heartbeat_ns).min(resident_ns).min(end_ns);
        Duration::from_nanos(next_ns.saturating_sub(nanos(self.gallery.started.elapsed()))).min(LOOK_EVERY)
    }

    fn describe_moves(&self, args: &ChurnArgs, tally: &moves::Tally, window: &Window, report: &mut Report) {
        let moves::Tally { joins, leaves, blocked, late } = *tally;
        let seconds = window.length.as_secs_f64();
        report.figure("observers", f64::from(args.observers), "each with a mirror");
        report.figure("asked_per_s", 2.0 * f64::from(args.rate), "joins and leaves planned");
        report.figure("sent_per_s", (joins + leaves) as f64 / seconds, "joins and leaves sent");
        report.figure("late", late as f64, "sent more than 1 ms after their time");
        let asked = 2.0 * f64::from(args.rate) * seconds;
        report.figure(
            "unsent",
            (asked - (joins + leaves) as f64).floor().max(0.0),
            "planned in the window and not sent",
        );
        report.figure(
            "blocked",
            blocked as f64,
            "of these: their connection took nothing, or they had just come or gone",
        );
        report.latency("send_delay", self.send_delay.summary());
    }

    /// In a dialect of single events no number tells that one was left out, but all observers are there all the time.
    fn describe_missed(&self, seen: u64, report: &mut Report) {
        let sent = self.moves.tally.joins * self.observers as u64;
        let missed = sent.saturating_sub(seen) as f64;
        report.figure("joins_missed", missed, "of all joins sent, once for each observer that was not told");
        if missed > sent as f64 * MAX_MISSED_SHARE {
            report.problems.push(format!("observers were not told of {missed} of {sent} joins"));
        }
    }

    /// What is known only when the last change has been shown.
    fn describe_end(&self, report: &mut Report) {
        let arrivals = &self.gallery.arrivals;
        let latency = arrivals.latency.summary();
        report.figure("joins_seen", latency.count as f64, "times that an observer saw a join of the window");
        let never = arrivals.overtaken + arrivals.unseen() as u64;
        report.figure("joins_never_seen", never as f64, "shown to nobody");
        if never > 0 {
            let problem = format!("{never} joins were never shown to anybody, so the latencies lack them");
            report.problems.push(problem);
        }
        if let Some(skipped) = self.gallery.mirrors.skipped_forward() {
            let meaning = "snapshots unasked: the server left out what a slow reader missed";
            report.figure("skipped_forward", skipped as f64, meaning);
            report.notes.extend((skipped > 0).then(|| SKIPPED_NOTE.to_owned()));
        }
        if let Some(seen) = self.gallery.mirrors.joins_seen() {
            self.describe_missed(seen, report);
        }
        if let Some(repeated) = self.gallery.mirrors.repeated() {
            report.figure("repeated", repeated as f64, "events that told what was known, which changes nothing");
        }
        report.latency("join_to_seen", latency);
        let problems = [
            self.gallery.mirrors.complaints().problem("observers were told what cannot be"),
            self.gallery.refusals.problem("messages were refused"),
            self.gallery.losses.problem(self.crowd.size),
        ];
        report.problems.extend(problems.into_iter().flatten());
    }
}

fn describe_deliveries(deliveries: &Deliveries, window: &Window, report: &mut Report) {
    let Deliveries { count, bytes, changes, observed_bytes } = *deliveries;
    report.figure("deliveries", count as f64, "presence messages read in the window");
    report.figure("deliveries_per_s", count as f64 / window.length.as_secs_f64(), "");
    let each = |total: f64, of: u64| if of == 0 { 0.0 } else { total / of as f64 };
    report.figure("bytes_per_delivery", each(bytes as f64, count), "payload");
    report.figure("changes_delivered", changes as f64, "joins and leaves, once for each observer of their room");
    report.figure("bytes_per_change_and_observer", each(observed_bytes as f64, changes), "payload");
    let cost_us = |cpu_ns: u64| each(cpu_ns as f64 / NANOS_PER_MICRO, count);
    if let Some(server) = window.server {
        report.figure("server_cpu_per_delivery_us", cost_us(server.ran_ns), "all threads, user and kernel");
    }
    report.figure("generator_cpu_per_delivery_us", cost_us(window.own.ran_ns), "");
    if count == 0 {
        report.problems.push("observers were told nothing in the window".to_owned());
    }
}

/// 584 years fit.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
