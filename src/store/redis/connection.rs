//! Connections to Redis. The only file that uses the `redis` crate.
//!
//! All keys used over one connection are in one slot, so a connection goes to one server, on a cluster to the master of
//! that slot. The master is looked up at each connect, which also covers failovers and moved slots. Nothing reconnects
//! here: after its first error a connection is closed.

use std::cell::RefCell;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, ProtocolVersion,
    PushInfo, PushKind, ServerError, ServerErrorKind, Value,
};
use tokio::sync::mpsc;

use super::command::{RedisCommand, RedisReply};
use super::schema::{LAST_SEQ_FIELD, REVISION_FIELD};
use crate::deadline::timeout;

/// The limit for a connect, and for a batch with its replies. Redis answers a thousand commands within milliseconds; a
/// server that takes longer than this is stuck.
const DEADLINE: Duration = Duration::from_secs(1);
/// The beginning of the error message when a deadline has passed.
pub const NO_REPLY: &str = "no reply within";
/// An idle connection is probed after this time, and closed if nothing is acknowledged for the same time again.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The limit of messages that wait for this node. Further ones are dropped, and the node notices the gap.
const MAX_QUEUED_MESSAGES: usize = 16 * 1024;
/// The length of `SET`, `PX` and the longest number.
const SET_OVERHEAD_BYTES: usize = 3 + 2 + 20;
/// The number of fields per page of a hash, roughly.
const SCAN_COUNT: usize = 1000;

/// The servers of a single Redis or of a cluster.
#[derive(Debug)]
pub struct RedisServers {
    /// The servers of the URLs.
    configured: Vec<ConnectionInfo>,
    is_cluster: bool,
    /// Known servers of the cluster, in case the configured ones are gone, in the order in which they are asked. A
    /// server that was asked moves to the end: one that is cut off from the others still claims to be the master.
    known: RefCell<Vec<ConnectionAddr>>,
}

/// A connection for commands.
#[derive(Debug, Clone)]
pub struct RedisConnection {
    inner: MultiplexedConnection,
    is_cluster: bool,
}

/// A connection that receives the messages of one channel.
#[derive(Debug)]
pub struct ChannelSubscription {
    /// Dropping it ends the subscription.
    _connection: MultiplexedConnection,
    messages: mpsc::Receiver<Option<String>>,
}

/// Checks a URL without connecting.
///
/// # Errors
/// What is wrong with it. The message does not repeat the URL, which may contain a password.
pub fn check_url(url: &str) -> Result<(), String> {
    parse_url(url).map(|_| ())
}

fn parse_url(url: &str) -> Result<ConnectionInfo, String> {
    let info = url.into_connection_info().map_err(|error| {
        format!(
            "is not the URL of a Redis server ({:?}): write it like redis://127.0.0.1:6379, \
             rediss://user:password@host:6380 or redis+unix:///path/to/socket",
            error.kind()
        )
    })?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 5);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(KEEPALIVE * 2);
    Ok(info.set_tcp_settings(tcp))
}

impl RedisServers {
    /// The Redis at these URLs: a cluster if there are several, or if `is_cluster` says so.
    ///
    /// # Errors
    /// If a URL is invalid.
    pub fn new(urls: &[String], is_cluster: bool) -> Result<Self, String> {
        let configured = urls.iter().map(|url| parse_url(url)).collect::<Result<Vec<_>, _>>()?;
        // An error means that the process already has a provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { is_cluster: is_cluster || configured.len() > 1, configured, known: RefCell::default() })
    }

