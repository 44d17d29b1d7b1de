//! Events that clients send to each other.

use serde_json::{Value, json};

use super::{client, last_error};
use crate::common::pusher::APP_FLAGS;
use crate::common::{PusherClient, TestServer};

const ANN: &str = r#"{"user_id":"ann"}"#;
const SEVEN: &str = r#"{"user_id":7}"#;

async fn wait_for(client: &mut PusherClient, event: &str) -> Value {
    client.wait_until("an event", |client| !client.of(event).is_empty()).await;
    client.of(event)[0].clone()
}

#[tokio::test]
async fn all_subscribers_but_the_sender_receive_an_event() {
    let server = TestServer::start(&APP_FLAGS);
    let mut clients = [client(&server).await, client(&server).await, client(&server).await];
    for client in &mut clients {
        client.join("private-a", None).await;
    }
    let [mut sender, mut other, mut third] = clients;
    let data = json!({"a": [1.5, "x", null], "deep": [[[[[[[[[[[1]]]]]]]]]]]});
    sender.trigger("private-a", "client-one", &data);
    other.trigger("private-a", "client-two", &json!("text"));
    let one = json!({"channel": "private-a", "event": "client-one", "data": data});
    let two = json!({"channel": "private-a", "event": "client-two", "data": "text"});
    assert_eq!(
        (wait_for(&mut other, "client-one").await, wait_for(&mut sender, "client-two").await),
        (one.clone(), two.clone())
    );
    assert_eq!((wait_for(&mut third, "client-one").await, wait_for(&mut third, "client-two").await), (one, two));
    sender.trigger("private-a", "client-end", &json!(null));
    wait_for(&mut other, "client-end").await;
    assert!(sender.of("client-one").is_empty() && other.of("client-two").is_empty());
    server.stop().await;
}

#[tokio::test]
async fn an_event_in_a_presence_channel_names_its_sender() {
    let server = TestServer::start(&APP_FLAGS);
    let (mut ann, mut seven, mut again) = (client(&server).await, client(&server).await, client(&server).await);
    ann.join("presence-a", Some(ANN)).await;
    seven.join("presence-a", Some(SEVEN)).await;
    again.join("presence-a", Some(SEVEN)).await;
    ann.trigger("presence-a", "client-a", &json!({"n": 1}));
    seven.trigger("presence-a", "client-b", &json!({}));
    assert_eq!(wait_for(&mut seven, "client-a").await["user_id"], "ann");
    assert_eq!(wait_for(&mut ann, "client-b").await["user_id"], 7);
    // Another connection of the same user receives it.
    assert_eq!(wait_for(&mut again, "client-b").await["user_id"], 7);
    assert!(seven.of("client-b").is_empty() && ann.of("client-a").is_empty());
    server.stop().await;
}

#[tokio::test]
async fn events_that_are_not_allowed_are_errors_and_reach_nobody() {
    let server = TestServer::start(&APP_FLAGS);
    let (mut client, mut other) = (client(&server).await, client(&server).await);
    for channel in ["news", "private-encrypted-a", "private-a"] {
        client.join(channel, None).await;
        other.join(channel, None).await;
    }
    let long = json!("x".repeat(10 * 1024));
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let cases: [(&str, &str, &Value, &str); 6] = [
        ("private-a", "client-a", &deep, "deeper than 99 levels"),
        ("news", "client-a", &json!(1), "private and presence"),
        ("private-encrypted-a", "client-a", &json!(1), "not encrypted"),
        ("private-b", "client-a", &json!(1), "not subscribed"),
        ("private-a", "client-a", &long, "10 KiB"),
        ("private-a", &format!("client-{}", "x".repeat(200)), &json!(1), "200 characters"),
    ];
    for (channel, event, data, message) in cases {
        client.trigger(channel, event, data);
        client.sync().await;
        assert!(last_error(&client).1.contains(message), "{message}: {:?}", last_error(&client));
    }
    client.send(&json!({"event": "client-a", "data": 1}));
    client.sync().await;
    assert!(last_error(&client).1.contains("channel"));
    client.unsubscribe("private-a");
    client.trigger("private-a", "client-a", &json!(1));
    client.sync().await;
    assert!(last_error(&client).1.contains("not subscribed"));
    client.subscribe("private-a", None);
    client.wait_until("the subscription", |client| client.channels.contains_key("private-a")).await;
    client.trigger("private-a", "client-last", &json!(1));
    wait_for(&mut other, "client-last").await;
    assert!(other.of("client-a").is_empty());
    server.stop().await;
}

#[tokio::test]
async fn an_application_without_client_messages_allows_none() {
    let server = TestServer::start(&["--open", "--pusher-app", "1:app-key:app-secret"]);
    let mut client = client(&server).await;
    client.join("private-a", None).await;
    client.trigger("private-a", "client-a", &json!(1));
    client.sync().await;
    assert!(last_error(&client).1.contains("does not allow client events"));
    server.stop().await;
}

#[tokio::test]
async fn more_than_ten_events_in_a_second_are_refused_with_4301() {
    let server = TestServer::start(&APP_FLAGS);
    let (mut client, mut other) = (client(&server).await, client(&server).await);
    client.join("private-a", None).await;
    other.join("private-a", None).await;
    // A second may begin in between: of 21 events at least one is the eleventh of its second.
    for number in 0..21 {
        client.trigger("private-a", "client-a", &json!(number));
    }
    client.wait_until("an error", |client| !client.of("pusher:error").is_empty()).await;
    assert_eq!(last_error(&client).0, 4301);
    other.wait_until("ten events", |other| other.of("client-a").len() >= 10).await;
    client.sync().await;
    server.stop().await;
}
