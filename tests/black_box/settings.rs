//! Where settings come from besides flags: variables that orchestrators set, and files with secrets. What the log says
//! about them, and its format.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::thread;

use serde_json::Value;

use crate::common::folder::Folder;
use crate::common::process::{Process, command, run_to_exit};
use crate::common::{Mirror, RawClient, http};

const SECRET: &str = "open-sesame-please-open-sesame-please";

/// A server on port 0 with further flags and variables.
fn server(flags: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = command(&[&["--listen", "127.0.0.1:0", "--workers", "1"], flags].concat());
    command.envs(variables.iter().copied());
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Starts a server, waits until it listens, and stops it. Returns its output.
fn start_and_stop(flags: &[&str], variables: &[(&str, &str)]) -> String {
    let mut process = Process::spawn(server(flags, variables));
    process.address();
    process.signal("TERM");
    assert!(process.wait_for_exit().success());
    process.final_output().join("\n")
}

#[test]
fn variables_that_kubernetes_sets_for_services_do_not_prevent_a_start() {
    let address = "tcp://10.96.0.12:3001";
    let names = ["PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_3001_TCP", "PORT_3001_TCP_ADDR"];
    // As for Services named rollcall, rollcall-status and rollcall-redis.
    for service in ["ROLLCALL", "ROLLCALL_STATUS", "ROLLCALL_REDIS"] {
        let variables: Vec<_> = names.iter().map(|name| (format!("{service}_{name}"), address)).collect();
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let output = start_and_stop(&[], &variables);
        let is_warned = output.contains("ROLLCALL_STATUS_PORT is ignored");
        assert_eq!(is_warned, service == "ROLLCALL_STATUS", "{output}");
        assert!(!output.contains("no setting"), "{output}");
    }
    let output = start_and_stop(&[], &[("ROLLCALL_STATUS_PORT", "0")]);
    assert!(output.contains("online status is served on"), "a port is a port: {output}");
    // Other wrong values are still errors.
    let output = run_to_exit(server(&[], &[("ROLLCALL_STATUS_PORT", "http://x")]));
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
}

#[test]
fn unknown_variables_are_reported_without_their_values() {
    let output = start_and_stop(&[], &[("ROLLCALL_ADMIN_TOKEM", SECRET), ("ROLLCALL_OLD", ""), ("ROLLCALL", "1")]);
    assert!(output.contains("ROLLCALL_ADMIN_TOKEM is ignored: this version has no such setting"), "{output}");
    assert!(!output.contains(SECRET) && !output.contains("ROLLCALL_OLD"), "{output}");
}

#[tokio::test]
async fn each_secret_can_be_read_from_a_file() {
    let folder = Folder::new("settings-good");
    for end in ["", "\n", "\r\n"] {
        let file = folder.file("token", format!("{SECRET}{end}"));
        let flag = ["--api-key-file", &*file];
        for (flags, variables) in [(&flag[..], &[][..]), (&[][..], &[("ROLLCALL_API_KEY_FILE", &*file)][..])] {
            let mut process = Process::spawn(server(flags, variables));
            let address = process.address();
            let headers = [("authorization", &*format!("Bearer {SECRET}"))];
            let answer = http::request(address, "POST", "/v1/users/alice/kick", &headers, b"").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            process.signal("TERM");
            assert!(process.wait_for_exit().success());
            let output = process.final_output().join("\n");
            assert!(!output.contains(SECRET) && output.contains("api-key-file="), "{output}");
            assert!(!output.contains("other processes"), "{output}");
        }
    }
    let key = folder.file("key", SECRET);
    let output = start_and_stop(&["--dev-login", "--session-key-file", &key], &[]);
    assert!(!output.contains(SECRET), "{output}");
    // Nothing listens there: the message proves that the URLs were read.
    let urls = folder.file("redis", format!("redis://user:{SECRET}@127.0.0.1:1\nredis://user:{SECRET}@127.0.0.1:2\n"));
    let output = run_to_exit(server(&["--redis-file", &urls], &[]));
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    assert!(!text(&output).contains(SECRET), "{}", text(&output));
}

#[test]
fn a_file_without_a_secret_is_an_error_that_names_the_file_and_shows_nothing_of_it() {
    let folder = Folder::new("settings-bad");
    let check = |flags: &[&str], variables: &[(&str, &str)], words: &[&str]| {
        let output = run_to_exit(server(flags, variables));
        let message = text(&output);
        assert_eq!(output.status.code(), Some(64), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
        assert!(!message.contains("sesame"), "{message}");
    };
    let missing = folder.0.join("missing");
    let missing = missing.to_str().unwrap();
    check(&["--api-key-file", missing], &[], &["--api-key-file", missing, "No such file"]);
    check(&[], &[("ROLLCALL_REDIS_FILE", missing)], &["ROLLCALL_REDIS_FILE", missing, "No such file"]);
    check(&["--redis-file", folder.0.to_str().unwrap()], &[], &["--redis-file", "directory"]);
    for (content, word) in [(&b""[..], "empty"), (b"\n", "empty"), (b" \n", "empty"), (b"sesame\xff", "UTF-8")] {
        let file = folder.file("content", content);
        check(&["--api-key-file", &file], &[], &[&file, word]);
    }
    let large = folder.file("large", "sesame".repeat(20_000));
    check(&["--api-key-file", &large], &[], &[&large, "larger than 64 KiB"]);
    let short = folder.file("short", "sesame");
    check(&["--api-key-file", &short], &[], &["--api-key-file must have at least 16 bytes", "openssl rand -hex 32"]);
    check(&[], &[("ROLLCALL_REDIS_FILE", &short)], &["ROLLCALL_REDIS_FILE"]);
    let token = folder.file("token", SECRET);
    check(&["--api-key-file", &token, "--api-key", SECRET], &[], &["--api-key and", "both"]);
    let both = [("ROLLCALL_API_KEY_FILE", &*token), ("ROLLCALL_API_KEY", SECRET)];
    check(&[], &both, &["ROLLCALL_API_KEY and ROLLCALL_API_KEY_FILE are both given"]);
}

#[test]
fn a_value_that_is_not_valid_is_an_error_that_says_how_to_write_it() {
    let url = "http://127.0.0.1:1/";
    let cases: [(&[&str], &str); 5] = [
        (&["--max-connections", "0"], "write a whole number from 1"),
        (&["--rest-users-per-address", "many"], "write a whole number from 1"),
        (&["--jwks-url", "example"], "write it like https://"),
        (&["--pusher-app", "app"], "write it as ID:KEY:SECRET"),
        (&["--webhook-url", url, "--webhook-secret", "sesame"], "echo whsec_$(openssl rand -base64 24)"),
    ];
    for (flags, words) in cases {
        let output = run_to_exit(server(flags, &[]));
        let message = text(&output);
        assert_eq!(output.status.code(), Some(64), "{message}");
        assert!(message.contains(words) && !message.contains("sesame"), "{flags:?}: {message}");
    }
    for (name, value, words) in [
        ("ROLLCALL_OPEN", "maybe", "write true or false; yes, no, on, off, 1 and 0 work as well"),
        ("ROLLCALL_HISTORY", "fifty", "write a whole number"),
        ("ROLLCALL_TTL", "30", "write a duration with its unit, such as 500ms, 10s or 2m"),
    ] {
        let output = run_to_exit(server(&[], &[(name, value)]));
        let want = format!("invalid value '{value}' for '{name}': {words}");
        assert!(text(&output).contains(&want), "{}", text(&output));
    }
}

#[test]
fn a_server_that_is_not_redis_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        // A socket that is closed too early could end the connection before the answer is read.
        let mut open = Vec::new();
        for mut socket in listener.incoming().flatten() {
            let _ = socket.read(&mut [0; 1024]).and_then(|_| socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
            open.push(socket);
        }
    });
    let output = run_to_exit(server(&["--redis", &url], &[]));
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    assert!(text(&output).contains("what answers there is not Redis"), "{}", text(&output));
}

