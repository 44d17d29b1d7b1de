//! The keys that other services read in Redis, and how many commands they cost: one key per online user, which expires
//! with the lease of the user, is refreshed twice per lease, and is deleted when the user leaves.

use std::collections::{BTreeMap, BTreeSet};
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

async fn wait_for_key(redis: &Redis, user: &str, exists: bool) {
    redis.until(&["EXISTS", &key(user)], |reply| (reply.number() == 1) == exists).await;
}

/// A command and when it was executed, in seconds by the clock of Redis.
type Executed = (f64, String);

/// The commands that Redis executes, as MONITOR shows them, until the condition holds for them.
async fn executed_until(redis: &Redis, done: impl Fn(&[Executed]) -> bool) -> Vec<Executed> {
    let stream = TcpStream::connect(redis.address()).await.unwrap();
    let mut stream = BufReader::new(stream);
    stream.write_all(&encode(&["MONITOR"])).await.unwrap();
    let reading = async {
        let mut executed = Vec::new();
        let mut lines = stream.lines();
        while !done(&executed) {
            let line = lines.next_line().await.unwrap().expect("MONITOR continues");
            // `+OK` comes first, then lines like `+1700000000.123456 [0 127.0.0.1:1] "GET" "a"`.
            let time = line[1..].split(' ').next().and_then(|time| time.parse().ok());
            executed.extend(time.map(|time| (time, line)));
        }
        executed
    };
    timeout(DEADLINE, reading).await.expect("the condition holds in time")
}

/// The seconds between the first and the last command.
fn span(executed: &[Executed]) -> f64 {
    executed.last().zip(executed.first()).map_or(0.0, |(last, first)| last.0 - first.0)
}

/// How often the key of each user was written.
fn writes(executed: &[Executed]) -> BTreeMap<String, u32> {
    let mut writes = BTreeMap::new();
    for (_, line) in executed.iter().filter(|(_, line)| line.to_lowercase().contains("\"set")) {
        if let Some((_, user)) = line.split_once("}:u:") {
            *writes.entry(user.split('"').next().unwrap().to_owned()).or_default() += 1;
        }
    }
    writes
}

