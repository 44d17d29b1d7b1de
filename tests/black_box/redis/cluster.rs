//! What is special about a Redis Cluster: slots, lanes, and masters that are replaced.

use std::collections::BTreeSet;

use serde_json::json;

use crate::common::{LONGER, RedisCluster, SHORT, Store, Witnesses};

fn cluster(store: &mut Store) -> &mut RedisCluster {
    match store {
        Store::Cluster(cluster) => cluster,
        Store::Single(_) => panic!("a cluster was started"),
    }
}

#[tokio::test]
async fn keys_of_a_lane_are_in_one_slot_and_lanes_are_on_all_masters() {
    let mut store = Store::cluster().await;
    let (a, b) = tokio::join!(store.node("a"), store.node("b"));
    let users: Vec<_> = (0..60).map(|number| format!("user-{number:02}")).collect();
    let mut mirrors = Vec::new();
    for user in &users {
        mirrors.push(a.enter(user, "lobby").await);
    }
    let names: Vec<_> = users.iter().map(String::as_str).collect();
    let mut witnesses = Witnesses::on(&[&a, &b], "lobby").await;
    witnesses.agree(&[&a, &b], &names).await;
    for user in &users {
        store.until_key(&format!("u:{user}")).await;
    }
    let cluster = cluster(&mut store);
    let mut masters = BTreeSet::new();
    let mut lanes = BTreeSet::new();
    for key in cluster.keys().await {
        let tag = key.strip_prefix("presence:{").and_then(|rest| rest.split_once('}'));
        let (tag, _) = tag.unwrap_or_else(|| panic!("{key} says its lane"));
        if tag != "nodes" {
            assert!(tag.parse::<u8>().is_ok_and(|lane| lane < 16), "{key}");
            lanes.insert(tag.to_owned());
            masters.insert(cluster.master_of(&key).await);
        }
    }
    assert!(lanes.len() > 8, "sixty users are in many lanes: {lanes:?}");
    assert_eq!(masters.len(), 3);
    b.until_degraded(false).await;
}

/// The master of a lane dies, then the one of the leases; each time its replica takes over, and nobody was ever gone.
#[tokio::test]
async fn a_master_replaced_by_its_replica_loses_nobody() {
    for key in ["presence:{nodes}:runs", "presence:{0}:events"] {
        let mut store = Store::cluster().await;
        let nodes = store.three_nodes(&SHORT).await;
        let all = nodes.each_ref();
        let mut mirrors = Vec::new();
        let users: Vec<_> = (0..12).map(|number| format!("user-{number:02}")).collect();
        for (number, user) in users.iter().enumerate() {
            mirrors.push(nodes[number % 3].enter(user, "lobby").await);
        }
        let mut names: Vec<_> = users.iter().map(String::as_str).collect();
        let mut witnesses = Witnesses::on(&all, "lobby").await;
        witnesses.agree(&all, &names).await;
        let cluster = cluster(&mut store);
        let master = cluster.master_of(key).await;
        let failing_over = cluster.fail_over(master);
        let during = async {
            witnesses.may_leave(&["user-00"]);
            mirrors[0].close(1000);
            mirrors.push(nodes[1].enter("zoe", "lobby").await);
            witnesses.look_on(LONGER).await;
        };
        tokio::join!(failing_over, during);
        names.remove(0);
        names.push("zoe");
        witnesses.agree(&all, &names).await;
        for node in all {
            node.until_degraded(false).await;
        }
        mirrors[1].send(&json!({"type": "state", "room": "lobby", "state": {"after": "all"}}));
        witnesses.see_state("user-01", &json!({"after": "all"})).await;
        witnesses.look_on(LONGER).await;
        witnesses.agree(&all, &names).await;
        witnesses.assert_still(&names[..names.len() - 1]);
        // And a node that dies now is found out.
        let [a, b, c] = nodes;
        let of_c = |name: &&str| users.iter().position(|user| user == name).is_some_and(|number| number % 3 == 2);
        let lost: Vec<_> = names.iter().copied().filter(of_c).collect();
        witnesses.may_leave(&lost);
        witnesses.forget(&c);
        c.kill();
        names.retain(|name| !lost.contains(name));
        witnesses.agree_within(LONGER, &[&a, &b], &names).await;
    }
}

#[tokio::test]
async fn a_cluster_that_is_down_loses_nobody() {
    let mut store = Store::cluster().await;
    let (a, b) = tokio::join!(store.node_with("a", &SHORT), store.node_with("b", &SHORT));
    let (_alice, bob) = (a.enter("alice", "lobby").await, b.enter("bob", "lobby").await);
    let mut witnesses = Witnesses::on(&[&a, &b], "lobby").await;
    witnesses.agree(&[&a, &b], &["alice", "bob"]).await;
    for server in &cluster(&mut store).servers {
        server.hang();
    }
    a.until_degraded(true).await;
    b.until_degraded(true).await;
    witnesses.may_leave(&["bob"]);
    bob.close(1000);
    let _carol = b.enter("carol", "lobby").await;
    witnesses.look_on(LONGER).await;
    for server in &cluster(&mut store).servers {
        server.resume();
    }
    witnesses.agree(&[&a, &b], &["alice", "carol"]).await;
    for node in [&a, &b] {
        node.until_degraded(false).await;
    }
    witnesses.assert_still(&["alice"]);
}
