//! The event log: one line per announced join and leave. The tests write to a file and to standard output, rotate the
//! file, and leave a pipe unread.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Stdio};

use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::common::event_log::{EventLog, parse, summaries};
use crate::common::process::{Process, command, run_to_exit};
use crate::common::{DEADLINE, Mirror, TestServer, http};

const BAD_CONFIGURATION: i32 = 64;
const POLL: Duration = Duration::from_millis(5);

/// Waits for as many events and compares their sorted summaries: the order of rooms within a tick is undefined.
async fn wait_for(log: &EventLog, expected: &[&str]) -> Vec<Value> {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    let events = log.wait_until("all events", |events| events.len() >= expected.len()).await;
    let mut found = summaries(&events);
    found.sort_unstable();
    assert_eq!(found, expected);
    events
}

async fn counter(address: SocketAddr, name: &str) -> u64 {
    let stats = http::request(address, "GET", "/v1/stats", &[], b"").await.json();
    stats[name].as_u64().unwrap_or_else(|| panic!("{name} is not a number: {stats}"))
}

#[tokio::test]
async fn joins_and_leaves_are_logged_with_state_and_reason() {
    let log = EventLog::new();
    let server = TestServer::start(&["--event-log", log.argument(), "--node-id", "n1"]);
    let mut alice = server.connect("alice").await;
    alice.send(&json!({"type": "join", "room": "lobby", "state": {"mood": "ü \"x\""}}));
    alice.send(&json!({"type": "join", "room": "a/b"}));
    alice.wait_until("both rooms", |alice| alice.has("lobby", "alice") && alice.has("a/b", "alice")).await;
    let events = wait_for(&log, &["join lobby alice", "join a/b alice"]).await;
    let lobby = events.iter().find(|event| event["room"] == "lobby").unwrap();
    assert_eq!(lobby["state"], json!({"mood": "ü \"x\""}));
    assert!(events.iter().all(|event| event["node"] == "n1"), "{events:?}");
    // A new state is neither a join nor a leave.
    alice.send(&json!({"type": "state", "room": "lobby", "state": {"mood": "new"}}));
    alice.wait_until("the state", |alice| alice.state("lobby", "alice") == Some(&json!({"mood": "new"}))).await;
    alice.send(&json!({"type": "leave", "room": "lobby"}));
    wait_for(&log, &["join lobby alice", "join a/b alice", "leave lobby alice left"]).await;
    alice.close(1000);
    wait_for(&log, &["join lobby alice", "join a/b alice", "leave lobby alice left", "leave a/b alice closed"]).await;
    // An event is counted after it was written.
    server.wait_for_stat("event_log_written", 4).await;
    assert_eq!(server.stat("event_log_dropped").await, 0);
    let metrics = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("\nrollcall_event_log_written_total 4\n"), "{metrics}");
    server.stop().await;
}

#[tokio::test]
async fn members_of_every_protocol_are_logged() {
    let log = EventLog::new();
    let server = TestServer::start(&["--event-log", log.argument()]);
    let _list = server.online_users("list").await;
    let status = server.online_status("7").await;
    let _chat = server.chat("chat").await;
    server.rest_heartbeat("rest").await;
    drop(status);
    let joins = ["join lobby list", "join lobby 7", "join lobby chat", "join lobby rest"];
    wait_for(&log, &[&joins[..], &["leave lobby 7 closed"]].concat()).await;
    server.stop().await;
}

#[tokio::test]
async fn a_reload_within_the_grace_and_a_second_device_are_not_logged() {
    let log = EventLog::new();
    let server = TestServer::start(&["--event-log", log.argument(), "--grace", "600s"]);
    let alice = server.connect_to("alice", "lobby").await;
    let second = server.connect_to("alice", "lobby").await;
    second.close(1000);
    alice.drop_connection();
    let mut alice = server.connect_to("alice", "lobby").await;
    alice.barrier().await;
    // Events are in the order of ticks, so nothing else was logged before this.
    let _bob = server.connect_to("bob", "lobby").await;
    wait_for(&log, &["join lobby alice", "join lobby bob"]).await;
    server.stop().await;
}

#[tokio::test]
async fn queued_events_are_written_before_the_server_stops() {
    let log = EventLog::new();
    let server = TestServer::start(&["--event-log", log.argument()]);
    let mut alice = server.connect("alice").await;
    for room in 0..100 {
        alice.send(&json!({"type": "join", "room": format!("room {room}")}));
    }
    alice.wait_until("the last room", |alice| alice.has("room 99", "alice")).await;
    server.stop().await;
    assert_eq!(log.events().len(), 100);
}