    /// The addresses, without credentials.
    #[must_use]
    pub fn addresses(&self) -> String {
        self.configured.iter().map(|server| server.addr().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Connects to the server that has this key.
    ///
    /// # Errors
    /// If that fails or takes too long.
    pub async fn connect(&self, key: &str) -> Result<RedisConnection, String> {
        let info = self.server_of(key).await?;
        let inner = open(info, AsyncConnectionConfig::new()).await?;
        Ok(RedisConnection { inner, is_cluster: self.is_cluster })
    }

    /// Subscribes to a channel.
    ///
    /// # Errors
    /// If that fails or takes too long.
    pub async fn subscribe(&self, channel: &str) -> Result<ChannelSubscription, String> {
        let info = self.server_of(channel).await?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let (sender, messages) = mpsc::channel(MAX_QUEUED_MESSAGES);
        let config = AsyncConnectionConfig::new().set_push_sender(move |push: PushInfo| match push_message(push) {
            // A message that does not fit is dropped: the next one shows the gap.
            Some(message) => sender.try_send(message).map_err(|_| ()),
            None => Ok(()),
        });
        let mut connection = open(info.set_redis_settings(settings), config).await?;
        let word = if self.is_cluster { "SSUBSCRIBE" } else { "SUBSCRIBE" };
        let mut subscribe = Cmd::new();
        subscribe.arg(word).arg(channel);
        within_deadline(connection.send_packed_command(&subscribe)).await.and_then(check_error)?;
        Ok(ChannelSubscription { _connection: connection, messages })
    }

    async fn server_of(&self, key: &str) -> Result<ConnectionInfo, String> {
        let Some(first) = self.configured.first() else { return Err("no URL is given".to_owned()) };
        if !self.is_cluster {
            return Ok(first.clone());
        }
        let mut addresses = self.known.borrow().clone();
        for address in self.configured.iter().map(ConnectionInfo::addr) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        let mut last_error = String::new();
        let mut failed = Vec::new();
        for address in addresses {
            // Credentials and settings are the same on all servers.
            let server = first.clone().set_addr(address.clone());
            let found = timeout(DEADLINE / 4, self.find_master(&server, key)).await;
            match found.unwrap_or_else(|_| Err(format!("{NO_REPLY} {} ms", (DEADLINE / 4).as_millis()))) {
                Ok((master, mut known)) => {
                    known.retain(|known| *known != address && !failed.contains(known));
                    known.push(address);
                    known.extend(failed);
                    self.known.replace(known);
                    return Ok(first.clone().set_addr(master));
                }
                Err(error) => {
                    last_error = format!("{error} ({address})");
                    failed.push(address);
                }
            }
        }
        Err(last_error)
    }

    /// Asks one server of the cluster for the master of a key's slot, and for all other servers.
    async fn find_master(
        &self,
        server: &ConnectionInfo,
        key: &str,
    ) -> Result<(ConnectionAddr, Vec<ConnectionAddr>), String> {
        let mut connection = open(server.clone(), AsyncConnectionConfig::new()).await?;
        let mut pipeline = Pipeline::new();
        pipeline.cmd("CLUSTER").arg("KEYSLOT").arg(key).cmd("CLUSTER").arg("SLOTS");
        let mut replies = within_deadline(connection.send_packed_commands(&pipeline, 0, 2)).await?.into_iter();
        let (slot, slots) = (replies.next().ok_or("no reply")?, replies.next().ok_or("no reply")?);
        let Value::Int(slot) = check_error(slot)? else {
            return Err("the reply to CLUSTER KEYSLOT is not a number".to_owned());
        };
        let ranges = slot_ranges(&check_error(slots)?, server.addr());
        let mut known = Vec::new();
        for server in ranges.iter().flat_map(|range| &range.servers) {
            if !known.contains(server) {
                known.push(server.clone());
            }
        }
        let range = ranges.into_iter().find(|range| (range.first..=range.last).contains(&slot));
        let master = range.and_then(|range| range.servers.into_iter().next());
        Ok((master.ok_or_else(|| format!("no server has slot {slot}"))?, known))
    }
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
            pipeline.add_command(self.pack(command));
        }
        let values = within_deadline(self.inner.send_packed_commands(&pipeline, 0, commands.len())).await?;
        if values.len() != commands.len() {
            return Err(format!("{} replies to {} commands", values.len(), commands.len()));
        }
        Ok(commands.iter().zip(values).map(|(command, value)| reply(command, value)).collect())
    }

    fn pack(&self, command: &RedisCommand) -> Cmd {
        use RedisCommand as Command;
        let mut packed = match command {
            // Nearly all commands are of this kind: allocate room for its five arguments at once.
            Command::Set { key, value, .. } => Cmd::with_capacity(5, key.len() + value.len() + SET_OVERHEAD_BYTES),
            _ => Cmd::new(),
        };
        match command {
            Command::Set { key, value, ttl_ms } => put_ttl(packed.arg("SET").arg(key).arg(value), *ttl_ms),
            Command::SetIfAbsent { key, value, ttl_ms } => {
                put_ttl(packed.arg("SET").arg(key).arg(value).arg("NX"), *ttl_ms)
            }
            Command::Unlink(key) => packed.arg("UNLINK").arg(key),
            Command::Expire { key, ttl_ms } => packed.arg("PEXPIRE").arg(key).arg(*ttl_ms),
            Command::MultiGet(keys) => packed.arg("MGET").arg(keys),
            Command::HashSet { key, fields } => {
                let packed = packed.arg("HSET").arg(key);
                fields.iter().fold(packed, |packed, (field, value)| packed.arg(field).arg(value))
            }
            Command::HashDelete { key, fields } => packed.arg("HDEL").arg(key).arg(fields),
            Command::HashIncrement { key, field, by } => packed.arg("HINCRBY").arg(key).arg(*field).arg(*by),
            Command::HashMetadata(key) => packed.arg("HMGET").arg(key).arg(LAST_SEQ_FIELD).arg(REVISION_FIELD),
            Command::HashScan { key, cursor } => packed.arg("HSCAN").arg(key).arg(*cursor).arg("COUNT").arg(SCAN_COUNT),
            Command::SetAdd { key, member } => packed.arg("SADD").arg(key).arg(member),
            Command::SetRemove { key, member } => packed.arg("SREM").arg(key).arg(member),
            Command::SetMembers(key) => packed.arg("SMEMBERS").arg(key),
            Command::Publish { channel, message } => {
                let word = if self.is_cluster { "SPUBLISH" } else { "PUBLISH" };
                packed.arg(word).arg(channel).arg(message)
            }
        };
        packed
    }
}

