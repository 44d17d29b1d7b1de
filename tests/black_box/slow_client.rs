//! Clients that stop reading: each receives a new snapshot when it reads again, and no other client waits.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::common::{Mirror, TestServer, UserList};

/// Each round is about 60 KB of diffs, so a few rounds fill all buffers between the server and a client that does not
/// read.
const BUSY_USERS: usize = 60;
/// Rounds after a client has been skipped.
const FURTHER_ROUNDS: u64 = 10;

/// Members of the lobby that change their large states in rounds.
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

    /// All users change their states. Returns once `observer` has received the new states.
    async fn round(&self, round: u64, observer: &mut Mirror) {
        let state = Self::state(round);
        for user in &self.users {
            user.send(&json!({"type": "state", "room": "lobby", "state": state}));
        }
        let seen =
            |observer: &Mirror| self.users.iter().all(|user| observer.state("lobby", &user.user) == Some(&state));
        observer.wait_until("the round", seen).await;
    }

    /// Rounds until a client that does not read has been skipped, and `FURTHER_ROUNDS` more.
    async fn run_until_skipped(&self, server: &TestServer, observer: &mut Mirror) {
        let (mut round, mut last) = (0, 1000);
        while round < last {
            self.round(round, observer).await;
            if last == 1000 && server.stat("deliveries_skipped").await > 0 {
                last = round + FURTHER_ROUNDS;
            }
            round += 1;
        }
        assert!(round < 1000, "no client was skipped");
    }
}

#[tokio::test]
async fn a_slow_client_skips_to_a_snapshot() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let mut fast = server.observe("fast", "lobby").await;
    fast.logging = false;
    let mut slow = Mirror::connect_with_small_buffer(server.address(), "slow", &["lobby"]).await;
    slow.wait_until("the snapshot", |slow| slow.has("lobby", "slow")).await;
    slow.logging = false;
    fast.wait_until("the join of slow", |fast| fast.has("lobby", "slow")).await;
    let before = fast.room("lobby").diffs;
    let busy = Busy::start(&server).await;
    slow.set_reading(false);
    busy.run_until_skipped(&server, &mut fast).await;
    let (now, all) = (fast.members("lobby"), fast.room("lobby").diffs - before);
    slow.set_reading(true);
    slow.wait_until("the current members", |slow| slow.room("lobby").members == now).await;
    // The mirror asserts that seq jumps only at a snapshot.
    assert!(slow.room("lobby").snapshots >= 2, "slow received no second snapshot");
    assert!(slow.room("lobby").diffs < all, "slow received every diff");
    assert_eq!(fast.room("lobby").snapshots, 1, "fast was skipped");
    // Small diffs, which fit into its buffer, are received as before.
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
async fn the_commands_of_a_slow_client_are_executed() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let mut fast = server.observe("fast", "lobby").await;
    fast.logging = false;
    let mut slow = Mirror::connect_with_small_buffer(server.address(), "slow", &["lobby"]).await;
    slow.wait_until("the snapshot", |slow| slow.has("lobby", "slow")).await;
    let busy = Busy::start(&server).await;
    slow.set_reading(false);
    busy.run_until_skipped(&server, &mut fast).await;
    slow.send(&json!({"type": "state", "room": "lobby", "state": {"still": "here"}}));
    let still_here = json!({"still": "here"});
    fast.wait_until("its state", |fast| fast.state("lobby", "slow") == Some(&still_here)).await;
    slow.close(1000);
    fast.wait_until("its leave", |fast| !fast.has("lobby", "slow")).await;
    server.stop().await;
}

#[tokio::test]
async fn a_slow_online_users_client_receives_the_newest_list() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let mut fast = server.online_users("fast").await;
    let mut slow = UserList::connect_with_small_buffer(server.address(), "slow").await;
    // Long names make lists of about 65 KB. Lists are paced to a few per second, which fills the small buffers.
    let names: Vec<String> = (0..500).map(|n| format!("{n:0>128}")).collect();
    join_all(names.iter().map(|name| server.rest_heartbeat(name))).await;
    fast.wait_until("all users", |fast| fast.users.len() == 502).await;
    slow.set_reading(false);
    for n in 0..8 {
        let user = format!("new-{n}");
        server.rest_heartbeat(&user).await;
        fast.wait_until("the newcomer", |fast| fast.has(&user)).await;
    }
    slow.set_reading(true);
    slow.wait_until("the current list", |slow| slow.users == fast.users).await;
    slow.heartbeat().await;
    server.stop().await;
}

#[tokio::test]
async fn clients_that_fall_behind_and_catch_up_never_see_a_gap() {
    // Many observers on one worker, so that the writes of a tick take several turns. Some have small buffers: they fall
    // behind and catch up all the time, even in the middle of a tick. Every mirror asserts that it misses no diff.
    let server = TestServer::start(&["--tick", "10ms", "--workers", "1"]);
    let mut fast = server.observe("fast", "lobby").await;
    fast.logging = false;
    for n in 0..300 {
        let mut client = server.raw(&format!("padding-{n}")).await;
        client.send_json(&json!({"type": "observe", "room": "lobby"})).await;
        client.discard();
    }
    let mut lagging = Vec::new();
    for n in 0..40 {
        let mut client = Mirror::connect_with_small_buffer(server.address(), &format!("lagging-{n}"), &[]).await;
        client.send(&json!({"type": "observe", "room": "lobby"}));
        client.wait_until("the snapshot", |client| client.observes("lobby")).await;
        client.logging = false;
        lagging.push(client);
    }
    let busy = Busy::start(&server).await;
    for round in 0..25 {
        busy.round(round, &mut fast).await;
        for (n, client) in lagging.iter_mut().enumerate() {
            client.set_reading(!(n as u64 + round).is_multiple_of(5));
            client.apply_pending();
        }
    }
    for client in &lagging {
        client.set_reading(true);
    }
    lagging.push(fast);
    server.wait_for_agreement("lobby", &mut lagging).await;
    server.stop().await;
}
