//! Leases: who counts as alive, what ends a presence and with which reason. These tests wait for leases of a second
//! to run out; what is waited for is always a message, and spans are only slept through to show that nothing happens.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::common::frame::{CLOSE, PING};
use crate::common::{Frame, Mirror, ONE_SECOND_TTL_FLAG, TestServer};

/// Long enough for several leases of `ONE_SECOND_TTL_FLAG`.
const THREE_LEASES: Duration = Duration::from_secs(3);

async fn reason_of_leaving(watcher: &mut Mirror, user: &str) -> String {
    watcher.wait_until("the leave", |watcher| watcher.reason("lobby", user).is_some()).await;
    watcher.reason("lobby", user).expect("just seen")
}

#[tokio::test]
async fn whoever_answers_pings_stays_online() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut watcher = server.observe("watcher", "lobby").await;
    // Both say nothing from here on; the library answers pings.
    let _alice = server.connect_to("alice", "lobby").await;
    watcher.wait_until("alice", |watcher| watcher.has("lobby", "alice")).await;
    sleep(THREE_LEASES).await;
    watcher.barrier().await;
    assert_eq!(watcher.room("lobby").diffs, 1, "joined once, never left");
    server.stop().await;
}

#[tokio::test]
async fn a_silent_client_is_pinged_then_times_out_and_is_dropped() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut watcher = server.observe("watcher", "lobby").await;
    let mut silent = server.raw("silent").await;
    silent.send_json(&json!({"type": "join", "room": "lobby"})).await;
    watcher.wait_until("silent", |watcher| watcher.has("lobby", "silent")).await;
    let mut pings = 0;
    while let Some(frame) = silent.frame().await {
        pings += usize::from(frame.opcode == PING);
    }
    assert!(pings >= 1, "asked before it was dropped");
    assert_eq!(reason_of_leaving(&mut watcher, "silent").await, "timeout");
    server.stop().await;
}

#[tokio::test]
async fn a_silent_client_of_the_online_users_dialect_is_dropped_too() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut silent = crate::common::RawClient::open(server.address(), "/ws/silent").await;
    let mut pings = 0;
    while let Some(frame) = silent.frame().await {
        pings += usize::from(frame.opcode == PING);
    }
    assert!(pings >= 1, "asked before it was dropped");
    server.wait_for_member("lobby", "silent", false).await;
    server.stop().await;
}

