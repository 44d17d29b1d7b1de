//! Attacks, one after the other, each next to honest clients. The result is a row per attack: what the attacker spent,
//! what the server spent, their ratio, and which guarantees honest clients lost.

use std::fmt::Write as _;
use std::time::Duration;

use adversary::{KINDS, Kind, Outcome, Plan, Size};
use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value, json};

use crate::cli::{AdversaryArgs, UsageError};
use crate::interrupt::Interrupt;
use crate::limits;
use crate::report::{command_line, readable};
use crate::target::Target;

/// Allocators keep freed memory, so a growth of less than this is not distinguished from none.
const NOISE_BYTES: u64 = 1 << 20;
/// How long honest clients wait at the end for what they have not yet received.
const PATIENCE: Duration = Duration::from_secs(5);

/// All attacks, for `--list`.
pub(crate) fn list() -> String {
    let mut text = String::new();
    for kind in KINDS {
        let needs = match (kind.needs_redis, kind.needs_tokens) {
            (true, _) => " (needs --redis)",
            (false, true) => " (needs --jwt-secret)",
            (false, false) => "",
        };
        let _ = writeln!(text, "{:<4} {:<20} {}{needs}", kind.id, kind.name, kind.about);
    }
    text
}

/// Runs the attacks.
pub(crate) fn run(args: &AdversaryArgs, interrupt: &Interrupt) -> Result<Value> {
    args.check()?;
    limits::raise_descriptors()?;
    let target = Target::resolve(&args.url)?;
    if !target.base_path.is_empty() {
        bail!("{}: attacks need the root path", args.url);
    }
    let kinds = chosen(args)?;
    let plan = |kind: &Kind| Plan {
        server: target.address,
        pid: args.pid,
        redis: args.redis,
        credentials: args.credentials(),
        size: Size::new(args.share, args.seed ^ kind.name.len() as u64),
        duration: args.duration,
        calm: args.calm,
        limit: args.timeout,
        patience: PATIENCE.max(args.max_wait),
    };
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    let mut heartbeat_ns = 0.0;
    for kind in kinds {
        if interrupt.is_requested() {
            break;
        }
        let plan = plan(kind);
        // Again before each attack, because machines slow down and speed up.
        heartbeat_ns = adversary::calibrate(&plan).map_err(|error| anyhow!("{error}"))?;
        eprintln!("{}: {}", kind.name, kind.about);
        match adversary::run(kind, &plan) {
            Ok(outcome) => {
                let lost = lost(&outcome, args);
                problems.extend(lost.iter().map(|what| format!("{}: {what}", kind.name)));
                rows.push(row(kind, &outcome, heartbeat_ns, &lost));
            }
            Err(error) => {
                problems.push(format!("{}: {error}", kind.name));
                rows.push(json!({"id": kind.id, "attack": kind.name, "about": kind.about, "lost": [error]}));
            }
        }
    }
    over_ratio(args, &rows, &mut problems);
    Ok(json!({
        "loadtest": env!("CARGO_PKG_VERSION"),
        "scenario": "adversary",
        "command": command_line(),
        "settings": {"duration_s": args.duration.as_secs_f64(), "share": args.share, "seed": args.seed},
        "heartbeat_ns_per_byte": heartbeat_ns,
        "valid": problems.is_empty(),
        "problems": problems,
        "rows": rows,
    }))
}

fn chosen(args: &AdversaryArgs) -> Result<Vec<&'static Kind>> {
    let matches = |kind: &Kind, word: &String| kind.name == word || kind.id.eq_ignore_ascii_case(word);
    for word in &args.attacks {
        if !KINDS.iter().any(|kind| matches(kind, word)) {
            return Err(UsageError(format!("{word:?} is not an attack; `loadtest adversary --list` names them")).into());
        }
    }
    let is_chosen = |kind: &&Kind| args.attacks.is_empty() || args.attacks.iter().any(|word| matches(kind, word));
    let is_possible = |kind: &&Kind| {
        (!kind.needs_redis || args.redis.is_some()) && (!kind.needs_tokens || args.credentials().is_some())
    };
    let kinds: Vec<_> = KINDS.iter().filter(is_chosen).filter(is_possible).collect();
    if kinds.is_empty() {
        return Err(UsageError("these attacks need --redis, or --jwt-secret and --read-key".to_owned()).into());
    }
    Ok(kinds)
}

/// Guarantees that honest clients lost.
fn lost(outcome: &Outcome, args: &AdversaryArgs) -> Vec<String> {
    let mut lost: Vec<String> =
        outcome.broken.iter().map(|broken| format!("{} ({} times)", broken.what, broken.times)).collect();
    if (outcome.ticks as f64) < outcome.expected_ticks * args.min_ticks {
        lost.push(format!("{} of {:.0} ticks were completed", outcome.ticks, outcome.expected_ticks));
    }
    for (kind, waits) in &outcome.waits {
        let missing = waits.0.iter().filter(|(_, end)| end.is_none()).count();
        if missing > 0 {
            lost.push(format!("{missing} of {} waits for a {kind} did not end", waits.0.len()));
        }
        let longest = longest(waits);
        if longest > args.max_wait {
            lost.push(format!("the longest wait for a {kind} was {} ms", longest.as_millis()));
        }
    }
    if outcome.settled_in.is_none() {
        lost.push("the server was still busy when the limit was over".to_owned());
    }
    lost
}

fn longest(waits: &adversary::Waits) -> Duration {
    waits.0.iter().filter_map(|(begin, end)| end.map(|end| end - *begin)).max().unwrap_or_default()
}

