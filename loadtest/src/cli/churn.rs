//! Options of the scenarios in which people come and go before the eyes of others.

use std::time::Duration;

use clap::Args as ClapArgs;

use super::{RunArgs, ServerArgs, UsageError};
use crate::protocol::Protocol;

/// A shorter stay may fall within one tick of a server, which then rightly shows nothing.
pub(crate) const MIN_STAY: Duration = Duration::from_millis(200);
/// The dialect takes closing for nothing: only heartbeats that stop end a presence there, so they must go on.
const ONLINE_USERS_HEARTBEAT: Duration = Duration::from_secs(5);

/// People who look, and people who come and go.
#[derive(ClapArgs, Clone, Debug)]
pub(crate) struct ChurnArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Connections that look at a room, each with its own mirror of it
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) observers: u32,
    /// Another node of the same cluster, at which observers are connected; with --pid the cost is that of all processes named,
    /// without it that of the node at --url
    #[arg(long, value_name = "URL")]
    pub(crate) observe_url: Option<String>,
    /// Observers are present as well, as people in a room mostly are (native; with the others always)
    #[arg(long)]
    pub(crate) observers_join: bool,
    /// Those who come and go: so many are present at any time, and as many are away
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) members: u32,
    /// Joins a second, and as many leaves; each stay lasts members / rate seconds
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// Rooms, to which observers and members are dealt in turn; one room is called "lobby" (native only)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rooms: u32,
    /// Each connection sends a heartbeat this often, 0s never [default: 5s for online-users, else never: pings are answered]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) heartbeat_every: Option<Duration>,
    /// How long a server may take to show the last changes to everybody [default: 5s, online-users 20s]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) patience: Option<Duration>,
}

/// The same people, but in many rooms and, as in most rooms, present while they look.
#[derive(ClapArgs, Debug)]
pub(crate) struct RoomsArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Rooms, to which observers and members are dealt in turn
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rooms: u32,
    /// Connections that are present in a room and look at it, each with its own mirror of it
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) observers: u32,
    /// Those who come and go: so many are present at any time, and as many are away
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) members: u32,
    /// Joins a second over all rooms, and as many leaves; each stay lasts members / rate seconds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// How long a server may take to show the last changes to everybody
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) patience: Duration,
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
            patience: Some(self.patience),
        }
    }
}

impl ChurnArgs {
    /// All connections: those who are away have theirs too.
    pub(crate) fn connections(&self) -> usize {
        self.observers as usize + 2 * self.members as usize
    }

    /// `None` if none are sent.
    pub(crate) fn heartbeat_interval(&self) -> Option<Duration> {
        let by_protocol = match self.server.protocol {
            Protocol::OnlineUsers => ONLINE_USERS_HEARTBEAT,
            _ => Duration::ZERO,
        };
        Some(self.heartbeat_every.unwrap_or(by_protocol)).filter(|interval| !interval.is_zero())
    }

    /// In online-users the last leave is seen when its lease has ended.
    pub(crate) fn patience(&self) -> Duration {
        let seconds = if self.server.protocol == Protocol::OnlineUsers { 20 } else { 5 };
        self.patience.unwrap_or(Duration::from_secs(seconds))
    }

    /// Checks what one option says against another.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        let protocol = self.server.protocol;
        if protocol == Protocol::Floor {
            return Err(UsageError("--protocol floor knows no presence: nobody would be seen".to_owned()));
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
        // Joins and leaves are at random moments of their intervals, so a stay may be one interval shorter than on average.
        let shortest = Duration::from_secs_f64(f64::from(self.members - 1) / f64::from(self.rate));
        if shortest < MIN_STAY {
            return Err(UsageError(format!(
                "--members {} at --rate {} may stay for {shortest:.1?} only, less than {MIN_STAY:?}: who comes and goes \
                 within a tick is rightly never shown. Take more members or a lower rate",
                self.members, self.rate
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Args, Scenario};
    use super::*;

    fn churn(line: &str) -> ChurnArgs {
        let words = ["loadtest", "churn"].into_iter().chain(line.split_whitespace());
        match Args::try_parse_from(words).expect("parses").scenario {
            Scenario::Churn(args) => args,
            other => panic!("not churn: {other:?}"),
        }
    }

    #[test]
    fn relations_are_checked_with_the_reason() {
        assert!(churn("").check().is_ok());
        for (line, words) in [
            ("--members 10 --rate 50", "stay for 180.0ms"),
            ("--rooms 2000", "more than --observers 1000"),
            ("--rooms 200", "more than --members 100"),
            ("--protocol floor", "knows no presence"),
            ("--protocol online-users --rooms 2", "has no rooms"),
        ] {
            let message = churn(line).check().unwrap_err().to_string();
            assert!(message.contains(words), "{line}: {message}");
        }
    }

    #[test]
    fn online_users_need_heartbeats_and_patience() {
        assert_eq!(churn("").heartbeat_interval(), None);
        assert_eq!(churn("--heartbeat-every 2s").heartbeat_interval(), Some(Duration::from_secs(2)));
        let online_users = churn("--protocol online-users");
        assert_eq!(online_users.heartbeat_interval(), Some(ONLINE_USERS_HEARTBEAT));
        assert!(online_users.patience() > churn("").patience());
    }
}
