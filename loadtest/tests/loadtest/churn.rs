//! `churn` and `rooms` against the real server, straight and through a proxy that makes it a broken one: what is shown
//! must be the truth, and what is not must be found.

use crate::children::{Finished, json_file, loadtest, read_json, spawn};
use crate::engine;
use crate::proxy::{self, Fault};

fn churn(url: &str, more: &[&str]) -> Finished {
    let mut arguments = vec!["churn", "--url", url, "--warm-up", "300ms", "--connect-timeout", "60s"];
    arguments.extend_from_slice(more);
    if !more.contains(&"--duration") {
        arguments.extend_from_slice(&["--duration", "1500ms"]);
    }
    if !more.contains(&"--observers") {
        arguments.extend_from_slice(&["--observers", "20"]);
    }
    if !more.contains(&"--patience") {
        arguments.extend_from_slice(&["--patience", "60s"]);
    }
    // Each stays longer than the run lasts, so that a lost leave is not made good by the next.
    arguments.extend_from_slice(&["--members", "60", "--rate", "20"]);
    loadtest(&arguments)
}

fn churn_through(fault: Fault) -> Finished {
    let url = proxy::start(&engine::start(&[]), fault);
    churn(&url, &["--patience", "2s"])
}

#[test]
fn all_observers_see_all_joins() {
    let file = json_file("all_observers_see_all_joins");
    churn(&engine::start(&[]), &["--json", &file]).expect(0, "join_to_seen");
    let report = read_json(&file);
    let figure = |name: &str| report["figures"][name].as_f64().unwrap_or_else(|| panic!("{name} is missing"));
    assert!(figure("deliveries") >= 20.0, "{report:#}");
    assert_eq!(figure("joins_never_seen"), 0.0, "{report:#}");
    assert_eq!(figure("rooms_wrong"), 0.0);
    assert!(figure("server_cpu_per_delivery_us") > 0.0, "without --pid the server tells its cost");
    for unknown in ["server_waited_cores", "repeated"] {
        assert!(report["figures"][unknown].is_null(), "nobody tells {unknown}");
    }
    // Each join of the window was seen by each observer, and no other was counted.
    assert_eq!(figure("joins_seen") % 20.0, 0.0, "{report:#}");
    assert_eq!(report["latencies"]["join_to_seen"]["count"].as_f64(), Some(figure("joins_seen")));
}

#[test]
fn observers_at_another_node_are_judged_by_that_node() {
    // Two servers that know nothing of each other: who joins at one is never shown at the other.
    let (url, other) = (engine::start(&[]), engine::start(&[]));
    churn(&url, &["--observe-url", &other, "--patience", "300ms"]).expect(1, "lobby does not hold who has joined");
    let url = engine::start(&[]);
    churn(&url, &["--observe-url", &url]).expect(0, "join_to_seen");
}

#[test]
fn dialects_of_single_events_are_mirrored_too() {
    for protocol in ["status", "chat"] {
        churn(&engine::start(&[]), &["--protocol", protocol]).expect(0, "join_to_seen");
    }
}

#[test]
fn the_last_joins_are_waited_for_without_verification_too() {
    churn(&engine::start(&["--tick", "500ms"]), &["--no-verify"]).expect(0, "--no-verify");
}

#[test]
fn observers_that_are_present_follow_snapshots_in_pages() {
    let arguments = ["--observers", "1200", "--observers-join", "--in-flight", "64"];
    churn(&engine::start(&["--tick", "20ms"]), &arguments).expect(0, "join_to_seen");
}

#[test]
fn many_rooms_are_all_verified() {
    let file = json_file("many_rooms_are_all_verified");
    let url = engine::start(&[]);
    let size = ["--rooms", "15", "--observers", "40", "--members", "91", "--rate", "30", "--patience", "60s"];
    let mut arguments = vec!["rooms", "--url", &url, "--duration", "1s", "--warm-up", "200ms", "--json", &file];
    arguments.extend_from_slice(&size);
    loadtest(&arguments).expect(0, "rooms: window");
    let report = read_json(&file);
    assert_eq!(report["figures"]["rooms_wrong"], 0.0);
    assert_eq!(report["settings"]["rooms"], 15);
}

#[test]
fn full_lists_are_compared_too() {
    let url = engine::start(&["--ttl", "5s", "--tick", "50ms"]);
    let arguments = ["--protocol", "online-users", "--heartbeat-every", "500ms", "--patience", "60s"];
    churn(&url, &arguments).expect(0, "join_to_seen");
}

#[test]
fn a_proxy_that_passes_everything_changes_nothing() {
    churn_through(Fault::None).expect(0, "join_to_seen");
}

#[test]
fn a_skipped_seq_is_found() {
    churn_through(Fault::SkipsOneSeq).expect(2, "came after");
}

#[test]
fn a_dropped_leave_is_found() {
    churn_through(Fault::DropsOneLeave).expect(2, "INVALID: ");
}

#[test]
fn a_ghost_is_found() {
    churn_through(Fault::SwallowsALeave).expect(2, "is a ghost");
}

#[test]
fn who_only_comes_and_goes_again_is_missed_all_the_same() {
    let url = proxy::start(&engine::start(&[]), Fault::SwallowsALeave);
    let mut arguments = vec!["churn", "--url", &url, "--warm-up", "300ms", "--duration", "1500ms"];
    arguments.extend_from_slice(&["--observers", "20", "--members", "10", "--rate", "20"]);
    loadtest(&arguments).expect(2, "never shown");
}

#[test]
fn a_server_that_stops_midway_ends_the_run() {
    let (url, stop) = engine::start_until_told(&["--drain", "300ms"]);
    let mut child = spawn(&["churn", "--url", &url, "--observers", "5", "--warm-up", "0s", "--duration", "50s"]);
    child.wait_for("churn ");
    drop(stop);
    child.finish().expect(1, "all connections were lost");
}

#[test]
fn ctrl_c_ends_early_with_the_report_and_the_checks() {
    let url = engine::start(&[]);
    let mut child = spawn(&["churn", "--url", &url, "--observers", "5", "--warm-up", "0s", "--duration", "50s"]);
    child.wait_for("churn ");
    child.interrupt();
    let finished = child.finish().expect(0, "ended early");
    assert!(finished.stdout.contains("rooms_wrong"), "{}", finished.stdout);
}

#[test]
fn those_who_are_there_already_are_not_taken_for_ours() {
    // Somebody else uses the names: the first client of this crowd is there all the time.
    let url = engine::start(&[]);
    let mut crowd = spawn(&["idle", "--url", &url, "--connections", "150", "--duration", "50s"]);
    crowd.wait_for("connecting done");
    let finished = churn(&url, &["--patience", "300ms"]);
    crowd.interrupt();
    drop(crowd.finish());
    finished.expect(1, "give --first-user");
}
