//! The command line as typed. `check` compares options with each other before anything is opened; `limits` and `target`
//! check what depends on the machine (limit of file descriptors, addresses).

mod adversary;
mod churn;
mod clients;
mod pusher;
mod renew;
mod series;
mod soak;
mod usage;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};

pub(crate) use adversary::AdversaryArgs;
pub(crate) use churn::{ChurnArgs, MIN_STAY, RoomsArgs};
pub(crate) use clients::{ClientArgs, OutputArgs, RunArgs, ServerArgs};
pub(crate) use pusher::{PusherArgs, Reload};
pub(crate) use renew::RenewArgs;
pub(crate) use series::{CompareArgs, MergeArgs, OptionValues, SeriesArgs, ServerSpec, SweepArgs};
pub(crate) use soak::SoakArgs;
pub(crate) use usage::UsageError;

use crate::protocol::Protocol;

const EXAMPLES: &str = "\
Examples:
  loadtest floor --listen 127.0.0.1:9000
  loadtest heartbeat --url ws://127.0.0.1:9000 --protocol floor --connections 10000 --rate 50000
  loadtest heartbeat --url ws://127.0.0.1:8000 --connections 10000 --rate 50000 --pid $(pidof rollcall)";

const FLOOR_EXAMPLES: &str = "\
Examples:
  loadtest floor                                  read, unmask, count
  loadtest floor --tick 100ms --bytes 200         also send 200 bytes to every connection each 100 ms";

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

const RENEW_EXAMPLE: &str = "\
Example:
  loadtest renew --jwt-secret $SECRET --read-key $KEY --connections 5000 --pid $(pidof rollcall)";

const PUSHER_EXAMPLES: &str = "\
Examples:
  rollcall --pusher-app 1:loadtest:loadtest-secret
  loadtest pusher --members 1000 --rooms 10 --rate 50 --pid $(pidof rollcall)
  loadtest pusher --members 2000 --rooms 20 --rate 0 --reloads 3 --pid $(pidof rollcall)";

const SOAK_EXAMPLE: &str = "\
Example:
  loadtest soak --duration 8h --pid $(pidof rollcall) --json soak.json --report soak";

const ADVERSARY_EXAMPLES: &str = "\
Examples:
  loadtest adversary --list
  loadtest adversary --pid $(pidof rollcall) --json adversary.json
  loadtest adversary resync new-names --url ws://127.0.0.1:8000 --duration 5s";

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

/// Load generator and benchmark for presence servers
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scenario {
    /// Run the floor: a bare epoll server that accepts, reads, unmasks and counts. Servers are compared with it
    #[command(after_help = FLOOR_EXAMPLES)]
    Floor(FloorArgs),
    /// N idle connections, each present in a room: memory and CPU time per connection
    #[command(after_help = IDLE_EXAMPLE)]
    Idle(IdleArgs),
    /// N connections and R heartbeats per second on an open-loop schedule: CPU time per heartbeat, round trips of acks
    #[command(after_help = HEARTBEAT_EXAMPLE)]
    Heartbeat(HeartbeatArgs),
    /// J joins and leaves per second in a room with O observers: latency join → seen, CPU time and bytes per delivery
    #[command(after_help = CHURN_EXAMPLES)]
    Churn(ChurnArgs),
    /// The same with users spread over many rooms
    #[command(after_help = ROOMS_EXAMPLE)]
    Rooms(RoomsArgs),
    /// N connections are reset at once and reconnect: handshakes per second, time until all have rejoined, CPU time per
    /// connection
    #[command(after_help = STORM_EXAMPLE)]
    Storm(StormArgs),
    /// The tokens of N connections end at once and are renewed on the connections: CPU time per renewal, changes that
    /// observers see although nobody comes or goes
    #[command(after_help = RENEW_EXAMPLE)]
    Renew(RenewArgs),
    /// Members of presence channels of the Pusher protocol come, go and reload: CPU time, and member events that are
    /// missing, duplicate or wrong
    #[command(after_help = PUSHER_EXAMPLES)]
    Pusher(PusherArgs),
    /// A mixed load for a long time: memory over time, users that are wrongly shown or missing
    #[command(after_help = SOAK_EXAMPLE)]
    Soak(SoakArgs),
    /// Attack a server next to honest clients: what each attack costs the server, and whether honest clients notice
    #[command(after_help = ADVERSARY_EXAMPLES)]
    Adversary(AdversaryArgs),
    /// Run a scenario with a list of sizes: cost by size
    #[command(after_help = SWEEP_EXAMPLE)]
    Sweep(SweepArgs),
    /// Run a scenario against several running servers in turn, A B A B …: medians and ratios
    #[command(after_help = COMPARE_EXAMPLE)]
    Compare(CompareArgs),
    /// Merge reports of generators that loaded one server at the same time, or join series; or write a report as a page
    #[command(after_help = MERGE_EXAMPLE)]
    Merge(MergeArgs),
}

