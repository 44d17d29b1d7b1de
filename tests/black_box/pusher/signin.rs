//! Signing in: as whom, the user's own channel, and who closes the connections of a user.

use serde_json::{Value, json};

use super::connecting::OTHER;
use super::{client, last_error};
use crate::common::event_log::{EventLog, summaries};
use crate::common::pusher::{APP, APP_FLAGS};
use crate::common::pusher_api::Call;
use crate::common::{PusherClient, TestServer};

const ROOM: &str = "presence-room";
const OWN: &str = "#server-to-user-7";

/// Waits for one more subscription that fails, and returns its data.
async fn next_refusal(client: &mut PusherClient, channel: &str, channel_data: Option<&str>) -> Value {
    let errors = |client: &PusherClient| client.of("pusher:subscription_error").len();
    let before = errors(client);
    client.subscribe(channel, channel_data);
    client.wait_until("an error", |client| errors(client) > before).await;
    let error = client.of("pusher:subscription_error").last().cloned().cloned().expect("an error");
    assert_eq!(error["channel"], *channel);
    error["data"].clone()
}

#[tokio::test]
async fn a_sign_in_is_answered_with_the_same_user_data() {
    let server = TestServer::start(&APP_FLAGS);
    for user_data in [
        r#"{"id":"7"}"#,
        r#" {"user_info" : {"name":"A\/B \u00e9 ü \\ \""}, "id":"7" , "watchlist":[], "more":[1.0]}"#,
        r##"{"id":"#8","watchlist":null,"user_info":null}"##,
    ] {
        for is_text in [false, true] {
            let mut client = client(&server).await;
            let auth = APP.sign(&format!("{}::user::{user_data}", client.socket_id));
            let data = json!({"auth": auth, "user_data": user_data});
            let data = if is_text { json!(data.to_string()) } else { data };
            client.send(&json!({"event": "pusher:signin", "data": data}));
            client.sync().await;
            let replies = client.of("pusher:signin_success");
            assert!(replies.len() == 1 && replies[0]["data"] == json!({"user_data": user_data}), "{:?}", client.log);
            assert!(client.watched().is_empty() && client.of("pusher:error").is_empty());
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_signed_or_not_valid_is_an_error_and_the_connection_stays() {
    let server = TestServer::start(&APP_FLAGS);
    let (mut client, other) = (client(&server).await, client(&server).await);
    let seven = r#"{"id":"7"}"#;
    let text = |socket: &str, data: &str| format!("{socket}::user::{data}");
    let right = APP.sign(&text(&client.socket_id, seven));
    let wrong = [
        String::new(),
        "app-key".to_owned(),
        APP.sign(&text(&other.socket_id, seven)),
        APP.sign(&text(&client.socket_id, r#"{"id":"8"}"#)),
        APP.sign(&format!("{}:{seven}", client.socket_id)),
        OTHER.sign(&text(&client.socket_id, seven)),
        right.replace("app-key", "other-key"),
    ];
    for auth in &wrong {
        client.send(&json!({"event": "pusher:signin", "data": {"auth": auth, "user_data": seven}}));
        client.sync().await;
        assert_eq!(last_error(&client).0, 4009, "{auth}");
    }
    assert_eq!(client.of("pusher:error").len(), wrong.len());
    let signature = right.split_once(':').expect("a colon").1;
    assert!(client.log.iter().all(|message| !message.to_string().contains(signature)));
    let long = |id: &str| json!({"id": id}).to_string();
    let info = json!({"id": "7", "user_info": "x".repeat(1023)}).to_string();
    let others = [long(""), long(&"x".repeat(129)), long(&"é".repeat(106)), info];
    let invalid = ["", "{", "[]", "7", "{}", r#"{"id":7}"#, r#"{"id":null}"#, r#"{"id":"7","watchlist":["8",9]}"#];
    for data in invalid.iter().copied().chain(others.iter().map(String::as_str)) {
        client.sign_in(data);
        client.sync().await;
        assert!(last_error(&client).0.is_null(), "{data}");
    }
    for data in [json!({}), json!(7), json!({"auth": right}), json!({"auth": right, "user_data": {"id": "7"}})] {
        client.send(&json!({"event": "pusher:signin", "data": data}));
        client.sync().await;
        assert!(last_error(&client).0.is_null(), "{data}");
    }
    assert_eq!(client.of("pusher:error").len(), wrong.len() + invalid.len() + others.len() + 4);
    assert!(client.of("pusher:signin_success").is_empty());
    client.sign_in_as("7", &[]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_connection_stays_signed_in_as_the_first_user() {
    let server = TestServer::start(&APP_FLAGS);
    let (mut client, mut watcher) = (client(&server).await, client(&server).await);
    watcher.sign_in_as("watcher", &["7", "8"]).await;
    watcher.wait_for_watched(&["-7", "-8"]).await;
    client.sign_in_as("7", &[]).await;
    client.sign_in(r#"{"id":"8","watchlist":["9"]}"#);
    client.sync().await;
    assert_eq!(last_error(&client).0, 4009);
    assert_eq!((client.of("pusher:signin_success").len(), client.watched().len()), (1, 0));
    assert_eq!(next_refusal(&mut client, "#server-to-user-8", None).await["status"], 401);
    client.join(OWN, None).await;
    client.close(1000);
    watcher.wait_for_watched(&["-7", "-8", "+7", "-7"]).await;
    server.stop().await;
}

#[tokio::test]
async fn signing_in_counts_as_an_authorization() {
    let server = TestServer::start(&["--open", "--pusher-app", "1:app-key:app-secret,authorized-within=1s"]);
    let (mut refused, mut signed_in) = (client(&server).await, client(&server).await);
    signed_in.sign_in_as("7", &[]).await;
    refused.send(&json!({"event": "pusher:signin", "data": {"auth": "app-key:00", "user_data": "{\"id\":\"7\"}"}}));
    assert_eq!(refused.wait_for_close().await, Some(4009));
    let mut later = client(&server).await;
    assert_eq!(later.wait_for_close().await, Some(4009));
    signed_in.sync().await;
    server.stop().await;
}

#[tokio::test]
async fn the_channel_of_a_user_is_open_to_this_user_only() {
    let server = TestServer::start(&APP_FLAGS);
    let mut clients = [client(&server).await, client(&server).await, client(&server).await];
    for (client, user) in clients.iter_mut().zip(["7", "7", "8"]) {
        let error = next_refusal(client, OWN, None).await;
        assert_eq!((&error["type"], &error["status"]), (&json!("AuthError"), &json!(401)));
        client.sign_in_as(user, &[]).await;
    }
    let [mut one, mut two, mut other] = clients;
    for channel in [OWN, "#server-to-user-", "#server-to-user-8 "] {
        assert_eq!(next_refusal(&mut other, channel, None).await["status"], 401, "{channel}");
    }
    for channel in ["#signed-in", "#7", "#"] {
        assert_eq!(next_refusal(&mut other, channel, None).await["status"], 400, "{channel}");
    }
    for client in [&mut one, &mut two] {
        client.join(OWN, None).await;
    }
    other.join("#server-to-user-8", None).await;
    // Clients send nothing there.
    one.trigger(OWN, "client-typing", &json!(1));
    one.sync().await;
    assert!(last_error(&one).1.contains("private and presence channels"), "{:?}", last_error(&one));
    let publish = async |name: &str, data: &str| {
        let event = json!({"name": name, "data": data, "channels": [OWN]});
        Call::post(APP, "/apps/1/events", &event).ok(server.address()).await;
    };
    publish("bill", "{\"n\": 1}").await;
    for client in [&mut one, &mut two] {
        client.wait_until("the event", |client| !client.of("bill").is_empty()).await;
        assert_eq!(*client.of("bill")[0], json!({"channel": OWN, "event": "bill", "data": "{\"n\": 1}"}));
    }
    one.unsubscribe(OWN);
    one.sync().await;
    publish("second", "").await;
    two.wait_until("the event", |two| !two.of("second").is_empty()).await;
    one.join(OWN, None).await;
    publish("third", "").await;
    for client in [&mut one, &mut two] {
        client.wait_until("the event", |client| !client.of("third").is_empty()).await;
    }
    assert!(one.of("second").is_empty() && two.of("client-typing").is_empty());
    other.sync().await;
    assert!(other.of("bill").is_empty() && other.of("third").is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_user_who_has_signed_in_joins_presence_channels_without_channel_data() {
    let server = TestServer::start(&APP_FLAGS);
    let (mut client, mut observer) = (client(&server).await, client(&server).await);
    observer.join(ROOM, Some(r#"{"user_id":"observer"}"#)).await;
    assert_eq!(next_refusal(&mut client, ROOM, None).await["type"], "InvalidMember");
    client.sign_in(r##"{"id":"#7\"\n","user_info":{"n": 1.0}}"##);
    client.join(ROOM, None).await;
    assert_eq!(client.channels[ROOM].members["#7\"\n"], (json!("#7\"\n"), json!({"n": 1.0})));
    observer.wait_until("the member", |observer| observer.members(ROOM) == ["#7\"\n", "observer"]).await;
    client.trigger(ROOM, "client-typing", &json!({}));
    observer.wait_until("the event", |observer| !observer.of("client-typing").is_empty()).await;
    assert_eq!(observer.of("client-typing")[0]["user_id"], "#7\"\n");
    // With data, the data counts.
    client.join("presence-other", Some(r#"{"user_id":9}"#)).await;
    assert_eq!(client.members("presence-other"), ["9"]);
    // A signature is needed as before.
    client.send(&json!({"event": "pusher:subscribe", "data": {"channel": "presence-third", "auth": "app-key:00"}}));
    client.wait_until("an error", |client| client.of("pusher:subscription_error").len() == 2).await;
    server.stop().await;
}

#[tokio::test]
async fn users_who_have_signed_in_are_in_no_list_and_no_count() {
    const KEY: &str = "a key for the HTTP API";
    let log = EventLog::new();
    let flags = [&APP_FLAGS[1..], &["--api-key", KEY, "--event-log", log.argument()]].concat();
    let server = TestServer::start(&flags);
    let get = async |path: &str| {
        let headers = [("authorization", format!("Bearer {KEY}"))];
        let headers = headers.each_ref().map(|(name, value)| (*name, &**value));
        crate::common::http::request(server.address(), "GET", path, &headers, b"").await.json()
    };
    let mut clients = [client(&server).await, client(&server).await];
    for (client, (user, other)) in clients.iter_mut().zip([("7", "8"), ("8", "7")]) {
        client.sign_in_as(user, &[other]).await;
        client.join(&format!("#server-to-user-{user}"), None).await;
    }
    clients[0].wait_for_watched(&["-8", "+8"]).await;
    let stats = get("/v1/stats").await;
    assert_eq!((&stats["users"], &stats["rooms"], &stats["watched_users"]), (&json!(0), &json!(0), &json!(2)));
    assert_eq!(get("/v1/rooms").await, json!({"rooms": []}));
    assert_eq!(get("/online_users").await, json!({"online_users": []}));
    assert_eq!(Call::get(APP, "/apps/1/channels").ok(server.address()).await, json!({"channels": {}}));
    // The same user as a member is listed and counted once.
    clients[0].join(ROOM, None).await;
    let stats = get("/v1/stats").await;
    assert_eq!((&stats["users"], &stats["rooms"]), (&json!(1), &json!(1)));
    for client in &mut clients {
        client.close(1000);
        client.wait_until("the end", |client| client.ended).await;
    }
    let events = log.wait_until("the leave", |events| events.len() >= 2).await;
    assert_eq!(
        summaries(&events),
        ["join \0pusher:1:presence-room \0pusher:1:7", "leave \0pusher:1:presence-room \0pusher:1:7 closed"]
    );
    let stats = get("/v1/stats").await;
    assert_eq!((&stats["users"], &stats["rooms"]), (&json!(0), &json!(0)));
    server.stop().await;
}

#[tokio::test]
async fn terminating_closes_all_connections_that_are_signed_in_as_the_user() {
    let flags = [&APP_FLAGS[..], &["--pusher-app", "2:other-key:other-secret", "--grace", "600s"]].concat();
    let server = TestServer::start(&flags);
    let mut watcher = client(&server).await;
    watcher.sign_in_as("watcher", &["7"]).await;
    watcher.join(ROOM, Some(r#"{"user_id":"watcher"}"#)).await;
    let mut closed = [client(&server).await, client(&server).await];
    for client in &mut closed {
        client.sign_in_as("7", &[]).await;
        client.join(ROOM, None).await;
    }
    // The same user without a sign-in, another user, and a user of another application.
    let (mut member, mut eight) = (client(&server).await, client(&server).await);
    member.join("presence-other", Some(r#"{"user_id":"7"}"#)).await;
    eight.sign_in_as("8", &[]).await;
    let mut other = PusherClient::connect(server.address(), OTHER).await;
    other.sign_in_as("7", &[]).await;
    // A lost connection of the user waits for its grace period to end.
    let mut lost = client(&server).await;
    lost.sign_in_as("7", &[]).await;
    drop(lost);
    let answer = Call::post(APP, "/apps/1/users/7/terminate_connections", &json!({})).ok(server.address()).await;
    assert_eq!(answer, json!({}));
    for client in &mut closed {
        assert_eq!(client.wait_for_close().await, Some(4009));
    }
    watcher.wait_until("the end", |watcher| watcher.watched() == ["-7", "+7", "-7"]).await;
    // The client does not come back: its memberships end as well, without a grace period.
    watcher.wait_until("the leave", |watcher| watcher.members(ROOM) == ["watcher"]).await;
    for client in [&mut member, &mut eight, &mut other] {
        client.sync().await;
    }
    assert_eq!(member.members("presence-other"), ["7"]);
    // The user may sign in again.
    client(&server).await.sign_in_as("7", &[]).await;
    watcher.wait_for_watched(&["-7", "+7", "-7", "+7"]).await;
    let long = format!("/apps/1/users/{}/terminate_connections", "x".repeat(129));
    let error = Call::post(APP, &long, &json!({})).error(server.address(), 400).await;
    assert!(error.contains("210 bytes"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn a_sign_in_that_is_refused_leaves_nothing_behind() {
    let server = TestServer::start(&APP_FLAGS);
    let mut full = client(&server).await;
    for number in 0..100 {
        full.join(&format!("news-{number}"), None).await;
    }
    full.sign_in(r#"{"id":"7"}"#);
    full.sync().await;
    assert_eq!(last_error(&full).0, 4004);
    let refused = next_refusal(&mut full, "presence-a", Some(r#"{"user_id":"7"}"#)).await;
    assert_eq!(refused["status"], 403, "{refused}");
    Call::post(APP, "/apps/1/users/7/terminate_connections", &json!({})).ok(server.address()).await;
    // The connection is that of no user: it stays, and can become another's.
    full.unsubscribe("news-0");
    full.sign_in_as("8", &[]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_user_with_too_many_connections_is_not_signed_in() {
    let server = TestServer::start(&[&APP_FLAGS[..], &["--connections-per-user", "1"]].concat());
    let (mut one, mut two) = (client(&server).await, client(&server).await);
    one.sign_in_as("7", &[]).await;
    one.sign_in_as("7", &[]).await;
    two.sign_in(r#"{"id":"7","watchlist":["7"]}"#);
    two.sync().await;
    assert_eq!(last_error(&two).0, 4004);
    assert!(two.of("pusher:signin_success").is_empty() && two.watched().is_empty());
    two.join("news", None).await;
    one.close(1000);
    one.wait_until("the end", |one| one.ended).await;
    two.sign_in_as("7", &[]).await;
    server.stop().await;
}
