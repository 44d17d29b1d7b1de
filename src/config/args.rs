//! The command line as typed: flags, variables, their defaults and their help. What must hold between them is checked elsewhere.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Parser, Subcommand, ValueEnum};

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

    /// What counts as a sign of life: any frame and pong, or strictly what a client says, heartbeats above all [default: as each
    /// protocol documents it, any for presence.v1 and strict for /ws/{user_id}]
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
    #[arg(long, env = "ROLLCALL_REDIS_CLUSTER", value_parser = BoolishValueParser::new())]
    pub redis_cluster: bool,

    /// Start and go on although Redis cannot be reached at the start, alone until it can
    #[arg(long, env = "ROLLCALL_REDIS_OPTIONAL", value_parser = BoolishValueParser::new())]
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
    #[arg(long, env = "ROLLCALL_DEV_LOGIN", value_parser = BoolishValueParser::new())]
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
    /// What the client says: heartbeats, joins, states and messages.
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

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}: write it like 500ms, 10s or 2m"))
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret(text.to_owned()))
}