#[test]
fn a_setting_that_grants_access_is_an_error_if_it_is_empty() {
    let help = text(&run_to_exit(command(&["--help"])));
    let (_, part) = help.split_once("\nIdentity: tokens that your application signs:\n").expect("a part of the help");
    let (part, _) = part.split_once("\nPages:\n").expect("the next part");
    let variables: Vec<_> = part.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next()).collect();
    assert!(variables.contains(&"ROLLCALL_API_KEY_FILE") && variables.contains(&"ROLLCALL_OPEN"), "{variables:?}");
    assert!(variables.contains(&"ROLLCALL_TRUST_PROXY") && variables.contains(&"ROLLCALL_PROXY_PROTOCOL"));
    let of_tls = ["TLS_CERT", "TLS_KEY", "REDIS_CA", "REDIS_CERT", "REDIS_KEY"].map(|name| format!("ROLLCALL_{name}"));
    for name in variables.into_iter().chain(of_tls.iter().map(String::as_str)) {
        let output = run_to_exit(server(&[], &[(name, "")]));
        assert_eq!(output.status.code(), Some(64), "{name}: {}", text(&output));
        assert!(text(&output).contains(name), "{name}: {}", text(&output));
    }
    // Others count as unset: compose files pass on empty variables.
    start_and_stop(&[], &[("ROLLCALL_REDIS", ""), ("ROLLCALL_REDIS_FILE", ""), ("ROLLCALL_TTL", "")]);
}

