//! Options of `soak`.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::churn::ChurnArgs;
use super::clients::{OutputArgs, RunArgs, ServerArgs};
use super::usage::UsageError;
use crate::protocol::Protocol;

/// Churn, state changes and lost connections at once, for a long time.
#[derive(ClapArgs, Debug)]
pub(crate) struct SoakArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Length of the measured window
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Time under the same load before the window; not measured
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) warm_up: Duration,
    /// Number of rooms, assigned to all users round-robin
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rooms: u32,
    /// Number of connections that join and observe a room, each with its own mirror of the room
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) observers: u32,
    /// Number of joining and leaving users that are present at any time; as many more are absent
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) members: u32,
    /// Joins per second in all rooms together, and as many leaves
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// Number of members who never leave; they change their state, lose their connection and reconnect
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) permanent_members: u32,
    /// State changes of permanent members per second
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) state_changes: u32,
    /// Connections of permanent members that are reset per second; each client reconnects a second later, and no
    /// observer may see it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) resets: u32,
    /// Interval of each connection's heartbeats
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) heartbeat_every: Duration,
    /// Interval at which the server's memory is sampled
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) sample_every: Duration,
    /// How long to wait for the last changes to reach all observers
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    pub(crate) settle_timeout: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl SoakArgs {
    /// The churn that the soak includes.
    pub(crate) fn churn(&self) -> ChurnArgs {
        ChurnArgs {
            server: self.server.clone(),
            run: RunArgs { duration: self.duration, warm_up: self.warm_up, output: self.output.clone() },
            observers: self.observers,
            observe_url: None,
            observers_join: true,
            members: self.members,
            rate: self.rate,
            rooms: self.rooms,
            heartbeat_every: Some(self.heartbeat_every),
            settle_timeout: Some(self.settle_timeout),
        }
    }

    /// Checks options against each other.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        if self.server.protocol != Protocol::Native {
            return Err(UsageError("soak needs --protocol native: the other protocols have no states".to_owned()));
        }
        if self.sample_every.is_zero() {
            return Err(UsageError("--sample-every must be more than 0s".to_owned()));
        }
        self.churn().check()
    }
}
