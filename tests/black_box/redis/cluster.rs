//! Rules for a Redis Cluster only: partitions and slots, and masters that are replaced by replicas.

use std::collections::BTreeSet;

use serde_json::json;

use crate::common::{NODE_LOST_AFTER, RedisCluster, RoomObservers, SHORT_TTL_FLAG, Store};

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
