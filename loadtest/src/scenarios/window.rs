//! The measured window: CPU time of the server and of this process between two moments.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cli::{CrowdArgs, RunArgs};
use crate::connection::Traffic;
use crate::crowd::Crowd;
use crate::probe;
use crate::report::Report;

const NANOS_PER_SECOND: f64 = 1e9;
/// Above this share of a core the generator is what limits the run.
const SATURATED_SHARE: f64 = 0.95;
/// Above this many cores the hypervisor, not the server, makes the slow percentiles.
const STOLEN_CORES: f64 = 0.02;

/// One moment.
#[derive(Debug)]
pub(crate) struct Mark {
    at: Instant,
    /// `None` without --pid.
    server_cpu_ns: Option<u64>,
    own_cpu_ns: u64,
    stolen_ns: u64,
    traffic: Traffic,
}

/// What passed between two moments.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) length: Duration,
    pub(crate) server_cpu_ns: Option<u64>,
    pub(crate) own_cpu_ns: u64,
    stolen_ns: u64,
    pub(crate) messages: u64,
    pub(crate) pings: u64,
}

impl Mark {
    pub(crate) fn now(pids: &[u32], traffic: Traffic) -> Result<Self> {
        let server_cpu_ns = if pids.is_empty() {
            None
        } else {
            Some(probe::cpu_ns(pids)?)
        };
        Ok(Self {
            at: Instant::now(),
            server_cpu_ns,
            own_cpu_ns: probe::own_cpu_ns()?,
            stolen_ns: probe::stolen_ns()?,
            traffic,
        })
    }

    pub(crate) fn until(&self, end: &Self) -> Window {
        Window {
            length: end.at.duration_since(self.at),
            server_cpu_ns: self
                .server_cpu_ns
                .zip(end.server_cpu_ns)
                .map(|(start, end)| end.saturating_sub(start)),
            own_cpu_ns: end.own_cpu_ns.saturating_sub(self.own_cpu_ns),
            stolen_ns: end.stolen_ns.saturating_sub(self.stolen_ns),
            messages: end.traffic.messages - self.traffic.messages,
            pings: end.traffic.pings - self.traffic.pings,
        }
    }
}

impl Window {
    /// The figures that every scenario has.
    pub(crate) fn describe(&self, crowd: &Crowd, report: &mut Report) {
        let window_ns = self.length.as_secs_f64() * NANOS_PER_SECOND;
        let own_cores = self.own_cpu_ns as f64 / window_ns;
        report.window = self.length;
        report.figure("connections", crowd.size as f64, "joined");
        report.figure(
            "gathering_s",
            crowd.gathered_in.as_secs_f64(),
            "from the first connect to the last join",
        );
        match self.server_cpu_ns {
            Some(cpu_ns) => report.figure(
                "server_cpu_cores",
                cpu_ns as f64 / window_ns,
                "of the server's processes, all threads",
            ),
            None => report
                .notes
                .push("the server's cost is not measured: give its process with --pid".to_owned()),
        }
        report.figure(
            "generator_cpu_cores",
            own_cores,
            "of this process, which has one busy thread",
        );
        let stolen_cores = self.stolen_ns as f64 / window_ns;
        report.figure(
            "stolen_cpu_cores",
            stolen_cores,
            "that the hypervisor gave to others",
        );
        if stolen_cores > STOLEN_CORES {
            report
                .notes
                .push("the hypervisor took CPU time away: latencies contain its pauses".to_owned());
        }
        report.figure("messages_received", self.messages as f64, "in the window");
        report.figure("pings_answered", self.pings as f64, "in the window");
        if own_cores > SATURATED_SHARE {
            report.notes.push(
                "the generator was saturated: the server could take more than this".to_owned(),
            );
        }
    }
}

/// What the report says was asked for.
pub(crate) fn record_settings(crowd: &CrowdArgs, run: &RunArgs, report: &mut Report) {
    report.set("url", crowd.url.as_str());
    report.set("protocol", crowd.protocol.name());
    report.set("connections", crowd.connections);
    report.set("rooms", crowd.rooms);
    report.set("observe", format!("{:?}", crowd.observe).to_lowercase());
    report.set("first_user", crowd.first_user);
    report.set("seed", crowd.seed);
    report.set("duration_s", run.duration.as_secs_f64());
    report.set("warm_up_s", run.warm_up.as_secs_f64());
}
