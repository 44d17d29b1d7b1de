//! `churn` and `rooms` against the real server, directly and through a proxy that injects faults: a correct server
//! passes the checks, and each fault is found.

use crate::children::{Finished, json_file, loadtest, read_json, spawn};
use crate::proxy::{self, ProxyFault};
use crate::real_server;

fn churn(url: &str, more: &[&str]) -> Finished {
    let mut arguments = vec!["churn", "--url", url, "--warm-up", "300ms", "--connect-timeout", "60s"];
    arguments.extend_from_slice(more);
    if !more.contains(&"--duration") {
        arguments.extend_from_slice(&["--duration", "1500ms"]);
    }
    if !more.contains(&"--observers") {
        arguments.extend_from_slice(&["--observers", "20"]);
    }
    if !more.contains(&"--settle-timeout") {
        arguments.extend_from_slice(&["--settle-timeout", "60s"]);
    }
    // Stays are longer than the run, so that the next leave of a member cannot repair a lost one.
    arguments.extend_from_slice(&["--members", "60", "--rate", "20"]);
    loadtest(&arguments)
}

fn churn_through(fault: ProxyFault) -> Finished {
    let url = proxy::start(&real_server::start(&[]), fault);
    churn(&url, &["--settle-timeout", "2s"])
}

#[test]
fn all_observers_receive_all_joins() {
    let file = json_file("all_observers_receive_all_joins");
    churn(&real_server::start(&[]), &["--json", &file]).expect(0, "join_to_seen");
    let report = read_json(&file);
    let figure = |name: &str| report["figures"][name].as_f64().unwrap_or_else(|| panic!("{name} is missing"));
    assert!(figure("deliveries") >= 20.0, "{report:#}");
    assert_eq!(figure("joins_never_seen"), 0.0, "{report:#}");
    assert_eq!(figure("rooms_mismatched"), 0.0);
    assert!(figure("server_cpu_per_delivery_us") > 0.0, "without --pid the cost comes from /v1/stats");
    for unknown in ["server_waited_cores", "repeated_events"] {
        assert!(report["figures"][unknown].is_null(), "{unknown} is not known");
    }
    // Each observer received each join of the window, and no other join was counted.
    assert_eq!(figure("joins_seen") % 20.0, 0.0, "{report:#}");
    assert_eq!(report["latencies"]["join_to_seen"]["count"].as_f64(), Some(figure("joins_seen")));
}

#[test]
fn observers_at_another_node_are_compared_with_that_node() {
    // Two servers that are not a cluster: joins at one never reach the other.
    let (url, other) = (real_server::start(&[]), real_server::start(&[]));
    churn(&url, &["--observe-url", &other, "--settle-timeout", "300ms"])
        .expect(1, "the list of lobby is not that of the users who have joined");
    let url = real_server::start(&[]);
    churn(&url, &["--observe-url", &url]).expect(0, "join_to_seen");
}

#[test]
fn protocols_with_single_events_are_verified() {
    for protocol in ["online-status", "chat"] {
        churn(&real_server::start(&[]), &["--protocol", protocol]).expect(0, "join_to_seen");
    }
}

#[test]
fn the_last_joins_are_awaited_without_verification_too() {
    churn(&real_server::start(&["--tick", "500ms"]), &["--no-verify"]).expect(0, "--no-verify");
}

#[test]
fn observers_that_join_are_verified_with_snapshots_in_pages() {
    let arguments = ["--observers", "1200", "--observers-join", "--in-flight", "64"];
    churn(&real_server::start(&["--tick", "20ms"]), &arguments).expect(0, "join_to_seen");
}

#[test]
fn all_of_many_rooms_are_verified() {
    let file = json_file("all_of_many_rooms_are_verified");
    let url = real_server::start(&[]);
    let size = ["--rooms", "15", "--observers", "40", "--members", "91", "--rate", "30", "--settle-timeout", "60s"];
    let mut arguments = vec!["rooms", "--url", &url, "--duration", "1s", "--warm-up", "200ms", "--json", &file];
    arguments.extend_from_slice(&size);
    loadtest(&arguments).expect(0, "rooms: window");
    let report = read_json(&file);
    assert_eq!(report["figures"]["rooms_mismatched"], 0.0);
    assert_eq!(report["settings"]["rooms"], 15);
}

#[test]
fn protocols_with_whole_lists_are_verified() {
    let url = real_server::start(&["--ttl", "5s", "--tick", "50ms"]);
    let arguments = ["--protocol", "online-users", "--heartbeat-every", "500ms", "--settle-timeout", "60s"];
    churn(&url, &arguments).expect(0, "join_to_seen");
}

#[test]
fn a_proxy_without_a_fault_passes_the_checks() {
    churn_through(ProxyFault::None).expect(0, "join_to_seen");
}

#[test]
fn a_skipped_seq_is_found() {
    churn_through(ProxyFault::SkipsOneSeq).expect(2, "follows seq");
}

#[test]
fn a_dropped_leave_is_found() {
    churn_through(ProxyFault::DropsOneLeave).expect(2, "INVALID: ");
}

#[test]
fn a_ghost_is_found() {
    churn_through(ProxyFault::SwallowsALeave).expect(2, "is a ghost");
}

#[test]
fn a_lost_leave_is_found_even_if_the_member_leaves_again_later() {
    let url = proxy::start(&real_server::start(&[]), ProxyFault::SwallowsALeave);
    let mut arguments = vec!["churn", "--url", &url, "--warm-up", "300ms", "--duration", "1500ms"];
    arguments.extend_from_slice(&["--observers", "20", "--members", "10", "--rate", "20"]);
    loadtest(&arguments).expect(2, "were received by no observer");
}

#[test]
fn a_server_that_stops_ends_the_run() {
    let (url, stop) = real_server::start_stoppable(&["--drain", "300ms"]);
    let mut child = spawn(&["churn", "--url", &url, "--observers", "5", "--warm-up", "0s", "--duration", "50s"]);
    child.wait_for("churn ");
    drop(stop);
    child.finish().expect(1, "all connections were lost");
}

#[test]
fn ctrl_c_ends_the_run_early_with_report_and_checks() {
    let url = real_server::start(&[]);
    let mut child = spawn(&["churn", "--url", &url, "--observers", "5", "--warm-up", "0s", "--duration", "50s"]);
    child.wait_for("churn ");
    child.interrupt();
    let finished = child.finish().expect(0, "ended early");
    assert!(finished.stdout.contains("rooms_mismatched"), "{}", finished.stdout);
}

#[test]
fn users_of_another_generator_fail_the_run() {
    // Another generator uses the same user names, and all of its users stay present.
    let url = real_server::start(&[]);
    let mut other = spawn(&["idle", "--url", &url, "--connections", "150", "--duration", "50s"]);
    other.wait_for("connecting done");
    let finished = churn(&url, &["--settle-timeout", "300ms"]);
    other.interrupt();
    drop(other.finish());
    finished.expect(1, "choose others with --first-user");
}
