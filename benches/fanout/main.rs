//! Fan-out over real sockets: the cost of delivering one change to many observers, compared with a plain loop that only
//! sends the same bytes to as many sockets.
//!
//! Times are CPU time of the sending threads per delivery. Elapsed time would include the receivers, which run on the
//! same machine. For rollcall it is everything that its worker and its ticker do in a round: one idle wake-up of each,
//! reading the join or leave, the tick, the deliveries, the writes. For the plain loop it is one wake-up and the loop.
//! Both have one round per tick, so both find the CPU caches as the pause left them. Both run on one core, and the
//! receivers run on another. The message is a diff with one member, about 130 bytes.
//!
//! criterion measures one after the other. At the end the bench alternates blocks of rounds of both and prints the
//! ratio per pair of blocks, which is what the budget is about.

#[path = "../common/mod.rs"]
mod common;
mod receivers;
mod senders;

use std::time::{Duration, Instant};

use common::TICK;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use senders::{PlainLoop, Rollcall};

/// Descriptors that are not connections.
const OTHER_DESCRIPTORS: u64 = 128;
/// Rounds per sample of criterion.
const ROUNDS_PER_SAMPLE: u32 = 4;
/// Rounds of each sender per ratio, and the number of ratios.
const ROUNDS_PER_BLOCK: u32 = 8;
const BLOCKS: usize = 11;
/// Time after the last received byte until the sender sleeps and its CPU time is exact.
const SETTLE: Duration = Duration::from_millis(5);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}

criterion_group! { name = benches; config = common::criterion().sample_size(10); targets = fanout }

/// Connections per sender. There are two senders, and both ends are in this process; with a low limit of open files
/// there are fewer connections.
fn sizes() -> Vec<usize> {
    let limit = rlimit::increase_nofile_limit(u64::MAX).expect("a limit of open files");
    let most = (limit.saturating_sub(OTHER_DESCRIPTORS) / 4) as usize;
    let sizes: &[usize] = if common::smoke() { &[50] } else { &[100, 1_000, 5_000] };
    sizes.iter().map(|size| *size.min(&most)).collect()
}

fn fanout(criterion: &mut Criterion) {
    let mut comparisons = Vec::new();
    let mut group = criterion.benchmark_group("fanout_cpu_per_delivery");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(1));
    for connections in sizes() {
        let mut senders = None;
        for (name, round) in
            [("rollcall", Senders::broadcast as fn(&mut Senders) -> Duration), ("plain", Senders::send)]
        {
            group.bench_function(BenchmarkId::new(name, connections), |bencher| {
                let senders = senders.get_or_insert_with(|| Senders::start(connections));
                bencher.iter_custom(|deliveries| {
                    let rounds = if common::smoke() { 1 } else { ROUNDS_PER_SAMPLE };
                    let spent: Duration = (0..rounds).map(|_| round(senders)).sum();
                    spent.mul_f64(deliveries as f64 / f64::from(rounds) / connections as f64)
                });
            });
        }
        comparisons.extend(senders.map(|mut senders| senders.compare()));
    }
    group.finish();
    if !comparisons.is_empty() {
        println!("\nfan-out: CPU time per delivery, and ratio of alternating blocks: median (minimum to maximum)");
        comparisons.iter().for_each(|line| println!("{line}"));
    }
}

/// Both senders with their receivers.
struct Senders {
    rollcall: Rollcall,
    plain: PlainLoop,
    connections: usize,
    /// When the last round of the plain loop started.
    sent: Instant,
}

impl Senders {
    fn start(connections: usize) -> Self {
        let (rollcall, plain) = (Rollcall::start(connections), PlainLoop::start(connections));
        let mut senders = Self { rollcall, plain, connections, sent: Instant::now() };
        // Warms up both senders, and gives the plain loop a frame to send.
        for _ in 0..2 {
            senders.broadcast();
            senders.send();
        }
        senders
    }

    /// A round of rollcall: it broadcasts one change at its next tick. Returns the CPU time of its threads since the
    /// last round.
    fn broadcast(&mut self) -> Duration {
        self.rollcall.change();
        let frame = self.rollcall.receivers.wait_for_frame();
        senders::check_diff(&frame, self.rollcall.inside);
        self.plain.frame = frame;
        std::thread::sleep(SETTLE);
        self.rollcall.threads.spent()
    }

    /// A round of the plain loop: it sends the same frame, one tick after its last round.
    fn send(&mut self) -> Duration {
        std::thread::sleep(TICK.saturating_sub(self.sent.elapsed()));
        self.sent = Instant::now();
        self.plain.send();
        assert_eq!(self.plain.receivers.wait_for_frame(), self.plain.frame);
        std::thread::sleep(SETTLE);
        self.plain.threads.spent()
    }

    /// Several rounds of one sender. Returns microseconds of CPU time per delivery.
    fn block(&mut self, rounds: u32, round: fn(&mut Self) -> Duration) -> f64 {
        // Forget what rollcall spent on ticks while the other sender had its turn.
        self.rollcall.threads.spent();
        let spent: Duration = (0..rounds).map(|_| round(self)).sum();
        spent.as_secs_f64() * 1e6 / f64::from(rounds) / self.connections as f64
    }

    /// Alternates blocks of both senders and returns a line with the result.
    fn compare(&mut self) -> String {
        let (blocks, rounds) = if common::smoke() { (1, 1) } else { (BLOCKS, ROUNDS_PER_BLOCK) };
        let mut ours = Vec::new();
        let mut plain = Vec::new();
        let mut ratios = Vec::new();
        for _ in 0..blocks {
            let pair = [self.block(rounds, Self::broadcast), self.block(rounds, Self::send)];
            ours.push(pair[0]);
            plain.push(pair[1]);
            ratios.push(pair[0] / pair[1]);
        }
        let [ours, plain, ratios] = [ours, plain, ratios].map(|mut values| {
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[0], values[values.len() - 1])
        });
        format!(
            "{:>7} connections: rollcall {:.2} ({:.2} to {:.2}) µs, plain {:.2} ({:.2} to {:.2}) µs, ratio {:.3} \
             ({:.3} to {:.3}), {blocks} blocks of {rounds} rounds (budget 1.15)",
            self.connections, ours.0, ours.1, ours.2, plain.0, plain.1, plain.2, ratios.0, ratios.1, ratios.2
        )
    }
}
