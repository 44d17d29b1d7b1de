//! The Redis store's way out and way in: a batch is made of what happened, goes to a real Redis and is answered; an event of
//! another node is read.
//!
//! Throughput is in users (or commands) a second. The pipelines go to a redis-server that the bench starts itself; `alternating`
//! sends one and waits for its answers, `overlapping` has the next one on its way meanwhile, as the engine does. `writer` is both:
//! leases are due, batches are made, sent and answered.

mod common;

#[path = "redis/server.rs"]
mod server;
#[path = "redis/writer.rs"]
mod writer;

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use common::{ROOM, TTL, user_name};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rollcall::json::Reader;
use rollcall::presence::{HoldChange, Now, Registry, Session, Settings, State, Tick};
use rollcall::store::StoreEvent;
use rollcall::store::redis::command::{Command, Reply};
use rollcall::store::redis::event::{self, Event};
use rollcall::store::redis::link::Connection;
use rollcall::store::redis::partition::{Batch, Lane};
use server::Server;
use tokio::runtime::{Builder, LocalOptions};
use writer::{LEASE, Writer, connect, schema};

/// What a pipeline of the store has at the most.
const BATCH: usize = 1_000;
/// By then every lease that was written at the same time is due.
const ALL_ARE_DUE_AFTER: Tick = TTL;
const STATE: &str = r#"{"mood":"on the train","since":1700000000,"device":"phone"}"#;

fn sizes() -> &'static [usize] {
    if common::smoke() { &[10, BATCH] } else { &[100, BATCH, 100_000] }
}

/// Users who are here, and the lane that writes them, with all that it wrote so far in Redis.
struct Node {
    registry: Registry,
    sessions: Vec<Arc<Session>>,
    lane: Lane,
    state: Option<State>,
}

impl Node {
    fn new(users: usize, state: Option<&str>) -> Self {
        let now = Now { tick: 0, unix_ms: 1_700_000_000_000 };
        let registry = Registry::with_store(Settings { ttl: TTL, workers: 1, incarnation: 1 });
        let state = state.map(|json| State::written(json, now.unix_ms));
        let join = |number| {
            let session = registry.open_session(&user_name(number), now);
            registry.join(&session, ROOM, state.clone(), now);
            session
        };
        let sessions = (0..users).map(join).collect();
        registry.take_dirty().iter().for_each(|room| drop(registry.settle(room)));
        let mut node = Self { registry, sessions, lane: Lane::new(schema(), 0, TTL, 1), state };
        let nothing_is_there = Reply::Texts(vec![None, None]);
        node.lane.verify(Some(&nothing_is_there), &node.registry);
        assert_eq!(keys_written(&node.batches(0)), users, "the lane begins with all of it");
        node
    }

    /// What the ticker records when all of them come at once.
    fn joined(&self) -> Vec<StoreEvent> {
        let news = |session: &Arc<Session>| {
            let place = (ROOM.into(), Arc::clone(session.user()));
            StoreEvent::HoldChange(place, HoldChange::Held { state: self.state.clone(), joined: true })
        };
        self.sessions.iter().map(news).collect()
    }

    fn batches(&mut self, now: Tick) -> Vec<Batch> {
        std::iter::from_fn(|| self.lane.next_batch(&self.registry, now)).collect()
    }
}

fn keys_written(batches: &[Batch]) -> usize {
    batches.iter().map(|batch| batch.keys_written as usize).sum()
}

