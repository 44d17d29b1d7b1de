//! Fan-out over real sockets: what it costs to tell one change to so many observers, against a plain loop that does nothing
//! but `send` the same bytes to as many sockets.
//!
//! Times are CPU time of the sending threads for one delivery, not time that passes: on a loopback that would be the
//! receivers' too. For rollcall it is everything that its worker and its ticker do from round to round, nothing taken off: an
//! idle wake-up of each, reading the join or leave that causes the round, the tick, the plan, the writes. For the plain loop it
//! is one wake-up and the loop. Both have a round each tick, so that both find the caches as the pause left them, and both stand
//! on one core while the receivers have another. What is sent is a diff of one member, about 130 bytes.
//!
//! criterion measures one after the other. At the end stands what the budget is about: some rounds of one, some of the other, and
//! again, and the ratio of each such pair of blocks.

mod common;

#[path = "fanout/clients.rs"]
mod clients;
#[path = "fanout/senders.rs"]
mod senders;

use std::time::{Duration, Instant};

use common::TICK;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use senders::{Loop, Rollcall};

/// Descriptors that are not connections.
const OTHER_DESCRIPTORS: u64 = 128;
/// Rounds of one sample of criterion's.
const ROUNDS_PER_SAMPLE: u32 = 4;
/// Rounds of each sender that one ratio is taken of, and how many ratios.
const ROUNDS_PER_BLOCK: u32 = 8;
const BLOCKS: usize = 11;
/// From the last byte received until the sender sleeps again and its CPU time is exact.
const SETTLE: Duration = Duration::from_millis(5);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
}

criterion_group! { name = benches; config = common::criterion().sample_size(10); targets = fanout }

/// How many connections each sender has. Two senders, two ends: where the limit of open files is too low, fewer.
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
        let mut stage = None;
        for (name, round) in [("rollcall", Stage::tell as fn(&mut Stage) -> Duration), ("plain", Stage::send)] {
            group.bench_function(BenchmarkId::new(name, connections), |bencher| {
                let stage = stage.get_or_insert_with(|| Stage::open(connections));
                bencher.iter_custom(|deliveries| {
                    let rounds = if common::smoke() { 1 } else { ROUNDS_PER_SAMPLE };
                    let spent: Duration = (0..rounds).map(|_| round(stage)).sum();
                    spent.mul_f64(deliveries as f64 / f64::from(rounds) / connections as f64)
                });
            });
        }
        comparisons.extend(stage.map(|mut stage| stage.compare()));
    }
    group.finish();
    if !comparisons.is_empty() {
        println!("\nfan-out: CPU for each delivery, and the ratio of rounds in turn: median (minimum to maximum)");
        comparisons.iter().for_each(|line| println!("{line}"));
    }
}

/// Both senders with their receivers.
struct Stage {
    rollcall: Rollcall,
    plain: Loop,
    connections: usize,
    /// When the plain loop began its last round.
    sent: Instant,
}

impl Stage {
    fn open(connections: usize) -> Self {
        let (rollcall, plain) = (Rollcall::start(connections), Loop::start(connections));
        let mut stage = Self { rollcall, plain, connections, sent: Instant::now() };
        // Twice, so that everything has been done once before it is measured, and the plain loop has something to send.
        for _ in 0..2 {
            stage.tell();
            stage.send();
        }
        stage
    }

    /// rollcall tells everybody of one change, at its next tick. Returns the CPU time of its threads since the round before.
    fn tell(&mut self) -> Duration {
        self.rollcall.change();
        let frame = self.rollcall.receivers.wait_for_frame();
        senders::check_diff(&frame, self.rollcall.inside);
        self.plain.frame = frame;
        std::thread::sleep(SETTLE);
        self.rollcall.threads.spent()
    }

    /// The plain loop sends the same, a tick after it did so last.
    fn send(&mut self) -> Duration {
        std::thread::sleep(TICK.saturating_sub(self.sent.elapsed()));
        self.sent = Instant::now();
        self.plain.send();
        assert_eq!(self.plain.receivers.wait_for_frame(), self.plain.frame);
        std::thread::sleep(SETTLE);
        self.plain.threads.spent()
    }

    /// So many rounds of one sender, in microseconds of CPU time for each delivery.
    fn block(&mut self, rounds: u32, round: fn(&mut Self) -> Duration) -> f64 {
        // What a sender did while the other had its turn is nobody's: rollcall ticks all the time.
        self.rollcall.threads.spent();
        let spent: Duration = (0..rounds).map(|_| round(self)).sum();
        spent.as_secs_f64() * 1e6 / f64::from(rounds) / self.connections as f64
    }

    /// Blocks of rounds in turn. A line that says what came out.
    fn compare(&mut self) -> String {
        let (blocks, rounds) = if common::smoke() { (1, 1) } else { (BLOCKS, ROUNDS_PER_BLOCK) };
        let mut told = Vec::new();
        let mut sent = Vec::new();
        let mut ratios = Vec::new();
        for _ in 0..blocks {
            let pair = [self.block(rounds, Self::tell), self.block(rounds, Self::send)];
            told.push(pair[0]);
            sent.push(pair[1]);
            ratios.push(pair[0] / pair[1]);
        }
        let [told, sent, ratios] = [told, sent, ratios].map(|mut values| {
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[0], values[values.len() - 1])
        });
        format!(
            "{:>7} connections: rollcall {:.2} ({:.2} to {:.2}) µs, plain {:.2} ({:.2} to {:.2}) µs, ratio {:.3} ({:.3} to \
             {:.3}), {blocks} blocks of {rounds} rounds (budget 1.15)",
            self.connections, told.0, told.1, told.2, sent.0, sent.1, sent.2, ratios.0, ratios.1, ratios.2
        )
    }
}