#[tokio::test]
async fn any_frame_is_a_sign_of_life() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut watcher = server.observe("watcher", "lobby").await;
    let frames = [
        ("bare", Frame::text("heartbeat")),
        ("json", Frame::text(r#"{"type":"heartbeat"}"#)),
        ("error", Frame::text("nonsense")),
        ("ping", Frame::new(PING, "")),
        ("pong", Frame::new(crate::common::frame::PONG, "")),
    ];
    let mut clients = Vec::new();
    for (user, _) in &frames {
        let mut client = server.raw(user).await;
        client.send_json(&json!({"type": "join", "room": "lobby", "observe": false})).await;
        watcher.wait_until("the user", |watcher| watcher.has("lobby", user)).await;
        clients.push(client);
    }
    // Nobody answers the server's pings; each says its own thing, five times a lease, for three leases.
    for _ in 0..15 {
        sleep(THREE_LEASES / 15).await;
        for (client, (_, frame)) in clients.iter_mut().zip(&frames) {
            client.send_frame(frame).await;
        }
    }
    watcher.barrier().await;
    assert_eq!(watcher.members("lobby").len(), frames.len());
    assert_eq!(watcher.room("lobby").diffs, frames.len(), "joined once each, never left");
    server.stop().await;
}

#[tokio::test]
async fn a_clean_close_leaves_at_once() {
    let server = TestServer::start(&[]);
    let mut watcher = server.observe("watcher", "lobby").await;
    // Without a code is how `close()` of a browser closes.
    for (user, frame) in [("1000", Frame::close(1000, b"bye")), ("no code", Frame::new(CLOSE, ""))] {
        let mut client = server.raw(user).await;
        client.send_json(&json!({"type": "join", "room": "lobby"})).await;
        watcher.wait_until("the user", |watcher| watcher.has("lobby", user)).await;
        client.send_frame(&frame).await;
        // The lease is far longer than a test waits.
        assert_eq!(reason_of_leaving(&mut watcher, user).await, "closed");
        assert_eq!(server.count("lobby").await, 0);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_clean_close_leaves_every_room() {
    let server = TestServer::start(&[]);
    let mut watcher = server.observe("watcher", "lobby").await;
    watcher.send(&json!({"type": "observe", "room": "other"}));
    let alice = Mirror::connect(server.address(), "alice", &["lobby", "other"]).await;
    watcher.wait_until("alice", |w| w.has("lobby", "alice") && w.has("other", "alice")).await;
    alice.close(1000);
    watcher.wait_until("gone", |w| !w.has("lobby", "alice") && !w.has("other", "alice")).await;
    assert_eq!(watcher.reason("other", "alice").as_deref(), Some("closed"));
    server.stop().await;
}

/// Ways to go that are no clean close.
async fn go(server: &TestServer, watcher: &mut Mirror, how: &str) {
    let mut client = server.raw(how).await;
    client.send_json(&json!({"type": "join", "room": "lobby"})).await;
    watcher.wait_until("the user", |watcher| watcher.has("lobby", how)).await;
    match how {
        "going away" => client.send_frame(&Frame::close(1001, b"")).await,
        "own code" => client.send_frame(&Frame::close(4000, b"")).await,
        "violation" => client.send_frame(&Frame::new(5, "")).await,
        _ => drop(client),
    }
}

const WAYS: [&str; 4] = ["going away", "own code", "violation", "dropped"];

#[tokio::test]
async fn any_other_end_keeps_the_member_for_its_lease() {
    let server = TestServer::start(&[]);
    let mut watcher = server.observe("watcher", "lobby").await;
    for how in WAYS {
        go(&server, &mut watcher, how).await;
    }
    watcher.barrier().await;
    // A round over HTTP and another barrier: the server has seen all the ends by now.
    assert_eq!(server.count("lobby").await, WAYS.len() as u64);
    watcher.barrier().await;
    assert_eq!(watcher.room("lobby").diffs, WAYS.len(), "joined once each, nobody left");
    server.stop().await;
}

#[tokio::test]
async fn any_other_end_is_a_timeout_when_the_lease_is_over() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut watcher = server.observe("watcher", "lobby").await;
    for how in WAYS {
        go(&server, &mut watcher, how).await;
    }
    for how in WAYS {
        assert_eq!(reason_of_leaving(&mut watcher, how).await, "timeout", "{how}");
    }
    server.stop().await;
}

#[tokio::test]
async fn grace_shortens_the_lingering() {
    // The lease is longer than a test waits, so it is the grace that ends it.
    let server = TestServer::start(&["--ttl", "600s", "--grace", "300ms"]);
    let mut watcher = server.observe("watcher", "lobby").await;
    let staying = server.connect_to("staying", "lobby").await;
    for how in WAYS {
        go(&server, &mut watcher, how).await;
    }
    for how in WAYS {
        assert_eq!(reason_of_leaving(&mut watcher, how).await, "timeout", "{how}");
    }
    assert!(watcher.has("lobby", "staying"), "connected, so grace says nothing about it");
    drop(staying);
    server.stop().await;
}

#[tokio::test]
async fn a_reconnect_within_the_lease_shows_nobody_anything() {
    let server = TestServer::start(&[]);
    let mut watcher = server.observe("watcher", "lobby").await;
    for round in 0..10 {
        let alice = server.connect_to("alice", "lobby").await;
        watcher.wait_until("alice", |watcher| watcher.has("lobby", "alice")).await;
        if round % 2 == 0 { alice.drop_connection() } else { alice.close(1001) }
    }
    let _alice = server.connect_to("alice", "lobby").await;
    watcher.barrier().await;
    assert_eq!(watcher.room("lobby").diffs, 1, "joined once, whatever the reloads");
    server.stop().await;
}

#[tokio::test]
async fn a_reconnected_member_outlives_its_first_connection() {
    let server = TestServer::start(&["--ttl", "60s", "--grace", "200ms"]);
    let mut watcher = server.observe("watcher", "lobby").await;
    let first = server.connect_to("alice", "lobby").await;
    let _second = server.connect_to("alice", "lobby").await;
    let other = server.connect_to("other", "lobby").await;
    watcher.wait_until("both", |w| w.has("lobby", "alice") && w.has("lobby", "other")).await;
    first.drop_connection();
    // The other goes after alice's first connection, so its grace ends no earlier.
    other.drop_connection();
    assert_eq!(reason_of_leaving(&mut watcher, "other").await, "timeout");
    sleep(Duration::from_millis(200)).await;
    watcher.barrier().await;
    assert!(watcher.has("lobby", "alice"), "{}", watcher.describe());
    server.stop().await;
}

#[tokio::test]
async fn strict_liveness_counts_only_heartbeats_for_native_clients_too() {
    let server = TestServer::start(&["--ttl", "1s", "--liveness", "strict"]);
    let mut watcher = server.observe("watcher", "lobby").await;
    let _alice = server.connect_to("alice", "lobby").await;
    watcher.wait_until("alice", |watcher| watcher.has("lobby", "alice")).await;
    assert_eq!(reason_of_leaving(&mut watcher, "alice").await, "timeout");
    server.stop().await;
}

#[tokio::test]
async fn any_liveness_counts_pongs_for_the_online_users_dialect_too() {
    let server = TestServer::start(&["--ttl", "1s", "--liveness", "any"]);
    let mut watcher = server.observe("watcher", "lobby").await;
    let _alice = server.online_users("alice").await;
    watcher.wait_until("alice", |watcher| watcher.has("lobby", "alice")).await;
    sleep(THREE_LEASES).await;
    watcher.barrier().await;
    assert_eq!(watcher.room("lobby").diffs, 1, "joined once, never left");
    server.stop().await;
}

#[tokio::test]
async fn an_open_member_that_timed_out_comes_back_with_its_next_heartbeat() {
    let server = TestServer::start(&["--ttl", "1s", "--liveness", "strict"]);
    let mut watcher = server.observe("watcher", "lobby").await;
    let mut alice = server.connect("alice").await;
    alice.send(&json!({"type": "join", "room": "lobby", "state": {"n": 1}}));
    watcher.wait_until("alice", |watcher| watcher.has("lobby", "alice")).await;
    assert_eq!(reason_of_leaving(&mut watcher, "alice").await, "timeout");
    alice.heartbeat().await;
    watcher.wait_until("alice again", |watcher| watcher.has("lobby", "alice")).await;
    assert_eq!(watcher.state("lobby", "alice"), Some(&json!({"n": 1})));
    server.stop().await;
}
