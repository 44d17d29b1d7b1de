//! The history of the chat: one for all nodes, stored in Redis, and kept by the nodes while Redis is away.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::redis::POLL;
use crate::common::{DEADLINE, EventClient, Node, Proxy, ProxyMode, Redis, SHORT_TTL_FLAG, Store};

on_both!(all_nodes_show_one_history_which_outlives_them, the_history_has_the_configured_length_in_redis_too,);

/// The messages in the history that a new client receives.
async fn history(node: &Node) -> Vec<Value> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let client = node.chat(&format!("reader {}", NEXT.fetch_add(1, Ordering::Relaxed))).await;
    let messages = client.of("msg").into_iter().cloned().collect();
    client.close(1000);
    messages
}

fn texts(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["payload"]["text"].as_str().expect("a text")).collect()
}

/// Sends a message and waits until its sender receives it.
async fn say(client: &mut EventClient, text: &str) {
    client.send(&json!({"type": "msg", "payload": {"text": text}}));
    client.wait_until("its message", |client| texts(&messages_of(client)).contains(&text)).await;
}

fn messages_of(client: &EventClient) -> Vec<Value> {
    client.of("msg").into_iter().cloned().collect()
}

/// Waits until new clients of all nodes receive the same messages, and these texts, in any order. Returns the messages.
async fn wait_for_one_history(nodes: &[&Node], expected: &[&str]) -> Vec<Value> {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut shown = Vec::new();
        for node in nodes {
            shown.push(history(node).await);
        }
        let mut sorted = texts(&shown[0]);
        sorted.sort_unstable();
        if sorted == expected && shown.iter().all(|messages| *messages == shown[0]) {
            return shown.swap_remove(0);
        }
        assert!(Instant::now() < deadline, "{shown:#?}");
        sleep(POLL * 10).await;
    }
}

async fn all_nodes_show_one_history_which_outlives_them(store: Store) {
    let (a, b) = tokio::join!(store.node("a"), store.node("b"));
    let (mut alice, mut bob) = (a.chat("alice").await, b.chat("bob").await);
    let native = b.connect_to("native", "lobby").await;
    let mut said = Vec::new();
    for number in 0..3 {
        for (client, name) in [(&mut alice, "alice"), (&mut bob, "bob")] {
            let text = format!("{name} {number} \"ü\"");
            say(client, &text).await;
            said.push(text);
        }
        // An answer comes after what it answers, on whichever node.
        alice
            .wait_until("the message of bob", |alice| texts(&messages_of(alice)).contains(&&**said.last().unwrap()))
            .await;
        bob.wait_until("the message of alice", |bob| messages_of(bob).len() == said.len()).await;
    }
    // Only what chat clients can show belongs to the history.
    native.send(&json!({"type": "message", "room": "lobby", "data": {"typing": true}}));
    native.send(&json!({"type": "message", "room": "lobby", "data": {"text": "native"}}));
    said.push("native".to_owned());
    alice.wait_until("the native message", |alice| messages_of(alice).len() == said.len()).await;
    let said: Vec<_> = said.iter().map(String::as_str).collect();
    let shown = wait_for_one_history(&[&a, &b], &said).await;
    assert_eq!(texts(&shown), said, "in the order in which they were sent");
    assert_eq!(shown, messages_of(&alice), "with the times that clients have seen");
    native.close(1000);
    // A node that starts later, and one that starts when no other is left.
    let c = store.node("c").await;
    assert_eq!(history(&c).await, shown);
    a.kill();
    b.terminate().await;
    c.kill();
    let again = store.node("a").await;
    assert_eq!(history(&again).await, shown);
}

