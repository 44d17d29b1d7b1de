//! Webhooks of several nodes: an application is told once, by whichever node delivers, and its mirror equals the
//! cluster in the end, also if nodes die and Redis fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::common::random::Random;
use crate::common::resp::Reply;
use crate::common::upstream::Seen;
use crate::common::webhooks::{Plan, Receiver, summary};
use crate::common::{Does, Mirror, Node, Proxy, ProxyMode, Redis, SHORT_TTL_FLAG, Store};

on_both!(
    each_change_is_reported_once,
    another_node_takes_over_from_a_dead_one,
    a_node_that_stops_hands_over_what_waits,
);

const ROOM: &str = "lobby";

/// Starts nodes that report to the receiver, one after the other.
async fn three(store: &Store, receiver: &Receiver, more: &[&str]) -> Vec<Node> {
    let flags = receiver.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        nodes.push(store.node_with(id, &flags).await);
        read_from(receiver, &nodes);
    }
    nodes
}

fn read_from(receiver: &Receiver, nodes: &[Node]) {
    receiver.read_from(&nodes.iter().map(|node| node.address).collect::<Vec<SocketAddr>>());
}

/// The node that sent the last request.
fn delivering(receiver: &Receiver) -> String {
    let last: Option<Seen> = receiver.upstream.seen().pop();
    last.expect("a request").json()["node"].as_str().expect("a node").to_owned()
}

/// The number of joins of a user in the room that were reported.
fn joins(receiver: &Receiver, user: &str) -> usize {
    let join = format!("member_joined {ROOM} {user}");
    receiver.known(|known| known.events.iter().filter(|event| summary(event) == join).count())
}

async fn each_change_is_reported_once(store: Store) {
    let receiver = Receiver::start().await;
    let nodes = three(&store, &receiver, &[]).await;
    receiver.wait_until("the first resync", |known| !known.events.is_empty()).await;
    let mut clients = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        clients.push(node.connect_to(&format!("user {number}"), ROOM).await);
        // On all nodes: a second device is not reported.
        clients.push(node.connect_to("everywhere", ROOM).await);
    }
    receiver.wait_until("all joins", |known| known.rooms.get(ROOM).is_some_and(|members| members.len() == 4)).await;
    receiver.wait_for_agreement(nodes[2].address).await;
    for user in ["user 0", "user 1", "user 2", "everywhere"] {
        assert_eq!(joins(&receiver, user), 1, "{user}: {:?}", receiver.events());
    }
    clients.iter().for_each(|client| client.close(1000));
    receiver.wait_until("all leaves", |known| known.rooms.is_empty() && known.online.is_empty()).await;
    let left = receiver.events().iter().filter(|event| event.starts_with("member_left")).count();
    assert_eq!(left, 4, "{:?}", receiver.events());
}

async fn another_node_takes_over_from_a_dead_one(store: Store) {
    let receiver = Receiver::start().await;
    let mut nodes = three(&store, &receiver, &SHORT_TTL_FLAG).await;
    let mut clients = BTreeMap::new();
    for node in &nodes {
        clients.insert(node.id.clone(), node.connect_to(&format!("on {}", node.id), ROOM).await);
    }
    receiver.wait_until("all joins", |known| known.online.len() == 3).await;
    // Nothing arrives any more, and the node dies with what it has.
    receiver.set(|_| Plan::Refuse(Does::Raw(Vec::new())));
    let dying = delivering(&receiver);
    let at = nodes.iter().position(|node| node.id == dying).expect("a node");
    let (other, gone) = ((at + 1) % 3, nodes[at].connect_to("short", "only here").await);
    let _late = nodes[other].connect_to("late", ROOM).await;
    nodes[at].wait_until("the late user", async || nodes[at].members(ROOM).await.contains_key("late")).await;
    let node = nodes.remove(at);
    read_from(&receiver, &nodes);
    node.kill();
    drop((gone, clients.remove(&dying)));
    receiver.set(|_| Plan::Take);
    receiver
        .wait_until("the leave of the dead node's user", |known| !known.online.contains(&format!("on {dying}")))
        .await;
    receiver.wait_for_agreement(nodes[0].address).await;
    receiver.known(|known| {
        assert!(known.rooms[ROOM].contains_key("late") && !known.online.contains("short"));
        // One when the first node began, and then those of the room, or again of everything if the node is that young.
        let resyncs = known.events.iter().filter(|event| event["type"] == "resync").count();
        assert!(resyncs > 1, "{:?}", known.events);
    });
    assert_ne!(delivering(&receiver), dying);
}

async fn a_node_that_stops_hands_over_what_waits(store: Store) {
    let receiver = Receiver::start().await;
    let mut nodes = three(&store, &receiver, &["--drain", "1s"]).await;
    let mut clients: Vec<Mirror> = Vec::new();
    for node in &nodes {
        clients.push(node.connect_to(&format!("on {}", node.id), ROOM).await);
    }
    receiver.wait_until("all joins", |known| known.online.len() == 3).await;
    receiver.set(|_| Plan::Refuse(Does::Raw(Vec::new())));
    let stopping = delivering(&receiver);
    let at = nodes.iter().position(|node| node.id == stopping).expect("a node");
    let _late = nodes[(at + 1) % 3].connect_to("late", ROOM).await;
    nodes[at].wait_until("the late user", async || nodes[at].members(ROOM).await.contains_key("late")).await;
    let node = nodes.remove(at);
    read_from(&receiver, &nodes);
    // Its lease of a minute does not have to end.
    let status = node.terminate().await;
    assert!(status.success(), "{status}");
    receiver.set(|_| Plan::Take);
    receiver.wait_until("the late user", |known| known.online.contains("late")).await;
    assert_ne!(delivering(&receiver), stopping);
    receiver
        .wait_until("a resync of the room", |known| {
            known.events.iter().any(|event| summary(event) == format!("resync {ROOM}"))
        })
        .await;
}

