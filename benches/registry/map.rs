//! Compares dashmap with [`MutexMap`], the plain alternative, on one thread and on two. All threads do the same number
//! of operations, and the slowest one counts.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use dashmap::DashMap;
use foldhash::quality::FixedState;
use parking_lot::Mutex;

use crate::common::{self, Random, run_on_threads, timed, user_name};

/// Numbers of threads that use a map at once.
const THREADS: [usize; 2] = [1, 2];
/// Shards of both maps, as in the registry.
const SHARDS: usize = 256;

/// As long as what the registry keeps per user.
type Value = [u64; 6];

/// The operations that are compared.
trait Map: Default + Sync {
    const NAME: &str;
    fn insert(&self, key: Arc<str>, value: Value) -> Option<Value>;
    fn remove(&self, key: &str) -> Option<Value>;
    fn get(&self, key: &str) -> Option<u64>;
    fn len(&self) -> usize;
}

struct Dash(DashMap<Arc<str>, Value, FixedState>);

/// Mutexes around maps of the standard library, chosen by the hash. It hashes twice, for the shard and within it;
/// dashmap saves one hash by using raw tables as shards.
struct MutexMap {
    hasher: FixedState,
    shards: Box<[Shard]>,
}

type Shard = Mutex<HashMap<Arc<str>, Value, FixedState>>;

impl MutexMap {
    fn shard(&self, key: &str) -> &Shard {
        // The map in the shard uses the lowest and the highest bits.
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }
}

impl Default for Dash {
    fn default() -> Self {
        let hasher = FixedState::with_seed(common::SEED);
        Self(DashMap::with_capacity_and_hasher_and_shard_amount(0, hasher, SHARDS))
    }
}

impl Default for MutexMap {
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

impl Map for MutexMap {
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

pub(super) fn map(criterion: &mut Criterion) {
    for users in common::user_counts() {
        let keys = LazyCell::new(|| {
            let mut keys: Vec<Arc<str>> = (0..*users).map(|number| user_name(number).into()).collect();
            Random::new().shuffle(&mut keys);
            keys
        });
        bench_map::<Dash, _>(criterion, &keys, *users);
        bench_map::<MutexMap, _>(criterion, &keys, *users);
    }
}

fn bench_map<M: Map, F: FnOnce() -> Vec<Arc<str>>>(
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
                    run_on_threads(keys.chunks(users / threads).collect(), 1, |share, _| match operation {
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

/// Removes keys and inserts them again, a tenth of them at once, and times one of the two.
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
