//! `GET /v1/stats`: the counters of the server as JSON, for pages, tests and scripts. Units are part of the names.
//! `/metrics` has the same counters under names that Prometheus recommends.

use bytes::{BufMut, BytesMut};

use super::context::Context;
use super::reply::Reply;
use crate::auth::Caller;
use crate::json::{put_list, put_number, put_string};
use crate::metrics::{Metric, Reading};
use crate::node::{Node, OverBudget};
use crate::os;
use crate::presence::State;

/// The number of connections in `over_budget`.
const MAX_OVER_BUDGET: usize = 10;

/// `GET /v1/stats`.
pub(super) async fn stats(context: Context) -> Result<Reply, Reply> {
    let node = context.node();
    let write = |buffer: &mut BytesMut| {
        buffer.put_slice(br#"{"node":"#);
        put_string(buffer, &node.id);
        for (name, _, reading) in metrics(&context) {
            match reading {
                Reading::Number(value) => put_member(buffer, name, value),
                Reading::Durations(durations) => {
                    put_member(buffer, &format!("{name}_us"), durations.sum_us);
                    put_member(buffer, &format!("{name}_us_max"), durations.max_us);
                    put_member(buffer, &format!("{name}_count"), durations.count());
                }
            }
        }
        // Only applications may see names and addresses of clients; read keys are for numbers.
        if matches!(context.caller, Caller::Application(_)) {
            put_over_budget(buffer, node);
        }
        buffer.put_u8(b'}');
    };
    context.charge_short(|| Reply::json(write))
}

fn put_member(buffer: &mut BytesMut, name: &str, value: u64) {
    buffer.put_u8(b',');
    put_string(buffer, name);
    buffer.put_u8(b':');
    put_number(buffer, value);
}

/// The connections that are over a work budget, the most often paused ones first.
fn put_over_budget(buffer: &mut BytesMut, node: &Node) {
    let mut all: Vec<OverBudget> = node.over_budget.iter().flat_map(|worst| worst.lock().clone()).collect();
    all.sort_by_key(|over| std::cmp::Reverse(over.pauses));
    buffer.put_slice(b",\"over_budget\":");
    buffer.put_u8(b'[');
    put_list(buffer, all.iter().take(MAX_OVER_BUDGET), |buffer, over| {
        buffer.put_slice(b"{\"pauses\":");
        put_number(buffer, u64::from(over.pauses));
        if let Some(user) = &over.user {
            buffer.put_slice(b",\"user\":");
            put_string(buffer, user);
        }
        if let Some(address) = over.address {
            buffer.put_slice(b",\"address\":");
            put_string(buffer, &address.to_string());
        }
        buffer.put_u8(b'}');
    });
    buffer.put_u8(b']');
}

/// All counters and histograms: their names, meanings and values.
pub(super) fn metrics(context: &Context) -> impl Iterator<Item = Metric> {
    let node = context.node();
    let degraded = node.store.degraded_since().is_some();
    let present = [
        ("degraded", "1 while this node has no contact with other nodes.", degraded.into()),
        ("uptime_ms", "Milliseconds since the server started.", node.started.elapsed().as_millis() as u64),
        ("users", "Users online.", node.registry.users_online() as u64),
        ("rooms", "Rooms with members or observers.", node.registry.rooms_open() as u64),
        (
            "state_bytes",
            "States that clients of this node set, in bytes.",
            node.registry.states().used() * State::UNIT_BYTES,
        ),
        ("watched_users", "Users that clients watch by name.", node.registry.watchlist.watched() as u64),
    ];
    let certificate = node.config.tls.as_ref().map(|tls| {
        let help = "When the TLS certificate expires, in seconds since the Unix epoch.";
        ("tls_certificate_expires_unix", help, tls.expires().max(0) as u64)
    });
    // Left out where the system does not report it: zero would look like a measurement.
    let memory =
        os::memory_bytes().map(|bytes| ("memory_bytes", "Memory of the process that no file backs, in bytes.", bytes));
    let cpu = ("cpu_ns", "CPU time of all threads, user and kernel, in nanoseconds.", os::cpu_ns());
    let help = "HTTP connections dropped because their clients did not read long answers and memory was short.";
    let dropped = ("answers_dropped", help, context.thread.answers.unread.dropped());
    let counters = node.metrics.thread_totals().fields().chain(node.metrics.tick_totals().fields());
    let counters = counters.chain(node.store.totals().into_iter().flat_map(|totals| totals.fields()));
    let counters = counters.chain(node.sinks.counters()).chain(node.auth.counters());
    let computed = present.into_iter().chain(certificate).chain(memory).chain([cpu, dropped]);
    computed.map(|(name, help, value)| (name, help, Reading::Number(value))).chain(counters)
}
