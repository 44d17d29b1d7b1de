//! [`Args`], the command line as typed, and [`Config`], checked and resolved.
//!
//! Settings that belong together are checked together, before a port is bound, and the message states the relation.

mod sharing;

use std::ffi::OsString;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::store::redis;

/// The exit code for a command line that cannot work (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// Sockets besides the connections, which serve requests.
const REQUEST_SOCKETS: usize = 128;
/// Descriptors that are no sockets of clients: standard streams, wake-ups, files that are read for a moment.
const OTHER_DESCRIPTORS: usize = 128;
/// And those of each worker: a listener for each of two ports, epoll, wake-ups.
const DESCRIPTORS_PER_WORKER: usize = 6;
/// And of each lane of Redis: two connections, and as many that are being made.
const DESCRIPTORS_PER_LANE: usize = 4;
/// The shortest tick: below that the engine would mostly wake up.
const MIN_TICK: Duration = Duration::from_millis(10);
/// More threads than this gain nothing on any machine, and run out of descriptors on some.
const MAX_WORKERS: usize = 256;
/// The shortest key that signs logins, and the shortest token: what is shorter can be guessed.
const MIN_KEY_BYTES: usize = 32;
const MIN_TOKEN_BYTES: usize = 16;
/// The longest lease: the timing wheel has a slot for each tick of it.
const MAX_TTL: Duration = Duration::from_secs(3600);

