//! The native protocol against a stub server that can be faulty: a run whose figures are wrong must report it and exit
//! with 2.

use std::sync::atomic::Ordering;

use crate::children::{Finished, loadtest};
use crate::stub::{StubFault, start};

fn heartbeat(url: &str, more: &[&str]) -> Finished {
    let mut arguments = vec![
        "heartbeat",
        "--url",
        url,
        "--connections",
        "20",
        "--rate",
        "400",
        "--warm-up",
        "100ms",
        "--duration",
        "400ms",
    ];
    arguments.extend_from_slice(more);
    loadtest(&arguments)
}

#[test]
fn a_correct_server_passes_the_checks() {
    let (url, counters) = start(StubFault::None);
    heartbeat(&url, &["--ack"]).expect(0, "ack_round_trip");
    assert_eq!(counters.joined.load(Ordering::SeqCst), 20);
    assert_eq!(counters.pongs.load(Ordering::SeqCst), 20);
    assert!(counters.heartbeats.load(Ordering::SeqCst) > 0);
}

#[test]
fn the_verdict_comes_first_and_round_trips_of_some_acks_are_measured_unasked() {
    let (url, _) = start(StubFault::None);
    let finished = heartbeat(&url, &[]).expect(0, "ack_round_trip");
    let first = finished.stdout.lines().next().unwrap_or_default();
    assert!(first.starts_with("heartbeat: window") && first.ends_with("VALID, all checks passed"), "{first}");
    let (url, _) = start(StubFault::LosesOneHeartbeat);
    let finished = heartbeat(&url, &[]).expect(2, "INVALID: the server counted");
    assert!(finished.stdout.lines().next().is_some_and(|first| first.contains("INVALID")), "{}", finished.stdout);
}

#[test]
fn a_lost_heartbeat_is_found() {
    let (url, _) = start(StubFault::LosesOneHeartbeat);
    heartbeat(&url, &[]).expect(2, "INVALID: the server counted");
}

#[test]
fn a_missing_member_is_found() {
    let (url, _) = start(StubFault::MiscountsRoom);
    heartbeat(&url, &[]).expect(2, "lobby counts 19 members; 20 have joined");
}

#[test]
fn closed_connections_end_the_run_with_their_close_code() {
    let (url, _) = start(StubFault::ClosesAtHeartbeat);
    heartbeat(&url, &[]).expect(1, "closed by the server with 1013 \"full\"");
}

#[test]
fn a_run_without_verification_says_so() {
    let (url, _) = start(StubFault::LosesOneHeartbeat);
    heartbeat(&url, &["--no-verify"]).expect(0, "--no-verify");
}
