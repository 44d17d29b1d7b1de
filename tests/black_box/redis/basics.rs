//! Every node answers for the whole cluster: members, counts, states and events are those of all nodes. A user who is
//! connected to several nodes is one member.

use serde_json::{Value, json};

use crate::common::node::wait_until_known;
use crate::common::{MembershipChange, Node, RoomObservers, SHORT_TTL_FLAG, Store, encoded};

on_both!(
    joins_and_leaves_reach_observers_on_every_node,
    http_answers_cover_the_whole_cluster,
    clients_of_all_protocols_see_users_on_other_nodes,
    further_connections_on_other_nodes_are_invisible_to_observers,
    the_last_state_wins_on_every_node,
    the_first_snapshot_of_a_new_node_is_complete,
    names_with_special_characters_survive_redis,
);

fn borrowed(nodes: &[Node; 3]) -> [&Node; 3] {
    nodes.each_ref()
}

async fn joins_and_leaves_reach_observers_on_every_node(store: Store) {
    let nodes = store.three_nodes(&[]).await;
    let all = borrowed(&nodes);
    let mut observers = RoomObservers::on(&all, "lobby").await;
    let alice = nodes[0].connect_to("alice", "lobby").await;
    let bob = nodes[1].connect_to("bob", "lobby").await;
    let _carol = nodes[2].connect_to("carol", "lobby").await;
    observers.wait_for_members(&all, &["alice", "bob", "carol"]).await;
    alice.send(&json!({"type": "state", "room": "lobby", "state": {"mood": "ü"}}));
    observers.wait_for_state("alice", &json!({"mood": "ü"})).await;
    alice.send(&json!({"type": "state", "room": "lobby", "state": {"mood": "away"}}));
    observers.wait_for_state("alice", &json!({"mood": "away"})).await;
    assert_eq!(
        observers.changes_of("alice"),
        vec![vec![MembershipChange::Joined("alice".to_owned())]; 3],
        "an update of the state must not cause a join or leave"
    );
    observers.allow_leaves(&["alice", "bob"]);
    alice.send(&json!({"type": "leave", "room": "lobby"}));
    bob.close(1000);
    observers.wait_for_members(&all, &["carol"]).await;
    observers.assert_left_once("alice", &["left"]);
    observers.assert_left_once("bob", &["closed"]);
    alice.send(&json!({"type": "join", "room": "lobby"}));
    observers.wait_for_members(&all, &["alice", "carol"]).await;
}

async fn http_answers_cover_the_whole_cluster(store: Store) {
    let nodes = store.three_nodes(&[]).await;
    let all = borrowed(&nodes);
    let mut observers = RoomObservers::on(&all, "lobby").await;
    let alice = nodes[0].connect("alice").await;
    alice.send(&json!({"type": "join", "room": "lobby", "state": {"k": 1}}));
    alice.send(&json!({"type": "join", "room": "attic"}));
    let _bob = nodes[1].connect_to("bob", "lobby").await;
    let _alice_again = nodes[2].connect_to("alice", "lobby").await;
    observers.wait_for_members(&all, &["alice", "bob"]).await;
    observers.wait_for_state("alice", &json!({"k": 1})).await;
    for node in all {
        node.wait_until("the attic", async || node.get("/v1/rooms/attic/count").await.json()["count"] == 1).await;
        assert_eq!(node.get("/v1/rooms/lobby/count").await.json()["count"], 2);
        let members = node.get("/v1/rooms/lobby/members").await.json();
        assert_eq!(members["members"], json!([{"user": "alice", "state": {"k": 1}}, {"user": "bob"}]));
        // The lobby has six observers: alice on two nodes, bob, and the observer of the test on each node.
        let (attic, lobby) = ((1, 1), (2, 6));
        let room = |name: &str, (count, observers)| json!({"room": name, "count": count, "observers": observers});
        let rooms = json!([room("attic", attic), room("lobby", lobby)]);
        node.wait_until("both rooms", async || node.get("/v1/rooms").await.json()["rooms"] == rooms).await;
        assert_eq!(node.get("/online_users").await.json(), json!({"online_users": ["alice", "bob"]}));
        let asked = json!({"users": ["alice", "bob", "nobody"], "rooms": 10});
        let status = node.post_json("/v1/users/status", &asked).await.json();
        let online: Vec<_> = status["users"].as_array().unwrap().iter().map(|user| &user["online"]).collect();
        assert_eq!(online, [true, true, false], "{status}");
        assert_eq!(status["users"][0]["rooms"], json!(["attic", "lobby"]));
        assert!(status["users"][1]["since"].is_u64(), "{status}");
        assert_eq!(node.stat("users").await, 2);
    }
}

async fn clients_of_all_protocols_see_users_on_other_nodes(store: Store) {
    let nodes = store.three_nodes(&SHORT_TTL_FLAG).await;
    let mut list = nodes[0].online_users("list").await;
    let mut status = nodes[1].online_status("7").await;
    let mut chat = nodes[2].chat("chat").await;
    let mut remote_chat = nodes[0].chat("remote chat").await;
    let native = nodes[1].connect_to("native", "lobby").await;
    let all_users = ["7", "chat", "list", "native", "remote chat"];
    list.wait_until("all users", |list| list.users == all_users).await;
    status
        .wait_until("all others", |status| {
            status.has_online(&["\"chat\"", "\"list\"", "\"native\"", "\"remote chat\""])
        })
        .await;
    let joined =
        |name: &'static str| move |message: &Value| message["type"] == "join" && message["payload"]["user"] == name;
    chat.wait_until("a join on another node", |chat| chat.log.iter().any(joined("native"))).await;
    chat.send(&json!({"type": "msg", "payload": {"text": "hello"}}));
    for client in [&mut chat, &mut remote_chat] {
        client
            .wait_until("the message", |client| {
                client.of("msg").iter().any(|message| message["payload"]["text"] == "hello")
            })
            .await;
        let messages = client.of("msg");
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert_eq!(messages[0]["payload"]["user"], "chat");
    }
    nodes[2].rest_heartbeat("rest").await;
    status.wait_until("the REST user", |status| status.online.contains("\"rest\"")).await;
    native.close(1000);
    status.wait_until("the leave", |status| !status.online.contains("\"native\"")).await;
    status.wait_until("the leave of the REST user", |status| !status.online.contains("\"rest\"")).await;
}

