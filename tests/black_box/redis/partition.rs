//! Network faults between one node and Redis, while the other node stays connected.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::common::redis::POLL;
use crate::common::{
    DEADLINE, MembershipChange, NODE_LOST_AFTER, Node, Proxy, ProxyMode, Redis, RoomObservers, SHORT_TTL,
    SHORT_TTL_FLAG,
};

/// Node `a` is connected to Redis directly, node `c` through a proxy.
struct Cluster {
    proxy: Proxy,
    a: Node,
    c: Node,
    observers: RoomObservers,
    redis: Redis,
}

impl Cluster {
    async fn start(flags: &[&str]) -> Self {
        let redis = Redis::start().await;
        let proxy = Proxy::to(redis.address()).await;
        let (url, proxied) = (redis.url(), proxy.url());
        let (a, c) = tokio::join!(Node::start("a", &url, flags), Node::start("c", &proxied, flags));
        let observers = RoomObservers::on(&[&a, &c], "lobby").await;
        Self { proxy, a, c, observers, redis }
    }

    async fn agree(&mut self, users: &[&str]) {
        self.observers.wait_for_members(&[&self.a, &self.c], users).await;
    }
}

/// A node without a connection for longer than its lease counts as dead for the others. The node itself is degraded,
/// and none of its observers sees a leave.
async fn lose_connection_for_longer_than_a_lease(away: ProxyMode, before_return: ProxyMode) {
    let mut cluster = Cluster::start(&SHORT_TTL_FLAG).await;
    let alice = cluster.a.connect_to("alice", "lobby").await;
    let carol = cluster.c.connect_to("carol", "lobby").await;
    let _both = (cluster.a.connect_to("both", "lobby").await, cluster.c.connect_to("both", "lobby").await);
    cluster.agree(&["alice", "both", "carol"]).await;
    cluster.observers.allow_leaves(&["carol"]);
    cluster.proxy.set(away);
    let a = &cluster.a;
    a.wait_until("c counts as lost", async || !a.members("lobby").await.contains_key("carol")).await;
    cluster.c.wait_until_degraded(true).await;
    cluster.a.wait_until_degraded(false).await;
    let late = cluster.c.connect_to("late", "lobby").await;
    carol.send(&json!({"type": "state", "room": "lobby", "state": {"cut": "off"}}));
    cluster.observers.observe_for(SHORT_TTL).await;
    let known: Vec<_> = cluster.c.members("lobby").await.into_keys().collect();
    assert_eq!(known, ["alice", "both", "carol", "late"], "c dropped users because it lost its connection");
    cluster.proxy.set(before_return);
    cluster.proxy.set(ProxyMode::Forward);
    cluster.agree(&["alice", "both", "carol", "late"]).await;
    cluster.c.wait_until_degraded(false).await;
    cluster.observers.wait_for_state("carol", &json!({"cut": "off"})).await;
    cluster.observers.forbid_leaves();
    cluster.observers.observe_for(NODE_LOST_AFTER).await;
    cluster.agree(&["alice", "both", "carol", "late"]).await;
    cluster.observers.assert_stable(&["alice", "both"]);
    drop((alice, late));
}

#[tokio::test]
async fn users_return_after_a_long_fault_with_closed_connections() {
    lose_connection_for_longer_than_a_lease(ProxyMode::Disconnect, ProxyMode::Disconnect).await;
}

#[tokio::test]
async fn users_return_after_a_long_fault_with_refused_connections() {
    lose_connection_for_longer_than_a_lease(ProxyMode::Refuse, ProxyMode::Refuse).await;
}

#[tokio::test]
async fn users_return_after_a_long_fault_with_delayed_bytes() {
    lose_connection_for_longer_than_a_lease(ProxyMode::Stall, ProxyMode::Forward).await;
}

#[tokio::test]
async fn users_return_after_a_long_fault_with_lost_bytes() {
    lose_connection_for_longer_than_a_lease(ProxyMode::Stall, ProxyMode::Disconnect).await;
}

#[tokio::test]
async fn no_user_leaves_during_faults_shorter_than_a_lease() {
    let mut cluster = Cluster::start(&["--ttl", "8s"]).await;
    let alice = cluster.a.connect_to("alice", "lobby").await;
    let _carol = cluster.c.connect_to("carol", "lobby").await;
    let mut members = vec!["alice", "carol"];
    let mut clients = Vec::new();
    for (mode, user) in
        [(ProxyMode::Disconnect, "disconnect"), (ProxyMode::Stall, "stall"), (ProxyMode::Refuse, "refuse")]
    {
        cluster.agree(&members).await;
        cluster.proxy.set(mode);
        clients.push(cluster.a.connect_to(user, "lobby").await);
        let other = format!("{user} remote");
        clients.push(cluster.c.connect_to(&other, "lobby").await);
        cluster.observers.observe_for(Duration::from_millis(1500)).await;
        cluster.proxy.set(ProxyMode::Forward);
        members.extend([user, other.leak()]);
        members.sort_unstable();
    }
    cluster.agree(&members).await;
    alice.send(&json!({"type": "state", "room": "lobby", "state": {"k": 1}}));
    cluster.observers.wait_for_state("alice", &json!({"k": 1})).await;
    cluster.observers.assert_stable(&["carol"]);
}

