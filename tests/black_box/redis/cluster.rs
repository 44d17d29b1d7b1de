//! Rules for a Redis Cluster only: partitions and slots, and masters that are replaced by replicas.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::common::node::TICK;
use crate::common::redis::POLL;
use crate::common::{Mirror, NODE_LOST_AFTER, Node, RedisCluster, RoomObservers, SHORT_TTL_FLAG, Store, http};

fn cluster(store: &mut Store) -> &mut RedisCluster {
    match store {
        Store::Cluster(cluster) => cluster,
        Store::Single(_) => panic!("this test runs on a Redis Cluster"),
    }
}

#[tokio::test]
async fn keys_of_a_partition_share_a_slot_and_partitions_are_on_all_masters() {
    let mut store = Store::cluster().await;
    let (a, b) = tokio::join!(store.node("a"), store.node("b"));
    let users: Vec<_> = (0..60).map(|number| format!("user-{number:02}")).collect();
    let mut mirrors = Vec::new();
    for user in &users {
        mirrors.push(a.connect_to(user, "lobby").await);
    }
    let names: Vec<_> = users.iter().map(String::as_str).collect();
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    observers.wait_for_members(&[&a, &b], &names).await;
    for user in &users {
        store.until_key(&format!("u:{user}")).await;
    }
    let cluster = cluster(&mut store);
    let mut masters = BTreeSet::new();
    let mut partitions = BTreeSet::new();
    for key in cluster.keys().await {
        let tag = key.strip_prefix("presence:{").and_then(|rest| rest.split_once('}'));
        let (tag, _) = tag.unwrap_or_else(|| panic!("{key} names no partition"));
        if tag != "nodes" {
            assert!(tag.parse::<u8>().is_ok_and(|partition| partition < 16), "{key}");
            partitions.insert(tag.to_owned());
            masters.insert(cluster.master_of(&key).await);
        }
    }
    assert!(partitions.len() > 8, "sixty users are in only a few partitions: {partitions:?}");
    assert_eq!(masters.len(), 3);
    b.wait_until_degraded(false).await;
}

/// The master with the leases dies and then, in another cluster, the master of a partition. Each time a replica takes
/// over, and no user leaves.
#[tokio::test]
async fn no_user_leaves_when_a_replica_replaces_its_master() {
    for key in ["presence:{nodes}:incarnations", "presence:{0}:events"] {
        let mut store = Store::cluster().await;
        let nodes = store.three_nodes(&SHORT_TTL_FLAG).await;
        let all = nodes.each_ref();
        let mut mirrors = Vec::new();
        let users: Vec<_> = (0..12).map(|number| format!("user-{number:02}")).collect();
        for (number, user) in users.iter().enumerate() {
            mirrors.push(nodes[number % 3].connect_to(user, "lobby").await);
        }
        let mut names: Vec<_> = users.iter().map(String::as_str).collect();
        let mut observers = RoomObservers::on(&all, "lobby").await;
        observers.wait_for_members(&all, &names).await;
        let cluster = cluster(&mut store);
        let master = cluster.master_of(key).await;
        let failing_over = cluster.fail_over(master);
        let during = async {
            observers.allow_leaves(&["user-00"]);
            mirrors[0].close(1000);
            mirrors.push(nodes[1].connect_to("zoe", "lobby").await);
            observers.observe_for(NODE_LOST_AFTER).await;
        };
        tokio::join!(failing_over, during);
        names.remove(0);
        names.push("zoe");
        observers.wait_for_members(&all, &names).await;
        for node in all {
            node.wait_until_degraded(false).await;
        }
        mirrors[1].send(&json!({"type": "state", "room": "lobby", "state": {"after": "failover"}}));
        observers.wait_for_state("user-01", &json!({"after": "failover"})).await;
        observers.observe_for(NODE_LOST_AFTER).await;
        observers.wait_for_members(&all, &names).await;
        observers.assert_stable(&names[..names.len() - 1]);
        // The nodes still notice when one of them dies.
        let [a, b, c] = nodes;
        let of_c = |name: &&str| users.iter().position(|user| user == name).is_some_and(|number| number % 3 == 2);
        let lost: Vec<_> = names.iter().copied().filter(of_c).collect();
        observers.allow_leaves(&lost);
        observers.remove(&c);
        c.kill();
        names.retain(|name| !lost.contains(name));
        observers.wait_for_members_within(NODE_LOST_AFTER, &[&a, &b], &names).await;
    }
}

