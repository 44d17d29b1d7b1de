//! The store's writer without the server around it: users who are all present, one lane and one connection, and batches that go
//! out as the engine sends them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rollcall::presence::{Now, Registry, Session, Settings, Tick};
use rollcall::store::redis::command::{Command, Reply};
use rollcall::store::redis::link::{Connection, Target};
use rollcall::store::redis::partition::{Lane, Outcome};
use rollcall::store::redis::schema::Schema;

const ROOM: &str = "lobby";
/// The lease and the tick of the server.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
const TTL: Tick = 100;
/// Half a lease, and the tenth by which renewals are spread: by then every key is due.
const ALL_ARE_DUE_AFTER: Tick = TTL / 2 + TTL / 10;

pub(crate) struct Writer {
    registry: Registry,
    lane: Lane,
    connection: Connection,
    now: Tick,
    _sessions: Vec<Arc<Session>>,
}

/// As the store's engine names things.
pub(crate) fn schema() -> Arc<Schema> {
    let (prefix, node, run) = ("presence".to_owned(), "n1".to_owned(), "n1.18c".to_owned());
    Arc::new(Schema { prefix, lanes: 1, node, run, ttl: LEASE })
}

/// As long as what redis-benchmark makes of `__rand_int__`.
pub(crate) fn user_name(number: usize) -> String {
    format!("{number:012}")
}

/// A connection to this Redis.
pub(crate) async fn connect(url: &str) -> Result<Connection, String> {
    Target::new(&[url.to_owned()], false)?.connect("presence").await
}

impl Writer {
    /// So many users, all of them in Redis already.
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
        let mut lane = Lane::new(schema(), 0, TTL, 1);
        let mut connection = connect(url).await?;
        let head = connection.run(&lane.beacon()).await?;
        lane.verify(head.first(), &registry);
        let mut writer = Self { registry, lane, connection, now: 0, _sessions: sessions };
        writer.flush().await?;
        Ok(writer)
    }

    /// Half a lease and a bit goes by, tick by tick, so that each key is written again. Returns how many were.
    pub(crate) async fn renew_all(&mut self) -> Result<u64, String> {
        let mut keys_written = 0;
        for _ in 0..ALL_ARE_DUE_AFTER {
            self.now += 1;
            self.lane.expire(self.now);
            keys_written += self.flush().await?;
        }
        Ok(keys_written)
    }

    /// Writes batches until there is nothing left, one in the making while one is on its way.
    async fn flush(&mut self) -> Result<u64, String> {
        let mut flying = VecDeque::new();
        let mut keys_written = 0;
        loop {
            let batch = self.lane.next_batch(&self.registry, self.now);
            let more = batch.is_some();
            if let Some(mut batch) = batch {
                keys_written += batch.keys_written;
                let flight = send(&self.connection, std::mem::take(&mut batch.commands));
                flying.push_back((batch, flight));
                tokio::task::yield_now().await;
            }
            if flying.len() > usize::from(more) {
                let Some((batch, flight)) = flying.pop_front() else { return Ok(keys_written) };
                let replies = flight.await.map_err(|error| error.to_string())??;
                match self.lane.answered(&batch, &replies, &self.registry) {
                    Outcome::Done => {}
                    outcome => return Err(format!("a batch was not written: {outcome:?}")),
                }
            } else if !more {
                return Ok(keys_written);
            }
        }
    }
}

type Flight = tokio::task::JoinHandle<Result<Vec<Reply>, String>>;

/// Has a pipeline on its way.
pub(crate) fn send(connection: &Connection, commands: impl AsRef<[Command]> + 'static) -> Flight {
    let mut connection = connection.clone();
    tokio::task::spawn_local(async move { connection.run(commands.as_ref()).await })
}
