//! Events that applications publish over HTTP.

use serde_json::{Value, json};

use super::client;
use super::connecting::OTHER;
use crate::common::pusher::{APP, APP_FLAGS};
use crate::common::pusher_api::{Call, text_error};
use crate::common::{PusherClient, TestServer};

const EVENTS: &str = "/apps/1/events";
const BATCH: &str = "/apps/1/batch_events";

/// A server with two applications.
fn server() -> TestServer {
    TestServer::start(&[&APP_FLAGS[..], &["--pusher-app", "2:other-key:other-secret"]].concat())
}

/// The channels, names and data of the events that a client received.
fn received(client: &PusherClient) -> Vec<(&str, &str, &Value)> {
    let events = client.log.iter().filter(|message| !message["event"].as_str().unwrap().starts_with("pusher"));
    events.map(|event| (event["channel"].as_str().unwrap(), event["event"].as_str().unwrap(), &event["data"])).collect()
}

#[tokio::test]
async fn an_event_reaches_the_subscribers_of_its_channels_and_no_other_application() {
    let server = server();
    let (mut here, mut there) = (client(&server).await, client(&server).await);
    let mut other = PusherClient::connect(server.address(), OTHER).await;
    for client in [&mut here, &mut there, &mut other] {
        client.join("news", None).await;
    }
    here.join("private-a", None).await;
    let data = "{\"text\": \"a/b \u{2603}\\n\"} ";
    let event = json!({"name": "one", "data": data, "channels": ["news", "private-a", "nobody", "news"]});
    assert_eq!(Call::post(APP, EVENTS, &event).ok(server.address()).await, json!({}));
    let event = json!({"name": "two", "data": "x", "channel": "news", "socket_id": here.socket_id});
    assert_eq!(Call::post(APP, EVENTS, &event).ok(server.address()).await, json!({}));
    let event = json!({"name": "three", "data": "", "channel": "news", "socket_id": "9999999999.1"});
    assert_eq!(Call::post(APP, EVENTS, &event).ok(server.address()).await, json!({}));
    let of_other = json!({"name": "other", "data": "x", "channels": ["news", "private-a"]});
    assert_eq!(Call::post(OTHER, "/apps/2/events", &of_other).ok(server.address()).await, json!({}));
    there.wait_until("three", |client| !client.of("three").is_empty()).await;
    here.wait_until("all", |here| !here.of("three").is_empty() && here.of("one").len() == 2).await;
    other.wait_until("its event", |client| !client.of("other").is_empty()).await;
    let (data, x, empty) = (json!(data), json!("x"), json!(""));
    assert_eq!(received(&there), [("news", "one", &data), ("news", "two", &x), ("news", "three", &empty)]);
    let mut of_here = received(&here);
    of_here.sort_unstable_by_key(|(channel, event, _)| (*channel, *event));
    assert_eq!(of_here, [("news", "one", &data), ("news", "three", &empty), ("private-a", "one", &data)]);
    assert_eq!(received(&other), [("news", "other", &x)]);
    assert!(here.of("one").iter().all(|event| event.get("user_id").is_none()));
    // Each channel counts, and a channel that is named twice counts once.
    assert_eq!(server.stat("messages_published").await, 7);
    server.stop().await;
}

