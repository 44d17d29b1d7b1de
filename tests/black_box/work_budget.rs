//! Clients that cause more work than their budgets allow are read later; all others notice nothing.

use serde_json::{Value, json};

use crate::common::frame::CLOSE;
use crate::common::http::request_text;
use crate::common::{Mirror, RawClient, TestServer};

/// Ticks within which everyone else is served, whatever an attacker does. Without pauses, the attacks of this file take
/// hundreds of ticks.
const PROMPT_TICKS: u64 = 20;

fn join(room: &str) -> Value {
    json!({"type": "join", "room": room, "observe": false})
}

fn leave(room: &str) -> Value {
    json!({"type": "leave", "room": room})
}

/// Joins and leaves of this many rooms that nobody joined before.
fn churn(rooms: std::ops::Range<usize>) -> Vec<Value> {
    rooms.flat_map(|number| [join(&format!("room-{number}")), leave(&format!("room-{number}"))]).collect()
}

/// An honest client joins a room and is seen there within a few ticks.
async fn assert_served(server: &TestServer, name: &str) {
    let before = server.ticks().await;
    let mut observer = server.observe(&format!("{name}-observer"), name).await;
    let member = server.connect_to(name, name).await;
    observer.wait_until("the join", |observer| observer.has(name, name)).await;
    let took = server.ticks().await - before;
    assert!(took < PROMPT_TICKS, "{name} was seen after {took} ticks");
    drop(member);
}

/// The replies that wait for an attacker are too long for the log of its mirror.
async fn attacker(server: &TestServer, user: &str) -> Mirror {
    let mut attacker = server.connect(user).await;
    attacker.logging = false;
    attacker
}