async fn the_history_has_the_configured_length_in_redis_too(store: Store) {
    let flags = ["--history", "4"];
    let (a, b) = tokio::join!(store.node_with("a", &flags), store.node_with("b", &flags));
    let (mut alice, mut bob) = (a.chat("alice").await, b.chat("bob").await);
    for number in 0..6 {
        say(&mut alice, &format!("alice {number}")).await;
        say(&mut bob, &format!("bob {number}")).await;
        alice.wait_until("the message of bob", |alice| messages_of(alice).len() == 2 * number + 2).await;
    }
    let expected = ["alice 4", "bob 4", "alice 5", "bob 5"];
    assert_eq!(texts(&wait_for_one_history(&[&a, &b], &expected).await), expected);
    if let Store::Single(redis) = &store {
        redis.until(&["ZCARD", "presence:{0}:history:lobby"], |reply| reply.number() == 4).await;
        let ttl = redis.command(&["TTL", "presence:{0}:history:lobby"]).await.number();
        assert!((600_000..=604_800).contains(&ttl), "it expires in {ttl} s");
    }
    let c = store.node_with("c", &flags).await;
    assert_eq!(texts(&history(&c).await), expected);
}

#[tokio::test]
async fn messages_that_were_sent_without_redis_are_merged_later() {
    let mut redis = Redis::start().await;
    let url = redis.url();
    let (a, b) = tokio::join!(Node::start("a", &url, &SHORT_TTL_FLAG), Node::start("b", &url, &SHORT_TTL_FLAG));
    let (mut alice, mut bob) = (a.chat("alice").await, b.chat("bob").await);
    say(&mut alice, "before").await;
    wait_for_one_history(&[&a, &b], &["before"]).await;
    redis.kill();
    for node in [&a, &b] {
        node.wait_until_degraded(true).await;
    }
    say(&mut alice, "alice alone").await;
    say(&mut bob, "bob alone").await;
    assert_eq!(texts(&history(&a).await), ["before", "alice alone"], "the history continues on each node");
    assert_eq!(texts(&history(&b).await), ["before", "bob alone"]);
    // Redis has lost its data. The nodes still know what it contained.
    redis.restart().await;
    let all = ["before", "alice alone", "bob alone"];
    let shown = wait_for_one_history(&[&a, &b], &all).await;
    assert_eq!(texts(&shown), all, "in the order of their times");
    redis.until(&["ZCARD", "presence:{0}:history:lobby"], |reply| reply.number() == 3).await;
    let c = Node::start("c", &url, &SHORT_TTL_FLAG).await;
    assert_eq!(history(&c).await, shown);
}

#[tokio::test]
async fn a_node_that_reconnects_shows_each_message_once() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let (direct, through) = (redis.url(), format!("redis://{}", proxy.address()));
    let (a, b) = tokio::join!(Node::start("a", &direct, &[]), Node::start("b", &through, &[]));
    let (mut alice, mut bob) = (a.chat("alice").await, b.chat("bob").await);
    let mut said = Vec::new();
    for round in 0..3 {
        for (mode, name) in [(ProxyMode::Forward, "together"), (ProxyMode::Disconnect, "apart")] {
            proxy.set(mode);
            b.wait_until_degraded(mode == ProxyMode::Disconnect).await;
            let (one, two) = (format!("alice {name} {round}"), format!("bob {name} {round}"));
            say(&mut alice, &one).await;
            say(&mut bob, &two).await;
            said.extend([one, two]);
        }
        proxy.set(ProxyMode::Forward);
        b.wait_until_degraded(false).await;
        let said: Vec<_> = said.iter().map(String::as_str).collect();
        wait_for_one_history(&[&a, &b], &said).await;
    }
}

#[tokio::test]
async fn a_key_of_another_type_in_place_of_the_history_is_replaced() {
    let redis = Redis::start().await;
    let node = Node::start("a", &redis.url(), &[]).await;
    let mut alice = node.chat("alice").await;
    say(&mut alice, "first").await;
    redis.until(&["ZCARD", "presence:{0}:history:lobby"], |reply| reply.number() == 1).await;
    redis.command(&["SET", "presence:{0}:history:lobby", "something else"]).await;
    say(&mut alice, "second").await;
    redis.until(&["TYPE", "presence:{0}:history:lobby"], |reply| reply.text() == "zset").await;
    redis.until(&["ZCARD", "presence:{0}:history:lobby"], |reply| reply.number() == 2).await;
    wait_for_one_history(&[&node], &["first", "second"]).await;
}

const DAY_S: i64 = 24 * 60 * 60;

