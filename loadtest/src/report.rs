//! The result of a run: figures whose names end in their unit, percentiles of latencies, and failed checks. Printed as
//! text, written as JSON; `compare`, `sweep` and `merge` read the JSON.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::latency::Summary;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Report {
    scenario: &'static str,
    /// The command that repeats the run.
    pub(crate) command: String,
    started: SystemTime,
    settings: Map<String, Value>,
    pub(crate) window: Duration,
    pub(crate) ended_early: bool,
    /// Failed checks. Any of them makes the figures invalid.
    pub(crate) problems: Vec<String>,
    /// What the reader must know to interpret the figures.
    pub(crate) notes: Vec<String>,
    figures: Vec<ReportFigure>,
    latencies: Vec<(&'static str, Summary)>,
    /// (seconds since the start of the load, value); the name ends in the unit.
    series: Vec<(&'static str, Vec<[f64; 2]>)>,
}

#[derive(Debug)]
struct ReportFigure {
    name: &'static str,
    value: f64,
    meaning: &'static str,
}

impl Report {
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self {
            scenario,
            command: command_line(),
            started: SystemTime::now(),
            settings: Map::new(),
            window: Duration::ZERO,
            ended_early: false,
            problems: Vec::new(),
            notes: Vec::new(),
            figures: Vec::new(),
            latencies: Vec::new(),
            series: Vec::new(),
        }
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.settings.insert(name.to_owned(), value.into());
    }

    pub(crate) fn figure(&mut self, name: &'static str, value: f64, meaning: &'static str) {
        self.figures.push(ReportFigure { name, value, meaning });
    }

    pub(crate) fn latency(&mut self, name: &'static str, summary: Summary) {
        self.latencies.push((name, summary));
    }

    /// Records a value over time.
    pub(crate) fn series(&mut self, name: &'static str, points: Vec<[f64; 2]>) {
        self.series.push((name, points));
    }

    pub(crate) fn to_json(&self) -> Value {
        let figures: Map<String, Value> =
            self.figures.iter().map(|figure| (figure.name.to_owned(), json!(figure.value))).collect();
        let latencies: Map<String, Value> =
            self.latencies.iter().map(|(name, summary)| ((*name).to_owned(), json!(summary))).collect();
        let series: Map<String, Value> =
            self.series.iter().map(|(name, points)| ((*name).to_owned(), json!(points))).collect();
        let started_ms = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        json!({
            "loadtest": env!("CARGO_PKG_VERSION"),
            "scenario": self.scenario,
            "command": self.command,
            "started_unix_ms": started_ms,
            "settings": self.settings,
            "window_s": self.window.as_secs_f64(),
            "ended_early": self.ended_early,
            "valid": self.is_valid(),
            "problems": self.problems,
            "notes": self.notes,
            "figures": figures,
            "latencies": latencies,
            "series": series,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let early = if self.ended_early { ", ended early" } else { "" };
        writeln!(formatter, "{}: window {:.1} s{early}", self.scenario, self.window.as_secs_f64())?;
        for ReportFigure { name, value, meaning } in &self.figures {
            writeln!(formatter, "  {name:<34} {:>14}  {meaning}", readable(*value))?;
        }
        for (name, summary) in &self.latencies {
            let Summary { p50_us, p90_us, p99_us, p99_9_us, max_us, .. } = summary;
            writeln!(
                formatter,
                "  {name:<34} p50 {p50_us:.0} p90 {p90_us:.0} p99 {p99_us:.0} p99.9 {p99_9_us:.0} max {max_us:.0} us"
            )?;
        }
        for note in &self.notes {
            writeln!(formatter, "  note: {note}")?;
        }
        for problem in &self.problems {
            writeln!(formatter, "  INVALID: {problem}")?;
        }
        Ok(())
    }
}

/// Formats the JSON of a report as text.
pub(crate) fn text(report: &Value) -> String {
    let mut text = format!("{}\n", report["scenario"].as_str().unwrap_or_default());
    for (name, value) in report["figures"].as_object().into_iter().flatten() {
        let _ = writeln!(text, "  {name:<34} {:>14}", readable(value.as_f64().unwrap_or(0.0)));
    }
    for (name, latency) in report["latencies"].as_object().into_iter().flatten() {
        let _ = write!(text, "  {name:<34}");
        for part in ["p50", "p90", "p99", "p99_9", "max"] {
            let us = latency[format!("{part}_us")].as_f64().unwrap_or(0.0);
            let _ = write!(text, " {} {us:.0}", part.replace('_', "."));
        }
        text.push_str(" us\n");
    }
    for (field, label) in [("notes", "note"), ("problems", "INVALID")] {
        for line in report[field].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let _ = writeln!(text, "  {label}: {line}");
        }
    }
    text
}

/// The command that repeats this process, without the path of the binary.
pub(crate) fn command_line() -> String {
    let words: Vec<String> = std::iter::once("loadtest".to_owned()).chain(std::env::args().skip(1)).collect();
    words.join(" ")
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
    use super::*;

    #[test]
    fn numbers_have_thousands_separators_or_three_decimals() {
        for (value, text) in [(0.0, "0"), (4.8765, "4.877"), (999.0, "999"), (50_000.0, "50,000"), (-1234.5, "-1,234")]
        {
            assert_eq!(readable(value), text);
        }
    }

    #[test]
    fn a_problem_makes_the_report_invalid_and_is_printed() {
        let mut report = Report::new("heartbeat");
        report.figure("sent", 12.0, "heartbeats");
        assert_eq!(report.to_json()["valid"], true);
        report.problems.push("one was lost".to_owned());
        assert_eq!(report.to_json()["valid"], false);
        assert!(report.to_string().contains("INVALID: one was lost"));
        assert_eq!(report.to_json()["figures"]["sent"], 12.0);
    }
}
