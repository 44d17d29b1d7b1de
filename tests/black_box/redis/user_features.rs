//! Features that concern users on any node: watching users, messages, kicks and logouts.

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::common::http::{self, Response};
use crate::common::node::wait_until_known;
use crate::common::redis::POLL;
use crate::common::{
    Mirror, NODE_LOST_AFTER, Node, RawClient, RoomObservers, SHORT_TTL_FLAG, Store, TickDeadline, raw,
};

/// What browsers send with the requests of a page of this server.
const OWN_PAGE: (&str, &str) = ("origin", "http://localhost");
const TOKEN: &str = "a token for tests only";
const SESSION_KEY: &str = "one key for two nodes, 32 bytes or more";

on_both!(
    watchers_see_users_of_all_nodes_go_online_and_offline,
    messages_reach_observers_on_other_nodes,
    messages_of_the_application_reach_rooms_and_users_on_all_nodes,
    a_kick_closes_the_connections_of_a_user_on_every_node,
    a_logout_ends_only_that_login_on_every_node,
);

async fn two_nodes(store: &Store, flags: &[&str]) -> [Node; 2] {
    let (a, b) = tokio::join!(store.node_with("a", flags), store.node_with("b", flags));
    [a, b]
}

fn online(mirror: &Mirror, user: &str) -> Option<bool> {
    mirror.watched.get(user)?["online"].as_bool()
}

async fn watch(watcher: &mut Mirror, users: &[&str]) {
    watcher.send(&json!({"type": "watch", "users": users}));
    watcher.wait_until("the answer", |watcher| users.iter().all(|user| online(watcher, user).is_some())).await;
}

