//! `--jwks-url`: tokens that keys of a published set have signed. A server in the test publishes the set, rotates its
//! keys, stalls, lies and dies.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::common::frame::CLOSE;
use crate::common::process::{command, run_to_exit};
use crate::common::signing_key::{SigningKey, key_set};
use crate::common::tls::Certificates;
use crate::common::token::{now, subprotocols};
use crate::common::{DEADLINE, Does, RawClient, TestServer, Upstream};
use crate::revocation::revoke;

async fn publisher(keys: &[&SigningKey]) -> Upstream {
    let set = key_set(keys);
    Upstream::start(move |_| set.clone()).await
}

/// The user in the welcome, or the close code.
async fn connect(server: &TestServer, token: &str) -> (RawClient, Result<String, u16>) {
    let headers = [("sec-websocket-protocol", &*subprotocols(token))];
    let (mut client, _) = RawClient::open_with(server.address(), "/v1/connect", &headers, b"").await;
    let frame = client.frame().await.expect("an answer");
    let result = match frame.opcode {
        CLOSE => Err(frame.close_code().expect("a code")),
        _ => {
            let welcome: Value = serde_json::from_slice(&frame.payload).expect("JSON");
            Ok(welcome["user"].as_str().expect("a user").to_owned())
        }
    };
    (client, result)
}

async fn result(server: &TestServer, token: &str) -> Result<String, u16> {
    connect(server, token).await.1
}

/// Connects again and again until this is the result; until then it must be undecided or one of `meanwhile`.
async fn until(server: &TestServer, token: &str, want: Result<&str, u16>, meanwhile: Result<&str, u16>) {
    let deadline = Instant::now() + DEADLINE;
    let want = want.map(str::to_owned);
    loop {
        let got = result(server, token).await;
        if got == want {
            return;
        }
        assert!(got == meanwhile.map(str::to_owned) && Instant::now() < deadline, "{got:?} instead of {want:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn alice() -> Result<String, u16> {
    Ok("alice".to_owned())
}

#[tokio::test]
async fn a_published_key_verifies_tokens_and_nothing_else_does() {
    let (key, other) = (SigningKey::new("one"), SigningKey::new("two"));
    let publisher = publisher(&[&key]).await;
    let url = publisher.url("/keys");
    let server = TestServer::start(&["--jwks-url", &url]);
    let none = json!({});
    assert_eq!(result(&server, &key.token("alice", &none)).await, alice());
    assert_eq!(result(&server, &key.token_with(None, "alice", &none)).await, alice(), "one key fits");
    assert_eq!(result(&server, &other.token_with(Some("one"), "alice", &none)).await, Err(1008));
    assert_eq!(result(&server, &other.token_with(None, "alice", &none)).await, Err(1008));
    // The published key as the secret of an HMAC.
    let public = key.published()["x"].as_str().unwrap().to_owned();
    for secret in [public.as_bytes(), &URL_SAFE_NO_PAD.decode(&public).unwrap()] {
        let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::HS256) };
        let claims = json!({"sub": "alice", "exp": now() + 600});
        let token = encode(&header, &claims, &EncodingKey::from_secret(secret).unwrap()).unwrap();
        assert_eq!(result(&server, &token).await, Err(1008));
    }
    assert_eq!(publisher.count(), 1, "known keys need no fetch");
    let seen = publisher.seen().remove(0);
    assert_eq!((seen.line.as_str(), seen.header("authorization")), ("GET /keys HTTP/1.1", None));
    server.stop().await;
}

#[tokio::test]
async fn without_a_key_id_exactly_one_key_must_fit() {
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    let publisher = publisher(&[&one, &two]).await;
    let url = publisher.url("/");
    let server = TestServer::start(&["--jwks-url", &url]);
    assert_eq!(result(&server, &one.token("alice", &json!({}))).await, alice());
    assert_eq!(result(&server, &two.token("alice", &json!({}))).await, alice());
    assert_eq!(result(&server, &one.token_with(None, "alice", &json!({}))).await, Err(1008));
    server.stop().await;
}