#[test]
fn a_file_that_cannot_be_opened_exits_64_and_says_why() {
    for (path, words) in [
        ("/nonexistent/events.log", ["/nonexistent/events.log", "No such file"]),
        ("/", ["--event-log /", "directory"]),
        ("", ["--event-log", "a value is required"]),
    ] {
        let output = run_to_exit(command(&["--listen", "127.0.0.1:0", "--event-log", path]));
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "{path:?}: {message}");
        assert!(words.iter().all(|word| message.contains(word)), "{path:?}: {message}");
        assert!(output.stdout.is_empty(), "the server started: {path:?}");
    }
}

#[tokio::test]
async fn standard_output_has_events_only_and_startup_lines_go_to_standard_error() {
    let mut variable = command(&["--listen", "127.0.0.1:0", "--tick", "20ms"]);
    variable.env("ROLLCALL_EVENT_LOG", "-");
    let mut process = Process::spawn(variable);
    let address = process.address();
    let mut alice = Mirror::connect(address, "alice", &["lobby"]).await;
    alice.wait_until("her own join", |alice| alice.has("lobby", "alice")).await;
    alice.send(&json!({"type": "leave", "room": "lobby"}));
    let deadline = Instant::now() + DEADLINE;
    while process.stdout().len() < 2 {
        assert!(Instant::now() < deadline, "{:?}", process.output());
        sleep(POLL).await;
    }
    let events: Vec<_> = process.stdout().iter().map(|line| parse(line)).collect();
    assert_eq!(summaries(&events), ["join lobby alice", "leave lobby alice left"]);
    assert!(process.stderr().iter().any(|line| line.contains("is listening on")), "{:?}", process.stderr());
    process.signal("TERM");
    assert!(process.wait_for_exit().success(), "{:?}", process.output());
}

#[tokio::test]
async fn sighup_reopens_the_file_and_does_not_stop_the_server() {
    let log = EventLog::new();
    std::fs::write(log.path(), "an old line\n").unwrap();
    let mut process = Process::start(&["--tick", "20ms", "--event-log", log.argument()]);
    let address = process.address();
    let alice = Mirror::connect(address, "alice", &[]).await;
    for round in 0..3 {
        let rotated = log.path().with_extension(round.to_string());
        alice.send(&json!({"type": "join", "room": format!("before {round}")}));
        let deadline = Instant::now() + DEADLINE;
        while counter(address, "event_log_written").await != 2 * round + 1 {
            assert!(Instant::now() < deadline, "{:?}", process.output());
            sleep(POLL).await;
        }
        std::fs::rename(log.path(), &rotated).unwrap();
        process.signal("HUP");
        while !log.path().exists() {
            assert!(Instant::now() < deadline, "{:?}", process.output());
            sleep(POLL).await;
        }
        alice.send(&json!({"type": "join", "room": format!("after {round}")}));
        let events = log.wait_until("the next line", |events| !events.is_empty()).await;
        assert_eq!(summaries(&events), [format!("join after {round} alice")]);
        let old = std::fs::read_to_string(rotated).unwrap();
        assert!(old.contains(&format!("before {round}")), "{old}");
        assert_eq!(
            old.contains("an old line"),
            round == 0,
            "round {round}: the existing line was lost or repeated: {old}"
        );
    }
    process.signal("TERM");
    assert!(process.wait_for_exit().success(), "{:?}", process.output());
}

#[tokio::test]
async fn a_file_that_cannot_be_reopened_or_written_does_not_stop_the_server() {
    let log = EventLog::new();
    let mut process = Process::start(&["--tick", "20ms", "--event-log", log.argument()]);
    let address = process.address();
    let mut alice = Mirror::connect(address, "alice", &["one"]).await;
    log.wait_until("a line", |events| events.len() == 1).await;
    // Every write to this device fails as if the disk were full.
    std::fs::rename(log.path(), log.path().with_extension("1")).unwrap();
    std::os::unix::fs::symlink("/dev/full", log.path()).unwrap();
    process.signal("HUP");
    let deadline = Instant::now() + DEADLINE;
    let mut rooms = 0;
    while counter(address, "event_log_dropped").await < 3 {
        assert!(Instant::now() < deadline, "{:?}", process.output());
        alice.send(&json!({"type": "join", "room": format!("lost {rooms}")}));
        alice.barrier().await;
        rooms += 1;
    }
    let errors = |process: &Process| process.stderr().iter().filter(|line| line.contains("ERROR")).count();
    process.wait_for_line("ERROR");
    assert_eq!(errors(&process), 1, "an outage is logged once: {:?}", process.stderr());
    std::fs::remove_file(log.path()).unwrap();
    process.signal("HUP");
    while !log.path().exists() {
        assert!(Instant::now() < deadline, "{:?}", process.output());
        sleep(POLL).await;
    }
    alice.send(&json!({"type": "join", "room": "two"}));
    log.wait_until("a line again", |events| summaries(events).contains(&"join two alice".to_owned())).await;
    std::fs::rename(log.path(), log.path().with_extension("2")).unwrap();
    std::fs::create_dir(log.path()).unwrap();
    process.signal("HUP");
    while errors(&process) < 2 {
        assert!(Instant::now() < deadline, "{:?}", process.output());
        sleep(POLL).await;
    }
    process.signal("TERM");
    assert!(process.wait_for_exit().success(), "{:?}", process.output());
}

