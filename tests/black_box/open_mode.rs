//! A server without tokens is open: every client can claim any user id. It serves only its own machine then, unless
//! `--open` says that this is meant.

use crate::common::TestServer;
use crate::common::http::{self, Response};
use crate::common::process::{Process, command, run_to_exit};
use crate::common::raw::{RawClient, refused_upgrade};

/// Requests that come from elsewhere, as far as a server can tell.
const FOREIGN: [(&str, &str); 9] = [
    ("host", "presence.example.com"),
    ("host", "evil.example:8000"),
    ("origin", "https://app.example.com"),
    ("origin", "null"),
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-for", "203.0.113.7, 127.0.0.1"),
    ("x-real-ip", "203.0.113.7"),
    ("forwarded", "for=203.0.113.7;proto=https"),
    ("forwarded", "for=127.0.0.1, for=\"[2001:db8::7]:443\""),
];

/// Requests of programs and pages of this machine.
const OWN: [(&str, &str); 8] = [
    ("host", "localhost:8000"),
    ("host", "127.0.0.1"),
    ("host", "mybox:8000"),
    ("host", "app.localhost"),
    ("origin", "http://localhost:3000"),
    ("origin", "http://127.0.0.1:5173"),
    ("x-forwarded-for", "127.0.0.1"),
    ("forwarded", "for=\"[::1]\""),
];

async fn get(server: &TestServer, path: &str, header: (&str, &str)) -> Response {
    http::request(server.address(), "GET", path, &[header], b"").await
}

#[tokio::test]
async fn requests_from_elsewhere_are_refused_and_the_answer_names_open() {
    let server = TestServer::start(&[]);
    for header in FOREIGN {
        for path in ["/v1/connect?user=eve", "/ws/eve", "/ws", "/ws-online-status?userId=eve"] {
            let refused = refused_upgrade(server.address(), path, &[header]).await;
            assert!(refused.error(403).contains("--open"), "{path} {header:?}: {refused:?}");
        }
        for path in ["/v1/rooms", "/online_users", "/v1/rooms/lobby/members", "/metrics", "/v1/stats"] {
            assert!(get(&server, path, header).await.error(403).contains("--open"), "{path} {header:?}");
        }
        let heartbeat = http::request(server.address(), "POST", "/heartbeat", &[header], b"user_id=eve").await;
        assert!(heartbeat.error(403).contains("--open"), "{header:?}");
    }
    assert_eq!(server.stat("users").await, 0, "nobody came in");
    server.stop().await;
}

#[tokio::test]
async fn a_path_that_serves_a_file_to_everybody_refuses_other_requests_from_elsewhere() {
    let server = TestServer::start(&["--dev-login"]);
    for header in FOREIGN {
        assert_eq!(get(&server, "/login", header).await.status, 200, "{header:?}");
        for (method, path) in [("POST", "/login"), ("POST", "/chat"), ("DELETE", "/livez")] {
            let refused = http::request(server.address(), method, path, &[header], b"user=eve").await;
            assert!(refused.error(403).contains("--open"), "{method} {path} {header:?}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_of_this_machine_are_served() {
    let server = TestServer::start(&[]);
    for header in OWN {
        let (mut client, _) = RawClient::open_with(server.address(), "/v1/connect?user=a", &[header], b"").await;
        assert!(client.is_served().await, "{header:?}");
        assert_eq!(get(&server, "/v1/rooms", header).await.status, 200, "{header:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn probes_and_files_are_served_to_everybody() {
    let server = TestServer::start(&[]);
    for header in FOREIGN {
        for path in ["/livez", "/readyz", "/", "/presence.js"] {
            assert_eq!(get(&server, path, header).await.status, 200, "{path} {header:?}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn with_open_requests_from_everywhere_are_served() {
    let server = TestServer::start(&["--open"]);
    for header in FOREIGN {
        let (mut client, _) = RawClient::open_with(server.address(), "/v1/connect?user=a", &[header], b"").await;
        assert!(client.is_served().await, "{header:?}");
        assert_eq!(get(&server, "/v1/rooms", header).await.status, 200, "{header:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_later_request_on_the_same_connection_is_checked_as_well() {
    let server = TestServer::start(&[]);
    let mut client = RawClient::tcp(server.address()).await;
    client.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let head = client.head().await;
    client.skip(head.header("content-length").unwrap().parse().unwrap()).await;
    client.send(b"GET /v1/rooms HTTP/1.1\r\nHost: rebound.example.com\r\n\r\n").await;
    assert_eq!(client.head().await.status, 403);
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_is_logged_in_one_line_that_names_open_and_hides_control_characters() {
    let mut process = Process::start(&["--workers", "1"]);
    let address = process.address();
    for _ in 0..20 {
        refused_upgrade(address, "/v1/connect?user=eve", &[("origin", "http://x.example\u{200b}")]).await.error(403);
    }
    process.signal("TERM");
    assert!(process.wait_for_exit().success());
    let output = process.final_output();
    let lines: Vec<_> = output.iter().filter(|line| line.contains("refused a request")).collect();
    assert!((1..20).contains(&lines.len()), "{output:#?}");
    assert!(lines.iter().all(|line| line.contains("--open") && line.contains("x.example\\u{")), "{lines:#?}");
    let modes = output.iter().filter(|line| line.contains("identity:") && line.contains("open")).count();
    assert_eq!(modes, 1, "one line states the mode: {output:#?}");
}

#[test]
fn an_open_server_does_not_listen_on_public_addresses() {
    for (flags, variable) in [
        (&["--listen", "0.0.0.0:0"][..], None),
        (&["--listen", "[::]:0"], None),
        (&["--listen", "0.0.0.0:0", "--dev-login"], None),
        (&[], Some("0.0.0.0:0")),
    ] {
        let mut server = command(flags);
        server.envs(variable.map(|listen| ("ROLLCALL_LISTEN", listen)));
        let output = run_to_exit(server);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{flags:?}: {message}");
        for part in ["--open", "docker run --rm -p 127.0.0.1:8000:8000 -e ROLLCALL_OPEN=1", "ROLLCALL_JWT_SECRET_FILE"]
        {
            assert!(message.contains(part), "{flags:?} {part}: {message}");
        }
    }
}

#[test]
fn with_open_it_does_and_an_empty_variable_is_no_answer() {
    let mut process = Process::spawn(command(&["--listen", "0.0.0.0:0", "--open", "--workers", "1"]));
    process.wait_for_line("identity:");
    process.signal("TERM");
    assert!(process.wait_for_exit().success(), "{:#?}", process.output());
    let mut empty = command(&["--listen", "127.0.0.1:0"]);
    empty.env("ROLLCALL_OPEN", "");
    let output = run_to_exit(empty);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(64) && message.contains("ROLLCALL_OPEN"), "{message}");
}

#[test]
fn open_mode_and_logins_for_development_exclude_tokens_and_a_callback() {
    let secret = ["--jwt-secret", "the secret of the application in this test"];
    let callback = ["--auth-url", "http://127.0.0.1:1/auth", "--auth-cookie", "sid"];
    for identity in [&secret[..], &callback] {
        for flag in ["--open", "--dev-login"] {
            let words = [&["--listen", "127.0.0.1:0", flag], identity].concat();
            let output = run_to_exit(command(&words));
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(64) && message.contains(flag), "{identity:?}: {message}");
        }
    }
}
