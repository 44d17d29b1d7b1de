//! The number of observers of a room covers the whole cluster and survives the same faults as its members. Messages of
//! the application reach observers on every node.

use serde_json::json;

use crate::common::redis::POLL;
use crate::common::resp::Reply;
use crate::common::{Mirror, NODE_LOST_AFTER, Node, Proxy, RawClient, Redis, SHORT_TTL_FLAG, Store};

on_both!(every_node_counts_the_observers_of_all_nodes, a_killed_node_takes_its_observers_with_it);

/// A client that observes a room without being a member.
async fn observe(node: &Node, user: &str, room: &str) -> Mirror {
    let mut mirror = node.connect(user).await;
    mirror.send(&json!({"type": "observe", "room": room}));
    mirror.wait_until("the snapshot", |mirror| mirror.observes(room)).await;
    mirror
}

async fn observers(node: &Node, room: &str) -> u64 {
    let answer = node.get(&format!("/v1/rooms/{room}/count")).await.json();
    answer["observers"].as_u64().unwrap_or_else(|| panic!("observers is a number: {answer}"))
}

/// Waits until these nodes say that a room has this number of observers.
async fn wait_for_observers(nodes: &[&Node], room: &str, count: u64) {
    for node in nodes {
        node.wait_until("the number of observers", async || observers(node, room).await == count).await;
    }
}

async fn every_node_counts_the_observers_of_all_nodes(store: Store) {
    let [a, b, c] = store.three_nodes(&[]).await;
    let all = [&a, &b, &c];
    let first = observe(&a, "first", "hall").await;
    wait_for_observers(&all, "hall", 1).await;
    for node in all {
        assert_eq!(node.get("/v1/rooms/hall/count").await.json(), json!({"room": "hall", "count": 0, "observers": 1}));
        let members = node.get("/v1/rooms/hall/members").await.json();
        assert_eq!((&members["count"], &members["observers"]), (&json!(0), &json!(1)), "{members}");
        let listed = json!([{"room": "hall", "count": 0, "observers": 1}]);
        node.wait_until("the list", async || node.get("/v1/rooms").await.json()["rooms"] == listed).await;
    }
    // A member that observes counts as an observer, other members do not.
    let _member = b.connect_to("member", "hall").await;
    let silent = c.connect("silent").await;
    silent.send(&json!({"type": "join", "room": "hall", "observe": false}));
    let mut others = Vec::new();
    for number in 0..5 {
        others.push(observe(all[number % 3], &format!("other-{number}"), "hall").await);
    }
    wait_for_observers(&all, "hall", 7).await;
    let late = store.node("late").await;
    wait_for_observers(&[&late], "hall", 7).await;
    assert_eq!(late.get("/v1/rooms/hall/count").await.json()["count"], 2);
    first.send(&json!({"type": "unobserve", "room": "hall"}));
    others.remove(0).close(1000);
    others.remove(0).drop_connection();
    wait_for_observers(&[&a, &b, &c, &late], "hall", 4).await;
    drop(others);
    wait_for_observers(&[&a, &b, &c, &late], "hall", 1).await;
}

async fn a_killed_node_takes_its_observers_with_it(store: Store) {
    let [a, b, c] = store.three_nodes(&SHORT_TTL_FLAG).await;
    let _stays = observe(&a, "stays", "hall").await;
    let _goes = (observe(&c, "goes", "hall").await, observe(&c, "goes too", "attic").await);
    wait_for_observers(&[&a, &b, &c], "hall", 2).await;
    wait_for_observers(&[&a, &b, &c], "attic", 1).await;
    c.kill();
    wait_for_observers(&[&a, &b], "hall", 1).await;
    wait_for_observers(&[&a, &b], "attic", 0).await;
    for node in [&a, &b] {
        let listed = json!([{"room": "hall", "count": 0, "observers": 1}]);
        node.wait_until("the list", async || node.get("/v1/rooms").await.json()["rooms"] == listed).await;
    }
}

