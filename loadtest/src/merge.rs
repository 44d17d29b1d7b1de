//! `merge`: combines the reports of several generator processes that loaded one server at the same time.
//!
//! Counts and rates are added. Histograms are added, and percentiles are computed from the sum. Figures that all
//! processes measured on the same object (the server's CPU, the machine) are averaged. For costs per unit of work, each
//! process divided the server's cost by its own share of the work. The shares add up, so the inverses of the costs do.
//!
//! Series (`sweep`, `compare`) were run one after the other. Their runs are put into one series.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use crate::latency::Latency;
use crate::report::command_line;
use crate::series;

/// How figures of the same name are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Sum,
    Mean,
    Max,
    /// 1 / Σ (1 / x)
    Share,
}

/// Reads the files and merges them if there are several.
pub(crate) fn read(files: &[PathBuf]) -> Result<Value> {
    let mut reports = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let report: Value =
            serde_json::from_str(&text).with_context(|| format!("{} is not a JSON report", file.display()))?;
        if !report["scenario"].is_string() {
            bail!("{} is not a report of loadtest", file.display());
        }
        reports.push(report);
    }
    if reports.len() == 1 { Ok(reports.remove(0)) } else { merge(&reports) }
}

fn merge(reports: &[Value]) -> Result<Value> {
    let first = &reports[0];
    for field in ["scenario", "loadtest"] {
        if reports.iter().any(|report| report[field] != first[field]) {
            bail!("the reports differ in {field:?}: only runs of one scenario at the same time can be merged");
        }
    }
    if first.get("runs").is_some() {
        return series::join(reports);
    }
    let users: Vec<&Value> = reports.iter().map(|report| &report["settings"]["first_user"]).collect();
    if (1..users.len()).any(|index| users[..index].contains(&users[index])) {
        bail!("two reports have the same first_user: generators of one server must not share users");
    }
    let mut merged = first.clone();
    merged["command"] = json!(command_line());
    merged["merged_commands"] = reports.iter().map(|report| report["command"].clone()).collect();
    for field in ["problems", "notes"] {
        let all = reports.iter().flat_map(|report| report[field].as_array().cloned().unwrap_or_default());
        merged[field] = all.collect();
    }
    merged["valid"] = json!(reports.iter().all(|report| report["valid"] == true));
    merged["ended_early"] = json!(reports.iter().any(|report| report["ended_early"] == true));
    merged["figures"] = merge_figures(reports);
    merged["latencies"] = merge_latencies(reports)?;
    note_windows(reports, &mut merged);
    Ok(merged)
}

/// Costs per unit of work are exact only if all runs have the same window.
fn note_windows(reports: &[Value], merged: &mut Value) {
    let started = reports.iter().filter_map(|report| report["started_unix_ms"].as_f64());
    let (min, max) = started.fold((f64::INFINITY, 0.0_f64), |(min, max), at| (min.min(at), max.max(at)));
    let window_ms = reports[0]["window_s"].as_f64().unwrap_or(0.0) * 1000.0;
    if max - min > window_ms / 10.0
        && let Some(notes) = merged["notes"].as_array_mut()
    {
        let apart = (max - min) / 1000.0;
        notes.push(json!(format!("the runs started up to {apart:.1} s apart: costs per unit of work are not exact")));
    }
}

fn merge_figures(reports: &[Value]) -> Value {
    let mut merged = Map::new();
    for name in reports[0]["figures"].as_object().into_iter().flat_map(Map::keys) {
        let values: Option<Vec<f64>> = reports.iter().map(|report| report["figures"][name].as_f64()).collect();
        // A figure that some reports lack cannot be combined.
        if let Some(values) = values {
            merged.insert(name.clone(), json!(rule(name).apply(&values)));
        }
    }
    Value::Object(merged)
}

fn merge_latencies(reports: &[Value]) -> Result<Value> {
    let mut merged = Map::new();
    for name in reports[0]["latencies"].as_object().into_iter().flat_map(Map::keys) {
        let mut sum = Latency::new();
        for report in reports {
            let Some(encoded) = report["latencies"][name]["histogram_v2"].as_str() else { continue };
            sum.add(encoded).with_context(|| format!("the histogram of {name} cannot be read"))?;
        }
        merged.insert(name.clone(), json!(sum.summary()));
    }
    Ok(Value::Object(merged))
}

fn rule(name: &str) -> Rule {
    let per_unit = name.contains("_per_") && !name.ends_with("_per_s") && !name.ends_with("_per_hour");
    match name {
        _ if name.starts_with("server_") && per_unit => Rule::Share,
        "server_cpu_per_connection_ns_per_s" => Rule::Share,
        _ if name.starts_with("kernel_") && per_unit => Rule::Share,
        _ if name.starts_with("server_") || name == "stolen_cpu_cores" || per_unit => Rule::Mean,
        "all_rejoined_s" | "all_rejoined_min_s" | "all_rejoined_max_s" | "connecting_s" | "rounds" => Rule::Max,
        _ => Rule::Sum,
    }
}

impl Rule {
    fn apply(self, values: &[f64]) -> f64 {
        match self {
            Self::Sum => values.iter().sum(),
            Self::Mean => values.iter().sum::<f64>() / values.len() as f64,
            Self::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Self::Share if values.contains(&0.0) => 0.0,
            Self::Share => 1.0 / values.iter().map(|value| 1.0 / value).sum::<f64>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(first_user: u32, sent: f64, cost: f64, latency_ns: u64) -> Value {
        let mut latency = Latency::new();
        latency.record_ns(latency_ns);
        json!({
            "loadtest": "1", "scenario": "heartbeat", "valid": true, "window_s": 10.0, "started_unix_ms": 5000 + first_user,
            "problems": [], "notes": [], "settings": { "first_user": first_user },
            "figures": { "sent": sent, "sent_per_s": sent / 10.0, "server_cpu_cores": 0.5, "server_cpu_per_heartbeat_us": cost },
            "latencies": { "send_delay": latency.summary() },
        })
    }

    #[test]
    fn work_is_added_and_costs_are_divided_by_the_total_work() {
        // 0.5 cores for 10 s over 1 million and 3 million heartbeats: 5 µs and 1.67 µs each, 1.25 µs per heartbeat of
        // either.
        let merged = merge(&[report(0, 1e6, 5.0, 1000), report(7, 3e6, 5.0 / 3.0, 9000)]).unwrap();
        let figure = |name: &str| merged["figures"][name].as_f64().unwrap();
        assert_eq!((figure("sent"), figure("sent_per_s"), figure("server_cpu_cores")), (4e6, 4e5, 0.5));
        assert!((figure("server_cpu_per_heartbeat_us") - 1.25).abs() < 1e-9);
        assert_eq!(merged["latencies"]["send_delay"]["count"], 2);
        assert!(merged["latencies"]["send_delay"]["max_us"].as_f64().unwrap() >= 9.0);
        assert_eq!(merged["notes"].as_array().unwrap().len(), 0);
    }

    #[test]
    fn reports_of_different_runs_are_not_merged() {
        let message = merge(&[report(0, 1.0, 1.0, 1), report(0, 1.0, 1.0, 1)]).unwrap_err().to_string();
        assert!(message.contains("same first_user"), "{message}");
        let mut other = report(1, 1.0, 1.0, 1);
        other["scenario"] = json!("idle");
        assert!(merge(&[report(0, 1.0, 1.0, 1), other]).is_err());
    }
}