/// The slots of a partition and of the leases move from one master to another and back, one key after the other, while
/// users come, go and change their states. No node is degraded at any moment, and no user leaves.
#[tokio::test]
async fn a_slot_that_moves_to_another_master_degrades_no_node() {
    for key in ["presence:{0}:events", "presence:{nodes}:incarnations"] {
        let mut store = Store::cluster().await;
        let [a, b, c] = store.three_nodes(&MOVING_FLAGS).await;
        let all = [&a, &b, &c];
        let mut observers = RoomObservers::on(&all, "lobby").await;
        for node in all {
            node.wait_until_degraded(false).await;
        }
        let health = HealthWatch::of(&all);
        let cluster = cluster(&mut store);
        let (home, other) = cluster.master_and_next(key).await;
        let moves = async {
            let mut users = Vec::new();
            for (from, to) in [(home, other), (other, home)] {
                move_slot(cluster, (from, to), key, &all, &mut observers, &mut users).await;
            }
            let names: Vec<_> = users.iter().map(|user| user.user.clone()).collect();
            observers.observe_for(NODE_LOST_AFTER).await;
            observers.assert_stable(&names.iter().map(String::as_str).collect::<Vec<_>>());
        };
        tokio::select! {
            () = moves => {}
            _ = join_all(all.map(come_and_go)) => unreachable!("users come and go until the moves are over"),
        }
        let mut answers = health.degraded();
        for node in all {
            let reports = observers.mirror(node).since(0, "health", "").into_iter().cloned().collect::<Vec<_>>();
            let warnings = node.warnings();
            if warnings.is_empty() && node.log().iter().any(|line| line.contains("WARN")) {
                // A busy machine is another reason.
                answers.retain(|(id, _)| *id != node.id);
                continue;
            }
            let was_degraded = !(reports.is_empty() && warnings.is_empty());
            assert!(!was_degraded, "{key}: clients of {} were told {reports:?}: {warnings:#?}", node.id);
        }
        assert!(answers.is_empty(), "{key}: {answers:?}");
    }
}

const MOVING_FLAGS: [&str; 6] = ["--redis-partitions", "1", "--log", "debug", "--ttl", "8s"];

/// Moves a slot. Users join on all nodes before, in between and afterwards; each is seen everywhere at once.
async fn move_slot(
    cluster: &RedisCluster,
    (from, to): (usize, usize),
    key: &str,
    nodes: &[&Node],
    observers: &mut RoomObservers,
    users: &mut Vec<Mirror>,
) {
    let slot = cluster.begin_to_move(key, from, to).await;
    let first = users.len();
    for number in first..first + 12 {
        cluster.move_keys(from, to, &slot, 1).await;
        users.push(nodes[number % nodes.len()].connect_to(&format!("user-{number:02}"), "lobby").await);
        wait_for(observers, nodes, users).await;
    }
    let state = json!({"slot": "moving", "to": to});
    users[0].send(&json!({"type": "state", "room": "lobby", "state": state}));
    observers.wait_for_state("user-00", &state).await;
    // A node that starts now reads hashes that are on either side. It is degraded until it has.
    let d = Node::with_flags("d", &cluster_flags(cluster, &MOVING_FLAGS)).await;
    d.wait_until_degraded(false).await;
    // The next tick shows what was read.
    let ticks = d.stat("ticks").await + 2;
    d.wait_until("two ticks", async || d.stat("ticks").await >= ticks).await;
    let names: BTreeSet<_> = users.iter().map(|user| user.user.clone()).collect();
    assert_eq!(d.members("lobby").await.into_keys().collect::<BTreeSet<_>>(), names);
    d.terminate().await;
    cluster.finish_move(from, to, &slot).await;
    for number in first + 12..first + 15 {
        users.push(nodes[number % nodes.len()].connect_to(&format!("user-{number:02}"), "lobby").await);
        wait_for(observers, nodes, users).await;
    }
}