#[tokio::test]
async fn an_honest_client_that_rejoins_100_rooms_and_moves_on_is_never_paused() {
    let server = TestServer::start(&[]);
    let mut client = server.connect("honest").await;
    let rooms = |first: usize| (first..first + 100).map(|number| format!("room-{number}"));
    client.send_all(&rooms(0).map(|room| json!({"type": "join", "room": room})).collect::<Vec<_>>());
    client.wait_until("100 rooms", |client| rooms(0).all(|room| client.has(&room, "honest"))).await;
    let names: Vec<_> = (0..1000).map(|number| format!("user-{number}")).collect();
    client.send(&json!({"type": "watch", "users": names}));
    client.send_all(&rooms(0).map(|room| leave(&room)).collect::<Vec<_>>());
    client.send_all(&rooms(100).map(|room| json!({"type": "join", "room": room})).collect::<Vec<_>>());
    client.wait_until("100 others", |client| rooms(100).all(|room| client.has(&room, "honest"))).await;
    assert_eq!(server.stat("pauses").await, 0);
    assert_eq!(server.stat("messages_refused").await, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_flood_of_joins_and_leaves_is_read_later_and_delays_nobody() {
    let server = TestServer::start(&[]);
    let attacker = attacker(&server, "mallory").await;
    attacker.send_all(&churn(0..20_000));
    server.wait_for_stat("connections_over_budget", 1).await;
    assert_served(&server, "alice").await;
    assert!(server.stat("rooms").await < 1000, "the rooms that were left are gone");
    assert_eq!(server.stat("messages_refused").await, 0, "nothing is refused");
    server.stop().await;
}

/// Watches 1,000 users whom nobody watched before. That costs a quarter of the budget of a connection, a sixteenth of
/// the budget of a user, and half of what may change in a tick.
fn watch_many(number: usize) -> Value {
    let names: Vec<_> = (0..1000).map(|name| format!("name-{number}-{name}")).collect();
    json!({"type": "watch", "users": names})
}

/// Puts a user into debt, but far below the limit: each of its connections stays within its own budget. Call it without
/// ticks, so that the debt is certain.
async fn put_into_debt(server: &TestServer, user: &str) {
    let frames = server.stat("frames_received").await;
    let mut attackers = Vec::new();
    for _ in 0..20 {
        attackers.push(server.raw(user).await);
    }
    for (number, attacker) in attackers.iter_mut().enumerate() {
        attacker.send_json(&watch_many(number)).await;
    }
    server.wait_for_stat("frames_received", frames + 20).await;
}

#[tokio::test]
async fn the_connections_of_a_user_share_the_budget_of_the_user() {
    let server = TestServer::start(&[]);
    server
        .without_ticks(async || {
            put_into_debt(&server, "alice").await;
            assert!(server.stat("pauses").await > 0);
        })
        .await;
    assert_served(&server, "bob").await;
    server.stop().await;
}

#[tokio::test]
async fn reconnecting_does_not_renew_the_budget_of_a_user() {
    let server = TestServer::start(&[]);
    let rounds = server
        .without_ticks(async || {
            for round in 0..40 {
                let mut attacker = server.raw("mallory").await;
                attacker.send_json(&watch_many(round)).await;
                attacker.send_json(&json!({"type": "heartbeat"})).await;
                while server.stat("heartbeats").await <= round as u64 {
                    if server.stat("pauses").await > 0 {
                        return round;
                    }
                }
            }
            panic!("the user was never slowed");
        })
        .await;
    assert_eq!(rounds, 16, "sixteen connections have spent the budget");
    server.stop().await;
}

#[tokio::test]
async fn a_flood_of_watched_names_is_read_later_and_delays_nobody() {
    let server = TestServer::start(&[]);
    let attacker = attacker(&server, "mallory").await;
    for batch in 0..40 {
        let names: Vec<_> = (0..500).map(|number| format!("name-{batch}-{number}")).collect();
        attacker.send(&json!({"type": "watch", "users": names}));
        attacker.send(&json!({"type": "unwatch", "users": names}));
    }
    server.wait_for_stat("connections_over_budget", 1).await;
    assert_served(&server, "alice").await;
    assert_eq!(server.stat("messages_refused").await, 0);
    server.stop().await;
}

/// A room in which each snapshot has some 60 KB.
async fn room_with_long_states(server: &TestServer) -> Vec<Mirror> {
    let mut members = Vec::new();
    for number in 0..60 {
        let member = server.connect(&format!("member-{number:02}")).await;
        let state = json!({"filler": "x".repeat(950)});
        member.send(&json!({"type": "join", "room": "long", "state": state, "observe": false}));
        members.push(member);
    }
    server.wait_for_member("long", "member-59", true).await;
    members
}

#[tokio::test]
async fn repeated_requests_for_the_same_snapshot_wait_until_they_are_paid() {
    let server = TestServer::start(&["--tick", "20ms"]);
    let _members = room_with_long_states(&server).await;
    let mut attacker = server.observe("mallory", "long").await;
    attacker.logging = false;
    // Spends the burst of 1 MiB with some 17 snapshots, one per tick.
    let mut requests = 0;
    while server.stat("connections_over_budget").await == 0 {
        attacker.send(&json!({"type": "resync", "room": "long"}));
        requests += 1;
        assert!(requests < 10_000, "the attacker was never slowed");
    }
    attacker.apply_pending();
    let snapshots = attacker.room("long").snapshots;
    attacker.send(&json!({"type": "resync", "room": "long"}));
    assert_served(&server, "alice").await;
    attacker.apply_pending();
    let more = attacker.room("long").snapshots - snapshots;
    assert!(more <= 3, "{more} more snapshots: each has to wait for 15 seconds");
    assert_eq!(server.stat("messages_refused").await, 0);
    server.stop().await;
}

#[tokio::test]
async fn observing_a_room_again_after_leaving_it_is_a_repetition() {
    let server = TestServer::start(&["--tick", "20ms"]);
    let _members = room_with_long_states(&server).await;
    let attacker = attacker(&server, "mallory").await;
    let mut requests = 0;
    while server.stat("connections_over_budget").await == 0 {
        attacker.send(&json!({"type": "observe", "room": "long"}));
        attacker.send(&json!({"type": "unobserve", "room": "long"}));
        requests += 1;
        assert!(requests < 10_000, "the attacker was never slowed");
    }
    let frames = server.stat("frames_received").await;
    assert_served(&server, "alice").await;
    let before = server.ticks().await;
    while server.ticks().await < before + 100 {}
    let more = server.stat("frames_received").await - frames;
    assert!(more < 20, "{more} more messages were read: each has to wait for 15 seconds");
    server.stop().await;
}

#[tokio::test]
async fn asking_for_the_status_of_the_same_users_again_and_again_is_slowed() {
    let server = TestServer::start(&["--tick", "20ms"]);
    let attacker = attacker(&server, "mallory").await;
    let names: Vec<_> = (0..500).map(|number| format!("user-{number}")).collect();
    let mut requests = 0;
    while server.stat("connections_over_budget").await == 0 {
        attacker.send(&json!({"type": "watch", "users": names}));
        requests += 1;
        assert!(requests < 10_000, "the attacker was never slowed");
    }
    assert_served(&server, "alice").await;
    server.stop().await;
}

#[tokio::test]
async fn errors_are_paid_for_like_any_other_reply() {
    let server = TestServer::start(&[]);
    let attacker = attacker(&server, "mallory").await;
    attacker.send_all(&vec![json!({}); 6_000]);
    server.wait_for_stat("connections_over_budget", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn a_paused_client_stays_a_member() {
    let server = TestServer::start(&["--ttl", "1s", "--tick", "20ms"]);
    let mut observer = server.observe("observer", "lobby").await;
    let attacker = server.connect_to("mallory", "lobby").await;
    observer.wait_until("the join", |observer| observer.has("lobby", "mallory")).await;
    attacker.send_all(&churn(0..20_000));
    server.wait_for_stat("connections_over_budget", 1).await;
    let before = server.ticks().await;
    while server.ticks().await < before + 150 {
        observer.heartbeat().await;
    }
    assert!(observer.has("lobby", "mallory"), "the lease is three times shorter than this wait");
    server.stop().await;
}

#[tokio::test]
async fn a_paused_client_that_is_gone_leaves_like_any_other() {
    let server = TestServer::start(&["--grace", "1s"]);
    let mut observer = server.observe("observer", "lobby").await;
    let attacker = server.connect_to("mallory", "lobby").await;
    observer.wait_until("the join", |observer| observer.has("lobby", "mallory")).await;
    // Little enough that the end of the connection fits into the buffers behind it.
    attacker.send_all(&churn(0..3_000));
    server.wait_for_stat("connections_over_budget", 1).await;
    attacker.drop_connection();
    observer.wait_until("the leave", |observer| !observer.has("lobby", "mallory")).await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_with_waiting_clients_drains() {
    let server = TestServer::start(&[]);
    let mut attacker = attacker(&server, "mallory").await;
    attacker.send_all(&churn(0..20_000));
    server.wait_for_stat("connections_over_budget", 1).await;
    let stopped = server.begin_stop();
    assert_eq!(attacker.wait_for_close().await, Some(1012));
    stopped.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_rooms_of_a_user_are_bounded_and_the_first_room_of_a_connection_is_not() {
    let server = TestServer::start(&[]);
    let mut connections = Vec::new();
    for number in 0..20 {
        let mut connection = server.connect("mallory").await;
        connection.send_all(&(0..100).map(|room| join(&format!("room-{number}-{room}"))).collect::<Vec<_>>());
        connection.heartbeat().await;
        connections.push(connection);
    }
    let mut last = server.connect_to("mallory", "first").await;
    let refused = last.expect_error(&join("second").to_string()).await;
    assert_eq!(refused["code"], "forbidden");
    assert!(refused["message"].as_str().unwrap().contains("2000 rooms per user"), "{refused}");
    // All of them end at once.
    connections.into_iter().for_each(Mirror::drop_connection);
    assert_served(&server, "alice").await;
    server.stop().await;
}

#[tokio::test]
async fn operators_see_who_is_over_budget() {
    let server = TestServer::start(&["--api-key", "a key for this test"]);
    assert_eq!(server.get("/v1/stats").await.json()["over_budget"], json!([]));
    let attacker = attacker(&server, "mallory").await;
    attacker.send_all(&churn(0..20_000));
    server.wait_for_stat("connections_over_budget", 1).await;
    let over = &server.get("/v1/stats").await.json()["over_budget"];
    assert_eq!(over[0]["user"], "mallory", "{over}");
    assert!(over[0]["pauses"].as_u64().is_some_and(|pauses| pauses > 0), "{over}");
    server.stop().await;
}

#[tokio::test]
async fn a_new_connection_of_a_user_in_debt_is_greeted_later_and_then_served() {
    let server = TestServer::start(&[]);
    let late = server
        .without_ticks(async || {
            put_into_debt(&server, "mallory").await;
            let pauses = server.stat("pauses").await;
            let late = RawClient::open(server.address(), "/v1/connect?user=mallory&room=lobby").await;
            server.wait_for_stat("pauses", pauses + 1).await;
            late.detach()
        })
        .await;
    let mut late = late.attach();
    assert_eq!(late.json().await["type"], "welcome");
    assert_eq!(late.json_of_type("snapshot").await["room"], "lobby");
    assert!(late.is_served().await);
    assert_eq!(server.stat("connections_over_limit").await, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_kick_closes_connections_that_wait_for_their_greeting() {
    const TOKEN: &str = "a token of an administrator";
    let server = TestServer::start(&["--api-key", TOKEN]);
    let kick = request_text("POST", "/v1/users/mallory/kick", &[("authorization", &format!("Bearer {TOKEN}"))], b"");
    server.without_ticks(async || put_into_debt(&server, "mallory").await).await;
    // The greeting comes after a second of ticks. If the request takes longer, everything is tried again.
    for _ in 0..50 {
        let (kicking, late) = server
            .without_ticks(async || {
                let mut kicking = RawClient::tcp(server.address()).await;
                kicking.send(&kick).await;
                let late = RawClient::open(server.address(), "/v1/connect?user=mallory&room=lobby").await;
                (kicking.detach(), late.detach())
            })
            .await;
        assert_eq!(kicking.attach().head().await.status, 200);
        let mut late = late.attach();
        let first = late.frame().await.expect("a frame");
        if first.opcode == CLOSE {
            assert_eq!(first.close_code(), Some(1008));
            return server.stop().await;
        }
    }
    panic!("the kick always came after the greeting");
}

#[tokio::test]
async fn a_connection_that_is_closed_before_its_greeting_is_not_greeted_any_more() {
    let server = TestServer::start(&[]);
    let late = server
        .without_ticks(async || {
            put_into_debt(&server, "mallory").await;
            RawClient::open(server.address(), "/v1/connect?user=mallory&room=lobby").await.detach()
        })
        .await;
    let stopped = server.begin_stop();
    let mut late = late.attach();
    while late.frame().await.expect("a close frame comes").opcode != CLOSE {}
    // It does not answer, so that the server keeps the connection for longer than the pause.
    assert_eq!(late.frame().await, None, "nothing follows a close frame");
    stopped.await.unwrap().unwrap();
}

/// Connects mallory, who asks for a large snapshot.
async fn ask_for_snapshot(server: &TestServer) -> RawClient {
    let mut attacker = RawClient::open(server.address(), "/v1/connect?user=mallory").await;
    attacker.send_json(&json!({"type": "observe", "room": "long"})).await;
    attacker
}

/// Waits for the snapshot or the end.
async fn is_refused(attacker: &mut RawClient) -> bool {
    loop {
        match attacker.frame().await {
            Some(frame) if frame.opcode == CLOSE => return frame.close_code() == Some(1013),
            Some(frame) if frame.payload.len() < 10_000 => {}
            _ => return false,
        }
    }
}

#[tokio::test]
async fn reconnecting_for_one_snapshot_after_the_other_is_refused_in_the_end() {
    let server = TestServer::start(&["--tick", "20ms"]);
    let _members = room_with_long_states(&server).await;
    let (mut rounds, mut is_any_refused) = (0..10, false);
    while !is_any_refused {
        assert!(rounds.next().is_some(), "each connection has a snapshot of its own");
        let mut connections = Vec::new();
        for _ in 0..100 {
            connections.push(ask_for_snapshot(&server).await);
        }
        for attacker in &mut connections {
            is_any_refused |= is_refused(attacker).await;
        }
    }
    assert_ne!(server.stat("connections_over_limit").await, 0);
    assert_served(&server, "alice").await;
    server.stop().await;
}
