//! Public and private channels: who may subscribe, and what is answered.

use serde_json::{Value, json};

use super::connecting::OTHER;
use super::{client, last_error};
use crate::common::pusher::{APP, APP_FLAGS};
use crate::common::{PusherClient, TestServer, http};

fn subscribe(channel: &str, auth: &str) -> Value {
    json!({"event": "pusher:subscribe", "data": {"channel": channel, "auth": auth}})
}

fn errors(client: &PusherClient) -> Vec<Value> {
    client.of("pusher:subscription_error").iter().map(|error| (*error).clone()).collect()
}

#[tokio::test]
async fn anybody_may_subscribe_to_a_public_channel_and_leave_it() {
    let server = TestServer::start(&APP_FLAGS);
    let mut client = client(&server).await;
    client.join("news", None).await;
    client.subscribe("news", None);
    client.wait_until("a second answer", |client| client.channels["news"].succeeded == 2).await;
    // `data` may be a string that contains JSON.
    client.send(&json!({"event": "pusher:subscribe", "data": "{\"channel\":\"sport\"}"}));
    client.wait_until("the subscription", |client| client.channels.contains_key("sport")).await;
    client.unsubscribe("news");
    client.unsubscribe("news");
    client.subscribe("news", None);
    client.unsubscribe("news");
    client.subscribe("news", None);
    client.wait_until("the subscription", |client| client.channels.contains_key("news")).await;
    assert!(client.of("pusher:error").is_empty() && errors(&client).is_empty(), "{:?}", client.log);
    let success = client.of("pusher_internal:subscription_succeeded")[0].clone();
    assert_eq!(success, json!({"event": "pusher_internal:subscription_succeeded", "channel": "news", "data": {}}));
    server.stop().await;
}

#[tokio::test]
async fn private_channels_need_a_signature_for_this_connection_channel_and_application() {
    let flags = [&APP_FLAGS[..], &["--pusher-app", "2:other-key:other-secret"]].concat();
    let server = TestServer::start(&flags);
    let (mut client, other) = (client(&server).await, client(&server).await);
    let signed = |text: &str| APP.sign(text);
    let socket = client.socket_id.clone();
    let good = signed(&format!("{socket}:private-a"));
    let wrong = [
        String::new(),
        good.replace("app-key", "other-key"),
        good.to_uppercase(),
        format!("{good}0"),
        good[.."app-key:".len() + 10].to_owned(),
        signed(&format!("{}:private-a", other.socket_id)),
        signed(&format!("{socket}:private-b")),
        signed(&format!("{socket}:private-a:{{}}")),
        OTHER.sign(&format!("{socket}:private-a")),
    ];
    for (number, auth) in wrong.iter().enumerate() {
        client.send(&subscribe("private-a", auth));
        client.wait_until("the error", |client| errors(client).len() > number).await;
        let error = errors(&client).pop().unwrap();
        let data = json!({"type": "AuthError", "error": "The connection is unauthorized.", "status": 401});
        let expected = json!({"event": "pusher:subscription_error", "channel": "private-a", "data": data});
        assert_eq!(error, expected, "{auth}");
    }
    client.send(&subscribe("private-a", &good));
    client.wait_until("the subscription", |client| client.channels.contains_key("private-a")).await;
    // What is sent as channel_data is always signed.
    let auth = signed(&format!("{socket}:private-b:{{\"a\":1}}"));
    let data = json!({"channel": "private-b", "auth": auth, "channel_data": "{\"a\":1}"});
    client.send(&json!({"event": "pusher:subscribe", "data": data}));
    client.wait_until("the subscription", |client| client.channels.contains_key("private-b")).await;
    server.stop().await;
}

#[tokio::test]
async fn names_that_are_no_channels_are_refused() {
    let server = TestServer::start(&APP_FLAGS);
    let mut client = client(&server).await;
    let long = "x".repeat(201);
    let names = ["", "a:b", "a b", "ü", "#signed-in", "\u{0}pusher:2:news", &long];
    for (number, name) in names.iter().enumerate() {
        client.send(&subscribe(name, ""));
        client.wait_until("the error", |client| errors(client).len() > number).await;
        let error = errors(&client).pop().unwrap();
        assert_eq!(
            (&error["data"]["type"], &error["data"]["status"]),
            (&json!("InvalidChannel"), &json!(400)),
            "{name}"
        );
    }
    client.join(&"x".repeat(200), None).await;
    client.send(&json!({"event": "pusher:subscribe", "data": {}}));
    client.sync().await;
    assert!(last_error(&client).1.contains("channel"), "{:?}", last_error(&client));
    server.stop().await;
}

#[tokio::test]
async fn channels_are_not_rooms_of_others() {
    let server = TestServer::start(&APP_FLAGS);
    let mut client = client(&server).await;
    client.join("news", None).await;
    client.join("presence-a", Some(r#"{"user_id":"7"}"#)).await;
    let observer = server.observe("ann", "news").await;
    let rooms = server.get("/v1/rooms").await.json();
    assert_eq!(rooms["rooms"], json!([{"room": "news", "count": 0, "observers": 1}]));
    let path = "/v1/rooms/%00pusher:1:presence-a/members";
    assert_eq!(http::request(server.address(), "GET", path, &[], b"").await.status, 400);
    let status = server.post_json("/v1/users/status", &json!({"users": ["\u{0}pusher:1:7"]})).await;
    assert_eq!(status.status, 400);
    assert_eq!(observer.rooms["news"].count, 0);
    server.stop().await;
}
