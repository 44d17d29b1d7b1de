//! What is said about Redis, checked: nothing is connected to yet.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::{Args, ConfigError, show};
use crate::store::redis;

/// The shortest lease that nodes can keep for each other.
const MIN_SHARED_TTL: Duration = Duration::from_secs(1);
/// The longest node id, or prefix of keys.
const MAX_WORD_BYTES: usize = 64;

impl Args {
    /// How to use Redis, if it is to be used.
    pub(super) fn redis(&self) -> Result<Option<redis::Options>, ConfigError> {
        let invalid = |message: String| Err(ConfigError::Invalid(message));
        if let Some(node) = &self.node_id
            && !is_word(node, &['-', '_', '.'])
        {
            return invalid(format!(
                "--node-id {node:?} must be 1 to {MAX_WORD_BYTES} letters, digits, `-`, `_` and `.`"
            ));
        }
        if self.redis.is_empty() {
            let flag = match self {
                Self { redis_cluster: true, .. } => "--redis-cluster",
                Self { redis_optional: true, .. } => "--redis-optional",
                Self { redis_lanes: Some(_), .. } => "--redis-lanes",
                _ => return Ok(None),
            };
            return invalid(format!("{flag} says how to use Redis, and --redis URL does not say which"));
        }
        for url in &self.redis {
            if let Err(error) = redis::link::check_url(url) {
                // The URL itself may hold a password.
                return invalid(format!("--redis {error}"));
            }
        }
        if !is_word(&self.redis_prefix, &['-', '_', '.', ':']) {
            return invalid(format!(
                "--redis-prefix {:?} must be 1 to {MAX_WORD_BYTES} letters, digits, `-`, `_`, `.` and `:`",
                self.redis_prefix
            ));
        }
        if self.ttl < MIN_SHARED_TTL {
            return invalid(format!(
                "--ttl is {} and --redis is given: it must be at least {}, or a hiccup of Redis would look like a dead node",
                show(self.ttl),
                show(MIN_SHARED_TTL)
            ));
        }
        let cluster = self.redis_cluster || self.redis.len() > 1;
        let lanes = self.redis_lanes.map_or(if cluster { redis::CLUSTER_LANES } else { 1 }, NonZeroUsize::get);
        if lanes > redis::MAX_LANES {
            return invalid(format!("--redis-lanes must be at most {}: each has two connections", redis::MAX_LANES));
        }
        Ok(Some(redis::Options {
            urls: self.redis.clone(),
            cluster,
            prefix: self.redis_prefix.clone(),
            lanes,
            node: self.node_id.clone().unwrap_or_default(),
            optional: self.redis_optional,
            ttl: self.ttl,
            tick: self.tick,
        }))
    }
}

fn is_word(text: &str, also: &[char]) -> bool {
    let fits = |character: char| character.is_ascii_alphanumeric() || also.contains(&character);
    (1..=MAX_WORD_BYTES).contains(&text.len()) && text.chars().all(fits)
}
