//! Redis is unreachable, hangs, loses its data or refuses writes. Clients notice only that their node is degraded.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::common::redis::POLL;
use crate::common::resp::Reply;
use crate::common::{
    DEADLINE, FrontDoor, Mirror, NODE_LOST_AFTER, Node, Redis, RoomObservers, SHORT_TTL, SHORT_TTL_FLAG, TickDeadline,
};

/// After an outage all nodes must agree within this time.
const AGREEMENT_LIMIT: Duration = Duration::from_secs(2);

/// Two nodes with observers, one user on each node, and one user on both.
pub(super) struct Cluster {
    pub(super) redis: Redis,
    pub(super) door: FrontDoor,
    pub(super) nodes: [Node; 2],
    pub(super) observers: RoomObservers,
    mirrors: Vec<Mirror>,
    /// Carol and dave, if they have to connect before the application dies.
    waiting: Vec<Mirror>,
}

impl Cluster {
    async fn start() -> Self {
        Self::behind(FrontDoor::open()).await
    }

    pub(super) async fn behind(door: FrontDoor) -> Self {
        let redis = Redis::start().await;
        let (url, flags) = (redis.url(), door.flags(&SHORT_TTL_FLAG));
        let (a, b) = tokio::join!(Node::start("a", &url, &flags), Node::start("b", &url, &flags));
        let (a, b) = (door.before(a), door.before(b));
        let mut mirrors = Vec::new();
        for (node, user) in [(&a, "alice"), (&b, "bob"), (&a, "both"), (&b, "both")] {
            mirrors.push(node.connect_to(user, "lobby").await);
        }
        let mut waiting = Vec::new();
        if !door.admits_without_upstream() {
            waiting.extend([a.connect("carol").await, b.connect("dave").await]);
        }
        let observers = RoomObservers::on(&[&a, &b], "lobby").await;
        let mut cluster = Self { redis, door, nodes: [a, b], observers, mirrors, waiting };
        cluster.agree(&["alice", "bob", "both"]).await;
        cluster
    }

    pub(super) async fn agree(&mut self, users: &[&str]) {
        self.observers.wait_for_members_within(AGREEMENT_LIMIT, &self.nodes.each_ref(), users).await;
    }

    /// Checks that both nodes are degraded and that users join and leave on each node, while no other user leaves.
    /// Returns the members that are expected after the outage.
    pub(super) async fn join_and_leave_during_outage(&mut self) -> [&'static str; 4] {
        let [a, b] = &self.nodes;
        a.wait_until_degraded(true).await;
        b.wait_until_degraded(true).await;
        self.observers.allow_leaves(&["alice"]);
        self.mirrors[0].close(1000);
        a.wait_until("the local leave", async || !a.members("lobby").await.contains_key("alice")).await;
        let mut waiting = std::mem::take(&mut self.waiting).into_iter();
        for (node, user) in [(a, "carol"), (b, "dave")] {
            let mut mirror = match waiting.next() {
                Some(mirror) => mirror,
                None => node.connect(user).await,
            };
            mirror.send(&json!({"type": "join", "room": "lobby"}));
            mirror.wait_until("the snapshot with the user", |mirror| mirror.has("lobby", user)).await;
            self.mirrors.push(mirror);
        }
        self.mirrors[1].send(&json!({"type": "state", "room": "lobby", "state": {"during": "outage"}}));
        self.observers.observe_for(NODE_LOST_AFTER).await;
        for mirror in &mut self.mirrors[1..] {
            mirror.heartbeat().await;
            if let Some(renewal) = self.door.renewal(&mirror.user) {
                let mark = mirror.mark();
                mirror.send(&renewal);
                let is_renewed = |mirror: &Mirror| !mirror.since(mark, "authenticated", "").is_empty();
                mirror.wait_until("the renewal", is_renewed).await;
            }
        }
        ["bob", "both", "carol", "dave"]
    }

    /// Checks that all nodes agree after the outage and that joins and leaves work as before.
    pub(super) async fn check_recovery(&mut self, users: &[&str]) {
        self.agree(users).await;
        for node in &self.nodes {
            node.wait_until_degraded(false).await;
        }
        if !self.door.admits_without_upstream() {
            self.door.revive().await;
        }
        self.mirrors.push(self.nodes[1].connect_to("later", "lobby").await);
        let mut all: Vec<_> = users.iter().copied().chain(["later"]).collect();
        all.sort_unstable();
        self.agree(&all).await;
        self.observers.observe_for(NODE_LOST_AFTER).await;
        self.agree(&all).await;
        self.wait_for_user_keys(&all).await;
        for mirror in &mut self.mirrors {
            mirror.apply_pending();
        }
        let ended: Vec<_> = self.mirrors.iter().filter(|mirror| mirror.ended).map(|mirror| &mirror.user).collect();
        assert!(ended.iter().all(|user| *user == "alice"), "clients were disconnected: {ended:?}");
    }