fn row(kind: &Kind, outcome: &Outcome, heartbeat_ns: f64, lost: &[String]) -> Value {
    let waits: Map<String, Value> =
        outcome.waits.iter().map(|(kind, waits)| ((*kind).to_owned(), describe(waits))).collect();
    let traffic = &outcome.traffic;
    json!({
        "id": kind.id,
        "attack": kind.name,
        "about": kind.about,
        "length_s": outcome.length.as_secs_f64(),
        "settled_in_s": outcome.settled_in.map(|time| time.as_secs_f64()),
        "attacker": {
            "sent_bytes": traffic.sent_bytes,
            "received_bytes": traffic.received_bytes,
            "subscribed_bytes": traffic.subscribed_bytes,
            "connections": traffic.connections,
            "closed": traffic.closed,
            "closed_try_again": traffic.closed_try_again,
            "refused": traffic.refused,
            "errors": traffic.errors,
        },
        "server": {
            "requested_bytes": outcome.requested_bytes(),
            "redis_bytes": outcome.redis_bytes,
            "memory_before_bytes": outcome.memory_bytes,
            "memory_peak_bytes": outcome.peak_bytes,
            "memory_growth_bytes": outcome.memory_growth(NOISE_BYTES),
            "cpu_ns": outcome.cpu_ns,
            "heartbeat_ns_per_byte": heartbeat_ns,
            "ticks": outcome.ticks,
            "expected_ticks": outcome.expected_ticks,
            "longest_answer_ms": outcome.answer.as_millis() as u64,
        },
        "steady": outcome.steady.map(|part| json!({
            "sent_bytes": part.sent_bytes,
            "requested_bytes": part.requested_bytes,
            "redis_bytes": part.redis_bytes,
            "memory_growth_bytes": part.memory_growth,
            "cpu_ns": part.cpu_ns,
        })),
        "bytes_ratio": outcome.bytes_ratio(NOISE_BYTES),
        "cpu_ratio": outcome.cpu_ratio(heartbeat_ns),
        "steady_bytes_ratio": outcome.steady_bytes_ratio(NOISE_BYTES),
        "steady_cpu_ratio": outcome.steady_cpu_ratio(heartbeat_ns),
        "honest": waits,
        "lost": lost,
    })
}

fn describe(waits: &adversary::Waits) -> Value {
    let mut ended: Vec<u64> =
        waits.0.iter().filter_map(|(begin, end)| end.map(|end| (end - *begin).as_millis() as u64)).collect();
    ended.sort_unstable();
    let at = |share: f64| ended.get((ended.len() as f64 * share) as usize).or(ended.last()).copied();
    json!({"waits": waits.0.len(), "ended": ended.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": ended.last()})
}

fn over_ratio(args: &AdversaryArgs, rows: &[Value], problems: &mut Vec<String>) {
    let Some(limit) = args.max_ratio else { return };
    for row in rows {
        for (name, unit) in [("steady_bytes_ratio", "bytes"), ("steady_cpu_ratio", "CPU time")] {
            if let Some(ratio) = row[name].as_f64().filter(|ratio| *ratio > limit) {
                let attack = row["attack"].as_str().unwrap_or_default();
                problems.push(format!("{attack}: {} times as much {unit} as the attacker", readable(ratio)));
            }
        }
    }
}

/// The result as text.
pub(crate) fn text(trials: &Value) -> String {
    let empty = Vec::new();
    let rows = trials["rows"].as_array().unwrap_or(&empty);
    let problems = trials["problems"].as_array().unwrap_or(&empty);
    let verdict = if problems.is_empty() { "HELD" } else { "LOST" };
    let mut text = format!("adversary: {verdict}, {} attacks, {} problems\n", rows.len(), problems.len());
    let _ = writeln!(
        text,
        "  {:<4} {:<20} {:>12} {:>10} {:>10} {:>10} {:>10} {:>9} {:>12} {:>10}",
        "row", "attack", "sent, bytes", "bytes, x", "steady", "CPU, x", "steady", "ticks, %", "memory, MiB", "join, ms"
    );
    for row in rows {
        let number = |value: &Value| value.as_f64().map_or("-".to_owned(), readable);
        let server = &row["server"];
        let ratio = |name: &str| row[name].as_f64().map_or("-".to_owned(), |ratio| format!("{ratio:.1}"));
        let ticks = server["ticks"].as_f64().zip(server["expected_ticks"].as_f64());
        let memory = server["memory_growth_bytes"].as_f64().map(|bytes| (bytes / (1 << 20) as f64).round());
        let _ = writeln!(
            text,
            "  {:<4} {:<20} {:>12} {:>10} {:>10} {:>10} {:>10} {:>9} {:>12} {:>10}",
            row["id"].as_str().unwrap_or_default(),
            row["attack"].as_str().unwrap_or_default(),
            number(&row["attacker"]["sent_bytes"]),
            ratio("bytes_ratio"),
            ratio("steady_bytes_ratio"),
            ratio("cpu_ratio"),
            ratio("steady_cpu_ratio"),
            ticks.map_or("-".to_owned(), |(done, all)| format!("{:.0}", 100.0 * done / all.max(1.0))),
            memory.map_or("-".to_owned(), readable),
            number(&row["honest"]["join"]["max_ms"]),
        );
    }
    for problem in problems {
        let _ = writeln!(text, "  LOST: {}", problem.as_str().unwrap_or_default());
    }
    text.push_str(
        "  bytes, x: requested replies, Redis traffic and peak memory per byte of the attacker\n  \
         CPU, x: CPU time of the server, compared with that for as many bytes of honest heartbeats\n  \
         steady: without the beginning, in which budgets allow a burst and attacks prepare themselves\n  \
         join, ms: the longest time from the join of an honest client until another has seen it\n",
    );
    text
}
