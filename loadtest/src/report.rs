//! The result of a run: figures whose names end in their unit, percentiles of latencies, and failed checks. Printed as
//! text, written as JSON; `compare`, `sweep` and `merge` read the JSON.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::latency::Summary;

pub(crate) use crate::report_text::{readable, text};

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
        let meanings: Map<String, Value> =
            self.figures.iter().map(|figure| (figure.name.to_owned(), json!(figure.meaning))).collect();
        let figure_names = self.figures.iter().map(|figure| figure.name);
        let order: Vec<&str> = figure_names.chain(self.latencies.iter().map(|(name, _)| *name)).collect();
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
            "meanings": meanings,
            "order": order,
            "latencies": latencies,
            "series": series,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&text(&self.to_json()))
    }
}

/// The command that repeats this process, without the path of the binary.
pub(crate) fn command_line() -> String {
    let words: Vec<String> = std::iter::once("loadtest".to_owned()).chain(std::env::args().skip(1)).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
