//! Worker threads, and what clients may use: connections, time for requests, time to leave.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::values::{MAX_DURATION, bytes, duration, positive, show};
use super::{ConfigError, require};
use crate::memory_budget::MAX_UNREAD_BYTES;
use crate::os;
use crate::revocations::MAX_REVOCATIONS;
use crate::work_budget::Allowance;

/// A connection is closed this long after its token has expired: the clocks of nodes differ, and a browser that wakes
/// up needs time to fetch a new token.
const EXPIRED_WAIT: Duration = Duration::from_secs(25);
/// Sockets that serve requests, in addition to the connections.
const REQUEST_SOCKETS: usize = 128;
/// Descriptors that are not client sockets: standard streams, wake-ups, files that are open for a moment.
const OTHER_DESCRIPTORS: usize = 128;
/// Descriptors per worker and its HTTP thread without the listeners: each thread's poll and wake-ups.
const DESCRIPTORS_PER_WORKER: usize = 8;
/// Descriptors per partition in Redis: two connections, and two more while they are being replaced.
const DESCRIPTORS_PER_PARTITION: usize = 4;
/// The minimum number of connections, even if the limit of open files is lower.
const MIN_CONNECTIONS: usize = 16;
/// With fewer connections than this, the limit of open files is probably a mistake.
const FEW_CONNECTIONS: usize = 1000;
/// The limit of memory for joins and leaves that wait for a client that is far behind, some 75,000: more than 4,000
/// made-up users per second cause within one lease of 10 s.
pub(crate) const MAX_BACKLOG_BYTES: usize = 12 * 1024 * 1024;
/// More is no limit.
const MAX_WORK_PER_ADDRESS: u64 = 1 << 40;
/// A server without clients takes some 10 MiB.
const MIN_MEMORY: u64 = 32 << 20;
/// More threads gain nothing on any machine, and some machines run out of descriptors.
const MAX_WORKERS: usize = 256;

/// The limits as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Workers and limits")]
pub struct LimitsArgs {
    /// Number of worker threads. Each serves its share of the connections, and has a second thread beside it for HTTP
    /// requests [default: one per core]
    #[arg(long, env = "ROLLCALL_WORKERS", value_parser = positive::<NonZeroUsize>, value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// Maximum number of WebSocket connections; further ones are closed with 1013 [default: as many as the open-file
    /// limit allows]
    #[arg(long, env = "ROLLCALL_MAX_CONNECTIONS", value_parser = positive::<NonZeroUsize>, value_name = "N")]
    pub max_connections: Option<NonZeroUsize>,

    /// Maximum number of users that one client address keeps online through POST /heartbeat; further ones get 429. An
    /// IPv6 /64 network is one address. Programs on this machine are not limited
    #[arg(
        long,
        env = "ROLLCALL_REST_USERS_PER_ADDRESS",
        default_value = "1000",
        value_parser = positive::<NonZeroU32>,
        value_name = "N"
    )]
    pub rest_users_per_address: NonZeroU32,

    /// Work that all clients of one address may cause per second, in bytes (see "Work budgets" in docs/protocols.md),
    /// and sixteen times as much at once. Without --trust-proxy, clients behind a proxy on another machine share the
    /// address of the proxy. 0 sets no limit. Programs on this machine are not limited
    #[arg(long, env = "ROLLCALL_WORK_PER_ADDRESS", default_value = "4M", value_parser = bytes, value_name = "BYTES")]
    pub work_per_address: u64,

    /// Limit of the server's memory, such as 512M or 2G. Above it, the server closes new connections, and the
    /// connections that take the most memory, with 1013 [default: nine tenths of the memory limit of the container, if
    /// it has one]
    #[arg(long, env = "ROLLCALL_MAX_MEMORY", value_parser = bytes, value_name = "BYTES")]
    pub max_memory: Option<u64>,

    /// Time limit for each of these actions of a client: to send the headers of a request, to send its body, to join
    /// the chat, and to complete a WebSocket message
    #[arg(long, env = "ROLLCALL_HEADER_TIMEOUT", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub header_timeout: Duration,

    /// How long an HTTP connection stays open between two requests; a proxy in front must close its connections earlier
    #[arg(long, env = "ROLLCALL_KEEP_ALIVE", default_value = "75s", value_parser = duration, value_name = "DURATION")]
    pub keep_alive: Duration,

    /// Time limit for stopping; the server closes its clients with 1012 (reconnect) in waves over this time
    #[arg(long, env = "ROLLCALL_DRAIN", default_value = "5s", value_parser = duration, value_name = "DURATION")]
    pub drain: Duration,

    /// How long a stopping server still accepts clients while /readyz answers 503, so that load balancers notice first
    #[arg(long, env = "ROLLCALL_DRAIN_DELAY", default_value = "0s", value_parser = duration, value_name = "DURATION")]
    pub drain_delay: Duration,
}

