//! `/metrics`, and the histograms there and in `/v1/stats`.

use serde_json::json;
use tokio::time::Instant;

use crate::common::raw::refused_upgrade;
use crate::common::{DEADLINE, EventClient, Mirror, TestServer, http};

/// The text of `/metrics`.
async fn text(server: &TestServer) -> String {
    String::from_utf8(server.get("/metrics").await.body).expect("text")
}

#[tokio::test]
async fn metrics_have_the_format_of_prometheus() {
    let server = TestServer::start(&[]);
    let _alice = Mirror::connect(server.address(), "alice", &["a"]).await;
    let response = server.get("/metrics").await;
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = std::str::from_utf8(&response.body).expect("text");
    assert!(text.contains("# TYPE rollcall_connections gauge\nrollcall_connections 1\n"), "{text}");
    assert!(text.contains("# TYPE rollcall_heartbeats_total counter\n"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.split_once(' ').expect("a name and a value");
        assert!(name.starts_with("rollcall_") || name.starts_with("process_"), "{line}");
        assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
        let name = name.split_once('{').map_or(name, |(name, _)| name);
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let name = of_histogram.unwrap_or(name);
        assert!(text.contains(&format!("# HELP {name} ")), "{line}");
    }
    // A scrape in the same second finds the same start, whatever the clock does.
    let start =
        |text: &str| text.lines().find(|line| line.starts_with("process_start_time_seconds ")).map(str::to_owned);
    let again = server.get("/metrics").await;
    assert_eq!(start(std::str::from_utf8(&again.body).expect("text")), start(text));
    assert!(start(text).is_some());
    server.stop().await;
}

/// The counts of the buckets of a histogram, and its `_count`.
fn buckets(text: &str, name: &str) -> (Vec<u64>, u64) {
    let number = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number");
    let bucket = format!("{name}_bucket{{le=\"");
    let buckets = text.lines().filter(|line| line.starts_with(&bucket)).map(number).collect();
    let count = format!("{name}_count ");
    (buckets, number(text.lines().find(|line| line.starts_with(&count)).expect("a histogram")))
}

#[tokio::test]
async fn histograms_have_each_tick_that_was_written_and_the_first_join_of_each() {
    let server = TestServer::start(&["--workers", "1"]);
    let begun = Instant::now();
    let (mut alice, mut others) = (Mirror::connect(server.address(), "alice", &["a"]).await, Vec::new());
    // A join that the tick meets half done is announced, but may be missing here.
    let mut joins = server.stat("join_to_sent_count").await;
    while joins == 0 {
        assert!(begun.elapsed() < DEADLINE, "no join is counted");
        others.push(Mirror::connect(server.address(), &format!("user-{}", others.len()), &["a"]).await);
        alice.wait_until("the join", |alice| alice.size("a") == others.len() + 1).await;
        alice.barrier().await;
        alice.barrier().await;
        joins = server.stat("join_to_sent_count").await;
    }
    let joined = 1 + others.len() as u64;
    assert!(joins <= joined && server.stat("join_to_sent_us_max").await <= begun.elapsed().as_micros() as u64);
    let written = server.stat("write_count").await;
    alice.send(&json!({"type": "state", "room": "a", "state": {"n": 1}}));
    alice.wait_until("the state", |alice| alice.state("a", "alice").is_some()).await;
    // The second one comes with a later tick than the state: that tick is counted.
    alice.barrier().await;
    alice.barrier().await;
    assert!(server.stat("write_count").await > written);
    assert_eq!(server.stat("join_to_sent_count").await, joins, "a tick without a join");
    assert_eq!(server.stat("greeting_count").await, joined);
    let text = String::from_utf8(server.get("/metrics").await.body.to_vec()).expect("text");
    let (buckets, count) = buckets(&text, "rollcall_join_to_sent_seconds");
    assert!(buckets.is_sorted() && buckets.len() == 17 && buckets.last() == Some(&count) && count == joins, "{text}");
    assert!(text.contains("# TYPE rollcall_tick_duration_seconds histogram\n"), "{text}");
    server.stop().await;
}

/// Sends a request with a header.
async fn send(server: &TestServer, method: &str, path: &str, header: (&str, &str)) -> u16 {
    http::request(server.address(), method, path, &[header], b"").await.status
}

#[tokio::test]
async fn every_refusal_is_counted_by_the_code_of_its_error() {
    let flags = ["--open", "--origin", "https://app.example.com", "--pusher-app", "1:app-key:app-secret"];
    let more = ["--api-key", "an-application-key-of-32-characters", "--internal-listen", "127.0.0.1:0"];
    let server = TestServer::start(&[&flags[..], &more].concat());
    let other = ("origin", "https://evil.example.com");
    assert_eq!(send(&server, "POST", "/heartbeat", other).await, 403);
    refused_upgrade(server.address(), "/v1/connect?user=eve", &[other]).await.error(403);
    refused_upgrade(server.address(), "/v1/connect?user=", &[]).await.error(400);
    assert_eq!(send(&server, "POST", "/v1/users/eve/kick", ("x", "y")).await, 401);
    assert_eq!(send(&server, "POST", "/v1/users/eve/kick", ("authorization", "Bearer wrong")).await, 403);
    assert_eq!(send(&server, "GET", "/apps/1/channels", ("x", "y")).await, 401);
    assert_eq!(send(&server, "GET", "/nothing", ("accept", "text/html")).await, 404);
    assert_eq!(send(&server, "GET", "/nothing", ("accept", "*/*")).await, 404);
    // hyper refuses it.
    http::exchange(server.address(), b"garbage\r\n\r\n").await;
    let mut unknown = EventClient::connect(server.address(), "/app/other-key?protocol=7").await;
    assert_eq!(unknown.wait_for_close().await, Some(4001));
    let mut too_old = EventClient::connect(server.address(), "/app/app-key?protocol=4").await;
    assert_eq!(too_old.wait_for_close().await, Some(4007));
    let metrics = http::request(server.internal_address(), "GET", "/metrics", &[], b"").await;
    let text = String::from_utf8(metrics.body).expect("text");
    let errors = text.lines().filter_map(|line| line.strip_prefix("rollcall_http_errors_total{code="));
    let counted: Vec<_> = errors.filter(|line| !line.ends_with(" 0")).collect();
    let expected =
        ["\"bad_request\"} 2", "\"forbidden\"} 1", "\"not_found\"} 2", "\"unauthorized\"} 2", "\"wrong_origin\"} 2"];
    assert_eq!(counted, expected);
    assert!(text.contains("\nrollcall_handshakes_refused_total 2\n"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn requests_from_outside_are_counted() {
    let server = TestServer::start(&[]);
    assert_eq!(send(&server, "GET", "/v1/rooms", ("host", "example.com")).await, 403);
    assert!(text(&server).await.contains("\nrollcall_http_errors_total{code=\"not_open\"} 1\n"));
    server.stop().await;
}
