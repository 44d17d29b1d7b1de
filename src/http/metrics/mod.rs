//! `GET /metrics`: the metrics of the server for Prometheus, named by its conventions. The table of all metrics is in
//! `docs/monitoring.md`.
//!
//! No label has a value that clients choose, so the settings bound the number of time series.

mod family;
mod names;

use tokio::task::spawn_blocking;

use super::context::Context;
use super::reply::Reply;
use super::stats;
use crate::auth::App;
use crate::metrics::Reading;
use crate::node::Node;
use crate::os;
use family::{Families, Kind};
use names::{Group, Place};

/// `GET /metrics`.
pub(super) async fn metrics(context: Context) -> Result<Reply, Reply> {
    // Before Linux 6.2 this lists a name per client.
    let open_files = spawn_blocking(os::open_files).await.ok().flatten();
    let text = || families(&context, open_files).text();
    context.charge_short(|| Reply::text("text/plain; version=0.0.4; charset=utf-8", text()))
}

fn families(context: &Context, open_files: Option<u64>) -> Families {
    let (mut families, node) = (Families::default(), context.node());
    add_build(&mut families, node);
    add_process(&mut families, node, open_files);
    add_limits(&mut families, node);
    for (name, help, reading) in stats::metrics(context) {
        match reading {
            Reading::Number(value) => add_counter(&mut families, name, help, value as f64),
            Reading::Durations(durations) => families.histogram(names::histogram(name), help, &durations),
        }
    }
    add_refusals(&mut families, context);
    add_apps(&mut families, &node.auth.apps.current());
    families
}

fn add_counter(families: &mut Families, counter: &str, help: &'static str, value: f64) {
    match names::place(counter) {
        Place::Metric(kind, name, parts) => families.add(kind, name, help, &[], value / parts),
        Place::Part(Group { name, help, label, .. }, part) => {
            families.add(Kind::Counter, *name, help, &[(label, part)], value);
        }
        Place::Absent => {}
    }
}

/// The version and the id of this node.
fn add_build(families: &mut Families, node: &Node) {
    let version = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let labels = [("version", version), ("os", os), ("arch", arch)];
    families.add(Kind::Gauge, "rollcall_build_info", "The version of rollcall; always 1.", &labels, 1.0);
    families.add(Kind::Gauge, "rollcall_node_info", "The id of the node; always 1.", &[("node", &node.id)], 1.0);
}

/// The standard metrics of a process. Metrics that the system does not report are left out: zero would look like a
/// measurement.
fn add_process(families: &mut Families, node: &Node, open_files: Option<u64>) {
    let help = "CPU time of all threads, user and kernel, in seconds.";
    families.counter("process_cpu_seconds_total", help, os::cpu_ns() as f64 / 1e9);
    let help = "When the process started, in seconds since the Unix epoch.";
    families.gauge("process_start_time_seconds", help, node.started_unix_ms as f64 / 1e3);
    if let Some(memory) = os::process_memory() {
        let help = "Memory of the process that is in RAM, in bytes.";
        families.gauge("process_resident_memory_bytes", help, memory.resident_bytes as f64);
        let help = "Address space of the process, in bytes.";
        families.gauge("process_virtual_memory_bytes", help, memory.virtual_bytes as f64);
        families.gauge("process_threads", "Threads of the process.", memory.threads as f64);
    }
    if let Some(open) = open_files {
        families.gauge("process_open_fds", "Open file descriptors.", open as f64);
    }
    if let Some(limit) = os::max_files() {
        families.gauge("process_max_fds", "The limit of open file descriptors.", limit as f64);
    }
}

/// Settings with which other metrics are compared.
fn add_limits(families: &mut Families, node: &Node) {
    let config = &node.config;
    let help = "The limit of WebSocket connections (--max-connections).";
    families.gauge("rollcall_connections_limit", help, config.limits.max_connections as f64);
    families.gauge("rollcall_rooms_limit", "The limit of rooms (--max-rooms).", config.quotas.max_rooms as f64);
    let help = "The limit of states that clients set (--max-state), in bytes.";
    families.gauge("rollcall_state_limit_bytes", help, config.quotas.max_state as f64);
    if let Some(limit) = config.limits.max_memory {
        let help = "The limit of rollcall_memory_bytes (--max-memory), in bytes.";
        families.gauge("rollcall_memory_limit_bytes", help, limit as f64);
    }
    let help = "The time between two ticks (--tick), in seconds.";
    families.gauge("rollcall_tick_interval_seconds", help, config.presence.tick.as_secs_f64());
}

/// Clients that were refused before they had a connection, by reason, and requests that were answered with an error.
fn add_refusals(families: &mut Families, context: &Context) {
    let node = context.node();
    let mut add = |(name, label), help, counts: &mut dyn Iterator<Item = (&'static str, u64)>| {
        for (value, count) in counts {
            families.add(Kind::Counter, name, help, &[(label, value)], count as f64);
        }
    };
    let help = "HTTP requests answered with an error, handshakes included, by the code of the error. Sockets refused \
                before a request are in rollcall_sockets_refused_total.";
    add(("rollcall_http_errors_total", "code"), help, &mut context.thread.answers.errors.counts());
    let help = "Clients refused because their credential is missing or not valid.";
    add(("rollcall_refused_identities_total", "reason"), help, &mut node.auth.rejections.counts());
    if node.config.entry.proxy_protocol {
        let help = "Connections closed because they did not begin with a valid PROXY header of a trusted proxy.";
        add(("rollcall_proxy_headers_rejected_total", "reason"), help, &mut node.proxy_headers_rejected.counts());
    }
}

/// The counters of each application with Pusher clients. Applications are configured, so their number is bounded.
fn add_apps(families: &mut Families, apps: &[App]) {
    for app in apps {
        let id = app.id.to_string();
        let labels = [("app", &*id)];
        let help = "Connections of the application open now.";
        families.add(Kind::Gauge, "rollcall_pusher_connections", help, &labels, app.connections() as f64);
        for (counter, help, reading) in app.totals().fields() {
            let Reading::Number(value) = reading else { continue };
            families.add(Kind::Counter, format!("rollcall_{counter}_total"), help, &labels, value as f64);
        }
    }
}
