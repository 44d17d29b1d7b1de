//! `storm` against the real server, and against one that is full.

use crate::children::{json_file, loadtest, read_json};
use crate::real_server;

#[test]
fn all_clients_rejoin() {
    let file = json_file("all_clients_rejoin");
    let url = real_server::start(&[]);
    let size = ["--connections", "200", "--rounds", "2", "--pause", "200ms"];
    let mut arguments = vec!["storm", "--url", &url, "--json", &file];
    arguments.extend_from_slice(&size);
    loadtest(&arguments).expect(0, "handshakes_per_s");
    let report = read_json(&file);
    assert_eq!(report["figures"]["failed_attempts"], 0.0);
    assert_eq!(report["latencies"]["reset_to_joined"]["count"], 400);
    assert_eq!(report["latencies"]["connect_to_joined"]["count"], 400);
}

#[test]
fn a_server_that_is_full_ends_the_run() {
    let url = real_server::start(&["--max-connections", "50"]);
    loadtest(&["storm", "--url", &url, "--connections", "80"]).expect(1, "1013");
}