/// Presence for production browser clients: who is here, right now.
///
/// Serves the pages, the HTTP API and every WebSocket protocol on one port, with nothing else installed.
#[derive(Debug, Clone, Parser)]
#[command(name = "rollcall", version, max_term_width = 100, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "ROLLCALL_LISTEN", default_value = "127.0.0.1:8000", value_name = "HOST:PORT")]
    pub listen: String,

    /// A second port on the same address, for clients of the online-status protocol that know no other; everything is served there
    #[arg(long, env = "ROLLCALL_STATUS_PORT", value_name = "PORT")]
    pub status_port: Option<u16>,

    /// Worker threads, each with its own listener and its share of the connections [default: one per core]
    #[arg(long, env = "ROLLCALL_WORKERS", value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// How long a member stays online after its last sign of life
    #[arg(long, env = "ROLLCALL_TTL", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub ttl: Duration,

    /// How often changes are told to observers, coalesced
    #[arg(long, env = "ROLLCALL_TICK", default_value = "100ms", value_parser = duration, value_name = "DURATION")]
    pub tick: Duration,

    /// What counts as a sign of life: any frame and pong, or strictly heartbeats [default: as each protocol documents it, any
    /// for presence.v1 and strict for /ws/{user_id}]
    #[arg(long, env = "ROLLCALL_LIVENESS", value_name = "RULE")]
    pub liveness: Option<Liveness>,

    /// How often connections of online status and chat are pinged; who has not answered by the next ping is dropped
    #[arg(long, env = "ROLLCALL_PING_INTERVAL", default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub ping_interval: Duration,

    /// How long a member stays after a connection that was not closed cleanly, so that a reload shows nobody anything
    /// [default: the ttl]
    #[arg(long, env = "ROLLCALL_GRACE", value_parser = duration, value_name = "DURATION")]
    pub grace: Option<Duration>,

    /// Client connections at most; further ones are closed with 1013 [default: what the limit of open files allows]
    #[arg(long, env = "ROLLCALL_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<NonZeroUsize>,

    /// Chat messages kept for newcomers, joins and leaves among them; at most 1 MiB
    #[arg(long, env = "ROLLCALL_HISTORY", default_value_t = 100, value_name = "N")]
    pub history: usize,

    /// How long a client may take to send a request's headers, and again for its body, or to join the chat
    #[arg(long, env = "ROLLCALL_HEADER_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub header_timeout: Duration,

    /// How long stopping may take: clients are told to come back (1012) in waves over this time
    #[arg(long, env = "ROLLCALL_DRAIN", default_value = "5s", value_parser = duration, value_name = "DURATION")]
    pub drain: Duration,

    /// Share presence through Redis (or Valkey): any number of nodes, and it outlives each of them; given several times, the seeds
    /// of a cluster [default: memory, one node]
    #[arg(long, env = "ROLLCALL_REDIS", value_name = "URL", value_delimiter = ',', hide_env_values = true)]
    pub redis: Vec<String>,

    /// The one URL of --redis is of a Redis Cluster
    #[arg(long, env = "ROLLCALL_REDIS_CLUSTER")]
    pub redis_cluster: bool,

    /// Start and go on although Redis cannot be reached at the start, alone until it can
    #[arg(long, env = "ROLLCALL_REDIS_OPTIONAL")]
    pub redis_optional: bool,

    /// The first word of every key in Redis
    #[arg(long, env = "ROLLCALL_REDIS_PREFIX", default_value = "presence", value_name = "WORD")]
    pub redis_prefix: String,

    /// Lanes that users are spread over in Redis, the same on all nodes [default: 1, on a cluster 16]
    #[arg(long, env = "ROLLCALL_REDIS_LANES", value_name = "N")]
    pub redis_lanes: Option<NonZeroUsize>,

    /// The name of this node among those that share a Redis, letters, digits, `-`, `_` and `.` [default: a new one at each start]
    #[arg(long, env = "ROLLCALL_NODE_ID", value_name = "NAME")]
    pub node_id: Option<String>,
    /// Let anybody sign in under any name with POST /login, for development; never where strangers come
    #[arg(long, env = "ROLLCALL_DEV_LOGIN", value_parser = clap::builder::BoolishValueParser::new())]
    pub dev_login: bool,

    /// Signs the logins of --dev-login, so that they outlive a restart; at least 32 bytes [default: random at each start]
    #[arg(long, env = "ROLLCALL_SESSION_KEY", hide_env_values = true, value_parser = secret, value_name = "SECRET")]
    pub session_key: Option<Secret>,

    /// Lets an application remove users: POST /v1/users/{user}/kick with Authorization: Bearer TOKEN; at least 16 bytes
    #[arg(long, env = "ROLLCALL_ADMIN_TOKEN", hide_env_values = true, value_parser = secret, value_name = "TOKEN")]
    pub admin_token: Option<Secret>,

    /// What to log: error, warn, info, debug, trace, or directives like info,rollcall::http=debug
    #[arg(long, env = "ROLLCALL_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// How to log
    #[arg(long, env = "ROLLCALL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does instead of serving.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Asks a running server whether it is ready; exit code 0 if it is, 1 if not
    Health {
        /// What to ask [default: /readyz at the address of --listen or ROLLCALL_LISTEN]
        #[arg(value_name = "URL")]
        url: Option<String>,
    },
}

const EXAMPLES: &str = "Examples:
  rollcall                                        serve http://localhost:8000
  rollcall --listen 0.0.0.0:80 --workers 4        on all interfaces, four threads
  rollcall --ttl 30s --grace 5s                   longer leases, short grace after a lost connection
  rollcall --redis redis://127.0.0.1:6379         one of any number of nodes that share a Redis
  ROLLCALL_TTL=30s rollcall                       every flag is a variable too
  rollcall health                                 is a server ready at --listen? (exit code 0 or 1)

Stop with ctrl-C or SIGTERM; a second one stops at once.";

/// What counts as a sign of life on a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Liveness {
    /// Any frame, pongs included: hidden tabs stay online.
    Any,
    /// Heartbeats only.
    Strict,
}

