//! Options of `adversary`.

use std::net::SocketAddr;
use std::time::Duration;

use adversary::Credentials;
use clap::Args as ClapArgs;

use super::clients::OutputArgs;
use super::usage::UsageError;

/// Attacks on a server, one after the other, each next to honest clients.
#[derive(ClapArgs, Debug)]
pub(crate) struct AdversaryArgs {
    /// Names or rows of attacks [default: all]
    #[arg(value_name = "ATTACK")]
    pub(crate) attacks: Vec<String>,
    /// Print the attacks and exit
    #[arg(long)]
    pub(crate) list: bool,
    /// Address of the server. On loopback, attackers connect from 127.0.0.2 and honest clients from 127.0.0.1
    #[arg(long, default_value = "ws://127.0.0.1:8000")]
    pub(crate) url: String,
    /// Process id of the server, to sample its memory more often than /v1/stats allows
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Address of the server's Redis, to count its traffic; attacks that need Redis are left out without it
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) redis: Option<SocketAddr>,
    /// Signs a token for each client (HS256), attackers included, as the secret of the server's --jwt-secret
    #[arg(long, value_name = "SECRET", requires = "read_key")]
    pub(crate) jwt_secret: Option<String>,
    /// Key that reads the server's counters, as given to its --read-key
    #[arg(long, value_name = "KEY", requires = "jwt_secret")]
    pub(crate) read_key: Option<String>,
    /// Length of each attack
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Time before each attack in which the costs of the honest clients and of heartbeats are measured
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) calm: Duration,
    /// Limit for everything else: preparing the users that an attack needs, the time until the server is calm again
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// Size of the attacks; published results use 1
    #[arg(long, default_value_t = 1.0)]
    pub(crate) share: f64,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// An honest client that waits longer than this for a join, a message or a snapshot has lost a guarantee
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub(crate) max_wait: Duration,
    /// The server must complete this share of its ticks, at least
    #[arg(long, value_name = "SHARE", default_value_t = 0.8)]
    pub(crate) min_ticks: f64,
    /// Fail if a steady ratio of an attack, after the burst that budgets allow, is higher than this [default: no limit]
    #[arg(long, value_name = "RATIO")]
    pub(crate) max_ratio: Option<f64>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl AdversaryArgs {
    /// What the clients prove, if the server requires identity.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        let (jwt_secret, read_key) = (self.jwt_secret.clone()?, self.read_key.clone()?);
        Some(Credentials { jwt_secret, read_key })
    }

    /// Checks options against each other.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        if !(self.share > 0.0 && self.share <= 10.0) {
            return Err(UsageError(format!("--share {} is not between 0 and 10", self.share)));
        }
        if self.output.report.is_some() {
            return Err(UsageError("--report has no plots of attacks; use --json".to_owned()));
        }
        Ok(())
    }
}