#[tokio::test]
async fn an_unknown_key_starts_a_fetch_but_not_more_than_one_in_ten_seconds() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let publisher = publisher(&[&old]).await;
    let url = publisher.url("/");
    let began = Instant::now();
    let server = TestServer::start(&["--jwks-url", &url]);
    let (mut client, first) = connect(&server, &old.token("alice", &json!({}))).await;
    assert_eq!(first, alice());
    let rotated = key_set(&[&new]);
    publisher.set(move |_| rotated.clone());
    // Nobody can know yet whether the key is valid, for ten seconds.
    let is_early = || began.elapsed().as_secs() < 10;
    let newer = result(&server, &new.token("alice", &json!({}))).await;
    assert!(newer == Err(1013) || !is_early(), "{newer:?}");
    for number in 0..20 {
        let token = old.token_with(Some(&format!("unknown-{number}")), "alice", &json!({}));
        let unknown = result(&server, &token).await;
        assert!(unknown == Err(1013) || unknown == Err(1008) && !is_early(), "{unknown:?}");
    }
    until(&server, &new.token("alice", &json!({})), Ok("alice"), Err(1013)).await;
    let most = 2 + began.elapsed().as_secs() as usize / 10;
    assert!(publisher.count() <= most, "{} fetches", publisher.count());
    // The old key is gone, and so are new connections with it; the one that is open stays.
    let gone = result(&server, &old.token("alice", &json!({}))).await;
    assert!(matches!(gone, Err(1008 | 1013)), "{gone:?}");
    assert!(client.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn the_last_good_set_serves_while_its_server_lies_or_is_dead_and_nobody_is_disconnected() {
    let key = SigningKey::new("one");
    let publisher = publisher(&[&key]).await;
    let url = publisher.url("/");
    let server = TestServer::start(&["--jwks-url", &url]);
    let (mut client, first) = connect(&server, &key.token("alice", &json!({}))).await;
    assert_eq!(first, alice());
    publisher.set(|_| Does::Answer(200, "{\"keys\":[]}".to_owned(), Vec::new()));
    let unknown = key.token_with(Some("unknown"), "alice", &json!({}));
    let deadline = Instant::now() + DEADLINE;
    while publisher.count() < 2 {
        assert_eq!(result(&server, &unknown).await, Err(1013), "a set without keys decides nothing");
        assert!(Instant::now() < deadline, "no fetch");
        sleep(Duration::from_millis(200)).await;
    }
    server.wait_for_stat("jwks_failures", 1).await;
    assert_eq!(result(&server, &key.token("alice", &json!({}))).await, alice());
    publisher.die().await;
    assert_eq!(result(&server, &key.token("alice", &json!({}))).await, alice());
    assert!(client.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn nobody_with_a_valid_credential_is_disconnected_while_publisher_and_application_are_dead() {
    let key = SigningKey::new("one");
    let publisher = publisher(&[&key]).await;
    let application = Upstream::start(|_| Does::json(200, &json!({"user": "bob"}))).await;
    let (keys, auth) = (publisher.url("/"), application.url("/"));
    let server = TestServer::start(&["--jwks-url", &keys, "--auth-url", &auth, "--auth-cookie", "sid"]);
    let (mut by_token, first) = connect(&server, &key.token("alice", &json!({}))).await;
    assert_eq!(first, alice());
    let cookie = [("origin", "http://localhost"), ("cookie", "sid=1")];
    let (mut by_cookie, _) = RawClient::open_with(server.address(), "/v1/connect?room=lobby", &cookie, b"").await;
    by_cookie.json_of_type("snapshot").await;
    publisher.die().await;
    application.die().await;
    let (mut refused, _) = RawClient::open_with(server.address(), "/v1/connect", &cookie, b"").await;
    assert_eq!(refused.wait_for_close().await, Some(1013));
    assert_eq!(result(&server, &key.token("carol", &json!({}))).await, Ok("carol".to_owned()));
    let unknown = key.token_with(Some("unknown"), "carol", &json!({}));
    assert_eq!(result(&server, &unknown).await, Err(1013));
    assert!(by_token.is_served().await && by_cookie.is_served().await);
    assert!(server.members("lobby").await.contains_key("bob"));
    server.stop().await;
}

#[tokio::test]
async fn a_fetch_that_stalls_holds_connections_for_a_moment_only() {
    let key = SigningKey::new("one");
    let publisher = publisher(&[&key]).await;
    let url = publisher.url("/");
    let server = TestServer::start(&["--jwks-url", &url]);
    assert_eq!(result(&server, &key.token("alice", &json!({}))).await, alice());
    publisher.set(|_| Does::Hold(200, String::new()));
    let unknown = key.token_with(Some("unknown"), "alice", &json!({}));
    let deadline = Instant::now() + DEADLINE;
    while publisher.count() < 2 {
        assert_eq!(result(&server, &unknown).await, Err(1013));
        assert!(Instant::now() < deadline, "no fetch");
        sleep(Duration::from_millis(200)).await;
    }
    // More than may wait.
    let many = (0..300).map(|_| result(&server, &unknown));
    assert!(futures_util::future::join_all(many).await.iter().all(|result| *result == Err(1013)));
    assert_eq!(result(&server, &key.token("alice", &json!({}))).await, alice(), "known keys do not wait");
    server.stop().await;
}

#[tokio::test]
async fn a_set_that_is_too_old_decides_nothing_and_disconnects_nobody() {
    let key = SigningKey::new("one");
    let publisher = publisher(&[&key]).await;
    let url = publisher.url("/");
    let server = TestServer::start(&["--jwks-url", &url, "--jwks-max-stale", "3s"]);
    let token = key.token("alice", &json!({}));
    let (mut client, first) = connect(&server, &token).await;
    // On a slow machine it may be too old already.
    assert!(first == alice() || first == Err(1013), "{first:?}");
    publisher.die().await;
    until(&server, &token, Err(1013), Ok("alice")).await;
    assert!(first != alice() || client.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn a_start_waits_for_keys_and_optional_ones_come_later() {
    let key = SigningKey::new("one");
    let (good, mut requests) = (key_set(&[&key]), 0);
    let long = "x".repeat(64 * 1024 + 1);
    let elsewhere = publisher(&[&key]).await;
    let redirect = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url("/"));
    let publisher = Upstream::start(move |_| {
        requests += 1;
        match requests {
            1 => Does::Answer(500, String::new(), Vec::new()),
            2 => Does::Answer(200, long.clone(), Vec::new()),
            3 => Does::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"keys\":[".to_vec()),
            4 => Does::Raw(redirect.clone().into_bytes()),
            _ => good.clone(),
        }
    })
    .await;
    let url = publisher.url("/");
    let server = TestServer::start(&["--jwks-url", &url]);
    assert_eq!(result(&server, &key.token("alice", &json!({}))).await, alice());
    assert_eq!((publisher.count(), elsewhere.count()), (5, 0), "redirects are not followed");
    assert_eq!((server.stat("jwks_fetches").await, server.stat("jwks_failures").await), (5, 4));
    server.stop().await;
    let (good, held) = (key_set(&[&key]), Does::Answer(503, String::new(), Vec::new()));
    publisher.set(move |_| held.clone());
    let server = TestServer::start(&["--jwks-url", &url, "--jwks-optional"]);
    assert_eq!(result(&server, &key.token("alice", &json!({}))).await, Err(1013));
    publisher.set(move |_| good.clone());
    until(&server, &key.token("alice", &json!({})), Ok("alice"), Err(1013)).await;
    server.stop().await;
}

#[tokio::test]
async fn a_start_without_keys_ends_with_69() {
    let free = crate::common::redis::free_port();
    let url = format!("http://127.0.0.1:{free}/keys?secret=sesame");
    let command = command(&["--listen", "127.0.0.1:0", "--jwks-url", &url]);
    let output = tokio::task::spawn_blocking(move || run_to_exit(command)).await.expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{errors}");
    assert!(errors.contains(&format!("127.0.0.1:{free}/keys cannot be fetched")), "{errors}");
    assert!(errors.contains("--jwks-optional") && !errors.contains("sesame"), "{errors}");
}

#[tokio::test]
async fn a_key_verifies_only_tokens_of_its_issuer_and_issuers_have_separate_users() {
    // The same key id in both sets.
    let (a, b) = (SigningKey::new("one"), SigningKey::new("one"));
    let (of_a, of_b) = (publisher(&[&a]).await, publisher(&[&b]).await);
    let (url_a, url_b) = (format!("https://a.example={}", of_a.url("/")), format!("b={}", of_b.url("/")));
    let flags = ["--jwks-url", &url_a, "--jwks-url", &url_b, "--jwt-user-prefix", "b=b:"];
    let server = TestServer::start(&flags);
    let from = |issuer: &str| json!({ "iss": issuer });
    assert_eq!(result(&server, &a.token("alice", &from("https://a.example"))).await, alice());
    assert_eq!(result(&server, &b.token("alice", &from("b"))).await, Ok("b:alice".to_owned()));
    for token in [
        a.token("alice", &from("b")),
        b.token("alice", &from("https://a.example")),
        a.token("alice", &from("c")),
        a.token("alice", &json!({})),
        a.token_with(None, "alice", &json!({})),
        // A user of the other issuer.
        a.token("b:alice", &from("https://a.example")),
    ] {
        assert_eq!(result(&server, &token).await, Err(1008));
    }
    server.stop().await;
}

#[tokio::test]
async fn the_certificate_of_the_publisher_is_checked() {
    let certificates = Certificates::make();
    let key = SigningKey::new("one");
    let keys = key_set(&[&key]);
    let publisher = Upstream::start_tls(&certificates, move |_| keys.clone()).await;
    let (url, authority) = (publisher.url("/"), certificates.path("ca.crt"));
    let server = TestServer::start(&["--jwks-url", &url, "--jwks-ca", &authority]);
    assert_eq!(result(&server, &key.token("alice", &json!({}))).await, alice());
    server.stop().await;
    certificates.sign_itself("other", "-sha256");
    let other = certificates.path("other.crt");
    let server = TestServer::start(&["--jwks-url", &url, "--jwks-ca", &other, "--jwks-optional"]);
    assert_eq!(result(&server, &key.token("alice", &json!({}))).await, Err(1013));
    assert_eq!(publisher.count(), 1);
    server.stop().await;
}

#[tokio::test]
async fn renewals_that_nobody_can_decide_do_not_keep_a_client_away() {
    let (known, next) = (SigningKey::new("known"), SigningKey::new("next"));
    let publisher = publisher(&[&known]).await;
    let url = publisher.url("/");
    let server = TestServer::start(&["--jwks-url", &url]);
    let (mut alice, user) = connect(&server, &known.token("alice", &json!({}))).await;
    assert_eq!(user.as_deref(), Ok("alice"));
    publisher.die().await;
    for _ in 0..3 {
        alice.send_json(&json!({"type": "auth", "token": next.token("alice", &json!({}))})).await;
        assert_eq!(alice.json_of_type("error").await["code"], "bad_token");
    }
    assert_eq!(alice.wait_for_close().await, Some(1013));
    server.stop().await;
}

#[tokio::test]
async fn revoking_a_key_ends_what_it_has_verified_and_nothing_else() {
    const KEY: &str = "a key of the application";
    let (stolen, other) = (SigningKey::new("stolen"), SigningKey::new("other"));
    let publisher = publisher(&[&stolen, &other]).await;
    let url = publisher.url("/keys");
    let server = TestServer::start(&["--jwks-url", &url, "--api-key", KEY]);
    let none = json!({});
    let (mut mallory, _) = connect(&server, &stolen.token("mallory", &none)).await;
    let (mut alice, welcomed) = connect(&server, &other.token("alice", &none)).await;
    assert_eq!(welcomed, self::alice());
    let answer = revoke(server.address(), KEY, &json!({"kid": "stolen"})).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"stored": "memory"})));
    assert_eq!(mallory.wait_for_close().await, Some(1008));
    // A thief writes any time.
    let later = stolen.token("alice", &json!({"iat": now() + 30}));
    assert_eq!(result(&server, &later).await, Err(1008));
    assert!(alice.is_served().await);
    assert_eq!(result(&server, &other.token("alice", &none)).await, self::alice());
    server.stop().await;
}
