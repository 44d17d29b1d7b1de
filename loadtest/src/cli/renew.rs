//! Options of `renew`.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::clients::{OutputArgs, ServerArgs};
use super::usage::UsageError;
use crate::protocol::Protocol;

/// Clients whose tokens end at the same moment renew them on their connections.
#[derive(ClapArgs, Debug)]
pub(crate) struct RenewArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Number of members of the room, each with one connection and one user
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Number of further connections that observe the room, each with its own mirror; they renew their tokens as well
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) observers: u32,
    /// The tokens with which clients connect end this long after the start of the run, all of them at once
    #[arg(long, default_value = "20s", value_parser = humantime::parse_duration)]
    pub(crate) lifetime: Duration,
    /// All clients renew at random moments of this time; 0s: all at once
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub(crate) within: Duration,
    /// Watch the connections until this long after the first tokens have ended; servers close connections without
    /// another token after 25 s. 0s: do not wait for the end of the tokens
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) stay: Duration,
    /// The run fails if a renewal is not answered after this time
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl RenewArgs {
    /// Checks options against each other.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        if self.server.protocol != Protocol::Native {
            return Err(UsageError("renew needs --protocol native: others cannot renew tokens".to_owned()));
        }
        if self.server.jwt_secret.is_none() {
            return Err(UsageError("renew needs --jwt-secret: it signs the tokens that clients renew".to_owned()));
        }
        if !(1..=24 * 3600).contains(&self.lifetime.as_secs()) {
            return Err(UsageError("--lifetime must be between 1s and 24h".to_owned()));
        }
        Ok(())
    }
}
