//! Redis goes away, hangs, forgets, refuses: no client notices more than that its node is degraded.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::common::redis::POLL;
use crate::common::resp::Reply;
use crate::common::{
    DEADLINE, Mirror, NODE_LOST_AFTER, Node, Redis, RoomObservers, SHORT_TTL, SHORT_TTL_FLAG, TickDeadline,
};

/// After an outage all nodes have to agree within this.
const AGREEMENT: Duration = Duration::from_secs(2);

/// Two nodes, a user on each and one on both, and observers.
struct Scene {
    redis: Redis,
    nodes: [Node; 2],
    observers: RoomObservers,
    mirrors: Vec<Mirror>,
}

impl Scene {
    async fn set() -> Self {
        Self::on(Redis::start().await).await
    }

    async fn on(redis: Redis) -> Self {
        let url = redis.url();
        let (a, b) = tokio::join!(Node::start("a", &url, &SHORT_TTL_FLAG), Node::start("b", &url, &SHORT_TTL_FLAG));
        let mut mirrors = Vec::new();
        for (node, user) in [(&a, "alice"), (&b, "bob"), (&a, "both"), (&b, "both")] {
            mirrors.push(node.connect_to(user, "lobby").await);
        }
        let observers = RoomObservers::on(&[&a, &b], "lobby").await;
        let mut scene = Self { redis, nodes: [a, b], observers, mirrors };
        scene.agree(&["alice", "bob", "both"]).await;
        scene
    }

    async fn agree(&mut self, users: &[&str]) {
        self.observers.wait_for_members_within(AGREEMENT, &self.nodes.each_ref(), users).await;
    }

    /// What happens during every outage: it is said, life goes on on each node by itself, and nobody is seen leaving
    /// who has not left. Ends with those who should be there afterwards.
    async fn live_through_outage(&mut self) -> [&'static str; 4] {
        let [a, b] = &self.nodes;
        a.wait_until_degraded(true).await;
        b.wait_until_degraded(true).await;
        self.observers.allow_leaves(&["alice"]);
        self.mirrors[0].close(1000);
        a.wait_until("a local leave", async || !a.members("lobby").await.contains_key("alice")).await;
        self.mirrors.push(a.connect_to("carol", "lobby").await);
        self.mirrors.push(b.connect_to("dave", "lobby").await);
        self.mirrors[1].send(&json!({"type": "state", "room": "lobby", "state": {"during": "outage"}}));
        self.observers.observe_for(NODE_LOST_AFTER).await;
        for mirror in &mut self.mirrors[1..] {
            mirror.heartbeat().await;
        }
        ["bob", "both", "carol", "dave"]
    }

    /// After the outage: all agree, and everybody goes on as before.
    async fn recover(&mut self, users: &[&str]) {
        self.agree(users).await;
        for node in &self.nodes {
            node.wait_until_degraded(false).await;
        }
        self.mirrors.push(self.nodes[1].connect_to("later", "lobby").await);
        let mut all: Vec<_> = users.iter().copied().chain(["later"]).collect();
        all.sort_unstable();
        self.agree(&all).await;
        self.observers.observe_for(NODE_LOST_AFTER).await;
        self.agree(&all).await;
        self.keys_are_whole(&all).await;
        for mirror in &mut self.mirrors {
            mirror.apply_pending();
        }
        let ended: Vec<_> = self.mirrors.iter().filter(|mirror| mirror.ended).map(|mirror| &mirror.user).collect();
        assert!(ended.iter().all(|user| *user == "alice"), "nobody was disconnected: {ended:?}");
    }

    /// Waits until these are the keys again, which takes half a lease at most.
    async fn until_written_anew(&self, wanted: &[String]) {
        let mut tick_deadline = TickDeadline::after(&self.nodes.each_ref(), SHORT_TTL / 2).await;
        loop {
            let (over, keys) = (tick_deadline.has_passed().await, self.redis.keys().await);
            if keys == wanted {
                return;
            }
            assert!(!over, "{wanted:?}, but there is {keys:?}");
            sleep(POLL).await;
        }
    }

    /// Every user has a key.
    async fn keys_are_whole(&self, users: &[&str]) {
        let wanted: Vec<_> = users.iter().map(|user| format!("presence:{{0}}:u:{user}")).collect();
        let deadline = Instant::now() + DEADLINE;
        loop {
            let keys = self.redis.keys().await;
            let known: Vec<_> = keys.iter().filter(|key| key.contains(":u:")).collect();
            if known.into_iter().eq(&wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "{wanted:?}, but there is {keys:?}");
            sleep(POLL).await;
        }
    }
}