/// The times of messages, in seconds.
fn times(messages: &[Value]) -> Vec<f64> {
    messages.iter().map(|message| message["payload"]["ts"].as_f64().expect("a time")).collect()
}

#[tokio::test]
async fn a_node_whose_clock_differs_from_that_of_redis_uses_the_time_of_redis_for_messages_and_reports_it() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970").as_secs_f64();
    for shift in [DAY_S, -DAY_S] {
        redis.command(&["FLUSHALL"]).await;
        proxy.shift_clock(shift);
        let (url, flags) = (proxy.url(), ["--history", "4"]);
        let (a, b) = tokio::join!(Node::start("a", &url, &flags), Node::start("b", &url, &flags));
        a.wait_until("a warning", async || !a.warnings().is_empty()).await;
        let direction = if shift > 0 { "1day behind" } else { "1day ahead of" };
        let first = &a.warnings()[0];
        assert!(first.contains("the clock of node a is") && first.contains("of Redis"), "{first}");
        assert!(first.contains(direction) || first.contains("23h 59m"), "{first}");
        let difference = a.stat("redis_clock_difference_ms").await;
        assert!(difference.abs_diff(DAY_S.unsigned_abs() * 1000) < 10_000, "{difference}");
        let (mut alice, mut bob) = (a.chat("alice").await, b.chat("bob").await);
        let before = now() + shift as f64;
        say(&mut alice, "one").await;
        say(&mut bob, "two").await;
        // In any order: each node measures the time of Redis by itself, and less exactly on a busy machine.
        let shown = wait_for_one_history(&[&a, &b], &["one", "two"]).await;
        let after = now() + shift as f64;
        assert!(times(&shown).iter().all(|time| (before - 10.0..after + 10.0).contains(time)), "{shown:?} {before}");
        // Once the clocks agree, nothing of the other time is left to displace anything.
        proxy.shift_clock(0);
        for node in [&a, &b] {
            let agrees = |line: &String| line.contains("agrees with the clock of Redis again");
            node.wait_until("the clocks to agree", async || node.log().iter().any(agrees)).await;
        }
        for number in 0..4 {
            say(&mut alice, &format!("later {number}")).await;
        }
        let later = ["later 0", "later 1", "later 2", "later 3"];
        assert_eq!(texts(&wait_for_one_history(&[&a, &b], &later).await), later);
        assert_eq!(a.warnings().len(), 1, "{:#?}", a.warnings());
        let (one, other) = tokio::join!(a.terminate(), b.terminate());
        assert!(one.success() && other.success());
    }
}

#[tokio::test]
async fn messages_of_a_node_whose_clock_is_a_day_ahead_displace_no_others() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let flags = ["--history", "3"];
    let b = Node::start("b", &redis.url(), &flags).await;
    let mut bob = b.chat("bob").await;
    say(&mut bob, "first").await;
    // Node a believes that Redis is a day ahead, and gives its messages that time.
    proxy.shift_clock(DAY_S);
    let a = Node::start("a", &proxy.url(), &flags).await;
    let mut alice = a.chat("alice").await;
    for number in 0..5 {
        say(&mut alice, &format!("tomorrow {number}")).await;
        bob.wait_until("the message", |bob| texts(&messages_of(bob)).len() == number + 2).await;
    }
    let shown = history(&b).await;
    assert_eq!(texts(&shown), ["first"]);
    let said: Vec<_> = (0..3).map(|number| format!("today {number}")).collect();
    for text in &said {
        say(&mut bob, text).await;
    }
    let said: Vec<_> = said.iter().map(String::as_str).collect();
    wait_for_one_history(&[&b], &said).await;
    // Nor in Redis, where a node that starts now reads.
    redis
        .until(&["ZRANGE", "presence:{0}:history:lobby", "0", "-1"], |reply| {
            let texts = reply.texts();
            said.iter().all(|text| texts.iter().any(|kept| kept.contains(text)))
        })
        .await;
    a.kill();
    let c = Node::start("c", &redis.url(), &flags).await;
    assert_eq!(texts(&history(&c).await), said);
}
