//! Keys of applications that use the HTTP API: `--api-key` for everything, `--read-key` for reading.

use std::time::Instant;

use crate::common::folder::Folder;
use crate::common::http::{self, Response};
use crate::common::process::{Process, command, run_to_exit};
use crate::common::raw::refused_upgrade;
use crate::common::tls::Certificates;
use crate::common::{DEADLINE, RawClient, TestServer};

const API_KEY: &str = "an api key for tests";
const READ_KEY: &str = "a read key for tests";
const READS: [(&str, &str); 7] = [
    ("GET", "/v1/rooms"),
    ("GET", "/v1/rooms/lobby/members"),
    ("GET", "/v1/rooms/lobby/count"),
    ("GET", "/online_users"),
    ("POST", "/v1/users/status"),
    ("GET", "/metrics"),
    ("GET", "/v1/stats"),
];

async fn send(server: &TestServer, method: &str, path: &str, authorization: &[&str]) -> Response {
    let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
    let body: &[u8] = if path == "/v1/users/status" { br#"{"users":["a"]}"# } else { b"" };
    http::request(server.address(), method, path, &headers, body).await
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

#[tokio::test]
async fn reads_stay_open_until_there_is_a_key() {
    let server = TestServer::start(&[]);
    for (method, path) in READS {
        assert_eq!(send(&server, method, path, &[]).await.status, 200, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn with_a_key_reads_need_one_and_a_missing_key_is_401_and_a_wrong_one_403() {
    for flags in
        [&["--api-key", API_KEY][..], &["--read-key", READ_KEY], &["--api-key", API_KEY, "--read-key", READ_KEY]]
    {
        let server = TestServer::start(flags);
        for (method, path) in READS {
            let missing = send(&server, method, path, &[]).await;
            assert!(missing.error(401).contains("--read-key"), "{path}");
            assert_eq!(missing.header("www-authenticate"), Some("Bearer"));
            send(&server, method, path, &["Basic YTpi"]).await.error(401);
            for wrong in ["another key for tests", &API_KEY[1..], &API_KEY.to_uppercase()] {
                send(&server, method, path, &[&bearer(wrong)]).await.error(403);
            }
            for key in [API_KEY, READ_KEY] {
                let status = send(&server, method, path, &[&bearer(key)]).await.status;
                assert_eq!(status, if flags.contains(&key) { 200 } else { 403 }, "{path} {flags:?}");
            }
        }
        for path in ["/livez", "/readyz"] {
            assert_eq!(send(&server, "GET", path, &[]).await.status, 200, "{path} is always open");
        }
        assert!(server.raw("a").await.is_served().await, "clients connect as before");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_kick_needs_an_api_key_in_every_mode() {
    for flags in [&[][..], &["--read-key", READ_KEY], &["--api-key", API_KEY, "--read-key", READ_KEY], &["--open"]] {
        let server = TestServer::start(flags);
        let kick = async |authorization: &[&str]| send(&server, "POST", "/v1/users/a/kick", authorization).await;
        assert!(kick(&[]).await.error(401).contains("--api-key"), "{flags:?}");
        for wrong in ["Bearer wrong", &bearer(READ_KEY)] {
            assert!(kick(&[wrong]).await.error(403).contains("--api-key"), "{flags:?}");
        }
        let status = kick(&[&bearer(API_KEY)]).await.status;
        assert_eq!(status, if flags.contains(&API_KEY) { 200 } else { 403 }, "{flags:?}");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_key_counts_only_in_one_authorization_header() {
    let server = TestServer::start(&["--api-key", API_KEY]);
    let key = bearer(API_KEY);
    assert_eq!(send(&server, "GET", "/v1/rooms", &[&key.replace("Bearer", "bearer")]).await.status, 200);
    send(&server, "GET", "/v1/rooms", &[&key, &key]).await.error(400);
    let encoded = API_KEY.replace(' ', "+");
    send(&server, "GET", &format!("/v1/rooms?token={encoded}&api_key={encoded}"), &[]).await.error(401);
    server.stop().await;
}

#[tokio::test]
async fn only_api_keys_show_who_is_over_budget() {
    let server = TestServer::start(&["--api-key", API_KEY, "--read-key", READ_KEY]);
    let stats = async |key| send(&server, "GET", "/v1/stats", &[&bearer(key)]).await.json();
    assert!(stats(API_KEY).await["over_budget"].is_array());
    assert!(stats(READ_KEY).await.get("over_budget").is_none());
    server.stop().await;
    let open = TestServer::start(&[]);
    assert!(open.get("/v1/stats").await.json().get("over_budget").is_none());
    open.stop().await;
}

#[tokio::test]
async fn what_keys_do_is_logged_with_their_hash_and_no_key_is() {
    let secret = "the secret of the application in this test";
    let mut process = Process::start(&["--workers", "1", "--api-key", API_KEY, "--jwt-secret", secret]);
    let address = process.address();
    let key = bearer(API_KEY);
    let kicked = http::request(address, "POST", "/v1/users/alice/kick", &[("authorization", &key)], b"").await;
    assert_eq!(kicked.status, 200);
    let hidden = "x\u{202e}\n\u{1b}[31m";
    let body = serde_json::json!({"jti": hidden.repeat(20)}).to_string();
    let revoked = http::request(address, "POST", "/v1/revoke", &[("authorization", &key)], body.as_bytes()).await;
    assert_eq!(revoked.status, 200);
    let wrong = [("authorization", "Bearer a wrong key for tests")];
    http::request(address, "GET", "/metrics", &wrong, b"").await.error(403);
    for user in ["bob%0Aforged", "bob%E2%80%AEforged", "bob"] {
        http::request(address, "POST", &format!("/v1/users/{user}/kick"), &wrong, b"").await.error(403);
        let path = format!("/v1/users/{user}/kick");
        let status = http::request(address, "POST", &path, &[("authorization", &key)], b"").await.status;
        assert_eq!(status, if user == "bob" { 200 } else { 400 });
    }
    process.signal("TERM");
    assert!(process.wait_for_exit().success());
    let output = process.final_output();
    let line = output.iter().find(|line| line.contains("kick")).expect("a line about the kick");
    // printf %s 'an api key for tests' | sha256sum
    assert!(line.contains("key=63165319") && line.contains("target=alice"), "{line}");
    let line = output.iter().find(|line| line.contains("revoke")).expect("a line about the revocation");
    assert!(line.contains("key=63165319 target=token x\\u{202e}\\n\\u{1b}[31mx"), "{line}");
    assert!(line.len() < 350, "{line}");
    assert!(!output.iter().any(|line| line.contains(['\u{202e}', '\u{1b}']) || line.starts_with("forged")));
    assert!(!output.iter().any(|line| line.contains(API_KEY) || line.contains("a wrong key")), "{output:#?}");
}

/// What the internal port serves.
const INTERNAL: [&str; 4] = ["/metrics", "/v1/stats", "/livez", "/readyz"];
const INTERNAL_FLAGS: [&str; 4] = ["--internal-listen", "127.0.0.1:0", "--api-key", API_KEY];

#[tokio::test]
async fn the_internal_port_serves_counters_and_probes_without_a_key_also_without_tls() {
    let certificates = Certificates::make();
    let [certificate, key] = ["redis.crt", "redis.key"].map(|name| certificates.path(name));
    let tls = ["--tls-cert", &certificate, "--tls-key", &key];
    let tokens = ["--jwt-secret", "the secret of the application in this test"];
    for flags in [&[][..], &tls, &tokens] {
        let server = TestServer::start(&[&INTERNAL_FLAGS[..], flags].concat());
        let internal = server.internal_address();
        for path in INTERNAL {
            for method in ["GET", "HEAD"] {
                assert_eq!(http::request(internal, method, path, &[], b"").await.status, 200, "{path} {flags:?}");
            }
        }
        // No key counts there, not even one that shows more.
        let key = bearer(API_KEY);
        let stats = http::request(internal, "GET", "/v1/stats", &[("authorization", &key)], b"").await.json();
        assert!(stats["users"].is_number() && stats.get("over_budget").is_none(), "{stats}");
        server.stop().await;
    }
}

#[tokio::test]
async fn the_internal_port_serves_nothing_else() {
    let server = TestServer::start(&[&INTERNAL_FLAGS[..], &["--pages", "all"]].concat());
    let internal = server.internal_address();
    let key = bearer(API_KEY);
    let paths = [
        "/",
        "/chat",
        "/presence.js",
        "/online_users",
        "/v1/rooms",
        "/v1/rooms/lobby/members",
        "/heartbeat",
        "/v1/users/status",
        "/v1/users/a/kick",
        "/login",
        "/login/users",
        "/v1/connect?user=a",
        "/metrics/",
        "//metrics",
        "/ws",
        "/ws/a",
        "/ws-online-status?userId=a",
    ];
    for path in paths {
        for method in ["GET", "POST", "OPTIONS"] {
            let headers = [("authorization", &*key), ("accept", "text/html")];
            let answer = http::request(internal, method, path, &headers, b"").await;
            assert!(answer.error(404).contains("there is nothing at"), "{method} {path}: {answer:?}");
        }
        refused_upgrade(internal, path, &[]).await.error(404);
    }
    http::request(internal, "POST", "/metrics", &[], b"").await.error(405);
    assert_eq!(refused_upgrade(internal, "/metrics", &[]).await.status, 200, "it stays HTTP");
    // The public port is as before.
    assert_eq!(http::request(server.address(), "GET", "/metrics", &[], b"").await.status, 401);
    assert!(server.raw("a").await.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn an_internal_connection_without_a_request_is_closed_and_does_not_delay_the_stop() {
    let server = TestServer::start(&[&INTERNAL_FLAGS[..], &["--header-timeout", "1s"]].concat());
    let mut silent = RawClient::tcp(server.internal_address()).await;
    silent.read_to_end().await;
    server.stop().await;
    let server = TestServer::start(&INTERNAL_FLAGS);
    let _silent = RawClient::tcp(server.internal_address()).await;
    server.stop().await;
}

#[tokio::test]
async fn health_asks_the_internal_port_if_there_is_one() {
    let server = TestServer::start(&INTERNAL_FLAGS);
    let internal = server.internal_address().to_string();
    let asked = |flags: Vec<String>, variable: Option<String>| {
        let ask = move || {
            let deadline = Instant::now() + DEADLINE;
            loop {
                let mut health = command(&flags.iter().map(String::as_str).collect::<Vec<_>>());
                health.envs(variable.as_ref().map(|value| ("ROLLCALL_INTERNAL_LISTEN", value)));
                let output = run_to_exit(health);
                // On a very busy machine the answer may take longer than the command waits.
                let is_late = String::from_utf8_lossy(&output.stderr).contains("no answer");
                if !is_late || Instant::now() >= deadline {
                    return output.status.code();
                }
            }
        };
        tokio::task::spawn_blocking(ask)
    };
    let flags = |flags: &[&str]| flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>();
    let typed = asked(flags(&["--internal-listen", &internal, "--listen", "127.0.0.1:1", "health"]), None);
    assert_eq!(typed.await.unwrap(), Some(0));
    // A certificate is for the public port.
    let encrypted = flags(&["--tls-cert", "a", "--tls-key", "b", "health"]);
    assert_eq!(asked(encrypted, Some(internal.clone())).await.unwrap(), Some(0));
    let other = asked(flags(&["--listen", "127.0.0.1:1", "health"]), Some(internal));
    assert_eq!(other.await.unwrap(), Some(1), "what is typed wins");
    server.stop().await;
}

#[tokio::test]
async fn wrong_keys_are_failed_authentications_of_their_address() {
    let proxied = ["--open", "--trust-proxy", "127.0.0.1", "--failures-per-address", "1"];
    let application = ["--auth-url", "http://127.0.0.1:1/", "--auth-cookie", "sid"];
    let mut callback = application.to_vec();
    callback.extend(["--trust-proxy", "127.0.0.1", "--failures-per-address", "1"]);
    for (flags, method, path) in [
        (&proxied[..], "GET", "/v1/rooms"),
        (&proxied, "POST", "/v1/users/a/kick"),
        (&proxied, "GET", "/metrics"),
        (&callback, "GET", "/v1/rooms"),
    ] {
        let server = TestServer::start(&[flags, &["--api-key", API_KEY]].concat());
        let status = async |address: &str, key: &str| {
            let key = bearer(key);
            let headers = [("authorization", &*key), ("x-forwarded-for", address)];
            http::request(server.address(), method, path, &headers, b"").await.status
        };
        let wrong = server
            .without_ticks(async || {
                let mut wrong = 0;
                while status("203.0.113.1", "a guess at the key").await == 403 {
                    wrong += 1;
                    assert!(wrong < 100, "a wrong key costs nothing: {path}");
                }
                assert_eq!(status("203.0.113.1", API_KEY).await, 429, "{path}");
                wrong
            })
            .await;
        assert_eq!(wrong, 11, "ten at once, and the one that exceeds them: {path}");
        assert_eq!(status("203.0.113.2", API_KEY).await, 200, "another address: {path}");
        let key = bearer(API_KEY);
        let metrics = http::request(server.address(), "GET", "/metrics", &[("authorization", &key)], b"").await;
        let metrics = String::from_utf8(metrics.body).expect("text");
        let line = metrics.lines().find(|line| line.contains("wrong_key")).expect("a metric");
        assert!(line.ends_with(&format!(" {wrong}")), "{line}");
        server.stop().await;
    }
}

#[test]
fn a_read_key_that_becomes_an_api_key_is_a_warning() {
    let folder = Folder::new("api-keys-same");
    let (api, read) = (folder.file("api", API_KEY), folder.file("read", READ_KEY));
    let mut process = Process::start(&["--api-key-file", &api, "--read-key-file", &read]);
    // It listens to signals before it prints its address.
    process.address();
    folder.file("read", format!("{READ_KEY}\n{API_KEY}\n"));
    process.signal("HUP");
    process.wait_for_line("a read key is also an API key");
    process.signal("TERM");
}
