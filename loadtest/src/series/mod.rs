//! `sweep` and `compare`: run one scenario many times, with several sizes or against several servers in turn. Each run
//! is checked like any other. If a run fails, the series ends with the runs that were completed.

mod summary;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow, bail};
use clap::Parser as _;
use serde_json::{Value, json};

use crate::cli::{Args, CompareArgs, OptionValues, Scenario, SeriesArgs, ServerSpec, SweepArgs, UsageError};
use crate::interrupt::Interrupt;
use crate::protocol::Protocol;
use crate::report::command_line;
use crate::scenarios;
pub(crate) use summary::text;

/// How often Ctrl-C is checked between runs.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The runs of a series. All of them are parsed before the first one starts.
struct SeriesPlan<'a> {
    kind: &'static str,
    args: &'a SeriesArgs,
    rounds: u32,
    over: Option<&'a OptionValues>,
    /// Empty: the server that the scenario's own options name, under `name`.
    servers: &'a [ServerSpec],
    name: &'a str,
}

/// One run of the plan.
struct PlannedRun {
    /// The server's name in tables.
    server: String,
    value: Option<String>,
    round: u32,
    words: Vec<String>,
    scenario: Scenario,
}

/// The completed runs, and the error that ended the series early.
pub(crate) struct SeriesOutcome {
    pub(crate) series: Value,
    pub(crate) failure: Option<anyhow::Error>,
}

pub(crate) fn sweep(args: &SweepArgs, interrupt: &Interrupt) -> Result<SeriesOutcome> {
    let SweepArgs { over, rounds, name, series } = args;
    SeriesPlan { kind: "sweep", args: series, rounds: *rounds, over: Some(over), servers: &[], name }.run(interrupt)
}

pub(crate) fn compare(args: &CompareArgs, interrupt: &Interrupt) -> Result<SeriesOutcome> {
    let CompareArgs { servers, rounds, over, series } = args;
    let plan = SeriesPlan { kind: "compare", args: series, rounds: *rounds, over: over.as_ref(), servers, name: "" };
    plan.run(interrupt)
}

