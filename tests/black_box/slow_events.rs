//! Clients of online status that read slowly or not at all.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use super::online_status::path;
use crate::common::{EventClient, Mirror, RawClient, TestServer};

/// A hundred users with long names. When all of them join and leave, they cause about 40 KB of events.
async fn guests(server: &TestServer) -> Vec<Mirror> {
    let names: Vec<String> = (0..100).map(|n| format!("{n:0>128}")).collect();
    join_all(names.iter().map(|name| server.connect(name))).await
}

/// Lets all guests join and leave this many times. Six rounds cause 240 KB of events. The buffers of a connection with
/// a small receive buffer hold less: 64 KB at the server and 16 KB at the client.
async fn churn(guests: &[Mirror], fast: &mut EventClient, rounds: usize) {
    // Only guests have names of 128 characters. All are awaited: a later join must not share a tick with a leave.
    let guests_online = |fast: &EventClient| fast.online.iter().filter(|user| user.len() > 128).count();
    for _ in 0..rounds {
        guests.iter().for_each(|guest| guest.send(&json!({"type": "join", "room": "lobby", "observe": false})));
        fast.wait_until("all guests", |fast| guests_online(fast) == guests.len()).await;
        guests.iter().for_each(|guest| guest.send(&json!({"type": "leave", "room": "lobby"})));
        fast.wait_until("the leaves of all guests", |fast| guests_online(fast) == 0).await;
    }
}

#[tokio::test]
async fn a_slow_client_receives_every_event_or_is_disconnected() {
    // Without room for a client that is far behind.
    let server = TestServer::start_with(&["--tick", "10ms"], |config| config.limits.max_backlog_bytes = 1000);
    let mut fast = server.online_status("fast").await;
    let mut slow = EventClient::connect_with_small_buffer(server.address(), &path("slow")).await;
    let mut hung = EventClient::connect_with_small_buffer(server.address(), &path("hung")).await;
    fast.wait_until("both clients", |fast| fast.has_online(&["\"hung\"", "\"slow\""])).await;
    slow.wait_until("both clients", |slow| slow.has_online(&["\"fast\"", "\"hung\""])).await;
    slow.set_reading(false);
    hung.set_reading(false);
    let guests = guests(&server).await;
    churn(&guests, &mut fast, 6).await;
    slow.set_reading(true);
    let marker = server.online_status("marker").await;
    let last = ["\"fast\"", "\"hung\"", "\"marker\""];
    slow.wait_until("the current users", |slow| slow.has_online(&last)).await;
    // The hung client never reads. The server disconnects it although its queue is still short.
    let deadline = Instant::now() + crate::common::DEADLINE;
    while server.get("/v1/stats").await.json()["connections_too_slow"] == json!(0) {
        assert!(Instant::now() < deadline, "the hung client is still connected");
        churn(&guests, &mut fast, 6).await;
    }
    fast.wait_until("the offline event", |fast| fast.has_online(&["\"marker\"", "\"slow\""])).await;
    hung.set_reading(true);
    hung.wait_until("the end", |hung| hung.ended).await;
    drop(marker);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_is_far_behind_receives_no_events_that_cancel_out() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let mut fast = server.online_status("fast").await;
    let mut slow = EventClient::connect_with_small_buffer(server.address(), &path("slow")).await;
    slow.wait_until("the first client", |slow| slow.has_online(&["\"fast\""])).await;
    slow.set_reading(false);
    let guests = guests(&server).await;
    // 2.4 MB of events. The buffers and the queue of the client hold some 1.2 MB.
    let leaver = server.online_status("leaver").await;
    churn(&guests, &mut fast, 30).await;
    drop(leaver);
    churn(&guests, &mut fast, 30).await;
    assert!(server.stat("events_cancelled").await > 1000);
    let stayer = server.online_status("stayer").await;
    fast.wait_until("the last join", |fast| fast.has_online(&["\"slow\"", "\"stayer\""])).await;
    slow.set_reading(true);
    // The client fails if it is told twice that a user is online or offline.
    slow.wait_until("the users who are online", |slow| slow.has_online(&["\"fast\"", "\"stayer\""])).await;
    assert_eq!(server.stat("connections_too_slow").await, 0);
    // From now on it receives everything again.
    let events = slow.log.len();
    churn(&guests, &mut fast, 1).await;
    drop(stayer);
    slow.wait_until("the last leave", |slow| slow.has_online(&["\"fast\""])).await;
    assert_eq!(slow.log.len() - events, 2 * guests.len() + 1);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_and_steadily_is_not_disconnected() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let mut fast = server.online_status("fast").await;
    let mut slow = RawClient::with_small_buffer(server.address()).await;
    slow.upgrade(&path("slow")).await;
    fast.wait_until("the slow client", |fast| fast.has_online(&["\"slow\""])).await;
    let guests = guests(&server).await;
    // The client stays about 240 KB behind while it reads more than the 1 MiB that may be queued at once.
    churn(&guests, &mut fast, 6).await;
    let mut online = BTreeSet::new();
    let mut next_user = async || {
        let message = slow.json().await;
        let user = message["userId"].to_string();
        match message["type"].as_str() {
            Some("USER_ONLINE") => assert!(online.insert(user.clone()), "missed the offline event: {message}"),
            Some("USER_OFFLINE") => assert!(online.remove(&user), "the online event is missing: {message}"),
            _ => assert_eq!(message["type"], "CONNECTION_ESTABLISHED"),
        }
        user
    };
    for _ in 0..40 {
        churn(&guests, &mut fast, 1).await;
        for _ in 0..2 * guests.len() {
            next_user().await;
        }
    }
    let _marker = server.online_status("marker").await;
    while next_user().await != "\"marker\"" {}
    assert!(online.iter().eq(["\"fast\"", "\"marker\""]), "{online:?}");
    assert_eq!(server.get("/v1/stats").await.json()["connections_too_slow"], json!(0));
    server.stop().await;
}