async fn watchers_see_users_of_all_nodes_go_online_and_offline(store: Store) {
    let [a, b] = two_nodes(&store, &SHORT_TTL_FLAG).await;
    let mut watcher = b.connect("watcher").await;
    let guests: Vec<_> = (0..20).map(|number| format!("guest-{number}")).collect();
    watch(&mut watcher, &["bob", "carol", "dave"]).await;
    watch(&mut watcher, &guests.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(watcher.watched["bob"], json!({"user": "bob", "online": false}), "bob was never online");
    let bob = a.connect("bob").await;
    bob.send(&json!({"type": "join", "room": "kitchen", "state": {"mood": "fine"}}));
    watcher.wait_until("bob", |watcher| online(watcher, "bob") == Some(true)).await;
    let first_status = watcher.watched["bob"].clone();
    assert_eq!(first_status["state"], json!({"mood": "fine"}));
    for node in [&a, &b] {
        let known = node.post_json("/v1/users/status", &json!({"users": ["bob"]})).await.json();
        assert_eq!(known["users"][0]["since"], first_status["since"], "{known}");
    }
    // A second connection on the other node changes nothing, and neither does the end of the first one.
    let mark = watcher.mark();
    let here = b.connect_to("bob", "attic").await;
    wait_until_known(&here, &[&a]).await;
    bob.close(1000);
    let carol = a.connect_to("carol", "kitchen").await;
    watcher.wait_until("carol, whose join comes later", |watcher| online(watcher, "carol") == Some(true)).await;
    let about_bob = |watcher: &Mirror, mark| {
        let statuses = watcher.since(mark, "status", "");
        let users: Vec<_> =
            statuses.iter().filter_map(|status| status["users"].as_array()).flatten().cloned().collect();
        users.into_iter().filter(|user| user["user"] == "bob").collect::<Vec<Value>>()
    };
    assert!(about_bob(&watcher, mark).iter().all(|bob| bob["online"] == true), "{:?}", about_bob(&watcher, mark));
    here.send(&json!({"type": "leave", "room": "attic"}));
    watcher.wait_until("the leave of bob", |watcher| online(watcher, "bob") == Some(false)).await;
    assert!(
        watcher.watched["bob"]["since"].as_u64() >= first_status["since"].as_u64(),
        "bob went offline before he came online"
    );
    let _guests = check_that_joins_share_messages(&a, &mut watcher, &guests).await;
    // When a node dies, its users go offline.
    let _dave = b.connect_to("dave", "kitchen").await;
    watcher.wait_until("dave", |watcher| online(watcher, "dave") == Some(true)).await;
    a.kill();
    drop(carol);
    let mut tick_deadline = TickDeadline::after(&[&b], NODE_LOST_AFTER).await;
    loop {
        let over = tick_deadline.has_passed().await;
        watcher.apply_pending();
        if online(&watcher, "carol") == Some(false) {
            break;
        }
        assert!(!over, "carol is still online although the lease of her node has ended: {}", watcher.describe());
        sleep(POLL).await;
    }
    assert_eq!(online(&watcher, "dave"), Some(true));
}

/// Users who join within one tick are reported in one message. Ticks of either node may fall between the joins, but not
/// in every attempt.
async fn check_that_joins_share_messages(node: &Node, watcher: &mut Mirror, guests: &[String]) -> Vec<Mirror> {
    let are =
        |online_now: bool| move |watcher: &Mirror| guests.iter().all(|user| online(watcher, user) == Some(online_now));
    let mut clients = Vec::new();
    for user in guests {
        clients.push(node.connect(user).await);
    }
    for round in 1.. {
        let mark = watcher.mark();
        clients.iter().for_each(|client| client.send(&json!({"type": "join", "room": "hall"})));
        watcher.wait_until("all guests online", are(true)).await;
        if watcher.since(mark, "status", "").len() <= guests.len() / 2 {
            break;
        }
        assert!(round < 20, "{}", watcher.describe());
        clients.iter().for_each(|client| client.send(&json!({"type": "leave", "room": "hall"})));
        watcher.wait_until("all guests offline", are(false)).await;
    }
    clients
}

/// The messages of a room that a mirror received: user and data.
fn received(mirror: &Mirror, room: &str) -> Vec<(String, Value)> {
    let messages = mirror.since(0, "message", room).into_iter();
    messages.map(|message| (message["user"].as_str().unwrap().to_owned(), message["data"].clone())).collect()
}

async fn messages_reach_observers_on_other_nodes(store: Store) {
    let [a, b] = two_nodes(&store, &[]).await;
    let alice = a.connect_to("alice", "lobby").await;
    let mut bob = b.connect_to("bob", "lobby").await;
    let mut chat = b.chat("carol").await;
    let mut counting = b.connect("counting").await;
    counting.send(&json!({"type": "observe", "room": "lobby", "detail": "count"}));
    counting.wait_until("the count", |counting| counting.observes("lobby")).await;
    bob.wait_until("alice", |bob| bob.has("lobby", "alice")).await;
    let sent: Vec<_> = [json!({"text": "hello"}), json!([1, {"deep": "ü"}]), json!("a text")].into();
    for data in &sent {
        alice.send(&json!({"type": "message", "room": "lobby", "data": data}));
    }
    let all: Vec<_> = sent.into_iter().map(|data| ("alice".to_owned(), data)).collect();
    for mirror in [&mut bob, &mut counting] {
        mirror.wait_until("all messages", |mirror| received(mirror, "lobby").len() >= all.len()).await;
        assert_eq!(received(mirror, "lobby"), all, "each message once and in order");
    }
    // Chat clients receive only the first of these: the others have no `text`.
    let of_alice = |message: &&Value| message["payload"]["user"] == "alice";
    chat.wait_until("the chat message", |chat| chat.of("msg").iter().any(of_alice)).await;
    assert_eq!(chat.of("msg").len(), 1, "{:?}", chat.log);
    let mut alice = alice;
    chat.send(&json!({"type": "msg", "payload": {"text": "hello back"}}));
    let answer = ("carol".to_owned(), json!({"text": "hello back"}));
    alice.wait_until("the answer", |alice| received(alice, "lobby").contains(&answer)).await;
    // Each message comes between the join and the leave of its user, on the other node too. The mirror asserts this.
    for round in 0..5 {
        let guest = a.connect("guest").await;
        guest.send(&json!({"type": "join", "room": "lobby"}));
        guest.send(&json!({"type": "message", "room": "lobby", "data": round}));
        bob.wait_until("the message of the guest", |bob| {
            received(bob, "lobby").contains(&("guest".to_owned(), json!(round)))
        })
        .await;
        guest.send(&json!({"type": "leave", "room": "lobby"}));
        bob.wait_until("the leave of the guest", |bob| !bob.has("lobby", "guest")).await;
    }
}

async fn messages_of_the_application_reach_rooms_and_users_on_all_nodes(store: Store) {
    let [a, b] = two_nodes(&store, &["--api-key", TOKEN]).await;
    let bearer = format!("Bearer {TOKEN}");
    let publish = async |node: &Node, path: &str, data: Value| {
        let (headers, body) = ([("authorization", &*bearer)], json!({ "data": data }).to_string());
        loop {
            let answer = http::request(node.address, "POST", path, &headers, body.as_bytes()).await;
            if answer.status == 202 {
                return assert_eq!(answer.json(), json!({}));
            }
            // A user has a limit per tick, and a busy machine ticks late.
            assert_eq!(answer.status, 429);
            sleep(POLL).await;
        }
    };
    let mut here = a.connect_to("alice", "lobby").await;
    let mut there = b.connect_to("alice", "lobby").await;
    let mut bob = b.connect_to("bob", "attic").await;
    wait_until_known(&there, &[&a]).await;
    wait_until_known(&here, &[&b]).await;
    // Nobody observes or is online on the node that is asked.
    publish(&a, "/v1/rooms/attic/messages", json!("to the attic")).await;
    publish(&a, "/v1/users/bob/messages", json!("to bob")).await;
    let long = "x".repeat(16_000);
    for number in 0..30 {
        let node = if number % 2 == 0 { &a } else { &b };
        publish(node, "/v1/users/alice/messages", json!({"to": "user", "number": number, "long": long})).await;
        publish(node, "/v1/rooms/lobby/messages", json!({"to": "room", "number": number, "long": long})).await;
    }
    let count = |mirror: &Mirror| mirror.since(0, "message", "").len();
    for mirror in [&mut here, &mut there] {
        mirror.wait_until("all messages", |mirror| count(mirror) >= 60).await;
        mirror.barrier().await;
        assert_eq!(count(mirror), 60, "each message once");
        for to in ["user", "room"] {
            for node in 0..2 {
                let messages = mirror.since(0, "message", "").into_iter().filter(|message| message["data"]["to"] == to);
                assert!(messages.clone().all(|message| message.get("room").is_some() == (to == "room")));
                let numbers = messages.filter_map(|message| message["data"]["number"].as_u64());
                let numbers: Vec<_> = numbers.filter(|number| number % 2 == node).collect();
                assert!(numbers.len() == 15 && numbers.is_sorted(), "in order for each node: {numbers:?}");
            }
        }
    }
    bob.wait_until("both messages", |bob| count(bob) == 2).await;
    let to_bob: Vec<_> = bob.since(0, "message", "").iter().map(|message| message["data"].clone()).collect();
    assert!(to_bob.contains(&json!("to the attic")) && to_bob.contains(&json!("to bob")), "{to_bob:?}");
    assert_eq!(a.stat("redis_messages_dropped").await + b.stat("redis_messages_dropped").await, 0);
}

async fn a_kick_closes_the_connections_of_a_user_on_every_node(store: Store) {
    let [a, b] = two_nodes(&store, &["--api-key", TOKEN, "--grace", "2s", "--ttl", "20s"]).await;
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    // The chat client waits for the join of its user, which is announced only if the user is not a member yet.
    let mut chat = b.chat("7").await;
    let mut native_here = a.connect_to("7", "lobby").await;
    let mut native = b.connect_to("7", "lobby").await;
    let mut list = b.online_users("7").await;
    let mut status = b.online_status("7").await;
    b.rest_heartbeat("7").await;
    b.connect_to("7", "lobby").await.drop_connection();
    let mut other = b.connect_to("8", "lobby").await;
    observers.wait_for_members(&[&a, &b], &["7", "8"]).await;
    wait_until_known(&native, &[&a]).await;
    observers.allow_leaves(&["7"]);
    let bearer = format!("Bearer {TOKEN}");
    let done = http::request(a.address, "POST", "/v1/users/7/kick", &[("authorization", &bearer)], b"").await;
    assert_eq!((done.status, done.json()), (200, json!({"user": "7"})));
    for mirror in [&mut native_here, &mut native] {
        assert_eq!(mirror.wait_for_close().await, Some(1008));
    }
    list.wait_until("the close", |list| list.closed == Some(Some(1008))).await;
    assert_eq!(status.wait_for_close().await, Some(1008));
    assert_eq!(chat.wait_for_close().await, Some(1008));
    observers.wait_for_members(&[&a, &b], &["8"]).await;
    observers.assert_left_once("7", &["kicked"]);
    observers.assert_stable(&["8"]);
    other.heartbeat().await;
    // The user may come back at once.
    let _again = b.connect_to("7", "lobby").await;
    observers.wait_for_members(&[&a, &b], &["7", "8"]).await;
}

/// Sends a request like a browser that has this cookie.
async fn send(node: &Node, method: &str, path: &str, cookie: &str, body: &str) -> Response {
    let headers = [("content-type", "application/json"), ("cookie", cookie), OWN_PAGE];
    http::request(node.address, method, path, &headers, body.as_bytes()).await
}

async fn sign_in(node: &Node, user: &str) -> String {
    let answer = send(node, "POST", "/login", "", &json!({ "user": user }).to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("set-cookie").and_then(|set| set.split(';').next()).expect("a cookie").to_owned()
}

/// A native connection in the lobby, of the user who is signed in with this cookie.
async fn connect(node: &Node, cookie: &str) -> RawClient {
    let path = "/v1/connect?room=lobby";
    let (mut client, _) = RawClient::open_with(node.address, path, &[("cookie", cookie), OWN_PAGE], b"").await;
    client.json_of_type("snapshot").await;
    client
}

async fn a_logout_ends_only_that_login_on_every_node(store: Store) {
    let [a, b] = two_nodes(&store, &["--dev-login", "--session-key", SESSION_KEY]).await;
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    let (first, second) = (sign_in(&a, "alice").await, sign_in(&a, "alice").await);
    let (mut here, mut there) = (connect(&a, &first).await, connect(&b, &first).await);
    let mut other = connect(&b, &second).await;
    observers.wait_for_members(&[&a, &b], &["alice"]).await;
    // Node b sends changes in order. Once a knows this room, it knows the connection of the other login too.
    other.send_json(&json!({"type": "join", "room": "marker", "observe": false})).await;
    a.wait_until("the marker room", async || a.members("marker").await.contains_key("alice")).await;
    assert_eq!(send(&a, "POST", "/logout", &first, "").await.status, 200);
    assert_eq!(here.wait_for_close().await, Some(1008));
    assert_eq!(there.wait_for_close().await, Some(1008));
    assert!(other.is_served().await, "the connection of another login was closed");
    // The logout made the cookie invalid on both nodes.
    for node in [&a, &b] {
        raw::refused_upgrade(node.address, "/v1/connect", &[("cookie", &first), OWN_PAGE]).await.error(401);
        assert_eq!(send(node, "POST", "/login/session", &first, "").await.json()["user"], Value::Null);
        assert_eq!(send(node, "POST", "/login/session", &second, "").await.json()["user"], "alice");
    }
    observers.wait_for_members(&[&a, &b], &["alice"]).await;
    observers.assert_stable(&["alice"]);
    observers.allow_leaves(&["alice"]);
    assert_eq!(send(&a, "POST", "/logout", &second, "").await.status, 200);
    assert_eq!(other.wait_for_close().await, Some(1008));
    observers.wait_for_members(&[&a, &b], &[]).await;
    observers.assert_left_once("alice", &["left"]);
}
