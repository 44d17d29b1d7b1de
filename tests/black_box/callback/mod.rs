//! `--auth-url`: the application says who a client is. A server in the test plays the application.

mod live;
mod opening;
mod recheck;
mod secret;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::http::{self, Response};
use crate::common::process;
use crate::common::tls::Certificates;
use crate::common::token;
use crate::common::upstream::Seen;
use crate::common::{DEADLINE, Does, Process, RawClient, TestServer, Upstream, raw};

const SECRET: &str = "a secret of the application";
const ORIGIN: (&str, &str) = ("origin", "http://localhost");

/// The flags for an application at this URL.
fn flags(url: &str) -> Vec<&str> {
    vec!["--auth-url", url, "--auth-cookie", "sid", "--auth-secret", SECRET]
}

/// An application in which the cookie `sid=NAME` is the session of NAME.
fn session_is_name(seen: &Seen) -> Does {
    let cookie = seen.header("cookie").unwrap_or_default();
    match cookie.strip_prefix("sid=") {
        Some(user) => Does::json(200, &json!({ "user": user })),
        None => Does::json(401, &json!({})),
    }
}

/// A browser's handshake for `path` with the cookie `sid=SESSION`.
async fn open(server: &TestServer, path: &str, session: &str) -> RawClient {
    let cookie = format!("theme=dark; sid={session}");
    RawClient::open_with(server.address(), path, &[ORIGIN, ("cookie", &cookie)], b"").await.0
}

/// The user in the welcome of a connection that is accepted.
async fn welcomed(server: &TestServer, session: &str) -> (RawClient, Value) {
    let mut client = open(server, "/v1/connect", session).await;
    let welcome = client.json().await;
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    (client, welcome["user"].clone())
}

/// The close code and the reason of a connection that is refused.
async fn refused(server: &TestServer, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (mut client, _) = RawClient::open_with(server.address(), path, headers, b"").await;
    let frame = client.frame().await.expect("a close frame");
    let code = frame.close_code().unwrap_or_else(|| panic!("{frame:?}"));
    (code, String::from_utf8_lossy(&frame.payload[2..]).into_owned())
}

async fn refused_session(server: &TestServer, session: &str) -> (u16, String) {
    refused(server, "/v1/connect", &[ORIGIN, ("cookie", &format!("sid={session}"))]).await
}

#[tokio::test]
async fn the_application_learns_the_named_cookies_and_nothing_else_and_names_the_user() {
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/presence/auth?from=rollcall");
    let server = TestServer::start(&flags(&url));
    let (mut alice, user) = welcomed(&server, "alice").await;
    assert_eq!(user, "alice");
    assert!(alice.is_served().await);
    let seen = application.seen().remove(0);
    assert_eq!(seen.line, "POST /presence/auth?from=rollcall HTTP/1.1");
    let want = json!({"protocol": "native", "path": "/v1/connect", "origin": "http://localhost", "ip": "127.0.0.1"});
    assert_eq!(seen.json(), want);
    let mut names: Vec<_> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "authorization", "content-length", "content-type", "cookie", "host", "user-agent"]);
    assert_eq!(seen.header("cookie"), Some("sid=alice"));
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {SECRET}")));
    let _claimed = open(&server, "/v1/connect?user=alice&x=y", "alice").await.json_of_type("welcome").await;
    let want = json!({"protocol": "native", "path": "/v1/connect", "claimed_user": "alice",
        "origin": "http://localhost", "ip": "127.0.0.1"});
    assert_eq!(application.seen()[1].json(), want);
    // The connection to the application is kept, unless it was idle for too long.
    let deadline = Instant::now() + DEADLINE;
    loop {
        welcomed(&server, "alice").await;
        let seen = application.seen();
        if seen[seen.len() - 2].connection == seen[seen.len() - 1].connection {
            break;
        }
        assert!(Instant::now() < deadline, "a new connection for each request");
    }
    server.stop().await;
}

#[tokio::test]
async fn each_protocol_asks_under_its_name() {
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/");
    let server = TestServer::start(&flags(&url));
    let paths = [
        ("/v1/connect", "native", None),
        ("/ws/alice", "online_users", Some("alice")),
        ("/ws-online-status?userId=alice", "online_status", Some("alice")),
        ("/ws", "chat", None),
    ];
    let mut clients = Vec::new();
    for (number, (path, protocol, claimed)) in paths.into_iter().enumerate() {
        clients.push(open(&server, path, "alice").await);
        application.wait_for(number + 1).await;
        let body = application.seen()[number].json();
        assert_eq!((body["protocol"].as_str(), body["claimed_user"].as_str()), (Some(protocol), claimed), "{body}");
        assert_eq!(body["path"], path.split('?').next().unwrap());
        server.wait_for_stat("connections_opened", number as u64 + 1).await;
    }
    assert_eq!(server.stat("connections").await, 4);
    server.stop().await;
}

