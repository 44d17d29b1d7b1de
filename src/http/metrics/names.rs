//! The names of counters in `/metrics`: base units, `_total` after sums, and one metric with a label for counters that
//! are parts of a whole.

use super::family::Kind;

/// The counters that are present values instead of sums since the start.
const GAUGES: [&str; 20] = [
    "callback_running",
    "callback_waiting",
    "connections",
    "connections_over_budget",
    "degraded",
    "jwks_age_seconds",
    "memory_bytes",
    "redis_clock_difference_ms",
    "redis_nodes",
    "redis_pending",
    "rooms",
    "sockets",
    "state_bytes",
    "tls_certificate_expires_unix",
    "upgrades_waiting",
    "users",
    "watched_users",
    "webhooks_oldest_ms_max",
    "webhooks_paused",
    "webhooks_queued",
];

/// Counters that `/metrics` has in another form: sums of the parts of a group, the numbers of histograms, and what the
/// standard metrics of a process say.
const ABSENT: [&str; 5] = ["callback_requests", "changes", "cpu_ns", "redis_flushes", "uptime_ms"];

/// Histograms whose names do not say that they are times.
const DURATIONS: [(&str, &str); 4] = [
    ("callback", "callback_request_duration"),
    ("tick", "tick_duration"),
    ("webhook_request", "webhook_request_duration"),
    ("write", "write_duration"),
];

/// Counters whose names follow a convention in `/metrics` that they do not follow in `/v1/stats`.
const RENAMED: [(&str, &str); 5] = [
    ("answers_dropped", "http_answers_dropped"),
    ("requests", "http_requests"),
    ("requests_given_up", "http_requests_given_up"),
    ("tls_certificate_expires_unix", "tls_certificate_expiry_timestamp_seconds"),
    ("webhooks_oldest_ms_max", "webhooks_oldest_ms"),
];

/// Counters that are one metric, with a label that tells them apart.
#[derive(Debug)]
pub(super) struct Group {
    /// The name of the metric.
    pub(super) name: &'static str,
    /// What it means.
    pub(super) help: &'static str,
    /// The name of the label.
    pub(super) label: &'static str,
    /// Counters, and their values of the label.
    parts: &'static [(&'static str, &'static str)],
}

/// All groups.
static GROUPS: [Group; 8] = [
    Group {
        name: "rollcall_connections_refused_total",
        help: "WebSocket connections refused because of a limit: of connections, memory, the user or the address.",
        label: "reason",
        parts: &[("connections_refused", "limit"), ("connections_over_quota", "quota")],
    },
    Group {
        name: "rollcall_sockets_refused_total",
        help: "Sockets refused because their address has too many without a request, or opens too many at once.",
        label: "reason",
        parts: &[("sockets_over_quota", "quota"), ("arrivals_refused", "rate")],
    },
    Group {
        name: "rollcall_connections_closed_total",
        help: "WebSocket connections that the server closed because of what the client did or did not do.",
        label: "reason",
        parts: &[
            ("protocol_violations", "protocol_violation"),
            ("connections_timed_out", "timed_out"),
            ("connections_expired", "expired"),
            ("connections_too_slow", "too_slow"),
            ("connections_over_limit", "over_budget"),
            ("connections_shed", "memory"),
        ],
    },
    Group {
        name: "rollcall_http_requests_refused_total",
        help: "HTTP requests refused because of the work budget of their address, or the limit of REST users.",
        label: "reason",
        parts: &[("requests_refused", "over_budget"), ("rest_users_refused", "rest_users")],
    },
    Group {
        name: "rollcall_tls_handshakes_total",
        help: "TLS handshakes by result: completed, or failed (refused or not completed).",
        label: "result",
        parts: &[("tls_handshakes", "completed"), ("tls_handshakes_failed", "failed")],
    },
    Group {
        name: "rollcall_member_changes_total",
        help: "Members that joined, changed their state or left.",
        label: "change",
        parts: &[("joins", "joined"), ("updates", "updated"), ("leaves", "left")],
    },
    Group {
        name: "rollcall_webhook_requests_total",
        help: "Webhook requests by result: 2xx, 4xx, another status, no answer in time, no connection, broken off.",
        label: "result",
        parts: &[
            ("webhooks_delivered", "delivered"),
            ("webhooks_refused", "refused"),
            ("webhooks_failed", "failed"),
            ("webhooks_timed_out", "timed_out"),
            ("webhooks_unconnected", "unconnected"),
            ("webhooks_broken", "broken"),
        ],
    },
    Group {
        name: "rollcall_callback_requests_total",
        help: "Requests to --auth-url by result: a user, a refusal, or no usable answer.",
        label: "result",
        parts: &[("callback_accepted", "accepted"), ("callback_refused", "refused"), ("callback_failed", "failed")],
    },
];

/// Where a counter of `/v1/stats` stands in `/metrics`.
#[derive(Debug)]
pub(super) enum Place {
    /// It is a metric, whose value is that of the counter divided by this.
    Metric(Kind, String, f64),
    /// It is a sample of a metric, with this value of the label.
    Part(&'static Group, &'static str),
    /// It is in none.
    Absent,
}

