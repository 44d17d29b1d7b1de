//! A node that works only in part: it lacks the permission to publish, or cannot reach one master of a cluster, but
//! renews its lease. The other nodes report that they are degraded, show what Redis has, and do not poll Redis.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::common::http;
use crate::common::redis::POLL;
use crate::common::{NODE_LOST_AFTER, Node, Proxy, ProxyMode, Redis, RedisCluster, RoomObservers, SHORT_TTL_FLAG};

const TOKEN: &str = "a token for tests only";

/// The URL for a user of Redis of whom permissions are taken away.
async fn url_of_limited_user(servers: &[&Redis]) -> String {
    for server in servers {
        server.command(&["ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all"]).await;
    }
    format!("redis://limited:secret@{}", servers[0].address())
}

/// Names of users, and the partition of each on a cluster.
fn user_in_partition(partition: u32) -> String {
    let users = (0..).map(|number| format!("user-{number}"));
    let is_there = |user: &String| crc32fast::hash(user.as_bytes()) % 16 == partition;
    users.into_iter().find(is_there).expect("some user is in each partition")
}

/// How often nodes read leases, in the time of two heartbeats. A busy machine may look later.
async fn lease_reads(redis: &Redis) -> u64 {
    let (before, started) = (redis.calls("mget").await, Instant::now());
    sleep(Duration::from_secs(2)).await;
    let reads = redis.calls("mget").await - before;
    (reads as f64 * 2.0 / started.elapsed().as_secs_f64()) as u64
}

#[tokio::test]
async fn changes_of_a_node_that_may_not_publish_are_read_and_all_nodes_report_degraded() {
    let redis = Redis::start().await;
    let (url, limited) = (redis.url(), url_of_limited_user(&[&redis]).await);
    let (a, b, c) =
        tokio::join!(Node::start("a", &url, &[]), Node::start("b", &url, &[]), Node::start("c", &limited, &[]));
    let mut observers = RoomObservers::on(&[&a, &b, &c], "lobby").await;
    let alice = c.connect_to("alice", "lobby").await;
    let _bob = a.connect_to("bob", "lobby").await;
    observers.wait_for_members(&[&a, &b, &c], &["alice", "bob"]).await;
    redis.command(&["ACL", "SETUSER", "limited", "-publish"]).await;
    observers.allow_leaves(&["alice"]);
    alice.close(1000);
    let _carol = c.connect_to("carol", "lobby").await;
    for node in [&a, &b, &c] {
        node.wait_until_degraded(true).await;
    }
    observers.wait_for_members(&[&a, &b, &c], &["bob", "carol"]).await;
    let since = [a.degraded().await, b.degraded().await, c.degraded().await];
    let _dave = c.connect_to("dave", "lobby").await;
    observers.wait_for_members(&[&a, &b, &c], &["bob", "carol", "dave"]).await;
    let reads = lease_reads(&redis).await;
    assert!(reads <= 12, "three nodes read leases {reads} times in two seconds");
    assert_eq!([a.degraded().await, b.degraded().await, c.degraded().await], since, "it was not reported throughout");
    redis.command(&["ACL", "SETUSER", "limited", "+publish"]).await;
    for node in [&a, &b, &c] {
        node.wait_until_degraded(false).await;
    }
    let _erin = c.connect_to("erin", "lobby").await;
    observers.wait_for_members(&[&a, &b, &c], &["bob", "carol", "dave", "erin"]).await;
    observers.assert_stable(&["bob"]);
}

