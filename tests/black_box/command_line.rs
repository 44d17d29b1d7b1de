//! The command line of the binary: help, bad configuration, environment variables, a port in use, signals and logs.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::common::process::{Process, command, run_to_exit};
use crate::common::{DEADLINE, Mirror, UserList};

/// The exit code for a bad configuration: EX_USAGE in sysexits.h.
const BAD_CONFIGURATION: i32 = 64;

fn run(arguments: &[&str]) -> Output {
    run_to_exit(command(arguments))
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// A port that is in use.
fn taken_port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port 0 can be bound");
    let address = listener.local_addr().expect("it is bound").to_string();
    (listener, address)
}

/// Expects exit code 64 and a message with all of these words. The port is in use, so a server that tries to bind it
/// before checking its configuration fails with another code and message.
fn check_bad(arguments: &[&str], words: &[&str]) {
    let (_taken, address) = taken_port();
    let mut all = arguments.to_vec();
    if !arguments.contains(&"--listen") {
        all.extend(["--listen", &address]);
    }
    let output = run(&all);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?} should mention {word}: {said}");
    }
    assert!(!said.contains("panicked"), "{arguments:?}: {said}");
}

#[test]
fn help_lists_the_flags_and_their_environment() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    let said = text(&output);
    for flag in [
        "--listen",
        "--workers",
        "--ttl",
        "--tick",
        "--liveness",
        "--grace",
        "--max-connections",
        "--history",
        "--status-port",
        "--ping-interval",
        "--header-timeout",
        "--dev-login",
        "--session-key",
        "--admin-token",
        "--event-log",
        "--log",
        "--log-format",
    ] {
        let variable = format!("ROLLCALL_{}", flag[2..].to_uppercase().replace('-', "_"));
        assert!(said.contains(flag) && said.contains(&variable), "{flag} and {variable}: {said}");
    }
    let headings = said.lines().filter(|line| line.ends_with(':') && !line.starts_with(' '));
    let expected = [
        "Commands:",
        "Options:",
        "Listening:",
        "Workers and limits:",
        "Presence:",
        "Chat:",
        "Several nodes (Redis):",
        "Logins and administration:",
        "Event log:",
        "Logging:",
        "Examples:",
    ];
    assert_eq!(headings.collect::<Vec<_>>(), expected);
}

#[test]
fn version_is_printed() {
    let output = run(&["--version"]);
    assert!(output.status.success());
    assert!(text(&output).contains(env!("CARGO_PKG_VERSION")), "{}", text(&output));
}

#[test]
fn invalid_flags_exit_with_64() {
    check_bad(&["--nonsense"], &["--nonsense"]);
    check_bad(&["nonsense"], &["nonsense"]);
    check_bad(&["--ttl", "banana"], &["ttl", "banana"]);
    check_bad(&["--ttl"], &["ttl"]);
    check_bad(&["--tick", "5"], &["tick"]);
    check_bad(&["--workers", "many"], &["workers", "many"]);
    check_bad(&["--workers", "-1"], &["-1"]);
    check_bad(&["--listen", "nowhere"], &["listen", "nowhere"]);
    check_bad(&["--listen", "127.0.0.1:99999"], &["listen"]);
    check_bad(&["--liveness", "sometimes"], &["liveness", "any", "strict"]);
    check_bad(&["--log-format", "xml"], &["log-format", "text", "json"]);
    check_bad(&["--max-connections", "lots"], &["max-connections"]);
}

#[test]
fn related_settings_are_checked_together() {
    check_bad(&["--ttl", "100ms", "--tick", "100ms"], &["ttl", "tick"]);
    check_bad(&["--ttl", "199ms", "--tick", "100ms"], &["ttl", "tick"]);
    check_bad(&["--ttl", "5s", "--grace", "6s"], &["grace", "ttl"]);
    check_bad(&["--grace", "11s"], &["grace", "ttl"]);
    check_bad(&["--tick", "0s"], &["tick"]);
    check_bad(&["--ttl", "0s"], &["ttl"]);
    check_bad(&["--workers", "0"], &["workers"]);
    check_bad(&["--max-connections", "0"], &["max-connections"]);
    check_bad(&["--session-key", "a key of thirty-two bytes at least"], &["session-key", "dev-login"]);
    check_bad(&["--dev-login", "--session-key", "short"], &["session-key", "32"]);
    check_bad(&["--admin-token", "short"], &["admin-token", "16"]);
}

