//! `heartbeat`: R heartbeats per second over N clients, on a schedule that does not wait for the server.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::HeartbeatArgs;
use crate::clients::{self, Clients, lost_of};
use crate::connection::{Client, Connection, Message, SendOutcome};
use crate::disconnect::Disconnect;
use crate::error_log::ErrorLog;
use crate::interrupt::Interrupt;
use crate::latency::Latency;
use crate::procfs::NANOS_PER_MICRO;
use crate::progress::Progress;
use crate::protocol::{ClientProtocol, Protocol, message_kind};
use crate::report::Report;
use crate::scenarios::acks::Acks;
use crate::scenarios::server_checks::{self, HeartbeatCount};
use crate::scenarios::window::{self, Mark, Window};
use crate::schedule::{Schedule, nanos};

/// Only the kind of a message is read.
const KEEP_BYTES: usize = 1024;
/// A heartbeat that is sent this much after its planned time counts as late.
const LATE_AFTER: Duration = Duration::from_millis(1);
/// The limit of sends between two reads, when the generator is behind.
const SENDS_PER_TURN: u64 = 64;
/// The limit of the backlog, as a share of the window's heartbeats; more than a few milliseconds of them.
const MAX_BACKLOG_SHARE: f64 = 0.01;
/// The number of heartbeats per second that ask for an ack without `--ack`: enough for percentiles, too few to change
/// the cost.
const SAMPLED_ACKS_PER_S: u64 = 20;
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// If no ack arrives for this long, none will. A server without CPU is silent for seconds.
const QUIET_FOR: Duration = Duration::from_secs(30);
/// How long the server may take to answer the close frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Counts of heartbeats in one phase.
struct HeartbeatCounts {
    sent: u64,
    /// Due and not sent: the socket was full or closed.
    blocked: u64,
    late: u64,
    /// From the planned time until the write.
    send_delay: Latency,
}

/// The receiving side: acks and lost connections.
struct AckClient {
    protocol: ClientProtocol,
    lost: ErrorLog,
    acks: Option<Acks>,
}

/// The sending side.
struct Sender {
    schedule: Schedule,
    /// Client indexes in random order, so that heartbeats that follow each other are not of neighbors in the server's
    /// memory.
    order: Vec<usize>,
    frame: Vec<u8>,
    /// Of the heartbeats that ask for an ack.
    asking_frame: Vec<u8>,
    /// The number of heartbeats per ack, if any heartbeat asks for one.
    ask_every: Option<u64>,
    started: Instant,
    /// The number of the next heartbeat.
    next: u64,
    counts: HeartbeatCounts,
}

pub(crate) fn run(args: &HeartbeatArgs, interrupt: &Interrupt) -> Result<Report> {
    args.check()?;
    let target = clients::check(&args.clients.server, args.clients.connections as usize)?;
    let mut report = Report::new("heartbeat");
    window::record_clients(&args.clients, &mut report);
    window::record_run(&args.run, &mut report);
    report.set("rate_per_s", args.rate);
    report.set("ack", args.ack);
    report.set("burst_interval_us", args.burst_interval.as_micros() as u64);

    let mut clients = Clients::connect_members(&args.clients, target, KEEP_BYTES, interrupt)?;
    let mut client = AckClient { protocol: clients.protocol, lost: ErrorLog::default(), acks: None };
    server_checks::check_rooms(&args.clients, "before the load", &mut clients, &mut client, &mut report)?;
    let counted = HeartbeatCount::start(&args.clients, &clients.target, &mut report);

    let mut sender = Sender::new(args, &clients, counted.is_known());
    if sender.ask_every.is_some() {
        client.acks = Some(Acks::new(clients.size, sender.started, args.run.warm_up));
    }
    let (warm_up, window) = drive(args, &mut sender, &mut clients, &mut client, interrupt)?;
    let sent = warm_up.sent + sender.counts.sent;
    let backlog = counted.backlog(sent, &clients.target);
    report.ended_early = interrupt.is_requested();
    window.describe(&clients, &mut report);
    sender.describe(args, &warm_up, &window, &mut report);
    describe_backlog(backlog, sender.counts.sent, &mut report);

    client.wait_for_acks(&mut clients)?;
    if let Some(acks) = &client.acks {
        acks.describe(!clients.protocol.answers(args.ack), &mut report);
    }
    counted.check(sent, &mut clients, &mut client, &mut report)?;
    server_checks::check_rooms(&args.clients, "after the load", &mut clients, &mut client, &mut report)?;
    report.problems.extend(client.lost.problem(&lost_of(clients.size)));
    clients.engine.close_all(CLOSE_TIMEOUT)?;
    Ok(report)
}

