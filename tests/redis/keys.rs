//! What other services find in Redis, and what it costs: a key for each user with the rest of its lease, refreshed seldom,
//! gone with the user.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::common::node::until_told;
use crate::common::resp::{Reply, encode};
use crate::common::{Node, Redis, TTL, Witnesses};

fn key(user: &str) -> String {
    format!("presence:{{0}}:u:{user}")
}

async fn until_there(redis: &Redis, user: &str, there: bool) {
    redis.until(&["EXISTS", &key(user)], |reply| (reply.number() == 1) == there).await;
}

/// Everything that is executed for a while, as MONITOR shows it.
async fn watched(redis: &Redis, time: Duration) -> Vec<String> {
    let mut stream = TcpStream::connect(redis.address()).await.unwrap();
    stream.write_all(&encode(&["MONITOR"])).await.unwrap();
    let mut seen = Vec::new();
    let reading = async { while stream.read_buf(&mut seen).await.unwrap() > 0 {} };
    assert!(timeout(time, reading).await.is_err(), "it goes on");
    String::from_utf8(seen).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_key_says_where_a_user_is_and_lives_as_long_as_its_lease() {
    let redis = Redis::start().await;
    let node = Node::start("here", &redis.url(), &["--ttl", "10s"]).await;
    let alice = node.enter("alice", "lobby").await;
    alice.send(&json!({"type": "join", "room": "attic", "state": {"mood": "ü"}}));
    let both = |reply: &Reply| matches!(reply, Reply::Text(text) if text.contains("lobby") && text.contains("attic"));
    let value = redis.until(&["GET", &key("alice")], both).await;
    let value: Value = serde_json::from_str(value.text()).expect("JSON");
    assert_eq!(value["node"], "here", "{value}");
    assert!(value.to_string().contains(r#"{"mood":"ü"}"#), "{value}");
    let rest = redis.command(&["PTTL", &key("alice")]).await.number();
    assert!((1..=10_000).contains(&rest), "{rest} ms are left");
}

#[tokio::test]
async fn refreshed_at_most_once_per_half_a_lease_whatever_happens() {
    let redis = Redis::start().await;
    let node = Node::start("a", &redis.url(), &[]).await;
    let mut tabs = Vec::new();
    for number in 0..10 {
        for _ in 0..3 {
            tabs.push(node.enter(&format!("user {number}"), "lobby").await);
        }
    }
    for number in 0..10 {
        until_there(&redis, &format!("user {number}"), true).await;
    }
    let span = TTL * 3;
    let beating = async {
        let end = Instant::now() + span;
        while Instant::now() < end {
            for tab in &mut tabs {
                tab.heartbeat().await;
            }
        }
    };
    let (commands, ()) = tokio::join!(watched(&redis, span), beating);
    let mut writes: BTreeMap<&str, u32> = BTreeMap::new();
    for line in commands.iter().filter(|line| line.to_lowercase().contains("\"set")) {
        if let Some((_, user)) = line.split_once("}:u:") {
            *writes.entry(user.split('"').next().unwrap()).or_default() += 1;
        }
    }
    assert_eq!(writes.len(), 10, "everybody is refreshed: {writes:?}");
    // Six halves of a lease, and one more for where in the first the watching began.
    assert!(writes.values().all(|&count| (3..=7).contains(&count)), "{writes:?}");
    let costly = |line: &&String| [" \"KEYS\"", " \"SCAN\""].iter().any(|word| line.to_uppercase().contains(word));
    assert_eq!(commands.iter().find(costly), None);
    for number in 0..10 {
        assert_eq!(redis.command(&["EXISTS", &key(&format!("user {number}"))]).await.number(), 1);
    }
}

#[tokio::test]
async fn deleted_with_the_last_room_and_not_before() {
    let redis = Redis::start().await;
    let node = Node::start("a", &redis.url(), &["--ttl", "60s"]).await;
    let alice = node.enter("alice", "lobby").await;
    alice.send(&json!({"type": "join", "room": "attic"}));
    redis.until(&["GET", &key("alice")], |reply| format!("{reply:?}").contains("attic")).await;
    alice.send(&json!({"type": "leave", "room": "lobby"}));
    redis.until(&["GET", &key("alice")], |reply| !format!("{reply:?}").contains("lobby")).await;
    assert_eq!(redis.command(&["EXISTS", &key("alice")]).await.number(), 1);
    alice.send(&json!({"type": "leave", "room": "attic"}));
    until_there(&redis, "alice", false).await;
    alice.send(&json!({"type": "join", "room": "attic"}));
    until_there(&redis, "alice", true).await;
    alice.close(1000);
    until_there(&redis, "alice", false).await;
}

#[tokio::test]
async fn kept_as_long_as_another_node_holds_the_user() {
    let redis = Redis::start().await;
    let url = redis.url();
    let flags = ["--ttl", "6s"];
    let (a, b) = tokio::join!(Node::start("a", &url, &flags), Node::start("b", &url, &flags));
    let mut witnesses = Witnesses::on(&[&a, &b], "lobby").await;
    for round in 0..3 {
        let first = a.enter("alice", "lobby").await;
        let second = b.enter("alice", "lobby").await;
        until_told(&first, &[&b]).await;
        until_told(&second, &[&a]).await;
        witnesses.agree(&[&a, &b], &["alice"]).await;
        witnesses.all_stay();
        let before = witnesses.edges_of("alice");
        let (first, second, second_at) = if round % 2 == 0 { (first, second, &b) } else { (second, first, &a) };
        first.close(1000);
        // For longer than a lease the key is there, and then says the node that is left.
        let end = Instant::now() + Duration::from_secs(7);
        let mut gone_ms = 0;
        let mut last = Instant::now();
        while Instant::now() < end {
            let there = redis.command(&["EXISTS", &key("alice")]).await.number() == 1;
            gone_ms += if there { 0 } else { last.elapsed().as_millis() };
            last = Instant::now();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(gone_ms < 500, "it was away for {gone_ms} ms in round {round}");
        let value = redis.command(&["GET", &key("alice")]).await;
        assert!(value.text().contains(&format!("\"{}\"", second_at.id)), "{value:?}");
        assert_eq!(witnesses.edges_of("alice"), before);
        witnesses.may_leave(&["alice"]);
        second.close(1000);
        witnesses.agree(&[&a, &b], &[]).await;
        until_there(&redis, "alice", false).await;
    }
}

#[tokio::test]
async fn keys_of_a_killed_node_end_by_themselves() {
    let redis = Redis::start().await;
    let node = Node::start("a", &redis.url(), &[]).await;
    let _alice = node.enter("alice", "lobby").await;
    until_there(&redis, "alice", true).await;
    node.kill();
    // Nobody is there to sweep, so what can tell that somebody is online has to end.
    until_there(&redis, "alice", false).await;
    redis.until(&["EXISTS", "presence:{nodes}:id:a"], |reply| reply.number() == 0).await;
}

#[tokio::test]
async fn an_idle_cluster_costs_redis_little() {
    let redis = Redis::start().await;
    let url = redis.url();
    let (a, _b) = tokio::join!(Node::start("a", &url, &["--ttl", "60s"]), Node::start("b", &url, &["--ttl", "60s"]));
    let mut users = Vec::new();
    for number in 0..50 {
        users.push(a.enter(&format!("user {number}"), "lobby").await);
    }
    until_there(&redis, "user 49", true).await;
    let commands = watched(&redis, Duration::from_secs(4)).await;
    let of_users = commands.iter().filter(|line| line.contains(":u:")).count();
    assert!(of_users <= 50, "{of_users} commands about users whose leases are long");
    // For two nodes: a lease, a beacon, a look at the others, each second.
    assert!(commands.len() - of_users <= 2 * 4 * 12, "{} commands: {:#?}", commands.len(), &commands[..20]);
}
