//! Many runs in few numbers: median, least and most of each figure, and ratios of the runs of one round.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::report::readable;

/// Percentiles of each latency that stand beside the figures.
const PERCENTILES: [&str; 4] = ["p50_us", "p99_us", "p99_9_us", "max_us"];

/// A run as (server, value, round) and what it found.
struct Row {
    server: String,
    value: Value,
    round: u64,
    figures: Vec<(String, f64)>,
}

/// One entry for each server, size and figure.
pub(super) fn summarize(runs: &[Value]) -> Vec<Value> {
    let rows: Vec<Row> = runs.iter().map(Row::new).collect();
    let mut groups: Vec<(&str, &Value)> = Vec::new();
    for row in &rows {
        if !groups.contains(&(row.server.as_str(), &row.value)) {
            groups.push((&row.server, &row.value));
        }
    }
    let base = rows.first().map(|row| row.server.as_str()).unwrap_or_default();
    let mut summary = Vec::new();
    for (server, value) in groups {
        let members: Vec<&Row> = rows.iter().filter(|row| row.server == server && row.value == *value).collect();
        let Some(first) = members.first() else { continue };
        for (figure, _) in &first.figures {
            let found: Vec<f64> = members.iter().filter_map(|row| row.figure(figure)).collect();
            let mut entry = spread(&found);
            entry["server"] = json!(server);
            entry["value"] = value.clone();
            entry["figure"] = json!(figure);
            let ratios: Vec<f64> = members.iter().filter_map(|row| row.ratio(base, figure, &rows)).collect();
            if server != base && !ratios.is_empty() {
                entry["ratio"] = spread(&ratios);
            }
            summary.push(entry);
        }
    }
    summary
}

/// The summary for people: what differs in meaning only for machines is left out.
pub(crate) fn text(series: &Value) -> String {
    let mut text = format!("{} of {}\n", plain(&series["scenario"]), plain(&series["of"]));
    for entry in series["summary"].as_array().into_iter().flatten() {
        let number = |name: &str| readable(entry[name].as_f64().unwrap_or(0.0));
        if entry["max"].as_f64() == Some(0.0) {
            continue;
        }
        let size = if entry["value"].is_null() { String::new() } else { format!("{} ", plain(&entry["value"])) };
        let who = format!("{size}{}", plain(&entry["server"]));
        let range = format!("{} to {}", number("min"), number("max"));
        let _ = write!(text, "  {who:<18} {:<36} {:>14}   {range:<28}", plain(&entry["figure"]), number("median"));
        if let Some(ratio) = entry["ratio"]["median"].as_f64() {
            let bound = |name: &str| entry["ratio"][name].as_f64().unwrap_or(0.0);
            let _ = write!(text, " × {ratio:.3} ({:.3} to {:.3})", bound("min"), bound("max"));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    if series["ended_early"] == true {
        let done = series["runs"].as_array().map_or(0, Vec::len);
        let _ = writeln!(text, "  ended early: {done} of {} runs", series["planned_runs"]);
    }
    for note in series["notes"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  note: {}", plain(note));
    }
    for problem in series["problems"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  INVALID: {}", plain(problem));
    }
    text
}

/// A value without the quotes of JSON.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.as_f64().map_or_else(|| other.to_string(), |number| number.to_string()),
    }
}

/// Of an even number the mean of the middle two.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

fn spread(values: &[f64]) -> Value {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    json!({ "median": median(values), "min": least, "max": most, "runs": values.len() })
}

impl Row {
    fn new(run: &Value) -> Self {
        let mut figures = Vec::new();
        for (name, value) in run["report"]["figures"].as_object().into_iter().flatten() {
            figures.extend(value.as_f64().map(|value| (name.clone(), value)));
        }
        for (name, latency) in run["report"]["latencies"].as_object().into_iter().flatten() {
            let percentiles = PERCENTILES.iter();
            figures.extend(percentiles.filter_map(|part| Some((format!("{name}_{part}"), latency[part].as_f64()?))));
        }
        Self {
            server: plain(&run["server"]),
            value: run["value"].clone(),
            round: run["round"].as_u64().unwrap_or(0),
            figures,
        }
    }

    fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(found, _)| found == name).map(|(_, value)| *value)
    }

    /// Against the base's run of the same size and round.
    fn ratio(&self, base: &str, figure: &str, rows: &[Self]) -> Option<f64> {
        let other = rows.iter().find(|row| row.server == base && row.value == self.value && row.round == self.round)?;
        let below = other.figure(figure).filter(|value| *value != 0.0)?;
        Some(self.figure(figure)? / below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(server: &str, round: u64, cost: f64) -> Value {
        let latencies = json!({ "seen": { "p50_us": cost * 2.0, "p99_us": cost * 3.0 } });
        json!({ "server": server, "round": round, "report": { "figures": { "cost": cost }, "latencies": latencies } })
    }

    #[test]
    fn ratios_are_of_one_round() {
        // The machine was twice as slow in round 2: the ratio does not move.
        let runs = [run("a", 1, 10.0), run("b", 1, 12.0), run("a", 2, 20.0), run("b", 2, 24.0)];
        let summary = summarize(&runs);
        let entry = |server: &str, figure: &str| {
            summary.iter().find(|entry| entry["server"] == server && entry["figure"] == figure).unwrap().clone()
        };
        assert_eq!((entry("a", "cost")["median"].as_f64(), entry("a", "cost").get("ratio")), (Some(15.0), None));
        assert_eq!(entry("b", "cost")["ratio"]["min"], 1.2);
        assert_eq!(entry("b", "cost")["ratio"]["max"], 1.2);
        assert_eq!(entry("b", "seen_p99_us")["max"], 72.0);
    }

    #[test]
    fn medians() {
        for (values, expected) in [(vec![], 0.0), (vec![3.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0], 2.5)] {
            assert_eq!(median(&values), expected);
        }
    }
}
