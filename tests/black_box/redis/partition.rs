//! One node loses Redis, in each way in which networks lose things, while all others keep it.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::common::redis::POLL;
use crate::common::{
    DEADLINE, MembershipChange, NODE_LOST_AFTER, Node, Proxy, ProxyMode, Redis, RoomObservers, SHORT_TTL,
    SHORT_TTL_FLAG,
};

/// Node `a` has its own way to Redis, `c` goes through a proxy.
struct Scene {
    proxy: Proxy,
    a: Node,
    c: Node,
    observers: RoomObservers,
    redis: Redis,
}

impl Scene {
    async fn set(flags: &[&str]) -> Self {
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

/// Cut off for longer than its lease, a node counts as dead for the others, and knows that it knows nothing.
async fn cut_off_for_long(away: ProxyMode, before_return: ProxyMode) {
    let mut scene = Scene::set(&SHORT_TTL_FLAG).await;
    let alice = scene.a.connect_to("alice", "lobby").await;
    let carol = scene.c.connect_to("carol", "lobby").await;
    let _both = (scene.a.connect_to("both", "lobby").await, scene.c.connect_to("both", "lobby").await);
    scene.agree(&["alice", "both", "carol"]).await;
    scene.observers.allow_leaves(&["carol"]);
    scene.proxy.set(away);
    let a = &scene.a;
    a.wait_until("c counts as lost", async || !a.members("lobby").await.contains_key("carol")).await;
    scene.c.wait_until_degraded(true).await;
    scene.a.wait_until_degraded(false).await;
    let late = scene.c.connect_to("late", "lobby").await;
    carol.send(&json!({"type": "state", "room": "lobby", "state": {"cut": "off"}}));
    scene.observers.observe_for(SHORT_TTL).await;
    let frozen: Vec<_> = scene.c.members("lobby").await.into_keys().collect();
    assert_eq!(frozen, ["alice", "both", "carol", "late"], "nobody leaves because c went deaf");
    scene.proxy.set(before_return);
    scene.proxy.set(ProxyMode::Forward);
    scene.agree(&["alice", "both", "carol", "late"]).await;
    scene.c.wait_until_degraded(false).await;
    scene.observers.wait_for_state("carol", &json!({"cut": "off"})).await;
    scene.observers.forbid_leaves();
    scene.observers.observe_for(NODE_LOST_AFTER).await;
    scene.agree(&["alice", "both", "carol", "late"]).await;
    scene.observers.assert_stable(&["alice", "both"]);
    drop((alice, late));
}

#[tokio::test]
async fn cut_off_for_long_by_closed_connections() {
    cut_off_for_long(ProxyMode::Disconnect, ProxyMode::Disconnect).await;
}

#[tokio::test]
async fn cut_off_for_long_by_refused_connections() {
    cut_off_for_long(ProxyMode::Refuse, ProxyMode::Refuse).await;
}

#[tokio::test]
async fn cut_off_for_long_by_silence_and_all_comes_late() {
    cut_off_for_long(ProxyMode::Stall, ProxyMode::Forward).await;
}

#[tokio::test]
async fn cut_off_for_long_by_silence_and_all_is_lost() {
    cut_off_for_long(ProxyMode::Stall, ProxyMode::Disconnect).await;
}

#[tokio::test]
async fn cut_off_for_less_than_a_lease_nobody_is_seen_leaving() {
    let mut scene = Scene::set(&["--ttl", "8s"]).await;
    let alice = scene.a.connect_to("alice", "lobby").await;
    let _carol = scene.c.connect_to("carol", "lobby").await;
    let mut there = vec!["alice", "carol"];
    let mut clients = Vec::new();
    for (mode, user) in [(ProxyMode::Disconnect, "cut"), (ProxyMode::Stall, "hold"), (ProxyMode::Refuse, "refuse")] {
        scene.agree(&there).await;
        scene.proxy.set(mode);
        clients.push(scene.a.connect_to(user, "lobby").await);
        let other = format!("{user} far");
        clients.push(scene.c.connect_to(&other, "lobby").await);
        scene.observers.observe_for(Duration::from_millis(1500)).await;
        scene.proxy.set(ProxyMode::Forward);
        there.extend([user, other.leak()]);
        there.sort_unstable();
    }
    scene.agree(&there).await;
    alice.send(&json!({"type": "state", "room": "lobby", "state": {"k": 1}}));
    scene.observers.wait_for_state("alice", &json!({"k": 1})).await;
    scene.observers.assert_stable(&["carol"]);
}

#[tokio::test]
async fn a_user_who_moves_while_its_node_is_cut_off_is_where_it_moved_to() {
    let mut scene = Scene::set(&["--ttl", "6s"]).await;
    let away = scene.c.connect_to("mover", "lobby").await;
    scene.agree(&["mover"]).await;
    scene.proxy.set(ProxyMode::Stall);
    let here = scene.a.connect_to("mover", "lobby").await;
    // On c nobody can know that the user has another device. On a nobody may ever see anything.
    scene.observers.allow_leaves(&["mover"]);
    away.close(1000);
    scene.observers.observe_for(Duration::from_secs(8)).await;
    scene.proxy.set(ProxyMode::Forward);
    // What c held back comes late now: that it has the user, that it has not.
    scene.c.wait_until_degraded(false).await;
    scene.agree(&["mover"]).await;
    scene.observers.forbid_leaves();
    scene.observers.observe_for(Duration::from_secs(2)).await;
    scene.agree(&["mover"]).await;
    let seen_on_a = scene.observers.changes_of("mover").remove(0);
    assert_eq!(seen_on_a, [MembershipChange::Joined("mover".to_owned())]);
    scene.redis.until(&["GET", "presence:{0}:u:mover"], |reply| format!("{reply:?}").contains("lobby")).await;
    drop(here);
}

#[tokio::test]
async fn a_slow_way_to_redis_is_only_slow() {
    let mut scene = Scene::set(&SHORT_TTL_FLAG).await;
    scene.proxy.set(ProxyMode::Delay(Duration::from_millis(100)));
    let alice = scene.a.connect_to("alice", "lobby").await;
    let carol = scene.c.connect_to("carol", "lobby").await;
    scene.agree(&["alice", "carol"]).await;
    scene.observers.observe_for(NODE_LOST_AFTER).await;
    // A round trip of 200 ms is none too long.
    scene.c.wait_until_degraded(false).await;
    scene.observers.allow_leaves(&["alice"]);
    alice.close(1000);
    scene.agree(&["carol"]).await;
    scene.observers.assert_stable(&["carol"]);
    // Slower than any flush may be: as if it were away, and no harm done.
    scene.observers.allow_leaves(&["carol"]);
    scene.proxy.set(ProxyMode::Delay(Duration::from_millis(1500)));
    scene.c.wait_until_degraded(true).await;
    scene.observers.observe_for(SHORT_TTL).await;
    scene.proxy.set(ProxyMode::Forward);
    scene.c.wait_until_degraded(false).await;
    scene.agree(&["carol"]).await;
    let seen_on_c = scene.observers.changes_of("carol").remove(1);
    assert_eq!(seen_on_c, [MembershipChange::Joined("carol".to_owned())], "c saw its own user all the time");
    drop(carol);
}

/// Waits until the proxy has lost a message, and lets everything pass again.
async fn lost_one(proxy: &Proxy, before: usize) {
    let deadline = Instant::now() + DEADLINE;
    while proxy.dropped_events() == before {
        assert!(Instant::now() < deadline, "an event was to be lost");
        sleep(POLL).await;
    }
    proxy.drop_events(false);
}

#[tokio::test]
async fn a_lost_event_is_made_up_for() {
    let mut scene = Scene::set(&["--ttl", "60s"]).await;
    let within = Duration::from_secs(2);
    let lose = |scene: &Scene| {
        scene.proxy.drop_events(true);
        scene.proxy.dropped_events()
    };
    let before = lose(&scene);
    let alice = scene.a.connect_to("alice", "lobby").await;
    lost_one(&scene.proxy, before).await;
    scene.observers.wait_for_members_within(within, &[&scene.a, &scene.c], &["alice"]).await;
    let before = lose(&scene);
    alice.send(&json!({"type": "state", "room": "lobby", "state": {"k": 1}}));
    lost_one(&scene.proxy, before).await;
    scene.observers.wait_for_state("alice", &json!({"k": 1})).await;
    let before = lose(&scene);
    scene.observers.allow_leaves(&["alice"]);
    alice.send(&json!({"type": "leave", "room": "lobby"}));
    lost_one(&scene.proxy, before).await;
    scene.observers.wait_for_members_within(within, &[&scene.a, &scene.c], &[]).await;
}

/// No event reaches c for several leases, while all else does.
#[tokio::test]
async fn a_deaf_node_sees_nobody_leave() {
    let mut scene = Scene::set(&SHORT_TTL_FLAG).await;
    let alice = scene.a.connect_to("alice", "lobby").await;
    let _carol = scene.c.connect_to("carol", "lobby").await;
    scene.agree(&["alice", "carol"]).await;
    scene.proxy.drop_events(true);
    scene.observers.observe_for(SHORT_TTL * 2).await;
    let _bob = scene.a.connect_to("bob", "lobby").await;
    scene.observers.allow_leaves(&["alice"]);
    alice.close(1000);
    scene.observers.observe_for(SHORT_TTL).await;
    assert!(scene.proxy.dropped_events() > 0);
    scene.proxy.drop_events(false);
    scene.agree(&["bob", "carol"]).await;
    scene.observers.assert_stable(&["carol"]);
}

/// A subscription can be dead while nothing says so: a firewall has forgotten it. Only what it does not bring shows it.
#[tokio::test]
async fn a_subscription_that_went_silent_is_made_anew() {
    let mut scene = Scene::set(&[]).await;
    let _alice = scene.a.connect_to("alice", "lobby").await;
    let _carol = scene.c.connect_to("carol", "lobby").await;
    scene.agree(&["alice", "carol"]).await;
    scene.proxy.silence_subscriptions();
    let _bob = scene.a.connect_to("bob", "lobby").await;
    scene.agree(&["alice", "bob", "carol"]).await;
    assert!(scene.proxy.dropped_events() > 0);
}
