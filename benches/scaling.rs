//! What stays constant when the numbers of threads and rooms grow.
//!
//! `scaling_heartbeat` and `scaling_join_leave`: several threads on one registry. For comparison, the same threads each
//! use a registry of their own with a share of the users, which is perfect scaling: they share only the machine. Times
//! are per operation of one thread (a join with its leave is one), the slowest thread counts, and throughput is that of
//! all threads together. With more threads than cores, times grow in any case.
//!
//! `scaling_rooms`: the same users spread over more and more rooms, each with an observer, and a constant number of
//! users who join and leave. Measures their joins and leaves, and the tick that broadcasts them. Changes in the same
//! room share a frame.
//!
//! Other sizes are measured elsewhere: users in registry (per operation) and tick.rs (`tick_present`), observers in
//! tick.rs (`tick_changes`), sockets in fanout.

mod common;

use std::cell::LazyCell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::{
    BusyRoom, ROOM, Random, TICK, WORKERS, encoders, registry, run_on_threads, run_on_threads_with_pauses, timed,
    user_name,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rollcall::broadcast::Broadcaster;
use rollcall::presence::{Now, Registry, Session};
use rollcall::protocol::native;

/// Users who join or leave between two ticks: per thread in `scaling_join_leave`, in total in `scaling_rooms`.
const CHURN: usize = 1_000;

/// Powers of two up to the number of cores, at least up to 4.
fn thread_counts() -> Vec<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let most = if common::smoke() { 2 } else { cores.max(4) };
    let mut counts: Vec<usize> =
        std::iter::successors(Some(1), |count| Some(count * 2)).take_while(|count| *count < most).collect();
    counts.push(most);
    counts
}

/// Too many for the caches of a core, and few enough to join in a second.
fn users() -> usize {
    if common::smoke() { 1_000 } else { 100_000 }
}

/// The users, spread over this many registries.
fn busy_rooms(registries: usize) -> Vec<BusyRoom> {
    (0..registries).map(|_| BusyRoom::with_users(users() / registries)).collect()
}

fn heartbeat(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scaling_heartbeat");
    for threads in thread_counts() {
        for (name, registries) in [("one_registry", 1), ("own_registries", threads)] {
            let rooms = LazyCell::new(|| busy_rooms(registries));
            let mut start = 0;
            group.throughput(Throughput::Elements(threads as u64));
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                let mut shares = Vec::new();
                for busy in &*rooms {
                    let sessions = busy.sessions.chunks(busy.sessions.len().div_ceil(threads / registries));
                    shares.extend(sessions.map(|sessions| (&*busy.registry, busy.now, sessions)));
                }
                assert_eq!(shares.len(), threads);
                bencher.iter_custom(|heartbeats| {
                    start += 1;
                    run_on_threads(shares.clone(), 1, |(registry, now, sessions), _| {
                        // Each sample starts elsewhere, so that the previous one has not warmed the caches for it.
                        let order =
                            sessions.iter().cycle().skip(start * 7_919 % sessions.len()).take(heartbeats as usize);
                        timed(|| order.for_each(|session| registry.renew(session, *now)))
                    })
                });
                assert!(rooms.iter().all(|busy| busy.registry.users_online() == busy.sessions.len()));
            });
        }
    }
    group.finish();
}

/// All threads use the room of all users, or each thread a room of its own, or each thread a registry of its own.
fn join_leave(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scaling_join_leave");
    for threads in thread_counts() {
        for (name, registries, own_room) in
            [("one_room", 1, false), ("own_rooms", 1, true), ("own_registries", threads, false)]
        {
            let rooms = LazyCell::new(|| busy_rooms(registries));
            group.throughput(Throughput::Elements(threads as u64));
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                let shares: Vec<ThreadChurn<'_>> = (0..threads)
                    .map(|thread| {
                        let room = if own_room { format!("{ROOM}-{thread}") } else { ROOM.to_owned() };
                        ThreadChurn::new(&rooms[thread % registries], thread, room)
                    })
                    .collect();
                bencher.iter_custom(|times| join_and_leave(&rooms, &shares, times as usize));
                for busy in &*rooms {
                    assert_eq!(
                        (busy.registry.users_online(), busy.announced()),
                        (busy.sessions.len(), busy.sessions.len())
                    );
                }
            });
        }
    }
    group.finish();
}

/// The users who join and leave on one thread.
struct ThreadChurn<'a> {
    registry: &'a Registry,
    now: Now,
    room: String,
    sessions: Vec<Arc<Session>>,
}