/// A server that logs events to a pipe, and the address in its first line on standard error.
fn server_with_unread_pipe() -> (Child, SocketAddr, BufReader<ChildStderr>) {
    let flags = ["--listen", "127.0.0.1:0", "--tick", "20ms", "--ttl", "600s", "--event-log", "-"];
    let mut child = command(&flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let address = read_address(&mut stderr);
    (child, address, stderr)
}

fn read_address(lines: &mut impl BufRead) -> SocketAddr {
    let url = lines.lines().map_while(Result::ok).find_map(|line| Some(line.split_once("http://")?.1.to_owned()));
    url.expect("the URL is printed").split(' ').next().unwrap().parse().unwrap()
}

fn terminate(child: &Child) {
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
}

#[tokio::test]
async fn an_unread_pipe_does_not_delay_the_server_and_dropped_events_are_counted() {
    let (mut child, address, _stderr) = server_with_unread_pipe();
    let state = json!({"text": "x".repeat(1000)});
    let deadline = Instant::now() + DEADLINE;
    const ROOMS: usize = 90;
    let mut rounds = 0;
    // Each round joins and leaves rooms with large states, until the queue is full. Each user is within its budget.
    while counter(address, "event_log_dropped").await == 0 {
        let mut alice = Mirror::connect(address, &format!("alice-{rounds}"), &[]).await;
        alice.logging = false;
        for room in 0..ROOMS {
            alice.send(&json!({"type": "join", "room": format!("{room}"), "state": state, "observe": false}));
        }
        alice.barrier().await;
        for room in 0..ROOMS {
            alice.send(&json!({"type": "leave", "room": format!("{room}")}));
        }
        alice.barrier().await;
        rounds += 1;
        assert!(Instant::now() < deadline, "nothing was dropped after {rounds} rounds");
    }
    terminate(&child);
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let events: Vec<_> = text.lines().map(parse).collect();
    assert!(events.len() > 10_000, "the queue held only {} lines", events.len());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_fifo_never_blocks_the_server() {
    let log = EventLog::new();
    assert!(std::process::Command::new("mkfifo").arg(log.path()).status().unwrap().success());
    let output = run_to_exit(command(&["--listen", "127.0.0.1:0", "--event-log", log.argument()]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "nothing reads it: {said}");
    assert!(said.contains(log.argument()) && said.contains("nothing reads this FIFO"), "{said}");

    let mut reader = tokio::io::BufReader::new(pipe::OpenOptions::new().open_receiver(log.path()).unwrap());
    let mut process = Process::start(&["--tick", "20ms", "--event-log", log.argument()]);
    let _alice = Mirror::connect(process.address(), "alice", &["lobby"]).await;
    let mut line = String::new();
    timeout(DEADLINE, reader.read_line(&mut line)).await.expect("a line in time").unwrap();
    assert_eq!(summaries(&[parse(line.trim_end())]), ["join lobby alice"]);
    drop(reader);
    let deadline = Instant::now() + DEADLINE;
    while !process.stderr().iter().any(|line| line.contains("cannot reopen the event log")) {
        assert!(Instant::now() < deadline, "it waits for a reader: {:?}", process.output());
        // A child that another test starts has the files of this process, the reader among them, until it executes its
        // program. So the log may have been reopened.
        process.signal("HUP");
        sleep(POLL).await;
    }
    process.signal("TERM");
    assert!(process.wait_for_exit().success(), "{:?}", process.output());
}

#[tokio::test]
async fn a_closed_pipe_does_not_stop_the_server() {
    let (mut child, address, mut stderr) = server_with_unread_pipe();
    drop(child.stdout.take());
    let mut alice = Mirror::connect(address, "alice", &[]).await;
    let (mut rooms, deadline) = (0, Instant::now() + DEADLINE);
    // Those of the beginning may be written: a child that another test starts has the pipe until it executes its
    // program.
    while counter(address, "event_log_dropped").await < 3 {
        assert!(Instant::now() < deadline, "dropped events were not counted");
        alice.send(&json!({"type": "join", "room": format!("{rooms}")}));
        alice.barrier().await;
        rooms += 1;
    }
    terminate(&child);
    let mut log = String::new();
    stderr.read_to_string(&mut log).unwrap();
    assert_eq!(log.matches("cannot write the event log").count(), 1, "an outage is logged once: {log}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
