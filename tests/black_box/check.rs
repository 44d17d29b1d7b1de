//! `rollcall check`: what it prints, and that it accepts and refuses what a server does, and changes nothing.

use std::net::TcpListener;
use std::process::{Command, Output};

use crate::common::folder::Folder;
use crate::common::process::{Process, command, run_to_exit};
use crate::common::tls::Certificates;

const SECRET: &str = "open-sesame-please-open-sesame-please";

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What it prints, if the settings are valid.
fn report_of(command: Command) -> String {
    let output = run_to_exit(command);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with("These settings are valid.\n") && !text.contains("sesame"), "{text}");
    // As one line per fact, with single spaces.
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

fn report(flags: &[&str]) -> String {
    report_of(command(&[&["check"], flags].concat()))
}

#[test]
fn each_setting_that_differs_has_its_source_and_secrets_are_not_shown() {
    let folder = Folder::new("check-sources");
    let key = folder.file("key", SECRET);
    let file = folder
        .file("rollcall.toml", format!("listen = '127.0.0.1:0'\nttl = '30s'\ntick = '100ms'\nread-key = '{SECRET}'\n"));
    for before in [true, false] {
        let flags = ["--config", &file, "--grace", "5s", "--ttl=20s"];
        let words = if before { [&flags[..], &["check"]].concat() } else { [&["check"], &flags[..]].concat() };
        let mut command = command(&words);
        command.env("ROLLCALL_API_KEY_FILE", &key).env("ROLLCALL_HISTORY", "7").env("ROLLCALL_TTLL", "1s");
        let report = report_of(command);
        for line in [
            &*format!("listen = 127.0.0.1:0 {file}:1"),
            "ttl = 20s --ttl",
            "grace = 5s --grace",
            "history = 7 ROLLCALL_HISTORY",
            &format!("api-key-file = {key} ROLLCALL_API_KEY_FILE"),
            &format!("read-key = hidden {file}:4"),
            &format!("ttl ({file}:2): --ttl replaces it"),
            "keys 1 for everything, 1 for reading",
            "ROLLCALL_TTLL is ignored: this version has no such setting; did you mean ROLLCALL_TTL?",
        ] {
            assert!(report.contains(&format!("{line}\n")), "{line}: {report}");
        }
        assert!(!report.contains("tick ="), "it is the default: {report}");
    }
}

#[test]
fn the_report_says_what_a_server_would_do() {
    let check = |flags: &[&str], lines: &[&str]| {
        let report = report(flags);
        for line in lines {
            assert!(report.contains(&format!("\n{line}\n")), "{line}: {report}");
        }
    };
    check(
        &[],
        &[
            "listens on http://127.0.0.1:8000",
            "users only clients on this machine; they can claim any user id",
            "pages all pages, presence.js and embed.js",
            "state in memory, and ends with the server",
        ],
    );
    check(
        &["--open", "--listen", "0.0.0.0:80", "--status-port", "81", "--internal-listen", "127.0.0.1:9100"],
        &[
            "listens on http://0.0.0.0:80, http://0.0.0.0:81",
            "monitoring http://127.0.0.1:9100, without a key and without TLS",
            "users any client can claim any user id (--open)",
        ],
    );
    let tokens =
        ["--jwt-secret", SECRET, "--jwt-issuer", "app", "--anonymous", "count:*", "--trust-proxy", "10.0.0.0/8"];
    check(
        &tokens,
        &[
            "users named by tokens: 1 secret, issued by app",
            "visitors see numbers of *",
            "proxies 10.0.0.0/8",
            "pages presence.js, embed.js and /docs",
        ],
    );
    let redis = ["--redis", "redis://:open-sesame@127.0.0.1:1", "--event-log", "-"];
    check(
        &redis,
        &["state shared through Redis 127.0.0.1:1 under presence: (not contacted)", "event log standard output"],
    );
    let pusher = ["--pusher-app", "7:key:open-sesame", "--webhook-url", "http://u:sesame@127.0.0.1:1/hook"];
    check(
        &[&pusher[..], &["--webhook-format", "pusher"]].concat(),
        &[
            "users of Pusher applications only; other clients are refused without --open",
            "applications 7 (Pusher protocol)",
            "webhooks http://127.0.0.1:1 (default)",
        ],
    );
    let callback = ["--auth-url", "http://127.0.0.1:1/auth", "--auth-cookie", "sid", "--origin", "https://a.example"];
    check(&callback, &["users named by http://127.0.0.1:1/auth from the cookie sid", "origins https://a.example"]);
}

