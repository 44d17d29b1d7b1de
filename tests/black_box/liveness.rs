//! Leases: which signs of life renew them, what ends a presence, and with which reason. The tests use leases of one
//! second and wait for messages; they sleep only to show that nothing happens.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::common::frame::{CLOSE, PING};
use crate::common::{Frame, Mirror, ONE_SECOND_TTL_FLAG, TestServer};

/// Three leases of `ONE_SECOND_TTL_FLAG`.
const THREE_LEASES: Duration = Duration::from_secs(3);

async fn reason_of_leaving(observer: &mut Mirror, user: &str) -> String {
    observer.wait_until("the leave", |observer| observer.reason("lobby", user).is_some()).await;
    observer.reason("lobby", user).expect("just seen")
}

#[tokio::test]
async fn a_client_that_answers_pings_stays_online() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut observer = server.observe("observer", "lobby").await;
    // Both clients send nothing from here on; the library answers pings.
    let _alice = server.connect_to("alice", "lobby").await;
    observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
    sleep(THREE_LEASES).await;
    observer.barrier().await;
    assert_eq!(observer.room("lobby").diffs, 1, "one join and no leave");
    server.stop().await;
}

#[tokio::test]
async fn a_silent_client_is_pinged_times_out_and_is_disconnected() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut observer = server.observe("observer", "lobby").await;
    let mut silent = server.raw("silent").await;
    silent.send_json(&json!({"type": "join", "room": "lobby"})).await;
    observer.wait_until("silent", |observer| observer.has("lobby", "silent")).await;
    let mut pings = 0;
    while let Some(frame) = silent.frame().await {
        pings += usize::from(frame.opcode == PING);
    }
    assert!(pings >= 1, "pinged before it was disconnected");
    assert_eq!(reason_of_leaving(&mut observer, "silent").await, "timeout");
    server.stop().await;
}

#[tokio::test]
async fn pings_come_at_least_every_ping_interval_whatever_the_ttl() {
    // A proxy that cuts silent connections after some time must see one ping per interval, forever.
    let server = TestServer::start(&["--ttl", "600s", "--ping-interval", "200ms"]);
    for path in ["/v1/connect?user=alice", "/ws/bob"] {
        let mut client = crate::common::RawClient::open(server.address(), path).await;
        for pings in 0..8 {
            while client.frame().await.expect("the connection stays open").opcode != PING {}
            // Whether it answers or not: its lease is long.
            if pings % 2 == 0 {
                client.send_frame(&Frame::new(crate::common::frame::PONG, "")).await;
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_silent_online_users_client_is_disconnected_too() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut silent = crate::common::RawClient::open(server.address(), "/ws/silent").await;
    let mut pings = 0;
    while let Some(frame) = silent.frame().await {
        pings += usize::from(frame.opcode == PING);
    }
    assert!(pings >= 1, "pinged before it was disconnected");
    server.wait_for_member("lobby", "silent", false).await;
    server.stop().await;
}

#[tokio::test]
async fn any_frame_renews_the_lease() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut observer = server.observe("observer", "lobby").await;
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
        observer.wait_until("the user", |observer| observer.has("lobby", user)).await;
        clients.push(client);
    }
    // No client answers pings. Each sends its own kind of frame five times per lease, for three leases.
    for _ in 0..15 {
        sleep(THREE_LEASES / 15).await;
        for (client, (_, frame)) in clients.iter_mut().zip(&frames) {
            client.send_frame(frame).await;
        }
    }
    observer.barrier().await;
    assert_eq!(observer.members("lobby").len(), frames.len());
    assert_eq!(observer.room("lobby").diffs, frames.len(), "one join each and no leave");
    server.stop().await;
}

#[tokio::test]
async fn a_clean_close_leaves_at_once() {
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "lobby").await;
    // `close()` in a browser sends no code.
    for (user, frame) in [("1000", Frame::close(1000, b"bye")), ("no code", Frame::new(CLOSE, ""))] {
        let mut client = server.raw(user).await;
        client.send_json(&json!({"type": "join", "room": "lobby"})).await;
        observer.wait_until("the user", |observer| observer.has("lobby", user)).await;
        client.send_frame(&frame).await;
        // The lease is far longer than the test waits.
        assert_eq!(reason_of_leaving(&mut observer, user).await, "closed");
        assert_eq!(server.count("lobby").await, 0);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_clean_close_leaves_every_room() {
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "lobby").await;
    observer.send(&json!({"type": "observe", "room": "other"}));
    let alice = Mirror::connect(server.address(), "alice", &["lobby", "other"]).await;
    observer.wait_until("alice", |observer| observer.has("lobby", "alice") && observer.has("other", "alice")).await;
    alice.close(1000);
    observer
        .wait_until("the leaves", |observer| !observer.has("lobby", "alice") && !observer.has("other", "alice"))
        .await;
    assert_eq!(observer.reason("other", "alice").as_deref(), Some("closed"));
    server.stop().await;
}

/// Ends a connection in a way that is not a clean close.
async fn end_uncleanly(server: &TestServer, observer: &mut Mirror, how: &str) {
    let mut client = server.raw(how).await;
    client.send_json(&json!({"type": "join", "room": "lobby"})).await;
    observer.wait_until("the user", |observer| observer.has("lobby", how)).await;
    match how {
        "going away" => client.send_frame(&Frame::close(1001, b"")).await,
        "own code" => client.send_frame(&Frame::close(4000, b"")).await,
        "violation" => client.send_frame(&Frame::new(5, "")).await,
        _ => drop(client),
    }
}

const WAYS: [&str; 4] = ["going away", "own code", "violation", "dropped"];

#[tokio::test]
async fn an_unclean_end_keeps_the_member_until_the_lease_ends() {
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "lobby").await;
    for how in WAYS {
        end_uncleanly(&server, &mut observer, how).await;
    }
    observer.barrier().await;
    // After an HTTP request and another barrier the server has seen all connections end.
    assert_eq!(server.count("lobby").await, WAYS.len() as u64);
    observer.barrier().await;
    assert_eq!(observer.room("lobby").diffs, WAYS.len(), "one join each and no leave");
    server.stop().await;
}

