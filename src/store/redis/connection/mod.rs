//! Connections to Redis. The only module that uses the `redis` crate.
//!
//! All keys used over one connection are in one slot, so a connection goes to one server, on a cluster to the master of
//! that slot. The master is looked up at each connect, which also covers failovers and moved slots. Nothing reconnects
//! here: after its first error a connection is closed.

mod commands;
mod redirect;
mod sentinel;
mod servers;
mod tls;
mod url;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, Pipeline, PushInfo, PushKind, ServerError,
    ServerErrorKind, Value,
};
use tokio::sync::mpsc;

use super::command::{RedisCommand, RedisReply};
use crate::deadline::timeout;
use crate::outside::shown_within;
use commands::{pack, reply, text};
use redirect::is_redirect;

pub use servers::RedisServers;
pub use tls::TlsPem;

/// The limit for a connect, and for a batch with its replies. Redis answers a thousand commands within milliseconds; a
/// server that takes longer than this is stuck.
const DEADLINE: Duration = Duration::from_secs(1);
/// The beginning of the error message when a deadline has passed.
pub const NO_REPLY: &str = "no reply within";
/// The beginning of the error message when the slot has moved to another server of the cluster.
pub const SLOT_MOVED: &str = "the slot has moved";
/// An idle connection is probed after this time, and closed if nothing is acknowledged for the same time again.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The limit of bytes of an error of Redis in messages: some contain certificates' names and times.
const MAX_ERROR_BYTES: usize = 512;
const LOST: &str = "the connection for messages was lost";
/// The limit of messages that wait for this node. Further ones are dropped, and the node notices the gap.
const MAX_QUEUED_MESSAGES: usize = 16 * 1024;

/// A connection for commands.
#[derive(Debug, Clone)]
pub struct RedisConnection {
    inner: MultiplexedConnection,
    is_cluster: bool,
    /// The server of `inner`.
    server: ConnectionInfo,
    /// The server to which the slot is moving, if it is.
    asked: Arc<Mutex<Option<(ConnectionAddr, MultiplexedConnection)>>>,
}

/// A connection that receives the messages of one channel.
#[derive(Debug)]
pub struct ChannelSubscription {
    /// Dropping it ends the subscription.
    _connection: MultiplexedConnection,
    messages: mpsc::Receiver<Result<String, &'static str>>,
}

impl RedisConnection {
    /// Sends the commands in one pipeline and waits for the replies, up to the deadline.
    ///
    /// # Errors
    /// If the connection is lost or the replies take too long; the connection must not be used any more.
    pub async fn execute(&mut self, commands: &[RedisCommand]) -> Result<Vec<RedisReply>, String> {
        if commands.is_empty() {
            // A batch may have no commands if other nodes hold all its users; the crate reports an empty pipeline as an
            // error.
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(pack(command, self.is_cluster));
        }
        let values = within_deadline(self.inner.send_packed_commands(&pipeline, 0, commands.len())).await?;
        if values.len() != commands.len() {
            return Err(format!("{} replies to {} commands", values.len(), commands.len()));
        }
        if self.is_cluster && values.iter().any(is_redirect) {
            let replies = self.redirect(commands, values).await?;
            return Ok(commands
                .iter()
                .zip(replies)
                .map(|(command, (value, moved))| reply(command, value, moved))
                .collect());
        }
        Ok(commands.iter().zip(values).map(|(command, value)| reply(command, value, false)).collect())
    }
}

impl ChannelSubscription {
    /// The next message.
    ///
    /// # Errors
    /// If the connection is lost, or the slot has moved to another server.
    pub async fn next(&mut self) -> Result<String, &'static str> {
        self.messages.recv().await.unwrap_or(Err(LOST))
    }
}

async fn open(info: ConnectionInfo, config: AsyncConnectionConfig) -> Result<MultiplexedConnection, String> {
    let address = info.addr().clone();
    let client = Client::open(info).map_err(|error| error.to_string())?;
    // `within_deadline` replaces the timeouts of the crate: it must hold whatever the crate does.
    let config = config.set_response_timeout(None).set_connection_timeout(None);
    let open = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        // A server that refuses the client's certificate, or plain text, says so only in place of a reply.
        connection.send_packed_command(&redis::cmd("PING")).await?;
        Ok(connection)
    };
    within_deadline(open).await.map_err(|error| tls::explain(not_redis(without_arguments(error)), &address))
}

/// A server that does not know the command for logging in quotes it in the error, password included.
fn without_arguments(error: String) -> String {
    match error.split_once(", with args beginning with") {
        Some((error, _)) => format!("{error} (Redis 6 or later is required)"),
        None => error,
    }
}

/// The answer of another kind of server, such as an HTTP server, is no reply.
fn not_redis(error: String) -> String {
    if error.contains("Parse error") { "what answers there is not Redis".to_owned() } else { error }
}

async fn within_deadline<T>(work: impl Future<Output = redis::RedisResult<T>>) -> Result<T, String> {
    match timeout(DEADLINE, work).await {
        Ok(result) => result.map_err(|error| shown_within(&error.to_string(), MAX_ERROR_BYTES)),
        Err(_) => Err(format!("{NO_REPLY} {} ms", DEADLINE.as_millis())),
    }
}

/// An error as a reply is an error.
fn check_error(value: Value) -> Result<Value, String> {
    match value {
        Value::ServerError(error) => Err(error_text(&error)),
        value => Ok(value),
    }
}

fn error_text(error: &ServerError) -> String {
    match error.kind() {
        Some(ServerErrorKind::Moved) => {
            format!("{SLOT_MOVED}: {error}: another server of the cluster has it (is --redis-cluster missing?)")
        }
        _ => shown_within(&error.to_string(), MAX_ERROR_BYTES),
    }
}

/// The message in a push, or the end of the subscription.
fn push_message(push: PushInfo) -> Option<Result<String, &'static str>> {
    match push.kind {
        PushKind::Disconnection => Some(Err(LOST)),
        PushKind::SUnsubscribe => Some(Err(SLOT_MOVED)),
        PushKind::Message | PushKind::SMessage => push.data.into_iter().nth(1).and_then(text).map(Ok),
        _ => None,
    }
}
