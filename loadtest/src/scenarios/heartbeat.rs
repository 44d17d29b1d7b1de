//! `heartbeat`: R heartbeats a second over N clients, on a schedule that does not wait for the server.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::HeartbeatArgs;
use crate::connection::{Connection, Message, Offer};
use crate::crowd::{self, Crowd, Losses};
use crate::engine::Client;
use crate::interrupt::Interrupt;
use crate::latency::Latency;
use crate::loss::Loss;
use crate::probe::NANOS_PER_MICRO;
use crate::progress::Progress;
use crate::protocol::{Dialect, message_kind};
use crate::report::Report;
use crate::scenarios::acks::Acks;
use crate::scenarios::verify::{self, HeartbeatCount};
use crate::scenarios::window::{self, Mark, Window};
use crate::schedule::Schedule;

/// Nothing is read but the kind of a message.
const KEEP_BYTES: usize = 1024;
/// A heartbeat that leaves this much after its time is counted as late.
const LATE_AFTER: Duration = Duration::from_millis(1);
/// Sends between two looks at what came in, when behind.
const SENDS_PER_TURN: u64 = 64;
/// Of the heartbeats of the window; more than a few milliseconds of them.
const MAX_OWED_SHARE: f64 = 0.01;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Once no ack has come for this long, none will.
const QUIET_FOR: Duration = Duration::from_secs(5);
/// How long the server may take to answer the close frames.
const FAREWELL: Duration = Duration::from_secs(2);

/// What became of the heartbeats of one phase.
struct Tally {
    sent: u64,
    /// Due, but the connection took nothing: the server does not read, or it is gone.
    blocked: u64,
    late: u64,
    /// From the planned time to the write.
    send_delay: Latency,
}

/// Who hears the answers.
struct Listener {
    dialect: Dialect,
    losses: Losses,
    acks: Option<Acks>,
}

/// The sending side.
struct Sender {
    schedule: Schedule,
    /// Client indexes, shuffled: neighbours in time are not neighbours in the server.
    order: Vec<usize>,
    frame: Vec<u8>,
    started: Instant,
    /// The next heartbeat of the schedule.
    next: u64,
    tally: Tally,
}

pub(crate) fn run(args: &HeartbeatArgs, interrupt: &Interrupt) -> Result<Report> {
    args.check()?;
    let target = crowd::check(&args.crowd.server, args.crowd.connections as usize)?;
    let mut report = Report::new("heartbeat");
    window::record_crowd(&args.crowd, &mut report);
    window::record_run(&args.run, &mut report);
    report.set("rate_per_s", args.rate);
    report.set("ack", args.ack);
    report.set("slot_us", args.slot.as_micros() as u64);

    let mut crowd = Crowd::gather_alike(&args.crowd, target, KEEP_BYTES, interrupt)?;
    let mut listener = Listener { dialect: crowd.dialect, losses: Losses::default(), acks: None };
    verify::check_rooms(&args.crowd, "at first", &mut crowd, &mut listener, &mut report)?;
    let counted = HeartbeatCount::start(&args.crowd, &crowd.target, &mut report);

    let mut sender = Sender::new(args, &crowd);
    if crowd.dialect.answers(args.ack) {
        listener.acks = Some(Acks::new(crowd.size, sender.started, args.run.warm_up));
    }
    let (warm_up, window) = drive(args, &mut sender, &mut crowd, &mut listener, interrupt)?;
    let sent = warm_up.sent + sender.tally.sent;
    let owed = counted.owed(sent, &crowd.target);
    report.ended_early = interrupt.is_asked();
    window.describe(&crowd, &mut report);
    sender.describe(args, &warm_up, &window, &mut report);
    describe_owed(owed, sender.tally.sent, &mut report);

    listener.await_acks(sent, &mut crowd)?;
    if let Some(acks) = &listener.acks {
        acks.describe(sent, &mut report);
    }
    counted.check(sent, &mut crowd, &mut listener, &mut report)?;
    verify::check_rooms(&args.crowd, "at last", &mut crowd, &mut listener, &mut report)?;
    report.problems.extend(listener.losses.problem(crowd.size));
    crowd.engine.farewell(FAREWELL)?;
    Ok(report)
}

/// Warm-up and window. Returns what was sent before the window, and what passed in it.
fn drive(
    args: &HeartbeatArgs,
    sender: &mut Sender,
    crowd: &mut Crowd,
    listener: &mut Listener,
    interrupt: &Interrupt,
) -> Result<(Tally, Window)> {
    send_until(args.run.warm_up, "warm-up", sender, crowd, listener, interrupt)?;
    if interrupt.is_asked() {
        bail!("interrupted before the measured window began");
    }
    // What the warm-up could not send in its time is not owed to the window.
    sender.next = sender.next.max(sender.schedule.planned_before(nanos(args.run.warm_up)));
    let warm_up = std::mem::replace(&mut sender.tally, Tally::new());
    let start = Mark::now(&crowd.meter, crowd.engine.traffic())?;
    send_until(args.run.warm_up + args.run.duration, "heartbeats", sender, crowd, listener, interrupt)?;
    let window = start.until(&Mark::now(&crowd.meter, crowd.engine.traffic())?);
    Ok((warm_up, window))
}

