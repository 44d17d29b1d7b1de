//! Options that several scenarios share: the server, the clients, the measured window, the output.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;

use super::usage::UsageError;
use crate::protocol::{Observe, Protocol};

/// The server, how to connect to it, and how to measure it.
#[derive(ClapArgs, Clone, Debug)]
pub(crate) struct ServerArgs {
    /// Address of the server; a path precedes the path of the protocol
    #[arg(long, default_value = "ws://127.0.0.1:8000")]
    pub(crate) url: String,
    /// Protocol to use
    #[arg(long, value_enum, default_value_t = Protocol::Native)]
    pub(crate) protocol: Protocol,
    /// Number of the first user: each generator process needs a range of its own
    #[arg(long, default_value_t = 0)]
    pub(crate) first_user: u32,
    /// Digits of the number in user names, which are user-000000 and so on
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub(crate) user_digits: u8,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Limit of pending handshakes [default: 256; unlimited when the clients of a storm reconnect]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: Option<u32>,
    /// The run fails if a client is not ready after this time
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) connect_timeout: Duration,
    /// Local addresses to connect from [default: on loopback as many 127.0.0.x as the ports require]
    #[arg(long, value_delimiter = ',')]
    pub(crate) source: Vec<IpAddr>,
    /// Process ids of the server, to read its CPU time and memory from /proc [default: what it reports at /v1/stats]
    #[arg(long, value_delimiter = ',')]
    pub(crate) pid: Vec<u32>,
    /// Signs a token for each client (HS256), as the secret of the server's --jwt-secret; native only
    #[arg(long, value_name = "SECRET")]
    pub(crate) jwt_secret: Option<String>,
    /// Key for the server's HTTP API, as given to its --read-key or --api-key
    #[arg(long, value_name = "KEY")]
    pub(crate) read_key: Option<String>,
    /// Do not compare results with the server's own counters and lists; needed if the server has other clients
    #[arg(long)]
    pub(crate) no_verify: bool,
}

/// Clients that all do the same.
#[derive(ClapArgs, Debug)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Number of clients, each with one connection and one user
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Number of rooms, assigned to users round-robin; a single room is called "lobby" (native and pusher)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rooms: u32,
    /// What each client observes in its room (native only); "none" keeps the cost of fan-out out of the figures
    #[arg(long, value_enum, default_value_t = Observe::None)]
    pub(crate) observe: Observe,
}

/// The measured window.
#[derive(ClapArgs, Clone, Debug)]
pub(crate) struct RunArgs {
    /// Length of the measured window
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Time under the same load before the window; not measured
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) warm_up: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Where the report goes besides stdout.
#[derive(ClapArgs, Clone, Debug, Default)]
pub(crate) struct OutputArgs {
    /// Write the report as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the report as a self-contained HTML page with plots to DIR/index.html
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

impl ServerArgs {
    /// Only these protocols have rooms.
    pub(crate) fn check_rooms(&self, rooms: u32) -> Result<(), UsageError> {
        if !matches!(self.protocol, Protocol::Native | Protocol::Pusher) && rooms > 1 {
            let name = self.protocol.name();
            let rule = "needs --protocol native or pusher";
            return Err(UsageError(format!("--rooms {rooms} {rule}: {name} has no rooms")));
        }
        Ok(())
    }
}

impl ClientArgs {
    /// Checks options against each other.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        let native = self.server.protocol == Protocol::Native;
        self.server.check_rooms(self.rooms)?;
        if !native && self.observe != Observe::None {
            return Err(UsageError(format!(
                "--observe needs --protocol native: clients of {} cannot choose what they observe",
                self.server.protocol.name()
            )));
        }
        if self.rooms > self.connections {
            return Err(UsageError(format!(
                "--rooms {} is more than --connections {}: some rooms would be empty",
                self.rooms, self.connections
            )));
        }
        Ok(())
    }
}
