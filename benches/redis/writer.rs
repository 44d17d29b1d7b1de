//! One partition of the store without the server: all users are present, and batches are sent over one connection as
//! the store's task sends them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rollcall::presence::{Now, Registry, Session, Settings, Tick};
use rollcall::store::redis::command::{RedisCommand, RedisReply};
use rollcall::store::redis::connection::{RedisConnection, RedisServers, TlsPem};
use rollcall::store::redis::partition::{Partition, WriteOutcome};
use rollcall::store::redis::schema::Schema;

const ROOM: &str = "lobby";
/// The lease and the tick of the server.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
const TTL: Tick = 100;
/// Half a lease, and the tenth by which renewals are spread: after this time every key is due.
const ALL_ARE_DUE_AFTER: Tick = TTL / 2 + TTL / 10;

pub(crate) struct Writer {
    registry: Registry,
    partition: Partition,
    connection: RedisConnection,
    now: Tick,
    _sessions: Vec<Arc<Session>>,
}

/// The names of the store.
pub(crate) fn schema() -> Arc<Schema> {
    let (prefix, node, incarnation) = ("presence".to_owned(), "n1".to_owned(), "n1.18c".to_owned());
    let identity = rollcall::store::redis::IdentityRules::default();
    Arc::new(Schema { prefix, partitions: 1, database: 0, node, incarnation, ttl: LEASE, identity })
}

/// As long as what redis-benchmark puts in place of `__rand_int__`.
pub(crate) fn user_name(number: usize) -> String {
    format!("{number:012}")
}

/// Connects to this Redis.
pub(crate) async fn connect(url: &str) -> Result<RedisConnection, String> {
    RedisServers::new(&[url.to_owned()], false, &TlsPem::default())?.connect("presence").await
}

impl Writer {
    /// Starts with this number of users, all written to Redis.
    pub(crate) async fn open(url: &str, users: usize) -> Result<Self, String> {
        let registry = Registry::with_store(Settings { ttl: TTL, workers: 1, incarnation: 1 });
        let now = Now { tick: 0, unix_ms: 1_700_000_000_000 };
        let join = |number| {
            let session = registry.open_session(&user_name(number), now);
            registry.join(&session, ROOM, None, now);
            session
        };
        let sessions = (0..users).map(join).collect();
        registry.take_dirty().iter().for_each(|room| drop(registry.settle(room)));
        let mut partition = Partition::new(schema(), 0, TTL, 1);
        let mut connection = connect(url).await?;
        let metadata = connection.execute(&partition.heartbeat(0)).await?;
        partition.verify(&metadata, &registry);
        let mut writer = Self { registry, partition, connection, now: 0, _sessions: sessions };
        writer.flush().await?;
        Ok(writer)
    }

    /// Passes a bit more than half a lease, tick by tick, so that each key is written again. Returns the number of keys
    /// written.
    pub(crate) async fn renew_all(&mut self) -> Result<u64, String> {
        let mut keys_written = 0;
        for _ in 0..ALL_ARE_DUE_AFTER {
            self.now += 1;
            self.partition.mark_due(self.now);
            keys_written += self.flush().await?;
        }
        Ok(keys_written)
    }

    /// Writes batches until there is nothing left. While one is in flight, the next is made.
    async fn flush(&mut self) -> Result<u64, String> {
        let mut pipelines = VecDeque::new();
        let mut keys_written = 0;
        loop {
            let batch = self.partition.next_batch(&self.registry, self.now);
            let has_batch = batch.is_some();
            if let Some(mut batch) = batch {
                keys_written += batch.keys_written;
                let pipeline = send(&self.connection, std::mem::take(&mut batch.commands));
                pipelines.push_back((batch, pipeline));
                tokio::task::yield_now().await;
            }
            if pipelines.len() > usize::from(has_batch) {
                let Some((mut batch, pipeline)) = pipelines.pop_front() else { return Ok(keys_written) };
                let replies = pipeline.await.map_err(|error| error.to_string())??;
                match self.partition.handle_replies(&mut batch, &replies, &self.registry) {
                    WriteOutcome::Done => {}
                    outcome => return Err(format!("a batch was not written: {outcome:?}")),
                }
            } else if !has_batch {
                return Ok(keys_written);
            }
        }
    }
}

type Pipeline = tokio::task::JoinHandle<Result<Vec<RedisReply>, String>>;

/// Sends a pipeline.
pub(crate) fn send(connection: &RedisConnection, commands: impl AsRef<[RedisCommand]> + 'static) -> Pipeline {
    let mut connection = connection.clone();
    tokio::task::spawn_local(async move { connection.execute(commands.as_ref()).await })
}
