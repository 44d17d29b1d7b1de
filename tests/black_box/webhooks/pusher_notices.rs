//! Webhooks in the format of Pusher about what happens once: events of clients, and channels without a last event.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::pusher::verified;
use crate::common::pusher::{APP, APP_FLAGS};
use crate::common::pusher_api::Call;
use crate::common::raw::DetachedClient;
use crate::common::{DEADLINE, Does, Node, PusherClient, RawClient, Redis, TestServer, Upstream};

const MEMBER: Option<&str> = Some(r#"{"user_id":7}"#);

/// An endpoint, and the events that it has received in order.
struct Receiver {
    upstream: Upstream,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    /// Each request fails once.
    async fn start() -> Self {
        let events = Arc::<Mutex<Vec<Value>>>::default();
        let (of_handler, mut attempts) = (Arc::clone(&events), BTreeMap::<String, usize>::new());
        let upstream = Upstream::start(move |seen| {
            let events = verified(seen, &[APP]);
            let attempt = attempts.entry(Value::from(events.clone()).to_string()).or_default();
            *attempt += 1;
            if *attempt == 1 {
                return Does::Answer(500, String::new(), Vec::new());
            }
            of_handler.lock().expect("no panic").extend(events);
            Does::Answer(200, String::new(), Vec::new())
        });
        Self { upstream: upstream.await, events }
    }

    /// The flags of a server that reports these kinds.
    fn flags(&self, events: &str) -> Vec<String> {
        let url = self.upstream.url("/pusher");
        let flags = ["--webhook-url", &url, "--webhook-format", "pusher", "--webhook-events", events];
        APP_FLAGS.iter().chain(&flags).map(|flag| (*flag).to_owned()).collect()
    }

    /// Waits for as many events, and checks that they are these, in this order per channel.
    async fn wait_for(&self, expected: &[Value]) {
        let deadline = Instant::now() + DEADLINE;
        let known = || self.events.lock().expect("no panic").clone();
        while known().len() < expected.len() {
            assert!(Instant::now() < deadline, "{:?} instead of {expected:?}", known());
            sleep(Duration::from_millis(5)).await;
        }
        let sorted = |mut events: Vec<Value>| {
            events.sort_by_key(|event| event["channel"].to_string());
            events
        };
        assert_eq!(sorted(known()), sorted(expected.to_vec()));
    }
}

fn start(receiver: &Receiver, events: &str, more: &[&str]) -> TestServer {
    let flags = receiver.flags(events);
    // Notices do not wait for returns.
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--webhook-delay", "60s"]).collect();
    flags.extend(more);
    TestServer::start(&flags)
}

fn client_event(client: &PusherClient, channel: &str, event: &str, data: &str) -> Value {
    json!({"name": "client_event", "channel": channel, "event": event, "data": data, "socket_id": client.socket_id})
}

fn miss(channel: &str) -> Value {
    json!({"name": "cache_miss", "channel": channel})
}

#[tokio::test]
async fn events_of_clients_are_reported_once_and_in_order() {
    let receiver = Receiver::start().await;
    let server = start(&receiver, "client_event", &["--webhook-rooms", "*-room"]);
    let mut alice = PusherClient::connect(server.address(), APP).await;
    alice.join("presence-room", MEMBER).await;
    let mut bob = PusherClient::connect(server.address(), APP).await;
    bob.join("presence-room", Some(r#"{"user_id":"8"}"#)).await;
    alice.join("private-room", None).await;
    alice.join("private-other", None).await;
    let mut expected = Vec::new();
    let mut trigger = |channel: &str, event: &str, data: &Value, text: &str| {
        alice.trigger(channel, event, data);
        let mut event = client_event(&alice, channel, event, text);
        if channel == "presence-room" {
            event["user_id"] = "7".into();
        }
        expected.push(event);
    };
    trigger("presence-room", "client-object", &json!({"a": ["ü", "\"x\""]}), r#"{"a":["ü","\"x\""]}"#);
    trigger("private-room", "client-text", &json!("a \"text\"\n"), "a \"text\"\n");
    trigger("private-room", "client-\"é\"", &json!(null), "null");
    trigger("private-room", "client-number", &json!(1.5), "1.5");
    // No client has sent this one, and the last two are not selected or refused.
    let call = json!({"name": "client-of-the-server", "channels": ["private-room"], "data": "1"});
    Call::post(APP, "/apps/1/events", &call).ok(server.address()).await;
    alice.trigger("private-other", "client-elsewhere", &json!(1));
    alice.trigger("private-strange-room", "client-not-subscribed", &json!(1));
    alice.sync().await;
    bob.wait_until("the object", |bob| !bob.of("client-object").is_empty()).await;
    bob.trigger("presence-room", "client-last", &json!({}));
    let mut last = client_event(&bob, "presence-room", "client-last", "{}");
    last["user_id"] = "8".into();
    expected.push(last);
    bob.sync().await;
    alice.wait_until("the last event", |alice| !alice.of("client-last").is_empty()).await;
    receiver.wait_for(&expected).await;
    server.wait_for_stat("webhooks_events", 5).await;
    server.stop().await;
}

#[tokio::test]
async fn a_cache_miss_is_reported_once_for_the_subscribers_of_a_tick() {
    let receiver = Receiver::start().await;
    let server = start(&receiver, "cache_miss", &[]);
    let clients = server
        .without_ticks(async || {
            let mut clients = Vec::new();
            for _ in 0..4 {
                let mut client = RawClient::open(server.address(), "/app/app-key?protocol=7").await;
                client.send_json(&json!({"event": "pusher:subscribe", "data": {"channel": "cache-news"}})).await;
                client.send_json(&json!({"event": "pusher:ping"})).await;
                assert_eq!(client.json().await["event"], "pusher:connection_established");
                assert_eq!(client.json().await["event"], "pusher:pong");
                clients.push(client.detach());
            }
            clients
        })
        .await;
    let mut clients: Vec<_> = clients.into_iter().map(DetachedClient::attach).collect();
    for client in &mut clients {
        assert_eq!(client.json().await["event"], "pusher_internal:subscription_succeeded");
        assert_eq!(client.json().await["event"], "pusher:cache_miss");
    }
    let mut expected = vec![miss("cache-news")];
    receiver.wait_for(&expected).await;
    let mut alice = PusherClient::connect(server.address(), APP).await;
    alice.join("presence-cache-room", MEMBER).await;
    expected.push(miss("presence-cache-room"));
    receiver.wait_for(&expected).await;
    // Subscribers who receive an event miss none, and other channels have none.
    let call = json!({"name": "news", "channels": ["cache-news"], "data": "1"});
    Call::post(APP, "/apps/1/events", &call).ok(server.address()).await;
    assert_eq!(clients[0].json().await["event"], "news");
    let mut late = PusherClient::connect(server.address(), APP).await;
    late.join("cache-news", None).await;
    late.join("news", None).await;
    late.wait_until("the event", |late| !late.of("news").is_empty()).await;
    late.join("cache-last", None).await;
    expected.push(miss("cache-last"));
    receiver.wait_for(&expected).await;
    server.stop().await;
}

#[tokio::test]
async fn neither_is_reported_unless_it_is_selected() {
    let receiver = Receiver::start().await;
    let flags = receiver.flags("room_occupied");
    let default: Vec<&str> = flags.iter().map(String::as_str).filter(|flag| !flag.contains("events")).collect();
    let default: Vec<&str> = default.into_iter().filter(|flag| *flag != "room_occupied").collect();
    let server = TestServer::start(&default);
    let mut alice = PusherClient::connect(server.address(), APP).await;
    alice.join("private-cache-room", None).await;
    alice.wait_until("the miss", |alice| !alice.of("pusher:cache_miss").is_empty()).await;
    alice.trigger("private-cache-room", "client-a", &json!(1));
    alice.sync().await;
    let occupied = |channel: &str| json!({"name": "channel_occupied", "channel": channel});
    receiver.wait_for(&[occupied("private-cache-room")]).await;
    alice.join("news", None).await;
    receiver.wait_for(&[occupied("private-cache-room"), occupied("news")]).await;
    server.stop().await;
}

#[tokio::test]
async fn beyond_half_of_the_queue_notices_are_dropped_and_changes_are_not() {
    let receiver = Receiver::start().await;
    receiver.upstream.set(|_| Does::Hold(500, String::new()));
    let flags = receiver.flags("room_occupied,cache_miss");
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--webhook-queue", "100"]).collect();
    let node = Node::with_flags("a", &flags).await;
    let mut client = PusherClient::connect(node.address, APP).await;
    client.join("cache-first", None).await;
    receiver.upstream.wait_for_held(1).await;
    for number in 0..60 {
        client.join(&format!("cache-{number}"), None).await;
    }
    // 60 occupied channels and 40 misses wait; two events are on their way.
    node.wait_until("the drop", async || node.stat("webhooks_notices_dropped").await == 20).await;
    assert_eq!((node.stat("webhooks_queued").await, node.stat("webhooks_dropped").await), (102, 0));
    let lines = node.log();
    let line = lines.iter().find(|line| line.contains("too many client events and cache misses wait"));
    assert!(line.is_some_and(|line| line.contains("WARN")), "{lines:?}");
    let events = Arc::<Mutex<Vec<Value>>>::default();
    let of_handler = Arc::clone(&events);
    receiver.upstream.set(move |seen| {
        of_handler.lock().expect("no panic").extend(verified(seen, &[APP]));
        Does::Answer(200, String::new(), Vec::new())
    });
    receiver.upstream.release();
    node.wait_until("the delivery", async || node.stat("webhooks_queued").await == 0).await;
    let events = events.lock().expect("no panic").clone();
    let count = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    assert_eq!((count("channel_occupied"), count("cache_miss")), (61, 41));
}

#[tokio::test]
async fn the_node_that_a_client_is_connected_to_reports_its_events() {
    let (receiver, redis) = (Receiver::start().await, Redis::start().await);
    let flags = receiver.flags("client_event,cache_miss");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let nodes = [Node::start("a", &redis.url(), &flags).await, Node::start("b", &redis.url(), &flags).await];
    let mut clients = Vec::new();
    let mut expected = Vec::new();
    for node in &nodes {
        let mut client = PusherClient::connect(node.address, APP).await;
        client.join("private-cache-room", None).await;
        client.wait_until("the miss", |client| !client.of("pusher:cache_miss").is_empty()).await;
        expected.push(miss("private-cache-room"));
        receiver.wait_for(&expected).await;
        clients.push(client);
    }
    // Both hear of the channel. What a node reported of the other one would come before its own.
    for number in 0..6 {
        let event = format!("client-{number}");
        let (sender, other) = (number % 2, (number + 1) % 2);
        clients[sender].trigger("private-cache-room", &event, &json!({"n": number}));
        clients[other].wait_until("the event", |client| !client.of(&event).is_empty()).await;
        expected.push(client_event(&clients[sender], "private-cache-room", &event, &format!("{{\"n\":{number}}}")));
        receiver.wait_for(&expected).await;
    }
    for node in &nodes {
        node.wait_until("the count", async || node.stat("webhooks_events").await == 4).await;
    }
}