#[tokio::test]
async fn users_behind_a_master_that_a_node_cannot_reach_leave_and_all_nodes_report_degraded() {
    let cluster = RedisCluster::start().await;
    let servers: Vec<_> = cluster.servers.iter().collect();
    // The lease is on another master than partition 0.
    let lost = cluster.master_of("presence:{0}:events").await;
    assert_ne!(lost, cluster.master_of("presence:{nodes}:incarnations").await);
    let mut kept = 1;
    while cluster.master_of(&format!("presence:{{{kept}}}:events")).await == lost {
        kept += 1;
    }
    let (gone, stays) = (user_in_partition(0), user_in_partition(kept));
    let limited = url_of_limited_user(&servers).await;
    let flags = cluster.flags();
    let flags: Vec<_> = flags.iter().map(String::as_str).chain(SHORT_TTL_FLAG).collect();
    let limited_flags = [&["--redis", &limited, "--redis-cluster"], &SHORT_TTL_FLAG[..]].concat();
    let (a, c) = tokio::join!(Node::with_flags("a", &flags), Node::with_flags("c", &limited_flags));
    let mut observers = RoomObservers::on(&[&a, &c], "lobby").await;
    let (_gone, _stays) = (c.connect_to(&gone, "lobby").await, c.connect_to(&stays, "lobby").await);
    let mut both = vec![gone.as_str(), stays.as_str()];
    both.sort_unstable();
    observers.wait_for_members(&[&a, &c], &both).await;
    observers.allow_leaves(&[&gone]);
    servers[lost].command(&["ACL", "SETUSER", "limited", "off"]).await;
    servers[lost].command(&["CLIENT", "KILL", "USER", "limited"]).await;
    a.wait_until_degraded(true).await;
    c.wait_until_degraded(true).await;
    a.wait_until("the user leaves", async || !a.members("lobby").await.contains_key(&gone)).await;
    observers.observe_for(NODE_LOST_AFTER).await;
    assert!(a.degraded().await.is_some() && c.degraded().await.is_some());
    assert_eq!(a.members("lobby").await.into_keys().collect::<Vec<_>>(), [&*stays]);
    assert_eq!(c.members("lobby").await.into_keys().collect::<Vec<_>>(), both);
    servers[lost].command(&["ACL", "SETUSER", "limited", "on"]).await;
    observers.wait_for_members(&[&a, &c], &both).await;
    for node in [&a, &c] {
        node.wait_until_degraded(false).await;
    }
    observers.assert_stable(&[&stays]);
}

/// Somebody publishes in the channel and has no lease, like a node that cannot reach the master of the leases.
#[tokio::test]
async fn an_incarnation_without_a_lease_is_reported_and_does_not_make_nodes_read_leases_all_the_time() {
    let redis = Redis::start().await;
    let node = Node::start("a", &redis.url(), &[]).await;
    node.wait_until_degraded(false).await;
    let before = redis.calls("mget").await;
    let started = Instant::now();
    for number in 0..400 {
        redis.command(&["PUBLISH", "presence:{0}:events", &format!("x.1\t{number}\njoined\tlobby:mallory\t1")]).await;
        sleep(POLL).await;
    }
    let (reads, seconds) = (redis.calls("mget").await - before, started.elapsed().as_secs());
    assert!(reads <= 2 * seconds + 5, "leases were read {reads} times in {seconds} s");
    assert!(node.degraded().await.is_some());
    assert!(node.members("lobby").await.is_empty());
    node.wait_until_degraded(false).await;
}

#[tokio::test]
async fn nodes_in_another_database_of_the_same_redis_do_not_exist_for_a_node() {
    let redis = Redis::start().await;
    let (url, other) = (redis.url(), format!("{}/4", redis.url()));
    let (a, b, c) =
        tokio::join!(Node::start("a", &url, &[]), Node::start("b", &other, &[]), Node::start("c", &other, &[]));
    let _alice = a.connect_to("alice", "lobby").await;
    let _bob = b.connect_to("bob", "lobby").await;
    let mut observers = RoomObservers::on(&[&b, &c], "lobby").await;
    observers.wait_for_members(&[&b, &c], &["bob"]).await;
    assert_eq!(a.members("lobby").await.into_keys().collect::<Vec<_>>(), ["alice"]);
    let (events, started) = (a.stat("redis_events").await, Instant::now());
    let reads = lease_reads(&redis).await;
    assert!(reads <= 12, "three nodes read leases {reads} times in two seconds");
    // Its own, one per second; the others would send two more.
    let events = a.stat("redis_events").await - events;
    assert!(events <= started.elapsed().as_secs() + 2, "messages of the other database arrive: {events}");
    for node in [&a, &b, &c] {
        node.wait_until_degraded(false).await;
    }
}

