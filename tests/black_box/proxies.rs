//! Clients behind proxies: whose address counts.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::http::{self, request_text};
use crate::common::process::Process;
use crate::common::raw::{RawClient, upgrade_request};
use crate::common::token::{SECRET_FLAG, subprotocols};
use crate::common::{DEADLINE, TestServer};

const LIMIT_OF_FIVE: [&str; 3] = ["--open", "--rest-users-per-address", "5"];

/// The status of the sixth heartbeat of new users, with these headers, from this peer.
async fn sixth(server: &TestServer, from: &str, header: Option<(&str, &str)>, name: &str) -> u16 {
    let mut last = 0;
    for user in 0..6 {
        let headers: Vec<_> = header.into_iter().collect();
        let bytes = request_text("POST", "/heartbeat", &headers, format!("user_id={name}-{user}").as_bytes());
        last = http::request_from(from, server.address(), &bytes).await.status;
    }
    last
}

#[tokio::test]
async fn the_address_behind_a_trusted_proxy_counts() {
    let server = TestServer::start(&[&LIMIT_OF_FIVE[..], &["--trust-proxy", "127.0.0.2,10.0.0.0/8"]].concat());
    let behind = |value| Some(("x-forwarded-for", value));
    assert_eq!(sixth(&server, "127.0.0.2", behind("203.0.113.1"), "one").await, 429);
    assert_eq!(sixth(&server, "127.0.0.2", behind("203.0.113.2:4711"), "two").await, 429, "another client");
    // The same client behind two proxies, with an address that it made up.
    let chain =
        request_text("POST", "/heartbeat", &[("x-forwarded-for", "6.6.6.6, 203.0.113.1, 10.1.1.1")], b"user_id=x");
    assert_eq!(http::request_from("127.0.0.2", server.address(), &chain).await.status, 429);
    // A header that ends in garbage counts for the proxy, and an address from a header is never exempt.
    assert_eq!(sixth(&server, "127.0.0.2", behind("203.0.113.9, unknown"), "three").await, 429);
    assert_eq!(sixth(&server, "127.0.0.2", behind("127.0.0.1"), "four").await, 429);
    server.stop().await;
}

#[tokio::test]
async fn an_untrusted_peer_cannot_choose_its_address() {
    let server = TestServer::start(&[&LIMIT_OF_FIVE[..], &["--trust-proxy", "127.0.0.9"]].concat());
    for user in 0..6 {
        let address = format!("203.0.113.{user}");
        let body = format!("user_id=user-{user}");
        let bytes = request_text("POST", "/heartbeat", &[("x-forwarded-for", &address)], body.as_bytes());
        let answer = http::request_from("127.0.0.2", server.address(), &bytes).await;
        assert_eq!(answer.status, if user < 5 { 200 } else { 429 });
    }
    assert_eq!(sixth(&server, "127.0.0.1", None, "local").await, 200, "programs on this machine are exempt");
    assert_eq!(sixth(&server, "127.0.0.1", Some(("x-forwarded-for", "1.1.1.1")), "proxied").await, 429);
    server.stop().await;
}

#[tokio::test]
async fn an_untrusted_proxy_is_logged_once_with_the_flag_to_set() {
    let mut process = Process::start(&["--workers", "1", "--open"]);
    let address = process.address();
    for _ in 0..5 {
        let header = [("x-forwarded-for", "203.0.113.7")];
        assert_eq!(http::request(address, "GET", "/v1/rooms", &header, b"").await.status, 200);
        let (mut client, _) = RawClient::open_with(address, "/v1/connect?user=a", &header, b"").await;
        assert!(client.is_served().await);
    }
    process.signal("TERM");
    assert!(process.wait_for_exit().success());
    let output = process.final_output();
    let lines: Vec<_> = output.iter().filter(|line| line.contains("--trust-proxy 127.0.0.1")).collect();
    assert_eq!(lines.len(), 1, "{output:#?}");
}

/// Whether a new connection of a new user behind the proxy 127.0.0.2 is served: its heartbeat is read, behind these
/// messages. Or else the server pauses the connection.
async fn is_served(server: &TestServer, address: &str, user: &str, messages: &[Value]) -> bool {
    let (heartbeats, pauses) = (server.stat("heartbeats").await, server.stat("pauses").await);
    let mut client = RawClient::tcp_from("127.0.0.2", server.address()).await;
    client.upgrade_with(&format!("/v1/connect?user={user}"), &[("x-forwarded-for", address)]).await;
    for message in messages {
        client.send_json(message).await;
    }
    client.send_json(&json!({"type": "heartbeat"})).await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        if server.stat("pauses").await > pauses {
            return false;
        }
        if server.stat("heartbeats").await > heartbeats {
            return true;
        }
        assert!(Instant::now() < deadline, "{user} is neither served nor paused");
    }
}

#[tokio::test]
async fn addresses_behind_one_proxy_have_work_budgets_of_their_own() {
    // 16 KiB at once. The flood below takes minutes to pay for.
    let server = TestServer::start(&["--open", "--trust-proxy", "127.0.0.2", "--work-per-address", "1K"]);
    let names: Vec<_> = (0..1000).map(|number| format!("name-{number}")).collect();
    let flood = vec![json!({"type": "watch", "users": names}); 4];
    assert!(is_served(&server, "203.0.113.7", "alice", &[]).await);
    assert!(!is_served(&server, "203.0.113.7", "mallory", &flood).await);
    // Each of these connections is a new one, of a user without debts.
    for address in ["203.0.113.7", "203.0.113.7", "::ffff:203.0.113.7"] {
        assert!(!is_served(&server, address, "bob", &[]).await, "reconnecting renews the budget of {address}");
    }
    for address in ["203.0.113.8", "2001:db8::1", "127.0.0.1"] {
        assert!(is_served(&server, address, "carol", &[]).await, "{address} pays for another address");
    }
    server.stop().await;
}

#[tokio::test]
async fn refused_clients_behind_a_proxy_count_for_their_address_until_they_are_gone() {
    let flags = ["--trust-proxy", "127.0.0.2", "--unauthenticated-per-address", "3", "--failures-per-address", "0"];
    let server = TestServer::start(&[&flags[..], &SECRET_FLAG].concat());
    let bad = subprotocols("bad.token.here");
    let knock = async |address: &str| {
        let mut client = RawClient::tcp_from("127.0.0.2", server.address()).await;
        let headers = [("x-forwarded-for", address), ("sec-websocket-protocol", &*bad)];
        client.send(&upgrade_request("/v1/connect", &headers)).await;
        (client.head().await.status, client)
    };
    // A refused client has two seconds to read the reason. On a slow machine some are gone before the fourth comes.
    let deadline = Instant::now() + DEADLINE;
    let mut refused = Vec::new();
    loop {
        let (status, client) = knock("203.0.113.7").await;
        if status == 429 {
            break;
        }
        assert_eq!(status, 101);
        refused.push(client);
        assert!(Instant::now() < deadline, "an address has no limit behind a proxy");
    }
    assert!(refused.len() >= 3, "{}", refused.len());
    assert_eq!(knock("203.0.113.8").await.0, 101, "another address behind the same proxy");
    drop(refused);
    while knock("203.0.113.7").await.0 != 101 {
        assert!(Instant::now() < deadline, "the address is refused for ever");
        sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}
