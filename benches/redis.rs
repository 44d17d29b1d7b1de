//! The Redis store: making batches, sending them to a real Redis, and parsing events of other nodes.
//!
//! Throughput is in users (or commands) per second. The pipelines go to a redis-server that the bench starts itself.
//! `alternating` sends one and waits for its replies; `overlapping` sends the next one meanwhile, as the store does.
//! `writer` does everything: leases are due, batches are made, sent and answered.

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
use rollcall::store::redis::command::{RedisCommand, RedisReply};
use rollcall::store::redis::connection::RedisConnection;
use rollcall::store::redis::event::{EventMessage, EventWriter};
use rollcall::store::redis::partition::{Partition, WriteBatch};
use server::Server;
use tokio::runtime::{Builder, LocalOptions};
use writer::{LEASE, Writer, connect, schema};

/// The limit of users per pipeline of the store.
const BATCH: usize = 1_000;
/// After this time all keys that were written together are due.
const ALL_ARE_DUE_AFTER: Tick = TTL;
const STATE: &str = r#"{"mood":"on the train","since":1700000000,"device":"phone"}"#;

fn sizes() -> &'static [usize] {
    if common::smoke() { &[10, BATCH] } else { &[100, BATCH, 100_000] }
}

/// Users of this node, and the partition that has written them.
struct Node {
    registry: Registry,
    sessions: Vec<Arc<Session>>,
    partition: Partition,
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
        let mut node = Self { registry, sessions, partition: Partition::new(schema(), 0, TTL, 1), state };
        let no_hash = RedisReply::Texts(vec![None, None]);
        node.partition.verify(std::slice::from_ref(&no_hash), &node.registry);
        assert_eq!(keys_written(&node.batches(0)), users, "the first batches write all users");
        node
    }

    /// What the ticker records when all users join at once.
    fn joined(&self) -> Vec<StoreEvent> {
        let event = |session: &Arc<Session>| {
            let room_user = (ROOM.into(), Arc::clone(session.user()));
            StoreEvent::HoldChange(room_user, HoldChange::Held { state: self.state.clone(), joined: true })
        };
        self.sessions.iter().map(event).collect()
    }

    fn batches(&mut self, now: Tick) -> Vec<WriteBatch> {
        std::iter::from_fn(|| self.partition.next_batch(&self.registry, now)).collect()
    }
}

fn keys_written(batches: &[WriteBatch]) -> usize {
    batches.iter().map(|batch| batch.keys_written as usize).sum()
}

fn count_commands(batches: &[WriteBatch], is_counted: impl Fn(&RedisCommand) -> bool) -> usize {
    batches.iter().flat_map(|batch| &batch.commands).filter(|command| is_counted(command)).count()
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("redis_encode");
    for (kind, state) in [("bare", None), ("with_state", Some(STATE))] {
        for users in sizes().iter().copied() {
            group.throughput(Throughput::Elements(users as u64));
            let mut node = Node::new(users, state);
            let now = Cell::new(0);
            let renew = |node: &mut Node| {
                node.partition.mark_due(now.get());
                node.batches(now.get())
            };
            let later = || now.set(now.get() + ALL_ARE_DUE_AFTER);
            later();
            let batches = renew(&mut node);
            assert_eq!(count_commands(&batches, |command| matches!(command, RedisCommand::Set { .. })), users);
            assert_eq!(count_commands(&batches, |_| true), users, "a renewal publishes nothing");
            group.bench_function(BenchmarkId::new(format!("refreshed/{kind}"), users), |bencher| {
                bencher.iter_batched(later, |()| renew(&mut node), BatchSize::PerIteration);
            });

            let join = |node: &mut Node, events: Vec<StoreEvent>| {
                events.into_iter().for_each(|event| node.partition.record(event));
                node.batches(now.get())
            };
            let events = node.joined();
            let batches = join(&mut node, events.clone());
            assert_eq!(keys_written(&batches), users);
            let lines = batches.iter().flat_map(|batch| &batch.commands).map(lines_published).sum::<usize>();
            assert_eq!(lines, users, "each join is published once");
            group.bench_function(BenchmarkId::new(format!("joined/{kind}"), users), |bencher| {
                bencher.iter_batched(|| events.clone(), |events| join(&mut node, events), BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

fn lines_published(command: &RedisCommand) -> usize {
    match command {
        RedisCommand::Publish { message, .. } => message.lines().count() - 1,
        _ => 0,
    }
}

fn events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("redis_event");
    for (kind, state) in [("bare", None), ("with_state", Some(STATE))] {
        for lines in [1, 10, BATCH] {
            let state = state.map(|json| State::written(json, 1_700_000_000_123));
            let mut writer = EventWriter::new("n1.18c", 41);
            (0..lines).for_each(|number| {
                writer.held(true, ROOM, &user_name(number), 1_700_000_000_000, state.as_ref());
            });
            let text = writer.finish();
            let mut json = Reader::default();
            let event = EventMessage::parse(&text, &mut json).expect("a valid message");
            assert_eq!((event.seq, event.changes.len()), (41, lines));
            group.throughput(Throughput::Elements(lines as u64));
            group.bench_function(BenchmarkId::new(format!("parse/{kind}"), lines), |bencher| {
                bencher.iter(|| EventMessage::parse(&text, &mut json));
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
    node.partition.mark_due(ALL_ARE_DUE_AFTER);
    let batch: Arc<[RedisCommand]> = node.batches(ALL_ARE_DUE_AFTER).remove(0).commands.into();
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
    assert_eq!(runtime.block_on(count_keys(&connection, &batch)), BATCH);

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
                spent.mul_f64(due as f64 / written as f64) // Some keys were due twice.
            });
        });
    }
    group.finish();
}

/// Sends a pipeline `batches` times, with up to `in_flight` at once.
async fn send_all(connection: &RedisConnection, batch: &Arc<[RedisCommand]>, batches: u64, in_flight: usize) {
    let mut pipelines = VecDeque::new();
    for number in 0..batches {
        pipelines.push_back(writer::send(connection, Arc::clone(batch)));
        while pipelines.len() >= in_flight || number + 1 == batches && !pipelines.is_empty() {
            let pipeline = pipelines.pop_front().expect("one is in flight");
            let replies = pipeline.await.expect("it runs").expect("Redis answers");
            assert!(replies.len() == BATCH && replies.iter().all(|reply| *reply == RedisReply::Done));
        }
    }
}

async fn count_keys(connection: &RedisConnection, batch: &[RedisCommand]) -> usize {
    let key = |command: &RedisCommand| match command {
        RedisCommand::Set { key, ttl_ms, .. } if u128::from(*ttl_ms) == LEASE.as_millis() => key.clone(),
        other => panic!("expected a key with a lease: {other:?}"),
    };
    let read = RedisCommand::MultiGet(batch.iter().map(key).collect());
    match connection.clone().execute(&[read]).await.expect("Redis answers").remove(0) {
        RedisReply::Texts(texts) => texts.iter().flatten().count(),
        other => panic!("expected a list: {other:?}"),
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = encode, events, pipeline }
criterion_main!(benches);
