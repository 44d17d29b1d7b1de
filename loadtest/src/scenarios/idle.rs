//! `idle`: N clients in, saying nothing but pongs. What does it cost to hold them?

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::IdleArgs;
use crate::crowd::{self, Crowd, Losses};
use crate::engine::Client;
use crate::interrupt::Interrupt;
use crate::loss::Loss;
use crate::probe::{self, NANOS_PER_MICRO};
use crate::progress::Progress;
use crate::protocol::Dialect;
use crate::report::Report;
use crate::scenarios::verify;
use crate::scenarios::window::{self, Mark};

/// Nothing is read but the kind of a message.
const KEEP_BYTES: usize = 1024;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the server may take to answer the close frames.
const FAREWELL: Duration = Duration::from_secs(2);

/// Growth that fits into a huge page that was there before does not show, and the next one shows 2 MiB at once.
const HUGE_PAGES_NOTE: &str = "the server uses huge pages: its memory is known to 2 MiB only \
    (a server on mimalloc shows every page when started with MIMALLOC_ALLOW_THP=0)";

/// Hears only losses.
struct Idler {
    dialect: Dialect,
    losses: Losses,
}

impl Client for Idler {
    fn closed(&mut self, index: usize, loss: Loss) {
        self.losses.add(&self.dialect.user(index), &loss);
    }
}

pub(crate) fn run(args: &IdleArgs, interrupt: &Interrupt) -> Result<Report> {
    args.crowd.check()?;
    let target = crowd::check(&args.crowd.server, args.crowd.connections as usize)?;
    let mut report = Report::new("idle");
    window::record_crowd(&args.crowd, &mut report);
    window::record_run(&args.run, &mut report);
    let kernel_before = probe::kernel_memory()?;

    let mut crowd = Crowd::gather_alike(&args.crowd, target, KEEP_BYTES, interrupt)?;
    let mut idler = Idler { dialect: crowd.dialect, losses: Losses::default() };
    verify::check_rooms(&args.crowd, "at first", &mut crowd, &mut idler, &mut report)?;
    hold("settling", args.run.warm_up, &mut crowd, &mut idler, interrupt)?;
    if interrupt.is_asked() {
        bail!("interrupted before the measured window began");
    }
    let start = Mark::now(&crowd.meter, crowd.engine.traffic())?;
    hold("idle", args.run.duration, &mut crowd, &mut idler, interrupt)?;
    let window = start.until(&Mark::now(&crowd.meter, crowd.engine.traffic())?);
    report.ended_early = interrupt.is_asked();

    let size = crowd.size as f64;
    window.describe(&crowd, &mut report);
    if let Some((before, memory)) = crowd.memory_before.zip(crowd.meter.anonymous()?) {
        let grown = memory.bytes as f64 - before.bytes as f64;
        report.figure("server_rss_per_connection_bytes", grown / size, "user space, not backed by files");
        if let Some(huge_bytes) = memory.huge_bytes {
            report.figure("server_huge_pages_bytes", huge_bytes as f64, "of its memory");
            report.notes.extend((huge_bytes > 0).then(|| HUGE_PAGES_NOTE.to_owned()));
        }
    }
    if let Some(server) = window.server {
        let each_ns = server.ran_ns as f64 / size / window.length.as_secs_f64();
        report.figure("server_cpu_per_connection_ns_per_s", each_ns, "CPU time per connection and second");
        if window.messages > 0 {
            let each_us = server.ran_ns as f64 / NANOS_PER_MICRO / window.messages as f64;
            report.figure("server_cpu_per_message_us", each_us, "of the messages that came unasked");
        }
    }
    let kernel = probe::kernel_memory()?;
    let slab_grown = kernel.slab_bytes as f64 - kernel_before.slab_bytes as f64;
    let tcp_grown = kernel.tcp_bytes as f64 - kernel_before.tcp_bytes as f64;
    report.figure("kernel_slab_per_connection_bytes", slab_grown / size, "system-wide: both ends on loopback");
    report.figure("kernel_tcp_per_connection_bytes", tcp_grown / size, "socket buffers, system-wide");
    verify::check_rooms(&args.crowd, "at last", &mut crowd, &mut idler, &mut report)?;
    report.problems.extend(idler.losses.problem(crowd.size));
    crowd.engine.farewell(FAREWELL)?;
    Ok(report)
}

fn hold(
    label: &'static str,
    length: Duration,
    crowd: &mut Crowd,
    idler: &mut Idler,
    interrupt: &Interrupt,
) -> Result<()> {
    let started = Instant::now();
    let mut progress = Progress::new(label, length.as_secs());
    while !interrupt.is_asked() {
        let Some(left) = length.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else {
            break;
        };
        crowd.engine.turn(left.min(LOOK_EVERY), idler)?;
        if crowd.engine.live() == 0 {
            bail!("all {} connections were lost: {}", crowd.size, idler.losses.examples.join("; "));
        }
        progress.set(started.elapsed().as_secs());
    }
    progress.finish();
    Ok(())
}
