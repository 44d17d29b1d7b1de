//! How to use Redis. Nothing is connected to yet.

use std::num::NonZeroUsize;

use clap::builder::BoolishValueParser;

use super::{ConfigError, Presence, require};
use crate::store::redis::connection::check_url;
use crate::store::redis::{CLUSTER_PARTITIONS, MAX_PARTITIONS, RedisOptions};

/// The longest node id and the longest key prefix.
const MAX_WORD_BYTES: usize = 64;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Several nodes (Redis)")]
pub struct RedisArgs {
    /// Share presence with other nodes through Redis or Valkey; repeat the flag to name several servers of one cluster
    /// [default: memory, a single node]
    #[arg(long, env = "ROLLCALL_REDIS", value_name = "URL", value_delimiter = ',', hide_env_values = true)]
    pub redis: Vec<String>,

    /// The URL of --redis belongs to a Redis Cluster
    #[arg(long, env = "ROLLCALL_REDIS_CLUSTER", value_parser = BoolishValueParser::new())]
    pub redis_cluster: bool,

    /// Start even if Redis is unreachable; run standalone until it comes back
    #[arg(long, env = "ROLLCALL_REDIS_OPTIONAL", value_parser = BoolishValueParser::new())]
    pub redis_optional: bool,

    /// Prefix of every key in Redis
    #[arg(long, env = "ROLLCALL_REDIS_PREFIX", default_value = "presence", value_name = "WORD")]
    pub redis_prefix: String,

    /// Number of partitions that users are spread over in Redis; the same on all nodes [default: 1; 16 on a cluster]
    #[arg(long, env = "ROLLCALL_REDIS_PARTITIONS", value_name = "N")]
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
        if self.redis.is_empty() {
            let flag = match self {
                Self { redis_cluster: true, .. } => "--redis-cluster",
                Self { redis_optional: true, .. } => "--redis-optional",
                Self { redis_partitions: Some(_), .. } => "--redis-partitions",
                _ => return Ok(None),
            };
            return Err(ConfigError::Invalid(format!("{flag} is given without --redis URL: it says how to use Redis")));
        }
        for url in &self.redis {
            // The URL itself may contain a password.
            check_url(url).map_err(|error| ConfigError::Invalid(format!("--redis {error}")))?;
        }
        require(is_word(&self.redis_prefix, &['-', '_', '.', ':']), || {
            format!(
                "--redis-prefix {:?} must be 1 to {MAX_WORD_BYTES} letters, digits, `-`, `_`, `.` and `:`",
                self.redis_prefix
            )
        })?;
        let cluster = self.redis_cluster || self.redis.len() > 1;
        let default = if cluster { CLUSTER_PARTITIONS } else { 1 };
        let partitions = self.redis_partitions.map_or(default, NonZeroUsize::get);
        require(partitions <= MAX_PARTITIONS, || {
            format!(
                "--redis-partitions is {partitions}; it must be at most {MAX_PARTITIONS}, since each has two connections"
            )
        })?;
        Ok(Some(RedisOptions {
            urls: self.redis,
            cluster,
            prefix: self.redis_prefix,
            partitions,
            node: self.node_id.unwrap_or_default(),
            optional: self.redis_optional,
            ttl: presence.ttl,
            tick: presence.tick,
        }))
    }
}

fn is_word(text: &str, also: &[char]) -> bool {
    let fits = |character: char| character.is_ascii_alphanumeric() || also.contains(&character);
    (1..=MAX_WORD_BYTES).contains(&text.len()) && text.chars().all(fits)
}
