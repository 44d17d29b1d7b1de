//! The cost of [`Broadcaster::tick`], by the number of changes, of observers and of users who are merely present.
//!
//! `tick_changes`: in a room of 1,000 members, this many users join or leave before each tick, with this many
//! observers. The clock of the registry stands still, so no lease is checked. `tick_present`: 10 changes and 100
//! observers in rooms of growing size. In `still` the clock stands still; in `heartbeats` it advances, and users send
//! heartbeats.
//!
//! Only the tick is timed, not the joins, leaves and heartbeats before it, nor the writes of the workers after it.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{BusyRoom, ROOM, TICK, WORKERS, encoders, json_of};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rollcall::broadcast::{Batch, Broadcaster, TickCounts};
use rollcall::presence::{Reason, Session};
use rollcall::protocol::native;

/// Members of the room in `tick_changes`.
const MEMBERS: usize = 1_000;

fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tick_changes");
    for observers in [0, 1, 100, 10_000] {
        let mut busy = BusyRoom::with_users(MEMBERS);
        observe(&busy, observers);
        for changes in [1, 10, 100, 1_000] {
            let mut churn = Churn::new(&mut busy, changes, observers);
            group.throughput(Throughput::Elements(changes as u64));
            group.bench_function(BenchmarkId::new(format!("observers_{observers}"), changes), |bencher| {
                bencher.iter_custom(|ticks| churn.time(ticks, |_| ()));
            });
            churn.clear();
        }
    }
    group.finish();
}

fn present(criterion: &mut Criterion) {
    const CHANGES: usize = 10;
    const OBSERVERS: usize = 100;
    let mut group = criterion.benchmark_group("tick_present");
    for (users, busy) in common::busy_rooms() {
        let mut observed = false;
        for (name, prepare) in [("still", (|_| ()) as fn(&mut BusyRoom)), ("heartbeats", BusyRoom::next_tick)] {
            group.throughput(Throughput::Elements(CHANGES as u64));
            group.bench_function(BenchmarkId::new(name, users), |bencher| {
                let mut busy = busy.borrow_mut();
                if !std::mem::replace(&mut observed, true) {
                    observe(&busy, OBSERVERS);
                }
                let mut churn = Churn::new(&mut busy, CHANGES, OBSERVERS);
                bencher.iter_custom(|ticks| churn.time(ticks, prepare));
                churn.clear();
            });
        }
    }
    group.finish();
}

/// Adds observers of the room's members, spread over the workers.
fn observe(busy: &BusyRoom, observers: usize) {
    for number in 0..observers {
        busy.registry.observe(ROOM, number % WORKERS, native::MEMBERS, false);
    }
    busy.settle();
}

/// A room, and additional users who join and leave together.
struct Churn<'a> {
    busy: &'a mut BusyRoom,
    broadcaster: Broadcaster,
    sessions: Vec<Arc<Session>>,
    /// Whether these users are in the room.
    joined: bool,
    observers: usize,
}

impl<'a> Churn<'a> {
    fn new(busy: &'a mut BusyRoom, changes: usize, observers: usize) -> Self {
        let session = |number| busy.registry.open_session(&format!("churn-{number}"), busy.now);
        let sessions = (0..changes).map(session).collect();
        let broadcaster = Broadcaster::new(Arc::clone(&busy.registry), WORKERS, TICK, encoders());
        let mut churn = Self { busy, broadcaster, sessions, joined: false, observers };
        for _ in 0..2 {
            churn.toggle();
            let (batches, counts) = churn.broadcaster.tick(churn.busy.now);
            churn.check_counts(&batches, counts);
            churn.check_frames(&batches);
        }
        churn
    }

    /// All of these users join, or all leave.
    fn toggle(&mut self) {
        self.joined = !self.joined;
        for session in &self.sessions {
            if self.joined {
                self.busy.registry.join(session, ROOM, None, self.busy.now);
            } else {
                assert!(self.busy.registry.leave(session, ROOM));
            }
        }
    }

    fn time(&mut self, ticks: u64, prepare: impl Fn(&mut BusyRoom)) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..ticks {
            prepare(self.busy);
            self.toggle();
            let started = Instant::now();
            let (batches, counts) = self.broadcaster.tick(self.busy.now);
            spent += started.elapsed();
            self.check_counts(&batches, counts);
        }
        spent
    }

    fn check_counts(&self, batches: &[Batch], counts: TickCounts) {
        assert_eq!((counts.rooms, counts.changes()), (1, self.sessions.len() as u64));
        for (worker, batch) in batches.iter().enumerate() {
            assert_eq!(batch.rooms.len(), usize::from(self.observers > worker), "worker {worker}");
        }
    }

    /// The diffs contain exactly the changes.
    fn check_frames(&self, batches: &[Batch]) {
        let joined = if self.joined { self.sessions.len() } else { 0 };
        let expected = self.busy.sessions.len() + joined;
        assert_eq!(self.busy.announced(), expected);
        for update in batches.iter().flat_map(|batch| &batch.rooms) {
            let diff = json_of(update.changes(native::MEMBERS).unwrap());
            let (changed, other) = if self.joined { ("joined", "left") } else { ("left", "joined") };
            assert_eq!(diff[changed].as_array().unwrap().len(), self.sessions.len());
            assert!(diff.get(other).is_none());
            assert_eq!(diff["count"], expected);
        }
    }

    /// Removes these users again.
    fn clear(mut self) {
        if self.joined {
            self.toggle();
        }
        for session in &self.sessions {
            self.busy.registry.end_session(session, Reason::Left);
        }
        self.busy.settle();
        assert_eq!(self.busy.announced(), self.busy.sessions.len());
        assert_eq!(self.busy.registry.users_online(), self.busy.sessions.len());
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = changes, present }
criterion_main!(benches);