impl Scenario {
    /// Whether it produces one run with one report.
    pub(crate) fn is_single_run(&self) -> bool {
        !matches!(self, Self::Floor(_) | Self::Adversary(_) | Self::Sweep(_) | Self::Compare(_) | Self::Merge(_))
    }

    /// Where the report goes; `None` for the floor.
    pub(crate) fn output(&self) -> Option<&OutputArgs> {
        match self {
            Self::Floor(_) => None,
            Self::Idle(args) => Some(&args.run.output),
            Self::Heartbeat(args) => Some(&args.run.output),
            Self::Churn(args) => Some(&args.run.output),
            Self::Rooms(args) => Some(&args.run.output),
            Self::Storm(args) => Some(&args.output),
            Self::Renew(args) => Some(&args.output),
            Self::Pusher(args) => Some(&args.output),
            Self::Soak(args) => Some(&args.output),
            Self::Adversary(args) => Some(&args.output),
            Self::Sweep(args) => Some(&args.series.output),
            Self::Compare(args) => Some(&args.series.output),
            Self::Merge(args) => Some(&args.output),
        }
    }
}

#[derive(ClapArgs, Debug)]
pub(crate) struct FloorArgs {
    /// Address to listen on; port 0 chooses a free port, which is printed
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub(crate) listen: SocketAddr,
    /// Interval at which a frame is sent to every connection
    #[arg(long, value_parser = humantime::parse_duration, requires = "bytes")]
    pub(crate) tick: Option<Duration>,
    /// Payload length of that frame
    #[arg(long, requires = "tick", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) bytes: Option<u16>,
    /// Answer every heartbeat with {"type":"heartbeat_ack"}
    #[arg(long)]
    pub(crate) ack: bool,
    /// Stop after this time [default: on Ctrl-C]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) clients: ClientArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct HeartbeatArgs {
    #[command(flatten)]
    pub(crate) clients: ClientArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Heartbeats per second of all connections together
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) rate: u64,
    /// Request an ack for each heartbeat and record the round trip from the planned time (online-users and chat always
    /// answer)
    #[arg(long)]
    pub(crate) ack: bool,
    /// Send the heartbeats of this interval in one burst; 0s spaces them evenly
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    pub(crate) burst_interval: Duration,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct StormArgs {
    #[command(flatten)]
    pub(crate) clients: ClientArgs,
    /// Number of storms
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Clients reconnect at random moments of this time; 0s: all at once
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) spread: Duration,
    /// Pause after each round, so that the server can settle
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub(crate) pause: Duration,
    /// The run fails if a round takes longer
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl HeartbeatArgs {
    /// Checks options against each other.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        if self.clients.server.protocol == Protocol::Pusher {
            return Err(UsageError("--protocol pusher has no heartbeats here. Use idle, storm or pusher".to_owned()));
        }
        if self.clients.server.protocol == Protocol::OnlineStatus {
            return Err(UsageError(
                "--protocol online-status has no heartbeats: the server pings. Use idle or churn".to_owned(),
            ));
        }
        self.clients.check()
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
    fn the_command_line_definition_is_valid() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn contradicting_options_are_rejected_with_the_reason() {
        assert!(heartbeat("--connections 10 --rooms 10").clients.check().is_ok());
        let message = heartbeat("--connections 10 --rooms 11").clients.check().unwrap_err().to_string();
        assert!(message.contains("more than --connections"), "{message}");
        assert!(heartbeat("--protocol floor --rooms 2").clients.check().is_err());
        assert!(heartbeat("--protocol online-users --observe count").clients.check().is_err());
        let message = heartbeat("--protocol online-status").check().unwrap_err().to_string();
        assert!(message.contains("the server pings"), "{message}");
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let args = heartbeat("--pid 1,2 --source 127.0.0.2,127.0.0.3 --burst-interval 0s");
        assert_eq!(args.clients.server.pid, [1, 2]);
        assert_eq!(args.clients.server.source.len(), 2);
        assert_eq!(args.burst_interval, Duration::ZERO);
    }
}
