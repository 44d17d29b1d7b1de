//! Summarizes many runs: median, minimum and maximum of each figure, and ratios between the runs of one round.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::report::readable;

/// Percentiles of each latency that are summarized like figures.
const PERCENTILES: [&str; 4] = ["p50_us", "p99_us", "p99_9_us", "max_us"];

/// The figures of one run.
struct RunFigures {
    server: String,
    value: Value,
    round: u64,
    figures: Vec<(String, f64)>,
}

/// One entry per server, size and figure.
pub(super) fn summarize(runs: &[Value]) -> Vec<Value> {
    let all: Vec<RunFigures> = runs.iter().map(RunFigures::new).collect();
    let mut groups: Vec<(&str, &Value)> = Vec::new();
    for run in &all {
        if !groups.contains(&(run.server.as_str(), &run.value)) {
            groups.push((&run.server, &run.value));
        }
    }
    let base = all.first().map(|run| run.server.as_str()).unwrap_or_default();
    let mut summary = Vec::new();
    for (server, value) in groups {
        let members: Vec<&RunFigures> = all.iter().filter(|run| run.server == server && run.value == *value).collect();
        let Some(first) = members.first() else { continue };
        for (figure, _) in &first.figures {
            let found: Vec<f64> = members.iter().filter_map(|run| run.figure(figure)).collect();
            let mut entry = spread(&found);
            entry["server"] = json!(server);
            entry["value"] = value.clone();
            entry["figure"] = json!(figure);
            let ratios: Vec<f64> = members.iter().filter_map(|run| run.ratio(base, figure, &all)).collect();
            if server != base && !ratios.is_empty() {
                entry["ratio"] = spread(&ratios);
            }
            summary.push(entry);
        }
    }
    summary
}

/// The summary as text. Figures that are always zero are left out.
pub(crate) fn text(series: &Value) -> String {
    let mut text = format!("{} of {}\n", plain(&series["scenario"]), plain(&series["of"]));
    for entry in series["summary"].as_array().into_iter().flatten() {
        let number = |name: &str| readable(entry[name].as_f64().unwrap_or(0.0));
        if entry["max"].as_f64() == Some(0.0) {
            continue;
        }
        let size = if entry["value"].is_null() { String::new() } else { format!("{} ", plain(&entry["value"])) };
        let label = format!("{size}{}", plain(&entry["server"]));
        let range = format!("{} to {}", number("min"), number("max"));
        let _ = write!(text, "  {label:<18} {:<36} {:>14}   {range:<28}", plain(&entry["figure"]), number("median"));
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

/// A JSON value without the quotes of strings.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.as_f64().map_or_else(|| other.to_string(), |number| number.to_string()),
    }
}

/// For an even number of values, the mean of the middle two.
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
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    json!({ "median": median(values), "min": min, "max": max, "runs": values.len() })
}

impl RunFigures {
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

    /// The ratio to the base server's run of the same size and round.
    fn ratio(&self, base: &str, figure: &str, all: &[Self]) -> Option<f64> {
        let other = all.iter().find(|run| run.server == base && run.value == self.value && run.round == self.round)?;
        let base_value = other.figure(figure).filter(|value| *value != 0.0)?;
        Some(self.figure(figure)? / base_value)
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
    fn ratios_are_taken_within_a_round() {
        // The machine is half as fast in round 2; the ratio stays the same.
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
    fn the_median_of_an_even_number_is_the_middle() {
        for (values, expected) in [(vec![], 0.0), (vec![3.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0], 2.5)] {
            assert_eq!(median(&values), expected);
        }
    }
}