/// Runs the warm-up and the window. Returns the counts of the warm-up and what was measured in the window.
fn drive(
    args: &HeartbeatArgs,
    sender: &mut Sender,
    clients: &mut Clients,
    client: &mut AckClient,
    interrupt: &Interrupt,
) -> Result<(HeartbeatCounts, Window)> {
    send_until(args.run.warm_up, "warm-up", sender, clients, client, interrupt)?;
    if interrupt.is_requested() {
        bail!("interrupted before the measured window started");
    }
    // Heartbeats that the warm-up did not send in time are skipped.
    sender.next = sender.next.max(sender.schedule.planned_before(nanos(args.run.warm_up)));
    let warm_up = std::mem::replace(&mut sender.counts, HeartbeatCounts::new());
    let start = Mark::now(&clients.meter, clients.engine.traffic())?;
    send_until(args.run.warm_up + args.run.duration, "heartbeats", sender, clients, client, interrupt)?;
    let window = start.until(&Mark::now(&clients.meter, clients.engine.traffic())?);
    Ok((warm_up, window))
}

fn send_until(
    end: Duration,
    label: &'static str,
    sender: &mut Sender,
    clients: &mut Clients,
    client: &mut AckClient,
    interrupt: &Interrupt,
) -> Result<()> {
    let end_ns = nanos(end);
    let mut progress = Progress::new(label, sender.schedule.planned_before(end_ns) - sender.next);
    let first = sender.next;
    loop {
        let elapsed_ns = nanos(sender.started.elapsed());
        if elapsed_ns >= end_ns || interrupt.is_requested() {
            break;
        }
        let due = sender.schedule.due(elapsed_ns);
        sender.send_due(due, clients, client);
        let wait = if sender.next < due { Duration::ZERO } else { sender.until_next(end_ns) };
        clients.engine.turn(wait, client)?;
        if clients.engine.live() == 0 {
            bail!("all {} connections were lost: {}", clients.size, client.lost.examples());
        }
        progress.set(sender.next - first);
    }
    progress.finish();
    Ok(())
}

impl Sender {
    fn new(args: &HeartbeatArgs, clients: &Clients, may_sample: bool) -> Self {
        let mut order: Vec<usize> = (0..clients.size).collect();
        fastrand::Rng::with_seed(args.clients.server.seed).shuffle(&mut order);
        let started = Instant::now();
        Self {
            schedule: Schedule::new(args.rate, nanos(args.burst_interval)),
            order,
            frame: clients.protocol.heartbeat(args.ack),
            asking_frame: clients.protocol.heartbeat(true),
            ask_every: match clients.protocol.answers(args.ack) {
                true => Some(1),
                // A server that counts is one of this protocol: others may not understand the question.
                false => (may_sample && args.clients.server.protocol == Protocol::Native)
                    .then(|| (args.rate / SAMPLED_ACKS_PER_S).max(1)),
            },
            started,
            next: 0,
            counts: HeartbeatCounts::new(),
        }
    }

    /// Sends what is due, up to SENDS_PER_TURN heartbeats.
    fn send_due(&mut self, due: u64, clients: &mut Clients, client: &mut AckClient) {
        let end = due.min(self.next + SENDS_PER_TURN);
        while self.next < end {
            let planned_ns = self.schedule.planned_ns(self.next);
            let index = self.order[(self.next % self.order.len() as u64) as usize];
            self.next += 1;
            let delay_ns = nanos(self.started.elapsed()).saturating_sub(planned_ns);
            let asks = self.ask_every.is_some_and(|every| (self.next - 1).is_multiple_of(every));
            let frame = if asks { &self.asking_frame } else { &self.frame };
            if clients.engine.try_send(index, frame) != SendOutcome::Sent {
                self.counts.blocked += 1;
                continue;
            }
            self.counts.sent += 1;
            self.counts.late += u64::from(delay_ns > nanos(LATE_AFTER));
            self.counts.send_delay.record_ns(delay_ns);
            if let Some(acks) = client.acks.as_mut().filter(|_| asks) {
                acks.sent(index, planned_ns);
            }
        }
    }

