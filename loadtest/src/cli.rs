//! The command line as typed. What needs the machine to be judged (fd limit, addresses) is checked in
//! `limits` and `target`; relations between options are checked by `check` before anything is opened.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::protocol::{Observe, Protocol};

const EXAMPLES: &str = "\
Examples:
  loadtest floor --listen 127.0.0.1:9000
  loadtest heartbeat --url ws://127.0.0.1:9000 --protocol floor --connections 10000 --rate 50000
  loadtest heartbeat --url ws://127.0.0.1:8000 --connections 10000 --rate 50000 --pid $(pidof rollcall)";

const FLOOR_EXAMPLES: &str = "\
Examples:
  loadtest floor                                  read, unmask, count
  loadtest floor --tick 100ms --bytes 200         and send 200 bytes to everybody each 100 ms";

const IDLE_EXAMPLE: &str = "\
Example:
  loadtest idle --connections 10000 --duration 20s --pid $(pidof rollcall)";

const HEARTBEAT_EXAMPLE: &str = "\
Example:
  loadtest heartbeat --connections 10000 --rate 50000 --duration 10s --pid $(pidof rollcall) --json run.json";

/// Load generator and measuring instrument for presence servers
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Run the bare epoll server: handshake, read, unmask, count. Everything else is measured against it
    #[command(after_help = FLOOR_EXAMPLES)]
    Floor(FloorArgs),
    /// N connections joined, silent but alive: memory and CPU per connection
    #[command(after_help = IDLE_EXAMPLE)]
    Idle(IdleArgs),
    /// N connections, R heartbeats a second on an open-loop schedule: CPU per heartbeat, ack round trips
    #[command(after_help = HEARTBEAT_EXAMPLE)]
    Heartbeat(HeartbeatArgs),
}

#[derive(ClapArgs, Debug)]
pub(crate) struct FloorArgs {
    /// Address to listen on; port 0 takes a free one and prints it
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub(crate) listen: SocketAddr,
    /// Send a frame to every connection this often
    #[arg(long, value_parser = humantime::parse_duration, requires = "bytes")]
    pub(crate) tick: Option<Duration>,
    /// Payload of that frame
    #[arg(long, requires = "tick", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) bytes: Option<u16>,
    /// Answer every heartbeat with {"type":"heartbeat_ack"}
    #[arg(long)]
    pub(crate) ack: bool,
    /// Stop after this time, else on Ctrl-C
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,
}

/// Which server, as whom, and where to look at its cost.
#[derive(ClapArgs, Debug)]
pub(crate) struct CrowdArgs {
    /// The server; a path is put before the protocol's own
    #[arg(long, default_value = "ws://127.0.0.1:8000")]
    pub(crate) url: String,
    /// Dialect to speak
    #[arg(long, value_enum, default_value_t = Protocol::Native)]
    pub(crate) protocol: Protocol,
    /// Clients, one connection and one user each
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Rooms the users are dealt to in turn; one room is called "lobby" (native only)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rooms: u32,
    /// What each client is told about its room (native only); "none" keeps the fan-out out of the figure
    #[arg(long, value_enum, default_value_t = Observe::None)]
    pub(crate) observe: Observe,
    /// Number of the first user: give each of several generator processes its own range
    #[arg(long, default_value_t = 0)]
    pub(crate) first_user: u32,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Handshakes in flight at most
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) in_flight: u32,
    /// A client that is not in by then ends the run
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) connect_timeout: Duration,
    /// Local addresses to connect from; default: as many 127.0.0.x as the ports need, if the server is on loopback
    #[arg(long, value_delimiter = ',')]
    pub(crate) source: Vec<IpAddr>,
    /// The server's process ids, to read its CPU and memory from /proc
    #[arg(long, value_delimiter = ',')]
    pub(crate) pid: Vec<u32>,
    /// Do not compare with the server's own counters (others are using it at the same time)
    #[arg(long)]
    pub(crate) no_verify: bool,
}

/// How long, and where the result goes.
#[derive(ClapArgs, Debug)]
pub(crate) struct RunArgs {
    /// The measured window
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// The same load before the window, not measured
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) warm_up: Duration,
    /// Write the report there as JSON too
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) crowd: CrowdArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct HeartbeatArgs {
    #[command(flatten)]
    pub(crate) crowd: CrowdArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Heartbeats a second, over all connections
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) rate: u64,
    /// Ask for an answer to each heartbeat and record its round trip from the planned time (online-users always answers)
    #[arg(long)]
    pub(crate) ack: bool,
    /// Plan heartbeats in bursts on this grid; 0s spaces them evenly
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    pub(crate) slot: Duration,
}

/// The command line was understood and makes no sense; nothing was opened.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

impl CrowdArgs {
    /// Checks what one option says against another.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        let native = self.protocol == Protocol::Native;
        if !native && self.rooms > 1 {
            return Err(UsageError(format!(
                "--rooms {} needs --protocol native: {} has no rooms",
                self.rooms,
                self.protocol.name()
            )));
        }
        if !native && self.observe != Observe::None {
            return Err(UsageError(format!(
                "--observe needs --protocol native: {} has one way to look",
                self.protocol.name()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(line: &str) -> HeartbeatArgs {
        let words = ["loadtest", "heartbeat"].into_iter().chain(line.split_whitespace());
        match Args::try_parse_from(words).expect("parses").scenario {
            Scenario::Heartbeat(args) => args,
            other => panic!("not heartbeat: {other:?}"),
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn relations_are_checked_with_the_reason() {
        assert!(heartbeat("--connections 10 --rooms 10").crowd.check().is_ok());
        let message = heartbeat("--connections 10 --rooms 11").crowd.check().unwrap_err().to_string();
        assert!(message.contains("more than --connections"), "{message}");
        assert!(heartbeat("--protocol floor --rooms 2").crowd.check().is_err());
        assert!(heartbeat("--protocol online-users --observe count").crowd.check().is_err());
    }

    #[test]
    fn lists_take_commas() {
        let args = heartbeat("--pid 1,2 --source 127.0.0.2,127.0.0.3 --slot 0s");
        assert_eq!(args.crowd.pid, [1, 2]);
        assert_eq!(args.crowd.source.len(), 2);
        assert_eq!(args.slot, Duration::ZERO);
    }
}
