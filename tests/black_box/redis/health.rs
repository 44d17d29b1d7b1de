//! A node without a connection to Redis is degraded. It reports the beginning and the end of each outage to clients, in
//! HTTP answers and in the log.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

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

/// In the log line about the beginning of each outage.
const OUTAGE: &str = "clients stay connected, members on other nodes are shown as last known";

/// The number of logged outages, once the end of each is logged. Outages because Redis was too slow do not count: a
/// busy machine causes them.
async fn logged_outages(node: &Node) -> usize {
    let lines = |text: &str| node.log().iter().filter(|line| line.contains(text)).count();
    let all_have_ended = || lines("Redis works again") == lines(OUTAGE);
    node.wait_until("the end of each outage in the log", async || all_have_ended()).await;
    node.warnings().iter().filter(|line| line.contains(OUTAGE)).count()
}

#[tokio::test]
async fn the_beginning_and_the_end_of_an_outage_are_reported() {
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
        alice.wait_until("degraded health", |alice| alice.degraded.is_some()).await;
        let since = alice.degraded;
        assert_eq!(node.degraded().await, since, "clients and /readyz must report the same time");
        for (path, answer) in answers(&node).await {
            assert_eq!(answer["degraded_since"].as_u64(), since, "{path}: {answer}");
        }
        let mut late = Mirror::connect(node.address, "late", &["lobby"]).await;
        late.wait_until("degraded health after the welcome", |late| late.degraded.is_some()).await;
        assert_eq!(late.degraded, since);
        assert_eq!(late.log[1]["type"], "health", "health must follow the welcome: {}", late.describe());
        redis.restart().await;
        for mirror in [&mut alice, &mut late] {
            mirror.wait_until("healthy again", |mirror| mirror.degraded.is_none()).await;
        }
        node.wait_until_degraded(false).await;
        for (path, answer) in answers(&node).await {
            assert!(answer.get("degraded_since").is_none(), "{path}: {answer}");
        }
        assert_eq!(logged_outages(&node).await, round, "each outage must be logged once: {:#?}", node.log());
        assert!(!node.log().iter().any(|line| line.contains("ERROR")), "{:#?}", node.log());
    }
    // Other protocols have no message for it.
    list.heartbeat().await;
    assert_eq!(list.errors, 0);
    status.wait_until("alice", |status| status.online.contains("\"alice\"")).await;
    assert!(status.log.iter().all(|message| message["type"] != "health"));
}

#[tokio::test]
async fn a_quick_restart_of_redis_is_one_outage() {
    let mut redis = Redis::start().await;
    // The node writes to Redis only once per second, so it may notice late that an idle connection is lost.
    let node = Node::start("a", &redis.url(), &["--ttl", "60s"]).await;
    for round in 1..=3 {
        redis.kill();
        redis.restart().await;
        node.wait_until("the outage in the log", async || logged_outages(&node).await >= round).await;
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(logged_outages(&node).await, round, "{:#?}", node.log());
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
async fn the_numbers_of_users_and_connections_are_logged_every_thirty_seconds() {
    let node = Node::with_flags("alone", &[]).await;
    let _tabs = (node.connect_to("alice", "lobby").await, node.connect_to("alice", "lobby").await);
    let _bob = node.online_status("7").await;
    let has_numbers =
        |line: &String| line.contains("online") && line.contains("users=2") && line.contains("connections=3");
    let waiting = async {
        while !node.log().iter().any(has_numbers) {
            sleep(POLL).await;
        }
    };
    timeout(LOG_EVERY + DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{:#?}", node.log()));
}
