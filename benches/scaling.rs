//! Scaling: what stays as it is when threads and rooms become more.
//!
//! `scaling_heartbeat` and `scaling_join_leave`: so many threads on one registry, and beside it perfect scaling, which is as
//! many threads each on a registry of its own with its share of the users: they share nothing but the machine. A time is that
//! of one operation (a join and its leave are one) on its thread, the slowest thread counts, and throughput is that of all
//! threads together. With more threads than cores times grow, whatever the registry does.
//!
//! `scaling_rooms`: the same users spread over ever more rooms, each room with an observer, and the same number of users who
//! move; what their joins and leaves cost, and the tick that tells of them. Changes that share a room share a frame.
//!
//! Elsewhere, so not here: ever more users in registry.rs (each operation) and tick.rs (`tick_present`), ever more observers in
//! tick.rs (`tick_changes`), ever more sockets in fanout.rs.

mod common;

use std::cell::LazyCell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::{Crowd, ROOM, Random, TICK, WORKERS, encoders, race, race_with_pauses, registry, timed, user_name};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rollcall::broadcast::Broadcaster;
use rollcall::presence::{Now, Registry, Session};
use rollcall::protocol::native;

/// Users that a thread brings and takes away between two ticks, and users who move between rooms.
const GUESTS: usize = 1_000;

/// Powers of two up to the number of cores, and at least to 4.
fn thread_counts() -> Vec<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let most = if common::smoke() { 2 } else { cores.max(4) };
    let mut counts: Vec<usize> =
        std::iter::successors(Some(1), |count| Some(count * 2)).take_while(|count| *count < most).collect();
    counts.push(most);
    counts
}

/// Large enough to be cold in the caches of a core, small enough to be gathered in a second.
fn users() -> usize {
    if common::smoke() { 1_000 } else { 100_000 }
}

/// The users, spread over this many registries.
fn gather(registries: usize) -> Vec<Crowd> {
    (0..registries).map(|_| Crowd::gather(users() / registries)).collect()
}

fn heartbeat(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scaling_heartbeat");
    for threads in thread_counts() {
        for (name, registries) in [("one_registry", 1), ("own_registries", threads)] {
            let crowds = LazyCell::new(|| gather(registries));
            let mut start = 0;
            group.throughput(Throughput::Elements(threads as u64));
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                let mut shares = Vec::new();
                for crowd in &*crowds {
                    let sessions = crowd.sessions.chunks(crowd.sessions.len().div_ceil(threads / registries));
                    shares.extend(sessions.map(|sessions| (&*crowd.registry, crowd.now, sessions)));
                }
                assert_eq!(shares.len(), threads);
                bencher.iter_custom(|beats| {
                    start += 1;
                    race(shares.clone(), 1, |(registry, now, sessions), _| {
                        // Each time another part of the crowd: what a sample before has warmed is cold again.
                        let order = sessions.iter().cycle().skip(start * 7_919 % sessions.len()).take(beats as usize);
                        timed(|| order.for_each(|session| registry.renew(session, *now)))
                    })
                });
                assert!(crowds.iter().all(|crowd| crowd.registry.users_online() == crowd.sessions.len()));
            });
        }
    }
    group.finish();
}

/// Guests of all threads meet in the room where everybody is, or in a room of the thread, or in a registry of it.
fn join_leave(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scaling_join_leave");
    for threads in thread_counts() {
        for (name, registries, own_room) in
            [("one_room", 1, false), ("own_rooms", 1, true), ("own_registries", threads, false)]
        {
            let crowds = LazyCell::new(|| gather(registries));
            group.throughput(Throughput::Elements(threads as u64));
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                let hands: Vec<Hand<'_>> = (0..threads)
                    .map(|thread| {
                        let room = if own_room { format!("{ROOM}-{thread}") } else { ROOM.to_owned() };
                        Hand::new(&crowds[thread % registries], thread, room)
                    })
                    .collect();
                bencher.iter_custom(|times| come_and_go(&crowds, &hands, times as usize));
                for crowd in &*crowds {
                    assert_eq!(
                        (crowd.registry.users_online(), crowd.announced()),
                        (crowd.sessions.len(), crowd.sessions.len())
                    );
                }
            });
        }
    }
    group.finish();
}