#[tokio::test]
async fn redis_away_for_longer_than_all_leases() {
    let mut scene = Scene::set().await;
    scene.redis.kill();
    let users = scene.live_through_outage().await;
    assert!(scene.nodes[1].members("lobby").await.contains_key("alice"), "b cannot know, and says nothing");
    scene.redis.restart().await;
    scene.recover(&users).await;
    assert_eq!(scene.observers.changes_of("bob"), vec![vec![]; 2]);
}

#[tokio::test]
async fn redis_that_hangs() {
    let mut scene = Scene::set().await;
    scene.redis.hang();
    let users = scene.live_through_outage().await;
    assert!(scene.nodes[1].members("lobby").await.contains_key("alice"), "b cannot know, and says nothing");
    scene.redis.resume();
    scene.recover(&users).await;
    assert_eq!(scene.observers.changes_of("bob"), vec![vec![]; 2]);
}

#[tokio::test]
async fn redis_that_restarts_empty() {
    let mut scene = Scene::set().await;
    let before = scene.redis.keys().await;
    for _ in 0..2 {
        scene.redis.restart().await;
        scene.until_written_anew(&before).await;
    }
    scene.observers.observe_for(NODE_LOST_AFTER).await;
    scene.observers.assert_stable(&["alice", "bob", "both"]);
    scene.recover(&["alice", "bob", "both"]).await;
}

#[tokio::test]
async fn flushall_loses_nobody() {
    let mut scene = Scene::set().await;
    let before = scene.redis.keys().await;
    for _ in 0..3 {
        scene.redis.command(&["FLUSHALL"]).await;
        scene.until_written_anew(&before).await;
    }
    scene.observers.observe_for(NODE_LOST_AFTER).await;
    scene.observers.assert_stable(&["alice", "bob", "both"]);
    scene.recover(&["alice", "bob", "both"]).await;
}

/// Its lease is gone with everybody's, and nothing is heard of it: only that one's own lease is gone as well tells that from
/// its death.
#[tokio::test]
async fn flushall_while_a_node_sleeps_for_less_than_its_lease() {
    let redis = Redis::start().await;
    let (url, flags) = (redis.url(), ["--ttl", "8s"]);
    let (a, b) = tokio::join!(Node::start("a", &url, &flags), Node::start("b", &url, &flags));
    let (_alice, _bob) = (a.connect_to("alice", "lobby").await, b.connect_to("bob", "lobby").await);
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    observers.wait_for_members(&[&a, &b], &["alice", "bob"]).await;
    // Until a has been in touch for a whole lease, it declares nobody dead anyway.
    observers.observe_for(Duration::from_secs(8)).await;
    b.signal("STOP");
    redis.command(&["FLUSHALL"]).await;
    observers.observe_for(Duration::from_secs(4)).await;
    b.signal("CONT");
    observers.observe_for(Duration::from_secs(4)).await;
    observers.wait_for_members(&[&a, &b], &["alice", "bob"]).await;
    observers.assert_stable(&["alice", "bob"]);
}

/// With the data gone nobody can tell who is dead: a node that dies then is found out all the same.
#[tokio::test]
async fn a_node_dies_while_redis_is_away() {
    let mut scene = Scene::set().await;
    let third = Node::start("c", &scene.redis.url(), &SHORT_TTL_FLAG).await;
    let _carol = third.connect_to("carol", "lobby").await;
    let _moved = third.connect_to("moved", "lobby").await;
    scene.agree(&["alice", "bob", "both", "carol", "moved"]).await;
    scene.redis.kill();
    third.kill();
    scene.mirrors.push(scene.nodes[0].connect_to("moved", "lobby").await);
    scene.observers.observe_for(NODE_LOST_AFTER).await;
    scene.observers.allow_leaves(&["carol"]);
    scene.redis.restart().await;
    scene
        .observers
        .wait_for_members_within(
            SHORT_TTL + NODE_LOST_AFTER,
            &scene.nodes.each_ref(),
            &["alice", "bob", "both", "moved"],
        )
        .await;
    scene.observers.assert_left_once("carol", &["node_lost"]);
    scene.recover(&["alice", "bob", "both", "moved"]).await;
}

