//! `heartbeat` and `idle` against the floor: the floor counts what was sent. No speed is asserted.

use crate::children::{Floor, json_file, loadtest, read_json};

#[test]
fn the_floor_counts_every_heartbeat() {
    let floor = Floor::start(&[]);
    let file = json_file("the_floor_counts_every_heartbeat");
    loadtest(&[
        "heartbeat",
        "--protocol",
        "floor",
        "--url",
        &floor.url,
        "--pid",
        &floor.pid(),
        "--connections",
        "300",
        "--rate",
        "2000",
        "--warm-up",
        "200ms",
        "--duration",
        "1s",
        "--json",
        &file,
    ])
    .expect(0, "server_cpu_per_heartbeat_us");
    let report = read_json(&file);
    assert_eq!(report["valid"], true);
    assert_eq!(report["problems"].as_array().unwrap().len(), 0);
    let figure = |name: &str| report["figures"][name].as_f64().unwrap_or_else(|| panic!("{name} is missing"));
    // Planned heartbeats are sent or counted as unsent. If the generator is delayed, the window starts or ends late;
    // then the number differs by a few.
    let (window_s, planned) =
        (report["window_s"].as_f64().expect("a window length"), figure("sent") + figure("unsent"));
    let bounds = 2000.0 * window_s.min(1.0) - 50.0..=2000.0 * window_s.max(1.0) + 50.0;
    assert!(bounds.contains(&planned), "{report:#}");
    assert!(figure("server_cpu_per_heartbeat_us") > 0.0);
    assert!(figure("generator_cpu_cores") > 0.0);
    assert_eq!(report["latencies"]["send_delay"]["count"].as_f64(), Some(figure("sent")));
    assert_eq!(report["settings"]["rate_per_s"], 2000);
}

#[test]
fn each_ack_belongs_to_one_heartbeat() {
    let floor = Floor::start(&["--ack"]);
    let file = json_file("each_ack_belongs_to_one_heartbeat");
    loadtest(&[
        "heartbeat",
        "--protocol",
        "floor",
        "--ack",
        "--url",
        &floor.url,
        "--connections",
        "50",
        "--rate",
        "1000",
        "--burst-interval",
        "0s",
        "--warm-up",
        "100ms",
        "--duration",
        "500ms",
        "--json",
        &file,
    ])
    .expect(0, "ack_round_trip");
    let report = read_json(&file);
    let figures = &report["figures"];
    let sent = figures["sent"].as_f64().unwrap() + figures["sent_in_warm_up"].as_f64().unwrap();
    assert_eq!(figures["acks"].as_f64(), Some(sent));
    assert_eq!(report["latencies"]["ack_round_trip"]["count"].as_f64(), figures["sent"].as_f64());
}

#[test]
fn missing_acks_make_the_report_invalid() {
    let floor = Floor::start(&[]);
    loadtest(&[
        "heartbeat",
        "--protocol",
        "floor",
        "--ack",
        "--url",
        &floor.url,
        "--connections",
        "5",
        "--rate",
        "50",
        "--warm-up",
        "0s",
        "--duration",
        "300ms",
    ])
    .expect(2, "INVALID");
}

#[test]
fn idle_clients_receive_tick_frames() {
    let floor = Floor::start(&["--tick", "20ms", "--bytes", "200"]);
    let file = json_file("idle_clients_receive_tick_frames");
    loadtest(&[
        "idle",
        "--protocol",
        "floor",
        "--url",
        &floor.url,
        "--pid",
        &floor.pid(),
        "--connections",
        "100",
        "--warm-up",
        "100ms",
        "--duration",
        "500ms",
        "--json",
        &file,
    ])
    .expect(0, "server_rss_per_connection_bytes");
    let report = read_json(&file);
    assert!(report["figures"]["messages_received"].as_f64().unwrap() >= 100.0, "{report:#}");
}
