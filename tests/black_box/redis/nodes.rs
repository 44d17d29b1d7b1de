//! Nodes that die, stop, start again or hang, and two nodes with the same id.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::common::node::start_refused;
use crate::common::redis::POLL;
use crate::common::{
    DEADLINE, FrontDoor, Intruders, Mirror, NODE_LOST_AFTER, Node, Redis, RoomObservers, SHORT_TTL, SHORT_TTL_FLAG,
    Store,
};

/// The exit code for a service that cannot be used: EX_UNAVAILABLE in sysexits.h.
const UNAVAILABLE: i32 = 69;

on_both!(only_the_users_of_a_killed_node_leave, no_user_leaves_during_a_rolling_restart);

async fn only_the_users_of_a_killed_node_leave(store: Store) {
    only_the_users_of_a_killed_node_leave_behind(FrontDoor::open(), store).await;
}

/// What decides about credentials dies before the node does.
pub(super) async fn only_the_users_of_a_killed_node_leave_behind(mut door: FrontDoor, store: Store) {
    let [a, b, c] = store.three_nodes(&door.flags(&SHORT_TTL_FLAG)).await.map(|node| door.before(node));
    let mut intruders = Intruders::of(&door, &[&a, &b, &c]);
    let _alice = a.connect_to("alice", "lobby").await;
    let _bob = b.connect_to("bob", "lobby").await;
    // When c dies, dave connects to another node. Erin is connected to a too. Carol is connected only to c.
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
    door.die().await;
    // Its port is free for other tests from now on.
    intruders.turn_to(&[&a, &b]);
    c.kill();
    drop(dave);
    let _dave = b.connect_to("dave", "lobby").await;
    observers.wait_for_members_within(NODE_LOST_AFTER, &[&a, &b], &["alice", "bob", "dave", "erin"]).await;
    intruders.check().await;
    observers.assert_left_once("carol", &["node_lost"]);
    observers.assert_stable(&["dave", "erin"]);
    // The other nodes delete the keys of the dead node.
    let unrelated = |key: &String| !key.contains(":c.") && !key.ends_with(":c") && !key.ends_with(":carol");
    let deleted = async {
        while !store.keys().await.iter().all(unrelated) {
            sleep(POLL).await;
        }
    };
    timeout(DEADLINE, deleted).await.expect("the keys of a dead node are deleted");
    observers.wait_for_members(&[&a, &b], &["alice", "bob", "dave", "erin"]).await;
}

/// A client that reconnects as recommended: when its node stops, it connects to the next one.
async fn reconnect_elsewhere(user: &str, mut mirror: Mirror, next: &Node) -> Mirror {
    assert_eq!(mirror.wait_for_close().await, Some(1012), "{user}");
    next.connect_to(user, "lobby").await
}

/// Starts a node again, repeatedly if necessary: the lease of its former incarnation may have to end first.
async fn start_again(store: &Store, id: &str, flags: &[&str]) -> Node {
    let own = store.flags();
    let flags: Vec<_> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    let deadline = Instant::now() + DEADLINE;
    loop {
        match Node::try_start(id, &flags, &[]).await {
            Ok(node) => return node,
            Err(output) => assert!(Instant::now() < deadline, "{id} does not start again: {output}"),
        }
    }
}

async fn no_user_leaves_during_a_rolling_restart(store: Store) {
    no_user_leaves_during_a_rolling_restart_behind(FrontDoor::open(), store).await;
}

/// What decides about credentials is dead while a node stops and starts again.
pub(super) async fn no_user_leaves_during_a_rolling_restart_behind(mut door: FrontDoor, store: Store) {
    // Users of a node that stops have this time to reconnect.
    let ttl = Duration::from_secs(6);
    let own = door.flags(&["--ttl", "6s"]).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let flags: Vec<_> = own.iter().map(String::as_str).collect();
    let mut nodes: Vec<_> = store.three_nodes(&flags).await.map(|node| door.before(node)).into();
    let mut intruders = Intruders::of(&door, &nodes.iter().collect::<Vec<_>>());
    let users = ["u0", "u1", "u2", "u3", "u4", "u5"];
    let mut observers = RoomObservers::on(&nodes.iter().collect::<Vec<_>>(), "lobby").await;
    // Each user with the node and the connection.
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
        door.die().await;
        let stopping = node.terminate();
        let moving = join_all(clients.into_iter().map(async |(user, home, mirror)| match home == id {
            true => (user, next.id.clone(), reconnect_elsewhere(user, mirror, next).await),
            false => (user, home, mirror),
        }));
        let (status, moved) = tokio::join!(stopping, moving);
        assert_eq!(status.code(), Some(0), "{id}");
        intruders.turn_to(&nodes.iter().collect::<Vec<_>>());
        clients = moved;
        let node = door.before(start_again(&store, id, &flags).await);
        door.assert_closed_without_keys(&node).await;
        door.revive().await;
        door.wait_until_admitted(&node).await;
        observers.add(&node).await;
        nodes.push(node);
        intruders.turn_to(&nodes.iter().collect::<Vec<_>>());
        observers.wait_for_members(&nodes.iter().collect::<Vec<_>>(), &users).await;
    }
    // The leases of all former incarnations end, and no user leaves.
    observers.observe_for(ttl + NODE_LOST_AFTER - SHORT_TTL).await;
    intruders.check().await;
    observers.wait_for_members(&nodes.iter().collect::<Vec<_>>(), &users).await;
    assert!(clients.iter_mut().all(|(_, _, mirror)| {
        mirror.apply_pending();
        !mirror.ended
    }));
}