async fn wait_for(observers: &mut RoomObservers, nodes: &[&Node], users: &[Mirror]) {
    let names: Vec<_> = users.iter().map(|user| user.user.as_str()).collect();
    observers.wait_for_members(nodes, &names).await;
}

/// Users of another room, one after the other, without end.
async fn come_and_go(node: &Node) -> Infallible {
    for number in 0_u64.. {
        let guest = node.connect_to(&format!("guest-{}-{number}", node.id), "hall").await;
        guest.send(&json!({"type": "state", "room": "hall", "state": {"number": number}}));
        sleep(TICK).await;
        guest.close(1000);
    }
    unreachable!("numbers do not end")
}

/// Asks nodes all the time whether they are degraded.
struct HealthWatch {
    degraded: Arc<Mutex<Vec<(String, String)>>>,
    task: JoinHandle<()>,
}

impl HealthWatch {
    fn of(nodes: &[&Node]) -> Self {
        let addresses: Vec<_> = nodes.iter().map(|node| (node.id.clone(), node.address)).collect();
        let degraded = Arc::<Mutex<Vec<(String, String)>>>::default();
        let found = Arc::clone(&degraded);
        let task = tokio::spawn(async move {
            loop {
                for (id, address) in &addresses {
                    let answer = http::request(*address, "GET", "/readyz", &[], b"").await;
                    if answer.status != 200 || answer.json()["status"] != "ok" {
                        let answer = format!("{} {}", answer.status, answer.json());
                        found.lock().unwrap().push((id.clone(), answer));
                    }
                }
                sleep(POLL).await;
            }
        });
        Self { degraded, task }
    }

    /// The answers that were not `ok`, with the nodes. An answer that does not come in time counts as well.
    fn degraded(self) -> Vec<(String, String)> {
        assert!(!self.task.is_finished(), "a node did not answer");
        self.task.abort();
        std::mem::take(&mut self.degraded.lock().unwrap())
    }
}

fn cluster_flags<'a>(cluster: &RedisCluster, flags: &[&'a str]) -> Vec<&'a str> {
    let own = cluster.flags().into_iter().map(|flag| &*flag.leak());
    own.chain(flags.iter().copied()).collect()
}

#[tokio::test]
async fn no_user_leaves_while_the_redis_cluster_is_down() {
    let mut store = Store::cluster().await;
    let (a, b) = tokio::join!(store.node_with("a", &SHORT_TTL_FLAG), store.node_with("b", &SHORT_TTL_FLAG));
    let (_alice, bob) = (a.connect_to("alice", "lobby").await, b.connect_to("bob", "lobby").await);
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    observers.wait_for_members(&[&a, &b], &["alice", "bob"]).await;
    for server in &cluster(&mut store).servers {
        server.hang();
    }
    a.wait_until_degraded(true).await;
    b.wait_until_degraded(true).await;
    observers.allow_leaves(&["bob"]);
    bob.close(1000);
    let _carol = b.connect_to("carol", "lobby").await;
    observers.observe_for(NODE_LOST_AFTER).await;
    for server in &cluster(&mut store).servers {
        server.resume();
    }
    observers.wait_for_members(&[&a, &b], &["alice", "carol"]).await;
    for node in [&a, &b] {
        node.wait_until_degraded(false).await;
    }
    observers.assert_stable(&["alice"]);
}