#[tokio::test]
async fn a_wrong_type_under_any_key_is_mended() {
    let mut scene = Scene::set().await;
    for key in scene.redis.keys().await {
        let kind = scene.redis.command(&["TYPE", &key]).await;
        scene.redis.command(&["DEL", &key]).await;
        // Its own node may have been quicker to write it anew: then that is overwritten.
        match kind.text() {
            "string" => {
                let _ = scene.redis.try_command(&["DEL", &key]).await;
                let _ = scene.redis.try_command(&["RPUSH", &key, "wrong"]).await;
            }
            _ => {
                scene.redis.command(&["SET", &key, "wrong"]).await;
            }
        }
        let right = |reply: &Reply| *reply == kind;
        scene.redis.until(&["TYPE", &key], right).await;
        scene.observers.apply_pending();
    }
    scene.observers.assert_stable(&["alice", "bob", "both"]);
    scene.recover(&["alice", "bob", "both"]).await;
}

#[tokio::test]
async fn rubbish_in_our_keys_and_channels_is_survived() {
    let mut scene = Scene::set().await;
    let redis = &scene.redis;
    for key in redis.keys().await {
        match redis.command(&["TYPE", &key]).await.text() {
            "string" => redis.command(&["SET", &key, "{\"node\":", "KEEPTTL"]).await,
            "hash" => {
                redis.command(&["HSET", &key, "no colon", "x", "lobby:ghost", "{", "%:%", "1", "@", "\u{0}"]).await
            }
            _ => redis.command(&["SADD", &key, "", "no-dot", "x.zz", "../..", "a.b.c"]).await,
        };
    }
    let messages = [
        "",
        "{}",
        "\n\t\n",
        "ghost.1\t1\njoined\tlobby:ghost\t1",
        "ghost.1\t-1",
        "ghost.1\t99999999999999999999",
        "a.1\t1\nleft\tlobby:bob\ttimeout\nleft",
        "\u{0}",
    ];
    for message in messages {
        redis.command(&["PUBLISH", "presence:{0}:events", message]).await;
    }
    scene.observers.observe_for(SHORT_TTL).await;
    scene.observers.assert_stable(&["alice", "bob", "both"]);
    scene.recover(&["alice", "bob", "both"]).await;
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_refuses_writes() {
    let mut scene = Scene::set().await;
    // A replica of nobody who answers keeps what it has, and takes nothing.
    scene.redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let users = scene.live_through_outage().await;
    scene.redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    scene.recover(&users).await;
}

#[tokio::test]
async fn a_full_redis_refuses_writes() {
    let mut scene = Scene::set().await;
    scene.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let users = scene.live_through_outage().await;
    scene.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    scene.recover(&users).await;
}

#[tokio::test]
async fn connections_that_redis_closes_are_made_anew() {
    let mut scene = Scene::set().await;
    for round in 0..5 {
        for kind in ["normal", "pubsub"] {
            scene.redis.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
        }
        let user = format!("guest {round}");
        let guest = scene.nodes[round % 2].connect_to(&user, "lobby").await;
        scene.agree(&["alice", "bob", "both", &user]).await;
        scene.observers.allow_leaves(&[&user]);
        guest.close(1000);
        scene.agree(&["alice", "bob", "both"]).await;
    }
    scene.recover(&["alice", "bob", "both"]).await;
}

#[tokio::test]
async fn churn_during_an_outage_is_not_piled_up() {
    const USERS: usize = 20;
    let mut scene = Scene::set().await;
    scene.redis.kill();
    let node = &scene.nodes[0];
    node.wait_until_degraded(true).await;
    let mut most = 0;
    for round in 0..30 {
        let mut guests = Vec::new();
        for number in 0..USERS {
            let guest = node.connect(&format!("guest {round} {number}")).await;
            guest.send(&json!({"type": "join", "room": "hall", "observe": false}));
            guests.push(guest);
        }
        node.wait_until("they are in", async || node.members("hall").await.len() == USERS).await;
        most = most.max(node.stat("redis_pending").await);
        for guest in guests {
            guest.close(1000);
        }
        node.wait_until("they are out", async || node.members("hall").await.is_empty()).await;
    }
    // A few entries for each user that is there, or was when Redis was last heard of; not for each of the six hundred.
    assert!(most <= 4 * USERS as u64, "{most} were pending");
    scene.redis.restart().await;
    scene.recover(&["alice", "bob", "both"]).await;
    let node = &scene.nodes[0];
    node.wait_until("nothing is pending", async || node.stat("redis_pending").await == 0).await;
    assert!(scene.redis.keys().await.iter().all(|key| !key.contains("guest")));
}
