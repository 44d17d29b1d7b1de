//! The native dialect against a stub that can be wrong on purpose: a run whose figures do not hold must say
//! so and exit with 2.

use std::sync::atomic::Ordering;

use crate::children::{Finished, loadtest};
use crate::stub::{Fault, start};

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
fn a_true_server_is_joined_and_believed() {
    let (url, counters) = start(Fault::None);
    heartbeat(&url, &["--ack"]).expect(0, "ack_round_trip");
    assert_eq!(counters.joined.load(Ordering::SeqCst), 20);
    assert_eq!(counters.pongs.load(Ordering::SeqCst), 20);
    assert!(counters.heartbeats.load(Ordering::SeqCst) > 0);
}

#[test]
fn a_lost_heartbeat_is_found() {
    let (url, _) = start(Fault::LosesOneHeartbeat);
    heartbeat(&url, &[]).expect(2, "INVALID: the server counted");
}

#[test]
fn a_phantom_leave_is_found() {
    let (url, _) = start(Fault::MiscountsRoom);
    heartbeat(&url, &[]).expect(2, "lobby counts 19 users, 20 are in");
}

#[test]
fn closing_everybody_ends_the_run_with_the_code() {
    let (url, _) = start(Fault::ClosesAtHeartbeat);
    heartbeat(&url, &[]).expect(1, "closed by the server with 1013 \"full\"");
}

#[test]
fn unverified_runs_say_so() {
    let (url, _) = start(Fault::LosesOneHeartbeat);
    heartbeat(&url, &["--no-verify"]).expect(0, "--no-verify");
}
