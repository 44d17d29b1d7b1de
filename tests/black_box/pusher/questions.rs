//! What applications ask about their channels.

use serde_json::json;

use super::client;
use super::connecting::OTHER;
use crate::common::pusher::{APP, APP_FLAGS};
use crate::common::pusher_api::{Call, text_error};
use crate::common::{PusherClient, TestServer, http};

#[tokio::test]
async fn an_application_sees_its_own_channels_with_distinct_users_and_all_connections() {
    let server = TestServer::start(&[&APP_FLAGS[..], &["--pusher-app", "2:other-key:other-secret"]].concat());
    let address = server.address();
    let get = async |path: &str, parameters: &[&str]| {
        let call = parameters.iter().fold(Call::get(APP, path), |call, parameter| call.with(parameter));
        call.ok(address).await
    };
    assert_eq!(get("/apps/1/channels", &[]).await, json!({"channels": {}}));
    assert_eq!(
        get("/apps/1/channels/news", &["info=subscription_count"]).await,
        json!({"occupied": false, "subscription_count": 0})
    );
    let mut clients = [client(&server).await, client(&server).await, client(&server).await];
    for (client, user) in clients.iter_mut().zip([json!(7), json!(7), json!("ü\" ")]) {
        client.join("presence-a", Some(&json!({"user_id": user}).to_string())).await;
    }
    clients[0].join("news", None).await;
    clients[1].join("private-a", None).await;
    let mut other = PusherClient::connect(address, OTHER).await;
    other.join("presence-a", Some(r#"{"user_id":"8"}"#)).await;
    other.join("presence-b", Some(r#"{"user_id":"8"}"#)).await;
    let _native = server.connect_to("ann", "presence-a").await;
    assert_eq!(
        get("/apps/1/channels", &[]).await,
        json!({"channels": {"news": {}, "presence-a": {}, "private-a": {}}})
    );
    let of_prefix = get("/apps/1/channels", &["filter_by_prefix=presence-", "info=user_count"]).await;
    assert_eq!(of_prefix, json!({"channels": {"presence-a": {"user_count": 2}}}));
    assert_eq!(get("/apps/1/channels", &["filter_by_prefix=private-"]).await, json!({"channels": {"private-a": {}}}));
    assert_eq!(get("/apps/1/channels", &["filter_by_prefix=none"]).await, json!({"channels": {}}));
    let path = "/apps/1/channels/presence-a";
    assert_eq!(get(path, &[]).await, json!({"occupied": true}));
    let counts = json!({"occupied": true, "user_count": 2, "subscription_count": 3});
    assert_eq!(get(path, &["info=user_count,subscription_count"]).await, counts);
    assert_eq!(get("/apps/1/channels/private-a", &["info=subscription_count"]).await["subscription_count"], 1);
    assert_eq!(get("/apps/1/channels/presence-b", &[]).await, json!({"occupied": false}));
    assert_eq!(get("/apps/1/channels/presence-a/users", &[]).await, json!({"users": [{"id": "7"}, {"id": "ü\" "}]}));
    assert_eq!(get("/apps/1/channels/presence-b/users", &[]).await, json!({"users": []}));
    let of_other = Call::get(OTHER, "/apps/2/channels/presence-a/users").ok(address).await;
    assert_eq!(of_other, json!({"users": [{"id": "8"}]}));
    server.stop().await;
}

#[tokio::test]
async fn wrong_questions_are_refused() {
    let server = TestServer::start(&APP_FLAGS);
    for (path, parameters) in [
        ("/apps/1/channels", &["info=user_count"][..]),
        ("/apps/1/channels", &["info=user_count", "filter_by_prefix=private-"]),
        ("/apps/1/channels", &["info=subscription_count", "filter_by_prefix=presence-"]),
        ("/apps/1/channels", &["info=users", "filter_by_prefix=presence-"]),
        ("/apps/1/channels/news", &["info=user_count"]),
        ("/apps/1/channels/news", &["info=members"]),
        ("/apps/1/channels/a:b", &[]),
        ("/apps/1/channels/%23x", &[]),
        ("/apps/1/channels/%00pusher:2:news", &[]),
        ("/apps/1/channels/%FF", &[]),
        ("/apps/1/channels/", &[]),
        ("/apps/1/channels/news/users", &[]),
    ] {
        let call = parameters.iter().fold(Call::get(APP, path), |call, parameter| call.with(parameter));
        call.error(server.address(), 400).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn long_lists_are_complete_and_spend_the_budget_of_the_address() {
    let flags = ["--trust-proxy", "127.0.0.1", "--work-per-address", "1K"];
    let server = TestServer::start(&[&APP_FLAGS[..], &flags].concat());
    let address = server.address();
    let mut clients = Vec::new();
    for number in 0..15 {
        let mut client = client(&server).await;
        for channel in 0..80 {
            client.subscribe(&format!("channel-{number}-{channel}"), None);
        }
        client.wait_until("all", |client| client.channels.len() == 80).await;
        clients.push(client);
    }
    let list = Call::get(APP, "/apps/1/channels").with("filter_by_prefix=channel-1");
    let all = list.ok(address).await;
    assert_eq!(all["channels"].as_object().unwrap().len(), 6 * 80);
    let all = Call::get(APP, "/apps/1/channels").ok(address).await;
    assert_eq!(all["channels"].as_object().unwrap().len(), 15 * 80);
    let target = list.target();
    let send = async |from: &str| http::request(address, "GET", &target, &[("x-forwarded-for", from)], b"").await;
    let mut answers = 0;
    let refused = loop {
        let answer = send("203.0.113.1").await;
        if answer.status != 200 {
            break answer;
        }
        answers += 1;
        assert!(answers < 100, "it costs nothing");
    };
    assert!(refused.header("retry-after").is_some());
    text_error(&refused, 429);
    assert_eq!(send("203.0.113.2").await.status, 200, "another address");
    server.stop().await;
}
