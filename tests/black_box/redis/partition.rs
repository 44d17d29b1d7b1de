//! One node loses Redis, in each way in which networks lose things, while all others keep it.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::common::redis::POLL;
use crate::common::{DEADLINE, Edge, LONGER, Mode, Node, Proxy, Redis, SHORT, TTL, Witnesses};

/// Node `a` has its own way to Redis, `c` goes through a proxy.
struct Scene {
    proxy: Proxy,
    a: Node,
    c: Node,
    witnesses: Witnesses,
    redis: Redis,
}

impl Scene {
    async fn set(flags: &[&str]) -> Self {
        let redis = Redis::start().await;
        let proxy = Proxy::to(redis.address()).await;
        let (url, proxied) = (redis.url(), proxy.url());
        let (a, c) = tokio::join!(Node::start("a", &url, flags), Node::start("c", &proxied, flags));
        let witnesses = Witnesses::on(&[&a, &c], "lobby").await;
        Self { proxy, a, c, witnesses, redis }
    }

    async fn agree(&mut self, users: &[&str]) {
        self.witnesses.agree(&[&self.a, &self.c], users).await;
    }
}

/// Cut off for longer than its lease, a node counts as dead for the others, and knows that it knows nothing.
async fn cut_off_for_long(away: Mode, before_return: Mode) {
    let mut scene = Scene::set(&SHORT).await;
    let alice = scene.a.enter("alice", "lobby").await;
    let carol = scene.c.enter("carol", "lobby").await;
    let _both = (scene.a.enter("both", "lobby").await, scene.c.enter("both", "lobby").await);
    scene.agree(&["alice", "both", "carol"]).await;
    scene.witnesses.may_leave(&["carol"]);
    scene.proxy.set(away);
    let a = &scene.a;
    a.until("c counts as lost", async || !a.members("lobby").await.contains_key("carol")).await;
    scene.c.until_degraded(true).await;
    scene.a.until_degraded(false).await;
    let late = scene.c.enter("late", "lobby").await;
    carol.send(&json!({"type": "state", "room": "lobby", "state": {"cut": "off"}}));
    scene.witnesses.look_on(TTL).await;
    let frozen: Vec<_> = scene.c.members("lobby").await.into_keys().collect();
    assert_eq!(frozen, ["alice", "both", "carol", "late"], "nobody leaves because c went deaf");
    scene.proxy.set(before_return);
    scene.proxy.set(Mode::Pass);
    scene.agree(&["alice", "both", "carol", "late"]).await;
    scene.c.until_degraded(false).await;
    scene.witnesses.see_state("carol", &json!({"cut": "off"})).await;
    scene.witnesses.all_stay();
    scene.witnesses.look_on(LONGER).await;
    scene.agree(&["alice", "both", "carol", "late"]).await;
    scene.witnesses.assert_still(&["alice", "both"]);
    drop((alice, late));
}

#[tokio::test]
async fn cut_off_for_long_by_closed_connections() {
    cut_off_for_long(Mode::Cut, Mode::Cut).await;
}

#[tokio::test]
async fn cut_off_for_long_by_refused_connections() {
    cut_off_for_long(Mode::Refuse, Mode::Refuse).await;
}

#[tokio::test]
async fn cut_off_for_long_by_silence_and_all_comes_late() {
    cut_off_for_long(Mode::Hold, Mode::Pass).await;
}

#[tokio::test]
async fn cut_off_for_long_by_silence_and_all_is_lost() {
    cut_off_for_long(Mode::Hold, Mode::Cut).await;
}

#[tokio::test]
async fn cut_off_for_less_than_a_lease_nobody_is_seen_leaving() {
    let mut scene = Scene::set(&["--ttl", "8s"]).await;
    let alice = scene.a.enter("alice", "lobby").await;
    let _carol = scene.c.enter("carol", "lobby").await;
    let mut there = vec!["alice", "carol"];
    let mut clients = Vec::new();
    for (mode, user) in [(Mode::Cut, "cut"), (Mode::Hold, "hold"), (Mode::Refuse, "refuse")] {
        scene.agree(&there).await;
        scene.proxy.set(mode);
        clients.push(scene.a.enter(user, "lobby").await);
        let other = format!("{user} far");
        clients.push(scene.c.enter(&other, "lobby").await);
        scene.witnesses.look_on(Duration::from_millis(1500)).await;
        scene.proxy.set(Mode::Pass);
        there.extend([user, other.leak()]);
        there.sort_unstable();
    }
    scene.agree(&there).await;
    alice.send(&json!({"type": "state", "room": "lobby", "state": {"k": 1}}));
    scene.witnesses.see_state("alice", &json!({"k": 1})).await;
    scene.witnesses.assert_still(&["carol"]);
}

