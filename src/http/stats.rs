//! The metrics of the server: `/v1/stats` as JSON, `/metrics` in the text format of Prometheus (exposition format
//! 0.0.4).
//!
//! Prometheus recommends seconds; the units are microseconds and nanoseconds, so that a metric has one name in both.

use std::fmt::Write as _;

use bytes::BufMut;

use super::context::Context;
use super::reply::Reply;
use crate::json::{put_number, put_string};
use crate::node::Node;
use crate::os;

/// The counters that are present values instead of sums since the start.
const GAUGES: [&str; 8] = [
    "connections",
    "sockets",
    "upgrades_waiting",
    "greeting_us_max",
    "loop_lag_us_max",
    "tick_us_max",
    "redis_pending",
    "redis_nodes",
];

struct Metric {
    name: &'static str,
    help: &'static str,
    value: u64,
    is_gauge: bool,
}

/// `GET /v1/stats`.
pub(super) async fn stats(context: Context) -> Result<Reply, Reply> {
    let node = context.node();
    Ok(Reply::json(|buffer| {
        buffer.put_slice(br#"{"node":"#);
        put_string(buffer, &node.id);
        for Metric { name, value, .. } in read_all(node) {
            buffer.put_u8(b',');
            put_string(buffer, name);
            buffer.put_u8(b':');
            put_number(buffer, value);
        }
        buffer.put_u8(b'}');
    }))
}

/// `GET /metrics`.
pub(super) async fn metrics(context: Context) -> Result<Reply, Reply> {
    let mut text = String::with_capacity(4096);
    for metric in read_all(context.node()) {
        put_metric(&mut text, &metric);
    }
    Ok(Reply::text("text/plain; version=0.0.4; charset=utf-8", text))
}

/// Counters end in `_total` (Prometheus, "Metric and label naming").
fn put_metric(text: &mut String, metric: &Metric) {
    let Metric { name, help, value, is_gauge } = metric;
    let (kind, suffix) = if *is_gauge { ("gauge", "") } else { ("counter", "_total") };
    let _ = write!(
        text,
        "# HELP rollcall_{name}{suffix} {help}\n# TYPE rollcall_{name}{suffix} {kind}\nrollcall_{name}{suffix} {value}\n"
    );
}

fn read_all(node: &Node) -> impl Iterator<Item = Metric> {
    let gauge = |name, help, value| Metric { name, help, value, is_gauge: true };
    let degraded = node.store.degraded_since().is_some();
    let gauges = [
        gauge("degraded", "1 while this node has no contact with other nodes.", degraded.into()),
        gauge("uptime_ms", "Milliseconds since the server started.", node.started.elapsed().as_millis() as u64),
        gauge("users", "Users online.", node.registry.users_online() as u64),
        gauge("rooms", "Rooms with members or observers.", node.registry.rooms_open() as u64),
        gauge("watched_users", "Users that clients watch by name.", node.registry.watchlist.watched() as u64),
    ];
    // Left out where the system does not report it: zero would be a measurement.
    let memory = os::memory_bytes()
        .map(|bytes| gauge("memory_bytes", "Memory of the process that no file backs, in bytes.", bytes));
    let cpu = Metric {
        name: "cpu_ns",
        help: "CPU time of all threads, user and kernel, in nanoseconds.",
        value: os::cpu_ns(),
        is_gauge: false,
    };
    let counters = node.metrics.thread_totals().fields().chain(node.metrics.tick_totals().fields());
    let counters = counters.chain(node.store.totals().into_iter().flat_map(|totals| totals.fields()));
    let counters = counters.chain(node.sinks.counters());
    let counters = counters.map(|(name, help, value)| Metric { name, help, value, is_gauge: GAUGES.contains(&name) });
    gauges.into_iter().chain(memory).chain([cpu]).chain(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_counters_end_in_total() {
        let mut text = String::new();
        put_metric(&mut text, &Metric { name: "ticks", help: "Ticks done.", value: 7, is_gauge: false });
        put_metric(&mut text, &Metric { name: "users", help: "Users online.", value: 3, is_gauge: true });
        let expected = "# HELP rollcall_ticks_total Ticks done.\n# TYPE rollcall_ticks_total counter\nrollcall_ticks_total 7\n\
                        # HELP rollcall_users Users online.\n# TYPE rollcall_users gauge\nrollcall_users 3\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn every_gauge_exists_and_every_metric_has_a_help_text() {
        let metrics = crate::metrics::Metrics::new(1, 1);
        let names = metrics.thread_totals().fields().chain(metrics.tick_totals().fields());
        let names: Vec<_> = names.chain(crate::metrics::StoreTotals::default().fields()).collect();
        for gauge in GAUGES {
            assert!(names.iter().any(|(name, _, _)| *name == gauge), "{gauge}");
        }
        assert!(names.iter().all(|(_, help, _)| !help.is_empty() && !help.contains(['\n', '\\'])));
    }

    #[test]
    fn names_of_counters_do_not_end_in_total_already() {
        let metrics = crate::metrics::Metrics::new(1, 1);
        for (name, _, _) in metrics.thread_totals().fields().chain(metrics.tick_totals().fields()) {
            assert!(!name.ends_with("_total"), "{name}");
        }
    }
}