#[test]
fn bad_environment_variables_exit_with_64() {
    let bad = |name: &str, value: &str| {
        let (_taken, address) = taken_port();
        let mut command = command(&["--listen", &address]);
        command.env(name, value);
        let output = run_to_exit(command);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "{name}={value}: {said}");
        assert!(said.to_lowercase().contains(&name["ROLLCALL_".len()..].to_lowercase()), "{said}");
    };
    bad("ROLLCALL_TTL", "banana");
    bad("ROLLCALL_TTL", "150ms");
    bad("ROLLCALL_WORKERS", "0");
    bad("ROLLCALL_GRACE", "1h");
}

#[tokio::test]
async fn flags_override_environment_variables() {
    let mut from_environment = command(&["--tick", "30ms"]);
    from_environment.env("ROLLCALL_LISTEN", "127.0.0.1:0");
    from_environment.env("ROLLCALL_TTL", "3s");
    from_environment.env("ROLLCALL_TICK", "70ms");
    let mut process = Process::spawn(from_environment);
    let alice = Mirror::connect(process.address(), "alice", &[]).await;
    assert_eq!(alice.welcome["ttl_ms"], 3000);
    assert_eq!(alice.welcome["tick_ms"], 30);
}

#[tokio::test]
async fn the_url_is_printed_and_works() {
    let mut process = Process::start(&["--workers", "1"]);
    let address = process.address();
    let page = crate::common::http::request(address, "GET", "/", &[], b"").await;
    assert_eq!(page.status, 200);
    let mut alice = Mirror::connect(address, "alice", &["lobby"]).await;
    assert_eq!(alice.welcome["ttl_ms"], 10_000, "the documented default");
    assert_eq!(alice.welcome["tick_ms"], 100, "the documented default");
    alice.wait_until("herself", |alice| alice.has("lobby", "alice")).await;
}

#[test]
fn a_port_in_use_is_reported_with_its_address() {
    let (_taken, address) = taken_port();
    let output = run(&["--listen", &address]);
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert_ne!(output.status.code(), Some(BAD_CONFIGURATION), "the configuration is fine: {said}");
    assert!(said.contains(&address), "the address is named: {said}");
    assert!(said.contains("in use"), "the reason is named: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn two_servers_cannot_share_a_port() {
    // The workers of one server share a port (SO_REUSEPORT). A second server must not be able to join them.
    let mut first = Process::start(&["--workers", "2"]);
    let address = first.address().to_string();
    let output = run(&["--listen", &address, "--workers", "2"]);
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
}

#[tokio::test]
async fn signals_close_connections_with_1012_and_exit_with_0() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::start(&["--tick", "20ms", "--drain", "60s"]);
        let address = process.address();
        let mut alice = Mirror::connect(address, "alice", &["lobby"]).await;
        let mut list = UserList::connect(address, "bob").await;
        alice.wait_until("herself", |alice| alice.has("lobby", "alice")).await;
        process.signal(signal);
        assert_eq!(alice.wait_for_close().await, Some(1012), "{signal}");
        list.wait_until("the end", |list| list.ended).await;
        assert_eq!(list.closed, Some(Some(1012)), "{signal}");
        let status = process.wait_for_exit();
        assert_eq!(status.code(), Some(0), "{signal}: {:?}", process.output());
    }
}

#[tokio::test]
async fn every_json_log_line_is_an_object() {
    let flags = ["--log-format", "json", "--log", "debug", "--workers", "1"];
    let mut process = Process::start(&flags);
    let address = process.address();
    let mut alice = Mirror::connect(address, "alice", &["lobby"]).await;
    alice.wait_until("herself", |alice| alice.has("lobby", "alice")).await;
    let _ = crate::common::http::request(address, "GET", "/nothing", &[], b"").await;
    process.signal("TERM");
    assert!(process.wait_for_exit().success());
    // The line with the URL is not a log line: it goes to standard output when logs go to standard error.
    let logs = if process.stderr().is_empty() { process.stdout() } else { process.stderr() };
    assert!(!logs.is_empty(), "the log is not empty");
    for line in logs {
        let parsed: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(parsed.is_object(), "{line}");
    }
}

