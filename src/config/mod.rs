//! [`Args`], the command line as typed, become [`Config`], checked and resolved.
//!
//! Settings that belong together are checked together, before a port is bound, and the message states the relation.

mod args;
mod redis;

use std::ffi::OsString;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, CommandFactory, FromArgMatches};

use crate::store::redis as redis_store;

pub use args::{Args, Command, Liveness, LogFormat, Secret};

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
/// Chat messages kept at most; how many bytes they have is bounded by the history itself.
const MAX_HISTORY: usize = 100_000;
/// The shortest key that signs logins, and the shortest token: what is shorter can be guessed.
const MIN_KEY_BYTES: usize = 32;
const MIN_TOKEN_BYTES: usize = 16;
/// The longest lease: the timing wheel has a slot for each tick of it.
const MAX_TTL: Duration = Duration::from_secs(3600);

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
    /// The longest grace after an unclean close, at most `ttl`.
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
    pub redis: Option<redis_store::Options>,
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
        Args::read(args)?.resolve()
    }

    /// A duration in ticks, rounded up: a lease is never shorter than asked for.
    #[must_use]
    pub fn ticks(&self, duration: Duration) -> u64 {
        duration.as_nanos().div_ceil(self.tick.as_nanos()) as u64
    }

    /// Whether a user can be made to go: by this node, or by another that shares its store.
    #[must_use]
    pub fn kicks_users(&self) -> bool {
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
    /// Reads a command line, program name first, and the environment. A variable that is empty is one that is not set, as those are that
    /// a compose file passes on.
    pub fn read<I, T>(args: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let is_empty = |arg: &Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        let mut command = Self::command().mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg });
        let matches = command.try_get_matches_from_mut(args).map_err(ConfigError::Usage)?;
        Self::from_arg_matches(&matches).map_err(|error| ConfigError::Usage(error.format(&mut command)))
    }

    /// Where to listen.
    pub fn address(&self) -> Result<SocketAddr, ConfigError> {
        address(&self.listen)
    }

    /// Checks each setting and the relations between them, and works out what was left open.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        self.check()?;
        let listen = self.address()?;
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
            grace: self.grace(),
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
        })
    }

    /// Checks each setting that needs nothing but the command line, and the relations between them.
    fn check(&self) -> Result<(), ConfigError> {
        let (grace, two_ticks) = (self.grace(), self.tick.saturating_mul(2));
        let rules = [
            (self.tick >= MIN_TICK, format!("--tick is {}, it must be at least {}", show(self.tick), show(MIN_TICK))),
            (
                self.ttl >= two_ticks,
                format!(
                    "--ttl is {} and --tick is {}: ttl must be at least 2 ticks, or members would time out between heartbeats",
                    show(self.ttl),
                    show(self.tick)
                ),
            ),
            (self.ttl <= MAX_TTL, format!("--ttl is {}, it must be at most {}", show(self.ttl), show(MAX_TTL))),
            (
                self.ping_interval >= two_ticks && self.ping_interval <= MAX_TTL,
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
            (self.history <= MAX_HISTORY, format!("--history is {}, it must be at most {MAX_HISTORY}", self.history)),
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
        Ok(())
    }

    fn grace(&self) -> Duration {
        self.grace.unwrap_or(self.ttl)
    }
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
    redis: Option<&redis_store::Options>,
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