    /// Waits until Redis has these keys again, which takes half a lease at most.
    pub(super) async fn wait_for_rewritten_keys(&self, wanted: &[String]) {
        let mut tick_deadline = TickDeadline::after(&self.nodes.each_ref(), SHORT_TTL / 2).await;
        loop {
            let (over, keys) = (tick_deadline.has_passed().await, self.redis.keys().await);
            if keys == wanted {
                return;
            }
            assert!(!over, "expected the keys {wanted:?}, but Redis has {keys:?}");
            sleep(POLL).await;
        }
    }

    /// Waits until exactly these users have a key.
    async fn wait_for_user_keys(&self, users: &[&str]) {
        let wanted: Vec<_> = users.iter().map(|user| format!("presence:{{0}}:u:{user}")).collect();
        let deadline = Instant::now() + DEADLINE;
        loop {
            let keys = self.redis.keys().await;
            let known: Vec<_> = keys.iter().filter(|key| key.contains(":u:")).collect();
            if known.into_iter().eq(&wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "expected the keys {wanted:?}, but Redis has {keys:?}");
            sleep(POLL).await;
        }
    }
}

#[tokio::test]
async fn no_user_leaves_while_redis_is_killed_for_longer_than_a_lease() {
    let mut cluster = Cluster::start().await;
    cluster.redis.kill();
    let users = cluster.join_and_leave_during_outage().await;
    assert!(cluster.nodes[1].members("lobby").await.contains_key("alice"), "b reported a leave that it cannot know");
    cluster.redis.restart().await;
    cluster.check_recovery(&users).await;
    assert_eq!(cluster.observers.changes_of("bob"), vec![vec![]; 2]);
}

#[tokio::test]
async fn no_user_leaves_while_redis_hangs() {
    let mut cluster = Cluster::start().await;
    cluster.redis.hang();
    let users = cluster.join_and_leave_during_outage().await;
    assert!(cluster.nodes[1].members("lobby").await.contains_key("alice"), "b reported a leave that it cannot know");
    cluster.redis.resume();
    cluster.check_recovery(&users).await;
    assert_eq!(cluster.observers.changes_of("bob"), vec![vec![]; 2]);
}

#[tokio::test]
async fn no_user_leaves_when_redis_restarts_empty() {
    let mut cluster = Cluster::start().await;
    let before = cluster.redis.keys().await;
    for _ in 0..2 {
        cluster.redis.restart().await;
        cluster.wait_for_rewritten_keys(&before).await;
    }
    cluster.observers.observe_for(NODE_LOST_AFTER).await;
    cluster.observers.assert_stable(&["alice", "bob", "both"]);
    cluster.check_recovery(&["alice", "bob", "both"]).await;
}

#[tokio::test]
async fn no_user_leaves_after_flushall() {
    let mut cluster = Cluster::start().await;
    let before = cluster.redis.keys().await;
    for _ in 0..3 {
        cluster.redis.command(&["FLUSHALL"]).await;
        cluster.wait_for_rewritten_keys(&before).await;
    }
    cluster.observers.observe_for(NODE_LOST_AFTER).await;
    cluster.observers.assert_stable(&["alice", "bob", "both"]);
    cluster.check_recovery(&["alice", "bob", "both"]).await;
}

/// The stopped node sends nothing, and FLUSHALL deletes its lease as if it had died. The other node must notice that
/// its own lease is missing as well.
#[tokio::test]
async fn no_user_leaves_after_flushall_while_a_node_is_stopped_briefly() {
    let redis = Redis::start().await;
    let (url, flags) = (redis.url(), ["--ttl", "8s"]);
    let (a, b) = tokio::join!(Node::start("a", &url, &flags), Node::start("b", &url, &flags));
    let (_alice, _bob) = (a.connect_to("alice", "lobby").await, b.connect_to("bob", "lobby").await);
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    observers.wait_for_members(&[&a, &b], &["alice", "bob"]).await;
    // Before a node has been connected for a whole lease, it declares no other node dead.
    observers.observe_for(Duration::from_secs(8)).await;
    b.signal("STOP");
    redis.command(&["FLUSHALL"]).await;
    observers.observe_for(Duration::from_secs(4)).await;
    b.signal("CONT");
    observers.observe_for(Duration::from_secs(4)).await;
    observers.wait_for_members(&[&a, &b], &["alice", "bob"]).await;
    observers.assert_stable(&["alice", "bob"]);
}

