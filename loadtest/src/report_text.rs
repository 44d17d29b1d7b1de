//! The text of a report: first the verdict, then the figures in the order of interest, each with its unit and meaning.

use std::fmt::Write as _;

use serde_json::Value;

/// The figures and latencies to read first. Others follow in the order in which the scenario reports them.
const OF_INTEREST: [&str; 22] = [
    "server_cpu_per_heartbeat_us",
    "server_cpu_per_delivery_us",
    "server_cpu_per_connection_us",
    "ack_round_trip",
    "join_to_seen",
    "connect_to_joined",
    "reset_to_joined",
    "server_cpu_cores",
    "sent_per_s",
    "planned_per_s",
    "unsent",
    "blocked",
    "late",
    "send_delay",
    "acks",
    "deliveries_per_s",
    "changes_delivered",
    "all_rejoined_s",
    "handshakes_per_s",
    "failed_attempts",
    "server_rss_per_connection_bytes",
    "connections",
];

/// What latencies mean. Figures come with their meaning.
const LATENCIES: [(&str, &str); 5] = [
    ("ack_round_trip", "from the planned time of a heartbeat until its ack arrived"),
    ("send_delay", "from the planned time until the write: the generator's own delay"),
    ("join_to_seen", "from the planned time of a join until an observer saw it"),
    ("connect_to_joined", "from the connect of a new connection until it had joined"),
    ("reset_to_joined", "from the loss of a connection until the client had joined again"),
];

/// Ends of names, with the unit that is printed. Longer ends first.
const UNITS: [(&str, &str); 8] = [
    ("_ns_per_s", "ns/s"),
    ("_bytes_per_hour", "B/h"),
    ("_per_s", "/s"),
    ("_us", "µs"),
    ("_ns", "ns"),
    ("_s", "s"),
    ("_bytes", "B"),
    ("_cores", "cores"),
];

/// Formats the JSON of a report as text.
pub(crate) fn text(report: &Value) -> String {
    let mut text = verdict(report);
    let mut names: Vec<&str> = strings(&report["order"]).collect();
    for field in ["figures", "latencies"] {
        let all = report[field].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let more: Vec<_> = all.filter(|name| !names.contains(name)).collect();
        names.extend(more);
    }
    let rank = |name: &str| OF_INTEREST.iter().position(|first| *first == name).unwrap_or(OF_INTEREST.len());
    names.sort_by_key(|name| rank(name));
    for name in names {
        if let Some(value) = report["figures"][name].as_f64() {
            let meaning = report["meanings"][name].as_str().unwrap_or_default();
            let line = format!("  {name:<34} {:>14} {:<6} {meaning}", readable(value), unit(name));
            let _ = writeln!(text, "{}", line.trim_end());
        } else if report["latencies"][name].is_object() {
            put_latency(&mut text, name, &report["latencies"][name]);
        }
    }
    for note in strings(&report["notes"]) {
        let _ = writeln!(text, "  note: {note}");
    }
    text
}

/// The scenario, the length of its window, and whether its figures are valid; if not, why.
fn verdict(report: &Value) -> String {
    let scenario = report["scenario"].as_str().unwrap_or_default();
    let early = if report["ended_early"] == true { ", ended early" } else { "" };
    let window_s = report["window_s"].as_f64().unwrap_or(0.0);
    let verdict = match report["valid"] == true {
        true => "VALID, all checks passed",
        false => "INVALID, do not use these figures",
    };
    let mut text = format!("{scenario}: window {window_s:.1} s{early}: {verdict}\n");
    for problem in strings(&report["problems"]) {
        let _ = writeln!(text, "  INVALID: {problem}");
    }
    text
}

fn put_latency(text: &mut String, name: &str, latency: &Value) {
    let _ = write!(text, "  {name:<34}");
    for part in ["p50", "p90", "p99", "p99_9", "max"] {
        let us = latency[format!("{part}_us")].as_f64().unwrap_or(0.0);
        let _ = write!(text, " {} {us:.0}", part.replace('_', "."));
    }
    let meaning = LATENCIES.iter().find(|(known, _)| *known == name).map_or("", |(_, meaning)| meaning);
    let count = latency["count"].as_u64().unwrap_or(0);
    let _ = writeln!(text, " µs  {meaning} ({} values)", readable(count as f64));
}

fn unit(name: &str) -> &'static str {
    UNITS.iter().find(|(end, _)| name.ends_with(end)).map_or("", |(_, unit)| unit)
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Whole and large numbers have thousands separators and no decimals; others have three decimals.
pub(crate) fn readable(value: f64) -> String {
    if value.fract() != 0.0 && value.abs() < 1000.0 {
        return format!("{value:.3}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_have_thousands_separators_or_three_decimals() {
        for (value, text) in [(0.0, "0"), (4.8765, "4.877"), (999.0, "999"), (50_000.0, "50,000"), (-1234.5, "-1,234")]
        {
            assert_eq!(readable(value), text);
        }
    }

    #[test]
    fn the_verdict_comes_first_and_figures_in_the_order_of_interest_with_unit_and_meaning() {
        let mut report = json!({
            "scenario": "heartbeat", "window_s": 10.0, "valid": true, "problems": [], "notes": ["a note"],
            "order": ["connections", "zeal", "alpha_s", "server_cpu_per_heartbeat_us"],
            "figures": {"alpha_s": 1.5, "connections": 20, "server_cpu_per_heartbeat_us": 5.25, "zeal": 7, "other": 8},
            "meanings": {"server_cpu_per_heartbeat_us": "all threads", "zeal": "of the clients"},
            "latencies": {"ack_round_trip": {"count": 1234, "p50_us": 80.0, "max_us": 900.0}},
        });
        let text = super::text(&report);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(text.lines().next(), Some("heartbeat: window 10.0 s: VALID, all checks passed"));
        assert_eq!(lines[1], ["server_cpu_per_heartbeat_us", "5.250", "µs", "all", "threads"]);
        assert!(lines[2].starts_with(&["ack_round_trip", "p50", "80"]) && text.contains("(1,234 values)"), "{text}");
        let names: Vec<_> = lines[3..7].iter().map(|line| line[0]).collect();
        assert_eq!(names, ["connections", "zeal", "alpha_s", "other"]);
        assert_eq!(lines[5], ["alpha_s", "1.500", "s"]);
        report["valid"] = json!(false);
        report["problems"] = json!(["one was lost"]);
        let text = super::text(&report);
        assert!(text.starts_with("heartbeat: window 10.0 s: INVALID"), "{text}");
        assert_eq!(text.lines().nth(1), Some("  INVALID: one was lost"));
    }
}
