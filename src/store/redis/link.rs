//! Connections to Redis. The only file that knows the `redis` crate.
//!
//! All keys of a connection are of one slot, so a connection is to one server, on a cluster to the master of the slot: it is looked
//! up anew at each connect, which is also what happens after a failover or when a slot has moved. There is no reconnecting in
//! here: a connection that has failed once is over.

use std::cell::RefCell;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, ProtocolVersion,
    PushInfo, PushKind, ServerError, ServerErrorKind, Value,
};
use tokio::sync::mpsc;

use super::command::{Command, Reply};
use super::schema::{EDITION, HEADER};
use crate::deadline::timeout;

/// The longest that anything may take: a batch, its answers included, or a connect. Redis answers a thousand commands in some
/// milliseconds; what takes longer than this is stuck.
const DEADLINE: Duration = Duration::from_secs(1);
/// How the error begins that says that a deadline has passed.
pub const LATE: &str = "no answer within";
/// A connection over which nothing comes or goes is probed after this time, and given up when nothing is acknowledged for as long
/// again.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Messages that wait for this node. If there are more, they are dropped, and the gap is noticed.
const WAITING_MESSAGES: usize = 16 * 1024;
/// `SET`, `PX` and the longest number.
const SET_REST_BYTES: usize = 3 + 2 + 20;
/// What one step of reading a hash brings.
const SCAN_COUNT: usize = 1000;

/// Which Redis it is.
#[derive(Debug)]
pub struct Target {
    seeds: Vec<ConnectionInfo>,
    cluster: bool,
    /// Servers of the cluster that have been heard of, in case the seeds are gone, in the order to ask them. Who was asked goes to the
    /// end: one that is cut off from the others goes on telling that it is the master.
    known: RefCell<Vec<ConnectionAddr>>,
}

/// A connection for commands.
#[derive(Debug, Clone)]
pub struct Connection {
    inner: MultiplexedConnection,
    cluster: bool,
}

/// A connection for messages. They end with `None` when it is lost.
#[derive(Debug)]
pub struct Subscription {
    /// Ends the subscription when it is dropped.
    _connection: MultiplexedConnection,
    messages: mpsc::Receiver<Option<String>>,
}

/// Checks a URL without connecting.
///
/// # Errors
/// What is wrong with it, without repeating what may be a password.
pub fn check_url(url: &str) -> Result<(), String> {
    info(url).map(|_| ())
}

fn info(url: &str) -> Result<ConnectionInfo, String> {
    let info = url.into_connection_info().map_err(|error| {
        format!("is not the URL of a Redis server ({:?}): write it like redis://127.0.0.1:6379, rediss://user:password@host:6380 or redis+unix:///path/to/socket", error.kind())
    })?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 5);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(KEEPALIVE * 2);
    Ok(info.set_tcp_settings(tcp))
}

impl Target {
    /// The Redis of these URLs, several of them or `cluster` meaning a cluster.
    ///
    /// # Errors
    /// If a URL is not one.
    pub fn new(urls: &[String], cluster: bool) -> Result<Self, String> {
        let seeds = urls.iter().map(|url| info(url)).collect::<Result<Vec<_>, _>>()?;
        // An error means that the process has one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { cluster: cluster || seeds.len() > 1, seeds, known: RefCell::default() })
    }