impl SeriesPlan<'_> {
    fn run(&self, interrupt: &Interrupt) -> Result<SeriesOutcome> {
        let planned = self.planned_runs()?;
        let started_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let mut runs = Vec::new();
        let mut failure = None;
        for (number, run) in planned.iter().enumerate() {
            if number > 0 {
                pause(self.args.pause, interrupt);
            }
            if interrupt.is_requested() {
                break;
            }
            eprintln!("run {} of {}: {}", number + 1, planned.len(), run.words.join(" "));
            match run.execute(interrupt) {
                Ok(done) => runs.push(done),
                // A run that Ctrl-C interrupts before its window is left out; this is not a failure.
                Err(_) if interrupt.is_requested() => break,
                Err(error) => {
                    failure = Some(error.context(format!("run {} of {}", number + 1, planned.len())));
                    break;
                }
            }
        }
        if runs.is_empty() {
            return Err(failure.unwrap_or_else(|| anyhow!("interrupted before the first run was complete")));
        }
        Ok(SeriesOutcome { series: self.series(&planned, &runs, started_ms), failure })
    }

    fn series(&self, planned: &[PlannedRun], runs: &[Value], started_ms: u64) -> Value {
        let problems: Vec<String> = runs.iter().flat_map(problems_of).collect();
        let summary = summary::summarize(runs);
        json!({
            "loadtest": env!("CARGO_PKG_VERSION"),
            "scenario": self.kind,
            "of": self.args.scenario[0],
            "command": command_line(),
            "started_unix_ms": started_ms,
            "over": self.over.map(|over| over.option.as_str()),
            "rounds": self.rounds,
            "planned_runs": planned.len(),
            "ended_early": runs.len() < planned.len(),
            "valid": problems.is_empty(),
            "problems": problems,
            "notes": notes_of(runs),
            "summary": summary,
            "runs": runs,
        })
    }

    /// For each size, for each round: one run against each server.
    fn planned_runs(&self) -> Result<Vec<PlannedRun>> {
        let values: Vec<Option<&String>> = match self.over {
            Some(over) => over.values.iter().map(Some).collect(),
            None => vec![None],
        };
        let servers: Vec<Option<&ServerSpec>> =
            if self.servers.is_empty() { vec![None] } else { self.servers.iter().map(Some).collect() };
        let mut planned = Vec::new();
        for value in &values {
            for round in 1..=self.rounds {
                for server in &servers {
                    planned.push(self.planned_run(*server, *value, round)?);
                }
            }
        }
        Ok(planned)
    }

    fn planned_run(&self, server: Option<&ServerSpec>, value: Option<&String>, round: u32) -> Result<PlannedRun> {
        let mut words = self.args.scenario.clone();
        if let (Some(over), Some(value)) = (self.over, value) {
            set_option(&mut words, &over.option, value);
        }
        if let Some(server) = server {
            set_option(&mut words, "url", &server.url);
            let pids: Vec<String> = server.pids.iter().map(u32::to_string).collect();
            if !pids.is_empty() {
                set_option(&mut words, "pid", &pids.join(","));
            }
            if let Some(protocol) = server.protocol {
                set_option(&mut words, "protocol", Protocol::name(protocol));
            }
        }
        words.insert(0, "loadtest".to_owned());
        let scenario = Args::try_parse_from(&words)
            .map_err(|error| UsageError(format!("{}: {}", words.join(" "), error.render())))?
            .scenario;
        if !scenario.is_single_run() {
            return Err(UsageError(format!("{} cannot be part of a {}", words[1], self.kind)).into());
        }
        let server = server.map_or(self.name, |server| &server.name).to_owned();
        Ok(PlannedRun { server, value: value.cloned(), round, words, scenario })
    }
}

impl PlannedRun {
    fn execute(&self, interrupt: &Interrupt) -> Result<Value> {
        let mut report = scenarios::run(&self.scenario, interrupt)?;
        report.command = self.words.join(" ");
        let mut run = json!({ "server": self.server, "round": self.round, "report": report.to_json() });
        if let Some(value) = &self.value {
            run["value"] = number_or_text(value);
        }
        Ok(run)
    }
}

/// Joins series that were run one after the other, for example one per server. Rounds are renumbered: the n-th run of a
/// server with a size is round n.
pub(crate) fn join(series: &[Value]) -> Result<Value> {
    let mut joined = series[0].clone();
    for field in ["of", "over"] {
        if series.iter().any(|one| one[field] != joined[field]) {
            bail!("the series differ in {field:?}: only series of one scenario and one option can be joined");
        }
    }
    let mut runs: Vec<Value> = Vec::new();
    for mut run in series.iter().flat_map(|one| one["runs"].as_array().cloned().unwrap_or_default()) {
        let same = |other: &&Value| other["server"] == run["server"] && other["value"] == run["value"];
        run["round"] = json!(runs.iter().filter(same).count() + 1);
        runs.push(run);
    }
    let number = |one: &Value| one["planned_runs"].as_u64().unwrap_or(0);
    let problems: Vec<String> = runs.iter().flat_map(problems_of).collect();
    if let [first, others @ ..] = series
        && !others.is_empty()
    {
        joined["command"] = json!(format!("{} … and {} more", summary::plain(&first["command"]), others.len()));
    }
    joined["rounds"] = json!(runs.iter().filter_map(|run| run["round"].as_u64()).max());
    joined["planned_runs"] = json!(series.iter().map(number).sum::<u64>());
    joined["ended_early"] = json!(series.iter().any(|one| one["ended_early"] == true));
    joined["valid"] = json!(problems.is_empty());
    joined["problems"] = json!(problems);
    joined["notes"] = json!(notes_of(&runs));
    joined["summary"] = json!(summary::summarize(&runs));
    joined["runs"] = json!(runs);
    Ok(joined)
}

