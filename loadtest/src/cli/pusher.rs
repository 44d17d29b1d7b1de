//! Options of `pusher`.

use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};

use super::churn::MIN_STAY;
use super::clients::{OutputArgs, ServerArgs};
use super::usage::UsageError;

/// How connections end in a storm of reloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reload {
    /// A close frame with 1001, as browsers send when a page is reloaded
    Page,
    /// A reset, as when a network connection breaks
    Reset,
}

/// Members of presence channels. Each member receives all changes of its channel.
#[derive(ClapArgs, Clone, Debug)]
pub(crate) struct PusherArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Number of members who stay, each with its own mirror of its channel
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) members: u32,
    /// Number of presence channels, assigned to members round-robin
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rooms: u32,
    /// Joins per second in all channels together, and as many leaves; 0: nobody comes or goes
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(crate) rate: u32,
    /// Number of joining and leaving members that are present at any time; as many more are absent
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) visitors: u32,
    /// Time for which they join and leave
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Number of storms in which half of the members reload at once; their order alternates
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
    pub(crate) reloads: u32,
    /// How their connections end
    #[arg(long, value_enum, default_value_t = Reload::Page)]
    pub(crate) reload: Reload,
    /// A reload takes between half of this time and one and a half of it
    #[arg(long, default_value = "600ms", value_parser = humantime::parse_duration)]
    pub(crate) away: Duration,
    /// Time after joins and leaves, and after each storm, in which late events may still arrive; longer than the
    /// server's grace period
    #[arg(long, default_value = "12s", value_parser = humantime::parse_duration)]
    pub(crate) pause: Duration,
    /// The run fails if not all members are back after this time
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl PusherArgs {
    /// All connections. Absent visitors are connected too.
    pub(crate) fn connections(&self) -> usize {
        self.members as usize + if self.rate > 0 { 2 * self.visitors as usize } else { 0 }
    }

    /// Checks options against each other.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        if 2 * self.rooms > self.members {
            return Err(UsageError(format!(
                "--members {} is less than two per channel: --rooms is {}, and half of the members of each reload",
                self.members, self.rooms
            )));
        }
        if self.rate == 0 {
            return Ok(());
        }
        let shortest = Duration::from_secs_f64(f64::from(self.visitors - 1) / f64::from(self.rate));
        if shortest < MIN_STAY {
            return Err(UsageError(format!(
                "with --visitors {} and --rate {} the shortest stay is {shortest:.1?}; the limit is {MIN_STAY:?}, \
                 because a server may not announce a stay within one tick. Use more visitors or a lower rate",
                self.visitors, self.rate
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
    struct PusherCommand {
        #[command(flatten)]
        pusher: PusherArgs,
    }

    #[test]
    fn contradicting_options_are_rejected_with_the_reason() {
        for (line, expected) in [
            ("", None),
            ("--members 10 --rooms 6", Some("less than two per channel")),
            ("--visitors 2 --rate 50", Some("the shortest stay is 20.0ms")),
            ("--visitors 2 --rate 0", None),
        ] {
            let words = ["pusher"].into_iter().chain(line.split_whitespace());
            let args = PusherCommand::try_parse_from(words).expect("parses").pusher;
            let message = args.check().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(
                message.contains(expected.unwrap_or_default()) && message.is_empty() == expected.is_none(),
                "{line}: {message}"
            );
        }
    }
}
