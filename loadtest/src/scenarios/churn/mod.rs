//! `churn`, `rooms` and `soak`: members join and leave on a schedule while others observe. How soon do observers see a
//! change, what does a delivery cost, and do all mirrors match the server at the end?

mod churn_run;
mod churning_members;
mod describe;
mod final_check;
mod observers;
mod permanent_members;

use std::time::Duration;

use anyhow::Result;

use crate::cli::{ChurnArgs, SoakArgs};
use crate::clients;
use crate::interrupt::Interrupt;
use crate::report::Report;
use crate::scenarios::memory_samples::MemorySamples;
use crate::scenarios::window;
use crate::schedule::nanos;
use churn_run::ChurnRun;
use permanent_members::PermanentMembers;

/// How long the server may take to answer the close frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn run(scenario: &'static str, args: &ChurnArgs, interrupt: &Interrupt) -> Result<Report> {
    args.check()?;
    let target = clients::check(&args.server, args.connections())?;
    let observer_target = args.observe_url.as_deref().map(|url| clients::resolve("--observe-url", url)).transpose()?;
    let mut report = Report::new(scenario);
    record_settings(args, &mut report);
    let churn_run = ChurnRun::connect(args, 0, target, observer_target, interrupt)?;
    complete(churn_run, args, interrupt, report)
}

/// Churn with state changes, lost connections and memory samples.
pub(crate) fn soak(args: &SoakArgs, interrupt: &Interrupt) -> Result<Report> {
    args.check()?;
    let churn = args.churn();
    let permanent_members = args.permanent_members as usize;
    let target = clients::check(&args.server, churn.connections() + permanent_members)?;
    let mut report = Report::new("soak");
    record_settings(&churn, &mut report);
    report.set("permanent_members", args.permanent_members);
    report.set("state_changes_per_s", args.state_changes);
    report.set("resets_per_s", args.resets);
    let mut soak_run = ChurnRun::connect(&churn, permanent_members, target, None, interrupt)?;
    let (protocol, first_client) = (soak_run.clients.protocol, churn.connections());
    let base_path = &soak_run.clients.target.base_path;
    soak_run.observers.permanent_members = Some(PermanentMembers::new(args, protocol, base_path, first_client));
    soak_run.samples = Some(MemorySamples::new(nanos(args.sample_every)));
    complete(soak_run, &churn, interrupt, report)
}

fn record_settings(args: &ChurnArgs, report: &mut Report) {
    window::record_server(&args.server, report);
    window::record_run(&args.run, report);
    if let Some(url) = &args.observe_url {
        report.set("observe_url", url.as_str());
    }
    report.set("observers", args.observers);
    report.set("observers_join", args.observers_join);
    report.set("members", args.members);
    report.set("rate_per_s", args.rate);
    report.set("rooms", args.rooms);
    report.set("heartbeat_every_s", args.heartbeat_interval().map_or(0.0, |interval| interval.as_secs_f64()));
}

/// Runs the load, the final check and the report, once all clients are ready.
fn complete(mut run: ChurnRun, args: &ChurnArgs, interrupt: &Interrupt, mut report: Report) -> Result<Report> {
    if !args.server.no_verify {
        final_check::wait_for_clean_start(&mut run, args.settle_timeout(), interrupt)?;
    }
    let (window, deliveries, counts) = run.drive(args, interrupt)?;
    report.ended_early = interrupt.is_requested();
    window.describe(&run.clients, &mut report);
    run.describe_churn(args, &counts, &window, &mut report);
    describe::describe_deliveries(&deliveries, &window, &mut report);
    if let Some(samples) = run.samples.take() {
        samples.describe(&mut report);
    }
    if let Some(permanent_members) = &mut run.observers.permanent_members {
        permanent_members.reconnect(u64::MAX, &mut run.clients)?;
        report.figure("connections_reset", permanent_members.resets as f64, "of permanent members");
        report.figure("state_changes", permanent_members.state_changes as f64, "of permanent members");
    }
    final_check::verify(&mut run, args.server.no_verify, args.settle_timeout(), &mut report)?;
    run.describe_end(&mut report);
    run.clients.engine.close_all(CLOSE_TIMEOUT)?;
    Ok(report)
}
