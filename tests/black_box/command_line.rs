//! The command line of the binary: help, bad configuration, environment variables, a port in use, signals and logs.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::time::Instant;

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

/// A listener, and the address that it occupies.
fn port_in_use() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port 0 can be bound");
    let address = listener.local_addr().expect("it is bound").to_string();
    (listener, address)
}

/// Expects exit code 64 and a message with all of these words. The port is in use, so a server that tries to bind it
/// before checking its configuration fails with another code and message.
fn check_bad(arguments: &[&str], words: &[&str]) {
    let (_listener, address) = port_in_use();
    let mut all = arguments.to_vec();
    if !arguments.contains(&"--listen") {
        all.extend(["--listen", &address]);
    }
    let output = run(&all);
    let message = text(&output);
    assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "{arguments:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{arguments:?}: the message lacks {word}: {message}");
    }
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
}

#[test]
fn help_lists_the_flags_and_their_environment_variables() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    let message = text(&output);
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
        "--keep-alive",
        "--drain-delay",
        "--dev-login",
        "--session-key",
        "--api-key",
        "--event-log",
        "--log",
        "--log-format",
    ] {
        let variable = format!("ROLLCALL_{}", flag[2..].to_uppercase().replace('-', "_"));
        assert!(message.contains(flag) && message.contains(&variable), "{flag} and {variable}: {message}");
    }
    let headings = message.lines().filter(|line| line.ends_with(':') && !line.starts_with(' '));
    let expected = [
        "Commands:",
        "Options:",
        "Listening:",
        "TLS:",
        "Workers and limits:",
        "Limits per user and address:",
        "Presence:",
        "Chat:",
        "Several nodes (Redis):",
        "Identity: tokens that your application signs:",
        "Identity: answers of your application:",
        "Identity: clients without a credential:",
        "Origins and proxies:",
        "Keys of applications:",
        "Pusher protocol:",
        "Pages:",
        "Event log:",
        "Webhooks:",
        "Logging:",
        "Examples:",
    ];
    assert_eq!(headings.collect::<Vec<_>>(), expected);
}

#[test]
fn the_version_flag_prints_the_version() {
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
    check_bad(&["--api-key", "short"], &["api-key", "16"]);
}

#[test]
fn bad_environment_variables_exit_with_64() {
    let bad = |name: &str, value: &str| {
        let (_listener, address) = port_in_use();
        let mut command = command(&["--listen", &address]);
        command.env(name, value);
        let output = run_to_exit(command);
        let message = text(&output);
        assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "{name}={value}: {message}");
        assert!(message.to_lowercase().contains(&name["ROLLCALL_".len()..].to_lowercase()), "{message}");
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
async fn the_printed_url_serves_clients() {
    let mut process = Process::start(&["--workers", "1"]);
    let address = process.address();
    let page = crate::common::http::request(address, "GET", "/", &[], b"").await;
    assert_eq!(page.status, 200);
    let mut alice = Mirror::connect(address, "alice", &["lobby"]).await;
    assert_eq!(alice.welcome["ttl_ms"], 10_000, "the documented default");
    assert_eq!(alice.welcome["tick_ms"], 100, "the documented default");
    alice.wait_until("her own join", |alice| alice.has("lobby", "alice")).await;
}

#[test]
fn a_port_in_use_is_reported_with_its_address() {
    let (_listener, address) = port_in_use();
    let output = run(&["--listen", &address]);
    let message = text(&output);
    assert!(!output.status.success(), "{message}");
    assert_ne!(output.status.code(), Some(BAD_CONFIGURATION), "the configuration is valid: {message}");
    assert!(message.contains(&address), "the message lacks the address: {message}");
    assert!(message.contains("in use"), "the message lacks the reason: {message}");
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn two_servers_cannot_share_a_port() {
    // The workers of one server share a port (SO_REUSEPORT). A second server must not be able to join them.
    let mut first = Process::start(&["--workers", "2"]);
    let address = first.address().to_string();
    let output = run(&["--listen", &address, "--workers", "2"]);
    let message = text(&output);
    assert!(!output.status.success(), "{message}");
    assert!(message.contains(&address) && message.contains("in use"), "{message}");
}

#[tokio::test]
async fn signals_close_connections_with_1012_and_exit_with_0() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::start(&["--tick", "20ms", "--drain", "60s"]);
        let address = process.address();
        let mut alice = Mirror::connect(address, "alice", &["lobby"]).await;
        let mut list = UserList::connect(address, "bob").await;
        alice.wait_until("her own join", |alice| alice.has("lobby", "alice")).await;
        process.signal(signal);
        assert_eq!(alice.wait_for_close().await, Some(1012), "{signal}");
        list.wait_until("the end", |list| list.ended).await;
        assert_eq!(list.closed, Some(Some(1012)), "{signal}");
        let status = process.wait_for_exit();
        assert_eq!(status.code(), Some(0), "{signal}: {:?}", process.output());
    }
}