#[test]
fn a_secret_on_the_command_line_is_a_warning_without_the_secret() {
    let check = |flags: &[&str], variables: &[(&str, &str)], want: Option<&str>| {
        let output = start_and_stop(flags, variables);
        let warnings: Vec<_> = output.lines().filter(|line| line.contains("other processes can see it")).collect();
        assert_eq!(warnings.len(), usize::from(want.is_some()), "{flags:?}: {output}");
        assert!(want.is_none_or(|flag| warnings[0].contains(flag)), "{flags:?}: {output}");
        assert!(!output.contains("sesame"), "{output}");
    };
    check(&["--api-key", SECRET], &[], Some("--api-key-file FILE"));
    check(&["--dev-login", "--session-key", SECRET], &[], Some("--session-key-file FILE"));
    check(&[], &[("ROLLCALL_API_KEY", SECRET)], None);
    let url = format!("redis://:{SECRET}@127.0.0.1:1");
    check(&["--redis", &url, "--redis-optional"], &[], Some("--redis-file FILE"));
    check(&["--redis", "redis://127.0.0.1:1", "--redis-optional"], &[], None);
    check(&["--redis-optional"], &[("ROLLCALL_REDIS", &url)], None);
}

#[test]
fn a_file_with_a_secret_that_all_users_can_read_is_a_warning_and_one_for_two_secrets_an_error() {
    let folder = Folder::new("settings-modes");
    let key = folder.file("key", SECRET);
    let warning = format!("ROLLCALL_API_KEY_FILE has a secret, and every user of this machine can read {key}");
    for (mode, is_warned) in [(0o644, true), (0o440, false)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let output = start_and_stop(&[], &[("ROLLCALL_API_KEY_FILE", &key)]);
        assert_eq!(output.matches(&warning).count(), usize::from(is_warned), "{mode:o}: {output}");
        assert!(!output.contains("sesame"), "{output}");
    }
    let output = run_to_exit(server(&["--read-key-file", &key], &[("ROLLCALL_API_KEY_FILE", &key)]));
    let want = format!("ROLLCALL_API_KEY_FILE and --read-key-file name the same file, {key}");
    assert!(output.status.code() == Some(64) && text(&output).contains(&want), "{}", text(&output));
}

#[test]
fn a_secret_from_a_file_is_not_shown_if_the_command_line_is_wrong() {
    let folder = Folder::new("settings-wrong");
    let (token, urls) = (folder.file("token", SECRET), folder.file("urls", format!("redis://:{SECRET}@h")));
    for variable in [("ROLLCALL_API_KEY_FILE", &*token), ("ROLLCALL_REDIS_FILE", &*urls)] {
        for flags in [&["--", "serve"][..], &["serve"], &["--nothing"], &["--ttl"], &["--redis-ca"]] {
            let output = run_to_exit(server(flags, &[variable]));
            assert_eq!(output.status.code(), Some(64), "{variable:?} {flags:?}");
            assert!(!text(&output).contains(SECRET), "{flags:?}: {}", text(&output));
        }
    }
    let output = start_and_stop(&["--"], &[("ROLLCALL_API_KEY_FILE", &token)]);
    assert!(!output.contains(SECRET), "{output}");
}