impl<'a> ThreadChurn<'a> {
    fn new(busy: &'a BusyRoom, thread: usize, room: String) -> Self {
        let open = |number| busy.registry.open_session(&format!("churn-{thread}-{number}"), busy.now);
        Self { registry: &busy.registry, now: busy.now, room, sessions: (0..CHURN).map(open).collect() }
    }
}

/// The sessions of each thread join and leave in turn, with a tick after each, until each thread has done `times`
/// joins. The clock stands still, so no lease is checked.
fn join_and_leave(rooms: &[BusyRoom], shares: &[ThreadChurn<'_>], times: usize) -> Duration {
    let count = |round: usize| CHURN.min(times - round / 2 * CHURN);
    let work = |share: &mut &ThreadChurn<'_>, round: usize| {
        let sessions = share.sessions[..count(round)].iter();
        timed(|| {
            if round.is_multiple_of(2) {
                sessions.for_each(|session| drop(share.registry.join(session, &share.room, None, share.now)));
            } else {
                sessions.for_each(|session| assert!(share.registry.leave(session, &share.room)));
            }
        })
    };
    let present: usize = rooms.iter().map(|busy| busy.sessions.len()).sum();
    run_on_threads_with_pauses(shares.iter().collect(), 2 * times.div_ceil(CHURN), work, |round| {
        rooms.iter().for_each(BusyRoom::settle);
        let online: usize = rooms.iter().map(|busy| busy.registry.users_online()).sum();
        let joined = if round.is_multiple_of(2) { shares.len() * count(round) } else { 0 };
        assert_eq!(online, present + joined);
    })
}

fn rooms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scaling_rooms");
    let counts: &[usize] = if common::smoke() { &[1, 100] } else { &[1, 10, 100, 1_000, 10_000, 100_000] };
    for rooms in counts {
        let mut many = LazyCell::new(|| ManyRooms::new(*rooms));
        group.throughput(Throughput::Elements(CHURN as u64));
        for (name, timed_part) in [("join_or_leave", 0), ("tick", 1)] {
            group.bench_function(BenchmarkId::new(name, rooms), |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| many.toggle()[timed_part]).sum());
            });
        }
    }
    group.finish();
}

/// Users spread evenly over observed rooms, and additional users who join and leave together.
struct ManyRooms {
    registry: Arc<Registry>,
    broadcaster: Broadcaster,
    /// The additional users, each with its room.
    churn: Vec<(Arc<Session>, String)>,
    /// Whether the additional users are in their rooms.
    joined: bool,
    rooms: usize,
}

impl ManyRooms {
    fn new(rooms: usize) -> Self {
        let registry = Arc::new(registry());
        let now = Now::default();
        for user in 0..users() {
            registry.join(&registry.open_session(&user_name(user), now), &room_name(user % rooms), None, now);
        }
        for room in 0..rooms {
            registry.observe(&room_name(room), room % WORKERS, native::MEMBERS, false);
        }
        let mut broadcaster = Broadcaster::new(Arc::clone(&registry), WORKERS, TICK, encoders());
        broadcaster.tick(now);
        assert_eq!((registry.users_online(), registry.rooms_open()), (users(), rooms));
        let mut random = Random::new();
        let open = |number| (registry.open_session(&format!("churn-{number}"), now), room_name(random.below(rooms)));
        let churn = (0..CHURN).map(open).collect();
        Self { registry, broadcaster, churn, joined: false, rooms }
    }

    /// The additional users all join or all leave, and a tick follows. Returns the time of each.
    fn toggle(&mut self) -> [Duration; 2] {
        self.joined = !self.joined;
        let now = Now::default();
        let changing = timed(|| {
            for (session, room) in &self.churn {
                if self.joined {
                    self.registry.join(session, room, None, now);
                } else {
                    assert!(self.registry.leave(session, room));
                }
            }
        });
        let mut done = None;
        let ticking = timed(|| done = Some(self.broadcaster.tick(now)));
        let (batches, counts) = done.expect("the tick is done");
        let changed: HashSet<&str> = self.churn.iter().map(|(_, room)| &**room).collect();
        assert_eq!((counts.rooms, counts.changes()), (changed.len() as u64, CHURN as u64));
        assert_eq!(batches.iter().map(|batch| batch.rooms.len()).sum::<usize>(), changed.len());
        assert_eq!(self.registry.rooms_open(), self.rooms);
        [changing, ticking]
    }
}

fn room_name(number: usize) -> String {
    format!("room-{number:06}")
}

criterion_group! { name = benches; config = common::criterion(); targets = heartbeat, join_leave, rooms }
criterion_main!(benches);
