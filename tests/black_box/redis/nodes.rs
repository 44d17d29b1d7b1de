//! Nodes that die, that are stopped, that come back, and two that want to be the same one.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::common::node::start_refused;
use crate::common::redis::POLL;
use crate::common::{DEADLINE, Mirror, NODE_LOST_AFTER, Node, Redis, RoomObservers, SHORT_TTL, SHORT_TTL_FLAG, Store};

/// EX_UNAVAILABLE of sysexits.h.
const UNAVAILABLE: i32 = 69;

on_both!(a_killed_node_takes_its_users_along_and_nobody_else, a_rolling_restart_shows_nobody_leaving);

async fn a_killed_node_takes_its_users_along_and_nobody_else(store: Store) {
    let [a, b, c] = store.three_nodes(&SHORT_TTL_FLAG).await;
    let _alice = a.connect_to("alice", "lobby").await;
    let _bob = b.connect_to("bob", "lobby").await;
    // Dave comes back elsewhere, Erin is elsewhere as well, Carol is only here.
    let dave = c.connect_to("dave", "lobby").await;
    let _erin_here = c.connect_to("erin", "lobby").await;
    let _erin_there = a.connect_to("erin", "lobby").await;
    let _carol = c.connect_to("carol", "lobby").await;
    let mut observers = RoomObservers::on(&[&a, &b, &c], "lobby").await;
    observers.allow_leaves(&["over rest"]);
    let with_heartbeats = async {
        loop {
            c.rest_heartbeat("over rest").await;
            sleep(POLL).await;
        }
    };
    let all = [&a, &b, &c];
    tokio::select! {
        () = observers.wait_for_members(&all, &["alice", "bob", "carol", "dave", "erin", "over rest"]) => {}
        _ = with_heartbeats => {}
    }
    observers.allow_leaves(&["carol"]);
    observers.remove(&c);
    c.kill();
    drop(dave);
    let _dave = b.connect_to("dave", "lobby").await;
    observers.wait_for_members_within(NODE_LOST_AFTER, &[&a, &b], &["alice", "bob", "dave", "erin"]).await;
    observers.assert_left_once("carol", &["node_lost"]);
    observers.assert_stable(&["dave", "erin"]);
    // Nothing of it is left in Redis.
    let gone = |key: &String| !key.contains(":c.") && !key.ends_with(":c") && !key.ends_with(":carol");
    let swept = async {
        while !store.keys().await.iter().all(gone) {
            sleep(POLL).await;
        }
    };
    timeout(DEADLINE, swept).await.expect("what a dead node held is swept");
    observers.wait_for_members(&[&a, &b], &["alice", "bob", "dave", "erin"]).await;
}

/// A client as it ought to be: sent away, it connects to the next node.
async fn stay_online(user: &str, mut mirror: Mirror, next: &Node) -> Mirror {
    assert_eq!(mirror.wait_for_close().await, Some(1012), "{user}");
    next.connect_to(user, "lobby").await
}

/// A node that is started until it may: its former life may have to end first.
async fn start_again(store: &Store, id: &str, flags: &[&str]) -> Node {
    let own = store.flags();
    let flags: Vec<_> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    let deadline = Instant::now() + DEADLINE;
    loop {
        match Node::try_start(id, &flags, &[]).await {
            Ok(node) => return node,
            Err(said) => assert!(Instant::now() < deadline, "{id} may start again: {said}"),
        }
    }
}

async fn a_rolling_restart_shows_nobody_leaving(store: Store) {
    // Those whose node stops have so long to come back.
    let (flags, ttl) = (["--ttl", "6s"], Duration::from_secs(6));
    let mut nodes: Vec<_> = store.three_nodes(&flags).await.into();
    let users = ["u0", "u1", "u2", "u3", "u4", "u5"];
    let mut observers = RoomObservers::on(&nodes.iter().collect::<Vec<_>>(), "lobby").await;
    // Where each user is, and its connection.
    let mut clients = Vec::new();
    for (number, user) in users.into_iter().enumerate() {
        let home = nodes[number % 3].id.clone();
        clients.push((user, home, nodes[number % 3].connect_to(user, "lobby").await));
    }
    observers.wait_for_members(&nodes.iter().collect::<Vec<_>>(), &users).await;
    for id in ["a", "b", "c"] {
        let at = nodes.iter().position(|node| node.id == id).unwrap();
        let node = nodes.remove(at);
        let next = &nodes[0];
        observers.remove(&node);
        let stopping = node.terminate();
        let moving = join_all(clients.into_iter().map(async |(user, home, mirror)| match home == id {
            true => (user, next.id.clone(), stay_online(user, mirror, next).await),
            false => (user, home, mirror),
        }));
        let (status, moved) = tokio::join!(stopping, moving);
        assert_eq!(status.code(), Some(0), "{id}");
        clients = moved;
        let node = start_again(&store, id, &flags).await;
        observers.add(&node).await;
        nodes.push(node);
        observers.wait_for_members(&nodes.iter().collect::<Vec<_>>(), &users).await;
    }
    // The leases of all former lives run out, and still nobody is seen leaving.
    observers.observe_for(ttl + NODE_LOST_AFTER - SHORT_TTL).await;
    observers.wait_for_members(&nodes.iter().collect::<Vec<_>>(), &users).await;
    assert!(clients.iter_mut().all(|(_, _, mirror)| {
        mirror.apply_pending();
        !mirror.ended
    }));
}