async fn further_connections_on_other_nodes_are_invisible_to_observers(store: Store) {
    let nodes = store.three_nodes(&[]).await;
    let all = borrowed(&nodes);
    let first = nodes[0].connect_to("alice", "lobby").await;
    let mut observers = RoomObservers::on(&all, "lobby").await;
    observers.wait_for_members(&all, &["alice"]).await;
    let before = observers.changes_of("alice");
    let second = nodes[1].connect_to("alice", "lobby").await;
    wait_until_known(&second, &all).await;
    // Changes arrive in order: once the observers see bob, they would have seen a change of alice before him.
    let bob = nodes[1].connect_to("bob", "lobby").await;
    observers.wait_for_members(&all, &["alice", "bob"]).await;
    first.close(1000);
    let carol = nodes[0].connect_to("carol", "lobby").await;
    observers.wait_for_members(&all, &["alice", "bob", "carol"]).await;
    let third = nodes[2].connect_to("alice", "lobby").await;
    wait_until_known(&third, &all).await;
    second.send(&json!({"type": "leave", "room": "lobby"}));
    let dave = nodes[1].connect_to("dave", "lobby").await;
    observers.wait_for_members(&all, &["alice", "bob", "carol", "dave"]).await;
    assert_eq!(observers.changes_of("alice"), before, "observers received a change of alice");
    observers.allow_leaves(&["alice"]);
    third.close(1000);
    observers.wait_for_members(&all, &["bob", "carol", "dave"]).await;
    observers.assert_left_once("alice", &["closed"]);
    drop((bob, carol, dave));
}

async fn the_last_state_wins_on_every_node(store: Store) {
    let nodes = store.three_nodes(&[]).await;
    let all = borrowed(&nodes);
    let mut observers = RoomObservers::on(&all, "lobby").await;
    let here = nodes[0].connect_to("alice", "lobby").await;
    let there = nodes[1].connect_to("alice", "lobby").await;
    for round in 0..5 {
        for (client, from) in [(&here, "here"), (&there, "there")] {
            let state = json!({"from": from, "round": round});
            client.send(&json!({"type": "state", "room": "lobby", "state": state}));
            observers.wait_for_state("alice", &state).await;
        }
    }
    // The connection that wrote last closes. Observers may see either state, but all see the same one.
    there.close(1000);
    observers.wait_for_members(&all, &["alice"]).await;
    here.send(&json!({"type": "state", "room": "lobby", "state": {"from": "here again"}}));
    observers.wait_for_state("alice", &json!({"from": "here again"})).await;
    here.send(&json!({"type": "state", "room": "lobby", "state": null}));
    for node in all {
        node.wait_until("no state", async || node.members("lobby").await["alice"].is_none()).await;
    }
    observers.wait_for_members(&all, &["alice"]).await;
}

async fn the_first_snapshot_of_a_new_node_is_complete(store: Store) {
    let first = store.node("a").await;
    let users: Vec<_> = (0..40).map(|number| format!("user {number:02}")).collect();
    let mut mirrors = Vec::new();
    for user in &users {
        let client = first.connect(user).await;
        client.send(&json!({"type": "join", "room": "lobby", "observe": false, "state": {"of": user}}));
        mirrors.push(client);
    }
    for user in &users {
        store.until_key(&format!("u:{user}")).await;
    }
    let second = store.node("b").await;
    let mut observers = RoomObservers::on(&[&second], "lobby").await;
    let names: Vec<_> = users.iter().map(String::as_str).collect();
    observers.wait_for_members(&[&first, &second], &names).await;
    assert_eq!(observers.mirror(&second).room("lobby").diffs, 0, "members were missing in the first snapshot");
    for user in &users {
        observers.wait_for_state(user, &json!({"of": user})).await;
    }
}

async fn names_with_special_characters_survive_redis(store: Store) {
    let nodes = store.three_nodes(&[]).await;
    let long = "x".repeat(128);
    let names = ["a:b", "%", "%3A", "@", "{0}", "{", "a b", "ü😀", "\"quoted\\", "*", long.as_str()];
    for room in names {
        let mut mirrors = Vec::new();
        for user in names {
            let client = nodes[0].connect(user).await;
            client.send(&json!({"type": "join", "room": room, "observe": false, "state": {"of": user}}));
            mirrors.push(client);
        }
        let mut wanted: Vec<_> = names.to_vec();
        wanted.sort_unstable();
        let node = &nodes[1];
        node.wait_until(room, async || node.members(room).await.keys().eq(&wanted)).await;
        for (user, state) in node.members(room).await {
            assert_eq!(state, Some(json!({"of": user})), "in {}", encoded(room));
        }
        // A new node reads the members from Redis instead of from events, and must know the same.
        if room == names[0] {
            let late = store.node("late").await;
            late.wait_until(room, async || late.members(room).await.keys().eq(&wanted)).await;
        }
    }
}
