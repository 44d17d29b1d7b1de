//! [`Args`], the command line as typed, become [`Config`], checked and resolved before a port is bound.
//!
//! Each feature has a file with its flags, its defaults, its part of the help, and a `check` of what must hold between
//! its settings. Rules that involve several features are in `Config::check`. A message states the rule and the values
//! that break it.

mod chat;
mod event_log;
mod limits;
mod listen;
mod log;
mod login;
mod presence;
mod redis;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::store::SinkOptions;
use crate::store::redis::RedisOptions;
use values::show;

pub use chat::{Chat, ChatArgs};
pub use event_log::EventLogArgs;
pub use limits::{Limits, LimitsArgs};
pub use listen::{Listen, ListenArgs};
pub use log::{Log, LogArgs, LogFormat};
pub use login::{Login, LoginArgs};
pub use presence::{Liveness, Presence, PresenceArgs};
pub use redis::RedisArgs;
pub use values::Secret;

/// The exit code for a command line that cannot work (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// The shortest lease that nodes can keep for each other.
const MIN_SHARED_TTL: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "Examples:
  rollcall                                   serve http://localhost:8000
  rollcall --listen 0.0.0.0:80 --workers 4   all interfaces, four threads
  rollcall --ttl 30s --grace 5s              longer leases, shorter grace
  rollcall --redis redis://127.0.0.1:6379    share presence with all nodes on this Redis
  ROLLCALL_TTL=30s rollcall                  every flag can be set by a variable
  rollcall health                            is the server at --listen ready? (exit code 0 or 1)

Stop with ctrl-C or SIGTERM; a second signal stops at once.";

/// Presence for production browser clients: who is online right now
///
/// Serves the pages, the HTTP API and every WebSocket protocol on one port. Nothing else needs to be installed.
#[derive(Debug, Clone, Parser)]
#[command(name = "rollcall", version, max_term_width = 100, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Args {
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    limits: LimitsArgs,
    #[command(flatten)]
    presence: PresenceArgs,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    event_log: EventLogArgs,
    #[command(flatten)]
    log: LogArgs,

    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does instead of serving.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Ask a running server whether it is ready; the exit code is 0 if it is and 1 if not
    Health {
        /// URL to ask [default: /readyz at the address of --listen or ROLLCALL_LISTEN]
        #[arg(value_name = "URL")]
        url: Option<String>,
    },
}

/// The settings that a server runs with. All rules between them hold.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the server listens.
    pub listen: Listen,
    /// Worker threads, and what clients may use.
    pub limits: Limits,
    /// How long members stay online, and how often observers hear of changes.
    pub presence: Presence,
    /// The chat.
    pub chat: Chat,
    /// How to use Redis, if it is to be used.
    pub redis: Option<RedisOptions>,
    /// The name of this node, if one is given.
    pub node_id: Option<String>,
    /// Logins for development, and the token of administrators.
    pub login: Login,
    /// What listens to joins and leaves.
    pub sinks: SinkOptions,
    /// The log.
    pub log: Log,
}

/// Why a command line cannot work.
#[derive(Debug)]
pub enum ConfigError {
    /// A usage error of clap, or the text for `--help` or `--version`.
    Usage(clap::Error),
    /// A setting that is out of range or does not fit another one, as a sentence.
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

impl Args {
    /// Reads a command line, program name first, and the environment. An empty variable counts as unset: compose files
    /// pass such on.
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

    /// Where a server with this command line listens. Nothing else is checked.
    pub fn address(&self) -> Result<SocketAddr, ConfigError> {
        self.listen.address()
    }

    /// Checks the settings and fills in the defaults that depend on others.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let presence = self.presence.check()?;
        let node_id = self.redis.node_id()?;
        let redis = self.redis.check(&presence)?;
        let config = Config {
            listen: self.listen.check()?,
            limits: self.limits.check(redis.as_ref().map_or(0, |redis| redis.partitions))?,
            presence,
            chat: self.chat.check()?,
            redis,
            node_id,
            login: self.login.check()?,
            sinks: SinkOptions { event_log: self.event_log.check() },
            log: self.log.check()?,
        };
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// Reads a command line, program name first, and the environment, and checks them.
    pub fn from_args<I, T>(args: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        Args::read(args)?.resolve()
    }

    /// A duration in ticks, rounded up, so that no lease is shorter than its setting.
    #[must_use]
    pub fn ticks(&self, duration: Duration) -> u64 {
        duration.as_nanos().div_ceil(self.presence.tick.as_nanos()) as u64
    }

    /// Whether users can be kicked: through this node, or through another node that shares its store.
    #[must_use]
    pub fn kicks_users(&self) -> bool {
        self.login.dev_login || self.login.admin_token.is_some() || self.redis.is_some()
    }

    /// Checks rules that involve several features.
    fn check(&self) -> Result<(), ConfigError> {
        let ttl = self.presence.ttl;
        require(self.redis.is_none() || ttl >= MIN_SHARED_TTL, || {
            format!(
                "--ttl is {} and --redis is given: ttl must be at least {} then, or a short delay of Redis would look like a dead node",
                show(ttl),
                show(MIN_SHARED_TTL)
            )
        })
    }
}

/// Fails with a message unless the rule holds.
fn require(holds: bool, message: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Invalid(message())) }
}

#[cfg(test)]
mod tests;
