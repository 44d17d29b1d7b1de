//! Options of what makes many runs, and of what reads them again.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};

use super::OutputArgs;
use crate::protocol::Protocol;

/// One scenario over a list of sizes.
#[derive(ClapArgs, Debug)]
pub(crate) struct SweepArgs {
    /// An option of the scenario and the values that it takes in turn, as in connections=100,1000,10000
    #[arg(long, value_name = "OPTION=V1,V2,…")]
    pub(crate) over: Over,
    /// Runs of each size
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// What stands for the server in tables and plots: `merge` joins series of several servers
    #[arg(long, default_value = "server")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) many: ManyArgs,
}

/// One scenario against several servers in turn.
#[derive(ClapArgs, Debug)]
pub(crate) struct CompareArgs {
    /// A server, repeated for each, the first is what the others are compared with: NAME=URL[,pid=N]…[,protocol=P]. One alone
    /// makes a series that `merge` joins with those of others
    #[arg(long = "server", value_name = "NAME=URL,…", required = true)]
    pub(crate) servers: Vec<Peer>,
    /// Runs against each server, in turn: A B A B …
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Do it for each of these sizes
    #[arg(long, value_name = "OPTION=V1,V2,…")]
    pub(crate) over: Option<Over>,
    #[command(flatten)]
    pub(crate) many: ManyArgs,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct ManyArgs {
    /// Between two runs, so that the server can settle
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub(crate) pause: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The scenario with its options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) scenario: Vec<String>,
}

/// Reports of several generator processes that loaded one server at the same time, or series made one after the other.
#[derive(ClapArgs, Debug)]
pub(crate) struct MergeArgs {
    /// JSON reports; one alone is only shown again, with --report as a page
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// An option and its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// Without dashes.
    pub(crate) option: String,
    pub(crate) values: Vec<String>,
}

impl FromStr for Over {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (option, values) = text.split_once('=').ok_or("give it as OPTION=V1,V2,…")?;
        let values: Vec<String> = values.split(',').map(str::to_owned).collect();
        if option.is_empty() || values.iter().any(String::is_empty) {
            return Err("give it as OPTION=V1,V2,…".to_owned());
        }
        Ok(Self { option: option.trim_start_matches('-').to_owned(), values })
    }
}

/// A server of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) pids: Vec<u32>,
    pub(crate) protocol: Option<Protocol>,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or("give it as NAME=URL[,pid=N][,protocol=P]")?;
        let mut parts = rest.split(',');
        let url = parts.next().filter(|url| url.contains("://")).ok_or("a URL follows the name: NAME=ws://…")?;
        let mut peer = Self { name: name.to_owned(), url: url.to_owned(), pids: Vec::new(), protocol: None };
        for part in parts {
            match part.split_once('=') {
                Some(("pid", pid)) => peer.pids.push(pid.parse().map_err(|_| format!("{pid:?} is no process id"))?),
                Some(("protocol", protocol)) => peer.protocol = Some(Protocol::from_str(protocol, true)?),
                _ => return Err(format!("{part:?} is neither pid=N nor protocol=P")),
            }
        }
        Ok(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_a_list() {
        let over: Over = "--connections=100,1000".parse().unwrap();
        assert_eq!((over.option.as_str(), over.values.len()), ("connections", 2));
        assert!("connections".parse::<Over>().is_err());
        assert!("connections=1,,2".parse::<Over>().is_err());
    }

    #[test]
    fn servers_have_a_name_and_an_address() {
        let peer: Peer = "floor=ws://127.0.0.1:9000,pid=1,pid=2,protocol=floor".parse().unwrap();
        assert_eq!(
            (peer.name.as_str(), peer.pids.as_slice(), peer.protocol),
            ("floor", [1, 2].as_slice(), Some(Protocol::Floor))
        );
        for wrong in ["ws://127.0.0.1:9000", "a=b", "a=ws://b,pid=x", "a=ws://b,protocol=x", "a=ws://b,c"] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }
}