#[test]
fn one_log_line_says_what_was_started_with_which_settings() {
    let flags = ["--ttl", "30s", "--redis", "redis://:open-sesame@127.0.0.1:1", "--redis-optional", "--dev-login"];
    let output = start_and_stop(&flags, &[("ROLLCALL_TICK", "50ms"), ("ROLLCALL_API_KEY", SECRET)]);
    let started = output.lines().find(|line| line.contains("started")).unwrap_or_else(|| panic!("{output}"));
    for part in [
        env!("CARGO_PKG_VERSION"),
        "ttl=30s",
        "tick=50ms (ROLLCALL_TICK)",
        "ping-interval=30s",
        "redis=hidden",
        "dev-login=true",
        "api-key=hidden (ROLLCALL_API_KEY)",
        "workers=1",
    ] {
        assert!(started.contains(part), "{part} is missing: {started}");
    }
    assert!(!output.contains("sesame"), "{output}");
}

/// Each line must be a JSON object with a level. Returns the messages.
fn messages(lines: &[String]) -> Vec<String> {
    let message = |line: &String| {
        let parsed: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(parsed["level"].is_string() && parsed["timestamp"].is_string(), "{line}");
        parsed["fields"]["message"].as_str().unwrap_or_else(|| panic!("no message: {line}")).to_owned()
    };
    lines.iter().map(message).collect()
}

#[tokio::test]
async fn every_line_of_a_server_is_json_if_its_log_is() {
    for variables in [&[("ROLLCALL_LOG_FORMAT", "json")][..], &[]] {
        let flags = ["--log-format", "json", "--log", "debug", "--status-port", "0"];
        let flags = if variables.is_empty() { &flags[..] } else { &flags[2..] };
        let mut process = Process::spawn(server(flags, variables));
        let address = process.address();
        let mut alice = Mirror::connect(address, "alice", &["lobby"]).await;
        alice.wait_until("her own join", |alice| alice.has("lobby", "alice")).await;
        let _ = http::request(address, "GET", "/nothing", &[], b"").await;
        process.signal("TERM");
        assert!(process.wait_for_exit().success());
        let messages = messages(&process.final_output());
        for word in ["is listening on", "open http://", "online status", "started", "stopped"] {
            assert!(messages.iter().any(|message| message.contains(word)), "{word} is missing: {messages:?}");
        }
    }
}

#[test]
fn errors_that_end_the_process_are_json_if_the_log_is() {
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let occupied = occupied.local_addr().unwrap().to_string();
    for (flags, code, word) in [
        (&["--ttl", "1ms"][..], 64, "ttl must be"),
        (&["--ttl", "soon"], 64, "soon"),
        (&["--nonsense"], 64, "--nonsense"),
        (&["--listen", &occupied], 1, "in use"),
        (&["--redis", "redis://127.0.0.1:1"], 69, "Redis"),
        (&["health", "http://127.0.0.1:1"], 1, "not healthy"),
    ] {
        let mut command = command(&[&["--log-format", "json"], flags].concat());
        command.env("ROLLCALL_WORKERS", "1");
        let output = run_to_exit(command);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {}", text(&output));
        let lines: Vec<String> = text(&output).lines().map(str::to_owned).collect();
        let messages = messages(&lines);
        assert!(messages.last().is_some_and(|message| message.contains(word)), "{flags:?}: {messages:?}");
        assert!(!messages.iter().any(|message| message.starts_with("error:")), "{messages:?}");
    }
}

#[tokio::test]
async fn clients_that_use_up_the_sockets_for_requests_cause_one_log_line_per_second() {
    let mut process = Process::spawn(server(&["--max-connections", "1"], &[]));
    let address = process.address();
    let begin = std::time::Instant::now();
    let mut clients = std::collections::VecDeque::new();
    // The server has sockets for 128 requests. Each further client takes the place of those that have waited longest.
    for _ in 0..1000 {
        clients.push_back(RawClient::tcp(address).await);
        if clients.len() > 135 {
            clients.pop_front();
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    process.wait_for_line("too many connections are no WebSockets");
    let lines = process.output().iter().filter(|line| line.contains("too many connections are no WebSockets")).count();
    let seconds = begin.elapsed().as_secs() as usize;
    assert!(lines <= seconds + 2, "{lines} lines in {seconds} s");
}