#[tokio::test]
async fn a_kick_is_not_applied_by_a_node_that_starts_after_it() {
    let redis = Redis::start().await;
    let flags = ["--api-key", TOKEN];
    let a = Node::start("a", &redis.url(), &flags).await;
    let mut kicked = a.connect_to("alice", "lobby").await;
    kick(&a, "alice").await;
    assert_eq!(kicked.wait_for_close().await, Some(1008));
    // Node a publishes the kick again with its next heartbeat. It must not do so before alice is on b.
    a.signal("STOP");
    let b = Node::start("b", &redis.url(), &flags).await;
    let mut again = b.connect_to("alice", "lobby").await;
    a.signal("CONT");
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    observers.wait_for_members(&[&a, &b], &["alice"]).await;
    // The kick is published every second for the time of a lease.
    let events = b.stat("redis_events").await;
    b.wait_until("messages of several heartbeats", async || b.stat("redis_events").await >= events + 8).await;
    observers.assert_stable(&["alice"]);
    // A later kick is applied.
    observers.allow_leaves(&["alice"]);
    kick(&a, "alice").await;
    assert_eq!(again.wait_for_close().await, Some(1008));
}

/// The node where the user comes back is cut off from Redis, or the node that was asked for the kick.
#[tokio::test]
async fn a_kick_that_arrives_late_ends_what_the_user_had_before_it_and_nothing_else() {
    for is_kicker_cut_off in [false, true] {
        let redis = Redis::start().await;
        let proxies = [Proxy::to(redis.address()).await, Proxy::to(redis.address()).await];
        let urls = [proxies[0].url(), proxies[1].url()];
        // Kicks are published about every second again.
        let flags = ["--api-key", TOKEN, "--ttl", "20s"];
        let (a, b) = tokio::join!(Node::start("a", &urls[0], &flags), Node::start("b", &urls[1], &flags));
        let (mut on_a, mut before) = (a.connect_to("alice", "lobby").await, b.connect_to("alice", "lobby").await);
        b.rest_heartbeat("rest").await;
        let (cut_off, node) = if is_kicker_cut_off { (&proxies[0], &a) } else { (&proxies[1], &b) };
        cut_off.set(ProxyMode::Disconnect);
        node.wait_until_degraded(true).await;
        for user in ["alice", "rest"] {
            kick(&a, user).await;
        }
        assert_eq!(on_a.wait_for_close().await, Some(1008));
        // Times are compared in tenths of a second, and a node knows them to a tick.
        let ticks = b.stat("ticks").await + 6;
        b.wait_until("some ticks", async || b.stat("ticks").await >= ticks).await;
        let mut again = b.connect_to("alice", "lobby").await;
        before.apply_pending();
        assert!(!before.ended, "node b cannot know of the kick");
        cut_off.set(ProxyMode::Forward);
        assert_eq!(before.wait_for_close().await, Some(1008));
        b.wait_until("the REST session ends", async || !b.members("lobby").await.contains_key("rest")).await;
        node.wait_until_degraded(false).await;
        let events = b.stat("redis_events").await;
        b.wait_until("messages of several heartbeats", async || b.stat("redis_events").await >= events + 8).await;
        again.barrier().await;
        assert!(!again.ended && again.has("lobby", "alice"), "{}", again.describe());
        assert!(a.members("lobby").await.contains_key("alice"));
    }
}

async fn kick(node: &Node, user: &str) {
    let bearer = format!("Bearer {TOKEN}");
    let path = format!("/v1/users/{user}/kick");
    let done = http::request(node.address, "POST", &path, &[("authorization", &bearer)], b"").await;
    assert_eq!(done.status, 200, "{done:?}");
}
