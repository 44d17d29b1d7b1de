//! A node that has lost Redis says so, once and everywhere, and says when it is over; and what it logs while all is well.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::common::node::is_timeout_error;
use crate::common::redis::POLL;
use crate::common::{DEADLINE, Mirror, Node, Redis};

const LOG_EVERY: Duration = Duration::from_secs(30);

async fn answers(node: &Node) -> Vec<(&'static str, Value)> {
    let mut answers = Vec::new();
    for path in ["/v1/rooms/lobby/members", "/v1/rooms/lobby/count", "/v1/rooms", "/v1/stats"] {
        answers.push((path, node.get(path).await.json()));
    }
    let status = node.post_json("/v1/users/status", &json!({"users": ["alice"]})).await;
    answers.push(("/v1/users/status", status.json()));
    answers
}

/// What was logged about Redis at a level.
fn of_redis(node: &Node, level: &str) -> Vec<String> {
    node.log().into_iter().filter(|line| line.contains(level) && line.to_lowercase().contains("redis")).collect()
}

/// How many outages were logged, when as many have been told to be over. That Redis was slow a busy machine may add, and is an
/// outage like any other.
async fn outages_told(node: &Node) -> usize {
    let over = || node.log().iter().filter(|line| line.contains("Redis works again")).count();
    node.wait_until("each is told to be over", async || over() == of_redis(node, "WARN").len()).await;
    of_redis(node, "WARN").iter().filter(|line| !is_timeout_error(line)).count()
}

#[tokio::test]
async fn an_outage_is_told_when_it_begins_and_when_it_ends() {
    let mut redis = Redis::start().await;
    let node = Node::start("a", &redis.url(), &[]).await;
    let mut list = node.online_users("list").await;
    let mut status = node.online_status("7").await;
    let mut alice = node.connect_to("alice", "lobby").await;
    assert_eq!((alice.degraded, node.degraded().await), (None, None));
    for (path, answer) in answers(&node).await {
        assert!(answer.get("degraded_since").is_none(), "{path}: {answer}");
    }
    for round in 1..=2 {
        redis.kill();
        alice.wait_until("health", |alice| alice.degraded.is_some()).await;
        let since = alice.degraded;
        assert_eq!(node.degraded().await, since, "one time for one outage");
        for (path, answer) in answers(&node).await {
            assert_eq!(answer["degraded_since"].as_u64(), since, "{path}: {answer}");
        }
        let mut late = Mirror::connect(node.address, "late", &["lobby"]).await;
        late.wait_until("health after the welcome", |late| late.degraded.is_some()).await;
        assert_eq!(late.degraded, since);
        assert_eq!(late.log[1]["type"], "health", "right after the welcome: {}", late.describe());
        redis.restart().await;
        for mirror in [&mut alice, &mut late] {
            mirror.wait_until("health again", |mirror| mirror.degraded.is_none()).await;
        }
        node.wait_until_degraded(false).await;
        for (path, answer) in answers(&node).await {
            assert!(answer.get("degraded_since").is_none(), "{path}: {answer}");
        }
        assert_eq!(outages_told(&node).await, round, "once for each outage: {:#?}", node.log());
        assert_eq!(of_redis(&node, "ERROR").len(), 0, "{:#?}", node.log());
    }
    // Clients of other protocols know nothing of it.
    list.heartbeat().await;
    assert_eq!(list.errors, 0);
    status.wait_until("alice", |status| status.online.contains("\"alice\"")).await;
    assert!(status.log.iter().all(|message| message["type"] != "health"));
}

#[tokio::test]
async fn a_restart_that_is_over_at_once_is_one_outage() {
    let mut redis = Redis::start().await;
    // Its lease is looked after each second only: a connection that nobody uses is lost without being missed.
    let node = Node::start("a", &redis.url(), &["--ttl", "60s"]).await;
    for round in 1..=3 {
        redis.kill();
        redis.restart().await;
        node.wait_until("it is told", async || outages_told(&node).await >= round).await;
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(outages_told(&node).await, round, "{:#?}", node.log());
    }
}

#[tokio::test]
async fn a_node_without_redis_is_never_degraded() {
    let node = Node::with_flags("alone", &[]).await;
    let alice = node.connect_to("alice", "lobby").await;
    assert_eq!((alice.degraded, node.degraded().await), (None, None));
    for (path, answer) in answers(&node).await {
        assert!(answer.get("degraded_since").is_none(), "{path}: {answer}");
    }
    assert_eq!(node.get("/v1/stats").await.json()["node"], "alone");
}

#[tokio::test]
async fn the_welcome_names_the_node() {
    let redis = Redis::start().await;
    let a = Node::start("one", &redis.url(), &[]).await;
    assert_eq!(a.connect("alice").await.welcome["node"], "one");
}

#[tokio::test]
async fn each_half_minute_the_log_says_how_many_are_online() {
    let node = Node::with_flags("alone", &[]).await;
    let _tabs = (node.connect_to("alice", "lobby").await, node.connect_to("alice", "lobby").await);
    let _bob = node.online_status("7").await;
    let told = |line: &String| line.contains("online") && line.contains("users=2") && line.contains("connections=3");
    let waiting = async {
        while !node.log().iter().any(told) {
            sleep(POLL).await;
        }
    };
    timeout(LOG_EVERY + DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{:#?}", node.log()));
}