/// The hash of a node that has one partition.
async fn hash_of(redis: &Redis, node: &str) -> String {
    let prefix = format!("presence:{{0}}:h:{node}.");
    redis.keys().await.into_iter().find(|key| key.starts_with(&prefix)).expect("a node has a hash")
}

#[tokio::test]
async fn observer_counts_are_correct_after_a_lost_event() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let (a, c) = (Node::start("a", &redis.url(), &[]).await, Node::start("c", &proxy.url(), &[]).await);
    let _first = observe(&a, "first", "hall").await;
    wait_for_observers(&[&a, &c], "hall", 1).await;
    for (count, room) in [(2, "hall"), (1, "attic")] {
        let before = proxy.dropped_events();
        proxy.drop_events(true);
        let mirror = observe(&a, "next", room).await;
        // Redis has the number, so the event has been published.
        let hash = hash_of(&redis, "a").await;
        let field = format!("{room}:");
        let text = Reply::Text(count.to_string());
        redis.until(&["HGET", &hash, &field], |reply| *reply == text).await;
        a.wait_until("an event that c loses", async || proxy.dropped_events() > before).await;
        proxy.drop_events(false);
        wait_for_observers(&[&a, &c], room, count).await;
        mirror.send(&json!({"type": "unobserve", "room": room}));
        wait_for_observers(&[&a, &c], room, count - 1).await;
    }
}

#[tokio::test]
async fn observer_counts_are_written_again_after_redis_restarts_empty() {
    let mut redis = Redis::start().await;
    let url = redis.url();
    let (a, b) = tokio::join!(Node::start("a", &url, &SHORT_TTL_FLAG), Node::start("b", &url, &SHORT_TTL_FLAG));
    let _on_a = (observe(&a, "first", "a:b").await, observe(&a, "second", "a:b").await);
    let _on_b = observe(&b, "third", "a:b").await;
    wait_for_observers(&[&a, &b], "a%3Ab", 3).await;
    redis.restart().await;
    // The nodes keep the number meanwhile, for longer than a lease.
    let end = tokio::time::Instant::now() + NODE_LOST_AFTER;
    while tokio::time::Instant::now() < end {
        for node in [&a, &b] {
            assert_eq!(observers(node, "a%3Ab").await, 3, "on {}", node.id);
        }
        tokio::time::sleep(POLL).await;
    }
    for (node, count) in [("a", "2"), ("b", "1")] {
        let hash = hash_of(&redis, node).await;
        redis.until(&["HGET", &hash, "a%3Ab:"], |reply| *reply == Reply::Text(count.to_owned())).await;
    }
    let late = Node::start("late", &url, &SHORT_TTL_FLAG).await;
    wait_for_observers(&[&late], "a%3Ab", 3).await;
}

/// A message that the application publishes through another node is an event without a user. The test publishes such an
/// event itself.
#[tokio::test]
async fn a_message_of_the_application_reaches_observers_on_other_nodes() {
    let redis = Redis::start().await;
    let (a, b) = (Node::start("a", &redis.url(), &[]).await, Node::start("b", &redis.url(), &[]).await);
    let _known = observe(&a, "known", "hall").await;
    let mut observer = RawClient::open(b.address, "/v1/connect?user=observer").await;
    observer.send_json(&json!({"type": "observe", "room": "hall"})).await;
    observer.json_of_type("snapshot").await;
    wait_for_observers(&[&a, &b], "hall", 2).await;
    let hash = hash_of(&redis, "a").await;
    let seq = redis.command(&["HGET", &hash, "@"]).await;
    let (_, incarnation) = hash.split_once(":h:").expect("a hash");
    let event =
        format!("{incarnation}\t{}\nmessage\thall:\t1700000000000\t1\t{{\"text\":\"closing soon\"}}", seq.text());
    redis.command(&["PUBLISH", "presence:{0}:events", &event]).await;
    let message = observer.json_of_type("message").await;
    assert_eq!((&message["room"], &message["data"]), (&json!("hall"), &json!({"text": "closing soon"})));
    assert!(message.get("user").is_none(), "{message}");
}
