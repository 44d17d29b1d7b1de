//! Failures end the run with a message: no hang, no panic.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use crate::children::{Floor, command, json_file, loadtest, read_json, spawn};

#[test]
fn a_refused_connection_fails_the_run() {
    // A port that was just in use is not reused soon.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    loadtest(&["heartbeat", "--url", &format!("ws://{address}")]).expect(1, "connection refused");
}

#[test]
fn a_wrong_command_line_exits_64() {
    loadtest(&["churn", "--observe-url", "127.0.0.1:8000"]).expect(64, "--observe-url");
    loadtest(&["heartbeat", "--url", "127.0.0.1:8000"]).expect(64, "ws://127.0.0.1:8000");
    loadtest(&["idle", "--connections", "0"]).expect(64, "--connections");
    loadtest(&["idle", "--protocol", "floor", "--rooms", "2"]).expect(64, "has no rooms");
    loadtest(&["idle", "--connections", "4000000000"]).expect(64, "file descriptors");
    loadtest(&["nothing"]).expect(64, "nothing");
}

#[test]
fn a_wrong_pid_is_reported_before_anything_is_opened() {
    loadtest(&["heartbeat", "--pid", "4294967295"]).expect(1, "process 4294967295");
}

#[test]
fn a_report_that_cannot_be_printed_is_still_written() {
    let file = json_file("a_report_that_cannot_be_printed");
    let floor = Floor::start(&[]);
    let options = ["--connections", "5", "--duration", "100ms", "--warm-up", "0s", "--json", &file];
    let arguments = [&["idle", "--protocol", "floor", "--url", &floor.url], options.as_slice()].concat();
    let full = std::fs::File::create("/dev/full").expect("Linux has it");
    let done = command(&arguments).stdout(full).output().expect("it ends");
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot print the report"), "{stderr}");
    assert_eq!(read_json(&file)["scenario"], "idle");
}

#[test]
fn the_error_shows_what_a_server_without_websocket_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nnowhere");
        }
    });
    loadtest(&["heartbeat", "--url", &url]).expect(1, "404 Not Found\": nowhere");
}

#[test]
fn a_silent_server_fails_the_run_after_the_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    loadtest(&["idle", "--url", &url, "--connect-timeout", "300ms"]).expect(1, "was not ready after 300ms");
}

#[test]
fn a_wrong_protocol_is_suggested_as_the_cause() {
    let floor = Floor::start(&[]);
    loadtest(&["idle", "--url", &floor.url, "--connect-timeout", "2s"]).expect(1, "speak --protocol native");
}

#[test]
fn a_killed_server_ends_the_run() {
    let mut floor = Floor::start(&[]);
    let mut child = spawn(&[
        "heartbeat",
        "--protocol",
        "floor",
        "--url",
        &floor.url,
        "--pid",
        &floor.pid(),
        "--connections",
        "50",
        "--duration",
        "50s",
    ]);
    child.wait_for("heartbeats ");
    floor.kill();
    child.finish().expect(1, "all 50 connections were lost");
}

#[test]
fn ctrl_c_ends_the_run_early_with_a_report() {
    let floor = Floor::start(&[]);
    let mut child = spawn(&[
        "heartbeat",
        "--protocol",
        "floor",
        "--url",
        &floor.url,
        "--connections",
        "50",
        "--warm-up",
        "0s",
        "--duration",
        "50s",
    ]);
    child.wait_for("heartbeats ");
    child.interrupt();
    child.finish().expect(0, "ended early");
}
