//! The registry on one thread, by the number of users: heartbeats, joins, leaves and expiring leases. Several threads
//! are in scaling.rs.
//!
//! All users are in one room and send heartbeats. Times are per operation. Users are visited in random order, so that a
//! large registry misses the CPU caches as often as on a server.
//!
//! `map` compares dashmap with a plain map. At the end the bench prints the memory per member.

#[path = "../common/mod.rs"]
mod common;
mod map;
mod memory;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use common::{BusyRoom, BusyRooms, ROOM, timed};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use rollcall::presence::Reason;

/// Leases that expire in one tick.
const EXPIRED_PER_TICK: usize = 1_000;

fn main() {
    if let Ok(kind) = std::env::var(memory::MEASURE_MEMORY) {
        memory::measure(&kind);
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    if !std::env::args().any(|argument| argument == "--list") {
        memory::measure_all();
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = registry, map::map }

fn registry(criterion: &mut Criterion) {
    let rooms = common::busy_rooms();
    heartbeat(criterion, &rooms);
    join_leave(criterion, &rooms);
    expiry(criterion, &rooms);
}

fn heartbeat<F: FnOnce() -> RefCell<BusyRoom>>(criterion: &mut Criterion, rooms: &BusyRooms<F>) {
    let mut group = criterion.benchmark_group("registry_heartbeat");
    for (users, busy) in rooms {
        group.throughput(Throughput::Elements(1));
        let mut start = 0;
        group.bench_function(BenchmarkId::from_parameter(users), |bencher| {
            let busy = busy.borrow_mut();
            let (registry, now) = (&*busy.registry, busy.now);
            bencher.iter_custom(|heartbeats| {
                start += 1;
                // Each sample starts elsewhere, so that the previous one has not warmed the caches for it.
                let order = busy.sessions.iter().cycle().skip(start * 7_919 % users);
                timed(|| order.take(heartbeats as usize).for_each(|session| registry.renew(session, now)))
            });
            // That heartbeats keep users online was checked when the room was created.
            assert_eq!(busy.registry.users_online(), busy.sessions.len());
        });
    }
    group.finish();
}

/// A join includes opening the session, a leave includes ending it. A tick follows each round of either.
fn join_leave<F: FnOnce() -> RefCell<BusyRoom>>(criterion: &mut Criterion, rooms: &BusyRooms<F>) {
    let mut group = criterion.benchmark_group("registry_join_leave");
    for (users, busy) in rooms {
        let names: Vec<String> = (0..(*users).min(10_000)).map(|number| format!("new-{number}")).collect();
        for (name, measured) in [("join", Phase::Join), ("leave", Phase::Leave)] {
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new(name, users), |bencher| {
                let mut busy = busy.borrow_mut();
                bencher.iter_custom(|times| time_phase(&mut busy, &names, times as usize, measured));
                assert_eq!(busy.registry.users_online(), *users);
                assert_eq!(busy.announced(), *users);
            });
        }
    }
    group.finish();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Join,
    Leave,
}

/// `times` users join and leave again, as many at once as there are names.
fn time_phase(busy: &mut BusyRoom, names: &[String], times: usize, measured: Phase) -> Duration {
    let registry = Arc::clone(&busy.registry);
    let present = busy.sessions.len();
    let mut sessions = Vec::with_capacity(names.len());
    let mut spent = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let count = names.len().min(left);
        left -= count;
        let now = busy.now;
        let join = |name: &String| {
            let session = registry.open_session(name, now);
            registry.join(&session, ROOM, None, now);
            session
        };
        let joining = timed(|| sessions.extend(names[..count].iter().map(join)));
        next_tick(busy, present + count);
        let leaving = timed(|| sessions.drain(..).for_each(|session| registry.end_session(&session, Reason::Left)));
        next_tick(busy, present);
        spent += if measured == Phase::Join { joining } else { leaving };
    }
    spent
}

fn next_tick(busy: &mut BusyRoom, announced: usize) {
    busy.next_tick();
    busy.settle();
    assert_eq!(busy.announced(), announced);
}

/// Expiry in one tick: with leases that end, and without. In both cases leases that might have ended are checked.
fn expiry<F: FnOnce() -> RefCell<BusyRoom>>(criterion: &mut Criterion, rooms: &BusyRooms<F>) {
    let mut group = criterion.benchmark_group("registry_expiry");
    for (users, busy) in rooms {
        for ended in [0, EXPIRED_PER_TICK] {
            group.throughput(Throughput::Elements(ended.max(1) as u64));
            group.bench_function(BenchmarkId::new(format!("ended_{ended}"), users), |bencher| {
                let mut busy = busy.borrow_mut();
                bencher.iter_custom(|ticks| (0..ticks).map(|_| time_expiry(&mut busy, ended)).sum());
                assert_eq!(busy.registry.users_online(), *users);
            });
        }
    }
    group.finish();
}

fn time_expiry(busy: &mut BusyRoom, ended: usize) -> Duration {
    let registry = Arc::clone(&busy.registry);
    for number in 0..ended {
        let session = registry.open_session(&format!("lost-{number}"), busy.now);
        registry.join(&session, ROOM, None, busy.now);
        registry.detach_session(&session, 0, busy.now);
    }
    busy.settle();
    assert_eq!(busy.announced(), busy.sessions.len() + ended);
    busy.next_tick();
    let spent = timed(|| registry.end_leases(busy.now));
    busy.settle();
    assert_eq!(busy.announced(), busy.sessions.len());
    spent
}