#[tokio::test]
async fn a_user_who_does_not_reconnect_after_a_stop_leaves_when_the_lease_ends() {
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
    assert!(a.members("lobby").await.contains_key("bob"), "bob left although he may still reconnect");
    observers.wait_for_members_within(NODE_LOST_AFTER, &[&a], &["alice"]).await;
}

#[tokio::test]
async fn a_second_node_with_the_same_id_does_not_start() {
    let redis = Redis::start().await;
    let first = Node::start("twin", &redis.url(), &SHORT_TTL_FLAG).await;
    let _alice = first.connect_to("alice", "lobby").await;
    let mut observers = RoomObservers::on(&[&first], "lobby").await;
    for _ in 0..2 {
        let output = start_refused("twin", &["--redis", &redis.url()]).await;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{message}");
        assert!(message.contains("twin") && message.contains("node-id"), "the message lacks what to change: {message}");
        assert!(!message.contains("panicked"), "{message}");
    }
    // The first node is not affected, for longer than a lease.
    let other = Node::start("other", &redis.url(), &SHORT_TTL_FLAG).await;
    let _bob = other.connect_to("bob", "lobby").await;
    observers.observe_for(NODE_LOST_AFTER).await;
    observers.wait_for_members(&[&first, &other], &["alice", "bob"]).await;
}

#[tokio::test]
async fn a_node_that_restarts_after_a_crash_leaves_no_users_behind() {
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
    // The user is connected to another node until the first one is back.
    let waiting = a.connect_to("returning", "lobby").await;
    let c = start_again(&store, "c", &SHORT_TTL_FLAG).await;
    observers.add(&c).await;
    let _returned = c.connect_to("returning", "lobby").await;
    drop(waiting);
    observers.wait_for_members_within(NODE_LOST_AFTER, &[&a, &c], &["alice", "returning"]).await;
    observers.observe_for(NODE_LOST_AFTER).await;
    observers.assert_stable(&["returning", "alice"]);
    let hashes = store.keys().await.iter().filter(|key| key.contains(":h:c.")).count();
    assert_eq!(hashes, 1, "{:?}", store.keys().await);
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
    a.wait_until("carol leaves because her node counts as lost", async || {
        !a.members("lobby").await.contains_key("carol")
    })
    .await;
    c.signal("CONT");
    observers.allow_leaves(&["carol"]);
    observers.wait_for_members(&[&a, &c], &["alice", "carol"]).await;
    // Observers on c receive no change, neither while it is stopped nor afterwards.
    assert!(observers.changes_of("carol")[1].is_empty(), "{:?}", observers.changes_of("carol"));
    assert!(observers.changes_of("alice")[1].is_empty(), "{:?}", observers.changes_of("alice"));
    carol.send(&json!({"type": "state", "room": "lobby", "state": {"back": true}}));
    observers.wait_for_state("carol", &json!({"back": true})).await;
}

#[tokio::test]
async fn many_users_are_exchanged_in_batches() {
    const USERS: usize = 1500;
    let redis = Redis::start().await;
    // On a slow machine it takes long until every client is served.
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
                assert!(Instant::now() < deadline, "waited for the count {count}: {json}");
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
    // A new node reads all users from Redis. When their node dies, all of them leave.
    let c = Node::start("c", &redis.url(), &flags).await;
    counted(&c, USERS).await;
    a.kill();
    counted(&b, 0).await;
    counted(&c, 0).await;
    drop(users);
}