#[tokio::test]
async fn a_user_who_moves_while_its_node_is_cut_off_is_where_it_moved_to() {
    let mut scene = Scene::set(&["--ttl", "6s"]).await;
    let away = scene.c.enter("mover", "lobby").await;
    scene.agree(&["mover"]).await;
    scene.proxy.set(Mode::Hold);
    let here = scene.a.enter("mover", "lobby").await;
    // On c nobody can know that the user has another device. On a nobody may ever see anything.
    scene.witnesses.may_leave(&["mover"]);
    away.close(1000);
    scene.witnesses.look_on(Duration::from_secs(8)).await;
    scene.proxy.set(Mode::Pass);
    // What c held back comes late now: that it has the user, that it has not.
    scene.c.until_degraded(false).await;
    scene.agree(&["mover"]).await;
    scene.witnesses.all_stay();
    scene.witnesses.look_on(Duration::from_secs(2)).await;
    scene.agree(&["mover"]).await;
    let seen_on_a = scene.witnesses.edges_of("mover").remove(0);
    assert_eq!(seen_on_a, [Edge::Joined("mover".to_owned())]);
    scene.redis.until(&["GET", "presence:{0}:u:mover"], |reply| format!("{reply:?}").contains("lobby")).await;
    drop(here);
}

#[tokio::test]
async fn a_slow_way_to_redis_is_only_slow() {
    let mut scene = Scene::set(&SHORT).await;
    scene.proxy.set(Mode::Delay(Duration::from_millis(100)));
    let alice = scene.a.enter("alice", "lobby").await;
    let carol = scene.c.enter("carol", "lobby").await;
    scene.agree(&["alice", "carol"]).await;
    scene.witnesses.look_on(LONGER).await;
    // A round trip of 200 ms is none too long.
    scene.c.until_degraded(false).await;
    scene.witnesses.may_leave(&["alice"]);
    alice.close(1000);
    scene.agree(&["carol"]).await;
    scene.witnesses.assert_still(&["carol"]);
    // Slower than any flush may be: as if it were away, and no harm done.
    scene.witnesses.may_leave(&["carol"]);
    scene.proxy.set(Mode::Delay(Duration::from_millis(1500)));
    scene.c.until_degraded(true).await;
    scene.witnesses.look_on(TTL).await;
    scene.proxy.set(Mode::Pass);
    scene.c.until_degraded(false).await;
    scene.agree(&["carol"]).await;
    let seen_on_c = scene.witnesses.edges_of("carol").remove(1);
    assert_eq!(seen_on_c, [Edge::Joined("carol".to_owned())], "c saw its own user all the time");
    drop(carol);
}

/// Waits until the proxy has lost a message, and lets everything pass again.
async fn lost_one(proxy: &Proxy, before: usize) {
    let deadline = Instant::now() + DEADLINE;
    while proxy.lost() == before {
        assert!(Instant::now() < deadline, "an event was to be lost");
        sleep(POLL).await;
    }
    proxy.lose_events(false);
}

#[tokio::test]
async fn a_lost_event_is_made_up_for() {
    let mut scene = Scene::set(&["--ttl", "60s"]).await;
    let within = Duration::from_secs(2);
    let lose = |scene: &Scene| {
        scene.proxy.lose_events(true);
        scene.proxy.lost()
    };
    let before = lose(&scene);
    let alice = scene.a.enter("alice", "lobby").await;
    lost_one(&scene.proxy, before).await;
    scene.witnesses.agree_within(within, &[&scene.a, &scene.c], &["alice"]).await;
    let before = lose(&scene);
    alice.send(&json!({"type": "state", "room": "lobby", "state": {"k": 1}}));
    lost_one(&scene.proxy, before).await;
    scene.witnesses.see_state("alice", &json!({"k": 1})).await;
    let before = lose(&scene);
    scene.witnesses.may_leave(&["alice"]);
    alice.send(&json!({"type": "leave", "room": "lobby"}));
    lost_one(&scene.proxy, before).await;
    scene.witnesses.agree_within(within, &[&scene.a, &scene.c], &[]).await;
}

/// No event reaches c for several leases, while all else does.
#[tokio::test]
async fn a_deaf_node_sees_nobody_leave() {
    let mut scene = Scene::set(&SHORT).await;
    let alice = scene.a.enter("alice", "lobby").await;
    let _carol = scene.c.enter("carol", "lobby").await;
    scene.agree(&["alice", "carol"]).await;
    scene.proxy.lose_events(true);
    scene.witnesses.look_on(TTL * 2).await;
    let _bob = scene.a.enter("bob", "lobby").await;
    scene.witnesses.may_leave(&["alice"]);
    alice.close(1000);
    scene.witnesses.look_on(TTL).await;
    assert!(scene.proxy.lost() > 0);
    scene.proxy.lose_events(false);
    scene.agree(&["bob", "carol"]).await;
    scene.witnesses.assert_still(&["carol"]);
}

/// A subscription can be dead while nothing says so: a firewall has forgotten it. Only what it does not bring shows it.
#[tokio::test]
async fn a_subscription_that_went_silent_is_made_anew() {
    let mut scene = Scene::set(&[]).await;
    let _alice = scene.a.enter("alice", "lobby").await;
    let _carol = scene.c.enter("carol", "lobby").await;
    scene.agree(&["alice", "carol"]).await;
    scene.proxy.deafen();
    let _bob = scene.a.enter("bob", "lobby").await;
    scene.agree(&["alice", "bob", "carol"]).await;
    assert!(scene.proxy.lost() > 0);
}
