//! The registry: heartbeats, arrivals, departures and ended leases among ever more users, on one thread; scaling.rs has several.
//!
//! Everybody is in one room, and beats. A time is that of one operation. Users are visited in random order, so a large crowd
//! is as cold in the caches as it is on a server.
//!
//! `map` compares dashmap with the plain thing, [`Sharded`], on one thread and on two: both do as many operations, and the
//! slower one counts. At the end stands what a member weighs; it is not timed.

mod common;

use std::cell::{LazyCell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use common::{Crowd, Crowds, ROOM, Random, race, timed, user_name};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use dashmap::DashMap;
use foldhash::quality::FixedState;
use parking_lot::Mutex;
use rollcall::presence::{Now, Reason, Registry, Roster, Session};

/// Threads that use a map at once.
const THREADS: [usize; 2] = [1, 2];
/// Shards of both maps, as the registry has them.
const SHARDS: usize = 256;
/// Users that come, go or lapse between two ticks.
const ENDED_PER_TICK: usize = 1_000;
/// Names the kind of member that this process is to weigh, in place of everything else.
const WEIGH: &str = "ROLLCALL_BENCH_WEIGH";

fn main() {
    if let Ok(kind) = std::env::var(WEIGH) {
        weigh(&kind);
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    if !std::env::args().any(|argument| argument == "--list") {
        weigh_all();
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = registry, map }

fn registry(criterion: &mut Criterion) {
    let crowds = common::crowds();
    renew(criterion, &crowds);
    come_and_go(criterion, &crowds);
    end_leases(criterion, &crowds);
}

fn renew<F: FnOnce() -> RefCell<Crowd>>(criterion: &mut Criterion, crowds: &Crowds<F>) {
    let mut group = criterion.benchmark_group("registry_heartbeat");
    for (users, crowd) in crowds {
        group.throughput(Throughput::Elements(1));
        let mut start = 0;
        group.bench_function(BenchmarkId::from_parameter(users), |bencher| {
            let crowd = crowd.borrow_mut();
            let (registry, now) = (&*crowd.registry, crowd.now);
            bencher.iter_custom(|beats| {
                start += 1;
                // Each time another part of the crowd: what a sample before has warmed is cold again.
                let order = crowd.sessions.iter().cycle().skip(start * 7_919 % users);
                timed(|| order.take(beats as usize).for_each(|session| registry.renew(session, now)))
            });
            // That heartbeats keep everybody was shown when the crowd was gathered: over two leases.
            assert_eq!(crowd.registry.users_online(), crowd.sessions.len());
        });
    }
    group.finish();
}

/// Arrivals are a new session and a join; departures end the session. In rounds, with a tick after each.
fn come_and_go<F: FnOnce() -> RefCell<Crowd>>(criterion: &mut Criterion, crowds: &Crowds<F>) {
    let mut group = criterion.benchmark_group("registry_join_leave");
    for (users, crowd) in crowds {
        let names: Vec<String> = (0..(*users).min(10_000)).map(|number| format!("new-{number}")).collect();
        for (name, measured) in [("join", Phase::Join), ("leave", Phase::Leave)] {
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new(name, users), |bencher| {
                let mut crowd = crowd.borrow_mut();
                bencher.iter_custom(|times| time_phase(&mut crowd, &names, times as usize, measured));
                assert_eq!(crowd.registry.users_online(), *users);
                assert_eq!(crowd.announced(), *users);
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

/// Brings `times` users and takes them away again, as many at once as there are names.
fn time_phase(crowd: &mut Crowd, names: &[String], times: usize, measured: Phase) -> Duration {
    let registry = Arc::clone(&crowd.registry);
    let present = crowd.sessions.len();
    let mut sessions = Vec::with_capacity(names.len());
    let mut spent = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let count = names.len().min(left);
        left -= count;
        let now = crowd.now;
        let arrive = |name: &String| {
            let session = registry.open_session(name, now);
            registry.join(&session, ROOM, None, now);
            session
        };
        let joining = timed(|| sessions.extend(names[..count].iter().map(arrive)));
        next_tick(crowd, present + count);
        let leaving = timed(|| sessions.drain(..).for_each(|session| registry.end_session(&session, Reason::Left)));
        next_tick(crowd, present);
        spent += if measured == Phase::Join { joining } else { leaving };
    }
    spent
}

fn next_tick(crowd: &mut Crowd, announced: usize) {
    crowd.rest_heartbeat();
    crowd.settle();
    assert_eq!(crowd.announced(), announced);
}

/// One tick of expiry: with leases that end, and with none but those that are looked at because they might.
fn end_leases<F: FnOnce() -> RefCell<Crowd>>(criterion: &mut Criterion, crowds: &Crowds<F>) {
    let mut group = criterion.benchmark_group("registry_expiry");
    for (users, crowd) in crowds {
        for ended in [0, ENDED_PER_TICK] {
            group.throughput(Throughput::Elements(ended.max(1) as u64));
            group.bench_function(BenchmarkId::new(format!("ended_{ended}"), users), |bencher| {
                let mut crowd = crowd.borrow_mut();
                bencher.iter_custom(|ticks| (0..ticks).map(|_| time_expiry(&mut crowd, ended)).sum());
                assert_eq!(crowd.registry.users_online(), *users);
            });
        }
    }
    group.finish();
}

fn time_expiry(crowd: &mut Crowd, ended: usize) -> Duration {
    let registry = Arc::clone(&crowd.registry);
    for number in 0..ended {
        let session = registry.open_session(&format!("lost-{number}"), crowd.now);
        registry.join(&session, ROOM, None, crowd.now);
        registry.detach_session(&session, 0, crowd.now);
    }
    crowd.settle();
    assert_eq!(crowd.announced(), crowd.sessions.len() + ended);
    crowd.rest_heartbeat();
    let spent = timed(|| registry.end_leases(crowd.now));
    crowd.settle();
    assert_eq!(crowd.announced(), crowd.sessions.len());
    spent
}

/// What the registry keeps of a user is this long.
type Value = [u64; 6];

/// What both maps can do.
trait Map: Default + Sync {
    const NAME: &str;
    fn insert(&self, key: Arc<str>, value: Value) -> Option<Value>;
    fn remove(&self, key: &str) -> Option<Value>;
    fn get(&self, key: &str) -> Option<u64>;
    fn len(&self) -> usize;
}

struct Dash(DashMap<Arc<str>, Value, FixedState>);

/// The plain thing: mutexes around maps of the standard library, chosen by the hash. It hashes twice, once for the shard and
/// once within; dashmap saves that by keeping its shards as raw tables.
struct Sharded {
    hasher: FixedState,
    shards: Box<[Shard]>,
}

type Shard = Mutex<HashMap<Arc<str>, Value, FixedState>>;

impl Sharded {
    fn shard(&self, key: &str) -> &Shard {
        // The map within takes the lowest and the highest bits for itself.
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }
}

impl Default for Dash {
    fn default() -> Self {
        let hasher = FixedState::with_seed(common::SEED);
        Self(DashMap::with_capacity_and_hasher_and_shard_amount(0, hasher, SHARDS))
    }
}

impl Default for Sharded {
    fn default() -> Self {
        let hasher = FixedState::with_seed(common::SEED);
        let shard = |_| Mutex::new(HashMap::with_hasher(hasher.clone()));
        Self { shards: (0..SHARDS).map(shard).collect(), hasher }
    }
}

impl Map for Dash {
    const NAME: &str = "dashmap";

    fn insert(&self, key: Arc<str>, value: Value) -> Option<Value> {
        self.0.insert(key, value)
    }

    fn remove(&self, key: &str) -> Option<Value> {
        self.0.remove(key).map(|(_, value)| value)
    }

    fn get(&self, key: &str) -> Option<u64> {
        self.0.get(key).map(|value| value[0])
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl Map for Sharded {
    const NAME: &str = "mutexes";

    fn insert(&self, key: Arc<str>, value: Value) -> Option<Value> {
        self.shard(&key).lock().insert(key, value)
    }

    fn remove(&self, key: &str) -> Option<Value> {
        self.shard(key).lock().remove(key)
    }

    fn get(&self, key: &str) -> Option<u64> {
        self.shard(key).lock().get(key).map(|value| value[0])
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

fn map(criterion: &mut Criterion) {
    for users in common::crowd_sizes() {
        let keys = LazyCell::new(|| {
            let mut keys: Vec<Arc<str>> = (0..*users).map(|number| user_name(number).into()).collect();
            Random::new().shuffle(&mut keys);
            keys
        });
        map_of::<Dash, _>(criterion, &keys, *users);
        map_of::<Sharded, _>(criterion, &keys, *users);
    }
}

fn map_of<M: Map, F: FnOnce() -> Vec<Arc<str>>>(
    criterion: &mut Criterion,
    keys: &LazyCell<Vec<Arc<str>>, F>,
    users: usize,
) {
    let mut group = criterion.benchmark_group("map");
    let map = LazyCell::new(|| {
        let map = M::default();
        for (number, key) in keys.iter().enumerate() {
            assert!(map.insert(Arc::clone(key), [number as u64; 6]).is_none());
        }
        map
    });
    for threads in THREADS {
        for operation in ["get", "insert", "remove"] {
            group.throughput(Throughput::Elements(threads as u64));
            let id = BenchmarkId::new(format!("{operation}/{}/threads_{threads}", M::NAME), users);
            let mut start = 0;
            group.bench_function(id, |bencher| {
                let map = &*map;
                bencher.iter_custom(|times| {
                    start += 1;
                    race(keys.chunks(users / threads).collect(), 1, |share, _| match operation {
                        "get" => time_gets(map, share, start * 7_919 % share.len(), times as usize),
                        _ => time_moves(map, share, start, times as usize, operation == "insert"),
                    })
                });
                assert_eq!(map.len(), users);
                assert!(keys.iter().enumerate().step_by(97).all(|(number, key)| map.get(key) == Some(number as u64)));
            });
        }
    }
    group.finish();
}

fn time_gets(map: &impl Map, keys: &[Arc<str>], start: usize, times: usize) -> Duration {
    let order = keys.iter().cycle().skip(start).take(times);
    let mut found = 0;
    let spent = timed(|| found = order.filter(|key| black_box(map.get(key)).is_some()).count());
    assert_eq!(found, times);
    spent
}

/// Takes keys out and puts them back, a tenth of them at once, and times one of the two.
fn time_moves(map: &impl Map, keys: &[Arc<str>], start: usize, times: usize, inserts: bool) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = times;
    let mut values = Vec::with_capacity(keys.len());
    for chunk in keys.chunks((keys.len() / 10).min(10_000)).cycle().skip(start) {
        let chunk = &chunk[..chunk.len().min(left)];
        let removing = timed(|| values.extend(chunk.iter().filter_map(|key| map.remove(key))));
        assert_eq!(values.len(), chunk.len());
        let again = chunk.iter().zip(values.drain(..));
        let inserting = timed(|| again.for_each(|(key, value)| assert!(map.insert(Arc::clone(key), value).is_none())));
        spent += if inserts { inserting } else { removing };
        left -= chunk.len();
        if left == 0 {
            break;
        }
    }
    spent
}

/// Kinds of members, and how many share a room.
const KINDS: [(&str, usize); 3] = [("name", 1_000_000), ("uuid", 1_000_000), ("rooms", 100)];

/// Weighs each kind of member in a process of its own, where nothing was freed before that could be used again.
fn weigh_all() {
    println!("\nmemory: resident bytes for each member, of its session (name and lease included) + of its membership");
    let program = std::env::current_exe().expect("the path of this program");
    for (kind, _) in KINDS {
        let mut weigher = std::process::Command::new(&program);
        weigher.args(std::env::args_os().skip(1)).env(WEIGH, kind);
        let status = weigher.status().expect("this program starts once more");
        assert!(status.success(), "weighing {kind}: {status}");
    }
}

/// Opens all sessions, then lets them join, a hundredth between two ticks.
fn weigh(kind: &str) {
    let users = common::crowd_sizes()[common::crowd_sizes().len() - 1];
    let per_room = KINDS.iter().find(|(name, _)| *name == kind).expect("a kind to weigh").1;
    let at_once = users.div_ceil(100);
    let mut random = Random::new();
    let mut numbers: Vec<usize> = (0..users).collect();
    random.shuffle(&mut numbers);
    let mut sessions: Vec<Option<Arc<Session>>> = vec![None; users];
    let registry = common::registry();
    let mut now = Now::default();
    let empty = resident_bytes();
    for arrivals in sessions.chunks_mut(at_once).zip(numbers.chunks(at_once)) {
        for (session, number) in arrivals.0.iter_mut().zip(arrivals.1) {
            let user = if kind == "uuid" { uuid(&mut random, *number) } else { user_name(*number) };
            *session = Some(registry.open_session(&user, now));
        }
        now.tick += 1;
        settle(&registry, now);
    }
    let opened = resident_bytes();
    for arrivals in sessions.chunks(at_once).zip(numbers.chunks(at_once)) {
        for (session, number) in arrivals.0.iter().flatten().zip(arrivals.1) {
            registry.join(session, &format!("room-{}", number / per_room), None, now);
        }
        settle(&registry, now);
    }
    let joined = resident_bytes();
    let counted: usize = registry.rooms().iter().map(|room| room.read(Roster::count)).sum();
    assert_eq!((registry.users_online(), counted), (users, users));
    let id_bytes = sessions[0].as_ref().map_or(0, |session| session.user().len());
    let each = |before: usize, after: usize| after.saturating_sub(before) / users;
    let (session, membership, total) = (each(empty, opened), each(opened, joined), each(empty, joined));
    println!(
        "{users:>9} members, ids of {id_bytes} bytes, {per_room:>7} to a room: \
         {session:>3} + {membership:>3} = {total:>3} B (budget 200)"
    );
}

fn settle(registry: &Registry, now: Now) {
    registry.end_leases(now);
    for room in registry.take_dirty() {
        registry.settle(&room);
    }
}

/// Text as long as a UUID and as random.
fn uuid(random: &mut Random, number: usize) -> String {
    let mut digits = || random.below(1 << 16);
    format!(
        "{:04x}{:04x}-{:04x}-4{:03x}-a{:03x}-{number:012x}",
        digits(),
        digits(),
        digits(),
        digits() >> 4,
        digits() >> 4
    )
}

/// What of this process is in memory. The kernel counts it in KiB there, so the size of a page need not be known.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells what a process weighs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line for it");
    let kib = line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number");
    kib * 1024
}