fn send_until(
    end: Duration,
    label: &'static str,
    sender: &mut Sender,
    crowd: &mut Crowd,
    listener: &mut Listener,
    interrupt: &Interrupt,
) -> Result<()> {
    let end_ns = nanos(end);
    let mut progress = Progress::new(label, sender.schedule.planned_before(end_ns) - sender.next);
    let first = sender.next;
    loop {
        let elapsed_ns = nanos(sender.started.elapsed());
        if elapsed_ns >= end_ns || interrupt.is_asked() {
            break;
        }
        let due = sender.schedule.due(elapsed_ns);
        sender.send_due(due, crowd, listener);
        let wait = if sender.next < due { Duration::ZERO } else { sender.until_next(end_ns) };
        crowd.engine.turn(wait, listener)?;
        if crowd.engine.live() == 0 {
            bail!("all {} connections were lost: {}", crowd.size, listener.losses.examples.join("; "));
        }
        progress.set(sender.next - first);
    }
    progress.finish();
    Ok(())
}

impl Sender {
    fn new(args: &HeartbeatArgs, crowd: &Crowd) -> Self {
        let mut order: Vec<usize> = (0..crowd.size).collect();
        fastrand::Rng::with_seed(args.crowd.server.seed).shuffle(&mut order);
        let started = Instant::now();
        Self {
            schedule: Schedule::new(args.rate, nanos(args.slot)),
            order,
            frame: crowd.dialect.heartbeat(args.ack),
            started,
            next: 0,
            tally: Tally::new(),
        }
    }

    /// Sends what is due, but not so much that nobody reads meanwhile.
    fn send_due(&mut self, due: u64, crowd: &mut Crowd, listener: &mut Listener) {
        let end = due.min(self.next + SENDS_PER_TURN);
        while self.next < end {
            let planned_ns = self.schedule.planned_ns(self.next);
            let index = self.order[(self.next % self.order.len() as u64) as usize];
            self.next += 1;
            let delay_ns = nanos(self.started.elapsed()).saturating_sub(planned_ns);
            if crowd.engine.offer(index, &self.frame) != Offer::Taken {
                self.tally.blocked += 1;
                continue;
            }
            self.tally.sent += 1;
            self.tally.late += u64::from(delay_ns > nanos(LATE_AFTER));
            self.tally.send_delay.record_ns(delay_ns);
            if let Some(acks) = &mut listener.acks {
                acks.asked(index, planned_ns);
            }
        }
    }

    /// How long nothing is due.
    fn until_next(&self, end_ns: u64) -> Duration {
        let next_ns = self.schedule.planned_ns(self.next).min(end_ns);
        Duration::from_nanos(next_ns.saturating_sub(nanos(self.started.elapsed()))).min(LOOK_EVERY)
    }

    fn describe(&self, args: &HeartbeatArgs, warm_up: &Tally, window: &Window, report: &mut Report) {
        let warm_up_ns = nanos(args.run.warm_up);
        let planned_to = self.schedule.planned_before(warm_up_ns + nanos(window.length)).max(self.next);
        let asked = planned_to - self.schedule.planned_before(warm_up_ns);
        let Tally { sent, late, blocked, .. } = self.tally;
        let seconds = window.length.as_secs_f64();
        report.figure("asked_per_s", args.rate as f64, "heartbeats planned");
        report.figure("sent_per_s", sent as f64 / seconds, "heartbeats sent");
        report.figure("sent", sent as f64, "in the window");
        report.figure("sent_in_warm_up", warm_up.sent as f64, "not in the figures");
        report.figure("late", late as f64, "sent more than 1 ms after their time");
        report.figure("unsent", asked.saturating_sub(sent) as f64, "planned in the window and not sent");
        report.figure("blocked", blocked as f64, "of these: their connection took nothing");
        let per_heartbeat_us = |cpu_ns: u64| cpu_ns as f64 / NANOS_PER_MICRO / sent.max(1) as f64;
        if let Some(server) = window.server {
            report.figure(
                "server_cpu_per_heartbeat_us",
                per_heartbeat_us(server.ran_ns),
                "all threads, user and kernel",
            );
        }
        report.figure("generator_cpu_per_heartbeat_us", per_heartbeat_us(window.own.ran_ns), "");
        report.latency("send_delay", self.tally.send_delay.summary());
    }
}

/// A server that falls behind looks cheap: what it has not done yet costs nothing.
fn describe_owed(owed: Option<u64>, sent: u64, report: &mut Report) {
    let Some(owed) = owed else { return };
    report.figure("owed", owed as f64, "sent and not yet taken by the server when the window ended");
    if owed as f64 > sent as f64 * MAX_OWED_SHARE {
        report
            .notes
            .push("the server was behind when the window ended: its cost for each is higher than shown".to_owned());
    }
}

impl Tally {
    fn new() -> Self {
        Self { sent: 0, blocked: 0, late: 0, send_delay: Latency::new() }
    }
}

impl Listener {
    /// Waits for the answers that are still on their way, as long as some come.
    fn await_acks(&mut self, sent: u64, crowd: &mut Crowd) -> Result<()> {
        let mut last = 0;
        let mut changed = Instant::now();
        while let Some(answered) = self.acks.as_ref().map(Acks::answered) {
            if answered >= sent || changed.elapsed() > QUIET_FOR || crowd.engine.live() == 0 {
                break;
            }
            if answered != last {
                last = answered;
                changed = Instant::now();
            }
            crowd.engine.turn(LOOK_EVERY, self)?;
        }
        Ok(())
    }
}

impl Client for Listener {
    fn message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        let Some(acks) = &mut self.acks else { return };
        if message_kind(message.payload) == Some(self.dialect.answer_kind()) {
            acks.answer(connection.index(), Instant::now());
        }
    }

    fn closed(&mut self, index: usize, loss: Loss) {
        self.losses.add(&self.dialect.user(index), &loss);
    }
}

/// 584 years fit.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