/// The name of a histogram.
pub(super) fn histogram(name: &str) -> String {
    let stem = DURATIONS.iter().find(|(known, _)| *known == name).map_or(name, |(_, stem)| stem);
    format!("rollcall_{stem}_seconds")
}

/// Where the counter with this name stands.
pub(super) fn place(counter: &str) -> Place {
    if ABSENT.contains(&counter) {
        return Place::Absent;
    }
    let part = |group: &'static Group| Some((group, group.parts.iter().find(|(part, _)| *part == counter)?.1));
    if let Some((group, value)) = GROUPS.iter().find_map(part) {
        return Place::Part(group, value);
    }
    let kind = if GAUGES.contains(&counter) { Kind::Gauge } else { Kind::Counter };
    let renamed = RENAMED.iter().find(|(name, _)| *name == counter).map_or(counter, |(_, name)| name);
    // Milliseconds are the only unit of counters that is not a base unit.
    let in_ms = renamed.strip_suffix("_ms").map(|stem| (stem, "_seconds", 1e3));
    let (stem, base, parts) = in_ms.unwrap_or((renamed, "", 1.0));
    let total = if kind == Kind::Counter { "_total" } else { "" };
    Place::Metric(kind, format!("rollcall_{stem}{base}{total}"), parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{AppTotals, CallbackTotals, JwksTotals, Metric, Metrics, Reading, StoreTotals};
    use crate::store::webhooks::WebhookTotals;

    /// What `/v1/stats` computes instead of counting.
    const COMPUTED: [&str; 10] = [
        "answers_dropped",
        "cpu_ns",
        "degraded",
        "memory_bytes",
        "rooms",
        "state_bytes",
        "tls_certificate_expires_unix",
        "uptime_ms",
        "users",
        "watched_users",
    ];

    fn counted() -> Vec<Metric> {
        let metrics = Metrics::new(1, 1);
        let counters = metrics.thread_totals().fields().chain(metrics.tick_totals().fields());
        let counters = counters.chain(StoreTotals::default().fields()).chain(CallbackTotals::default().fields());
        let counters = counters.chain(WebhookTotals::default().fields()).chain(AppTotals::default().fields());
        counters.chain(JwksTotals::default().fields()).collect()
    }

    #[test]
    fn names_have_base_units_and_only_those_of_sums_end_in_total() {
        let check = |counter, kind, name: &str, parts| match place(counter) {
            Place::Metric(got, metric, divisor) => assert_eq!((got, &*metric, divisor), (kind, name, parts)),
            other => panic!("{counter}: {other:?}"),
        };
        check("ticks", Kind::Counter, "rollcall_ticks_total", 1.0);
        check("users", Kind::Gauge, "rollcall_users", 1.0);
        check("state_bytes", Kind::Gauge, "rollcall_state_bytes", 1.0);
        check("delivered_bytes", Kind::Counter, "rollcall_delivered_bytes_total", 1.0);
        check("redis_clock_difference_ms", Kind::Gauge, "rollcall_redis_clock_difference_seconds", 1e3);
        check("webhooks_oldest_ms_max", Kind::Gauge, "rollcall_webhooks_oldest_seconds", 1e3);
        assert_eq!(histogram("tick"), "rollcall_tick_duration_seconds");
        assert_eq!(histogram("join_to_sent"), "rollcall_join_to_sent_seconds");
        assert!(matches!(place("uptime_ms"), Place::Absent));
        assert!(matches!(place("webhooks_broken"), Place::Part(Group { label: "result", .. }, "broken")));
    }

    #[test]
    fn every_name_here_is_that_of_a_counter() {
        let counted = counted();
        let is_known = |name| COMPUTED.contains(&name) || counted.iter().any(|(known, ..)| *known == name);
        let parts = GROUPS.iter().flat_map(|group| group.parts).map(|(part, _)| *part);
        let names = GAUGES.into_iter().chain(ABSENT).chain(RENAMED.map(|(counter, _)| counter)).chain(parts);
        let names = names.chain(DURATIONS.map(|(histogram, _)| histogram));
        names.for_each(|name| assert!(is_known(name), "{name}"));
    }

    #[test]
    fn every_counter_has_a_help_text_and_a_name_of_its_own() {
        let mut names = Vec::new();
        for (counter, help, reading) in counted() {
            assert!(help.ends_with('.') && !help.contains(['\n', '\\']), "{counter}: {help}");
            assert!(!counter.ends_with("_total"), "{counter}");
            let name = match (reading, place(counter)) {
                (Reading::Durations(_), _) => Some(histogram(counter)),
                (_, Place::Metric(_, name, _)) => Some(name),
                _ => None,
            };
            if let Some(name) = name {
                assert!(!GROUPS.iter().any(|group| group.name == name) && !names.contains(&name), "{name}");
                names.push(name);
            }
        }
    }
}