#[tokio::test]
async fn a_user_who_reconnects_to_another_node_during_a_fault_stays_online() {
    let mut cluster = Cluster::start(&["--ttl", "6s"]).await;
    let away = cluster.c.connect_to("mover", "lobby").await;
    cluster.agree(&["mover"]).await;
    cluster.proxy.set(ProxyMode::Stall);
    let here = cluster.a.connect_to("mover", "lobby").await;
    // Node c cannot know that the user is connected to a, so its observers may see a leave. Observers on a must not.
    cluster.observers.allow_leaves(&["mover"]);
    away.close(1000);
    cluster.observers.observe_for(Duration::from_secs(8)).await;
    cluster.proxy.set(ProxyMode::Forward);
    // The delayed bytes of c arrive now: first that the user is on c, then that the user left c.
    cluster.c.wait_until_degraded(false).await;
    cluster.agree(&["mover"]).await;
    cluster.observers.forbid_leaves();
    cluster.observers.observe_for(Duration::from_secs(2)).await;
    cluster.agree(&["mover"]).await;
    let seen_on_a = cluster.observers.changes_of("mover").remove(0);
    assert_eq!(seen_on_a, [MembershipChange::Joined("mover".to_owned())]);
    cluster.redis.until(&["GET", "presence:{0}:u:mover"], |reply| format!("{reply:?}").contains("lobby")).await;
    drop(here);
}

#[tokio::test]
async fn a_slow_connection_to_redis_delays_changes_only() {
    let mut cluster = Cluster::start(&SHORT_TTL_FLAG).await;
    cluster.proxy.set(ProxyMode::Delay(Duration::from_millis(100)));
    let alice = cluster.a.connect_to("alice", "lobby").await;
    let carol = cluster.c.connect_to("carol", "lobby").await;
    cluster.agree(&["alice", "carol"]).await;
    cluster.observers.observe_for(NODE_LOST_AFTER).await;
    // A round trip of 200 ms is within the timeout.
    cluster.c.wait_until_degraded(false).await;
    cluster.observers.allow_leaves(&["alice"]);
    alice.close(1000);
    cluster.agree(&["carol"]).await;
    cluster.observers.assert_stable(&["carol"]);
    // A longer round trip exceeds the timeout, so the node is degraded, but no user leaves on it.
    cluster.observers.allow_leaves(&["carol"]);
    cluster.proxy.set(ProxyMode::Delay(Duration::from_millis(1500)));
    cluster.c.wait_until_degraded(true).await;
    cluster.observers.observe_for(SHORT_TTL).await;
    cluster.proxy.set(ProxyMode::Forward);
    cluster.c.wait_until_degraded(false).await;
    cluster.agree(&["carol"]).await;
    let seen_on_c = cluster.observers.changes_of("carol").remove(1);
    assert_eq!(seen_on_c, [MembershipChange::Joined("carol".to_owned())], "observers on c saw their own user leave");
    drop(carol);
}

/// Waits until the proxy has dropped an event, and lets it forward events again.
async fn wait_for_dropped_event(proxy: &Proxy, before: usize) {
    let deadline = Instant::now() + DEADLINE;
    while proxy.dropped_events() == before {
        assert!(Instant::now() < deadline, "no event was dropped");
        sleep(POLL).await;
    }
    proxy.drop_events(false);
}

#[tokio::test]
async fn changes_of_a_lost_event_are_read_from_redis() {
    let mut cluster = Cluster::start(&["--ttl", "60s"]).await;
    let time_limit = Duration::from_secs(2);
    let start_dropping = |cluster: &Cluster| {
        cluster.proxy.drop_events(true);
        cluster.proxy.dropped_events()
    };
    let before = start_dropping(&cluster);
    let alice = cluster.a.connect_to("alice", "lobby").await;
    wait_for_dropped_event(&cluster.proxy, before).await;
    cluster.observers.wait_for_members_within(time_limit, &[&cluster.a, &cluster.c], &["alice"]).await;
    let before = start_dropping(&cluster);
    alice.send(&json!({"type": "state", "room": "lobby", "state": {"k": 1}}));
    wait_for_dropped_event(&cluster.proxy, before).await;
    cluster.observers.wait_for_state("alice", &json!({"k": 1})).await;
    let before = start_dropping(&cluster);
    cluster.observers.allow_leaves(&["alice"]);
    alice.send(&json!({"type": "leave", "room": "lobby"}));
    wait_for_dropped_event(&cluster.proxy, before).await;
    cluster.observers.wait_for_members_within(time_limit, &[&cluster.a, &cluster.c], &[]).await;
}

/// The proxy drops all events for several leases, and nothing else.
#[tokio::test]
async fn a_node_without_events_reports_no_leaves() {
    let mut cluster = Cluster::start(&SHORT_TTL_FLAG).await;
    let alice = cluster.a.connect_to("alice", "lobby").await;
    let _carol = cluster.c.connect_to("carol", "lobby").await;
    cluster.agree(&["alice", "carol"]).await;
    cluster.proxy.drop_events(true);
    cluster.observers.observe_for(SHORT_TTL * 2).await;
    let _bob = cluster.a.connect_to("bob", "lobby").await;
    cluster.observers.allow_leaves(&["alice"]);
    alice.close(1000);
    cluster.observers.observe_for(SHORT_TTL).await;
    assert!(cluster.proxy.dropped_events() > 0);
    cluster.proxy.drop_events(false);
    cluster.agree(&["bob", "carol"]).await;
    cluster.observers.assert_stable(&["carol"]);
}

/// A subscription can be dead without an error, for example if a firewall dropped the connection. A node notices this
/// only because events are missing.
#[tokio::test]
async fn a_silent_subscription_is_replaced() {
    let mut cluster = Cluster::start(&[]).await;
    let _alice = cluster.a.connect_to("alice", "lobby").await;
    let _carol = cluster.c.connect_to("carol", "lobby").await;
    cluster.agree(&["alice", "carol"]).await;
    cluster.proxy.silence_subscriptions();
    let _bob = cluster.a.connect_to("bob", "lobby").await;
    cluster.agree(&["alice", "bob", "carol"]).await;
    assert!(cluster.proxy.dropped_events() > 0);
}
