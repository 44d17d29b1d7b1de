//! Options of `sweep`, `compare` and `merge`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};

use super::clients::OutputArgs;
use crate::protocol::Protocol;

/// One scenario with a list of sizes.
#[derive(ClapArgs, Debug)]
pub(crate) struct SweepArgs {
    /// An option of the scenario and the values to run it with, as in connections=100,1000,10000
    #[arg(long, value_name = "OPTION=V1,V2,…")]
    pub(crate) over: OptionValues,
    /// Number of runs with each value
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Name of the server in tables and plots; `merge` joins series of servers with different names
    #[arg(long, default_value = "server")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) series: SeriesArgs,
}

/// One scenario against several servers in turn.
#[derive(ClapArgs, Debug)]
pub(crate) struct CompareArgs {
    /// A server as NAME=URL[,pid=N]…[,protocol=P]. Repeat it for each server; ratios are to the first. With a single
    /// server the series can be joined with others by `merge`
    #[arg(long = "server", value_name = "NAME=URL,…", required = true)]
    pub(crate) servers: Vec<ServerSpec>,
    /// Number of runs against each server, in turn: A B A B …
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// An option of the scenario and the values to run it with
    #[arg(long, value_name = "OPTION=V1,V2,…")]
    pub(crate) over: Option<OptionValues>,
    #[command(flatten)]
    pub(crate) series: SeriesArgs,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct SeriesArgs {
    /// Pause between two runs, so that the server can settle
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub(crate) pause: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The scenario with its options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) scenario: Vec<String>,
}

/// Reports of generator processes that loaded one server at the same time, or series that were run one after the other.
#[derive(ClapArgs, Debug)]
pub(crate) struct MergeArgs {
    /// JSON reports; a single one is printed again, or with --report written as a page
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// An option and its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OptionValues {
    /// Without dashes.
    pub(crate) option: String,
    pub(crate) values: Vec<String>,
}

impl FromStr for OptionValues {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (option, values) = text.split_once('=').ok_or("expected OPTION=V1,V2,…")?;
        let values: Vec<String> = values.split(',').map(str::to_owned).collect();
        if option.is_empty() || values.iter().any(String::is_empty) {
            return Err("expected OPTION=V1,V2,…".to_owned());
        }
        Ok(Self { option: option.trim_start_matches('-').to_owned(), values })
    }
}

/// A server of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerSpec {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) pids: Vec<u32>,
    pub(crate) protocol: Option<Protocol>,
}

impl FromStr for ServerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').ok_or("expected NAME=URL[,pid=N][,protocol=P]")?;
        let mut parts = rest.split(',');
        let url = parts.next().filter(|url| url.contains("://")).ok_or("expected a URL after the name: NAME=ws://…")?;
        let mut server = Self { name: name.to_owned(), url: url.to_owned(), pids: Vec::new(), protocol: None };
        for part in parts {
            match part.split_once('=') {
                Some(("pid", pid)) => {
                    server.pids.push(pid.parse().map_err(|_| format!("{pid:?} is not a process id"))?);
                }
                Some(("protocol", protocol)) => server.protocol = Some(Protocol::from_str(protocol, true)?),
                _ => return Err(format!("{part:?} is neither pid=N nor protocol=P")),
            }
        }
        Ok(server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_has_a_list_of_values() {
        let over: OptionValues = "--connections=100,1000".parse().unwrap();
        assert_eq!((over.option.as_str(), over.values.len()), ("connections", 2));
        assert!("connections".parse::<OptionValues>().is_err());
        assert!("connections=1,,2".parse::<OptionValues>().is_err());
    }

    #[test]
    fn a_server_has_a_name_and_a_url() {
        let server: ServerSpec = "floor=ws://127.0.0.1:9000,pid=1,pid=2,protocol=floor".parse().unwrap();
        assert_eq!(
            (server.name.as_str(), server.pids.as_slice(), server.protocol),
            ("floor", [1, 2].as_slice(), Some(Protocol::Floor))
        );
        for wrong in ["ws://127.0.0.1:9000", "a=b", "a=ws://b,pid=x", "a=ws://b,protocol=x", "a=ws://b,c"] {
            assert!(wrong.parse::<ServerSpec>().is_err(), "{wrong}");
        }
    }
}
