//! Revocations concern all nodes, and outlive nodes and Redis.

use serde_json::{Value, json};

use crate::common::token::{SECRET_FLAG, now, subprotocols, token};
use crate::common::{Node, RawClient, Redis, Store};

const KEY: &str = "a key of the application";
const LIST: &str = "presence:{nodes}:revoked";

on_both!(connections_close_on_all_nodes_and_a_node_that_starts_later_refuses);

async fn start(id: &str, flags: &[&str]) -> Node {
    Node::with_flags(id, &[flags, &SECRET_FLAG, &["--api-key", KEY]].concat()).await
}

/// A token that was issued 100 seconds ago.
fn old(user: &str) -> String {
    token(user, &json!({"iat": now() - 100}))
}

async fn open(node: &Node, user: &str) -> RawClient {
    let offered = subprotocols(&old(user));
    let headers = [("sec-websocket-protocol", &*offered)];
    RawClient::open_with(node.address, "/v1/connect?room=lobby", &headers, b"").await.0
}

async fn connect(node: &Node, user: &str) -> RawClient {
    let mut client = open(node, user).await;
    client.json_of_type("snapshot").await;
    client
}

/// Revokes, and returns the status and where the entry is stored.
async fn revoke(node: &Node, what: &Value) -> (u16, Value) {
    let response = node.post_json("/v1/revoke", what).await;
    (response.status, response.json()["stored"].clone())
}

async fn assert_refused(node: &Node, user: &str) {
    assert_eq!(open(node, user).await.wait_for_close().await, Some(1008), "{user}");
}

async fn connections_close_on_all_nodes_and_a_node_that_starts_later_refuses(store: Store) {
    let (server, is_cluster) = match &store {
        Store::Single(redis) => (redis, false),
        Store::Cluster(cluster) => (&cluster.servers[0], true),
    };
    let url = server.url();
    let mut flags = vec!["--redis", &url];
    flags.extend(is_cluster.then_some("--redis-cluster"));
    let (a, b) = tokio::join!(start("a", &flags), start("b", &flags));
    let (mut here, mut there) = (connect(&a, "alice").await, connect(&b, "alice").await);
    let mut bob = connect(&b, "bob").await;
    // Twice: the second entry takes the place of the first.
    for before in [now() - 60, now() - 50] {
        assert_eq!(revoke(&a, &json!({"user": "alice", "issued_before": before})).await, (200, json!("redis")));
    }
    assert_eq!(here.wait_for_close().await, Some(1008));
    assert_eq!(there.wait_for_close().await, Some(1008));
    assert!(bob.is_served().await);
    drop((a, b));
    let c = start("c", &flags).await;
    assert_refused(&c, "alice").await;
    connect(&c, "bob").await;
}

#[tokio::test]
async fn a_redis_that_lost_everything_gets_the_entries_back() {
    let mut redis = Redis::start().await;
    let url = redis.url();
    let flags = ["--redis", &url];
    let a = start("a", &flags).await;
    assert_eq!(revoke(&a, &json!({"user": "alice"})).await, (200, json!("redis")));
    assert_eq!(redis.command(&["ZCARD", LIST]).await.number(), 1);
    redis.command(&["DEL", LIST]).await;
    redis.until(&["EXISTS", LIST], |reply| reply.number() == 1).await;
    redis.restart().await;
    redis.until(&["EXISTS", LIST], |reply| reply.number() == 1).await;
    redis.command(&["SET", LIST, "something else", "EX", "1000"]).await;
    assert_eq!(revoke(&a, &json!({"user": "bob"})).await, (200, json!("redis")));
    assert_eq!(redis.command(&["ZCARD", LIST]).await.number(), 2);
    let left_s = redis.command(&["TTL", LIST]).await.number();
    assert!((86_400..100_000).contains(&left_s), "the list ends: {left_s}");
    drop(a);
    let b = start("b", &flags).await;
    assert_refused(&b, "alice").await;
    assert_refused(&b, "bob").await;
}

#[tokio::test]
async fn a_revocation_while_redis_is_away_is_accepted_and_reaches_the_others_later() {
    let mut redis = Redis::start().await;
    let url = redis.url();
    let flags = ["--redis", &url];
    let (a, b) = tokio::join!(start("a", &flags), start("b", &flags));
    let (mut here, mut there) = (connect(&a, "alice").await, connect(&b, "alice").await);
    redis.kill();
    a.wait_until_degraded(true).await;
    assert_eq!(revoke(&a, &json!({"user": "alice"})).await, (202, json!("memory")));
    assert_eq!(here.wait_for_close().await, Some(1008));
    assert!(there.is_served().await, "its node cannot know");
    redis.restart().await;
    assert_eq!(there.wait_for_close().await, Some(1008));
    assert_refused(&b, "alice").await;
}
