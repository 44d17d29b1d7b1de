//! `renew` against the real server, with secrets that fit and with one that does not.

use crate::children::{json_file, loadtest, read_json};
use crate::real_server;

const SECRET: &str = "the secret of the tokens in these tests";
const KEY: &str = "a key that reads counters";

#[test]
fn observers_notice_no_renewal_and_each_is_answered() {
    let file = json_file("observers_notice_no_renewal");
    let url = real_server::start(&["--jwt-secret", SECRET, "--read-key", KEY]);
    let size = ["--connections", "60", "--observers", "3", "--lifetime", "10m", "--within", "100ms", "--stay", "0s"];
    let mut arguments = vec!["renew", "--url", &url, "--jwt-secret", SECRET, "--read-key", KEY, "--json", &file];
    arguments.extend_from_slice(&size);
    loadtest(&arguments).expect(0, "server_cpu_per_renewal_us");
    let report = read_json(&file);
    assert_eq!((&report["figures"]["renewals"], &report["figures"]["changes_seen"]), (&63.0.into(), &0.0.into()));
    assert_eq!(report["latencies"]["renewal"]["count"], 63);
    assert!(report["figures"]["ticks_per_s"].as_f64().unwrap_or(0.0) > 0.0, "{report}");
}

#[test]
fn a_server_that_refuses_the_tokens_ends_the_run() {
    let url = real_server::start(&["--jwt-secret", SECRET]);
    let other = "another secret that has its thirty-two bytes";
    loadtest(&["renew", "--url", &url, "--connections", "5", "--jwt-secret", other]).expect(1, "clients were ready");
    loadtest(&["renew", "--url", &url]).expect(64, "--jwt-secret");
}
