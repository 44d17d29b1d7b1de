//! Signals: what stops the server, what reloads it, and what it ignores. `command_line.rs` has the plain stop.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::common::process::{Process, command_after};
use crate::common::{DEADLINE, Mirror, RawClient, http};

/// The exit code after a second signal.
const STOPPED_AT_ONCE: i32 = 130;
/// Signals within this time count as one.
const SAME_SIGNAL: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(10);

async fn status(address: SocketAddr, path: &str) -> u16 {
    http::request(address, "GET", path, &[], b"").await.status
}

#[tokio::test]
async fn signals_that_were_ignored_at_the_start_stay_ignored() {
    // As `nohup rollcall &` starts it, in a shell without job control.
    let mut process = Process::spawn(command_after("trap '' HUP INT", &["--listen", "127.0.0.1:0"]));
    let address = process.address();
    let mut alice = Mirror::connect(address, "alice", &["lobby"]).await;
    process.signal("HUP");
    process.signal("INT");
    for _ in 0..3 {
        alice.barrier().await;
    }
    assert_eq!(status(address, "/readyz").await, 200);
    process.signal("TERM");
    assert_eq!(alice.wait_for_close().await, Some(1012));
    assert_eq!(process.wait_for_exit().code(), Some(0), "{:?}", process.output());
    assert!(!process.output().iter().any(|line| line.contains("SIGHUP")), "{:?}", process.output());
}

#[tokio::test]
async fn sighup_reloads_and_does_not_stop_a_server_without_a_terminal() {
    // Standard output cannot be reopened, and without an event log there is nothing to reopen at all.
    for flags in [&[][..], &["--event-log", "-"]] {
        let mut process = Process::start(flags);
        let address = process.address();
        for _ in 0..2 {
            process.signal("HUP");
            process.wait_for_line("nothing to reload");
        }
        assert_eq!(status(address, "/readyz").await, 200);
        process.signal("TERM");
        assert_eq!(process.wait_for_exit().code(), Some(0), "{:?}", process.output());
    }
}

#[tokio::test]
async fn sighup_before_the_settings_are_known_does_not_end_the_server() {
    let fifo = std::env::temp_dir().join(format!("rollcall-early-fifo-{}", std::process::id()));
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    let mut process = Process::start(&["--api-key-file", fifo.to_str().expect("a path")]);
    let deadline = Instant::now() + DEADLINE;
    let mut secret = loop {
        // An error until the server has opened it as well. The server then waits for its end.
        match OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&fifo) {
            Ok(opened) => break opened,
            Err(error) => assert!(process.running() && Instant::now() < deadline, "{error}: {:?}", process.output()),
        }
        sleep(POLL).await;
    };
    process.signal("HUP");
    secret.write_all(b"the token of this test").expect("the server reads it");
    drop(secret);
    assert_eq!(status(process.address(), "/readyz").await, 200);
    process.wait_for_line("not reloaded");
    process.signal("TERM");
    assert_eq!(process.wait_for_exit().code(), Some(0), "{:?}", process.output());
    std::fs::remove_file(&fifo).expect("a file");
}

#[tokio::test]
async fn sighup_reads_the_api_keys_again_and_keeps_the_old_ones_if_the_file_has_none() {
    let file = std::env::temp_dir().join(format!("rollcall-token-{}", std::process::id()));
    let (first, second) = ("the first token of this test", "the second token of this test");
    std::fs::write(&file, first).expect("a file");
    let path = file.to_str().expect("a path");
    let mut process = Process::start(&["--tick", "20ms", "--api-key-file", path]);
    let address = process.address();
    let kick = async |token: &str| {
        let authorization = format!("Bearer {token}");
        http::request(address, "POST", "/v1/users/a/kick", &[("authorization", &authorization)], b"").await.status
    };
    assert_eq!((kick(first).await, kick(second).await), (200, 403));
    std::fs::write(&file, "short").expect("a file");
    process.signal("HUP");
    assert!(!process.wait_for_line("not reloaded").contains("short"));
    assert_eq!(kick(first).await, 200);
    // One token per line, and all are accepted: applications change theirs in between.
    for (content, want) in [(format!("{second}\r\n\n{first}\n"), (200, 200)), (format!("{second}\n"), (403, 200))] {
        std::fs::write(&file, content).expect("a file");
        process.signal("HUP");
        let deadline = Instant::now() + DEADLINE;
        while (kick(first).await, kick(second).await) != want {
            assert!(Instant::now() < deadline, "{want:?}: {:?}", process.output());
            sleep(POLL).await;
        }
    }
    std::fs::remove_file(&file).expect("a file");
}

