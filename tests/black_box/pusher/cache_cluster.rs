//! Cache channels of several nodes: an event that any node got is known to all of them, also to those that start later.

use crate::common::pusher::{APP, APP_FLAGS};
use crate::common::pusher_api::Call;
use crate::common::resp::Reply;
use crate::common::{Node, Proxy, ProxyMode, PusherClient, Redis, SHORT_TTL_FLAG};

use super::cache::{event, member, received, wait_for_first};

const KEY: &str = "presence:{0}:last:\0pusher:1:cache-a";
const MEMBERS_KEY: &str = "presence:{0}:last:\0pusher:1:presence-cache-a";

async fn start(id: &str, url: &str) -> Node {
    Node::start(id, url, &[&APP_FLAGS[..], &SHORT_TTL_FLAG].concat()).await
}

async fn publish(node: &Node, name: &str, channel: &str) {
    Call::post(APP, "/apps/1/events", &event(name, &[channel])).ok(node.address).await;
}

/// What a new subscriber on a node receives behind the success.
async fn first_on(node: &Node, channel: &str) -> String {
    let mut client = PusherClient::connect(node.address, APP).await;
    client.join(channel, member(channel)).await;
    wait_for_first(&mut client, channel).await;
    received(&client, channel)[0].to_owned()
}

/// Waits until a new subscriber on a node receives this.
async fn wait_for(node: &Node, channel: &str, expected: &str) {
    node.wait_until("what is cached", async || first_on(node, channel).await == expected).await;
}

async fn wait_for_key(redis: &Redis, event: &str) {
    wait_for_event(redis, KEY, event).await;
}

async fn wait_for_event(redis: &Redis, key: &str, event: &str) {
    let has = |reply: &Reply| matches!(reply, Reply::Text(text) if text.contains(&format!("\"event\":\"{event}\"")));
    redis.until(&["GET", key], has).await;
}

#[tokio::test]
async fn an_event_is_known_to_all_nodes_and_outlives_the_one_that_got_it() {
    let redis = Redis::start().await;
    let (first, second) = (start("a", &redis.url()).await, start("b", &redis.url()).await);
    publish(&first, "one", "cache-a").await;
    publish(&first, "member", "presence-cache-a").await;
    wait_for(&second, "cache-a", "one").await;
    wait_for(&second, "presence-cache-a", "member").await;
    wait_for_key(&redis, "one").await;
    wait_for_event(&redis, MEMBERS_KEY, "member").await;
    let Reply::Number(ttl) = redis.command(&["TTL", KEY]).await else { panic!("no time") };
    assert!((1700..=1800).contains(&ttl), "{ttl}");
    first.kill();
    assert_eq!(first_on(&second, "cache-a").await, "one");
    assert_eq!(first_on(&second, "presence-cache-a").await, "member");
    second.kill();
    // This one has heard of nothing.
    let third = start("c", &redis.url()).await;
    assert_eq!(first_on(&third, "presence-cache-a").await, "member");
    let answer = Call::get(APP, "/apps/1/channels/cache-a").with("info=cache").ok(third.address).await;
    assert_eq!(answer["cache"]["data"], "{\"one\":\"\t\"}");
    assert!(answer["cache"]["ttl"].as_u64().expect("a time") <= 1800);
    assert_eq!(first_on(&third, "cache-a").await, "one");
    assert_eq!(first_on(&third, "cache-b").await, "pusher:cache_miss");
}

#[tokio::test]
async fn the_last_event_counts_whichever_nodes_got_them() {
    let redis = Redis::start().await;
    let nodes = [start("a", &redis.url()).await, start("b", &redis.url()).await];
    let mut client = PusherClient::connect(nodes[0].address, APP).await;
    client.join("cache-a", None).await;
    for number in 0..10 {
        let name = format!("event-{number}");
        publish(&nodes[number % 2], &name, "cache-a").await;
        client.wait_until("the event", |client| !client.of(&name).is_empty()).await;
    }
    wait_for_key(&redis, "event-9").await;
    for node in &nodes {
        assert_eq!(first_on(node, "cache-a").await, "event-9");
    }
    assert_eq!(received(&client, "cache-a").len(), 11, "a miss, and each event once: {:?}", client.log);
}

#[tokio::test]
async fn a_node_goes_on_with_what_it_knows_while_redis_is_away_and_catches_up() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let (cut_off, other) = (start("a", &proxy.url()).await, start("b", &redis.url()).await);
    publish(&other, "one", "cache-a").await;
    wait_for(&cut_off, "cache-a", "one").await;
    // Whatever the store is asked, it does not answer, and then it is away.
    proxy.set(ProxyMode::Stall);
    assert_eq!(first_on(&cut_off, "cache-c").await, "pusher:cache_miss");
    proxy.set(ProxyMode::Refuse);
    cut_off.wait_until_degraded(true).await;
    publish(&other, "two", "cache-a").await;
    publish(&cut_off, "here", "cache-b").await;
    wait_for(&other, "cache-a", "two").await;
    wait_for(&cut_off, "cache-b", "here").await;
    assert_eq!(first_on(&cut_off, "cache-a").await, "one");
    assert_eq!(first_on(&cut_off, "cache-c").await, "pusher:cache_miss");
    proxy.set(ProxyMode::Forward);
    cut_off.wait_until_degraded(false).await;
    assert_eq!(first_on(&cut_off, "cache-a").await, "two");
    wait_for(&other, "cache-b", "here").await;
}

#[tokio::test]
async fn what_redis_loses_is_written_again() {
    let redis = Redis::start().await;
    let node = start("a", &redis.url()).await;
    publish(&node, "one", "cache-a").await;
    wait_for_key(&redis, "one").await;
    redis.command(&["FLUSHALL"]).await;
    wait_for_key(&redis, "one").await;
    redis.until(&["TTL", KEY], |ttl| matches!(ttl, Reply::Number(1700..=1800))).await;
}
