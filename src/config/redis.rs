//! How to use Redis. Nothing is connected to yet.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::secrets::read_named;
use super::values::{positive, switch};
use super::{ConfigError, Presence, require};
use crate::os::read_bounded;
use crate::store::redis::connection::{RedisServers, TlsPem};
use crate::store::redis::{CLUSTER_PARTITIONS, IdentityRules, MAX_PARTITIONS, RedisOptions};
use crate::tls::MAX_PEM_BYTES;

/// The longest node id and the longest key prefix.
const MAX_WORD_BYTES: usize = 64;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Several nodes (Redis)")]
pub struct RedisArgs {
    /// Share presence with other nodes through Redis or Valkey: redis://USER:PASSWORD@HOST:PORT/DATABASE, of which only
    /// HOST is required; rediss://… with TLS, redis+unix:///path, or redis+sentinel://host1,host2/service. To name
    /// several servers of one cluster, repeat the flag, or separate the URLs by spaces or line breaks in the variable
    /// [default: memory, a single node]
    #[arg(long, env = "ROLLCALL_REDIS", value_name = "URL", hide_env_values = true)]
    pub redis: Vec<String>,

    /// File with the value of --redis; several URLs are separated by spaces or line breaks
    #[arg(long, env = "ROLLCALL_REDIS_FILE", value_name = "FILE")]
    pub redis_file: Option<PathBuf>,

    /// Certificates (PEM) of the authorities that sign the certificates of Redis servers [default: the authorities that
    /// the system trusts]
    #[arg(long, env = "ROLLCALL_REDIS_CA", value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,

    /// Certificate (PEM) that this node presents to Redis servers
    #[arg(long, env = "ROLLCALL_REDIS_CERT", value_name = "FILE")]
    pub redis_cert: Option<PathBuf>,

    /// Private key (PEM) of --redis-cert
    #[arg(long, env = "ROLLCALL_REDIS_KEY", value_name = "FILE")]
    pub redis_key: Option<PathBuf>,

    /// The URL of --redis belongs to a Redis Cluster
    #[arg(long, env = "ROLLCALL_REDIS_CLUSTER", value_parser = switch)]
    pub redis_cluster: bool,

    /// Start even if Redis is unreachable; run standalone until it comes back
    #[arg(long, env = "ROLLCALL_REDIS_OPTIONAL", value_parser = switch)]
    pub redis_optional: bool,

    /// Prefix of every key in Redis
    #[arg(long, env = "ROLLCALL_REDIS_PREFIX", default_value = "presence", value_name = "WORD")]
    pub redis_prefix: String,

    /// Number of partitions for users in Redis; must be the same on all nodes [default: 1; 16 on a cluster]
    #[arg(long, env = "ROLLCALL_REDIS_PARTITIONS", value_parser = positive::<NonZeroUsize>, value_name = "N")]
    pub redis_partitions: Option<NonZeroUsize>,

    /// Name of this node, unique among the nodes that share a Redis: letters, digits, `-`, `_` and `.` [default: a new
    /// name at each start]
    #[arg(long, env = "ROLLCALL_NODE_ID", value_name = "NAME")]
    pub node_id: Option<String>,
}

impl RedisArgs {
    /// The name of this node, if one is given.
    pub(super) fn node_id(&self) -> Result<Option<String>, ConfigError> {
        let id = self.node_id.as_deref().unwrap_or("unnamed");
        require(is_word(id, &['-', '_', '.']), || {
            format!("--node-id {id:?} must be 1 to {MAX_WORD_BYTES} letters, digits, `-`, `_` and `.`")
        })?;
        Ok(self.node_id.clone())
    }

    /// How to use Redis, if it is to be used.
    pub(super) fn check(self, presence: &Presence) -> Result<Option<RedisOptions>, ConfigError> {
        let (given, name) = match &self.redis_file {
            Some(path) => (vec![read_named("--redis", !self.redis.is_empty(), path)?], "--redis-file"),
            None => (self.redis.clone(), "--redis"),
        };
        if given.is_empty() {
            let flag = match self {
                Self { redis_cluster: true, .. } => "--redis-cluster",
                Self { redis_optional: true, .. } => "--redis-optional",
                Self { redis_partitions: Some(_), .. } => "--redis-partitions",
                Self { redis_ca: Some(_), .. } => "--redis-ca",
                Self { redis_cert: Some(_), .. } => "--redis-cert",
                Self { redis_key: Some(_), .. } => "--redis-key",
                _ => return Ok(None),
            };
            return Err(ConfigError::Invalid(format!("{flag} is given without --redis URL: it says how to use Redis")));
        }
        let urls: Vec<String> = given.iter().flat_map(|urls| urls.split_whitespace()).map(str::to_owned).collect();
        require(!urls.is_empty(), || format!("{name} is empty: it needs a URL like redis://127.0.0.1:6379"))?;
        let tls = self.tls()?;
        // The URL itself may contain a password.
        RedisServers::new(&urls, self.redis_cluster, &tls)
            .map_err(|error| ConfigError::Invalid(format!("{name} {error}")))?;
        require(is_word(&self.redis_prefix, &['-', '_', '.', ':']), || {
            format!(
                "--redis-prefix {:?} must be 1 to {MAX_WORD_BYTES} letters, digits, `-`, `_`, `.` and `:`",
                self.redis_prefix
            )
        })?;
        let cluster = self.redis_cluster || urls.len() > 1;
        let default = if cluster { CLUSTER_PARTITIONS } else { 1 };
        let partitions = self.redis_partitions.map_or(default, NonZeroUsize::get);
        require(partitions <= MAX_PARTITIONS, || {
            format!(
                "--redis-partitions is {partitions}; it must be at most {MAX_PARTITIONS}, since each has two connections"
            )
        })?;
        Ok(Some(RedisOptions {
            urls,
            cluster,
            tls,
            prefix: self.redis_prefix,
            partitions,
            node: self.node_id.unwrap_or_default(),
            optional: self.redis_optional,
            ttl: presence.ttl,
            tick: presence.tick,
            // The server fills them in.
            kept_rooms: Vec::new(),
            max_kept: 0,
            identity: IdentityRules::default(),
            revocations: None,
            deliveries: None,
        }))
    }

    fn tls(&self) -> Result<TlsPem, ConfigError> {
        let client = match (&self.redis_cert, &self.redis_key) {
            (Some(certificate), Some(key)) => Some((read("--redis-cert", certificate)?, read("--redis-key", key)?)),
            (None, None) => None,
            _ => {
                let rule = "--redis-cert and --redis-key belong together: give both or neither";
                return Err(ConfigError::Invalid(rule.to_owned()));
            }
        };
        let authority = self.redis_ca.as_deref().map(|path| read("--redis-ca", path)).transpose()?;
        Ok(TlsPem { authority, client })
    }
}

/// Reads a file that a flag names.
fn read(flag: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    read_bounded(path, MAX_PEM_BYTES).map_err(|why| ConfigError::Invalid(format!("{flag} {}: {why}", path.display())))
}

fn is_word(text: &str, also: &[char]) -> bool {
    let fits = |character: char| character.is_ascii_alphanumeric() || also.contains(&character);
    (1..=MAX_WORD_BYTES).contains(&text.len()) && text.chars().all(fits)
}
