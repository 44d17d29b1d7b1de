//! Options of `soak`.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::{ChurnArgs, OutputArgs, RunArgs, ServerArgs, UsageError};
use crate::protocol::Protocol;

/// All kinds of people at once, for long.
#[derive(ClapArgs, Debug)]
pub(crate) struct SoakArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// How long all of it goes on
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// The same load before, not measured
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) warm_up: Duration,
    /// Rooms, to which all are dealt in turn
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rooms: u32,
    /// Connections that are present in a room and look at it, each with its own mirror of it
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) observers: u32,
    /// Those who come and go: so many are present at any time, and as many are away
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) members: u32,
    /// Joins a second over all rooms, and as many leaves
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// Those who are always present: they change their state, are cut off and come back
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) residents: u32,
    /// State changes a second
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) states: u32,
    /// Residents that are cut off a second; each is back a second later, which nobody may notice
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) drops: u32,
    /// Each connection sends a heartbeat this often
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) heartbeat_every: Duration,
    /// How often the server's memory is looked at
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) sample_every: Duration,
    /// How long a server may take to show the last changes to everybody
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    pub(crate) patience: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl SoakArgs {
    /// The part that is a churn.
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
            patience: Some(self.patience),
        }
    }

    /// Checks what one option says against another.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        if self.server.protocol != Protocol::Native {
            return Err(UsageError("soak needs --protocol native: the others have no states".to_owned()));
        }
        if self.sample_every.is_zero() {
            return Err(UsageError("--sample-every must be more than 0s".to_owned()));
        }
        self.churn().check()
    }
}
