//! `soak`, shortened, against the real server.

use crate::children::{json_file, loadtest, read_json};
use crate::engine;

#[test]
fn who_is_cut_off_is_back_with_the_last_state() {
    let file = json_file("who_is_cut_off_is_back_with_the_last_state");
    let url = engine::start(&["--tick", "50ms"]);
    let size = ["--residents", "20", "--drops", "8", "--states", "40", "--observers", "10", "--members", "20"];
    // The process that is measured need not be the server for this: any will do.
    let pid = std::process::id().to_string();
    let mut arguments = vec!["soak", "--url", &url, "--pid", &pid, "--duration", "5s", "--json", &file];
    arguments.extend_from_slice(&["--warm-up", "200ms", "--rate", "10", "--rooms", "2", "--sample-every", "100ms"]);
    arguments.extend_from_slice(&size);
    loadtest(&arguments).expect(0, "cut_off");
    let report = read_json(&file);
    assert!(report["figures"]["cut_off"].as_f64().unwrap() >= 10.0, "{report:#}");
    // How many samples there are is the machine's doing, and with it whether there is a slope.
    assert!(report["series"]["server_rss_bytes"].as_array().unwrap().len() >= 2);
    assert!(report["figures"]["server_rss_max_bytes"].as_f64().unwrap() > 0.0);
}
