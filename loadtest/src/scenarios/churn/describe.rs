//! The figures of `churn`, `rooms` and `soak`.

use super::churn_run::ChurnRun;
use super::churning_members::ChurnCounts;
use super::observers::DeliveryCounts;
use crate::cli::ChurnArgs;
use crate::clients::lost_of;
use crate::procfs::NANOS_PER_MICRO;
use crate::report::Report;
use crate::scenarios::window::Window;

/// The limit of joins that an observer may miss: a server that stalls for longer than a stay does not announce it.
const MAX_MISSED_SHARE: f64 = 0.01;

const UNREQUESTED_SNAPSHOTS_NOTE: &str = "join_to_seen lacks joins that slow readers received as part of a snapshot";

impl ChurnRun {
    /// Figures about what was sent in the window.
    pub(crate) fn describe_churn(&self, args: &ChurnArgs, counts: &ChurnCounts, window: &Window, report: &mut Report) {
        let ChurnCounts { joins, leaves, blocked, late } = *counts;
        let seconds = window.length.as_secs_f64();
        let planned = 2.0 * f64::from(args.rate) * seconds;
        let unsent = (planned - (joins + leaves) as f64).floor().max(0.0);
        report.figure("observers", f64::from(args.observers), "each with a mirror");
        report.figure("planned_per_s", 2.0 * f64::from(args.rate), "joins and leaves that were due");
        report.figure("sent_per_s", (joins + leaves) as f64 / seconds, "joins and leaves that were sent");
        report.figure("late", late as f64, "sent more than 1 ms after they were due");
        report.figure("unsent", unsent, "due in the window and not sent");
        let meaning = "unsent because a socket was full, or the member had just joined or left";
        report.figure("blocked", blocked as f64, meaning);
        report.latency("send_delay", self.send_delay.summary());
    }

    /// Figures that are final only after the last change has reached the observers.
    pub(crate) fn describe_end(&self, report: &mut Report) {
        let join_times = &self.observers.join_times;
        let latency = join_times.latency.summary();
        report.figure(
            "joins_seen",
            latency.count as f64,
            "joins of the window, counted per observer that received them",
        );
        let never = join_times.overtaken + join_times.unseen() as u64;
        report.figure("joins_never_seen", never as f64, "joins that no observer received");
        if never > 0 {
            let problem = format!("{never} joins were received by no observer, so the latencies lack them");
            report.problems.push(problem);
        }
        if let Some(snapshots) = self.observers.mirrors.unrequested_snapshots() {
            let meaning = "snapshots that the server sent to slow readers instead of diffs";
            report.figure("unrequested_snapshots", snapshots as f64, meaning);
            report.notes.extend((snapshots > 0).then(|| UNREQUESTED_SNAPSHOTS_NOTE.to_owned()));
        }
        if let Some(seen) = self.observers.mirrors.joins_seen() {
            self.describe_missed(seen, report);
        }
        if let Some(repeated) = self.observers.mirrors.repeated_events() {
            report.figure("repeated_events", repeated as f64, "events that repeated what the observer knew; harmless");
        }
        report.latency("join_to_seen", latency);
        let problems = [
            self.observers.mirrors.errors().problem("messages contradict what observers received before"),
            self.observers.refusals.problem("messages were refused"),
            self.observers.lost.problem(&lost_of(self.clients.size)),
        ];
        report.problems.extend(problems.into_iter().flatten());
    }

    /// In protocols with single events, missing events leave no gap. But all observers are present all the time, so the
    /// number of events is known.
    fn describe_missed(&self, seen: u64, report: &mut Report) {
        let sent = self.members.counts.joins * self.observer_count as u64;
        let missed = sent.saturating_sub(seen) as f64;
        report.figure("joins_missed", missed, "joins that were sent, counted per observer that did not receive them");
        if missed > sent as f64 * MAX_MISSED_SHARE {
            report.problems.push(format!("observers did not receive {missed} of {sent} joins"));
        }
    }
}

/// Figures about what observers received in the window.
pub(crate) fn describe_deliveries(deliveries: &DeliveryCounts, window: &Window, report: &mut Report) {
    let DeliveryCounts { count, bytes, changes, observer_bytes } = *deliveries;
    report.figure("deliveries", count as f64, "presence messages received in the window");
    report.figure(
        "deliveries_per_s",
        count as f64 / window.length.as_secs_f64(),
        "changes and messages that observers received",
    );
    let per = |total: f64, of: u64| if of == 0 { 0.0 } else { total / of as f64 };
    report.figure("bytes_per_delivery", per(bytes as f64, count), "payload");
    report.figure("changes_delivered", changes as f64, "joins and leaves, counted per observer of their room");
    report.figure("bytes_per_change_and_observer", per(observer_bytes as f64, changes), "payload");
    let cost_us = |cpu_ns: u64| per(cpu_ns as f64 / NANOS_PER_MICRO, count);
    if let Some(server) = window.server {
        report.figure("server_cpu_per_delivery_us", cost_us(server.ran_ns), "all threads, user and kernel");
    }
    report.figure("generator_cpu_per_delivery_us", cost_us(window.own.ran_ns), "of this process");
    if count == 0 {
        report.problems.push("observers received nothing in the window".to_owned());
    }
}
