//! Worker threads, and what clients may use: connections, time for requests, time to leave.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::values::{MAX_DURATION, duration, show};
use super::{ConfigError, require};

/// Sockets that serve requests, in addition to the connections.
const REQUEST_SOCKETS: usize = 128;
/// Descriptors that are not client sockets: standard streams, wake-ups, files that are open for a moment.
const OTHER_DESCRIPTORS: usize = 128;
/// Descriptors per worker and its HTTP thread: a listener for each of two ports, and each thread's poll and wake-ups.
const DESCRIPTORS_PER_WORKER: usize = 10;
/// Descriptors per partition in Redis: two connections, and two more while they are being replaced.
const DESCRIPTORS_PER_PARTITION: usize = 4;
/// More threads gain nothing on any machine, and some machines run out of descriptors.
const MAX_WORKERS: usize = 256;

/// The limits as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Workers and limits")]
pub struct LimitsArgs {
    /// Number of worker threads; each serves its share of the connections, and has a second thread beside it for new
    /// connections and HTTP [default: one per core]
    #[arg(long, env = "ROLLCALL_WORKERS", value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// Maximum number of WebSocket connections; further ones are closed with 1013 [default: what the open-file limit
    /// allows]
    #[arg(long, env = "ROLLCALL_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<NonZeroUsize>,

    /// Time limit for a client to send the headers of a request, again for its body, and to join the chat
    #[arg(long, env = "ROLLCALL_HEADER_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub header_timeout: Duration,

    /// Time limit for stopping; clients are closed with 1012 (reconnect) in waves over this time
    #[arg(long, env = "ROLLCALL_DRAIN", default_value = "5s", value_parser = duration, value_name = "DURATION")]
    pub drain: Duration,
}

/// Worker threads, and what clients may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Worker threads.
    pub workers: usize,
    /// The maximum number of WebSocket connections.
    pub max_connections: usize,
    /// The time limit for a request's headers, for its body, and for joining the chat.
    pub header_timeout: Duration,
    /// The time limit for stopping.
    pub drain: Duration,
}

impl Limits {
    /// The maximum number of open sockets, requests included. It exceeds the connections, so that a full server still
    /// answers health checks and refuses further clients.
    #[must_use]
    pub fn max_sockets(&self) -> usize {
        self.max_connections + REQUEST_SOCKETS
    }
}

impl LimitsArgs {
    /// Checks the limits, raises the limit of open files, and fits the connections below it.
    pub(super) fn check(&self, redis_partitions: usize) -> Result<Limits, ConfigError> {
        let workers = self.workers.map_or_else(|| cores().min(MAX_WORKERS), NonZeroUsize::get);
        require(workers <= MAX_WORKERS, || format!("--workers is {workers}; it must be at most {MAX_WORKERS}"))?;
        require(!self.header_timeout.is_zero(), || "--header-timeout must be more than 0".to_owned())?;
        require(self.drain <= MAX_DURATION, || {
            format!("--drain is {}; it must be at most {}", show(self.drain), show(MAX_DURATION))
        })?;
        let max_connections = self.max_connections(workers, redis_partitions)?;
        Ok(Limits { workers, max_connections, header_timeout: self.header_timeout, drain: self.drain })
    }

    fn max_connections(&self, workers: usize, redis_partitions: usize) -> Result<usize, ConfigError> {
        let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
        let per_thread = workers * DESCRIPTORS_PER_WORKER + redis_partitions * DESCRIPTORS_PER_PARTITION;
        let reserved = REQUEST_SOCKETS + OTHER_DESCRIPTORS + per_thread;
        let most = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(reserved).max(16);
        let asked = self.max_connections.map_or(most, NonZeroUsize::get);
        require(asked <= most, || {
            format!(
                "--max-connections is {asked}, but the limit of open files is {limit}, which allows {most} connections; \
                 raise it with `ulimit -n`"
            )
        })?;
        Ok(asked)
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