#[tokio::test]
async fn who_does_not_come_back_after_a_stop_leaves_with_the_lease() {
    let redis = Redis::start().await;
    let a = Node::start("a", &redis.url(), &SHORT_TTL_FLAG).await;
    let b = Node::start("b", &redis.url(), &SHORT_TTL_FLAG).await;
    let _alice = a.connect_to("alice", "lobby").await;
    let _bob = b.connect_to("bob", "lobby").await;
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    observers.wait_for_members(&[&a, &b], &["alice", "bob"]).await;
    observers.allow_leaves(&["bob"]);
    observers.remove(&b);
    assert_eq!(b.terminate().await.code(), Some(0));
    assert!(a.members("lobby").await.contains_key("bob"), "it may still come back");
    observers.wait_for_members_within(NODE_LOST_AFTER, &[&a], &["alice"]).await;
}

#[tokio::test]
async fn two_nodes_cannot_have_one_id() {
    let redis = Redis::start().await;
    let first = Node::start("twin", &redis.url(), &SHORT_TTL_FLAG).await;
    let _alice = first.connect_to("alice", "lobby").await;
    let mut observers = RoomObservers::on(&[&first], "lobby").await;
    for _ in 0..2 {
        let output = start_refused("twin", &["--redis", &redis.url()]).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{said}");
        assert!(said.contains("twin") && said.contains("node-id"), "what to change: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    // The first is none the worse for it, for longer than a lease.
    let bob = Node::start("other", &redis.url(), &SHORT_TTL_FLAG).await;
    let _bob = bob.connect_to("bob", "lobby").await;
    observers.observe_for(NODE_LOST_AFTER).await;
    observers.wait_for_members(&[&first, &bob], &["alice", "bob"]).await;
}

#[tokio::test]
async fn a_node_that_starts_after_its_crash_leaves_no_ghost() {
    let store = Store::single().await;
    let (a, c) = (store.node_with("a", &SHORT_TTL_FLAG).await, store.node_with("c", &SHORT_TTL_FLAG).await);
    let _alice = a.connect_to("alice", "lobby").await;
    let returning = c.connect_to("returning", "lobby").await;
    let _ghost = c.connect_to("ghost", "lobby").await;
    let mut observers = RoomObservers::on(&[&a], "lobby").await;
    observers.wait_for_members(&[&a, &c], &["alice", "ghost", "returning"]).await;
    observers.allow_leaves(&["ghost"]);
    c.kill();
    drop(returning);
    // Waits at another node until the first is back.
    let waiting = a.connect_to("returning", "lobby").await;
    let c = start_again(&store, "c", &SHORT_TTL_FLAG).await;
    observers.add(&c).await;
    let _returned = c.connect_to("returning", "lobby").await;
    drop(waiting);
    observers.wait_for_members_within(NODE_LOST_AFTER, &[&a, &c], &["alice", "returning"]).await;
    observers.observe_for(NODE_LOST_AFTER).await;
    observers.assert_stable(&["returning", "alice"]);
    let runs = store.keys().await.iter().filter(|key| key.contains(":h:c.")).count();
    assert_eq!(runs, 1, "{:?}", store.keys().await);
}

#[tokio::test]
async fn a_node_that_was_stopped_for_longer_than_its_lease_comes_back() {
    let redis = Redis::start().await;
    let a = Node::start("a", &redis.url(), &SHORT_TTL_FLAG).await;
    let c = Node::start("c", &redis.url(), &SHORT_TTL_FLAG).await;
    let _alice = a.connect_to("alice", "lobby").await;
    let carol = c.connect_to("carol", "lobby").await;
    let mut observers = RoomObservers::on(&[&a, &c], "lobby").await;
    observers.wait_for_members(&[&a, &c], &["alice", "carol"]).await;
    c.signal("STOP");
    a.wait_until("it counts as lost", async || !a.members("lobby").await.contains_key("carol")).await;
    c.signal("CONT");
    observers.allow_leaves(&["carol"]);
    observers.wait_for_members(&[&a, &c], &["alice", "carol"]).await;
    // While it was stopped its own clients were shown nothing, and neither were they afterwards.
    assert!(observers.changes_of("carol")[1].is_empty(), "{:?}", observers.changes_of("carol"));
    assert!(observers.changes_of("alice")[1].is_empty(), "{:?}", observers.changes_of("alice"));
    carol.send(&json!({"type": "state", "room": "lobby", "state": {"back": true}}));
    observers.wait_for_state("carol", &json!({"back": true})).await;
}

#[tokio::test]
async fn a_crowd_goes_through_in_portions() {
    const USERS: usize = 1500;
    let redis = Redis::start().await;
    // So many clients need long to be heard.
    let flags = ["--ttl", "20s"];
    let a = Node::start("a", &redis.url(), &flags).await;
    let b = Node::start("b", &redis.url(), &flags).await;
    let counted = |node: &Node, count: usize| {
        let address = node.address;
        async move {
            let deadline = Instant::now() + DEADLINE;
            let path = "/v1/rooms/arena/count";
            loop {
                let json = crate::common::http::request(address, "GET", path, &[], b"").await.json();
                if json["count"] == count {
                    return;
                }
                assert!(Instant::now() < deadline, "{count} were to be counted: {json}");
                sleep(POLL).await;
            }
        }
    };
    let users = join_all((0..USERS).map(async |number| {
        let user = a.connect(&format!("user-{number}")).await;
        user.send(&json!({"type": "join", "room": "arena", "observe": false, "state": {"number": number}}));
        user
    }))
    .await;
    counted(&a, USERS).await;
    counted(&b, USERS).await;
    // One that knows them from Redis alone, and the end of all of them.
    let c = Node::start("c", &redis.url(), &flags).await;
    counted(&c, USERS).await;
    a.kill();
    counted(&b, 0).await;
    counted(&c, 0).await;
    drop(users);
}
