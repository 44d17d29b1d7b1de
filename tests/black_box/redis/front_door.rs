//! The faults of the other files, in clusters in which clients have to prove who they are, while the publisher of the
//! keys or the application is dead as well. No client whose credential is valid is disconnected, no user leaves, and
//! nobody else gets in.

use super::nodes::{no_user_leaves_during_a_rolling_restart_behind, only_the_users_of_a_killed_node_leave_behind};
use super::outages::Cluster;
use crate::common::{FrontDoor, Intruders, NODE_LOST_AFTER, Store};

/// Two nodes, and intruders who try both.
async fn behind(door: FrontDoor) -> (Cluster, Intruders) {
    let cluster = Cluster::behind(door).await;
    let intruders = Intruders::of(&cluster.door, &cluster.nodes.each_ref());
    (cluster, intruders)
}

/// Checks that the cluster recovers from an outage with exactly these users, and that no intruder gets in.
async fn check(mut cluster: Cluster, mut intruders: Intruders, users: &[&str]) {
    intruders.check().await;
    cluster.check_recovery(users).await;
    intruders.check().await;
    assert_eq!(cluster.observers.changes_of("bob"), vec![vec![]; 2]);
}

#[tokio::test]
async fn with_tokens_no_user_leaves_while_redis_and_the_publisher_are_dead() {
    let (mut cluster, mut intruders) = behind(FrontDoor::tokens().await).await;
    cluster.redis.kill();
    cluster.door.die().await;
    let users = cluster.join_and_leave_during_outage().await;
    intruders.check().await;
    cluster.redis.restart().await;
    check(cluster, intruders, &users).await;
}

#[tokio::test]
async fn with_tokens_no_user_leaves_while_redis_hangs_and_the_publisher_is_dead() {
    let (mut cluster, mut intruders) = behind(FrontDoor::tokens().await).await;
    cluster.door.die().await;
    cluster.redis.hang();
    let users = cluster.join_and_leave_during_outage().await;
    intruders.check().await;
    cluster.redis.resume();
    check(cluster, intruders, &users).await;
}

#[tokio::test]
async fn with_tokens_no_user_leaves_when_redis_restarts_empty_and_the_publisher_dies() {
    let (mut cluster, intruders) = behind(FrontDoor::tokens().await).await;
    let before = cluster.redis.keys().await;
    cluster.redis.restart().await;
    cluster.wait_for_rewritten_keys(&before).await;
    cluster.door.die().await;
    cluster.redis.restart().await;
    cluster.wait_for_rewritten_keys(&before).await;
    cluster.observers.observe_for(NODE_LOST_AFTER).await;
    cluster.observers.assert_stable(&["alice", "bob", "both"]);
    check(cluster, intruders, &["alice", "bob", "both"]).await;
}

#[tokio::test]
async fn with_tokens_only_the_users_of_a_killed_node_leave() {
    only_the_users_of_a_killed_node_leave_behind(FrontDoor::tokens().await, Store::single().await).await;
}

#[tokio::test]
async fn with_tokens_no_user_leaves_during_a_rolling_restart() {
    no_user_leaves_during_a_rolling_restart_behind(FrontDoor::tokens().await, Store::single().await).await;
}

#[tokio::test]
async fn with_sessions_no_user_leaves_while_redis_and_the_application_are_dead() {
    let (mut cluster, mut intruders) = behind(FrontDoor::sessions().await).await;
    cluster.redis.kill();
    cluster.door.die().await;
    let users = cluster.join_and_leave_during_outage().await;
    // The session of one user was over meanwhile, and nobody has confirmed it.
    for node in &cluster.nodes {
        node.wait_until("a confirmation that failed", async || node.stat("callback_failed").await > 0).await;
    }
    intruders.check().await;
    cluster.redis.restart().await;
    check(cluster, intruders, &users).await;
}
