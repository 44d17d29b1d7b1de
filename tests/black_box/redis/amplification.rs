//! The bytes that Redis receives per byte that a user sends are bounded, however many rooms and states the user has.

use serde_json::{Value, json};

use crate::common::redis::POLL;
use crate::common::{Mirror, Node, Redis};

/// The limit of bytes that Redis receives per byte of a change.
const MOST_PER_BYTE: u64 = 20;
const ROOMS: usize = 100;
const CONNECTIONS: usize = 3;
const CHANGES: u64 = 30;
/// The bytes that a client's frame has besides a short text: header and mask.
const FRAME_BYTES: u64 = 6;

/// The bytes that Redis has received, and the heartbeats that a node has sent.
async fn received(redis: &Redis) -> (u64, u64) {
    let heartbeats = redis.calls("hmget").await;
    let info = redis.command(&["INFO", "stats"]).await;
    let line = info.text().lines().find_map(|line| line.strip_prefix("total_net_input_bytes:"));
    (line.and_then(|bytes| bytes.trim().parse().ok()).expect("a number of bytes"), heartbeats)
}

async fn wait_for_heartbeats(redis: &Redis, count: u64) {
    let end = redis.calls("hmget").await + count;
    while redis.calls("hmget").await < end {
        tokio::time::sleep(POLL * 10).await;
    }
}

/// The bytes that Redis receives per heartbeat of an idle node, with those of this test.
async fn bytes_per_heartbeat(redis: &Redis) -> u64 {
    let (bytes, heartbeats) = received(redis).await;
    wait_for_heartbeats(redis, 5).await;
    let (bytes_after, heartbeats_after) = received(redis).await;
    (bytes_after - bytes).div_ceil(heartbeats_after - heartbeats)
}

/// A user with several connections, each in many rooms with the longest states.
async fn hoard(node: &Node, redis: &Redis, room: impl Fn(usize) -> String) -> Vec<Mirror> {
    let mut connections = Vec::new();
    let state = json!({"text": "x".repeat(1000)});
    for _ in 0..CONNECTIONS {
        let mut connection = node.connect("mallory").await;
        let join = |at| json!({"type": "join", "room": room(at), "observe": false, "state": state});
        let joins: Vec<Value> = (0..ROOMS).map(join).collect();
        connection.send_all(&joins);
        connection.heartbeat().await; // All joins have been read.
        connections.push(connection);
    }
    let last = room(ROOMS - 1);
    redis.until(&["HEXISTS", &hash_of(redis).await, &format!("{last}:mallory")], |reply| reply.number() == 1).await;
    // A later user shows that everything before was written.
    let barrier = node.connect_to("barrier", "barrier").await;
    redis.until(&["EXISTS", "presence:{0}:u:barrier"], |reply| reply.number() == 1).await;
    connections.push(barrier);
    wait_for_heartbeats(redis, 2).await;
    connections
}

async fn hash_of(redis: &Redis) -> String {
    let incarnations =
        redis.until(&["SMEMBERS", "presence:{nodes}:incarnations"], |reply| format!("{reply:?}").len() > 12);
    format!("presence:{{0}}:h:{}", incarnations.await.texts()[0])
}

/// Sends one message per tick and checks how many bytes Redis receives for them.
async fn check(node: &Node, redis: &Redis, client: &mut Mirror, message: impl Fn(u64) -> Value) {
    let per_heartbeat = bytes_per_heartbeat(redis).await;
    let (bytes, heartbeats) = received(redis).await;
    let mut sent = 0;
    for number in 0..CHANGES {
        let text = message(number).to_string();
        sent += text.len() as u64 + FRAME_BYTES;
        client.send_text(&text);
        client.heartbeat().await;
        let tick = node.stat("ticks").await;
        node.wait_until("the next tick", async || node.stat("ticks").await >= tick + 2).await;
    }
    wait_for_heartbeats(redis, 2).await;
    let (bytes_after, heartbeats_after) = received(redis).await;
    let of_changes = (bytes_after - bytes).saturating_sub((heartbeats_after - heartbeats) * per_heartbeat);
    assert!(of_changes > sent, "{of_changes} bytes: the changes did not reach Redis");
    let ratio = of_changes / sent;
    println!("{ratio} bytes per byte");
    assert!(ratio <= MOST_PER_BYTE, "Redis received {ratio} bytes for each of {sent} bytes");
}

#[tokio::test]
async fn redis_receives_few_bytes_per_byte_of_a_changed_state() {
    let redis = Redis::start().await;
    let node = Node::start("n1", &redis.url(), &[]).await;
    let mut connections = hoard(&node, &redis, |at| format!("room {at}")).await;
    check(
        &node,
        &redis,
        &mut connections[0],
        |number| json!({"type": "state", "room": "room 0", "state": {"n": number}}),
    )
    .await;
}

#[tokio::test]
async fn redis_receives_few_bytes_per_byte_of_joins_and_leaves() {
    let redis = Redis::start().await;
    let node = Node::start("n1", &redis.url(), &[]).await;
    let mut connections = hoard(&node, &redis, |at| format!("{at:0128}")).await;
    let message = |number| match number % 2 {
        0 => json!({"type": "join", "room": "r", "observe": false}),
        _ => json!({"type": "leave", "room": "r"}),
    };
    // One room less, so that one more can be joined.
    connections[0].send(&json!({"type": "leave", "room": format!("{:0128}", 1)}));
    check(&node, &redis, &mut connections[0], message).await;
}

#[tokio::test]
async fn redis_receives_few_bytes_per_byte_of_a_message_in_the_history() {
    let redis = Redis::start().await;
    let node = Node::start("n1", &redis.url(), &["--history", "5"]).await;
    let mut client = node.connect_to("mallory", "lobby").await;
    check(
        &node,
        &redis,
        &mut client,
        |number| json!({"type": "message", "room": "lobby", "data": {"text": number.to_string()}}),
    )
    .await;
}

#[tokio::test]
async fn redis_receives_few_bytes_per_byte_of_observers_who_come_and_go() {
    let redis = Redis::start().await;
    let node = Node::start("n1", &redis.url(), &[]).await;
    let mut client = node.connect("mallory").await;
    let message = |number| match number % 2 {
        0 => json!({"type": "observe", "room": "r"}),
        _ => json!({"type": "unobserve", "room": "r"}),
    };
    check(&node, &redis, &mut client, message).await;
}

#[tokio::test]
async fn renewals_do_not_cost_more_bytes_the_more_a_user_holds() {
    let redis = Redis::start().await;
    let node = Node::start("n1", &redis.url(), &["--ttl", "4s"]).await;
    let per_heartbeat = bytes_per_heartbeat(&redis).await;
    let _connections = hoard(&node, &redis, |at| format!("{at:0128}")).await;
    let (bytes, heartbeats) = received(&redis).await;
    // Each key is renewed every two seconds, and heartbeats come every second.
    wait_for_heartbeats(&redis, 12).await;
    let (bytes_after, heartbeats_after) = received(&redis).await;
    let heartbeats = heartbeats_after - heartbeats;
    let of_users = (bytes_after - bytes).saturating_sub(heartbeats * per_heartbeat);
    let per_user = of_users / 2 / (heartbeats / 2);
    assert!(per_user <= 400, "{per_user} bytes per user and renewal");
}
