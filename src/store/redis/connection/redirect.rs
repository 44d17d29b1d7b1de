//! Commands that two servers of a cluster answer while a slot moves from one to the other.
//!
//! The old server answers for keys that it still has. For others it replies `ASK`, and the command has to be repeated
//! on the new server, after `ASKING`. A command with several keys that are on both sides is answered with `TRYAGAIN`;
//! it is split into one command per key. See the Redis Cluster specification, "ASK redirection".

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ConnectionAddr, Pipeline, ServerError, ServerErrorKind, Value};

use super::super::command::RedisCommand;
use super::commands::pack;
use super::servers::with_host;
use super::{RedisConnection, open, within_deadline};

/// How often a command is repeated whose keys are being moved at this moment, and the pause in between.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// A reply, and whether the server gave it to which the slot moves.
pub(super) type Redirected = (Value, bool);

impl RedisConnection {
    /// Repeats the commands that the slot's old server did not execute.
    pub(super) async fn redirect(
        &self,
        commands: &[RedisCommand],
        values: Vec<Value>,
    ) -> Result<Vec<Redirected>, String> {
        let mut replies: Vec<Redirected> = values.into_iter().map(|value| (value, false)).collect();
        let single: Vec<usize> = (0..commands.len())
            .filter(|at| !matches!(commands[*at], RedisCommand::MultiGet(_)) && is_redirect(&replies[*at].0))
            .collect();
        let repeated: Vec<Cmd> = single.iter().map(|at| pack(&commands[*at], true)).collect();
        let first: Vec<Value> = single.iter().map(|at| replies[*at].0.clone()).collect();
        for (at, reply) in single.iter().zip(self.follow(&repeated, first).await?) {
            replies[*at] = reply;
        }
        for (command, reply) in commands.iter().zip(&mut replies) {
            if let RedisCommand::MultiGet(keys) = command
                && is_redirect(&reply.0)
            {
                *reply = (self.get_one_by_one(keys).await?, false);
            }
        }
        Ok(replies)
    }

    async fn get_one_by_one(&self, keys: &[String]) -> Result<Value, String> {
        let get = |key: &String| {
            let mut command = Cmd::new();
            command.arg("GET").arg(key);
            command
        };
        let commands: Vec<Cmd> = keys.iter().map(get).collect();
        let values = send(self.inner.clone(), &commands, false).await?;
        let mut texts = Vec::with_capacity(keys.len());
        for (reply, _) in self.follow(&commands, values).await? {
            match reply {
                // As MGET does for keys of other types.
                Value::ServerError(error) if error.code() == "WRONGTYPE" => texts.push(Value::Nil),
                Value::ServerError(error) => return Ok(Value::ServerError(error)),
                value => texts.push(value),
            }
        }
        Ok(Value::Array(texts))
    }

    /// Sends those of the commands to the other server that this one did not execute, in their order.
    async fn follow(&self, commands: &[Cmd], values: Vec<Value>) -> Result<Vec<Redirected>, String> {
        let mut replies: Vec<Redirected> = values.into_iter().map(|value| (value, false)).collect();
        for attempt in 0..ATTEMPTS {
            let open: Vec<usize> = (0..replies.len()).filter(|at| is_redirect(&replies[*at].0)).collect();
            if open.is_empty() {
                break;
            }
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let asked = open.iter().find_map(|at| asked_address(&replies[*at].0, self.server.addr()));
            let repeated: Vec<Cmd> = open.iter().map(|at| commands[*at].clone()).collect();
            let values = match &asked {
                Some(address) => send(self.connection_to(address).await?, &repeated, true).await?,
                None => send(self.inner.clone(), &repeated, false).await?,
            };
            for (at, value) in open.into_iter().zip(values) {
                replies[at] = (value, asked.is_some());
            }
        }
        Ok(replies)
    }

    /// A connection to the server to which the slot moves. It is kept for the next commands.
    async fn connection_to(&self, address: &ConnectionAddr) -> Result<MultiplexedConnection, String> {
        let known = self.asked.lock().clone();
        if let Some((_, connection)) = known.filter(|(known, _)| known == address) {
            return Ok(connection);
        }
        let server = self.server.clone().set_addr(address.clone());
        let connection = open(server, AsyncConnectionConfig::new()).await?;
        *self.asked.lock() = Some((address.clone(), connection.clone()));
        Ok(connection)
    }
}

/// Sends commands in one pipeline, each after `ASKING` if that is needed.
async fn send(mut connection: MultiplexedConnection, commands: &[Cmd], asking: bool) -> Result<Vec<Value>, String> {
    let mut pipeline = Pipeline::with_capacity(commands.len() * 2);
    for command in commands {
        if asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(command.clone());
    }
    let count = if asking { commands.len() * 2 } else { commands.len() };
    let values = within_deadline(connection.send_packed_commands(&pipeline, 0, count)).await?;
    if values.len() != count {
        return Err(format!("{} replies to {count} commands", values.len()));
    }
    let is_answer = |at: usize| !asking || at % 2 == 1;
    Ok(values.into_iter().enumerate().filter(|(at, _)| is_answer(*at)).map(|(_, value)| value).collect())
}

/// Whether a command has to be repeated.
pub(super) fn is_redirect(value: &Value) -> bool {
    let is_redirect =
        |error: &ServerError| matches!(error.kind(), Some(ServerErrorKind::Ask | ServerErrorKind::TryAgain));
    matches!(value, Value::ServerError(error) if is_redirect(error))
}

/// The server that an `ASK` names: `<slot> <host>:<port>`. Without a host, it is the host of this server.
fn asked_address(value: &Value, own: &ConnectionAddr) -> Option<ConnectionAddr> {
    let Value::ServerError(error) = value else { return None };
    if error.kind() != Some(ServerErrorKind::Ask) {
        return None;
    }
    let (host, port) = error.details()?.split_whitespace().nth(1)?.rsplit_once(':')?;
    let host = Some(host.to_owned()).filter(|host| !host.is_empty() && host != "?");
    with_host(host, port.parse().ok()?, own)
}