/// Sets an option, replacing any earlier value.
fn set_option(words: &mut Vec<String>, option: &str, value: &str) {
    let flag = format!("--{option}");
    let with_value = format!("{flag}=");
    while let Some(at) = words.iter().position(|word| *word == flag || word.starts_with(&with_value)) {
        let count = if words[at] == flag { 2 } else { 1 };
        words.drain(at..(at + count).min(words.len()));
    }
    words.extend([flag, value.to_owned()]);
}

fn number_or_text(value: &str) -> Value {
    value.parse::<f64>().map_or_else(|_| json!(value), |number| json!(number))
}

fn problems_of(run: &Value) -> Vec<String> {
    let place = match &run["value"] {
        Value::Null => format!("{} round {}", summary::plain(&run["server"]), run["round"]),
        value => format!("{} {} round {}", summary::plain(&run["server"]), summary::plain(value), run["round"]),
    };
    let problems = run["report"]["problems"].as_array().cloned().unwrap_or_default();
    problems.iter().map(|problem| format!("{place}: {}", summary::plain(problem))).collect()
}

/// Each note once, with the number of runs that have it.
fn notes_of(runs: &[Value]) -> Vec<String> {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for note in runs.iter().flat_map(|run| run["report"]["notes"].as_array().into_iter().flatten()) {
        let note = summary::plain(note);
        match counted.iter_mut().find(|(known, _)| *known == note) {
            Some((_, count)) => *count += 1,
            None => counted.push((note, 1)),
        }
    }
    counted.into_iter().map(|(note, count)| format!("{count} of {} runs: {note}", runs.len())).collect()
}

fn pause(length: Duration, interrupt: &Interrupt) {
    let started = Instant::now();
    while !interrupt.is_requested() {
        let left = length.saturating_sub(started.elapsed());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(POLL_INTERVAL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, option: &str, value: &str, expected: &str) {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        set_option(&mut words, option, value);
        assert_eq!(words.join(" "), expected);
    }

    fn series_of_one_run(server: &str, cost: f64, over: &str) -> Value {
        let report = json!({ "figures": { "cost": cost }, "problems": [], "notes": ["noisy"] });
        let run = json!({ "server": server, "round": 1, "value": 100.0, "report": report });
        json!({ "scenario": "compare", "of": "idle", "over": over, "planned_runs": 1, "ended_early": false, "runs": [run] })
    }

    #[test]
    fn series_of_one_scenario_and_option_are_joined() {
        let parts = [("floor", 2.0), ("ours", 3.0), ("floor", 4.0), ("ours", 5.0)];
        let parts = parts.map(|(server, cost)| series_of_one_run(server, cost, "connections"));
        let joined = join(&parts).unwrap();
        assert_eq!((joined["rounds"].as_u64(), joined["planned_runs"].as_u64()), (Some(2), Some(4)));
        assert_eq!(joined["notes"], json!(["4 of 4 runs: noisy"]));
        let ours = &joined["summary"][1];
        assert_eq!(ours["server"], "ours");
        assert_eq!(
            ours["ratio"],
            json!({ "median": 1.375, "min": 1.25, "max": 1.5, "runs": 2 }),
            "ratios are taken within a round"
        );
        let error =
            join(&[series_of_one_run("a", 1.0, "connections"), series_of_one_run("a", 1.0, "rate")]).unwrap_err();
        assert!(error.to_string().contains("\"over\""), "{error}");
    }

    #[test]
    fn an_option_is_added_or_replaced() {
        check("idle", "url", "ws://a", "idle --url ws://a");
        check("idle --url ws://b --rooms 2", "url", "ws://a", "idle --rooms 2 --url ws://a");
        check("idle --url=ws://b --rooms 2", "url", "ws://a", "idle --rooms 2 --url ws://a");
        check("idle --url", "url", "ws://a", "idle --url ws://a");
    }
}