#[test]
fn boolean_variables_are_read_and_empty_variables_ignored() {
    let said = |name: &str, value: &str| {
        let mut command = command(&["--listen", "127.0.0.1:0", "--workers", "1"]);
        command.env(name, value);
        text(&run_to_exit(command))
    };
    for value in ["1", "true", "yes", "on"] {
        for flag in ["REDIS_CLUSTER", "REDIS_OPTIONAL"] {
            let said = said(&format!("ROLLCALL_{flag}"), value);
            assert!(said.contains("without --redis URL"), "{flag}={value}: {said}");
        }
    }
    assert!(said("ROLLCALL_TTL", "soon").contains("write it like"));
    let mut with_empty = command(&["--listen", "127.0.0.1:0", "--workers", "1"]);
    with_empty.envs(["REDIS", "SHORT_TTL", "DEV_LOGIN", "ADMIN_TOKEN"].map(|flag| (format!("ROLLCALL_{flag}"), "")));
    let mut process = Process::spawn(with_empty);
    process.address();
    process.signal("TERM");
    assert!(process.wait_for_exit().success(), "{:?}", process.output());
}

#[test]
fn the_health_command_asks_the_server_and_reports_why_it_failed() {
    let mut process = Process::start(&["--workers", "1"]);
    let address = process.address().to_string();
    let url = format!("http://{address}");
    let healthy = |arguments: &[&str]| {
        let output = run(arguments);
        (output.status.code(), text(&output))
    };
    // On a very busy machine the answer may take longer than the three seconds that the command waits.
    let answered = |arguments: &[&str]| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let (code, said) = healthy(arguments);
            if !said.contains("no answer") || Instant::now() >= deadline {
                return (code, said);
            }
        }
    };
    assert_eq!(answered(&["--listen", &address, "health"]).0, Some(0));
    assert_eq!(answered(&["health", &url]).0, Some(0));
    assert_eq!(answered(&["health", &format!("{url}/livez")]).0, Some(0));
    let mut from_environment = command(&["health"]);
    from_environment.env("ROLLCALL_LISTEN", address.replace("127.0.0.1", "0.0.0.0"));
    // Variables of the server are not checked by this command.
    from_environment.env("ROLLCALL_SESSION_KEY", "k".repeat(40)).env("ROLLCALL_GRACE", "1h");
    let output = run_to_exit(from_environment);
    assert!(output.status.code() == Some(0) || text(&output).contains("no answer"), "{}", text(&output));

    let (code, said) = answered(&["health", &format!("{url}/nothing")]);
    assert!(code == Some(1) && said.contains("404"), "{code:?} {said}");
    let (code, said) = healthy(&["health", "https://localhost"]);
    assert!(code == Some(1) && said.contains("http://"), "{code:?} {said}");
    // A listener that never accepts, so it never answers.
    let (_taken, silent) = taken_port();
    let (code, said) = healthy(&["health", &format!("http://{silent}")]);
    assert!(code == Some(1) && said.contains("no answer"), "{code:?} {said}");
    process.signal("TERM");
    assert!(process.wait_for_exit().success());
    let (code, said) = healthy(&["health", &url]);
    assert!(code == Some(1) && said.contains("refused"), "{code:?} {said}");
    assert_eq!(healthy(&["health", &url, "more"]).0, Some(BAD_CONFIGURATION));
}

#[test]
fn the_server_survives_closed_output_pipes() {
    let mut command = command(&["--listen", "127.0.0.1:0", "--drain", "1s"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    let listening = stdout.next().unwrap().unwrap();
    assert!(listening.contains("is listening"), "{listening}");
    // The second line and all logs from here on go to closed pipes.
    drop(stdout);
    drop(child.stderr.take());
    let told = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