/// Something that is shown nowhere.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// It.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The settings that a server runs with; every relation between them holds.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// A second port to listen on, at the same address. 0 takes a free one.
    pub status_port: Option<u16>,
    /// Worker threads.
    pub workers: usize,
    /// The lease, at least two ticks.
    pub ttl: Duration,
    /// The time between two ticks.
    pub tick: Duration,
    /// The time between two pings of a connection without a lease, at least two ticks.
    pub ping_interval: Duration,
    /// Overrides what each protocol counts as a sign of life.
    pub liveness: Option<Liveness>,
    /// The longest lingering after an unclean close, at most `ttl`.
    pub grace: Duration,
    /// WebSocket connections at most.
    pub max_connections: usize,
    /// Chat messages kept.
    pub history: usize,
    /// The time for a request's headers, for its body, and for joining the chat.
    pub header_timeout: Duration,
    /// The time for stopping.
    pub drain: Duration,
    /// Redis, if there is one.
    pub redis: Option<redis::Options>,
    /// The name of this node, if one is given.
    pub node_id: Option<String>,
    /// Whether anybody may sign in under any name.
    pub dev_login: bool,
    /// What signs logins, if they are to outlive the server.
    pub session_key: Option<Secret>,
    /// What lets an application remove users.
    pub admin_token: Option<Secret>,
    /// The log filter, already checked.
    pub log: String,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// What to do instead of serving.
    pub command: Option<Command>,
}

/// Why a command line cannot work.
#[derive(Debug)]
pub enum ConfigError {
    /// What clap says: a usage error, or the text for `--help` and `--version`.
    Usage(clap::Error),
    /// A setting or a relation that does not hold, as a sentence.
    Invalid(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(formatter),
            Self::Invalid(message) => formatter.write_str(message),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a command line, program name first, and the environment.
    pub fn from_args<I, T>(args: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        Args::try_parse_from(args).map_err(ConfigError::Usage)?.resolve()
    }

    /// A duration in ticks, rounded up: a lease is never shorter than asked for.
    #[must_use]
    pub fn ticks(&self, duration: Duration) -> u64 {
        duration.as_nanos().div_ceil(self.tick.as_nanos()) as u64
    }

    /// Whether a user can be made to go: by this node, or by another that shares its store.
    #[must_use]
    pub fn removes_users(&self) -> bool {
        self.dev_login || self.admin_token.is_some() || self.redis.is_some()
    }

    /// Sockets open at once, requests included: somewhat more than clients, so that health checks and the refusal of a client
    /// too many still get through.
    #[must_use]
    pub fn max_sockets(&self) -> usize {
        self.max_connections + REQUEST_SOCKETS
    }
}

impl Args {
    /// Checks each setting and the relations between them.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let grace = self.grace.unwrap_or(self.ttl);
        let rules = [
            (self.tick >= MIN_TICK, format!("--tick is {}, it must be at least {}", show(self.tick), show(MIN_TICK))),
            (
                self.ttl >= self.tick * 2,
                format!(
                    "--ttl is {} and --tick is {}: ttl must be at least 2 ticks, or members would time out between heartbeats",
                    show(self.ttl),
                    show(self.tick)
                ),
            ),
            (self.ttl <= MAX_TTL, format!("--ttl is {}, it must be at most {}", show(self.ttl), show(MAX_TTL))),
            (
                self.ping_interval >= self.tick * 2 && self.ping_interval <= MAX_TTL,
                format!(
                    "--ping-interval is {} and --tick is {}: it must be at least 2 ticks and at most {}",
                    show(self.ping_interval),
                    show(self.tick),
                    show(MAX_TTL)
                ),
            ),
            (
                grace <= self.ttl,
                format!(
                    "--grace is {} and --ttl is {}: grace must be at most ttl, since a lease that nobody renews ends by then",
                    show(grace),
                    show(self.ttl)
                ),
            ),
            (
                self.workers.is_none_or(|workers| workers.get() <= MAX_WORKERS),
                format!("--workers must be at most {MAX_WORKERS}"),
            ),
            (self.history <= 100_000, format!("--history is {}, it must be at most 100000", self.history)),
            (
                self.session_key.is_none() || self.dev_login,
                "--session-key signs logins, which there are with --dev-login only".to_owned(),
            ),
            (
                self.session_key.as_ref().is_none_or(|key| key.as_bytes().len() >= MIN_KEY_BYTES),
                format!("--session-key must have at least {MIN_KEY_BYTES} bytes"),
            ),
            (
                self.admin_token.as_ref().is_none_or(|token| {
                    let bytes = token.as_bytes();
                    bytes.len() >= MIN_TOKEN_BYTES
                        && bytes.trim_ascii() == bytes
                        && !bytes.iter().any(u8::is_ascii_control)
                }),
                format!(
                    "--admin-token must have at least {MIN_TOKEN_BYTES} bytes, and no spaces or line ends around it"
                ),
            ),
            (!self.header_timeout.is_zero(), "--header-timeout must be more than 0".to_owned()),
            (self.drain <= MAX_TTL, format!("--drain is {}, it must be at most {}", show(self.drain), show(MAX_TTL))),
        ];
        if let Some((_, message)) = rules.into_iter().find(|(holds, _)| !holds) {
            return Err(ConfigError::Invalid(message));
        }
        if let Err(error) = self.log.parse::<tracing_subscriber::EnvFilter>() {
            return Err(ConfigError::Invalid(format!("--log {:?} is not a log filter: {error}", self.log)));
        }
        let listen = address(&self.listen)?;
        if self.status_port.is_some_and(|port| port != 0 && port == listen.port()) {
            return Err(ConfigError::Invalid(format!(
                "--status-port is {0} and --listen is {listen}: port {0} serves everything already",
                listen.port()
            )));
        }
        let workers = self.workers.map_or_else(cores, NonZeroUsize::get).min(MAX_WORKERS);
        let redis = self.redis()?;
        Ok(Config {
            listen,
            status_port: self.status_port,
            workers,
            ttl: self.ttl,
            tick: self.tick,
            ping_interval: self.ping_interval,
            liveness: self.liveness,
            grace,
            max_connections: connections(self.max_connections, workers, redis.as_ref())?,
            history: self.history,
            header_timeout: self.header_timeout,
            drain: self.drain,
            redis,
            node_id: self.node_id,
            dev_login: self.dev_login,
            session_key: self.session_key,
            admin_token: self.admin_token,
            log: self.log,
            log_format: self.log_format,
            command: self.command,
        })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}: write it like 500ms, 10s or 2m"))
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret(text.to_owned()))
}