/// After a loss of data, Redis does not say which nodes were alive. The others must notice the dead node all the same.
#[tokio::test]
async fn a_node_that_dies_during_an_outage_is_noticed_afterwards() {
    let mut cluster = Cluster::start().await;
    let third = Node::start("c", &cluster.redis.url(), &SHORT_TTL_FLAG).await;
    let _carol = third.connect_to("carol", "lobby").await;
    let _moved = third.connect_to("moved", "lobby").await;
    cluster.agree(&["alice", "bob", "both", "carol", "moved"]).await;
    cluster.redis.kill();
    third.kill();
    cluster.mirrors.push(cluster.nodes[0].connect_to("moved", "lobby").await);
    cluster.observers.observe_for(NODE_LOST_AFTER).await;
    cluster.observers.allow_leaves(&["carol"]);
    cluster.redis.restart().await;
    cluster
        .observers
        .wait_for_members_within(
            SHORT_TTL + NODE_LOST_AFTER,
            &cluster.nodes.each_ref(),
            &["alice", "bob", "both", "moved"],
        )
        .await;
    cluster.observers.assert_left_once("carol", &["node_lost"]);
    cluster.check_recovery(&["alice", "bob", "both", "moved"]).await;
}

#[tokio::test]
async fn a_key_with_a_wrong_type_is_rewritten() {
    let mut cluster = Cluster::start().await;
    for key in cluster.redis.keys().await {
        let kind = cluster.redis.command(&["TYPE", &key]).await;
        cluster.redis.command(&["DEL", &key]).await;
        // The node may already have written the key again. Then that value is deleted as well.
        match kind.text() {
            "string" => {
                let _ = cluster.redis.try_command(&["DEL", &key]).await;
                let _ = cluster.redis.try_command(&["RPUSH", &key, "wrong"]).await;
            }
            _ => {
                cluster.redis.command(&["SET", &key, "wrong"]).await;
            }
        }
        let right = |reply: &Reply| *reply == kind;
        cluster.redis.until(&["TYPE", &key], right).await;
        cluster.observers.apply_pending();
    }
    cluster.observers.assert_stable(&["alice", "bob", "both"]);
    cluster.check_recovery(&["alice", "bob", "both"]).await;
}

#[tokio::test]
async fn invalid_data_in_keys_and_events_is_ignored_or_rewritten() {
    let mut cluster = Cluster::start().await;
    let redis = &cluster.redis;
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
    cluster.observers.observe_for(SHORT_TTL).await;
    cluster.observers.assert_stable(&["alice", "bob", "both"]);
    cluster.check_recovery(&["alice", "bob", "both"]).await;
}

#[tokio::test]
async fn no_user_leaves_while_redis_is_a_read_only_replica() {
    let mut cluster = Cluster::start().await;
    // A replica whose master does not answer keeps its data and refuses writes.
    cluster.redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let users = cluster.join_and_leave_during_outage().await;
    cluster.redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    cluster.check_recovery(&users).await;
}

#[tokio::test]
async fn no_user_leaves_while_redis_is_full() {
    let mut cluster = Cluster::start().await;
    cluster.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let users = cluster.join_and_leave_during_outage().await;
    cluster.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    cluster.check_recovery(&users).await;
}

#[tokio::test]
async fn nodes_reconnect_when_redis_closes_their_connections() {
    let mut cluster = Cluster::start().await;
    for round in 0..5 {
        for kind in ["normal", "pubsub"] {
            cluster.redis.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
        }
        let user = format!("guest {round}");
        let guest = cluster.nodes[round % 2].connect_to(&user, "lobby").await;
        cluster.agree(&["alice", "bob", "both", &user]).await;
        cluster.observers.allow_leaves(&[&user]);
        guest.close(1000);
        cluster.agree(&["alice", "bob", "both"]).await;
    }
    cluster.check_recovery(&["alice", "bob", "both"]).await;
}

#[tokio::test]
async fn joins_and_leaves_during_an_outage_do_not_accumulate() {
    const USERS: usize = 20;
    let mut cluster = Cluster::start().await;
    cluster.redis.kill();
    let node = &cluster.nodes[0];
    node.wait_until_degraded(true).await;
    let mut max_pending = 0;
    for round in 0..30 {
        let mut guests = Vec::new();
        for number in 0..USERS {
            let guest = node.connect(&format!("guest {round} {number}")).await;
            guest.send(&json!({"type": "join", "room": "hall", "observe": false}));
            guests.push(guest);
        }
        node.wait_until("all guests joined", async || node.members("hall").await.len() == USERS).await;
        max_pending = max_pending.max(node.stat("redis_pending").await);
        for guest in guests {
            guest.close(1000);
        }
        node.wait_until("all guests left", async || node.members("hall").await.is_empty()).await;
    }
    // There are a few entries per user who is online or was online when the outage began, not for all 600 guests.
    assert!(max_pending <= 4 * USERS as u64, "{max_pending} entries were pending");
    cluster.redis.restart().await;
    cluster.check_recovery(&["alice", "bob", "both"]).await;
    let node = &cluster.nodes[0];
    node.wait_until("nothing is pending", async || node.stat("redis_pending").await == 0).await;
    assert!(cluster.redis.keys().await.iter().all(|key| !key.contains("guest")));
}
