//! The measured window: CPU time of the server and of this process between two moments.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cli::{CrowdArgs, RunArgs, ServerArgs};
use crate::connection::Traffic;
use crate::crowd::Crowd;
use crate::meter::{Meter, ServerTime};
use crate::probe::{self, CpuTime, NANOS_PER_MICRO};
use crate::report::Report;

const NANOS_PER_SECOND: f64 = 1e9;
/// Running or waiting for its core more than this, the generator is what limits the run.
const SATURATED_SHARE: f64 = 0.95;
/// Above this many cores others, not the server, make the slow percentiles.
const DISTURBED_CORES: f64 = 0.02;

/// One moment.
#[derive(Debug)]
pub(crate) struct Mark {
    at: Instant,
    /// `None` if nobody tells it.
    server: Option<ServerTime>,
    own: CpuTime,
    stolen_ns: u64,
    traffic: Traffic,
}

/// What passed between two moments.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) length: Duration,
    /// `None` if nobody tells it.
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
            own: probe::own_cpu_time()?,
            stolen_ns: probe::stolen_ns()?,
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
    /// The figures that every scenario has.
    pub(crate) fn describe(&self, crowd: &Crowd, report: &mut Report) {
        report.window = self.length;
        report.figure("connections", crowd.size as f64, "joined");
        let gathering_s = crowd.gathered_in.as_secs_f64();
        report.figure("gathering_s", gathering_s, "from the first connect to the last join");
        if let Some(gathering) = crowd.gathering_cpu {
            let each_us = gathering.ran_ns as f64 / NANOS_PER_MICRO / crowd.size as f64;
            report.figure(
                "server_cpu_per_arrival_us",
                each_us,
                "handshake and join, of those that came before the window",
            );
        }
        if let Some(server) = self.server {
            let meaning = "of the server's processes, all threads";
            report.figure("server_cpu_cores", self.cores(server.ran_ns), meaning);
            if let Some(waited_ns) = server.waited_ns {
                report.figure("server_waited_cores", self.cores(waited_ns), "ready while others had its core");
            }
        }
        report.notes.extend(crowd.meter.note().map(str::to_owned));
        let own_cores = self.cores(self.own.ran_ns);
        report.figure("generator_cpu_cores", own_cores, "of this process: one busy thread");
        report.figure("messages_received", self.messages as f64, "in the window");
        report.figure("pings_answered", self.pings as f64, "in the window");
        if own_cores + self.cores(self.own.waited_ns) > SATURATED_SHARE {
            let note = "the generator was saturated: the server could take more than this";
            report.notes.push(note.to_owned());
        }
        self.describe_disturbance(report);
    }

    /// Who else had the cores. Their pauses are in the latencies and are not the server's doing.
    fn describe_disturbance(&self, report: &mut Report) {
        let stolen = self.cores(self.stolen_ns);
        report.figure("stolen_cpu_cores", stolen, "that the hypervisor gave to others");
        let waited = self.cores(self.own.waited_ns);
        report.figure("generator_waited_cores", waited, "ready while others had its core");
        if stolen > DISTURBED_CORES || waited > DISTURBED_CORES {
            let note = "the machine was not quiet: latencies contain pauses of others' making";
            report.notes.push(note.to_owned());
        }
    }

    fn cores(&self, time_ns: u64) -> f64 {
        time_ns as f64 / NANOS_PER_SECOND / self.length.as_secs_f64()
    }
}

/// What the report says was asked for, whatever the scenario.
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

/// The same, when all clients are alike.
pub(crate) fn record_crowd(crowd: &CrowdArgs, report: &mut Report) {
    record_server(&crowd.server, report);
    report.set("connections", crowd.connections);
    report.set("rooms", crowd.rooms);
    report.set("observe", format!("{:?}", crowd.observe).to_lowercase());
}
