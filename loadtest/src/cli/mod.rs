//! The command line as typed. What needs the machine to be judged (fd limit, addresses) is checked in
//! `limits` and `target`; relations between options are checked by `check` before anything is opened.

mod churn;
mod crowd;
mod series;
mod soak;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};

pub(crate) use churn::{ChurnArgs, MIN_STAY, RoomsArgs};
pub(crate) use crowd::{CrowdArgs, OutputArgs, RunArgs, ServerArgs};
pub(crate) use series::{CompareArgs, ManyArgs, MergeArgs, Over, Peer, SweepArgs};
pub(crate) use soak::SoakArgs;

use crate::protocol::Protocol;

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

const CHURN_EXAMPLES: &str = "\
Examples:
  loadtest churn --observers 5000 --members 200 --rate 100 --pid $(pidof rollcall) --json run.json
  loadtest churn --protocol online-users --observers 500 --members 100 --rate 20";

const ROOMS_EXAMPLE: &str = "\
Example:
  loadtest rooms --rooms 500 --observers 5000 --members 2000 --rate 200 --pid $(pidof rollcall)";

const STORM_EXAMPLE: &str = "\
Example:
  loadtest storm --connections 10000 --rounds 5 --pid $(pidof rollcall)";

const SOAK_EXAMPLE: &str = "\
Example:
  loadtest soak --duration 8h --pid $(pidof rollcall) --json soak.json --report soak";

const SWEEP_EXAMPLE: &str = "\
Example:
  loadtest sweep --over connections=100,1000,10000 --rounds 5 --report cost heartbeat --rate 10000 --pid $(pidof rollcall)";

const COMPARE_EXAMPLE: &str = "\
Example:
  loadtest compare --server floor=ws://127.0.0.1:9000,pid=$FLOOR,protocol=floor \\
                   --server rollcall=ws://127.0.0.1:8000,pid=$(pidof rollcall) \\
                   --rounds 5 --json compare.json heartbeat --connections 10000 --rate 50000";

const MERGE_EXAMPLE: &str = "\
Examples:
  loadtest merge a.json b.json --json both.json
  loadtest merge run.json --report page";

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
    /// J joins and leaves a second in a room with O observers: join → seen latency, cost and bytes per delivery
    #[command(after_help = CHURN_EXAMPLES)]
    Churn(ChurnArgs),
    /// The same with users spread over many rooms
    #[command(after_help = ROOMS_EXAMPLE)]
    Rooms(RoomsArgs),
    /// N connections drop at once and come back: handshakes a second, time until all are in, errors, CPU per connection
    #[command(after_help = STORM_EXAMPLE)]
    Storm(StormArgs),
    /// Mixed work for a long time: memory over time, drops that nobody may notice, ghosts
    #[command(after_help = SOAK_EXAMPLE)]
    Soak(SoakArgs),
    /// One of the scenarios over a list of sizes: cost against size
    #[command(after_help = SWEEP_EXAMPLE)]
    Sweep(SweepArgs),
    /// One of the scenarios against several servers in turn, A B A B …: medians and ratios. It starts no server
    #[command(after_help = COMPARE_EXAMPLE)]
    Compare(CompareArgs),
    /// Reports of several generators that loaded one server at the same time, as one; series, as one; or one as a page
    #[command(after_help = MERGE_EXAMPLE)]
    Merge(MergeArgs),
}

impl Scenario {
    /// Whether it makes one run and one report.
    pub(crate) fn makes_one_run(&self) -> bool {
        !matches!(self, Self::Floor(_) | Self::Sweep(_) | Self::Compare(_) | Self::Merge(_))
    }

    /// Where the result goes; `None` for the floor.
    pub(crate) fn output(&self) -> Option<&OutputArgs> {
        match self {
            Self::Floor(_) => None,
            Self::Idle(args) => Some(&args.run.output),
            Self::Heartbeat(args) => Some(&args.run.output),
            Self::Churn(args) => Some(&args.run.output),
            Self::Rooms(args) => Some(&args.run.output),
            Self::Storm(args) => Some(&args.output),
            Self::Soak(args) => Some(&args.output),
            Self::Sweep(args) => Some(&args.many.output),
            Self::Compare(args) => Some(&args.many.output),
            Self::Merge(args) => Some(&args.output),
        }
    }
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

#[derive(ClapArgs, Debug)]
pub(crate) struct StormArgs {
    #[command(flatten)]
    pub(crate) crowd: CrowdArgs,
    /// How often all drop and come back
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// They come back at random moments of this time; 0s: all at once
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) spread: Duration,
    /// After each round, so that the server can settle
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub(crate) pause: Duration,
    /// A round that takes longer is given up
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl HeartbeatArgs {
    /// Checks what one option says against another.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        if self.crowd.server.protocol == Protocol::Status {
            return Err(UsageError(
                "--protocol status has no heartbeats: its server pings. Try idle or churn".to_owned(),
            ));
        }
        self.crowd.check()
    }
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
        let message = heartbeat("--protocol status").check().unwrap_err().to_string();
        assert!(message.contains("its server pings"), "{message}");
    }

    #[test]
    fn lists_take_commas() {
        let args = heartbeat("--pid 1,2 --source 127.0.0.2,127.0.0.3 --slot 0s");
        assert_eq!(args.crowd.server.pid, [1, 2]);
        assert_eq!(args.crowd.server.source.len(), 2);
        assert_eq!(args.slot, Duration::ZERO);
    }
}