#[tokio::test]
async fn an_unclean_end_leaves_with_timeout_when_the_lease_ends() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut observer = server.observe("observer", "lobby").await;
    for how in WAYS {
        end_uncleanly(&server, &mut observer, how).await;
    }
    for how in WAYS {
        assert_eq!(reason_of_leaving(&mut observer, how).await, "timeout", "{how}");
    }
    server.stop().await;
}

#[tokio::test]
async fn grace_ends_an_unclean_end_earlier_than_the_lease() {
    // The lease is longer than the test waits, so the grace period ends the presence.
    let server = TestServer::start(&["--ttl", "600s", "--grace", "300ms"]);
    let mut observer = server.observe("observer", "lobby").await;
    let staying = server.connect_to("staying", "lobby").await;
    for how in WAYS {
        end_uncleanly(&server, &mut observer, how).await;
    }
    for how in WAYS {
        assert_eq!(reason_of_leaving(&mut observer, how).await, "timeout", "{how}");
    }
    assert!(observer.has("lobby", "staying"), "grace does not apply to a connected user");
    drop(staying);
    server.stop().await;
}

#[tokio::test]
async fn a_reconnect_within_the_lease_is_invisible_to_observers() {
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "lobby").await;
    for round in 0..10 {
        let alice = server.connect_to("alice", "lobby").await;
        observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
        if round % 2 == 0 { alice.drop_connection() } else { alice.close(1001) }
    }
    let _alice = server.connect_to("alice", "lobby").await;
    observer.barrier().await;
    assert_eq!(observer.room("lobby").diffs, 1, "one join in spite of the reconnects");
    server.stop().await;
}

#[tokio::test]
async fn a_reconnected_member_outlives_its_first_connection() {
    let server = TestServer::start(&["--ttl", "60s", "--grace", "200ms"]);
    let mut observer = server.observe("observer", "lobby").await;
    let first = server.connect_to("alice", "lobby").await;
    let _second = server.connect_to("alice", "lobby").await;
    let other = server.connect_to("other", "lobby").await;
    observer.wait_until("both", |observer| observer.has("lobby", "alice") && observer.has("lobby", "other")).await;
    first.drop_connection();
    // The other user disconnects after alice's first connection, so its grace period ends later.
    other.drop_connection();
    assert_eq!(reason_of_leaving(&mut observer, "other").await, "timeout");
    sleep(Duration::from_millis(200)).await;
    observer.barrier().await;
    assert!(observer.has("lobby", "alice"), "{}", observer.describe());
    server.stop().await;
}

#[tokio::test]
async fn with_strict_liveness_only_heartbeats_renew_the_lease_of_native_clients() {
    let server = TestServer::start(&["--ttl", "1s", "--liveness", "strict"]);
    let mut observer = server.observe("observer", "lobby").await;
    let _alice = server.connect_to("alice", "lobby").await;
    observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
    assert_eq!(reason_of_leaving(&mut observer, "alice").await, "timeout");
    server.stop().await;
}

#[tokio::test]
async fn with_any_liveness_pongs_renew_the_lease_of_online_users_clients() {
    let server = TestServer::start(&["--ttl", "1s", "--liveness", "any"]);
    let mut observer = server.observe("observer", "lobby").await;
    let _alice = server.online_users("alice").await;
    observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
    sleep(THREE_LEASES).await;
    observer.barrier().await;
    assert_eq!(observer.room("lobby").diffs, 1, "one join and no leave");
    server.stop().await;
}

#[tokio::test]
async fn a_connected_member_that_timed_out_rejoins_with_its_next_heartbeat() {
    let server = TestServer::start(&["--ttl", "1s", "--liveness", "strict"]);
    let mut observer = server.observe("observer", "lobby").await;
    let mut alice = server.connect("alice").await;
    alice.send(&json!({"type": "join", "room": "lobby", "state": {"n": 1}}));
    observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
    assert_eq!(reason_of_leaving(&mut observer, "alice").await, "timeout");
    alice.heartbeat().await;
    observer.wait_until("alice again", |observer| observer.has("lobby", "alice")).await;
    assert_eq!(observer.state("lobby", "alice"), Some(&json!({"n": 1})));
    server.stop().await;
}
