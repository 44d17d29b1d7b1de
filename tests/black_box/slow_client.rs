//! Clients that stop reading while much happens: each is skipped forward to what is true now, and nobody else waits.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::common::{Mirror, TestServer, UserList};

/// Each round brings some 60 KB: a few are more than all buffers between the server and a client that reads nothing.
const BUSY_USERS: usize = 60;
/// Rounds that go on when a client has been skipped.
const FURTHER_ROUNDS: u64 = 10;

/// Users of the lobby that change their large states in rounds.
struct Busy {
    users: Vec<Mirror>,
}

impl Busy {
    async fn start(server: &TestServer) -> Self {
        let mut users = Vec::new();
        for n in 0..BUSY_USERS {
            let user = server.connect(&format!("busy-{n:02}")).await;
            user.send(&json!({"type": "join", "room": "lobby", "observe": false}));
            users.push(user);
        }
        Self { users }
    }

    fn state(round: u64) -> Value {
        json!({"round": round, "filler": "x".repeat(950)})
    }

    /// Everybody changes; returns once `watcher` has seen it.
    async fn round(&self, round: u64, watcher: &mut Mirror) {
        let state = Self::state(round);
        for user in &self.users {
            user.send(&json!({"type": "state", "room": "lobby", "state": state}));
        }
        let seen = |watcher: &Mirror| self.users.iter().all(|user| watcher.state("lobby", &user.user) == Some(&state));
        watcher.wait_until("the round", seen).await;
    }

    /// Rounds until somebody who does not read has been skipped, and for a while longer.
    async fn outrun(&self, server: &TestServer, watcher: &mut Mirror) {
        let (mut round, mut last) = (0, 1000);
        while round < last {
            self.round(round, watcher).await;
            if last == 1000 && server.stat("deliveries_skipped").await > 0 {
                last = round + FURTHER_ROUNDS;
            }
            round += 1;
        }
        assert!(round < 1000, "nobody was ever skipped");
    }
}

#[tokio::test]
async fn a_slow_client_is_skipped_forward_to_a_snapshot() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let mut fast = server.observe("fast", "lobby").await;
    fast.logging = false;
    let mut slow = Mirror::connect_with_small_buffer(server.address(), "slow", &["lobby"]).await;
    slow.wait_until("the snapshot", |slow| slow.has("lobby", "slow")).await;
    slow.logging = false;
    fast.wait_until("slow", |fast| fast.has("lobby", "slow")).await;
    let before = fast.room("lobby").diffs;
    let busy = Busy::start(&server).await;
    slow.set_reading(false);
    busy.outrun(&server, &mut fast).await;
    let (now, all) = (fast.members("lobby"), fast.room("lobby").diffs - before);
    slow.set_reading(true);
    slow.wait_until("the truth of now", |slow| slow.room("lobby").members == now).await;
    // The mirror has asserted that seq never jumped except at a snapshot.
    assert!(slow.room("lobby").snapshots >= 2, "skipped forward");
    assert!(slow.room("lobby").diffs < all, "and not sent everything");
    assert_eq!(fast.room("lobby").snapshots, 1, "nobody else was");
    // And from there it follows the diffs as before: small ones, which even its buffer takes at once.
    slow.barrier().await;
    let (snapshots, diffs) = (slow.room("lobby").snapshots, slow.room("lobby").diffs);
    for n in 0..3 {
        let state = json!({ "n": n });
        fast.send(&json!({"type": "join", "room": "lobby", "state": state}));
        slow.wait_until("the state", |slow| slow.state("lobby", "fast") == Some(&state)).await;
    }
    assert_eq!(slow.room("lobby").snapshots, snapshots);
    assert_eq!(slow.room("lobby").diffs, diffs + 3);
    server.wait_for_agreement("lobby", &mut [fast, slow]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_slow_client_can_still_act() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let mut fast = server.observe("fast", "lobby").await;
    fast.logging = false;
    let mut slow = Mirror::connect_with_small_buffer(server.address(), "slow", &["lobby"]).await;
    slow.wait_until("the snapshot", |slow| slow.has("lobby", "slow")).await;
    let busy = Busy::start(&server).await;
    slow.set_reading(false);
    busy.outrun(&server, &mut fast).await;
    slow.send(&json!({"type": "state", "room": "lobby", "state": {"still": "here"}}));
    let still_here = json!({"still": "here"});
    fast.wait_until("its state", |fast| fast.state("lobby", "slow") == Some(&still_here)).await;
    slow.close(1000);
    fast.wait_until("its leave", |fast| !fast.has("lobby", "slow")).await;
    server.stop().await;
}

#[tokio::test]
async fn a_slow_reader_of_lists_gets_the_newest() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let mut fast = server.online_users("fast").await;
    let mut slow = UserList::connect_with_small_buffer(server.address(), "slow").await;
    // Long names make long lists of some 65 KB. Lists are paced, a few a second: enough to fill the small buffers.
    let names: Vec<String> = (0..500).map(|n| format!("{n:0>128}")).collect();
    join_all(names.iter().map(|name| server.rest_heartbeat(name))).await;
    fast.wait_until("all", |fast| fast.users.len() == 502).await;
    slow.set_reading(false);
    for n in 0..8 {
        let user = format!("new-{n}");
        server.rest_heartbeat(&user).await;
        fast.wait_until("the newcomer", |fast| fast.has(&user)).await;
    }
    slow.set_reading(true);
    slow.wait_until("the list of now", |slow| slow.users == fast.users).await;
    slow.heartbeat().await;
    server.stop().await;
}

#[tokio::test]
async fn clients_between_slow_and_fast_never_see_a_gap() {
    // Many observers of one worker, so that a tick's writes take several turns; some of them with small buffers, so that
    // they fall behind and catch up all the time, also in the middle of a tick. Every mirror asserts contiguity.
    let server = TestServer::start(&["--tick", "10ms", "--workers", "1"]);
    let mut fast = server.observe("fast", "lobby").await;
    fast.logging = false;
    for n in 0..300 {
        let mut client = server.raw(&format!("padding-{n}")).await;
        client.send_json(&json!({"type": "observe", "room": "lobby"})).await;
        client.discard();
    }
    let mut hovering = Vec::new();
    for n in 0..40 {
        let mut client = Mirror::connect_with_small_buffer(server.address(), &format!("hovering-{n}"), &[]).await;
        client.send(&json!({"type": "observe", "room": "lobby"}));
        client.wait_until("the snapshot", |client| client.observes("lobby")).await;
        client.logging = false;
        hovering.push(client);
    }
    let busy = Busy::start(&server).await;
    for round in 0..25 {
        busy.round(round, &mut fast).await;
        for (n, client) in hovering.iter_mut().enumerate() {
            client.set_reading(!(n as u64 + round).is_multiple_of(5));
            client.apply_pending();
        }
    }
    for client in &hovering {
        client.set_reading(true);
    }
    hovering.push(fast);
    server.wait_for_agreement("lobby", &mut hovering).await;
    server.stop().await;
}
