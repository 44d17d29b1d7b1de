//! Tokens: where a request may carry one, which ones are accepted, and how a refusal looks.

use std::time::Instant;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::common::http::{self, Response};
use crate::common::process::Process;
use crate::common::token::{SECRET, SECRET_FLAG, now, signed_with, subprotocols, token};
use crate::common::{DEADLINE, EventClient, RawClient, TestServer, raw};

/// A server that also takes tokens in the query.
const IN_QUERY: [&str; 3] = ["--jwt-secret", SECRET, "--token-in-query"];
const NATIVE: &str = "/v1/connect";

/// A native connection with this token, as a browser opens it.
async fn browser(server: &TestServer, path: &str, token: &str) -> (RawClient, Response) {
    let offered = subprotocols(token);
    RawClient::open_with(server.address(), path, &[("sec-websocket-protocol", &offered)], b"").await
}

/// The close code of a connection with this token.
async fn close_code(server: &TestServer, path: &str, token: &str) -> u16 {
    browser(server, path, token).await.0.wait_for_close().await.expect("a close frame")
}

/// A connection with this token in `Authorization`, as other clients open it.
async fn authorized(server: &TestServer, path: &str, token: &str) -> RawClient {
    RawClient::open_with(server.address(), path, &[("authorization", &bearer(token))], b"").await.0
}