    /// Time until the next heartbeat is due.
    fn until_next(&self, end_ns: u64) -> Duration {
        let next_ns = self.schedule.planned_ns(self.next).min(end_ns);
        Duration::from_nanos(next_ns.saturating_sub(nanos(self.started.elapsed()))).min(POLL_INTERVAL)
    }

    fn describe(&self, args: &HeartbeatArgs, warm_up: &HeartbeatCounts, window: &Window, report: &mut Report) {
        let warm_up_ns = nanos(args.run.warm_up);
        let planned_to = self.schedule.planned_before(warm_up_ns + nanos(window.length)).max(self.next);
        let planned = planned_to - self.schedule.planned_before(warm_up_ns);
        let HeartbeatCounts { sent, late, blocked, .. } = self.counts;
        let seconds = window.length.as_secs_f64();
        report.figure("planned_per_s", args.rate as f64, "heartbeats that were due");
        report.figure("sent_per_s", sent as f64 / seconds, "heartbeats that were sent");
        report.figure("sent", sent as f64, "in the window");
        report.figure("sent_in_warm_up", warm_up.sent as f64, "not part of the other figures");
        report.figure("late", late as f64, "sent more than 1 ms after they were due");
        report.figure("unsent", planned.saturating_sub(sent) as f64, "due in the window and not sent");
        report.figure("blocked", blocked as f64, "unsent because the socket was full or closed");
        let per_heartbeat_us = |cpu_ns: u64| cpu_ns as f64 / NANOS_PER_MICRO / sent.max(1) as f64;
        if let Some(server) = window.server {
            let meaning = "all threads, user and kernel";
            report.figure("server_cpu_per_heartbeat_us", per_heartbeat_us(server.ran_ns), meaning);
        }
        report.figure("generator_cpu_per_heartbeat_us", per_heartbeat_us(window.own.ran_ns), "of this process");
        report.latency("send_delay", self.counts.send_delay.summary());
    }
}

/// A server that falls behind looks cheap, because heartbeats that it has not processed cost nothing yet.
fn describe_backlog(backlog: Option<u64>, sent: u64, report: &mut Report) {
    let Some(backlog) = backlog else { return };
    report.figure("backlog", backlog as f64, "sent and not processed by the server when the window ended");
    if backlog as f64 > sent as f64 * MAX_BACKLOG_SHARE {
        let note = "the server was behind when the window ended: its cost per heartbeat is higher than shown";
        report.notes.push(note.to_owned());
    }
}

impl HeartbeatCounts {
    fn new() -> Self {
        Self { sent: 0, blocked: 0, late: 0, send_delay: Latency::new() }
    }
}

impl AckClient {
    /// Waits for the remaining acks as long as some arrive.
    fn wait_for_acks(&mut self, clients: &mut Clients) -> Result<()> {
        let mut last = 0;
        let mut changed = Instant::now();
        while let Some((answered, asked)) = self.acks.as_ref().map(|acks| (acks.answered(), acks.asked())) {
            if answered >= asked || changed.elapsed() > QUIET_FOR || clients.engine.live() == 0 {
                break;
            }
            if answered != last {
                last = answered;
                changed = Instant::now();
            }
            clients.engine.turn(POLL_INTERVAL, self)?;
        }
        Ok(())
    }
}

impl Client for AckClient {
    fn message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        let Some(acks) = &mut self.acks else { return };
        if message_kind(message.payload) == Some(self.protocol.answer_kind()) {
            acks.received(connection.index(), Instant::now());
        }
    }

    fn closed(&mut self, index: usize, disconnect: Disconnect) {
        self.lost.add(format!("{}: {disconnect}", self.protocol.user(index)));
    }
}