/// The guests of one thread.
struct Hand<'a> {
    registry: &'a Registry,
    now: Now,
    room: String,
    guests: Vec<Arc<Session>>,
}

impl<'a> Hand<'a> {
    fn new(crowd: &'a Crowd, thread: usize, room: String) -> Self {
        let open = |number| crowd.registry.open_session(&format!("guest-{thread}-{number}"), crowd.now);
        Self { registry: &crowd.registry, now: crowd.now, room, guests: (0..GUESTS).map(open).collect() }
    }
}

/// Lets the guests of each hand join and leave in turn, with a tick after each, until each hand has done so many. The clock
/// stands still, so that no lease is looked at.
fn come_and_go(crowds: &[Crowd], hands: &[Hand<'_>], times: usize) -> Duration {
    let moving = |round: usize| GUESTS.min(times - round / 2 * GUESTS);
    let work = |hand: &mut &Hand<'_>, round: usize| {
        let guests = hand.guests[..moving(round)].iter();
        timed(|| {
            if round.is_multiple_of(2) {
                guests.for_each(|guest| drop(hand.registry.join(guest, &hand.room, None, hand.now)));
            } else {
                guests.for_each(|guest| assert!(hand.registry.leave(guest, &hand.room)));
            }
        })
    };
    let present: usize = crowds.iter().map(|crowd| crowd.sessions.len()).sum();
    race_with_pauses(hands.iter().collect(), 2 * times.div_ceil(GUESTS), work, |round| {
        crowds.iter().for_each(Crowd::settle);
        let online: usize = crowds.iter().map(|crowd| crowd.registry.users_online()).sum();
        let inside = if round.is_multiple_of(2) { hands.len() * moving(round) } else { 0 };
        assert_eq!(online, present + inside);
    })
}

fn rooms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scaling_rooms");
    let counts: &[usize] = if common::smoke() { &[1, 100] } else { &[1, 10, 100, 1_000, 10_000, 100_000] };
    for rooms in counts {
        let mut town = LazyCell::new(|| Town::found(*rooms));
        group.throughput(Throughput::Elements(GUESTS as u64));
        for (name, timed_part) in [("join_or_leave", 0), ("tick", 1)] {
            group.bench_function(BenchmarkId::new(name, rooms), |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| town.swap()[timed_part]).sum());
            });
        }
    }
    group.finish();
}

/// Users spread evenly over rooms that somebody looks at, and some more who come and go together.
struct Town {
    registry: Arc<Registry>,
    broadcaster: Broadcaster,
    /// Each with the room it goes to.
    guests: Vec<(Arc<Session>, String)>,
    inside: bool,
    rooms: usize,
}

impl Town {
    fn found(rooms: usize) -> Self {
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
        let guest = |number| (registry.open_session(&format!("guest-{number}"), now), room_name(random.below(rooms)));
        let guests = (0..GUESTS).map(guest).collect();
        Self { registry, broadcaster, guests, inside: false, rooms }
    }

    /// All guests come, or go, and a tick tells of it. How long either took.
    fn swap(&mut self) -> [Duration; 2] {
        self.inside = !self.inside;
        let now = Now::default();
        let moving = timed(|| {
            for (guest, room) in &self.guests {
                if self.inside {
                    self.registry.join(guest, room, None, now);
                } else {
                    assert!(self.registry.leave(guest, room));
                }
            }
        });
        let mut done = None;
        let telling = timed(|| done = Some(self.broadcaster.tick(now)));
        let (batches, counts) = done.expect("the tick was done");
        let visited: HashSet<&str> = self.guests.iter().map(|(_, room)| &**room).collect();
        assert_eq!((counts.rooms, counts.changes), (visited.len() as u64, GUESTS as u64));
        assert_eq!(batches.iter().map(|batch| batch.rooms.len()).sum::<usize>(), visited.len());
        assert_eq!(self.registry.rooms_open(), self.rooms);
        [moving, telling]
    }
}

fn room_name(number: usize) -> String {
    format!("room-{number:06}")
}

criterion_group! { name = benches; config = common::criterion(); targets = heartbeat, join_leave, rooms }
criterion_main!(benches);
