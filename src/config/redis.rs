//! How to use Redis. Nothing is connected to yet.

use std::num::NonZeroUsize;

use clap::builder::BoolishValueParser;

use super::{ConfigError, Presence, require};
use crate::store::redis;

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

    /// Number of lanes that users are spread over in Redis; the same on all nodes [default: 1; 16 on a cluster]
    #[arg(long, env = "ROLLCALL_REDIS_LANES", value_name = "N")]
    pub redis_lanes: Option<NonZeroUsize>,

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
    pub(super) fn check(self, presence: &Presence) -> Result<Option<redis::Options>, ConfigError> {
        if self.redis.is_empty() {
            let flag = match self {
                Self { redis_cluster: true, .. } => "--redis-cluster",
                Self { redis_optional: true, .. } => "--redis-optional",
                Self { redis_lanes: Some(_), .. } => "--redis-lanes",
                _ => return Ok(None),
            };
            return Err(ConfigError::Invalid(format!("{flag} is given without --redis URL: it says how to use Redis")));
        }
        for url in &self.redis {
            // The URL itself may hold a password.
            redis::link::check_url(url).map_err(|error| ConfigError::Invalid(format!("--redis {error}")))?;
        }
        require(is_word(&self.redis_prefix, &['-', '_', '.', ':']), || {
            format!(
                "--redis-prefix {:?} must be 1 to {MAX_WORD_BYTES} letters, digits, `-`, `_`, `.` and `:`",
                self.redis_prefix
            )
        })?;
        let cluster = self.redis_cluster || self.redis.len() > 1;
        let lanes = self.redis_lanes.map_or(if cluster { redis::CLUSTER_LANES } else { 1 }, NonZeroUsize::get);
        require(lanes <= redis::MAX_LANES, || {
            format!("--redis-lanes is {lanes}; it must be at most {}, since each has two connections", redis::MAX_LANES)
        })?;
        Ok(Some(redis::Options {
            urls: self.redis,
            cluster,
            prefix: self.redis_prefix,
            lanes,
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
