//! The tick: what [`Broadcaster::tick`] costs, by what changed, by who looks, and by who is merely there.
//!
//! `tick_changes`: a room of 1,000, of whom so many join or leave in turn, while so many look. The engine's clock stands
//! still there, so that no lease is looked at. `tick_present`: 10 changes and 100 observers in a room of ever more users who do
//! nothing but rest_heartbeat; `still` without the wheel, `beating` with it.
//!
//! Only the tick is timed: the joins, leaves and heartbeats before it are not, nor is what workers do with its batches.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Crowd, ROOM, TICK, WORKERS, encoders, json_of};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rollcall::broadcast::{Batch, Broadcaster, TickCounts};
use rollcall::presence::{Reason, Session};
use rollcall::protocol::native;

/// Members of the room in which changes and observers are counted.
const MEMBERS: usize = 1_000;

fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tick_changes");
    for observers in [0, 1, 100, 10_000] {
        let mut crowd = Crowd::gather(MEMBERS);
        observe(&crowd, observers);
        for changes in [1, 10, 100, 1_000] {
            let mut stage = Stage::new(&mut crowd, changes, observers);
            group.throughput(Throughput::Elements(changes as u64));
            group.bench_function(BenchmarkId::new(format!("observers_{observers}"), changes), |bencher| {
                bencher.iter_custom(|ticks| stage.time(ticks, |_| ()));
            });
            stage.clear();
        }
    }
    group.finish();
}

fn present(criterion: &mut Criterion) {
    const CHANGES: usize = 10;
    const OBSERVERS: usize = 100;
    let mut group = criterion.benchmark_group("tick_present");
    for (users, crowd) in common::crowds() {
        let mut observed = false;
        for (name, prepare) in [("still", (|_| ()) as fn(&mut Crowd)), ("beating", Crowd::rest_heartbeat)] {
            group.throughput(Throughput::Elements(CHANGES as u64));
            group.bench_function(BenchmarkId::new(name, users), |bencher| {
                let mut crowd = crowd.borrow_mut();
                if !std::mem::replace(&mut observed, true) {
                    observe(&crowd, OBSERVERS);
                }
                let mut stage = Stage::new(&mut crowd, CHANGES, OBSERVERS);
                bencher.iter_custom(|ticks| stage.time(ticks, prepare));
                stage.clear();
            });
        }
    }
    group.finish();
}

/// Counts observers of the room's members, spread over the workers.
fn observe(crowd: &Crowd, observers: usize) {
    for number in 0..observers {
        crowd.registry.observe(ROOM, number % WORKERS, native::MEMBERS, false);
    }
    crowd.settle();
}

/// A crowd, and some more who come and go together.
struct Stage<'a> {
    crowd: &'a mut Crowd,
    broadcaster: Broadcaster,
    churn: Vec<Arc<Session>>,
    inside: bool,
    observers: usize,
}

impl<'a> Stage<'a> {
    fn new(crowd: &'a mut Crowd, changes: usize, observers: usize) -> Self {
        let newcomer = |number| crowd.registry.open_session(&format!("churn-{number}"), crowd.now);
        let churn = (0..changes).map(newcomer).collect();
        let broadcaster = Broadcaster::new(Arc::clone(&crowd.registry), WORKERS, TICK, encoders());
        let mut stage = Self { crowd, broadcaster, churn, inside: false, observers };
        for _ in 0..2 {
            stage.swap();
            let (batches, counts) = stage.broadcaster.tick(stage.crowd.now);
            stage.check_counts(&batches, counts);
            stage.check_frames(&batches);
        }
        stage
    }

    /// Everyone who comes and goes comes, or goes.
    fn swap(&mut self) {
        self.inside = !self.inside;
        for session in &self.churn {
            if self.inside {
                self.crowd.registry.join(session, ROOM, None, self.crowd.now);
            } else {
                assert!(self.crowd.registry.leave(session, ROOM));
            }
        }
    }

    fn time(&mut self, ticks: u64, prepare: impl Fn(&mut Crowd)) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..ticks {
            prepare(self.crowd);
            self.swap();
            let began = Instant::now();
            let (batches, counts) = self.broadcaster.tick(self.crowd.now);
            spent += began.elapsed();
            self.check_counts(&batches, counts);
        }
        spent
    }

    fn check_counts(&self, batches: &[Batch], counts: TickCounts) {
        assert_eq!(counts, TickCounts { rooms: 1, changes: self.churn.len() as u64 });
        for (worker, batch) in batches.iter().enumerate() {
            assert_eq!(batch.rooms.len(), usize::from(self.observers > worker), "worker {worker}");
        }
    }

    /// Observers are told of each change, and of nothing else.
    fn check_frames(&self, batches: &[Batch]) {
        let inside = if self.inside { self.churn.len() } else { 0 };
        let expected = self.crowd.sessions.len() + inside;
        assert_eq!(self.crowd.announced(), expected);
        for update in batches.iter().flat_map(|batch| &batch.rooms) {
            let diff = json_of(update.changes(native::MEMBERS).unwrap());
            let (moved, other) = if self.inside { ("joined", "left") } else { ("left", "joined") };
            assert_eq!(diff[moved].as_array().unwrap().len(), self.churn.len());
            assert!(diff.get(other).is_none());
            assert_eq!(diff["count"], expected);
        }
    }

    /// Leaves the crowd as it was found.
    fn clear(mut self) {
        if self.inside {
            self.swap();
        }
        for session in &self.churn {
            self.crowd.registry.end_session(session, Reason::Left);
        }
        self.crowd.settle();
        assert_eq!(self.crowd.announced(), self.crowd.sessions.len());
        assert_eq!(self.crowd.registry.users_online(), self.crowd.sessions.len());
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = changes, present }
criterion_main!(benches);