#[tokio::test]
async fn a_server_that_reloads_a_fifo_can_be_stopped() {
    let token = "the token of this test";
    let fifo = std::env::temp_dir().join(format!("rollcall-token-fifo-{}", std::process::id()));
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    let write = std::thread::spawn({
        let fifo = fifo.clone();
        move || std::fs::write(fifo, token)
    });
    let mut process = Process::start(&["--api-key-file", fifo.to_str().expect("a path")]);
    process.address();
    write.join().expect("no panic").expect("the server reads it");
    process.signal("HUP");
    assert!(process.wait_for_line("not reloaded").contains("not a regular file"));
    process.signal("TERM");
    assert_eq!(process.wait_for_exit().code(), Some(0), "{:?}", process.output());
    std::fs::remove_file(&fifo).expect("a file");
}

#[tokio::test]
async fn two_signals_at_once_count_as_one_and_clients_are_closed_with_1012() {
    for second in ["TERM", "INT"] {
        let mut process = Process::start(&["--tick", "20ms", "--drain", "60s"]);
        let mut alice = Mirror::connect(process.address(), "alice", &["lobby"]).await;
        alice.wait_until("her own join", |alice| alice.has("lobby", "alice")).await;
        // The process handles both when it runs again, however long `kill` takes.
        process.signal("STOP");
        process.signal("TERM");
        process.signal(second);
        process.signal("CONT");
        assert_eq!(alice.wait_for_close().await, Some(1012), "{second}");
        assert_eq!(process.wait_for_exit().code(), Some(0), "{second}: {:?}", process.output());
    }
}

#[tokio::test]
async fn a_later_second_signal_stops_at_once() {
    let mut process = Process::start(&["--drain", "600s", "--drain-delay", "600s"]);
    process.address();
    process.signal("TERM");
    process.wait_for_line("not ready");
    // Until one comes late enough: on a busy machine the server begins to count late.
    while process.running() {
        sleep(SAME_SIGNAL * 2).await;
        process.signal("TERM");
    }
    assert_eq!(process.wait_for_exit().code(), Some(STOPPED_AT_ONCE), "{:?}", process.output());
}

#[tokio::test]
async fn with_a_drain_delay_clients_are_accepted_while_readyz_answers_503() {
    let mut process = Process::start(&["--tick", "20ms", "--drain-delay", "10s"]);
    let address = process.address();
    let mut early = Mirror::connect(address, "early", &["lobby"]).await;
    assert_eq!(status(address, "/readyz").await, 200);
    process.signal("TERM");
    let deadline = Instant::now() + DEADLINE;
    while status(address, "/readyz").await != 503 {
        assert!(Instant::now() < deadline, "{:?}", process.output());
        sleep(POLL).await;
    }
    // Clients that a load balancer still sends here.
    let mut late = Mirror::connect(address, "late", &["lobby"]).await;
    early.wait_until("the late client", |early| early.has("lobby", "late")).await;
    assert_eq!(status(address, "/livez").await, 200);
    // Then the stop as usual.
    for client in [&mut early, &mut late] {
        assert_eq!(client.wait_for_close().await, Some(1012));
    }
    assert_eq!(process.wait_for_exit().code(), Some(0), "{:?}", process.output());
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn without_a_drain_delay_readyz_answers_503_on_open_connections() {
    let mut process = Process::start(&["--drain", "60s"]);
    let mut kept = RawClient::tcp(process.address()).await;
    kept.send(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(kept.head().await.status, 200);
    process.signal("TERM");
    assert_eq!(process.wait_for_exit().code(), Some(0), "{:?}", process.output());
}
