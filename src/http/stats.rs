//! The server's numbers: `/v1/stats` as JSON, `/metrics` in the text format of Prometheus (exposition format 0.0.4).
//!
//! Prometheus would have seconds; microseconds and nanoseconds are kept, so that a number has one name in both.

use std::fmt::Write as _;

use bytes::BufMut;

use super::reply::Reply;
use crate::json::{put_number, put_string};
use crate::os;
use crate::worker::Worker;

/// Of the counters, those that are no sums since the start.
const GAUGES: [&str; 5] = ["connections", "sockets", "tick_us_max", "redis_pending", "redis_nodes"];

struct Number {
    name: &'static str,
    help: &'static str,
    value: u64,
    is_gauge: bool,
}

pub(super) fn json(worker: &Worker) -> Reply {
    Reply::json(|buffer| {
        buffer.put_slice(br#"{"node":"#);
        put_string(buffer, &worker.node.id);
        for Number { name, value, .. } in numbers(worker) {
            buffer.put_u8(b',');
            put_string(buffer, name);
            buffer.put_u8(b':');
            put_number(buffer, value);
        }
        buffer.put_u8(b'}');
    })
}

pub(super) fn prometheus(worker: &Worker) -> Reply {
    let mut text = String::with_capacity(4096);
    for number in numbers(worker) {
        put_metric(&mut text, &number);
    }
    Reply::text("text/plain; version=0.0.4; charset=utf-8", text)
}

/// Counters end in `_total` (Prometheus, "Metric and label naming").
fn put_metric(text: &mut String, number: &Number) {
    let Number { name, help, value, is_gauge } = number;
    let (kind, suffix) = if *is_gauge { ("gauge", "") } else { ("counter", "_total") };
    let _ = write!(
        text,
        "# HELP rollcall_{name}{suffix} {help}\n# TYPE rollcall_{name}{suffix} {kind}\nrollcall_{name}{suffix} {value}\n"
    );
}

fn numbers(worker: &Worker) -> impl Iterator<Item = Number> {
    let node = &*worker.node;
    let gauge = |name, help, value| Number { name, help, value, is_gauge: true };
    let degraded = node.store.degraded_since().is_some();
    let gauges = [
        gauge("degraded", "1 while this node does not see what other nodes hold.", degraded.into()),
        gauge("uptime_ms", "Milliseconds since the start.", node.started.elapsed().as_millis() as u64),
        gauge("users", "Users online.", node.registry.users_online() as u64),
        gauge("rooms", "Rooms with members or observers.", node.registry.rooms_open() as u64),
        gauge("watched_users", "Users whom somebody watches by name.", node.registry.watchlist.watched() as u64),
    ];
    // Left out where it is not known: a zero would be a measurement.
    let memory = os::memory_bytes().map(|bytes| gauge("memory_bytes", "Memory that no file backs.", bytes));
    let cpu = Number {
        name: "cpu_ns",
        help: "CPU time of all threads, user and kernel, in nanoseconds.",
        value: os::cpu_ns(),
        is_gauge: false,
    };
    let counters = node.metrics.worker_totals().fields().chain(node.metrics.tick_totals().fields());
    let counters = counters.chain(node.store.totals().into_iter().flat_map(|totals| totals.fields()));
    let counters = counters.map(|(name, help, value)| Number { name, help, value, is_gauge: GAUGES.contains(&name) });
    gauges.into_iter().chain(memory).chain([cpu]).chain(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_totals_and_gauges_are_not() {
        let mut text = String::new();
        put_metric(&mut text, &Number { name: "ticks", help: "Ticks done.", value: 7, is_gauge: false });
        put_metric(&mut text, &Number { name: "users", help: "Users online.", value: 3, is_gauge: true });
        let expected = "# HELP rollcall_ticks_total Ticks done.\n# TYPE rollcall_ticks_total counter\nrollcall_ticks_total 7\n\
                        # HELP rollcall_users Users online.\n# TYPE rollcall_users gauge\nrollcall_users 3\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn every_gauge_is_a_counter_of_that_name() {
        let metrics = crate::metrics::Metrics::new(1);
        let names = metrics.worker_totals().fields().chain(metrics.tick_totals().fields());
        let names: Vec<_> = names.chain(crate::metrics::StoreTotals::default().fields()).collect();
        for gauge in GAUGES {
            assert!(names.iter().any(|(name, _, _)| *name == gauge), "{gauge}");
        }
        assert!(names.iter().all(|(_, help, _)| !help.is_empty() && !help.contains(['\n', '\\'])));
    }

    #[test]
    fn no_counter_is_a_total_before_it_is_written() {
        let metrics = crate::metrics::Metrics::new(1);
        for (name, _, _) in metrics.worker_totals().fields().chain(metrics.tick_totals().fields()) {
            assert!(!name.ends_with("_total"), "{name}");
        }
    }
}
