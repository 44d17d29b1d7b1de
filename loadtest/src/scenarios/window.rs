//! The measured window: CPU time of the server and of the generator, and traffic, between two moments.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cli::{ClientArgs, RunArgs, ServerArgs};
use crate::clients::Clients;
use crate::connection::Traffic;
use crate::meter::{Meter, ServerTime};
use crate::procfs::{self, CpuTime, NANOS_PER_MICRO};
use crate::report::Report;

const NANOS_PER_SECOND: f64 = 1e9;
/// If the generator runs or waits for its core for more than this share, it is the bottleneck.
const SATURATED_SHARE: f64 = 0.95;
/// If other processes take more than this many cores, the slow percentiles are theirs, not the server's.
const DISTURBED_CORES: f64 = 0.02;

/// All counters at one moment.
#[derive(Debug)]
pub(crate) struct Mark {
    at: Instant,
    /// `None` if it is not known.
    server: Option<ServerTime>,
    own: CpuTime,
    stolen_ns: u64,
    traffic: Traffic,
}

/// The difference between two moments.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) length: Duration,
    /// `None` if it is not known.
    pub(crate) server: Option<ServerTime>,
    pub(crate) own: CpuTime,
    stolen_ns: u64,
    pub(crate) messages: u64,
    pings: u64,
}

impl Mark {
    pub(crate) fn now(meter: &Meter, traffic: Traffic) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            server: meter.cpu_time()?,
            own: procfs::own_cpu_time()?,
            stolen_ns: procfs::stolen_ns()?,
            traffic,
        })
    }

    pub(crate) fn until(&self, end: &Self) -> Window {
        Window {
            length: end.at.duration_since(self.at),
            server: self.server.zip(end.server).map(|(start, end)| end.since(start)),
            own: end.own.since(self.own),
            stolen_ns: end.stolen_ns.saturating_sub(self.stolen_ns),
            messages: end.traffic.messages - self.traffic.messages,
            pings: end.traffic.pings - self.traffic.pings,
        }
    }
}

impl Window {
    /// The figures that all scenarios have.
    pub(crate) fn describe(&self, clients: &Clients, report: &mut Report) {
        report.window = self.length;
        report.figure("connections", clients.size as f64, "with a client in its role");
        let connecting_s = clients.connected_in.as_secs_f64();
        report.figure("connecting_s", connecting_s, "from the first connect until the last client was ready");
        if let Some(connect) = clients.connect_cpu {
            let per_arrival_us = connect.ran_ns as f64 / NANOS_PER_MICRO / clients.size as f64;
            report.figure(
                "server_cpu_per_arrival_us",
                per_arrival_us,
                "handshake and join, per client that connected before the window",
            );
        }
        if let Some(server) = self.server {
            let meaning = "all threads of the server's processes";
            report.figure("server_cpu_cores", self.cores(server.ran_ns), meaning);
            if let Some(waited_ns) = server.waited_ns {
                report.figure("server_waited_cores", self.cores(waited_ns), "ready to run while others had its core");
            }
        }
        report.notes.extend(clients.meter.note().map(str::to_owned));
        let own_cores = self.cores(self.own.ran_ns);
        report.figure("generator_cpu_cores", own_cores, "of this process, which has one busy thread");
        report.figure("messages_received", self.messages as f64, "in the window");
        report.figure("pings_answered", self.pings as f64, "in the window");
        if own_cores + self.cores(self.own.waited_ns) > SATURATED_SHARE {
            let note = "the generator was saturated: the server could handle more than this";
            report.notes.push(note.to_owned());
        }
        self.describe_disturbance(report);
    }

    /// CPU time that other processes and machines took. It causes latency that is not the server's.
    fn describe_disturbance(&self, report: &mut Report) {
        let stolen = self.cores(self.stolen_ns);
        report.figure("stolen_cpu_cores", stolen, "taken by the hypervisor for other machines");
        let waited = self.cores(self.own.waited_ns);
        report.figure("generator_waited_cores", waited, "ready to run while others had its core");
        if stolen > DISTURBED_CORES || waited > DISTURBED_CORES {
            let note = "the machine was not quiet: latencies include pauses that other processes caused";
            report.notes.push(note.to_owned());
        }
    }

    fn cores(&self, time_ns: u64) -> f64 {
        time_ns as f64 / NANOS_PER_SECOND / self.length.as_secs_f64()
    }
}

/// The settings that all scenarios record.
pub(crate) fn record_server(server: &ServerArgs, report: &mut Report) {
    report.set("url", server.url.as_str());
    report.set("protocol", server.protocol.name());
    report.set("first_user", server.first_user);
    report.set("seed", server.seed);
}

pub(crate) fn record_run(run: &RunArgs, report: &mut Report) {
    report.set("duration_s", run.duration.as_secs_f64());
    report.set("warm_up_s", run.warm_up.as_secs_f64());
}

/// The settings of scenarios whose clients all do the same.
pub(crate) fn record_clients(args: &ClientArgs, report: &mut Report) {
    record_server(&args.server, report);
    report.set("connections", args.connections);
    report.set("rooms", args.rooms);
    report.set("observe", format!("{:?}", args.observe).to_lowercase());
}
