//! `loadtest`: measures a presence server over real sockets, and contains the floor to compare servers with.
//!
//! ```text
//! cli ─► scenarios     what to do, the figures, the checks
//!          │  clients    N clients, connected and in their roles
//!          │  engine     one thread, one epoll, all sockets ── connection ── wire::frame, handshake, protocol
//!          │  schedule   open loop: when each operation is due, whatever the server does
//!          │  mirror     what each observer knows, to be compared with the server's lists
//!          │  meter      CPU time and memory of the server, from /proc (procfs) or /v1/stats
//!          └► report     figures, percentiles, problems ── output ── text, JSON, html
//! series                 sweep and compare: many runs of a scenario, medians and ratios
//! merge                  combines reports of several processes
//! floor                  the bare epoll server that others are compared with
//! ```
//!
//! Exit codes: 0 the figures are valid, 1 the run failed, 2 the run is complete and its figures are invalid, 64 the
//! command line is wrong.

mod cli;
mod clients;
mod connection;
mod credentials;
mod disconnect;
mod engine;
mod error_log;
mod floor;
mod handshake;
mod html;
mod http;
mod interrupt;
mod latency;
mod limits;
mod merge;
mod meter;
mod mirror;
mod output;
mod procfs;
mod progress;
mod protocol;
mod pusher;
mod report;
mod report_text;
mod scenarios;
mod schedule;
mod series;
mod socket;
mod target;
mod timerfd;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::Value;

use crate::cli::{Args, Scenario};
use crate::interrupt::Interrupt;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXIT_FAILED: u8 = 1;
const EXIT_INVALID: u8 = 2;
/// `EX_USAGE` of sysexits.h. Nothing was connected or bound.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // If the terminal is closed, there is nowhere left to report that.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    match run(&args) {
        Ok(code) => code,
        Err(error) if error.is::<cli::UsageError>() => {
            eprintln!("loadtest: {error:#}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let mut failure = None;
    let (json, text) = match &args.scenario {
        Scenario::Floor(floor_args) => {
            floor::run(floor_args, &interrupt)?;
            return Ok(ExitCode::SUCCESS);
        }
        Scenario::Adversary(adversary_args) if adversary_args.list => {
            std::io::stdout().write_all(scenarios::adversary::list().as_bytes()).context("cannot print the attacks")?;
            return Ok(ExitCode::SUCCESS);
        }
        Scenario::Adversary(adversary_args) => {
            let trials = scenarios::adversary::run(adversary_args, &interrupt)?;
            let text = scenarios::adversary::text(&trials);
            (trials, text)
        }
        Scenario::Sweep(sweep_args) => split_outcome(series::sweep(sweep_args, &interrupt)?, &mut failure),
        Scenario::Compare(compare_args) => split_outcome(series::compare(compare_args, &interrupt)?, &mut failure),
        Scenario::Merge(merge_args) => {
            let merged = merge::read(&merge_args.files)?;
            let text = if merged.get("runs").is_some() { series::text(&merged) } else { report::text(&merged) };
            (merged, text)
        }
        one_run => {
            let report = scenarios::run(one_run, &interrupt)?;
            (report.to_json(), report.to_string())
        }
    };
    // Files first, so that the result survives a closed terminal.
    let saved = args.scenario.output().map_or(Ok(()), |output| output::save(&json, output));
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the report")?;
    saved?;
    match failure {
        Some(failure) => Err(failure),
        None if json["valid"] == true => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::from(EXIT_INVALID)),
    }
}

fn split_outcome(outcome: series::SeriesOutcome, failure: &mut Option<anyhow::Error>) -> (Value, String) {
    *failure = outcome.failure;
    let text = series::text(&outcome.series);
    (outcome.series, text)
}
