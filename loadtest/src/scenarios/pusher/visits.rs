//! Visitors join and leave on a schedule. Visitor i is present for half of its time, as in `churn`.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::PusherRun;
use crate::cli::MIN_STAY;
use crate::connection::SendOutcome;
use crate::interrupt::Interrupt;
use crate::procfs::NANOS_PER_MICRO;
use crate::pusher;
use crate::report::Report;
use crate::scenarios::churn_plan::{ChurnPlan, Operation};
use crate::scenarios::window::{Mark, Window};
use crate::schedule::nanos;

/// The limit of operations between two reads, when the generator is behind.
const OPERATIONS_PER_TURN: u64 = 32;
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The visitors, and how often each operation happened.
struct Visitors {
    /// The client index of the first visitor.
    first_client: usize,
    half: usize,
    plan: ChurnPlan,
    /// By visitor: the earliest time of its next operation.
    not_before_ns: Vec<u64>,
    done: u64,
    blocked: u64,
}

impl PusherRun<'_> {
    /// Runs the schedule, and reports what it cost.
    pub(super) fn visits(&mut self, interrupt: &Interrupt, report: &mut Report) -> Result<()> {
        let (first_client, half) = (self.args.members as usize, self.args.visitors as usize);
        let plan = ChurnPlan::new(self.args.rate, self.args.server.seed);
        let not_before_ns = vec![0; 2 * half];
        let mut visitors = Visitors { first_client, half, plan, not_before_ns, done: 0, blocked: 0 };
        self.members.started = Instant::now();
        for visitor in 0..half {
            self.enter(first_client + visitor);
        }
        self.settle(interrupt)?;
        self.start_round(|_| true);
        self.members.join_times.window_start_ns = 0;
        self.members.started = Instant::now();
        let start = Mark::now(&self.clients.meter, self.clients.engine.traffic())?;
        let end_ns = nanos(self.args.duration);
        loop {
            let elapsed_ns = nanos(self.members.started.elapsed());
            if elapsed_ns >= end_ns || interrupt.is_requested() {
                break;
            }
            self.execute_due(&mut visitors, elapsed_ns);
            let wait_ns = visitors.plan.next_ns().min(end_ns).saturating_sub(nanos(self.members.started.elapsed()));
            self.clients.engine.turn(Duration::from_nanos(wait_ns).min(POLL_INTERVAL), &mut self.members)?;
        }
        let window = start.until(&Mark::now(&self.clients.meter, self.clients.engine.traffic())?);
        let deliveries = self.members.mirrors.counts.events;
        self.end_round(interrupt)?;
        self.describe_visits(&visitors, deliveries, &window, report);
        // Visitors stay out of the storms.
        for client in first_client..first_client + 2 * half {
            if self.members.is_member[client] {
                self.exit(client);
            }
        }
        self.settle(interrupt)
    }

    fn execute_due(&mut self, visitors: &mut Visitors, elapsed_ns: u64) {
        for _ in 0..OPERATIONS_PER_TURN {
            let Some((planned_ns, operation)) = visitors.plan.take_due(elapsed_ns) else { break };
            let now_ns = nanos(self.members.started.elapsed());
            let (number, shift) = match operation {
                Operation::Join(number) => (number, visitors.half),
                Operation::Leave(number) => (number, 0),
            };
            let visitor = (number as usize + shift) % (2 * visitors.half);
            let client = visitors.first_client + visitor;
            let is_done = now_ns >= visitors.not_before_ns[visitor]
                && match operation {
                    Operation::Join(_) => self.enter(client),
                    Operation::Leave(_) => self.exit(client),
                };
            if !is_done {
                visitors.blocked += 1;
                continue;
            }
            visitors.done += 1;
            visitors.not_before_ns[visitor] = now_ns + nanos(MIN_STAY);
            if matches!(operation, Operation::Join(_)) {
                self.members.join_times.sent(client, planned_ns);
            }
        }
    }

    /// A visitor joins. Returns whether it was possible.
    fn enter(&mut self, client: usize) -> bool {
        let subscribe = self.members.subscribe(client);
        let is_done =
            !self.members.is_member[client] && self.clients.engine.try_send(client, &subscribe) == SendOutcome::Sent;
        if is_done {
            self.members.is_member[client] = true;
            self.members.mirrors.joins(client);
        }
        is_done
    }

    /// A visitor leaves. Returns whether it was possible.
    fn exit(&mut self, client: usize) -> bool {
        let unsubscribe = pusher::unsubscribe(&self.members.protocol.room(client));
        let is_done =
            self.members.is_member[client] && self.clients.engine.try_send(client, &unsubscribe) == SendOutcome::Sent;
        if is_done {
            self.members.is_member[client] = false;
            self.members.mirrors.leaves(client);
        }
        is_done
    }

    fn describe_visits(&self, visitors: &Visitors, deliveries: u64, window: &Window, report: &mut Report) {
        report.figure("visits_sent_per_s", visitors.done as f64 / window.length.as_secs_f64(), "joins and leaves");
        report.figure("visits_blocked", visitors.blocked as f64, "joins and leaves that were not possible");
        let per_second = deliveries as f64 / window.length.as_secs_f64();
        report.figure("deliveries_per_s", per_second, "events about members that clients received");
        if let Some(server) = window.server {
            let cost_us = server.ran_ns as f64 / NANOS_PER_MICRO / deliveries.max(1) as f64;
            report.figure("server_cpu_per_delivery_us", cost_us, "all threads, user and kernel");
        }
        report.latency("join_to_seen", self.members.join_times.latency.summary());
        if deliveries == 0 {
            report.problems.push("members heard of nobody".to_owned());
        }
    }
}
