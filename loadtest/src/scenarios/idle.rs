//! `idle`: N clients are present and only answer pings. What do they cost?

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::IdleArgs;
use crate::clients::{self, Clients, lost_of};
use crate::connection::Client;
use crate::disconnect::Disconnect;
use crate::error_log::ErrorLog;
use crate::interrupt::Interrupt;
use crate::procfs::{self, AnonymousMemory, KernelMemory, NANOS_PER_MICRO};
use crate::progress::Progress;
use crate::protocol::ClientProtocol;
use crate::report::Report;
use crate::scenarios::server_checks;
use crate::scenarios::window::{self, Mark, Window};

/// Only the kind of a message is read.
const KEEP_BYTES: usize = 1024;
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long the server may take to answer the close frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Growth within a huge page that existed before is invisible, and the next huge page shows 2 MiB at once.
const HUGE_PAGES_NOTE: &str = "the server uses huge pages: its memory is known only to 2 MiB \
    (start a server that uses mimalloc with MIMALLOC_ALLOW_THP=0 to see every page)";

/// Records lost connections.
struct IdleClient {
    protocol: ClientProtocol,
    lost: ErrorLog,
}

impl Client for IdleClient {
    fn closed(&mut self, index: usize, disconnect: Disconnect) {
        self.lost.add(format!("{}: {disconnect}", self.protocol.user(index)));
    }
}

pub(crate) fn run(args: &IdleArgs, interrupt: &Interrupt) -> Result<Report> {
    args.clients.check()?;
    let target = clients::check(&args.clients.server, args.clients.connections as usize)?;
    let mut report = Report::new("idle");
    window::record_clients(&args.clients, &mut report);
    window::record_run(&args.run, &mut report);
    let kernel_before = procfs::kernel_memory()?;

    let mut clients = Clients::connect_members(&args.clients, target, KEEP_BYTES, interrupt)?;
    let mut client = IdleClient { protocol: clients.protocol, lost: ErrorLog::default() };
    server_checks::check_rooms(&args.clients, "before the window", &mut clients, &mut client, &mut report)?;
    wait("settling", args.run.warm_up, &mut clients, &mut client, interrupt)?;
    if interrupt.is_requested() {
        bail!("interrupted before the measured window started");
    }
    let start = Mark::now(&clients.meter, clients.engine.traffic())?;
    wait("idle", args.run.duration, &mut clients, &mut client, interrupt)?;
    let window = start.until(&Mark::now(&clients.meter, clients.engine.traffic())?);
    report.ended_early = interrupt.is_requested();

    window.describe(&clients, &mut report);
    if let Some((before, memory)) = clients.memory_before.zip(clients.meter.anonymous()?) {
        describe_memory(before, memory, clients.size, &mut report);
    }
    describe_cpu(&window, clients.size, &mut report);
    describe_kernel(kernel_before, procfs::kernel_memory()?, clients.size, &mut report);
    server_checks::check_rooms(&args.clients, "after the window", &mut clients, &mut client, &mut report)?;
    report.problems.extend(client.lost.problem(&lost_of(clients.size)));
    clients.engine.close_all(CLOSE_TIMEOUT)?;
    Ok(report)
}

fn describe_memory(before: AnonymousMemory, after: AnonymousMemory, size: usize, report: &mut Report) {
    let grown = after.bytes as f64 - before.bytes as f64;
    report.figure("server_rss_per_connection_bytes", grown / size as f64, "user space, not backed by files");
    if let Some(huge_bytes) = after.huge_bytes {
        report.figure("server_huge_pages_bytes", huge_bytes as f64, "part of the server's memory");
        report.notes.extend((huge_bytes > 0).then(|| HUGE_PAGES_NOTE.to_owned()));
    }
}

fn describe_cpu(window: &Window, size: usize, report: &mut Report) {
    let Some(server) = window.server else { return };
    let per_connection_ns = server.ran_ns as f64 / size as f64 / window.length.as_secs_f64();
    report.figure("server_cpu_per_connection_ns_per_s", per_connection_ns, "CPU time per connection and second");
    if window.messages > 0 {
        let per_message_us = server.ran_ns as f64 / NANOS_PER_MICRO / window.messages as f64;
        report.figure("server_cpu_per_message_us", per_message_us, "per message that the clients received");
    }
}

fn describe_kernel(before: KernelMemory, after: KernelMemory, size: usize, report: &mut Report) {
    let slab_grown = after.slab_bytes as f64 - before.slab_bytes as f64;
    let tcp_grown = after.tcp_bytes as f64 - before.tcp_bytes as f64;
    let meaning = "system-wide; on loopback both ends";
    report.figure("kernel_slab_per_connection_bytes", slab_grown / size as f64, meaning);
    report.figure("kernel_tcp_per_connection_bytes", tcp_grown / size as f64, "socket buffers, system-wide");
}

fn wait(
    label: &'static str,
    length: Duration,
    clients: &mut Clients,
    client: &mut IdleClient,
    interrupt: &Interrupt,
) -> Result<()> {
    let started = Instant::now();
    let mut progress = Progress::new(label, length.as_secs());
    while !interrupt.is_requested() {
        let Some(left) = length.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else {
            break;
        };
        clients.engine.turn(left.min(POLL_INTERVAL), client)?;
        if clients.engine.live() == 0 {
            bail!("all {} connections were lost: {}", clients.size, client.lost.examples());
        }
        progress.set(started.elapsed().as_secs());
    }
    progress.finish();
    Ok(())
}
