//! `loadtest`: measures a presence server over real sockets, and brings the floor to measure it against.
//!
//! ```text
//! cli ─► scenarios/{idle, heartbeat, churn, storm, …}   what to do, which figures, what must hold
//!          │  crowd      N clients connected and joined
//!          │  engine     one thread, one epoll, all sockets ── connection ── frame, handshake, protocol
//!          │  schedule   open loop: when each operation is due, whatever the server does
//!          │  mirror     what each observer knows from what it was told, to be compared with the server's word
//!          │  meter      the server's CPU and memory, by probe from /proc or from its /v1/stats
//!          └► report     figures, percentiles, problems: text and JSON
//! series                 sweep and compare: many runs of a scenario, medians and ratios
//! merge                  reports of several processes as one
//! page                   a report or a series as HTML with plots
//! floor                  the bare epoll server that nothing can beat
//! ```
//!
//! Exit codes: 0 the figures hold, 1 the run could not be made, 2 it was made and its figures are invalid,
//! 64 the command line makes no sense.

mod alarm;
mod cli;
mod connection;
mod crowd;
mod engine;
mod floor;
mod frame;
mod handshake;
mod http;
mod interrupt;
mod latency;
mod limits;
mod loss;
mod merge;
mod meter;
mod mirror;
mod page;
mod probe;
mod progress;
mod protocol;
mod report;
mod scenarios;
mod schedule;
mod series;
mod target;

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
/// `EX_USAGE` of sysexits.h: nothing was connected or bound.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // A failing write to a closed terminal leaves nobody to tell.
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
        Scenario::Sweep(sweep_args) => of_series(series::sweep(sweep_args, &interrupt)?, &mut failure),
        Scenario::Compare(compare_args) => of_series(series::compare(compare_args, &interrupt)?, &mut failure),
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
    // Files first: what a run has found is not lost with the terminal.
    let saved = args.scenario.output().map_or(Ok(()), |output| report::save(&json, output));
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the report")?;
    saved?;
    match failure {
        Some(failure) => Err(failure),
        None if json["valid"] == true => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::from(EXIT_INVALID)),
    }
}

fn of_series(outcome: series::Outcome, failure: &mut Option<anyhow::Error>) -> (Value, String) {
    *failure = outcome.failure;
    let text = series::text(&outcome.series);
    (outcome.series, text)
}
