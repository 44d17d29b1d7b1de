//! Time: how long members stay online, and how often observers hear of changes.

use std::time::Duration;

use clap::ValueEnum;

use super::values::{MAX_DURATION, duration, show};
use super::{ConfigError, require};

/// The shortest tick. With a shorter one, the engine would mostly wake up.
const MIN_TICK: Duration = Duration::from_millis(10);

/// The times as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Presence")]
pub struct PresenceArgs {
    /// How long a member stays online without a sign of life
    #[arg(long, env = "ROLLCALL_TTL", default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub ttl: Duration,

    /// How long a member stays online after its connection is lost, so that a page reload is invisible to other users;
    /// at most the ttl [default: the ttl]
    #[arg(long, env = "ROLLCALL_GRACE", value_parser = duration, value_name = "DURATION")]
    pub grace: Option<Duration>,

    /// What counts as a sign of life: any frame including pongs, or strictly messages such as heartbeats [default: set
    /// by the protocol; any for presence.v1, strict for /ws/{user_id}]
    #[arg(long, env = "ROLLCALL_LIVENESS", value_name = "RULE")]
    pub liveness: Option<Liveness>,

    /// Interval of pings, so that no proxy cuts a silent connection. The server pings clients with a lease after this
    /// time of silence, or after half of the ttl if that is shorter. It disconnects online-status and chat clients that
    /// do not answer before the next ping
    #[arg(long, env = "ROLLCALL_PING_INTERVAL", default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub ping_interval: Duration,

    /// Interval at which the server sends changes to observers
    #[arg(long, env = "ROLLCALL_TICK", default_value = "100ms", value_parser = duration, value_name = "DURATION")]
    pub tick: Duration,
}

/// What counts as a sign of life on a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Liveness {
    /// Any frame, including pongs: hidden tabs stay online.
    Any,
    /// Only messages: heartbeats, joins, states and chat messages.
    Strict,
}

/// How long members stay online, and how often observers hear of changes.
#[derive(Debug, Clone, Copy)]
pub struct Presence {
    /// The lease, at least two ticks.
    pub ttl: Duration,
    /// How long a member stays online after its connection breaks, at most `ttl`.
    pub grace: Duration,
    /// Overrides what each protocol counts as a sign of life.
    pub liveness: Option<Liveness>,
    /// The time between two pings of a connection without a lease, and the longest silence of one with a lease until it
    /// is pinged; at least two ticks.
    pub ping_interval: Duration,
    /// The time between two ticks.
    pub tick: Duration,
}

impl PresenceArgs {
    /// Checks the times against each other.
    pub(super) fn check(&self) -> Result<Presence, ConfigError> {
        let Self { ttl, liveness, ping_interval, tick, .. } = *self;
        let grace = self.grace.unwrap_or(ttl);
        let two_ticks = tick.saturating_mul(2);
        require(tick >= MIN_TICK, || format!("--tick is {}; it must be at least {}", show(tick), show(MIN_TICK)))?;
        require(ttl >= two_ticks, || {
            format!(
                "--ttl is {} and --tick is {}: ttl must be at least 2 ticks, or members would time out between heartbeats",
                show(ttl),
                show(tick)
            )
        })?;
        require(ttl <= MAX_DURATION, || format!("--ttl is {}; it must be at most {}", show(ttl), show(MAX_DURATION)))?;
        require((two_ticks..=MAX_DURATION).contains(&ping_interval), || {
            format!(
                "--ping-interval is {} and --tick is {}: ping-interval must be at least 2 ticks and at most {}",
                show(ping_interval),
                show(tick),
                show(MAX_DURATION)
            )
        })?;
        require(grace <= ttl, || {
            format!(
                "--grace is {} and --ttl is {}: grace must be at most ttl, because the lease ends then",
                show(grace),
                show(ttl)
            )
        })?;
        Ok(Presence { ttl, grace, liveness, ping_interval, tick })
    }
}