impl ChannelSubscription {
    /// The next message; `None` when the connection is lost.
    pub async fn next(&mut self) -> Option<String> {
        self.messages.recv().await.flatten()
    }
}

/// Whole seconds as `EX`, which is what people write; other times in milliseconds.
fn put_ttl(packed: &mut Cmd, ttl_ms: u64) -> &mut Cmd {
    match ttl_ms.is_multiple_of(1000) {
        true => packed.arg("EX").arg(ttl_ms / 1000),
        false => packed.arg("PX").arg(ttl_ms),
    }
}

async fn open(info: ConnectionInfo, config: AsyncConnectionConfig) -> Result<MultiplexedConnection, String> {
    let client = Client::open(info).map_err(|error| error.to_string())?;
    // `within_deadline` replaces the timeouts of the crate: it must hold whatever the crate does.
    let config = config.set_response_timeout(None).set_connection_timeout(None);
    within_deadline(client.get_multiplexed_async_connection_with_config(&config)).await.map_err(without_arguments)
}

/// A server that does not know the command for logging in quotes it in the error, password included.
fn without_arguments(error: String) -> String {
    match error.split_once(", with args beginning with") {
        Some((error, _)) => format!("{error} (Redis 6 or later is required)"),
        None => error,
    }
}

async fn within_deadline<T>(work: impl Future<Output = redis::RedisResult<T>>) -> Result<T, String> {
    match timeout(DEADLINE, work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
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
            format!("{error}: another server of the cluster has it (is --redis-cluster missing?)")
        }
        _ => error.to_string(),
    }
}

fn reply(command: &RedisCommand, value: Value) -> RedisReply {
    use RedisCommand as Command;
    match (command, value) {
        (_, Value::ServerError(error)) if error.code() == "WRONGTYPE" => RedisReply::WrongType,
        (_, Value::ServerError(error)) => RedisReply::Error(error_text(&error)),
        (Command::HashIncrement { .. }, Value::Int(number)) => RedisReply::Number(number),
        (
            Command::MultiGet(_) | Command::SetMembers(_) | Command::HashMetadata(_),
            Value::Array(values) | Value::Set(values),
        ) => RedisReply::Texts(values.into_iter().map(text).collect()),
        (Command::HashScan { .. }, Value::Array(parts)) => page(parts),
        (
            Command::MultiGet(_) | Command::SetMembers(_) | Command::HashMetadata(_) | Command::HashScan { .. },
            value,
        ) => RedisReply::Error(format!("the reply is not a list: {value:.200?}")),
        _ => RedisReply::Done,
    }
}

fn page(parts: Vec<Value>) -> RedisReply {
    let mut parts = parts.into_iter();
    let cursor = parts.next().and_then(text).and_then(|cursor| cursor.parse().ok());
    let (Some(cursor), Some(Value::Array(values))) = (cursor, parts.next()) else {
        return RedisReply::Error("the reply is not a page of a hash".to_owned());
    };
    let mut fields = Vec::with_capacity(values.len() / 2);
    let mut values = values.into_iter().map(text);
    while let (Some(field), Some(value)) = (values.next(), values.next()) {
        // Nodes write only text; skip anything else.
        fields.extend(field.zip(value));
    }
    RedisReply::Page { cursor, fields }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// The message in a push; `Some(None)` if the connection is lost.
fn push_message(push: PushInfo) -> Option<Option<String>> {
    match push.kind {
        // `SUnsubscribe`: the slot has moved to another server.
        PushKind::Disconnection | PushKind::SUnsubscribe => Some(None),
        PushKind::Message | PushKind::SMessage => push.data.into_iter().nth(1).and_then(text).map(Some),
        _ => None,
    }
}

struct SlotRange {
    first: i64,
    last: i64,
    /// The master comes first.
    servers: Vec<ConnectionAddr>,
}

/// Reads the reply to `CLUSTER SLOTS`. A server that does not know its own name has the address at which it was asked.
fn slot_ranges(slots: &Value, asked: &ConnectionAddr) -> Vec<SlotRange> {
    let Value::Array(slots) = slots else { return Vec::new() };
    let range = |slot: &Value| {
        let Value::Array(parts) = slot else { return None };
        let [Value::Int(first), Value::Int(last), servers @ ..] = &parts[..] else { return None };
        let servers = servers.iter().filter_map(|server| address(server, asked)).collect();
        Some(SlotRange { first: *first, last: *last, servers })
    };
    slots.iter().filter_map(range).collect()
}

fn address(server: &Value, asked: &ConnectionAddr) -> Option<ConnectionAddr> {
    let Value::Array(parts) = server else { return None };
    let [host, Value::Int(port), ..] = &parts[..] else { return None };
    let port = u16::try_from(*port).ok()?;
    let named = text(host.clone()).filter(|host| !host.is_empty() && host != "?");
    match asked {
        ConnectionAddr::Tcp(own, _) => Some(ConnectionAddr::Tcp(named.unwrap_or_else(|| own.clone()), port)),
        ConnectionAddr::TcpTls { host: own, insecure, tls_params, .. } => Some(ConnectionAddr::TcpTls {
            host: named.unwrap_or_else(|| own.clone()),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        }),
        _ => None,
    }
}