#[tokio::test]
async fn a_batch_is_published_in_order() {
    let server = server();
    let mut client = client(&server).await;
    client.join("news", None).await;
    client.join("presence-a", Some(r#"{"user_id":"7"}"#)).await;
    let event = |channel: &str, name: &str| json!({"channel": channel, "name": name, "data": "x"});
    let mut batch: Vec<_> = (0..10).map(|number| event("news", &format!("event {number}"))).collect();
    batch[3]["socket_id"] = client.socket_id.as_str().into();
    let answer = Call::post(APP, BATCH, &json!({ "batch": batch })).ok(server.address()).await;
    assert_eq!(answer, json!({}));
    client.wait_until("the last", |client| !client.of("event 9").is_empty()).await;
    let names: Vec<_> = received(&client).iter().map(|(_, name, _)| (*name).to_owned()).collect();
    assert_eq!(names, [0, 1, 2, 4, 5, 6, 7, 8, 9].map(|number| format!("event {number}")));
    let mut batch = [event("news", "a"), event("presence-a", "b"), event("news", "c")];
    batch[0]["info"] = "subscription_count,user_count".into();
    batch[1]["info"] = "user_count,subscription_count".into();
    let answer = Call::post(APP, BATCH, &json!({ "batch": batch })).ok(server.address()).await;
    let infos = json!([{"subscription_count": 1}, {"user_count": 1, "subscription_count": 1}, {}]);
    assert_eq!(answer, json!({ "batch": infos }));
    assert_eq!(Call::post(APP, BATCH, &json!({"batch": []})).ok(server.address()).await, json!({}));
    server.stop().await;
}

#[tokio::test]
async fn the_answer_has_the_counts_of_all_channels_on_request() {
    let server = server();
    let mut clients = [client(&server).await, client(&server).await, client(&server).await];
    for (client, member) in clients.iter_mut().zip(["1", "1", "2"]) {
        client.join("presence-a", Some(&json!({"user_id": member}).to_string())).await;
    }
    let channels = ["presence-a", "news", "#server-to-user-7"];
    let event = json!({"name": "e", "data": "", "channels": channels, "info": "user_count, subscription_count"});
    let counts = json!({
        "presence-a": {"user_count": 2, "subscription_count": 3},
        "news": {"subscription_count": 0},
        "#server-to-user-7": {},
    });
    assert_eq!(Call::post(APP, EVENTS, &event).ok(server.address()).await, json!({ "channels": counts }));
    server.stop().await;
}

#[tokio::test]
async fn an_event_that_is_too_large_or_wrong_is_refused_and_not_published() {
    let server = server();
    let mut client = client(&server).await;
    client.join("news", None).await;
    let (address, good) = (server.address(), json!({"name": "e", "data": "x", "channels": ["news"]}));
    let with = |field: &str, value: Value| {
        let mut event = good.clone();
        event[field] = value;
        event
    };
    let error = async |event: &Value, status| Call::post(APP, EVENTS, event).error(address, status).await;
    let too_long = "d".repeat(10 * 1024 + 1);
    assert!(error(&with("data", json!(too_long)), 413).await.contains("10,240"));
    assert!(error(&with("channels", json!(vec!["news"; 101])), 400).await.contains("100"));
    error(&with("channels", json!(["news", "a b"])), 400).await;
    error(&with("name", json!("")), 400).await;
    error(&with("info", json!("users")), 400).await;
    error(&with("socket_id", json!("1")), 400).await;
    error(&json!([good]), 400).await;
    let batch = |events: Vec<Value>| Call::post(APP, BATCH, &json!({ "batch": events }));
    let in_batch = json!({"name": "e", "data": "x", "channel": "news"});
    assert!(batch(vec![in_batch.clone(); 11]).error(address, 400).await.contains("Batch too large"));
    let mut long = in_batch.clone();
    long["data"] = json!(too_long);
    batch(vec![in_batch, long]).error(address, 413).await;
    Call::post(APP, EVENTS, &json!("x".repeat(300 * 1024))).error(address, 413).await;
    Call::post(APP, EVENTS, &with("name", json!("last"))).ok(address).await;
    client.wait_until("the last", |client| !client.of("last").is_empty()).await;
    assert_eq!(received(&client), [("news", "last", &json!("x"))]);
    server.stop().await;
}

#[tokio::test]
async fn a_channel_has_a_limit_per_tick_and_nothing_of_a_refused_request_is_published() {
    let server = server();
    let mut other = client(&server).await;
    other.join("other", None).await;
    let data = "d".repeat(10 * 1024);
    let event = |channels: &[&str]| json!({"name": "e", "data": data, "channels": channels});
    let address = server.address();
    let accepted = server
        .without_ticks(async || {
            let mut accepted = 0;
            let refused = loop {
                let answer = Call::post(APP, EVENTS, &event(&["news"])).send(address).await;
                if answer.status != 200 {
                    break answer;
                }
                accepted += 1;
            };
            assert_eq!(refused.header("retry-after"), Some("1"));
            text_error(&refused, 429);
            Call::post(APP, EVENTS, &event(&["other", "news"])).error(address, 429).await;
            // Channels of the same name of another application are others.
            Call::post(OTHER, "/apps/2/events", &event(&["news"])).ok(address).await;
            accepted
        })
        .await;
    assert!((95..=102).contains(&accepted), "1 MiB: {accepted}");
    let end = json!({"name": "end", "data": "", "channels": ["other"]});
    Call::post(APP, EVENTS, &end).ok(address).await;
    other.wait_until("the end", |other| !other.of("end").is_empty()).await;
    assert!(other.of("e").is_empty());
    server.stop().await;
}