/// A node tells the application that a user is offline and cannot tell the other nodes. For them, the user is online
/// all the time: the next node must correct what the application knows although nothing has changed.
#[tokio::test]
async fn what_only_a_dead_node_knew_is_corrected() {
    // The lease, and 10 s.
    const REMEMBERED_MS: u64 = 20_000;
    let receiver = Receiver::start().await;
    let redis = Redis::start().await;
    let flags = receiver.flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--ttl", "10s", "--redis-partitions", "1"]);
    let (mut proxies, mut nodes) = (Vec::new(), Vec::new());
    for number in 0..3 {
        proxies.push(Proxy::to(redis.address()).await);
        nodes.push(Node::start(&format!("n{number}"), &proxies[number].url(), &flags).await);
    }
    read_from(&receiver, &nodes);
    receiver.wait_until("the first resync", |known| !known.events.is_empty()).await;
    let dying = delivering(&receiver);
    let at = nodes.iter().position(|node| node.id == dying).expect("a node");
    let client = nodes[at].connect_to("alice", ROOM).await;
    receiver.wait_until("her join", |known| known.online.contains("alice")).await;
    // Her join is old: no node would repeat it as a change of the last seconds.
    let is_hers = |event: &&Value| event["type"] == "user_online" && event["user"] == "alice";
    let joined = receiver.known(|known| known.events.iter().find(is_hers).and_then(|event| event["at"].as_u64()));
    let enough = joined.expect("a time") + REMEMBERED_MS + 3000;
    let delivered = |reply: &Reply| match reply {
        Reply::Text(lease) => lease.split('\t').nth(1).and_then(|delivered| delivered.parse().ok()),
        _ => None,
    };
    redis.until(&["GET", "presence:{0}:webhooks"], |reply| delivered(reply) > Some(enough)).await;
    proxies[at].set(ProxyMode::Refuse);
    client.close(1000);
    receiver.wait_until("her leave", |known| !known.online.contains("alice")).await;
    let node = nodes.remove(at);
    read_from(&receiver, &nodes);
    node.kill();
    let _back = nodes[0].connect_to("alice", "another room").await;
    receiver.wait_for_agreement(nodes[0].address).await;
    receiver.known(|known| assert!(known.online.contains("alice") && known.rooms.contains_key("another room")));
}

/// Users come, change and go on three nodes while nodes die, Redis fails and the endpoint fails.
async fn run_random_schedule(seed: u64) {
    let mut random = Random(seed);
    let receiver = Receiver::start().await;
    let redis = Redis::start().await;
    let flags = receiver.flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend([
        "--webhook-events",
        "member_joined,member_updated,member_left,room_occupied,room_vacated,\
        user_online,user_offline",
    ]);
    flags.extend(SHORT_TTL_FLAG);
    let (mut proxies, mut nodes) = (Vec::new(), Vec::new());
    for number in 0..3 {
        proxies.push(Proxy::to(redis.address()).await);
        nodes.push(Node::start(&format!("n{number}"), &proxies[number].url(), &flags).await);
    }
    read_from(&receiver, &nodes);
    let mut plans = Random(seed ^ 0x5555);
    receiver.set(move |_| match plans.below(4) {
        0 => Plan::Refuse(Does::Raw(Vec::new())),
        1 => Plan::TakeBut(Does::Raw(Vec::new())),
        _ => Plan::Take,
    });
    let mut clients: BTreeMap<(usize, usize), Mirror> = BTreeMap::new();
    for round in 0..240 {
        let (user, at) = (random.below(8), random.below(3));
        match clients.remove(&(user, at)) {
            None => {
                let client = nodes[at].connect(&format!("user {user}")).await;
                let room = ["x", "y"][random.below(2)];
                client.send(&json!({"type": "join", "room": room, "state": {"n": round}, "observe": false}));
                clients.insert((user, at), client);
            }
            Some(client) if random.below(2) == 0 => client.close(1000),
            Some(client) => client.drop_connection(),
        }
        if round % 40 == 20 {
            let at = random.below(3);
            match random.below(3) {
                0 => {
                    let url = proxies[at].url();
                    let flags = [&["--redis", &url][..], &flags].concat();
                    let dying = nodes.remove(at);
                    // Its port is free for other tests from now on.
                    read_from(&receiver, &nodes);
                    dying.kill();
                    clients.retain(|(_, node), _| *node != at);
                    nodes.insert(at, Node::with_flags(&format!("n{at} {round}").replace(' ', "-"), &flags).await);
                    read_from(&receiver, &nodes);
                }
                1 => {
                    proxies[at].set(ProxyMode::Refuse);
                    sleep(Duration::from_secs(5)).await;
                    proxies[at].set(ProxyMode::Forward);
                }
                _ => drop(redis.command(&["FLUSHALL"]).await),
            }
        }
        sleep(Duration::from_millis(random.below(40) as u64)).await;
    }
    for node in &nodes {
        node.wait_until_degraded(false).await;
    }
    receiver.set(|_| Plan::Take);
    receiver.wait_for_agreement(nodes[0].address).await;
}

#[tokio::test]
async fn the_mirror_equals_the_cluster_after_random_faults() {
    run_random_schedule(0x9E37_79B9_7F4A_7C15).await;
}

#[tokio::test]
async fn the_mirror_equals_the_cluster_after_other_random_faults() {
    run_random_schedule(0xD1B5_4A32_D192_ED03).await;
}