#[tokio::test]
async fn who_claims_to_be_another_user_than_the_one_of_the_session_is_refused() {
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/");
    let server = TestServer::start(&flags(&url));
    let cookie = [ORIGIN, ("cookie", "sid=alice")];
    for path in ["/v1/connect?user=bob", "/ws/bob", "/ws-online-status?userId=bob"] {
        assert_eq!(refused(&server, path, &cookie).await.0, 1008, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_is_1008_with_the_reason_of_the_application_and_is_remembered() {
    let application = Upstream::start(|seen| match seen.header("cookie") {
        Some("sid=reason") => Does::json(403, &json!({"reason": "your account is closed"})),
        _ => Does::Answer(401, "<html>".to_owned(), Vec::new()),
    })
    .await;
    let url = application.url("/");
    let server = TestServer::start(&flags(&url));
    for _ in 0..3 {
        let want = (1008, "your account is closed".to_owned());
        assert_eq!(refused_session(&server, "reason").await, want);
    }
    assert_eq!(refused_session(&server, "other").await, (1008, "the application refuses this client".to_owned()));
    assert_eq!(application.count(), 2, "the second and the third are known");
    assert_eq!((server.stat("callback_refused").await, server.stat("callback_shared").await), (2, 2));
    server.stop().await;
}

#[tokio::test]
async fn requests_without_a_named_cookie_of_the_own_origin_are_refused_without_asking() {
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/");
    let server = TestServer::start(&flags(&url));
    let cookie = ("cookie", "sid=alice");
    for headers in [
        &[][..],
        &[ORIGIN],
        &[ORIGIN, ("cookie", "theme=dark; xsid=alice")],
        &[cookie],
        &[cookie, ("origin", "http://evil.example")],
        &[cookie, ("origin", "null")],
        &[cookie, ("origin", "http://localhost:81")],
    ] {
        let (code, reason) = refused(&server, "/v1/connect", headers).await;
        assert!(code == 1008 && reason.contains("session cookie"), "{headers:?}: {code} {reason}");
        assert_eq!(refused(&server, "/v1/connect?user=alice", headers).await.0, 1008);
    }
    assert_eq!(application.count(), 0);
    welcomed(&server, "alice").await;
    server.stop().await;
}

#[tokio::test]
async fn with_origins_the_cookies_of_their_pages_count_and_no_others() {
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/");
    let server = TestServer::start(&[&flags(&url)[..], &["--origin", "https://app.example"]].concat());
    let cookie = ("cookie", "sid=alice");
    let page = [cookie, ("origin", "https://app.example")];
    let (mut client, _) = RawClient::open_with(server.address(), "/v1/connect", &page, b"").await;
    assert_eq!(client.json_of_type("welcome").await["user"], "alice");
    raw::refused_upgrade(server.address(), "/v1/connect", &[cookie, ORIGIN]).await.error(403);
    assert_eq!(refused(&server, "/v1/connect", &[cookie]).await.0, 1008);
    assert_eq!(application.count(), 1);
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_decides_nothing_is_1013() {
    let elsewhere = Upstream::start(session_is_name).await;
    let redirect = format!("location: {}\r\ncontent-length: 0", elsewhere.url("/"));
    let long = "x".repeat(64 * 1024 + 1);
    let fits = json!({"user": "alice", "more": "x".repeat(64 * 1024 - 26)}).to_string();
    assert_eq!(fits.len(), 64 * 1024);
    let raw = |text: &str| Does::Raw(text.as_bytes().to_vec());
    let answers = [
        ("another status", Does::json(201, &json!({"user": "alice"}))),
        ("an error", Does::json(500, &json!({"user": "alice"}))),
        ("a redirect", raw(&format!("HTTP/1.1 302 Found\r\n{redirect}\r\n\r\n"))),
        ("a permanent redirect", raw(&format!("HTTP/1.1 308 Found\r\n{redirect}\r\n\r\n"))),
        ("no JSON", Does::Answer(200, "alice".to_owned(), Vec::new())),
        ("no user", Does::json(200, &json!({}))),
        ("an invalid user", Does::json(200, &json!({"user": "a\nb"}))),
        ("a time in the past", Does::json(200, &json!({"user": "alice", "expires_at": 1}))),
        ("too long", Does::Answer(200, long.clone(), Vec::new())),
        ("too long without a length", raw(&format!("HTTP/1.1 200 OK\r\n\r\n{long}"))),
        ("less than its length", raw("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"user\":\"alice\"}")),
        ("half a chunk", raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\n{\"user\"")),
        ("half a head", raw("HTTP/1.1 200 OK\r\ncontent-le")),
        ("a long head", raw(&format!("HTTP/1.1 200 OK\r\nx: {}{}", "x".repeat(256 * 1024), "\r\n\r\n"))),
        ("no HTTP", raw("\u{1}\u{2}\u{3}\r\n\r\n")),
        ("nothing", raw("")),
    ];
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/");
    let server = TestServer::start(&flags(&url));
    for (number, (what, does)) in answers.into_iter().enumerate() {
        application.set(move |_| does.clone());
        let (code, reason) = refused_session(&server, &number.to_string()).await;
        assert!(code == 1013 && reason.contains("try again later"), "{what}: {code} {reason}");
    }
    assert_eq!(elsewhere.count(), 0, "redirects are not followed");
    application.set(move |_| Does::Answer(200, fits.clone(), Vec::new()));
    assert_eq!(welcomed(&server, "fits").await.1, "alice");
    server.stop().await;
}

#[tokio::test]
async fn an_application_that_stalls_or_is_gone_delays_nobody_and_disconnects_nobody() {
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/");
    let server = TestServer::start(&flags(&url));
    let (mut alice, _) = welcomed(&server, "alice").await;
    application.set(|_| Does::Hold(200, String::new()));
    let (code, reason) = refused_session(&server, "bob").await;
    assert!(code == 1013 && reason.contains("cannot be asked"), "{code} {reason}");
    assert!(alice.is_served().await);
    application.die().await;
    assert_eq!(refused_session(&server, "bob").await.0, 1013);
    assert!(alice.is_served().await);
    assert_eq!(server.stat("callback_failed").await, 2);
    server.stop().await;
}

#[tokio::test]
async fn newcomers_share_the_requests_and_leave_a_quarter_to_users_who_are_connected() {
    let application = Upstream::start(|seen| {
        let user = seen.header("cookie").unwrap_or_default().trim_start_matches("sid=").to_owned();
        Does::Hold(200, json!({ "user": user }).to_string())
    })
    .await;
    let url = application.url("/");
    let server = TestServer::start(&[&flags(&url)[..], &["--auth-concurrency", "8"]].concat());
    let mut clients = Vec::new();
    for number in 0..12 {
        // Two connections with equal credentials.
        for _ in 0..2 {
            let mut client = RawClient::tcp(server.address()).await;
            let cookie = format!("sid=user-{number}");
            client.send(&raw::upgrade_request("/v1/connect", &[ORIGIN, ("cookie", &cookie)])).await;
            clients.push(client);
        }
    }
    server.wait_for_stat("callback_waiting", 6).await;
    server.wait_for_stat("callback_shared", 12).await;
    application.wait_for_held(6).await;
    assert_eq!((server.stat("callback_running").await, application.count()), (6, 6));
    application.release();
    for client in &mut clients {
        assert_eq!(client.head().await.status, 101);
        client.json_of_type("welcome").await;
    }
    assert_eq!(application.count(), 12);
    server.stop().await;
}

#[tokio::test]
async fn the_certificate_of_the_application_is_checked() {
    let certificates = Certificates::make();
    certificates.sign_itself("other", "-addext subjectAltName=IP:127.0.0.1");
    let application = Upstream::start_tls(&certificates, session_is_name).await;
    let url = application.url("/");
    let (authority, other) = (certificates.path("ca.crt"), certificates.path("other.crt"));
    let server = TestServer::start(&[&flags(&url)[..], &["--auth-ca", &authority]].concat());
    assert_eq!(welcomed(&server, "alice").await.1, "alice");
    server.stop().await;
    let server = TestServer::start(&[&flags(&url)[..], &["--auth-ca", &other]].concat());
    assert_eq!(refused_session(&server, "alice").await.0, 1013);
    server.stop().await;
    // The name in the certificate counts as well.
    let url = url.replace("127.0.0.1", "127.0.0.2");
    let server = TestServer::start(&[&flags(&url)[..], &["--auth-ca", &authority]].concat());
    assert_eq!(refused_session(&server, "alice").await.0, 1013);
    server.stop().await;
    assert_eq!(application.count(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_application_closes_costs_no_client() {
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/");
    let server = TestServer::start(&flags(&url));
    let mut used = std::collections::HashSet::new();
    // The second request of a connection ends it without an answer.
    application.set(move |seen| match used.insert(seen.connection) {
        true => session_is_name(seen),
        false => Does::Raw(Vec::new()),
    });
    for number in 0..10 {
        let user = format!("user-{number}");
        assert_eq!(welcomed(&server, &user).await.1, *user);
    }
    server.stop().await;
}

async fn heartbeat(server: &TestServer, user: &str, headers: &[(&str, &str)]) -> Response {
    let headers = [&[("content-type", "application/x-www-form-urlencoded")], headers].concat();
    http::request(server.address(), "POST", "/heartbeat", &headers, format!("user_id={user}").as_bytes()).await
}

#[tokio::test]
async fn a_heartbeat_over_http_reuses_a_verdict_and_speaks_for_the_own_user_only() {
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/");
    let server = TestServer::start(&flags(&url));
    let alice = [ORIGIN, ("cookie", "sid=alice")];
    for _ in 0..5 {
        assert_eq!(heartbeat(&server, "alice", &alice).await.status, 200);
    }
    server.wait_for_stat("users", 1).await;
    let seen = application.seen();
    assert_eq!(seen.len(), 1, "one verdict for all");
    assert_eq!((&seen[0].json()["protocol"], &seen[0].json()["path"]), (&json!("online_users"), &json!("/heartbeat")));
    heartbeat(&server, "bob", &alice).await.error(403);
    heartbeat(&server, "alice", &[ORIGIN]).await.error(401);
    heartbeat(&server, "alice", &[("cookie", "sid=alice")]).await.error(401);
    let token = ("authorization", "Bearer x.y.z");
    heartbeat(&server, "alice", &[ORIGIN, ("cookie", "sid=alice"), token]).await.error(401);
    application.set(|_| Does::json(401, &json!({"reason": "gone"})));
    let refused = heartbeat(&server, "eve", &[ORIGIN, ("cookie", "sid=eve")]).await;
    assert_eq!(refused.error(403), "gone");
    application.set(|_| Does::json(200, &json!({"user": "dan", "caps": []})));
    heartbeat(&server, "dan", &[ORIGIN, ("cookie", "sid=dan")]).await.error(403);
    application.die().await;
    heartbeat(&server, "carol", &[ORIGIN, ("cookie", "sid=carol")]).await.error(503);
    assert_eq!(heartbeat(&server, "alice", &alice).await.status, 200, "it is still known");
    server.stop().await;
}

#[tokio::test]
async fn a_bad_token_does_not_fall_back_to_a_good_cookie() {
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/");
    let cookie = ("cookie", "sid=alice");
    for keys in [&[][..], &token::SECRET_FLAG] {
        let server = TestServer::start(&[&flags(&url)[..], keys].concat());
        let offered = token::subprotocols("a.bad.token");
        let headers = [ORIGIN, cookie, ("sec-websocket-protocol", &offered)];
        assert_eq!(refused(&server, "/v1/connect", &headers).await.0, 1008);
        let headers = [ORIGIN, cookie, ("authorization", "Bearer a.bad.token")];
        raw::refused_upgrade(server.address(), "/v1/connect", &headers).await.error(401);
        assert_eq!(application.count(), 0);
        server.stop().await;
    }
    // With keys, requests without a token may have a cookie.
    let server = TestServer::start(&[&flags(&url)[..], &token::SECRET_FLAG].concat());
    assert_eq!(welcomed(&server, "alice").await.1, "alice");
    server.stop().await;
}

#[tokio::test]
async fn no_cookie_secret_or_query_is_logged_and_no_proxy_of_the_environment_is_used() {
    let application =
        Upstream::start(|_| Does::Raw(b"HTTP/1.1 200 sesame-0\r\nx: \x1b[31m\r\n\r\nsesame-1".to_vec())).await;
    let proxy = Upstream::start(session_is_name).await;
    let url = application.url("/auth?key=sesame-2");
    let arguments = ["--listen", "127.0.0.1:0", "--log", "trace", "--auth-url", &url, "--auth-cookie", "sid"];
    let mut command = process::command(&[&arguments[..], &["--auth-secret", "sesame-3-is-long-enough"]].concat());
    for variable in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env(variable, proxy.url("/"));
    }
    let mut process = Process::spawn(command);
    let address = process.address();
    let headers = [ORIGIN, ("cookie", "sid=sesame-4")];
    let (mut client, _) = RawClient::open_with(address, "/v1/connect?x=sesame-5", &headers, b"").await;
    assert_eq!(client.wait_for_close().await, Some(1013));
    application.set(|_| Does::json(403, &json!({"reason": "no"})));
    let headers = [ORIGIN, ("cookie", "sid=sesame-6")];
    let (mut client, _) = RawClient::open_with(address, "/v1/connect", &headers, b"").await;
    assert_eq!(client.wait_for_close().await, Some(1008));
    process.signal("TERM");
    assert!(process.wait_for_exit().success());
    let log = process.final_output().join("\n");
    assert!(log.contains("no usable answer") && !log.contains("sesame"), "{log}");
    assert_eq!((application.count(), proxy.count()), (2, 0));
}
