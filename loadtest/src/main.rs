//! `loadtest`: measures a presence server over real sockets, and brings the floor to measure it against.
//!
//! ```text
//! cli ─► scenarios/{idle, heartbeat, …}     what to do, which figures, what must hold
//!          │  crowd      N clients connected and joined
//!          │  engine     one thread, one epoll, all sockets ── connection ── frame, handshake, protocol
//!          │  schedule   open loop: when each operation is due, whatever the server does
//!          │  probe      the server's CPU and memory from /proc, its counters from /v1/stats
//!          └► report     figures, percentiles, problems: text and JSON
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
mod probe;
mod progress;
mod protocol;
mod report;
mod scenarios;
mod schedule;
mod target;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

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
    let report = match &args.scenario {
        Scenario::Floor(floor_args) => {
            floor::run(floor_args, &interrupt)?;
            return Ok(ExitCode::SUCCESS);
        }
        Scenario::Idle(idle_args) => scenarios::idle::run(idle_args, &interrupt)?,
        Scenario::Heartbeat(heartbeat_args) => scenarios::heartbeat::run(heartbeat_args, &interrupt)?,
    };
    print!("{report}");
    Ok(if report.is_valid() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_INVALID) })
}