#[tokio::test]
async fn a_key_has_the_rooms_of_a_user_and_expires_with_the_lease() {
    let redis = Redis::start().await;
    let node = Node::start("here", &redis.url(), &["--ttl", "10s"]).await;
    let alice = node.connect_to("alice", "lobby").await;
    alice.send(&json!({"type": "join", "room": "attic", "state": {"mood": "ü"}}));
    let both = |reply: &Reply| matches!(reply, Reply::Text(text) if text.contains("lobby") && text.contains("attic"));
    let value = redis.until(&["GET", &key("alice")], both).await;
    let value: Value = serde_json::from_str(value.text()).expect("JSON");
    assert_eq!(value["node"], "here", "{value}");
    let rooms: BTreeSet<_> = value["rooms"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(rooms, BTreeSet::from(["attic", "lobby"]), "{value}");
    // The state is in the hash of the incarnation that uses the node's id.
    let is_text = |reply: &Reply| matches!(reply, Reply::Text(_));
    let incarnation = redis.until(&["GET", "presence:{nodes}:id:here"], is_text).await;
    let hash = format!("presence:{{0}}:h:{}", incarnation.text());
    let field = redis.until(&["HGET", &hash, "attic:alice"], is_text).await;
    assert!(field.text().ends_with(r#"{"mood":"ü"}"#), "{field:?}");
    let remaining = redis.command(&["PTTL", &key("alice")]).await.number();
    assert!((1..=10_000).contains(&remaining), "the key expires in {remaining} ms");
}

#[tokio::test]
async fn a_key_is_refreshed_at_most_once_per_half_lease_despite_many_heartbeats() {
    let redis = Redis::start().await;
    let node = Node::start("a", &redis.url(), &["--ttl", "6s"]).await;
    let mut clients = Vec::new();
    for number in 0..10 {
        for _ in 0..3 {
            clients.push(node.connect_to(&format!("user {number}"), "lobby").await);
        }
    }
    for number in 0..10 {
        wait_for_key(&redis, &format!("user {number}"), true).await;
    }
    let with_heartbeats = async {
        loop {
            for client in &mut clients {
                client.heartbeat().await;
            }
        }
    };
    // For three half leases, and until each key was written three times.
    let written_three_times = |executed: &[Executed]| {
        span(executed) > 9.0 && {
            let writes = writes(executed);
            writes.len() == 10 && writes.values().all(|&count| count >= 3)
        }
    };
    let commands = tokio::select! {
        commands = executed_until(&redis, written_three_times) => commands,
        _ = with_heartbeats => unreachable!("heartbeats never end"),
    };
    // One write per half lease, one more because MONITOR starts at any time within a half lease, and one more that a
    // busy machine may have delayed.
    let most = (span(&commands) / 3.0) as u32 + 2;
    assert!(writes(&commands).values().all(|&count| count <= most), "{most}: {:?}", writes(&commands));
    let scans_all_keys =
        |(_, line): &&Executed| [" \"KEYS\"", " \"SCAN\""].iter().any(|word| line.to_uppercase().contains(word));
    assert_eq!(commands.iter().find(scans_all_keys), None);
    for number in 0..10 {
        assert_eq!(redis.command(&["EXISTS", &key(&format!("user {number}"))]).await.number(), 1);
    }
}

#[tokio::test]
async fn a_key_is_deleted_when_the_user_leaves_the_last_room() {
    let redis = Redis::start().await;
    let node = Node::start("a", &redis.url(), &["--ttl", "60s"]).await;
    let alice = node.connect_to("alice", "lobby").await;
    alice.send(&json!({"type": "join", "room": "attic"}));
    redis.until(&["GET", &key("alice")], |reply| format!("{reply:?}").contains("attic")).await;
    alice.send(&json!({"type": "leave", "room": "lobby"}));
    redis.until(&["GET", &key("alice")], |reply| !format!("{reply:?}").contains("lobby")).await;
    assert_eq!(redis.command(&["EXISTS", &key("alice")]).await.number(), 1);
    alice.send(&json!({"type": "leave", "room": "attic"}));
    wait_for_key(&redis, "alice", false).await;
    alice.send(&json!({"type": "join", "room": "attic"}));
    wait_for_key(&redis, "alice", true).await;
    alice.close(1000);
    wait_for_key(&redis, "alice", false).await;
}

#[tokio::test]
async fn a_key_stays_while_the_user_is_online_on_another_node() {
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
        // The key stays for longer than a lease. At the end it names the remaining node.
        let end = Instant::now() + Duration::from_secs(7);
        // The time between two checks that both miss the key, in ticks of the node that must write it again. It must do
        // so long before the next refresh.
        let (mut ticks_missing, mut existed, mut last) = (0, true, second_at.stat("ticks").await);
        while Instant::now() < end {
            let exists = redis.command(&["EXISTS", &key("alice")]).await.number() == 1;
            let now = second_at.stat("ticks").await;
            ticks_missing += if exists || existed { 0 } else { now - last };
            (existed, last) = (exists, now);
            sleep(Duration::from_millis(5)).await;
        }
        assert!(ticks_missing < 20, "the key was missing for {ticks_missing} ticks in round {round}");
        let value = redis.command(&["GET", &key("alice")]).await;
        assert!(value.text().contains(&format!("\"{}\"", second_at.id)), "{value:?}");
        assert_eq!(observers.changes_of("alice"), before);
        observers.allow_leaves(&["alice"]);
        second.close(1000);
        observers.wait_for_members(&[&a, &b], &[]).await;
        wait_for_key(&redis, "alice", false).await;
    }
}

#[tokio::test]
async fn keys_of_a_killed_node_expire() {
    let redis = Redis::start().await;
    let node = Node::start("a", &redis.url(), &SHORT_TTL_FLAG).await;
    let _alice = node.connect_to("alice", "lobby").await;
    wait_for_key(&redis, "alice", true).await;
    node.kill();
    // No other node is running that could delete the keys of the dead node.
    wait_for_key(&redis, "alice", false).await;
    redis.until(&["EXISTS", "presence:{nodes}:id:a"], |reply| reply.number() == 0).await;
}

#[tokio::test]
async fn an_idle_cluster_sends_few_commands_to_redis() {
    let redis = Redis::start().await;
    let url = redis.url();
    let (a, _b) = tokio::join!(Node::start("a", &url, &["--ttl", "60s"]), Node::start("b", &url, &["--ttl", "60s"]));
    let mut users = Vec::new();
    for number in 0..50 {
        users.push(a.connect_to(&format!("user {number}"), "lobby").await);
    }
    wait_for_key(&redis, "user 49", true).await;
    let mut commands = executed_until(&redis, |executed| span(executed) > 4.0).await;
    commands.pop(); // The last command came after the four seconds.
    let of_users = commands.iter().filter(|(_, line)| line.contains(":u:")).count();
    assert!(of_users <= 50, "{of_users} commands about users, although no key is due for a refresh");
    // Each of the two nodes renews its lease, publishes an event and reads the other leases once per second.
    assert!(commands.len() - of_users <= 2 * 4 * 12, "{} commands: {:#?}", commands.len(), &commands[..20]);
}
