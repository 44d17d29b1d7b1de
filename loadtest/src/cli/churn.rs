//! Options of `churn` and `rooms`: members join and leave, observers watch.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::clients::{RunArgs, ServerArgs};
use super::usage::UsageError;
use crate::protocol::Protocol;

/// A server may settle a shorter stay within one tick and then announces nothing.
pub(crate) const MIN_STAY: Duration = Duration::from_millis(200);
/// In online-users presence ends only when heartbeats stop, so clients must send them.
const ONLINE_USERS_HEARTBEAT: Duration = Duration::from_secs(5);

/// Observers, and members who join and leave.
#[derive(ClapArgs, Clone, Debug)]
pub(crate) struct ChurnArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Number of connections that observe a room, each with its own mirror of the room
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) observers: u32,
    /// Connect the observers to this other node of the same cluster. The measured cost is that of all processes in
    /// --pid, or without --pid that of the node at --url
    #[arg(long, value_name = "URL")]
    pub(crate) observe_url: Option<String>,
    /// Observers also join their room (native only; in the other protocols they always do)
    #[arg(long)]
    pub(crate) observers_join: bool,
    /// Number of joining and leaving users that are present at any time; as many more are absent
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) members: u32,
    /// Joins per second, and as many leaves; a stay lasts members / rate seconds
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// Number of rooms, assigned to observers and members round-robin; a single room is called "lobby" (native only)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rooms: u32,
    /// Interval of each connection's heartbeats; 0s: none [default: 5s for online-users, otherwise none because pings
    /// are answered]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) heartbeat_every: Option<Duration>,
    /// How long to wait for the last changes to reach all observers [default: 5s; online-users: 20s]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) settle_timeout: Option<Duration>,
}

/// The same load spread over many rooms, with observers that are members, as users of most applications are.
#[derive(ClapArgs, Debug)]
pub(crate) struct RoomsArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Number of rooms, assigned to observers and members round-robin
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rooms: u32,
    /// Number of connections that join and observe a room, each with its own mirror of the room
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) observers: u32,
    /// Number of joining and leaving users that are present at any time; as many more are absent
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) members: u32,
    /// Joins per second in all rooms together, and as many leaves; a stay lasts members / rate seconds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// How long to wait for the last changes to reach all observers
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) settle_timeout: Duration,
}

impl RoomsArgs {
    pub(crate) fn churn(&self) -> ChurnArgs {
        ChurnArgs {
            server: self.server.clone(),
            run: self.run.clone(),
            observers: self.observers,
            observe_url: None,
            observers_join: true,
            members: self.members,
            rate: self.rate,
            rooms: self.rooms,
            heartbeat_every: None,
            settle_timeout: Some(self.settle_timeout),
        }
    }
}

impl ChurnArgs {
    /// All connections. Absent users are connected too.
    pub(crate) fn connections(&self) -> usize {
        self.observers as usize + 2 * self.members as usize
    }

    /// `None`: no heartbeats.
    pub(crate) fn heartbeat_interval(&self) -> Option<Duration> {
        let by_protocol = match self.server.protocol {
            Protocol::OnlineUsers => ONLINE_USERS_HEARTBEAT,
            _ => Duration::ZERO,
        };
        Some(self.heartbeat_every.unwrap_or(by_protocol)).filter(|interval| !interval.is_zero())
    }

    /// In online-users the last leave becomes visible only when its lease ends.
    pub(crate) fn settle_timeout(&self) -> Duration {
        let seconds = if self.server.protocol == Protocol::OnlineUsers { 20 } else { 5 };
        self.settle_timeout.unwrap_or(Duration::from_secs(seconds))
    }

    /// Checks options against each other.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        let protocol = self.server.protocol;
        if protocol == Protocol::Floor {
            return Err(UsageError("--protocol floor has no presence: observers would receive nothing".to_owned()));
        }
        if protocol == Protocol::Pusher {
            return Err(UsageError("--protocol pusher has a scenario of its own: loadtest pusher".to_owned()));
        }
        self.server.check_rooms(self.rooms)?;
        for (option, count) in [("--observers", self.observers), ("--members", self.members)] {
            if self.rooms > count {
                return Err(UsageError(format!(
                    "--rooms {} is more than {option} {count}: some rooms would have none",
                    self.rooms
                )));
            }
        }
        // Joins and leaves happen at random moments of their intervals, so a stay may be one interval shorter than the
        // mean.
        let shortest = Duration::from_secs_f64(f64::from(self.members - 1) / f64::from(self.rate));
        if shortest < MIN_STAY {
            return Err(UsageError(format!(
                "with --members {} and --rate {} the shortest stay is {shortest:.1?}; the limit is {MIN_STAY:?}, \
                 because a server may not announce a stay within one tick. Use more members or a lower rate",
                self.members, self.rate
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct ChurnCommand {
        #[command(flatten)]
        churn: ChurnArgs,
    }

    fn churn(line: &str) -> ChurnArgs {
        ChurnCommand::try_parse_from(["churn"].into_iter().chain(line.split_whitespace())).expect("parses").churn
    }

    #[test]
    fn contradicting_options_are_rejected_with_the_reason() {
        assert!(churn("").check().is_ok());
        for (line, words) in [
            ("--members 10 --rate 50", "the shortest stay is 180.0ms"),
            ("--rooms 2000", "more than --observers 1000"),
            ("--rooms 200", "more than --members 100"),
            ("--protocol floor", "has no presence"),
            ("--protocol online-users --rooms 2", "has no rooms"),
        ] {
            let message = churn(line).check().unwrap_err().to_string();
            assert!(message.contains(words), "{line}: {message}");
        }
    }

    #[test]
    fn online_users_get_heartbeats_and_a_longer_settle_timeout() {
        assert_eq!(churn("").heartbeat_interval(), None);
        assert_eq!(churn("--heartbeat-every 2s").heartbeat_interval(), Some(Duration::from_secs(2)));
        let online_users = churn("--protocol online-users");
        assert_eq!(online_users.heartbeat_interval(), Some(ONLINE_USERS_HEARTBEAT));
        assert!(online_users.settle_timeout() > churn("").settle_timeout());
    }
}
