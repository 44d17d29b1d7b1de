//! One module per scenario: what it does, which figures it reports, and which checks must pass for them to be valid.

mod acks;
pub(crate) mod adversary;
pub(crate) mod churn;
mod churn_plan;
pub(crate) mod heartbeat;
pub(crate) mod idle;
mod keepalive;
mod memory_samples;
pub(crate) mod pusher;
pub(crate) mod renew;
mod server_checks;
pub(crate) mod storm;
mod window;

use anyhow::{Result, bail};

use crate::cli::Scenario;
use crate::interrupt::Interrupt;
use crate::report::Report;

/// Executes one run.
pub(crate) fn run(scenario: &Scenario, interrupt: &Interrupt) -> Result<Report> {
    match scenario {
        Scenario::Idle(args) => idle::run(args, interrupt),
        Scenario::Heartbeat(args) => heartbeat::run(args, interrupt),
        Scenario::Churn(args) => churn::run("churn", args, interrupt),
        Scenario::Rooms(args) => churn::run("rooms", &args.churn(), interrupt),
        Scenario::Storm(args) => storm::run(args, interrupt),
        Scenario::Renew(args) => renew::run(args, interrupt),
        Scenario::Pusher(args) => pusher::run(args, interrupt),
        Scenario::Soak(args) => churn::soak(args, interrupt),
        Scenario::Floor(_)
        | Scenario::Adversary(_)
        | Scenario::Sweep(_)
        | Scenario::Compare(_)
        | Scenario::Merge(_) => {
            bail!("this command is not a single run")
        }
    }
}
