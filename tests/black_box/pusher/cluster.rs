//! Channels across nodes.

use serde_json::json;

use super::ROOMS_FLAGS;
use super::subscription_count::{COUNTING_FLAGS, counts, wait_for_count};
use crate::common::pusher::{APP, APP_FLAGS};
use crate::common::pusher_api::Call;
use crate::common::token::{SECRET_FLAG, token};
use crate::common::{Mirror, Node, PusherClient, Redis, http, node};

const ROOM: &str = "presence-room";

async fn two_nodes(redis: &Redis) -> [Node; 2] {
    let url = redis.url();
    [Node::start("a", &url, &APP_FLAGS).await, Node::start("b", &url, &APP_FLAGS).await]
}

async fn on(node: &Node) -> PusherClient {
    PusherClient::connect(node.address, APP).await
}

#[tokio::test]
async fn members_are_those_of_all_nodes_and_each_user_is_one() {
    let redis = Redis::start().await;
    let nodes = two_nodes(&redis).await;
    let (mut here, mut there) = (on(&nodes[0]).await, on(&nodes[1]).await);
    here.join(ROOM, Some(r#"{"user_id":"a\tb:\nc","user_info":{"n": 1.0}}"#)).await;
    there.join(ROOM, Some(r#"{"user_id":7,"user_info":true}"#)).await;
    let both = ["7", "a\tb:\nc"];
    here.wait_until("both", |here| here.members(ROOM) == both).await;
    there.wait_until("both", |there| there.members(ROOM) == both).await;
    assert_eq!(here.channels[ROOM].members["7"], (json!(7), json!(true)));
    assert_eq!(there.channels[ROOM].members["a\tb:\nc"].1, json!({"n": 1.0}));
    // The same user on the other node, with another info: nobody is told, and the first info counts.
    let mut again = on(&nodes[0]).await;
    again.join(ROOM, Some(r#"{"user_id":7,"user_info":false}"#)).await;
    assert_eq!(again.channels[ROOM].members["7"], (json!(7), json!(true)));
    there.close(1000);
    there.wait_until("the end", |there| there.ended).await;
    let mut third = on(&nodes[1]).await;
    third.join(ROOM, Some(r#"{"user_id":"third"}"#)).await;
    here.wait_until("the third", |here| here.members(ROOM) == ["7", "a\tb:\nc", "third"]).await;
    assert!(here.of("pusher_internal:member_removed").is_empty());
    again.unsubscribe(ROOM);
    third.wait_until("the leave", |third| third.members(ROOM) == ["a\tb:\nc", "third"]).await;
    here.wait_until("the leave", |here| here.members(ROOM) == ["a\tb:\nc", "third"]).await;
    assert_eq!(here.of("pusher_internal:member_removed")[0]["data"], json!({"user_id": 7}));
}

#[tokio::test]
async fn events_reach_other_nodes_and_not_their_sender() {
    let redis = Redis::start().await;
    let nodes = two_nodes(&redis).await;
    let mut clients = [on(&nodes[0]).await, on(&nodes[0]).await, on(&nodes[1]).await];
    for (number, client) in clients.iter_mut().enumerate() {
        client.join("private-a", None).await;
        client.join(ROOM, Some(&json!({"user_id": number}).to_string())).await;
    }
    for client in &mut clients {
        client.wait_until("all", |client| client.members(ROOM) == ["0", "1", "2"]).await;
    }
    let [mut sender, mut same_node, mut other_node] = clients;
    let deep = json!([[[[[[[[[[[["\t"]]]]]]]]]]]]);
    for (channel, event) in [("private-a", "client-a"), (ROOM, "client-b")] {
        sender.trigger(channel, event, &deep);
        for receiver in [&mut same_node, &mut other_node] {
            receiver.wait_until("the event", |receiver| !receiver.of(event).is_empty()).await;
            assert_eq!(receiver.of(event)[0]["data"], deep);
        }
    }
    other_node.trigger("private-a", "client-end", &json!(1));
    sender.wait_until("the event", |sender| !sender.of("client-end").is_empty()).await;
    assert!(sender.of("client-a").is_empty() && sender.of("client-b").is_empty());
    assert!(other_node.of("client-end").is_empty());
}

#[tokio::test]
async fn applications_ask_any_node_and_publish_on_any_node() {
    let redis = Redis::start().await;
    let nodes = two_nodes(&redis).await;
    let mut here = [on(&nodes[0]).await, on(&nodes[0]).await];
    let mut there = [on(&nodes[1]).await, on(&nodes[1]).await];
    for (client, user) in here.iter_mut().chain(&mut there).zip(["a", "b", "b", "c"]) {
        client.join(ROOM, Some(&json!({"user_id": user}).to_string())).await;
    }
    there[0].join("news", None).await;
    there[1].join("news", None).await;
    for node in &nodes {
        let get = async |path: &str, parameters: &[&str]| {
            let call = parameters.iter().fold(Call::get(APP, path), |call, parameter| call.with(parameter));
            call.ok(node.address).await
        };
        let all = json!({"occupied": true, "user_count": 3, "subscription_count": 4});
        let path = "/apps/1/channels/presence-room";
        node.wait_until("all members", async || {
            get(path, &["info=user_count,subscription_count"]).await == all
                && get("/apps/1/channels/news", &["info=subscription_count"]).await["subscription_count"] == 2
        })
        .await;
        assert_eq!(get("/apps/1/channels", &[]).await, json!({"channels": {"news": {}, "presence-room": {}}}));
        let list = get("/apps/1/channels", &["filter_by_prefix=presence-", "info=user_count"]).await;
        assert_eq!(list, json!({"channels": {"presence-room": {"user_count": 3}}}));
        let users = get("/apps/1/channels/presence-room/users", &[]).await;
        assert_eq!(users, json!({"users": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}));
    }
    // The connection that does not receive it is on the other node.
    let event = json!({"name": "one", "data": "\t1", "channels": [ROOM, "news"], "socket_id": there[0].socket_id});
    Call::post(APP, "/apps/1/events", &event).ok(nodes[0].address).await;
    let event = json!({"name": "two", "data": "2", "channels": ["news"]});
    Call::post(APP, "/apps/1/events", &event).ok(nodes[0].address).await;
    for client in &mut here {
        client.wait_until("the event", |client| client.of("one").len() == 1).await;
    }
    let [excluded, receiver] = &mut there;
    receiver.wait_until("all", |client| client.of("one").len() == 2 && !client.of("two").is_empty()).await;
    assert!(receiver.of("one").iter().all(|event| event["data"] == "\t1"));
    excluded.wait_until("two", |client| !client.of("two").is_empty()).await;
    assert!(excluded.of("one").is_empty());
}

#[tokio::test]
async fn counts_are_those_of_all_nodes_also_after_one_is_lost() {
    let redis = Redis::start().await;
    let flags = [&COUNTING_FLAGS[..], &node::SHORT_TTL_FLAG].concat();
    let [a, b] = [Node::start("a", &redis.url(), &flags).await, Node::start("b", &redis.url(), &flags).await];
    let (mut here, mut there) = (on(&a).await, on(&b).await);
    here.join("news", None).await;
    wait_for_count(&mut here, "news", 1).await;
    there.join("news", None).await;
    wait_for_count(&mut there, "news", 2).await;
    wait_for_count(&mut here, "news", 2).await;
    let mut third = on(&b).await;
    third.join("news", None).await;
    for client in [&mut here, &mut there, &mut third] {
        wait_for_count(client, "news", 3).await;
    }
    there.unsubscribe("news");
    for client in [&mut here, &mut third] {
        wait_for_count(client, "news", 2).await;
    }
    b.kill();
    wait_for_count(&mut here, "news", 1).await;
    assert_eq!(counts(&here, "news"), [1, 2, 3, 2, 1]);
}

#[tokio::test]
async fn a_user_who_signs_in_on_any_node_is_one_user_for_watchers_on_all_nodes() {
    let redis = Redis::start().await;
    let flags = [&APP_FLAGS[..], &["--grace", "60s"]].concat();
    let nodes = [Node::start("a", &redis.url(), &flags).await, Node::start("b", &redis.url(), &flags).await];
    let (mut here, mut there) = (on(&nodes[0]).await, on(&nodes[1]).await);
    here.sign_in_as("here", &["7", "end"]).await;
    there.sign_in_as("there", &["7", "here", "end"]).await;
    here.wait_for_watched(&["-7", "-end"]).await;
    // The other node learns of a user a moment later.
    there.wait_until("the other node's user", |there| there.watched().iter().any(|user| user == "+here")).await;
    let before: Vec<_> = there.watched();
    let mut seven = on(&nodes[1]).await;
    seven.sign_in_as("7", &[]).await;
    here.wait_for_watched(&["-7", "-end", "+7"]).await;
    there.wait_until("the user", |there| there.watched().len() > before.len()).await;
    // A second connection on the other node, and a reload that ends there: the same user.
    let mut again = on(&nodes[0]).await;
    again.sign_in_as("7", &[]).await;
    seven.close(1001);
    seven.wait_until("the end", |seven| seven.ended).await;
    let mut end = on(&nodes[1]).await;
    end.sign_in_as("end", &["7"]).await;
    end.wait_for_watched(&["+7"]).await;
    here.wait_for_watched(&["-7", "-end", "+7", "+end"]).await;
    let told: Vec<String> = before.iter().cloned().chain(["+7".to_owned(), "+end".to_owned()]).collect();
    there.wait_until("the last user", |there| there.watched() == told).await;
    for node in &nodes {
        let stats = http::request(node.address, "GET", "/v1/stats", &[], b"").await.json();
        assert_eq!((&stats["users"], &stats["rooms"]), (&json!(0), &json!(0)), "{stats}");
        let channels = Call::get(APP, "/apps/1/channels").ok(node.address).await;
        assert_eq!(channels, json!({"channels": {}}));
    }
}

#[tokio::test]
async fn messages_to_a_user_and_the_end_of_the_users_connections_reach_all_nodes() {
    let redis = Redis::start().await;
    let flags = [&APP_FLAGS[..], &["--grace", "60s"]].concat();
    let nodes = [Node::start("a", &redis.url(), &flags).await, Node::start("b", &redis.url(), &flags).await];
    let mut watchers = [on(&nodes[0]).await, on(&nodes[1]).await];
    let mut clients = [on(&nodes[0]).await, on(&nodes[1]).await];
    let own = "#server-to-user-7";
    for client in &mut clients {
        client.sign_in_as("7", &[]).await;
        client.join(own, None).await;
        client.join(ROOM, None).await;
    }
    for client in &mut clients {
        client.wait_until("the member", |client| client.members(ROOM) == ["7"]).await;
    }
    for (number, watcher) in watchers.iter_mut().enumerate() {
        watcher.sign_in_as(&format!("watcher-{number}"), &["7"]).await;
        watcher.join(ROOM, None).await;
        watcher.wait_until("the user", |watcher| watcher.watched().last().is_some_and(|last| last == "+7")).await;
    }
    let event = json!({"name": "bill", "data": "1", "channels": [own]});
    Call::post(APP, "/apps/1/events", &event).ok(nodes[0].address).await;
    for client in &mut clients {
        client.wait_until("the event", |client| !client.of("bill").is_empty()).await;
    }
    Call::post(APP, "/apps/1/users/7/terminate_connections", &json!({})).ok(nodes[0].address).await;
    for client in &mut clients {
        assert_eq!(client.wait_for_close().await, Some(4009));
    }
    for watcher in &mut watchers {
        watcher.wait_until("the end", |watcher| watcher.watched().last().is_some_and(|last| last == "-7")).await;
        watcher.wait_until("the leave", |watcher| !watcher.members(ROOM).contains(&"7")).await;
        assert!(watcher.of("bill").is_empty());
    }
}

#[tokio::test]
async fn rooms_of_all_protocols_span_nodes_and_their_messages_do_not_cross() {
    let redis = Redis::start().await;
    let url = redis.url();
    let nodes = [Node::start("a", &url, &ROOMS_FLAGS).await, Node::start("b", &url, &ROOMS_FLAGS).await];
    let native = async |node: &Node, user: &str| {
        let headers = [("authorization", format!("Bearer {}", token(user, &json!({"info": {"name": user}}))))];
        Mirror::connect_with(node.address, user, &["room"], &headers).await.with_heartbeats()
    };
    let (mut ann, mut bob) = (native(&nodes[0], "ann").await, on(&nodes[1]).await);
    let mut carl = native(&nodes[1], "carl").await;
    // The same user in both protocols and on both nodes is one member.
    let _again = native(&nodes[0], "bob").await;
    bob.join(ROOM, Some(r#"{"user_id":"bob","user_info":{"deep":[[[[[[1]]]]]]}}"#)).await;
    let mut dora = on(&nodes[0]).await;
    dora.join(ROOM, Some(r#"{"user_id":7}"#)).await;
    for client in [&mut bob, &mut dora] {
        client.wait_until("all", |client| client.members(ROOM) == ["7", "ann", "bob", "carl"]).await;
        assert_eq!(client.channels[ROOM].members["ann"].1, json!({"name": "ann"}));
        assert_eq!(client.channels[ROOM].members["7"].0, "7");
    }
    for mirror in [&mut ann, &mut carl] {
        mirror.wait_until("all", |mirror| mirror.size("room") == 4).await;
    }
    // Events may be nested deeper than messages of other protocols.
    let deep = json!([[[[[[[[[[[["\t"]]]]]]]]]]]]);
    bob.trigger(ROOM, "client-deep", &deep);
    let event = json!({"name": "news", "data": "1", "channels": [ROOM]});
    Call::post(APP, "/apps/1/events", &event).ok(nodes[1].address).await;
    ann.send(&json!({"type": "message", "room": "room", "data": "native"}));
    dora.wait_until("both", |dora| dora.of("client-deep").len() + dora.of("news").len() == 2).await;
    assert!(dora.of("client-deep")[0]["data"] == deep && dora.of("client-deep")[0]["user_id"] == "bob");
    carl.wait_until("the message", |carl| !carl.since(0, "message", "").is_empty()).await;
    ann.wait_until("the message", |ann| !ann.since(0, "message", "").is_empty()).await;
    carl.send(&json!({"type": "message", "room": "room", "data": "last"}));
    for mirror in [&mut ann, &mut carl] {
        mirror.wait_until("the last message", |mirror| mirror.since(0, "message", "").len() > 1).await;
    }
    dora.trigger(ROOM, "client-last", &json!(1));
    bob.wait_until("the last event", |bob| !bob.of("client-last").is_empty()).await;
    for mirror in [&ann, &carl] {
        let data: Vec<_> = mirror.since(0, "message", "").iter().map(|message| message["data"].clone()).collect();
        assert_eq!(data, ["native", "last"]);
    }
    for client in [&bob, &dora] {
        let foreign = client.log.iter().filter(|message| message.to_string().contains("native")).count();
        assert_eq!(foreign, 0, "{:?}", client.log);
    }
    // The other connection of bob keeps him in the room.
    bob.close(1000);
    bob.wait_until("the end", |bob| bob.ended).await;
    dora.unsubscribe(ROOM);
    carl.wait_until("the leave", |carl| !carl.has("room", "7")).await;
    assert!(carl.has("room", "bob"));
    // All nodes share the same rooms.
    let others = [&["--redis", &url, "--pusher-app", "1:app-key:app-secret"][..], &SECRET_FLAG].concat();
    let output = node::start_refused("c", &others).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(69) && text.contains("--pusher-rooms \"1\""), "{text}");
}