/// Worker threads, and what clients may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Worker threads.
    pub workers: usize,
    /// The maximum number of WebSocket connections.
    pub max_connections: usize,
    /// The work that clients of one address may cause; `None` if it is not limited.
    pub work_per_address: Option<Allowance>,
    /// The limit of the server's memory, if there is one.
    pub max_memory: Option<u64>,
    /// The time limit for a request's headers, for its body, for joining the chat, and for a message.
    pub header_timeout: Duration,
    /// How long an HTTP connection stays open between two requests.
    pub keep_alive: Duration,
    /// The time limit for stopping.
    pub drain: Duration,
    /// How long a stopping server still accepts clients, while `/readyz` answers 503.
    pub drain_delay: Duration,
    /// Says why there are few connections, if the limit of open files allows only few.
    pub few_files: Option<String>,
    /// The maximum number of users per client address who are online through REST heartbeats.
    pub rest_users_per_address: u32,
    /// The limit of memory for events that wait for one client that is far behind, in bytes. Tests lower it.
    pub max_backlog_bytes: usize,
    /// A connection is closed this long after its token has expired. Tests lower it.
    pub expired_wait: Duration,
    /// The limit of revocations that have not ended. Tests lower it.
    pub max_revocations: usize,
    /// The limit of long HTTP answers that clients have not read, in bytes. Tests lower it.
    pub max_unread_answer_bytes: usize,
}

impl Limits {
    /// The maximum number of open sockets, requests included. It exceeds the connections, so that a full server still
    /// answers health checks and refuses further clients.
    #[must_use]
    pub fn max_sockets(&self) -> usize {
        self.max_connections + REQUEST_SOCKETS
    }

    /// The maximum number of sockets that are no WebSockets: a quarter of all.
    #[must_use]
    pub fn max_plain_sockets(&self) -> usize {
        (self.max_sockets() / 4).max(REQUEST_SOCKETS)
    }
}

impl LimitsArgs {
    /// Checks the limits, raises the limit of open files, and fits the connections below it.
    pub(super) fn check(&self, listeners: usize, redis_partitions: usize) -> Result<Limits, ConfigError> {
        let workers = self.workers.map_or_else(|| cores().min(MAX_WORKERS), NonZeroUsize::get);
        require(workers <= MAX_WORKERS, || format!("--workers is {workers}; it must be at most {MAX_WORKERS}"))?;
        require(!self.header_timeout.is_zero(), || "--header-timeout must be more than 0".to_owned())?;
        require(self.drain <= MAX_DURATION, || {
            format!("--drain is {}; it must be at most {}", show(self.drain), show(MAX_DURATION))
        })?;
        require(self.drain_delay <= MAX_DURATION, || {
            format!("--drain-delay is {}; it must be at most {}", show(self.drain_delay), show(MAX_DURATION))
        })?;
        require(self.work_per_address <= MAX_WORK_PER_ADDRESS, || {
            format!("--work-per-address is {}; it must be at most 1024G", self.work_per_address)
        })?;
        require(self.max_memory.is_none_or(|bytes| bytes >= MIN_MEMORY), || {
            format!(
                "--max-memory is {} bytes; it must be at least {} MiB",
                self.max_memory.unwrap_or(0),
                MIN_MEMORY >> 20
            )
        })?;
        let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
        let reserved = reserved(workers, listeners, redis_partitions);
        let max_connections = self.max_connections(files, reserved)?;
        let is_few = self.max_connections.is_none() && max_connections < FEW_CONNECTIONS;
        let few_files = is_few.then(|| few_files(files, reserved, max_connections));
        require((Duration::from_nanos(1)..=MAX_DURATION).contains(&self.keep_alive), || {
            format!(
                "--keep-alive is {}; it must be more than 0 and at most {}",
                show(self.keep_alive),
                show(MAX_DURATION)
            )
        })?;
        let Self { header_timeout, keep_alive, drain, drain_delay, .. } = *self;
        Ok(Limits {
            workers,
            max_connections,
            work_per_address: (self.work_per_address > 0).then(|| Allowance::of_address(self.work_per_address)),
            max_memory: self.max_memory.or_else(|| os::container_memory_bytes().map(|bytes| bytes / 10 * 9)),
            header_timeout,
            keep_alive,
            drain,
            drain_delay,
            few_files,
            rest_users_per_address: self.rest_users_per_address.get(),
            max_backlog_bytes: MAX_BACKLOG_BYTES,
            expired_wait: EXPIRED_WAIT,
            max_revocations: MAX_REVOCATIONS,
            max_unread_answer_bytes: MAX_UNREAD_BYTES,
        })
    }

    fn max_connections(&self, limit: u64, reserved: usize) -> Result<usize, ConfigError> {
        let most = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(reserved).max(MIN_CONNECTIONS);
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

/// Descriptors that are not for connections.
fn reserved(workers: usize, listeners: usize, redis_partitions: usize) -> usize {
    let per_thread = workers * (DESCRIPTORS_PER_WORKER + listeners) + redis_partitions * DESCRIPTORS_PER_PARTITION;
    REQUEST_SOCKETS + OTHER_DESCRIPTORS + per_thread
}

/// Says how the limit of open files results in so few connections.
fn few_files(limit: u64, reserved: usize, max_connections: usize) -> String {
    let fits = if limit < (reserved + max_connections) as u64 { ", and not even these fit" } else { "" };
    let enough = reserved + FEW_CONNECTIONS;
    format!(
        "the limit of open files is {limit}; {reserved} are reserved for HTTP requests, threads and files, so at most \
         {max_connections} clients can connect{fits}; raise it, for example with `ulimit -n {enough}`"
    )
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
