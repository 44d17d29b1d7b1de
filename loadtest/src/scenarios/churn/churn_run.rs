//! One run of `churn`, `rooms` or `soak`: all clients, and the loop that executes the plan.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::churning_members::{ChurnCounts, ChurningMembers};
use super::observers::{DeliveryCounts, Observers};
use super::permanent_members::PermanentMembers;
use crate::cli::ChurnArgs;
use crate::clients::{ClientSpec, Clients};
use crate::interrupt::Interrupt;
use crate::latency::Latency;
use crate::progress::Progress;
use crate::protocol::{Observe, Role};
use crate::scenarios::churn_plan::ChurnPlan;
use crate::scenarios::keepalive::Keepalive;
use crate::scenarios::memory_samples::MemorySamples;
use crate::scenarios::window::{Mark, Window};
use crate::schedule::nanos;
use crate::target::Target;

/// A snapshot page has 1,000 members; a list of all users may be much longer.
const KEEP_BYTES: usize = 8 * 1024 * 1024;
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// An operation that starts this much after its planned time counts as late.
const LATE_AFTER_NS: u64 = 1_000_000;
/// The limit of operations between two reads, when the generator is behind.
const OPERATIONS_PER_TURN: u64 = 32;

pub(crate) struct ChurnRun {
    pub(crate) clients: Clients,
    pub(crate) observers: Observers,
    pub(crate) members: ChurningMembers,
    keepalive: Option<Keepalive>,
    pub(crate) samples: Option<MemorySamples>,
    pub(crate) observer_count: usize,
    pub(crate) observers_join: bool,
    plan: ChurnPlan,
    /// From the planned time until the write, in the window.
    pub(crate) send_delay: Latency,
}

impl ChurnRun {
    /// Connects all clients. Half of the churning members join.
    pub(crate) fn connect(
        args: &ChurnArgs,
        permanent_members: usize,
        target: Target,
        observer_target: Option<Target>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let (observer_count, half) = (args.observers as usize, args.members as usize);
        let observer_role = if args.observers_join { Role::Member(Observe::Members) } else { Role::Observer };
        let churning_end = args.connections();
        let role_of = move |index: usize| match index {
            index if index < observer_count => observer_role,
            index if index >= observer_count + half && index < churning_end => Role::NoRoom,
            _ => Role::Member(Observe::None),
        };
        let joins_by_connecting = args.server.protocol.joins_by_connecting();
        let client_count = churning_end + permanent_members;
        let size = if joins_by_connecting { observer_count + half } else { client_count };
        let observers_at = observer_target.map(|node| (observer_count, node));
        let spec = ClientSpec { size, rooms: args.rooms, role_of: &role_of, observers_at };
        let mut observers = Observers::new(spec.protocol(&args.server), observer_count, observer_count + half);
        let clients = Clients::connect(&args.server, &spec, target, KEEP_BYTES, &mut observers, interrupt)?;
        let interval = args.heartbeat_interval();
        Ok(Self {
            members: ChurningMembers::new(&clients, observer_count, half, client_count),
            keepalive: interval.map(|interval| Keepalive::new(&clients, client_count, interval)),
            clients,
            observers,
            observer_count,
            observers_join: args.observers_join || joins_by_connecting,
            samples: None,
            plan: ChurnPlan::new(args.rate, args.server.seed),
            send_delay: Latency::new(),
        })
    }