async fn refused(server: &TestServer, path: &str, headers: &[(&str, &str)]) -> Response {
    raw::refused_upgrade(server.address(), path, headers).await
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn plain(user: &str) -> String {
    token(user, &json!({}))
}

#[tokio::test]
async fn a_browser_sends_its_token_as_a_subprotocol_and_only_presence_v1_is_selected() {
    let server = TestServer::start(&SECRET_FLAG);
    let (mut client, response) = browser(&server, "/v1/connect?room=lobby", &plain("alice")).await;
    assert_eq!(response.header("sec-websocket-protocol"), Some("presence.v1"));
    assert_eq!(client.json_of_type("welcome").await["user"], "alice");
    client.json_of_type("snapshot").await;
    // Two lines, another order, a claimed user, bytes behind the request.
    let bearer = format!("bearer.{}", plain("bob"));
    let lines = [("sec-websocket-protocol", &*bearer), ("sec-websocket-protocol", "other, presence.v1")];
    let heartbeat = crate::common::Frame::text(r#"{"type":"heartbeat","ack":true}"#).encode();
    let path = "/v1/connect?user=bob&room=lobby";
    let (mut client, _) = RawClient::open_with(server.address(), path, &lines, &heartbeat).await;
    client.json_of_type("heartbeat_ack").await;
    let offered = refused(&server, NATIVE, &[("sec-websocket-protocol", &bearer)]).await;
    assert!(offered.error(400).contains("presence.v1, bearer.TOKEN"));
    server.stop().await;
}

#[tokio::test]
async fn a_request_carries_one_token() {
    let server = TestServer::start(&IN_QUERY);
    let (alice, offered) = (plain("alice"), subprotocols(&plain("alice")));
    let (authorization, in_query) = (bearer(&alice), format!("/ws/alice?token={alice}"));
    let both = format!("{offered}, bearer.{alice}");
    for (path, headers) in [
        (NATIVE, &[("authorization", &*authorization), ("sec-websocket-protocol", &offered)][..]),
        (NATIVE, &[("authorization", &authorization), ("authorization", &authorization)]),
        (NATIVE, &[("sec-websocket-protocol", &both)]),
        (&in_query, &[("authorization", &authorization)]),
        (&format!("{in_query}&token={alice}"), &[]),
    ] {
        assert!(refused(&server, path, headers).await.error(400).contains("several tokens"), "{path} {headers:?}");
    }
    for (path, headers) in [
        (NATIVE, &[("authorization", "Bearer")][..]),
        (NATIVE, &[("authorization", "bearer ")]),
        (NATIVE, &[("sec-websocket-protocol", "presence.v1, bearer.")]),
        ("/ws/alice?token=", &[]),
    ] {
        assert!(refused(&server, path, headers).await.error(400).contains("empty"), "{path} {headers:?}");
    }
    // Other schemes are for a proxy in between.
    let headers = [("authorization", "Basic YTpi"), ("sec-websocket-protocol", &*offered)];
    let (mut client, _) = RawClient::open_with(server.address(), NATIVE, &headers, b"").await;
    client.json_of_type("welcome").await;
    server.stop().await;
}

#[tokio::test]
async fn a_token_in_the_query_needs_a_flag_and_is_for_the_older_protocols() {
    let server = TestServer::start(&SECRET_FLAG);
    let alice = plain("alice");
    for path in ["/ws/alice", "/ws-online-status", "/ws", NATIVE] {
        let answer = refused(&server, &format!("{path}?token={alice}"), &[]).await;
        let hint = if path == NATIVE { "bearer.TOKEN" } else { "--token-in-query" };
        assert!(answer.error(400).contains(hint), "{answer:?}");
        assert!(!answer.error(400).contains(&alice));
    }
    server.stop().await;
    let server = TestServer::start(&IN_QUERY);
    assert!(refused(&server, &format!("{NATIVE}?token={alice}"), &[]).await.error(400).contains("bearer.TOKEN"));
    for path in ["/ws/alice", "/ws-online-status", "/ws-online-status?userId=alice", "/ws"] {
        let sign = if path.contains('?') { '&' } else { '?' };
        let mut client = RawClient::open(server.address(), &format!("{path}{sign}token={alice}")).await;
        if path == "/ws" {
            client.send_json(&json!({"type": "join", "payload": {"user": "alice"}})).await;
            client.send_json(&json!({"type": "ping"})).await;
            client.json_of_type("pong").await;
        } else {
            client.json().await;
        }
        let mut client = RawClient::open(server.address(), &format!("{path}{sign}token={alice}x")).await;
        assert_eq!(client.wait_for_close().await, Some(1008), "{path}");
    }
    // These protocols have no subprotocol that could be selected.
    let offered = subprotocols(&alice);
    assert!(
        refused(&server, "/ws/alice", &[("sec-websocket-protocol", &offered)]).await.error(400).contains("?token=")
    );
    server.stop().await;
}

#[tokio::test]
async fn a_token_has_at_most_6_kib() {
    let server = TestServer::start(&IN_QUERY);
    let of_length = |length: usize| {
        let sized = |filler: usize| token("alice", &json!({"x": "x".repeat(filler)}));
        // Base64 has steps of four characters for three bytes.
        let filler = (0..).step_by(3).find(|filler| sized(*filler).len() + 3 >= length).expect("a length");
        let longest = (filler..filler + 8).map(sized).take_while(|token| token.len() <= length).last();
        longest.expect("a token")
    };
    let (longest, longer) = (of_length(6 * 1024), of_length(6 * 1024 + 8));
    assert!(longest.len() <= 6 * 1024 && longest.len() > 6 * 1024 - 4 && longer.len() > 6 * 1024);
    // With as many other headers as browsers send.
    let (cookie, offered) = ("c".repeat(4096), subprotocols(&longest));
    let headers = [("cookie", &*cookie), ("sec-websocket-protocol", &*offered)];
    let (mut client, _) = RawClient::open_with(server.address(), NATIVE, &headers, b"").await;
    client.json_of_type("welcome").await;
    authorized(&server, NATIVE, &longest).await.json_of_type("welcome").await;
    RawClient::open(server.address(), &format!("/ws/alice?token={longest}")).await.json().await;
    for headers in [[("authorization", bearer(&longer))], [("sec-websocket-protocol", subprotocols(&longer))]] {
        let headers = [(headers[0].0, &*headers[0].1)];
        assert!(refused(&server, NATIVE, &headers).await.error(400).contains("6 KiB"));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_refused_token_is_a_close_frame_in_browsers_and_an_http_error_elsewhere() {
    let server = TestServer::start(&SECRET_FLAG);
    let at = |claim: &str, time: u64| token("alice", &json!({claim: time}));
    for (bad, code, status) in [
        (at("exp", now() - 60), 4401, 401),
        (at("nbf", now() + 600), 1008, 401),
        (at("iat", now() + 600), 1008, 401),
        (at("exp", now() + 90_000), 1008, 401),
        (token("alice", &json!({"exp": Value::Null})), 1008, 401),
        (token("alice", &json!({"info": []})), 1008, 401),
        (signed_with("another secret of the same length as it", &json!({"sub": "alice"})), 1008, 401),
        ("not.a.token".to_owned(), 1008, 401),
    ] {
        assert_eq!(close_code(&server, NATIVE, &bad).await, code, "{bad}");
        let answer = refused(&server, NATIVE, &[("authorization", &bearer(&bad))]).await;
        answer.error(status);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{bad}");
    }
    let mut anonymous = RawClient::open(server.address(), "/v1/connect?user=alice").await;
    assert_eq!(anonymous.wait_for_close().await, Some(1008), "nobody may claim an id");
    server.stop().await;
}

#[tokio::test]
async fn a_request_may_name_the_user_of_its_token_and_no_other() {
    let server = TestServer::start(&IN_QUERY);
    let number = plain("42");
    for (path, accepted) in [
        ("/v1/connect", true),
        ("/v1/connect?user=42", true),
        ("/v1/connect?user=042", false),
        ("/v1/connect?user=4", false),
        ("/ws/42", true),
        ("/ws/%34%32", true),
        ("/ws/43", false),
        ("/ws-online-status", true),
        ("/ws-online-status?userId=42", true),
        ("/ws-online-status?userId=42.0", false),
        ("/ws-online-status?userId=bob", false),
    ] {
        match accepted {
            true => drop(authorized(&server, path, &number).await.json().await),
            false => {
                let answer = refused(&server, path, &[("authorization", &bearer(&number))]).await;
                assert!(answer.error(403).contains("another user"), "{path}");
                let sign = if path.contains('?') { '&' } else { '?' };
                let code = match path.starts_with(NATIVE) {
                    true => close_code(&server, path, &number).await,
                    false => {
                        let path = format!("{path}{sign}token={number}");
                        RawClient::open(server.address(), &path).await.wait_for_close().await.expect("a close frame")
                    }
                };
                assert_eq!(code, 1008, "{path}");
            }
        }
    }
    // A name in another normal form is another text, and the same user.
    let accented = plain("\u{e9}");
    authorized(&server, "/v1/connect?user=e%CC%81", &accented).await.json_of_type("welcome").await;
    server.stop().await;
}

#[tokio::test]
async fn older_protocols_know_their_user_from_the_token() {
    let server = TestServer::start(&IN_QUERY);
    let mut list = authorized(&server, "/ws/alice", &plain("alice")).await;
    assert_eq!(list.json_of_type("online_users").await["users"], json!(["alice"]));
    let path = format!("/ws-online-status?token={}", plain("bob"));
    let mut events = EventClient::connect(server.address(), &path).await;
    events.wait_until("the greeting", |client| client.log.first().is_some_and(|first| first["userId"] == "bob")).await;
    let path = format!("/ws-online-status?token={}", plain("carol"));
    let mut others = EventClient::connect(server.address(), &path).await;
    let is_bob = |event: &Value| event["type"] == "USER_ONLINE" && event["userId"] == "bob";
    others.wait_until("the user", |client| client.log.iter().any(is_bob)).await;
    server.stop().await;
}

#[tokio::test]
async fn tokens_without_caps_get_the_default_ones() {
    let caps = r#"[{"rooms":["public/*"],"allow":["join","observe"]}]"#;
    let server = TestServer::start(&["--jwt-secret", SECRET, "--default-caps", caps]);
    let (mut client, _) = browser(&server, "/v1/connect?room=public/a&room=private", &plain("alice")).await;
    assert_eq!(client.json_of_type("error").await["code"], "forbidden");
    assert_eq!(client.json_of_type("snapshot").await["room"], "public/a");
    let own = token("bob", &json!({"caps": [{"rooms": ["private"], "allow": ["join", "observe"]}]}));
    let (mut client, _) = browser(&server, "/v1/connect?room=private", &own).await;
    assert_eq!(client.json_of_type("snapshot").await["room"], "private");
    server.stop().await;
}

#[tokio::test]
async fn an_address_with_too_many_failures_is_answered_429_and_others_are_not() {
    let server = TestServer::start(&SECRET_FLAG);
    let request = |token: &str| {
        let authorization = bearer(token);
        raw::upgrade_request(NATIVE, &[("authorization", &authorization)])
    };
    let bad = request("not.a.token");
    let status = async |from: &str, request: &[u8]| {
        let mut client = RawClient::tcp_from(from, server.address()).await;
        client.send(request).await;
        client.head().await.status
    };
    let failures = server
        .without_ticks(async || {
            let mut failures = 0;
            loop {
                match status("127.0.0.2", &bad).await {
                    401 => failures += 1,
                    429 => return failures,
                    other => panic!("{other}"),
                }
                assert!(failures < 1000, "an address has no limit");
            }
        })
        .await;
    assert_eq!(failures, 201, "those of ten seconds at once, and the one that exceeds them");
    let deadline = Instant::now() + DEADLINE;
    let good = request(&plain("alice"));
    assert_eq!(status("127.0.0.3", &good).await, 101, "another address");
    // Within a second at the latest, one failure is forgiven.
    while status("127.0.0.2", &good).await != 101 {
        assert!(Instant::now() < deadline);
        sleep(std::time::Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn nothing_secret_is_logged_or_answered_at_any_level() {
    let mut process = Process::start(&["--jwt-secret", SECRET, "--token-in-query", "--log", "trace"]);
    let address = process.address();
    let (good, bad) = (plain("alice"), signed_with("another secret of the same length as it", &json!({"sub": "eve"})));
    let mut answers = Vec::new();
    for token in [&good, &bad, &format!("{good}x"), &"x.y".to_owned(), &"z".repeat(7000)] {
        let (authorization, offered) = (bearer(token), subprotocols(token));
        let native = [("authorization", &*authorization), ("sec-websocket-protocol", &offered), ("cookie", "k=sesame")];
        for (path, headers) in [
            (NATIVE.to_owned(), &native[..1]),
            (NATIVE.to_owned(), &native[1..]),
            (NATIVE.to_owned(), &native[..]),
            (format!("/ws/alice?token={token}"), &[]),
            (format!("{NATIVE}?token={token}"), &[]),
        ] {
            let mut client = RawClient::tcp(address).await;
            client.send(&raw::upgrade_request(&path, headers)).await;
            answers.push(String::from_utf8_lossy(&client.shut_down_undecoded().await).into_owned());
        }
        let get = http::request(address, "GET", "/v1/rooms", &native[..1], b"").await;
        answers.push(String::from_utf8_lossy(&get.body).into_owned());
    }
    process.wait_for_line("a client was refused");
    process.signal("TERM");
    process.wait_for_exit();
    let output = process.final_output();
    let secrets = [SECRET, &good, &bad, "x.y", "zzzz", "sesame", good.rsplit('.').next().expect("a signature")];
    for text in output.iter().chain(&answers) {
        assert!(!secrets.iter().any(|secret| text.contains(secret)), "{text}");
    }
}

#[tokio::test]
async fn refusals_are_counted_by_reason_and_logged_once_per_second() {
    let key = "a read key for this test";
    let mut process = Process::start(&[&SECRET_FLAG[..], &["--read-key", key]].concat());
    let address = process.address();
    let authorization = bearer(&token("alice", &json!({"exp": now() - 60})));
    for _ in 0..100 {
        raw::refused_upgrade(address, NATIVE, &[("authorization", &authorization)]).await.error(401);
    }
    raw::refused_upgrade(address, NATIVE, &[("authorization", "Bearer x")]).await.error(401);
    let metrics = http::request(address, "GET", "/metrics", &[("authorization", &bearer(key))], b"").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    for line in ["{reason=\"expired\"} 100\n", "{reason=\"invalid\"} 1\n", "{reason=\"missing\"} 0\n"] {
        assert!(metrics.contains(&format!("\nrollcall_refused_identities_total{line}")), "{line}: {metrics}");
    }
    process.wait_for_line("reason=\"invalid\"");
    process.signal("TERM");
    process.wait_for_exit();
    let lines = process.final_output();
    let expired = lines.iter().filter(|line| line.contains("reason=\"expired\"")).count();
    assert!((1..50).contains(&expired), "{lines:?}");
}
