//! Presence channels: who is there, once per user.

use serde_json::json;

use super::client;
use super::connecting::OTHER;
use crate::common::pusher::{APP, APP_FLAGS};
use crate::common::{PusherClient, TestServer};

const ROOM: &str = "presence-room";
const ANN: &str = r#"{"user_id":"ann","user_info":{"name":"Ann"}}"#;
const BOB: &str = r#"{"user_id":"bob","user_info":{"name":"Bob"}}"#;

fn count(client: &PusherClient, event: &str) -> usize {
    client.of(event).len()
}

#[tokio::test]
async fn the_list_has_the_newcomer_and_the_others_are_told_once() {
    let server = TestServer::start(&APP_FLAGS);
    let (mut ann, mut bob) = (client(&server).await, client(&server).await);
    ann.join(ROOM, Some(ANN)).await;
    assert_eq!(ann.members(ROOM), ["ann"]);
    bob.join(ROOM, Some(BOB)).await;
    assert_eq!(bob.members(ROOM), ["ann", "bob"]);
    assert_eq!(bob.channels[ROOM].members["ann"], (json!("ann"), json!({"name": "Ann"})));
    ann.wait_until("bob", |ann| ann.members(ROOM) == ["ann", "bob"]).await;
    let added = ann.of("pusher_internal:member_added")[0];
    assert_eq!(added["data"], json!({"user_id": "bob", "user_info": {"name": "Bob"}}));
    // A second connection of bob receives the whole list. Others receive nothing.
    let mut again = client(&server).await;
    again.join(ROOM, Some(r#"{"user_id":"bob","user_info":{"name":"Robert"}}"#)).await;
    assert_eq!(again.channels[ROOM].members["bob"].1, json!({"name": "Bob"}), "the first info counts");
    bob.unsubscribe(ROOM);
    bob.sync().await;
    let mut carl = client(&server).await;
    carl.join(ROOM, Some(r#"{"user_id":"carl"}"#)).await;
    assert_eq!(carl.channels[ROOM].members["carl"], (json!("carl"), json!(null)));
    ann.wait_until("carl", |ann| ann.members(ROOM) == ["ann", "bob", "carl"]).await;
    again.close(1000);
    ann.wait_until("the leave", |ann| ann.members(ROOM) == ["ann", "carl"]).await;
    assert_eq!(count(&ann, "pusher_internal:member_added"), 2);
    let removed = ann.of("pusher_internal:member_removed");
    assert!(removed.len() == 1 && removed[0]["data"] == json!({"user_id": "bob"}), "{removed:?}");
    server.stop().await;
}

#[tokio::test]
async fn user_ids_keep_their_json_type() {
    let server = TestServer::start(&APP_FLAGS);
    let (mut one, mut two) = (client(&server).await, client(&server).await);
    one.join(ROOM, Some(r#"{"user_id":1,"user_info":{"n": 1.0}}"#)).await;
    assert_eq!(one.channels[ROOM].members["1"], (json!(1), json!({"n": 1.0})));
    two.join(ROOM, Some(r#"{"user_id": 2}"#)).await;
    one.wait_until("the member", |one| one.members(ROOM) == ["1", "2"]).await;
    assert_eq!(one.of("pusher_internal:member_added")[0]["data"], json!({"user_id": 2}));
    two.unsubscribe(ROOM);
    one.wait_until("the leave", |one| one.members(ROOM) == ["1"]).await;
    assert_eq!(one.of("pusher_internal:member_removed")[0]["data"], json!({"user_id": 2}));
    server.stop().await;
}

#[tokio::test]
async fn odd_ids_and_infos_pass_as_they_are() {
    let server = TestServer::start(&APP_FLAGS);
    let mut client = client(&server).await;
    let ids = ["#8", "\u{0}x", "a\tb\n", "é", "e\u{301}", " ", "pusher:1:7", "👩\u{200d}👩"];
    for (number, id) in ids.iter().enumerate() {
        let channel = format!("presence-{number}");
        client.join(&channel, Some(&json!({"user_id": id, "user_info": [id, true]}).to_string())).await;
        assert_eq!(client.channels[&channel].members[*id], (json!(id), json!([id, true])));
    }
    let long = "é".repeat(129);
    let wrong = ["", "{}", r#"{"user_id":""}"#, r#"{"user_id":true}"#, &json!({"user_id": long}).to_string()];
    for (number, data) in wrong.iter().enumerate() {
        client.subscribe("presence-wrong", Some(data));
        client.wait_until("an error", |client| count(client, "pusher:subscription_error") > number).await;
    }
    let data = json!({"user_id": "a", "user_info": "x".repeat(1023)}).to_string();
    client.subscribe("presence-wrong", Some(&data));
    let last = |client: &PusherClient| client.of("pusher:subscription_error").pop().cloned().unwrap_or_default();
    client.wait_until("an error", |client| last(client)["data"]["status"] == 413).await;
    assert!(!client.channels.contains_key("presence-wrong"));
    server.stop().await;
}

#[tokio::test]
async fn a_member_without_a_signature_for_exactly_this_data_is_refused() {
    let server = TestServer::start(&APP_FLAGS);
    let mut client = client(&server).await;
    let auth = APP.sign(&format!("{}:{ROOM}:{ANN}", client.socket_id));
    for (number, data) in [BOB, r#"{"user_id":"ann","user_info":{"name": "Ann"}}"#].iter().enumerate() {
        let data = json!({"channel": ROOM, "auth": auth, "channel_data": data});
        client.send(&json!({"event": "pusher:subscribe", "data": data}));
        client.wait_until("an error", |client| count(client, "pusher:subscription_error") > number).await;
    }
    client.send(&json!({"event": "pusher:subscribe", "data": {"channel": ROOM, "auth": auth, "channel_data": ANN}}));
    client.wait_until("the subscription", |client| client.members(ROOM) == ["ann"]).await;
    server.stop().await;
}

#[tokio::test]
async fn another_member_of_the_same_connection_replaces_the_first() {
    let server = TestServer::start(&APP_FLAGS);
    let (mut client, mut observer) = (client(&server).await, client(&server).await);
    observer.join(ROOM, Some(BOB)).await;
    client.join(ROOM, Some(ANN)).await;
    observer.wait_until("ann", |observer| observer.members(ROOM) == ["ann", "bob"]).await;
    client.subscribe(ROOM, Some(r#"{"user_id":"eve"}"#));
    observer.wait_until("eve", |observer| observer.members(ROOM) == ["bob", "eve"]).await;
    client.wait_until("the list", |client| client.members(ROOM) == ["bob", "eve"]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_lost_connection_is_kept_for_the_grace_and_a_clean_close_is_not() {
    let server = TestServer::start(&[&APP_FLAGS[..], &["--grace", "600s"]].concat());
    let mut observer = client(&server).await;
    observer.join(ROOM, Some(r#"{"user_id":"observer"}"#)).await;
    for (number, code) in [None, Some(1001), Some(1000)].into_iter().enumerate() {
        let mut reloading = client(&server).await;
        reloading.join(ROOM, Some(&json!({"user_id": number.to_string()}).to_string())).await;
        match code {
            Some(code) => {
                reloading.close(code);
                reloading.wait_until("the end", |reloading| reloading.ended).await;
            }
            None => drop(reloading),
        }
    }
    observer.wait_until("the clean close", |observer| count(observer, "pusher_internal:member_removed") == 1).await;
    assert_eq!(observer.members(ROOM), ["0", "1", "observer"]);
    // A reload is invisible to others.
    client(&server).await.join(ROOM, Some(r#"{"user_id":"0"}"#)).await;
    observer.sync().await;
    assert_eq!(count(&observer, "pusher_internal:member_added"), 3);
    server.stop().await;
}

#[tokio::test]
async fn users_of_two_applications_are_two_users() {
    let flags = [&APP_FLAGS[..], &["--pusher-app", "2:other-key:other-secret"]].concat();
    let server = TestServer::start(&flags);
    let mut own = client(&server).await;
    let mut other = PusherClient::connect(server.address(), OTHER).await;
    own.join(ROOM, Some(ANN)).await;
    other.join(ROOM, Some(r#"{"user_id":"ann","user_info":2}"#)).await;
    assert_eq!(other.channels[ROOM].members["ann"].1, json!(2));
    other.close(1000);
    other.wait_until("the end", |other| other.ended).await;
    own.sync().await;
    own.join("presence-again", Some(ANN)).await;
    assert!(own.members(ROOM) == ["ann"] && count(&own, "pusher_internal:member_removed") == 0);
    server.stop().await;
}