    /// Runs the warm-up and the window. Returns what was measured, delivered and sent in the window.
    pub(crate) fn drive(
        &mut self,
        args: &ChurnArgs,
        interrupt: &Interrupt,
    ) -> Result<(Window, DeliveryCounts, ChurnCounts)> {
        self.observers.started = Instant::now();
        self.observers.mirrors.load_starts();
        self.execute_until(args.run.warm_up, "warm-up", interrupt)?;
        if interrupt.is_requested() {
            bail!("interrupted before the measured window started");
        }
        self.observers.join_times.window_start_ns = nanos(args.run.warm_up);
        self.send_delay = Latency::new();
        let start = Mark::now(&self.clients.meter, self.clients.engine.traffic())?;
        let (deliveries, counts) = (self.observers.deliveries, self.members.counts);
        self.execute_until(args.run.warm_up + args.run.duration, "churn", interrupt)?;
        // A server that gets no CPU time may deliver nothing in the window. The window then ends with the first
        // delivery.
        let ended = Instant::now();
        let is_silent =
            |run: &Self| run.observers.deliveries.count == deliveries.count && run.clients.engine.live() > 0;
        while is_silent(self) && ended.elapsed() < args.settle_timeout() && !interrupt.is_requested() {
            self.listen(POLL_INTERVAL)?;
        }
        let window = start.until(&Mark::now(&self.clients.meter, self.clients.engine.traffic())?);
        Ok((window, self.observers.deliveries.since(deliveries), self.members.counts.since(counts)))
    }

    /// Keeps clients alive and reads, without executing the plan.
    pub(crate) fn listen(&mut self, length: Duration) -> Result<()> {
        self.send_heartbeats();
        self.clients.engine.turn_for(length, &mut self.observers)
    }

    fn execute_until(&mut self, end: Duration, label: &'static str, interrupt: &Interrupt) -> Result<()> {
        let end_ns = nanos(end);
        let first = self.plan.done();
        let mut progress = Progress::new(label, self.plan.planned_before(end_ns).saturating_sub(first));
        loop {
            let elapsed_ns = nanos(self.observers.started.elapsed());
            if elapsed_ns >= end_ns || interrupt.is_requested() {
                break;
            }
            self.execute_due(elapsed_ns)?;
            let wait = self.until_next(end_ns);
            self.clients.engine.turn(wait, &mut self.observers)?;
            if self.clients.engine.live() == 0 {
                bail!("all connections were lost: {}", self.observers.lost.examples());
            }
            progress.set(self.plan.done() - first);
        }
        progress.finish();
        Ok(())
    }

    fn execute_due(&mut self, elapsed_ns: u64) -> Result<()> {
        for _ in 0..OPERATIONS_PER_TURN {
            let Some((planned_ns, operation)) = self.plan.take_due(elapsed_ns) else { break };
            let now_ns = nanos(self.observers.started.elapsed());
            let delay_ns = now_ns.saturating_sub(planned_ns);
            let join_times = &mut self.observers.join_times;
            self.members.execute(operation, planned_ns, now_ns, &mut self.clients, join_times)?;
            self.members.counts.late += u64::from(delay_ns > LATE_AFTER_NS);
            self.send_delay.record_ns(delay_ns);
        }
        if let Some(permanent_members) = &mut self.observers.permanent_members {
            permanent_members.execute_due(elapsed_ns, &mut self.clients)?;
        }
        if let Some(samples) = &mut self.samples {
            samples.take_due(elapsed_ns, &self.clients.meter)?;
        }
        self.send_heartbeats();
        Ok(())
    }

    fn send_heartbeats(&mut self) {
        if let Some(keepalive) = &mut self.keepalive {
            keepalive.send_due(nanos(self.observers.started.elapsed()), &mut self.clients);
        }
    }

    /// Time until the next action is due.
    fn until_next(&self, end_ns: u64) -> Duration {
        let heartbeat_ns = self.keepalive.as_ref().map_or(u64::MAX, Keepalive::next_ns);
        let permanent_ns = self.observers.permanent_members.as_ref().map_or(u64::MAX, PermanentMembers::next_ns);
        let next_ns = self.plan.next_ns().min(heartbeat_ns).min(permanent_ns).min(end_ns);
        Duration::from_nanos(next_ns.saturating_sub(nanos(self.observers.started.elapsed()))).min(POLL_INTERVAL)
    }
}
