//! A short `soak` against the real server.

use crate::children::{json_file, loadtest, read_json};
use crate::real_server;

#[test]
fn permanent_members_rejoin_with_their_last_state() {
    let file = json_file("permanent_members_rejoin_with_their_last_state");
    let url = real_server::start(&["--tick", "50ms"]);
    let size =
        ["--permanent-members", "20", "--resets", "8", "--state-changes", "40", "--observers", "10", "--members", "20"];
    // Any process can be measured; here it is the test's, which contains the server.
    let pid = std::process::id().to_string();
    let mut arguments = vec!["soak", "--url", &url, "--pid", &pid, "--duration", "5s", "--json", &file];
    arguments.extend_from_slice(&["--warm-up", "200ms", "--rate", "10", "--rooms", "2", "--sample-every", "100ms"]);
    arguments.extend_from_slice(&size);
    loadtest(&arguments).expect(0, "connections_reset");
    let report = read_json(&file);
    assert!(report["figures"]["connections_reset"].as_f64().unwrap() >= 10.0, "{report:#}");
    // A slow machine takes fewer samples, perhaps too few for a slope.
    assert!(report["series"]["server_rss_bytes"].as_array().unwrap().len() >= 2);
    assert!(report["figures"]["server_rss_max_bytes"].as_f64().unwrap() > 0.0);
}