#[test]
fn boolean_variables_are_read_and_empty_variables_are_ignored() {
    let output_with = |name: &str, value: &str| {
        let mut command = command(&["--listen", "127.0.0.1:0", "--workers", "1"]);
        command.env(name, value);
        text(&run_to_exit(command))
    };
    for value in ["1", "true", "yes", "on"] {
        for flag in ["REDIS_CLUSTER", "REDIS_OPTIONAL"] {
            let message = output_with(&format!("ROLLCALL_{flag}"), value);
            assert!(message.contains("without --redis URL"), "{flag}={value}: {message}");
        }
    }
    assert!(output_with("ROLLCALL_TTL", "soon").contains("write a duration with its unit"));
    let mut with_empty = command(&["--listen", "127.0.0.1:0", "--workers", "1"]);
    with_empty.envs(["REDIS", "SHORT_TTL", "NODE_ID", "LOG"].map(|flag| (format!("ROLLCALL_{flag}"), "")));
    let mut process = Process::spawn(with_empty);
    process.address();
    process.signal("TERM");
    assert!(process.wait_for_exit().success(), "{:?}", process.output());
}

#[test]
fn the_health_command_reports_whether_the_server_is_healthy_and_why_not() {
    let mut process = Process::start(&["--workers", "1"]);
    let address = process.address().to_string();
    let url = format!("http://{address}");
    let check_health = |arguments: &[&str]| {
        let output = run(arguments);
        (output.status.code(), text(&output))
    };
    // On a very busy machine the answer may take longer than the three seconds that the command waits.
    let until_answered = |arguments: &[&str]| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let (code, message) = check_health(arguments);
            if !message.contains("no answer") || Instant::now() >= deadline {
                return (code, message);
            }
        }
    };
    assert_eq!(until_answered(&["--listen", &address, "health"]).0, Some(0));
    assert_eq!(until_answered(&["health", &url]).0, Some(0));
    assert_eq!(until_answered(&["health", &format!("{url}/livez")]).0, Some(0));
    let mut from_environment = command(&["health"]);
    from_environment.env("ROLLCALL_LISTEN", address.replace("127.0.0.1", "0.0.0.0"));
    // The command does not check variables of the server.
    from_environment.env("ROLLCALL_SESSION_KEY", "k".repeat(40)).env("ROLLCALL_GRACE", "1h");
    let output = run_to_exit(from_environment);
    assert!(output.status.code() == Some(0) || text(&output).contains("no answer"), "{}", text(&output));

    let (code, message) = until_answered(&["health", &format!("{url}/nothing")]);
    assert!(code == Some(1) && message.contains("404"), "{code:?} {message}");
    let (code, message) = check_health(&["health", "ftp://localhost"]);
    assert!(code == Some(1) && message.contains("http://"), "{code:?} {message}");
    let (code, message) = check_health(&["health", &url.replace("http:", "https:")]);
    assert!(code == Some(1) && message.contains("is not healthy"), "{code:?} {message}");
    // This listener never accepts a connection, so it never answers.
    let (_listener, silent) = port_in_use();
    let (code, message) = check_health(&["health", &format!("http://{silent}")]);
    assert!(code == Some(1) && message.contains("no answer"), "{code:?} {message}");
    process.signal("TERM");
    assert!(process.wait_for_exit().success());
    let (code, message) = check_health(&["health", &url]);
    assert!(code == Some(1) && message.contains("refused"), "{code:?} {message}");
    assert_eq!(check_health(&["health", &url, "more"]).0, Some(BAD_CONFIGURATION));
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
    let kill = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