fn commands(batches: &[Batch], is_asked: impl Fn(&Command) -> bool) -> usize {
    batches.iter().flat_map(|batch| &batch.commands).filter(|command| is_asked(command)).count()
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("redis_encode");
    for (kind, state) in [("bare", None), ("with_state", Some(STATE))] {
        for users in sizes().iter().copied() {
            group.throughput(Throughput::Elements(users as u64));
            let mut node = Node::new(users, state);
            let now = Cell::new(0);
            let refreshed = |node: &mut Node| {
                node.lane.expire(now.get());
                node.batches(now.get())
            };
            let later = || now.set(now.get() + ALL_ARE_DUE_AFTER);
            later();
            let batches = refreshed(&mut node);
            assert_eq!(commands(&batches, |command| matches!(command, Command::Set { .. })), users);
            assert_eq!(commands(&batches, |_| true), users, "a refresh is told to nobody");
            group.bench_function(BenchmarkId::new(format!("refreshed/{kind}"), users), |bencher| {
                bencher.iter_batched(later, |()| refreshed(&mut node), BatchSize::PerIteration);
            });

            let joined = |node: &mut Node, news: Vec<StoreEvent>| {
                news.into_iter().for_each(|news| node.lane.record(news));
                node.batches(now.get())
            };
            let news = node.joined();
            let batches = joined(&mut node, news.clone());
            assert_eq!(keys_written(&batches), users);
            let lines = batches.iter().flat_map(|batch| &batch.commands).map(lines_told).sum::<usize>();
            assert_eq!(lines, users, "each join is told once");
            group.bench_function(BenchmarkId::new(format!("joined/{kind}"), users), |bencher| {
                bencher.iter_batched(|| news.clone(), |news| joined(&mut node, news), BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

fn lines_told(command: &Command) -> usize {
    match command {
        Command::Publish { message, .. } => message.lines().count() - 1,
        _ => 0,
    }
}

fn events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("redis_event");
    for (kind, state) in [("bare", None), ("with_state", Some(STATE))] {
        for lines in [1, 10, BATCH] {
            let state = state.map(|json| State::written(json, 1_700_000_000_123));
            let mut writer = event::Writer::new("n1.18c", 41);
            (0..lines).for_each(|number| {
                writer.held(true, ROOM, &user_name(number), 1_700_000_000_000, state.as_ref());
            });
            let text = writer.finish();
            let mut json = Reader::default();
            let event = Event::parse(&text, &mut json).expect("it was written as documented");
            assert_eq!((event.seq, event.lines.len()), (41, lines));
            group.throughput(Throughput::Elements(lines as u64));
            group.bench_function(BenchmarkId::new(format!("parse/{kind}"), lines), |bencher| {
                bencher.iter(|| Event::parse(&text, &mut json));
            });
        }
    }
    group.finish();
}

fn pipeline(criterion: &mut Criterion) {
    let server = Server::start();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).expect("a runtime");
    let mut group = criterion.benchmark_group("redis_pipeline");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut node = Node::new(BATCH, None);
    node.lane.expire(ALL_ARE_DUE_AFTER);
    let batch: Arc<[Command]> = node.batches(ALL_ARE_DUE_AFTER).remove(0).commands.into();
    assert_eq!(batch.len(), BATCH);
    let connection = runtime.block_on(connect(&server.url)).expect("a connection");
    for (name, in_flight) in [("alternating", 1), ("overlapping", 2)] {
        group.bench_function(BenchmarkId::new(name, BATCH), |bencher| {
            bencher.iter_custom(|batches| {
                let began = Instant::now();
                runtime.block_on(send_all(&connection, &batch, batches, in_flight));
                began.elapsed()
            });
        });
    }
    assert_eq!(runtime.block_on(keys_there(&connection, &batch)), BATCH);

    for users in [BATCH, 10 * BATCH] {
        let mut writer = runtime.block_on(Writer::open(&server.url, users)).expect("a writer");
        group.throughput(Throughput::Elements(users as u64));
        group.bench_function(BenchmarkId::new("writer", users), |bencher| {
            bencher.iter_custom(|rounds| {
                let (began, mut written) = (Instant::now(), 0);
                for _ in 0..rounds {
                    written += runtime.block_on(writer.renew_all()).expect("Redis takes it");
                }
                let spent = began.elapsed();
                let due = rounds * users as u64;
                assert!(written >= due, "{written} of {due} keys were written");
                spent.mul_f64(due as f64 / written as f64) // Some were due twice.
            });
        });
    }
    group.finish();
}

/// Sends a pipeline so many times, so many at once at the most.
async fn send_all(connection: &Connection, batch: &Arc<[Command]>, batches: u64, in_flight: usize) {
    let mut flying = VecDeque::new();
    for number in 0..batches {
        flying.push_back(writer::send(connection, Arc::clone(batch)));
        while flying.len() >= in_flight || number + 1 == batches && !flying.is_empty() {
            let flight = flying.pop_front().expect("one is on its way");
            let replies = flight.await.expect("it runs").expect("Redis answers");
            assert!(replies.len() == BATCH && replies.iter().all(|reply| *reply == Reply::Done));
        }
    }
}

async fn keys_there(connection: &Connection, batch: &[Command]) -> usize {
    let key = |command: &Command| match command {
        Command::Set { key, ttl_ms, .. } if u128::from(*ttl_ms) == LEASE.as_millis() => key.clone(),
        other => panic!("not a key with a lease: {other:?}"),
    };
    let get = Command::Get(batch.iter().map(key).collect());
    match connection.clone().run(&[get]).await.expect("Redis answers").remove(0) {
        Reply::Texts(texts) => texts.iter().flatten().count(),
        other => panic!("no list: {other:?}"),
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = encode, events, pipeline }
criterion_main!(benches);
