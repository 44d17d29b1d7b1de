//! `storm` against the real server and one that refuses.

use crate::children::{json_file, loadtest, read_json};
use crate::engine;

#[test]
fn everybody_comes_back() {
    let file = json_file("everybody_comes_back");
    let url = engine::start(&[]);
    let size = ["--connections", "200", "--rounds", "2", "--pause", "200ms"];
    let mut arguments = vec!["storm", "--url", &url, "--json", &file];
    arguments.extend_from_slice(&size);
    loadtest(&arguments).expect(0, "handshakes_per_s");
    let report = read_json(&file);
    assert_eq!(report["figures"]["failed_attempts"], 0.0);
    assert_eq!(report["latencies"]["cut_to_in"]["count"], 400);
    assert_eq!(report["latencies"]["connect_to_in"]["count"], 400);
}

#[test]
fn a_server_that_is_full_ends_the_run() {
    let url = engine::start(&["--max-connections", "50"]);
    loadtest(&["storm", "--url", &url, "--connections", "80"]).expect(1, "1013");
}