fn show(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn address(listen: &str) -> Result<SocketAddr, ConfigError> {
    let invalid = |why: String| {
        ConfigError::Invalid(format!(
            "--listen {listen:?} is not an address to listen on: {why}; write it like 127.0.0.1:8000"
        ))
    };
    let mut addresses = listen.to_socket_addrs().map_err(|error| invalid(error.to_string()))?;
    addresses.next().ok_or_else(|| invalid("the name has no address".to_owned()))
}

/// Raises the limit of open files as far as it goes and fits the connections below it.
fn connections(
    asked: Option<NonZeroUsize>,
    workers: usize,
    redis: Option<&redis::Options>,
) -> Result<usize, ConfigError> {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let reserved = REQUEST_SOCKETS + OTHER_DESCRIPTORS + workers * DESCRIPTORS_PER_WORKER;
    let reserved = reserved + redis.map_or(0, |redis| redis.lanes * DESCRIPTORS_PER_LANE);
    let most = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(reserved).max(16);
    match asked.map(NonZeroUsize::get) {
        Some(asked) if asked > most => Err(ConfigError::Invalid(format!(
            "--max-connections is {asked}, but the limit of open files is {limit}: at most {most} connections fit below it (raise it with `ulimit -n`)"
        ))),
        Some(asked) => Ok(asked),
        None => Ok(most),
    }
}

#[cfg(test)]
mod tests;
