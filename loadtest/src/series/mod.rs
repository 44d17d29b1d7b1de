//! `sweep` and `compare`: one scenario many times, over sizes and servers in turn. Each run is made by this process and
//! checked like any other; a run that cannot be made ends the series, with what there is.

mod summary;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow, bail};
use clap::Parser as _;
use serde_json::{Value, json};

use crate::cli::{Args, CompareArgs, ManyArgs, Over, Peer, Scenario, SweepArgs, UsageError};
use crate::interrupt::Interrupt;
use crate::protocol::Protocol;
use crate::report::command_line;
use crate::scenarios;
pub(crate) use summary::text;

/// How often Ctrl-C is looked at between runs.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Runs to make, all of them understood before the first is made.
struct Plan<'a> {
    kind: &'static str,
    many: &'a ManyArgs,
    rounds: u32,
    over: Option<&'a Over>,
    /// Empty: the one that the scenario's own options name, which stands in tables as `name`.
    peers: &'a [Peer],
    name: &'a str,
}

/// One run of the plan.
struct Step {
    /// What stands for this server in tables.
    server: String,
    value: Option<String>,
    round: u32,
    words: Vec<String>,
    scenario: Scenario,
}

/// What came of it, and what ended it early if something did.
pub(crate) struct Outcome {
    pub(crate) series: Value,
    pub(crate) failure: Option<anyhow::Error>,
}

pub(crate) fn sweep(args: &SweepArgs, interrupt: &Interrupt) -> Result<Outcome> {
    let SweepArgs { over, rounds, name, many } = args;
    Plan { kind: "sweep", many, rounds: *rounds, over: Some(over), peers: &[], name }.run(interrupt)
}

pub(crate) fn compare(args: &CompareArgs, interrupt: &Interrupt) -> Result<Outcome> {
    let CompareArgs { servers, rounds, over, many } = args;
    Plan { kind: "compare", many, rounds: *rounds, over: over.as_ref(), peers: servers, name: "" }.run(interrupt)
}

impl Plan<'_> {
    fn run(&self, interrupt: &Interrupt) -> Result<Outcome> {
        let steps = self.steps()?;
        let started_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let mut runs = Vec::new();
        let mut failure = None;
        for (number, step) in steps.iter().enumerate() {
            if number > 0 {
                pause(self.many.pause, interrupt);
            }
            if interrupt.is_asked() {
                break;
            }
            eprintln!("run {} of {}: {}", number + 1, steps.len(), step.words.join(" "));
            match scenarios::run(&step.scenario, interrupt) {
                Ok(mut report) => {
                    report.command = step.words.join(" ");
                    let mut run = json!({ "server": step.server, "round": step.round, "report": report.to_json() });
                    if let Some(value) = &step.value {
                        run["value"] = number_or_text(value);
                    }
                    runs.push(run);
                }
                // A run that Ctrl-C found too early is missing, and no failure.
                Err(_) if interrupt.is_asked() => break,
                Err(error) => {
                    failure = Some(error.context(format!("run {} of {}", number + 1, steps.len())));
                    break;
                }
            }
        }
        if runs.is_empty() {
            return Err(failure.unwrap_or_else(|| anyhow!("interrupted before the first run was done")));
        }
        Ok(Outcome { series: self.series(&steps, &runs, started_ms), failure })
    }

    fn series(&self, steps: &[Step], runs: &[Value], started_ms: u64) -> Value {
        let problems: Vec<String> = runs.iter().flat_map(problems_of).collect();
        let summary = summary::summarize(runs);
        json!({
            "loadtest": env!("CARGO_PKG_VERSION"),
            "scenario": self.kind,
            "of": self.many.scenario[0],
            "command": command_line(),
            "started_unix_ms": started_ms,
            "over": self.over.map(|over| over.option.as_str()),
            "rounds": self.rounds,
            "planned_runs": steps.len(),
            "ended_early": runs.len() < steps.len(),
            "valid": problems.is_empty(),
            "problems": problems,
            "notes": notes_of(runs),
            "summary": summary,
            "runs": runs,
        })
    }

    /// Sizes one after the other; within a size round by round; within a round each server once.
    fn steps(&self) -> Result<Vec<Step>> {
        let values: Vec<Option<&String>> = match self.over {
            Some(over) => over.values.iter().map(Some).collect(),
            None => vec![None],
        };
        let peers: Vec<Option<&Peer>> =
            if self.peers.is_empty() { vec![None] } else { self.peers.iter().map(Some).collect() };
        let mut steps = Vec::new();
        for value in &values {
            for round in 1..=self.rounds {
                for peer in &peers {
                    steps.push(self.step(*peer, *value, round)?);
                }
            }
        }
        Ok(steps)
    }

    fn step(&self, peer: Option<&Peer>, value: Option<&String>, round: u32) -> Result<Step> {
        let mut words = self.many.scenario.clone();
        if let (Some(over), Some(value)) = (self.over, value) {
            set_option(&mut words, &over.option, value);
        }
        if let Some(peer) = peer {
            set_option(&mut words, "url", &peer.url);
            let pids: Vec<String> = peer.pids.iter().map(u32::to_string).collect();
            if !pids.is_empty() {
                set_option(&mut words, "pid", &pids.join(","));
            }
            if let Some(protocol) = peer.protocol {
                set_option(&mut words, "protocol", Protocol::name(protocol));
            }
        }
        words.insert(0, "loadtest".to_owned());
        let scenario = Args::try_parse_from(&words)
            .map_err(|error| UsageError(format!("{}: {}", words.join(" "), error.render())))?
            .scenario;
        if !scenario.makes_one_run() {
            return Err(UsageError(format!("{} cannot be part of a {}", words[1], self.kind)).into());
        }
        let server = peer.map_or(self.name, |peer| &peer.name).to_owned();
        Ok(Step { server, value: value.cloned(), round, words, scenario })
    }
}

