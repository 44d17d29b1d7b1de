//! The limit of users per address who are online through REST heartbeats.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::common::http::{self, Response, request_text};
use crate::common::{DEADLINE, TestServer, encoded};

const LIMIT_OF_FIVE: [&str; 2] = ["--rest-users-per-address", "5"];

/// A heartbeat from an address of this machine, with these headers.
async fn heartbeat(server: &TestServer, from: &str, headers: &[(&str, &str)], user: &str) -> Response {
    let body = format!("user_id={}", encoded(user));
    http::request_from(from, server.address(), &request_text("POST", "/heartbeat", headers, body.as_bytes())).await
}

#[tokio::test]
async fn made_up_users_of_one_address_are_refused_and_other_addresses_are_not() {
    let server = TestServer::start(&LIMIT_OF_FIVE);
    for user in 0..5 {
        assert_eq!(heartbeat(&server, "127.0.0.2", &[], &format!("user-{user}")).await.status, 200);
    }
    for user in 5..100 {
        let refused = heartbeat(&server, "127.0.0.2", &[], &format!("user-{user}")).await;
        let message = refused.error(429);
        assert!(message.contains("the limit is 5 (--rest-users-per-address)"), "{message}");
        assert_eq!(refused.json()["error"]["code"], "too_many_users");
        assert_eq!(refused.header("retry-after"), Some("600"), "one ttl");
    }
    assert_eq!(heartbeat(&server, "127.0.0.2", &[], "user-3").await.status, 200, "a user who is online stays online");
    assert_eq!(heartbeat(&server, "127.0.0.3", &[], "someone else").await.status, 200);
    assert_eq!(server.count("lobby").await, 6);
    assert_eq!(server.stat("rest_users_refused").await, 95);
    server.stop().await;
}

#[tokio::test]
async fn an_address_has_room_again_when_its_users_have_gone_offline() {
    let server = TestServer::start(&["--rest-users-per-address", "5", "--ttl", "1s"]);
    for user in 0..5 {
        heartbeat(&server, "127.0.0.2", &[], &format!("user-{user}")).await;
    }
    // The leases of the five end one after another, as they began.
    for user in ["late", "later"] {
        let deadline = Instant::now() + DEADLINE;
        while heartbeat(&server, "127.0.0.2", &[], user).await.status == 429 {
            assert!(Instant::now() < deadline, "{user} is still refused");
            sleep(Duration::from_millis(50)).await;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn programs_on_this_machine_are_not_limited_and_clients_of_a_proxy_on_it_are() {
    let server = TestServer::start(&[&LIMIT_OF_FIVE[..], &["--open", "--trust-proxy", "127.0.0.1"]].concat());
    let last_of = async |headers: &[(&str, &str)], name: &str| {
        let mut last = 0;
        for user in 0..6 {
            last = heartbeat(&server, "127.0.0.1", headers, &format!("{name}-{user}")).await.status;
        }
        last
    };
    assert_eq!(last_of(&[], "local").await, 200);
    assert_eq!(last_of(&[("x-forwarded-for", "10.1.1.1")], "one").await, 429);
    // What a client claims comes before what the proxy adds.
    assert_eq!(last_of(&[("x-forwarded-for", "127.0.0.1, 10.1.1.2")], "two").await, 429);
    // Addresses of one IPv6 network are one.
    assert_eq!(last_of(&[("x-forwarded-for", "2001:db8:0:1::1")], "six").await, 429);
    let neighbour = [("x-forwarded-for", "2001:db8:0:1::ffff")];
    assert_eq!(heartbeat(&server, "127.0.0.1", &neighbour, "neighbour").await.status, 429);
    let mapped = [("x-forwarded-for", "::ffff:10.1.1.1")];
    assert_eq!(heartbeat(&server, "127.0.0.1", &mapped, "mapped").await.status, 429);
    server.stop().await;
}