    /// Where that is, without credentials.
    #[must_use]
    pub fn shown(&self) -> String {
        self.seeds.iter().map(|seed| seed.addr().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// A connection to the server that has this key.
    pub async fn connect(&self, key: &str) -> Result<Connection, String> {
        let info = self.server_of(key).await?;
        Ok(Connection { inner: open(info, AsyncConnectionConfig::new()).await?, cluster: self.cluster })
    }

    /// The messages of a channel from now on.
    pub async fn subscribe(&self, channel: &str) -> Result<Subscription, String> {
        let info = self.server_of(channel).await?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let (sender, messages) = mpsc::channel(WAITING_MESSAGES);
        let config = AsyncConnectionConfig::new().set_push_sender(move |push: PushInfo| match message(push) {
            // What does not fit is dropped: the next message shows the gap.
            Some(message) => sender.try_send(message).map_err(|_| ()),
            None => Ok(()),
        });
        let mut connection = open(info.set_redis_settings(settings), config).await?;
        let word = if self.cluster { "SSUBSCRIBE" } else { "SUBSCRIBE" };
        let mut subscribe = Cmd::new();
        subscribe.arg(word).arg(channel);
        in_time(connection.send_packed_command(&subscribe)).await.and_then(refuse)?;
        Ok(Subscription { _connection: connection, messages })
    }

    async fn server_of(&self, key: &str) -> Result<ConnectionInfo, String> {
        let Some(seed) = self.seeds.first() else { return Err("no URL is given".to_owned()) };
        if !self.cluster {
            return Ok(seed.clone());
        }
        let mut servers = self.known.borrow().clone();
        for seed in self.seeds.iter().map(ConnectionInfo::addr) {
            if !servers.contains(seed) {
                servers.push(seed.clone());
            }
        }
        let mut trouble = String::new();
        let mut silent = Vec::new();
        for server in servers {
            let asked = timeout(DEADLINE / 4, self.ask_cluster(&seed.clone().set_addr(server.clone()), key)).await;
            match asked.unwrap_or_else(|_| Err(format!("{LATE} {} ms", (DEADLINE / 4).as_millis()))) {
                Ok((master, mut known)) => {
                    known.retain(|known| *known != server && !silent.contains(known));
                    known.push(server);
                    known.extend(silent);
                    self.known.replace(known);
                    return Ok(seed.clone().set_addr(master));
                }
                Err(error) => {
                    trouble = format!("{error} ({server})");
                    silent.push(server);
                }
            }
        }
        Err(trouble)
    }

    /// Asks one server of the cluster who has the slot of a key, and who else there is.
    async fn ask_cluster(
        &self,
        server: &ConnectionInfo,
        key: &str,
    ) -> Result<(ConnectionAddr, Vec<ConnectionAddr>), String> {
        let mut connection = open(server.clone(), AsyncConnectionConfig::new()).await?;
        let mut pipeline = Pipeline::new();
        pipeline.cmd("CLUSTER").arg("KEYSLOT").arg(key).cmd("CLUSTER").arg("SLOTS");
        let mut answers = in_time(connection.send_packed_commands(&pipeline, 0, 2)).await?.into_iter();
        let (slot, slots) = (answers.next().ok_or("no answer")?, answers.next().ok_or("no answer")?);
        let Value::Int(slot) = refuse(slot)? else {
            return Err("CLUSTER KEYSLOT is not answered by a number".to_owned());
        };
        let ranges = ranges(&refuse(slots)?, server.addr());
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

impl Connection {
    /// Sends the commands in one pipeline and waits for the answers, up to the deadline.
    ///
    /// # Errors
    /// If the connection is lost or the answers do not come in time; the connection is then over.
    pub async fn run(&mut self, commands: &[Command]) -> Result<Vec<Reply>, String> {
        if commands.is_empty() {
            // A batch about users whom other nodes hold may ask for nothing; the crate takes that for a mistake.
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(self.pack(command));
        }
        let values = in_time(self.inner.send_packed_commands(&pipeline, 0, commands.len())).await?;
        if values.len() != commands.len() {
            return Err(format!("{} commands were answered {} times", commands.len(), values.len()));
        }
        Ok(commands.iter().zip(values).map(|(command, value)| reply(command, value)).collect())
    }

    fn pack(&self, command: &Command) -> Cmd {
        let mut packed = match command {
            // Nearly all are of this kind: room for its five arguments at once, and not as they come.
            Command::Set { key, value, .. } => Cmd::with_capacity(5, key.len() + value.len() + SET_REST_BYTES),
            _ => Cmd::new(),
        };
        match command {
            Command::Set { key, value, ttl_ms } => put_ttl(packed.arg("SET").arg(key).arg(value), *ttl_ms),
            Command::Claim { key, value, ttl_ms } => put_ttl(packed.arg("SET").arg(key).arg(value).arg("NX"), *ttl_ms),
            Command::Unlink(key) => packed.arg("UNLINK").arg(key),
            Command::Keep { key, ttl_ms } => packed.arg("PEXPIRE").arg(key).arg(*ttl_ms),
            Command::Get(keys) => packed.arg("MGET").arg(keys),
            Command::HashSet { key, fields } => {
                let packed = packed.arg("HSET").arg(key);
                fields.iter().fold(packed, |packed, (field, value)| packed.arg(field).arg(value))
            }
            Command::HashRemove { key, fields } => packed.arg("HDEL").arg(key).arg(fields),
            Command::HashCount { key, field, by } => packed.arg("HINCRBY").arg(key).arg(*field).arg(*by),
            Command::HashHead(key) => packed.arg("HMGET").arg(key).arg(HEADER).arg(EDITION),
            Command::HashScan { key, cursor } => packed.arg("HSCAN").arg(key).arg(*cursor).arg("COUNT").arg(SCAN_COUNT),
            Command::SetAdd { key, member } => packed.arg("SADD").arg(key).arg(member),
            Command::SetRemove { key, member } => packed.arg("SREM").arg(key).arg(member),
            Command::SetMembers(key) => packed.arg("SMEMBERS").arg(key),
            Command::Publish { channel, message } => {
                let word = if self.cluster { "SPUBLISH" } else { "PUBLISH" };
                packed.arg(word).arg(channel).arg(message)
            }
        };
        packed
    }
}

impl Subscription {
    /// The next message; `None` when the connection is lost.
    pub async fn next(&mut self) -> Option<String> {
        self.messages.recv().await.flatten()
    }
}

/// Whole seconds as people write them, anything else in milliseconds.
fn put_ttl(packed: &mut Cmd, ttl_ms: u64) -> &mut Cmd {
    match ttl_ms.is_multiple_of(1000) {
        true => packed.arg("EX").arg(ttl_ms / 1000),
        false => packed.arg("PX").arg(ttl_ms),
    }
}

async fn open(info: ConnectionInfo, config: AsyncConnectionConfig) -> Result<MultiplexedConnection, String> {
    let client = Client::open(info).map_err(|error| error.to_string())?;
    // Deadlines are ours: they have to hold whatever the crate is doing.
    let config = config.set_response_timeout(None).set_connection_timeout(None);
    in_time(client.get_multiplexed_async_connection_with_config(&config)).await.map_err(without_arguments)
}

/// A server that does not know the command that signs in repeats it, password and all.
fn without_arguments(error: String) -> String {
    match error.split_once(", with args beginning with") {
        Some((error, _)) => format!("{error} (it has to be Redis 6 or later)"),
        None => error,
    }
}

async fn in_time<T>(work: impl Future<Output = redis::RedisResult<T>>) -> Result<T, String> {
    match timeout(DEADLINE, work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("{LATE} {} ms", DEADLINE.as_millis())),
    }
}

/// An error as an answer is an error.
fn refuse(value: Value) -> Result<Value, String> {
    match value {
        Value::ServerError(error) => Err(said(&error)),
        value => Ok(value),
    }
}

fn said(error: &ServerError) -> String {
    match error.kind() {
        Some(ServerErrorKind::Moved) => {
            format!("{error}: another server of the cluster has it (is --redis-cluster missing?)")
        }
        _ => error.to_string(),
    }
}

fn reply(command: &Command, value: Value) -> Reply {
    match (command, value) {
        (_, Value::ServerError(error)) if error.code() == "WRONGTYPE" => Reply::WrongType,
        (_, Value::ServerError(error)) => Reply::Failed(said(&error)),
        (Command::HashCount { .. }, Value::Int(number)) => Reply::Number(number),
        (
            Command::Get(_) | Command::SetMembers(_) | Command::HashHead(_),
            Value::Array(values) | Value::Set(values),
        ) => Reply::Texts(values.into_iter().map(text).collect()),
        (Command::HashScan { .. }, Value::Array(parts)) => page(parts),
        (Command::Get(_) | Command::SetMembers(_) | Command::HashHead(_) | Command::HashScan { .. }, value) => {
            Reply::Failed(format!("an answer that is no list: {value:.200?}"))
        }
        _ => Reply::Done,
    }
}

fn page(parts: Vec<Value>) -> Reply {
    let mut parts = parts.into_iter();
    let cursor = parts.next().and_then(text).and_then(|cursor| cursor.parse().ok());
    let (Some(cursor), Some(Value::Array(values))) = (cursor, parts.next()) else {
        return Reply::Failed("an answer that is no page of a hash".to_owned());
    };
    let mut fields = Vec::with_capacity(values.len() / 2);
    let mut values = values.into_iter().map(text);
    while let (Some(field), Some(value)) = (values.next(), values.next()) {
        // What is not text was not written by a node.
        fields.extend(field.zip(value));
    }
    Reply::Page { cursor, fields }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// The message of a push, `None` inside when the connection is lost.
fn message(push: PushInfo) -> Option<Option<String>> {
    match push.kind {
        // The slot has moved to another server.
        PushKind::Disconnection | PushKind::SUnsubscribe => Some(None),
        PushKind::Message | PushKind::SMessage => push.data.into_iter().nth(1).and_then(text).map(Some),
        _ => None,
    }
}

struct Range {
    first: i64,
    last: i64,
    /// The master first.
    servers: Vec<ConnectionAddr>,
}

/// Reads `CLUSTER SLOTS`. A server that does not know its own name is where it was asked.
fn ranges(slots: &Value, asked: &ConnectionAddr) -> Vec<Range> {
    let Value::Array(slots) = slots else { return Vec::new() };
    let range = |slot: &Value| {
        let Value::Array(parts) = slot else { return None };
        let [Value::Int(first), Value::Int(last), servers @ ..] = &parts[..] else { return None };
        let servers = servers.iter().filter_map(|server| address(server, asked)).collect();
        Some(Range { first: *first, last: *last, servers })
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
