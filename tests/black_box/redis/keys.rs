//! What other services find in Redis, and what it costs: a key for each user with the rest of its lease, refreshed seldom,
//! gone with the user.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::common::node::wait_until_known;
use crate::common::resp::{Reply, encode};
use crate::common::{DEADLINE, Node, Redis, RoomObservers, SHORT_TTL_FLAG};

fn key(user: &str) -> String {
    format!("presence:{{0}}:u:{user}")
}

async fn until_there(redis: &Redis, user: &str, there: bool) {
    redis.until(&["EXISTS", &key(user)], |reply| (reply.number() == 1) == there).await;
}

/// A command and when it was executed, in seconds by the clock of Redis.
type Executed = (f64, String);

/// Everything that is executed until that will do, as MONITOR shows it.
async fn watched(redis: &Redis, done: impl Fn(&[Executed]) -> bool) -> Vec<Executed> {
    let stream = TcpStream::connect(redis.address()).await.unwrap();
    let mut stream = BufReader::new(stream);
    stream.write_all(&encode(&["MONITOR"])).await.unwrap();
    let reading = async {
        let mut seen = Vec::new();
        let mut lines = stream.lines();
        while !done(&seen) {
            let line = lines.next_line().await.unwrap().expect("it goes on");
            // `+OK` comes first, then lines like `+1700000000.123456 [0 127.0.0.1:1] "GET" "a"`.
            let time = line[1..].split(' ').next().and_then(|time| time.parse().ok());
            seen.extend(time.map(|time| (time, line)));
        }
        seen
    };
    timeout(DEADLINE, reading).await.expect("it comes to be done")
}

/// The seconds between the first and the last of them.
fn span(seen: &[Executed]) -> f64 {
    seen.last().zip(seen.first()).map_or(0.0, |(last, first)| last.0 - first.0)
}

/// How often the key of each user was written.
fn writes(seen: &[Executed]) -> BTreeMap<String, u32> {
    let mut writes = BTreeMap::new();
    for (_, line) in seen.iter().filter(|(_, line)| line.to_lowercase().contains("\"set")) {
        if let Some((_, user)) = line.split_once("}:u:") {
            *writes.entry(user.split('"').next().unwrap().to_owned()).or_default() += 1;
        }
    }
    writes
}

#[tokio::test]
async fn a_key_says_where_a_user_is_and_lives_as_long_as_its_lease() {
    let redis = Redis::start().await;
    let node = Node::start("here", &redis.url(), &["--ttl", "10s"]).await;
    let alice = node.connect_to("alice", "lobby").await;
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
    let node = Node::start("a", &redis.url(), &["--ttl", "6s"]).await;
    let mut tabs = Vec::new();
    for number in 0..10 {
        for _ in 0..3 {
            tabs.push(node.connect_to(&format!("user {number}"), "lobby").await);
        }
    }
    for number in 0..10 {
        until_there(&redis, &format!("user {number}"), true).await;
    }
    let with_heartbeats = async {
        loop {
            for tab in &mut tabs {
                tab.heartbeat().await;
            }
        }
    };
    // For three halves of a lease, and until everybody has been refreshed, again and again.
    let thrice = |seen: &[Executed]| {
        span(seen) > 9.0 && {
            let writes = writes(seen);
            writes.len() == 10 && writes.values().all(|&count| count >= 3)
        }
    };
    let commands = tokio::select! {
        commands = watched(&redis, thrice) => commands,
        _ = with_heartbeats => unreachable!("it goes on for ever"),
    };
    // One for each half of a lease, one for where in the first the watching began, and one that a busy machine made late.
    let most = (span(&commands) / 3.0) as u32 + 2;
    assert!(writes(&commands).values().all(|&count| count <= most), "{most}: {:?}", writes(&commands));
    let costly =
        |(_, line): &&Executed| [" \"KEYS\"", " \"SCAN\""].iter().any(|word| line.to_uppercase().contains(word));
    assert_eq!(commands.iter().find(costly), None);
    for number in 0..10 {
        assert_eq!(redis.command(&["EXISTS", &key(&format!("user {number}"))]).await.number(), 1);
    }
}

#[tokio::test]
async fn deleted_with_the_last_room_and_not_before() {
    let redis = Redis::start().await;
    let node = Node::start("a", &redis.url(), &["--ttl", "60s"]).await;
    let alice = node.connect_to("alice", "lobby").await;
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
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    for round in 0..3 {
        let first = a.connect_to("alice", "lobby").await;
        let second = b.connect_to("alice", "lobby").await;
        wait_until_known(&first, &[&b]).await;
        wait_until_known(&second, &[&a]).await;
        observers.wait_for_members(&[&a, &b], &["alice"]).await;
        observers.forbid_leaves();
        let before = observers.changes_of("alice");
        let (first, second, second_at) = if round % 2 == 0 { (first, second, &b) } else { (second, first, &a) };
        first.close(1000);
        // For longer than a lease the key is there, and then says the node that is left.
        let end = Instant::now() + Duration::from_secs(7);
        // Between two looks that both miss it, in ticks of the node that is to write it: long before it would be refreshed.
        let (mut gone, mut was_there, mut last) = (0, true, second_at.stat("ticks").await);
        while Instant::now() < end {
            let there = redis.command(&["EXISTS", &key("alice")]).await.number() == 1;
            let now = second_at.stat("ticks").await;
            gone += if there || was_there { 0 } else { now - last };
            (was_there, last) = (there, now);
            sleep(Duration::from_millis(5)).await;
        }
        assert!(gone < 20, "it was away for {gone} ticks in round {round}");
        let value = redis.command(&["GET", &key("alice")]).await;
        assert!(value.text().contains(&format!("\"{}\"", second_at.id)), "{value:?}");
        assert_eq!(observers.changes_of("alice"), before);
        observers.allow_leaves(&["alice"]);
        second.close(1000);
        observers.wait_for_members(&[&a, &b], &[]).await;
        until_there(&redis, "alice", false).await;
    }
}

#[tokio::test]
async fn keys_of_a_killed_node_end_by_themselves() {
    let redis = Redis::start().await;
    let node = Node::start("a", &redis.url(), &SHORT_TTL_FLAG).await;
    let _alice = node.connect_to("alice", "lobby").await;
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
        users.push(a.connect_to(&format!("user {number}"), "lobby").await);
    }
    until_there(&redis, "user 49", true).await;
    let mut commands = watched(&redis, |seen| span(seen) > 4.0).await;
    commands.pop(); // It came later.
    let of_users = commands.iter().filter(|(_, line)| line.contains(":u:")).count();
    assert!(of_users <= 50, "{of_users} commands about users whose leases are long");
    // For two nodes: a lease, a beacon, a look at the others, each second.
    assert!(commands.len() - of_users <= 2 * 4 * 12, "{} commands: {:#?}", commands.len(), &commands[..20]);
}