#[test]
fn the_report_names_the_certificate_and_its_end() {
    let certificates = Certificates::make();
    certificates.sign_ecdsa("server");
    let report =
        report(&["--tls-cert", &certificates.path("server.crt"), "--tls-key", &certificates.path("server.key")]);
    assert!(report.contains("listens on https://127.0.0.1:8000\n"), "{report}");
    let line = report.lines().find(|line| line.starts_with("certificate")).unwrap_or_else(|| panic!("{report}"));
    assert!(line.starts_with("certificate CN=localhost for 127.0.0.1, localhost; expires 20"), "{line}");
    assert!(line.ends_with("(in 299 days)") || line.ends_with("(in 300 days)"), "{line}");
}

#[test]
fn it_refuses_what_a_server_refuses_with_the_same_words() {
    let folder = Folder::new("check-refuses");
    let not_a_key = folder.file("key.pem", "sesame");
    let log = folder.0.join("missing/events");
    let folder_path = folder.0.to_str().unwrap();
    let cases: [&[&str]; 12] = [
        &["--ttl", "1ms"],
        &["--ttl"],
        &["--ttl", "soon"],
        &["--nonsense"],
        &["--port", "9000"],
        &["--listen", "0.0.0.0:8000"],
        &["--config", "/not-a-file"],
        &["--jwt-secret", SECRET, "--default-caps", "sesame"],
        &["--jwt-public-key", &not_a_key],
        &["--jwt-public-key", "/not-a-file"],
        &["--event-log", log.to_str().unwrap()],
        &["--event-log", folder_path],
    ];
    for flags in cases {
        // Lines about usage may differ, and a server logs warnings.
        let first = |words: &[&str]| {
            let output = text_of_refusal(command(words));
            output.lines().find(|line| line.starts_with("error: ")).unwrap_or(&output).to_owned()
        };
        let server = first(flags);
        assert_eq!(first(&[&["check"], flags].concat()), server);
        assert!(server.starts_with("error: ") && !server.contains("sesame"), "{server}");
    }
    text_of_refusal(command(&["check", "more"]));
}

fn text_of_refusal(command: Command) -> String {
    let output = run_to_exit(command);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    text(&output)
}

#[test]
fn errors_that_a_server_finds_late_name_the_file_too() {
    let folder = Folder::new("check-late");
    let file = folder.file("rollcall.toml", "open = true\nevent-log = '/not-a-folder/events'\n");
    for words in [&["--config", &file][..], &["check", "--config", &file]] {
        let output = run_to_exit(command(words));
        assert_eq!(output.status.code(), Some(64), "{}", text(&output));
        let want = format!("event-log ({file}:2) /not-a-folder/events cannot be opened");
        assert!(text(&output).contains(&want), "{}", text(&output));
    }
}

#[test]
fn it_binds_no_port_and_creates_no_file() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let folder = Folder::new("check-nothing");
    let log = folder.0.join("events");
    report(&["--listen", &address, "--event-log", log.to_str().unwrap()]);
    assert!(!log.exists());
}

#[test]
fn the_template_is_a_valid_configuration() {
    let output = run_to_exit(command(&["config"]));
    assert!(output.status.success());
    let folder = Folder::new("check-template");
    let file = folder.file("rollcall.toml", &output.stdout);
    let report = report(&["--config", &file]);
    assert!(report.contains(&format!("config = {file} --config\n")), "{report}");
    let changed = String::from_utf8(output.stdout).unwrap().replace("#ttl = \"10s\"", "ttl = \"12s\"");
    let report = self::report(&["--config", &folder.file("changed.toml", changed)]);
    assert!(report.contains("ttl = 12s "), "{report}");
}

#[test]
fn sighup_says_that_a_changed_file_needs_a_restart() {
    let folder = Folder::new("check-sighup");
    let settings = "listen = '127.0.0.1:0'\nworkers = 1\n";
    let file = folder.file("rollcall.toml", settings);
    let mut process = Process::spawn(command(&["--config", &file]));
    process.address();
    process.signal("HUP");
    process.wait_for_line("SIGHUP: there is nothing to reload");
    assert!(!process.output().iter().any(|line| line.contains("has changed")), "{:?}", process.output());
    folder.file("rollcall.toml", format!("{settings}ttl = '30s'\n"));
    process.signal("HUP");
    let line = process.wait_for_line("the configuration file has changed: restart to use it");
    assert!(line.contains(&file), "{line}");
}
