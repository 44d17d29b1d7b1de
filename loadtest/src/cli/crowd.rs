//! Options that several scenarios share: which server, who the clients are, how long.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;

use super::UsageError;
use crate::protocol::{Observe, Protocol};

/// Which server, as whom, and where to look at its cost.
#[derive(ClapArgs, Clone, Debug)]
pub(crate) struct ServerArgs {
    /// The server; a path is put before the protocol's own
    #[arg(long, default_value = "ws://127.0.0.1:8000")]
    pub(crate) url: String,
    /// Dialect to speak
    #[arg(long, value_enum, default_value_t = Protocol::Native)]
    pub(crate) protocol: Protocol,
    /// Number of the first user: give each of several generator processes its own range
    #[arg(long, default_value_t = 0)]
    pub(crate) first_user: u32,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Handshakes in flight at most [default: 256; when a storm comes back: no limit]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: Option<u32>,
    /// A client that is not in by then ends the run
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) connect_timeout: Duration,
    /// Local addresses to connect from; default: as many 127.0.0.x as the ports need, if the server is on loopback
    #[arg(long, value_delimiter = ',')]
    pub(crate) source: Vec<IpAddr>,
    /// The server's process ids, to read its CPU and memory from /proc; else it is asked at /v1/stats
    #[arg(long, value_delimiter = ',')]
    pub(crate) pid: Vec<u32>,
    /// Do not compare with the server's own counters and lists (others are using it at the same time)
    #[arg(long)]
    pub(crate) no_verify: bool,
}

/// Clients that are all alike.
#[derive(ClapArgs, Debug)]
pub(crate) struct CrowdArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Clients, one connection and one user each
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Rooms the users are dealt to in turn; one room is called "lobby" (native only)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rooms: u32,
    /// What each client is told about its room (native only); "none" keeps the fan-out out of the figure
    #[arg(long, value_enum, default_value_t = Observe::None)]
    pub(crate) observe: Observe,
}

/// How long, and where the result goes.
#[derive(ClapArgs, Clone, Debug)]
pub(crate) struct RunArgs {
    /// The measured window
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// The same load before the window, not measured
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) warm_up: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Where the result goes besides the terminal.
#[derive(ClapArgs, Clone, Debug, Default)]
pub(crate) struct OutputArgs {
    /// Write the report there as JSON too
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Make a page of it in this directory: index.html with its plots, nothing else needed
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

impl ServerArgs {
    /// Only one dialect has rooms.
    pub(crate) fn check_rooms(&self, rooms: u32) -> Result<(), UsageError> {
        if self.protocol != Protocol::Native && rooms > 1 {
            let name = self.protocol.name();
            return Err(UsageError(format!("--rooms {rooms} needs --protocol native: {name} has no rooms")));
        }
        Ok(())
    }
}

impl CrowdArgs {
    /// Checks what one option says against another.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        let native = self.server.protocol == Protocol::Native;
        self.server.check_rooms(self.rooms)?;
        if !native && self.observe != Observe::None {
            return Err(UsageError(format!(
                "--observe needs --protocol native: {} has one way to look",
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