/// Series that were made one after the other, for example each server on its own, as one. Rounds are counted anew: the n-th
/// run of a server at a size is round n.
pub(crate) fn join(series: &[Value]) -> Result<Value> {
    let mut joined = series[0].clone();
    for field in ["of", "over"] {
        if series.iter().any(|one| one[field] != joined[field]) {
            bail!("the series differ in {field:?}: only those of one scenario over one option can be joined");
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
        joined["command"] = json!(format!("{} … and {} more like it", summary::plain(&first["command"]), others.len()));
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

/// Gives the option this value, whatever was there before.
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

/// Each note once, with the number of runs that it is about.
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
    while !interrupt.is_asked() {
        let left = length.saturating_sub(started.elapsed());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(LOOK_EVERY));
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

    fn of_one(server: &str, cost: f64, over: &str) -> Value {
        let report = json!({ "figures": { "cost": cost }, "problems": [], "notes": ["noisy"] });
        let run = json!({ "server": server, "round": 1, "value": 100.0, "report": report });
        json!({ "scenario": "compare", "of": "idle", "over": over, "planned_runs": 1, "ended_early": false, "runs": [run] })
    }

    #[test]
    fn series_that_belong_together_become_one() {
        let parts = [("floor", 2.0), ("ours", 3.0), ("floor", 4.0), ("ours", 5.0)];
        let parts = parts.map(|(server, cost)| of_one(server, cost, "connections"));
        let joined = join(&parts).unwrap();
        assert_eq!((joined["rounds"].as_u64(), joined["planned_runs"].as_u64()), (Some(2), Some(4)));
        assert_eq!(joined["notes"], json!(["4 of 4 runs: noisy"]));
        let ours = &joined["summary"][1];
        assert_eq!(ours["server"], "ours");
        assert_eq!(
            ours["ratio"],
            json!({ "median": 1.375, "min": 1.25, "max": 1.5, "runs": 2 }),
            "of the runs of a round"
        );
        let error = join(&[of_one("a", 1.0, "connections"), of_one("a", 1.0, "rate")]).unwrap_err();
        assert!(error.to_string().contains("\"over\""), "{error}");
    }

    #[test]
    fn an_option_is_set_or_replaced() {
        check("idle", "url", "ws://a", "idle --url ws://a");
        check("idle --url ws://b --rooms 2", "url", "ws://a", "idle --rooms 2 --url ws://a");
        check("idle --url=ws://b --rooms 2", "url", "ws://a", "idle --rooms 2 --url ws://a");
        check("idle --url", "url", "ws://a", "idle --url ws://a");
    }
}
