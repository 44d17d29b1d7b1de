//! Presence with the native protocol: welcome, join, leave, observe, state, several connections.
//! Each test checks one rule.

use serde_json::{Value, json};

use crate::common::{Mirror, RawClient, TestServer, encoded, room};

#[tokio::test]
async fn the_first_frame_is_a_complete_welcome() {
    let server = TestServer::start(&["--ttl", "10s", "--tick", "50ms"]);
    let alice = server.connect("alice").await;
    let bob = server.connect("bob").await;
    let welcome = &alice.welcome;
    let keys = ["type", "protocol", "user", "connection", "node", "ttl_ms", "heartbeat_ms", "tick_ms"];
    room::assert_keys(welcome, &keys, &[]);
    assert_eq!(welcome["protocol"], "presence.v1");
    assert_eq!(welcome["user"], "alice");
    assert_eq!(welcome["ttl_ms"], 10_000);
    assert_eq!(welcome["heartbeat_ms"], 5_000);
    assert_eq!(welcome["tick_ms"], 50);
    let (connection, node) = (&welcome["connection"], &welcome["node"]);
    assert!(connection.as_str().is_some_and(|id| !id.is_empty()), "{welcome}");
    assert!(node.as_str().is_some_and(|id| !id.is_empty()), "{welcome}");
    assert_eq!(*node, bob.welcome["node"], "the same node");
    assert_ne!(*connection, bob.welcome["connection"], "different connections");
    server.stop().await;
}

#[tokio::test]
async fn the_subprotocol_is_selected_only_when_the_client_offers_it() {
    let server = TestServer::start(&[]);
    let cases = [
        (vec![("sec-websocket-protocol", "presence.v1")], Some("presence.v1")),
        (vec![("sec-websocket-protocol", "chat, presence.v1,other")], Some("presence.v1")),
        (vec![("sec-websocket-protocol", "chat"), ("sec-websocket-protocol", "presence.v1")], Some("presence.v1")),
        (vec![("sec-websocket-protocol", "presence.v2, chat")], None),
        (vec![], None),
    ];
    for (headers, selected) in cases {
        let path = "/v1/connect?user=alice";
        let (mut client, response) = RawClient::open_with(server.address(), path, &headers, b"").await;
        assert_eq!(response.header("sec-websocket-protocol"), selected, "{headers:?}");
        assert_eq!(client.json().await["type"], "welcome", "{headers:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn room_parameters_join_and_observe_the_rooms() {
    let server = TestServer::start(&[]);
    let mut alice = Mirror::connect(server.address(), "alice", &["lobby", "a/b ü?&"]).await;
    for room in ["lobby", "a/b ü?&"] {
        alice.wait_until("the snapshot", |alice| alice.has(room, "alice")).await;
        assert!(server.members(room).await.contains_key("alice"), "joined {room}");
        let mut bob = server.connect_to("bob", room).await;
        alice.wait_until("bob", |alice| alice.has(room, "bob")).await;
        bob.apply_pending();
        assert_eq!(bob.members(room), alice.members(room));
    }
    server.stop().await;
}

#[tokio::test]
async fn the_first_snapshot_contains_the_user_itself() {
    let server = TestServer::start(&[]);
    let _alice = server.connect_to("alice", "lobby").await;
    let mut bob = server.connect("bob").await;
    bob.send(&json!({"type": "join", "room": "lobby", "state": {"mood": "new"}}));
    bob.wait_until("the snapshot", |bob| bob.observes("lobby")).await;
    let first = bob.since(0, "snapshot", "lobby")[0];
    let expected = json!([{"user": "alice"}, {"user": "bob", "state": {"mood": "new"}}]);
    assert_eq!(first["members"], expected);
    assert_eq!(first["count"], 2);
    assert_eq!((&first["page"], &first["pages"]), (&json!(1), &json!(1)));
    server.stop().await;
}

#[tokio::test]
async fn a_join_without_observing_makes_a_member_that_receives_nothing() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let mut bob = server.connect("bob").await;
    bob.send(&json!({"type": "join", "room": "lobby", "observe": false}));
    alice.wait_until("bob", |alice| alice.has("lobby", "bob")).await;
    let _carol = server.connect_to("carol", "lobby").await;
    alice.wait_until("carol", |alice| alice.has("lobby", "carol")).await;
    bob.barrier().await;
    assert!(!bob.rooms.contains_key("lobby"), "{}", bob.describe());
    server.stop().await;
}

#[tokio::test]
async fn an_observer_is_not_a_member() {
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "lobby").await;
    assert_eq!(observer.room("lobby").count, 0, "an observer must not count as a member");
    let mut alice = server.connect_to("alice", "lobby").await;
    observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
    alice.barrier().await;
    assert_eq!(alice.members("lobby").into_keys().collect::<Vec<_>>(), ["alice"]);
    assert_eq!(server.count("lobby").await, 1);
    server.stop().await;
}

#[tokio::test]
async fn leave_ends_membership_and_observation() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let mut bob = server.connect_to("bob", "lobby").await;
    alice.wait_until("bob", |alice| alice.has("lobby", "bob")).await;
    bob.send(&json!({"type": "leave", "room": "lobby"}));
    alice.wait_until("bob's leave", |alice| !alice.has("lobby", "bob")).await;
    assert_eq!(alice.reason("lobby", "bob").as_deref(), Some("left"));
    assert!(!server.members("lobby").await.contains_key("bob"));
    bob.barrier().await;
    let mark = bob.mark();
    let _carol = server.connect_to("carol", "lobby").await;
    alice.wait_until("carol", |alice| alice.has("lobby", "carol")).await;
    bob.barrier().await;
    assert_eq!(bob.since(mark, "diff", "lobby"), Vec::<&Value>::new());
    server.stop().await;
}

#[tokio::test]
async fn unobserve_ends_observation_and_keeps_the_membership() {
    for end in
        [json!({"type": "unobserve", "room": "lobby"}), json!({"type": "join", "room": "lobby", "observe": false})]
    {
        let server = TestServer::start(&[]);
        let mut alice = server.connect_to("alice", "lobby").await;
        let mut bob = server.connect_to("bob", "lobby").await;
        bob.send(&end);
        bob.barrier().await;
        let mark = bob.mark();
        let _carol = server.connect_to("carol", "lobby").await;
        alice.wait_until("carol", |alice| alice.has("lobby", "carol")).await;
        bob.barrier().await;
        assert_eq!(bob.since(mark, "diff", "lobby"), Vec::<&Value>::new(), "{end}");
        assert!(alice.has("lobby", "bob"), "{end}");
        // Still a member, so the state can be changed. Observing again starts with a snapshot.
        bob.send(&json!({"type": "state", "room": "lobby", "state": {"back": true}}));
        bob.send(&json!({"type": "observe", "room": "lobby"}));
        bob.wait_until("a snapshot", |bob| !bob.since(mark, "snapshot", "lobby").is_empty()).await;
        assert_eq!(bob.state("lobby", "bob"), Some(&json!({"back": true})));
        server.stop().await;
    }
}

#[tokio::test]
async fn a_new_state_replaces_the_last_one_and_is_an_update() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let bob = server.connect_to("bob", "lobby").await;
    alice.wait_until("bob", |alice| alice.has("lobby", "bob")).await;
    let mark = alice.mark();
    for state in [json!({"a": 1, "b": {"c": [1, 2.5, null, "x"]}}), json!({"d": true}), json!({})] {
        bob.send(&json!({"type": "state", "room": "lobby", "state": state}));
        alice.wait_until("the state", |alice| alice.state("lobby", "bob") == Some(&state)).await;
        assert_eq!(server.members("lobby").await["bob"].as_ref(), Some(&state));
    }
    for diff in alice.since(mark, "diff", "lobby") {
        assert!(diff["updated"].is_array(), "{diff}");
        assert!(diff.get("joined").is_none() && diff.get("left").is_none(), "{diff}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_null_state_clears_the_state() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect("alice").await;
    alice.send(&json!({"type": "join", "room": "lobby", "state": {"n": 1}}));
    alice.wait_until("the state", |alice| alice.state("lobby", "alice").is_some()).await;
    let mark = alice.mark();
    alice.send(&json!({"type": "state", "room": "lobby", "state": null}));
    alice.wait_until("no state", |alice| alice.has("lobby", "alice") && alice.state("lobby", "alice").is_none()).await;
    assert_eq!(alice.since(mark, "diff", "lobby")[0]["updated"], json!([{"user": "alice"}]));
    server.stop().await;
}

#[tokio::test]
async fn a_second_join_changes_the_state_and_what_is_observed() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let mut bob = server.connect_to("bob", "lobby").await;
    alice.wait_until("bob", |alice| alice.has("lobby", "bob")).await;
    let (from_alice, from_bob) = (alice.mark(), bob.mark());
    bob.send(&json!({"type": "join", "room": "lobby", "state": {"again": 1}}));
    bob.wait_until("a snapshot", |bob| !bob.since(from_bob, "snapshot", "lobby").is_empty()).await;
    bob.wait_until("the state", |bob| bob.state("lobby", "bob").is_some()).await;
    alice.wait_until("the state", |alice| alice.state("lobby", "bob").is_some()).await;
    let diffs = alice.since(from_alice, "diff", "lobby");
    assert_eq!(diffs.len(), 1);
    assert_eq!(diffs[0]["updated"], json!([{"user": "bob", "state": {"again": 1}}]));

    bob.send(&json!({"type": "join", "room": "lobby", "detail": "count"}));
    bob.wait_until("a count", |bob| bob.room("lobby").counts > 0).await;
    let mark = bob.mark();
    let _carol = server.connect_to("carol", "lobby").await;
    bob.wait_until("the new count", |bob| bob.room("lobby").count == 3).await;
    assert_eq!(bob.since(mark, "diff", "lobby"), Vec::<&Value>::new(), "only counts from now on");
    server.stop().await;
}

#[tokio::test]
async fn several_connections_of_a_user_are_one_member() {
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "lobby").await;
    let mut first = server.connect_to("alice", "lobby").await;
    let mut second = server.connect_to("alice", "lobby").await;
    observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
    assert_eq!(server.count("lobby").await, 1);
    first.send(&json!({"type": "leave", "room": "lobby"}));
    first.barrier().await;
    observer.barrier().await;
    assert!(observer.has("lobby", "alice"), "alice left although her second connection is open");
    second.send(&json!({"type": "leave", "room": "lobby"}));
    second.barrier().await;
    observer.wait_until("the leave", |observer| !observer.has("lobby", "alice")).await;
    assert_eq!(observer.reason("lobby", "alice").as_deref(), Some("left"));
    assert_eq!(observer.since(0, "diff", "lobby").len(), 2, "one join and one leave");
    server.stop().await;
}

#[tokio::test]
async fn the_last_state_written_by_any_connection_wins() {
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "lobby").await;
    let first = server.connect_to("alice", "lobby").await;
    let second = server.connect_to("alice", "lobby").await;
    for (writer, state) in [(&first, 1), (&second, 2), (&first, 3), (&second, 4)] {
        let state = json!({ "n": state });
        writer.send(&json!({"type": "state", "room": "lobby", "state": state}));
        let written = |observer: &Mirror| observer.state("lobby", "alice") == Some(&state);
        observer.wait_until("the state", written).await;
    }
    second.send(&json!({"type": "leave", "room": "lobby"}));
    let _bob = server.connect_to("bob", "lobby").await;
    observer.wait_until("bob", |observer| observer.has("lobby", "bob")).await;
    observer.barrier().await;
    assert_eq!(
        observer.state("lobby", "alice"),
        Some(&json!({"n": 4})),
        "the state outlives the connection that wrote it"
    );
    server.stop().await;
}

#[tokio::test]
async fn ids_in_urls_are_percent_decoded() {
    let server = TestServer::start(&[]);
    let longest = "x".repeat(128);
    let room = "Zimmer \"1\" \\ / 😀";
    let users = ["a", "a b", "ä/ö?ü&=#%", "\"\\\u{2020}</script>", "😀👩‍👩‍👧", "heartbeat", longest.as_str()];
    let mut observer = server.observe("observer", room).await;
    let mut all = Vec::new();
    for user in users {
        let client = server.connect_to(user, room).await;
        assert_eq!(client.welcome["user"], user);
        all.push(client);
    }
    let all_users = |observer: &Mirror| observer.members(room).len() == users.len();
    observer.wait_until("all users", all_users).await;
    all.push(observer);
    let members = server.wait_for_agreement(room, &mut all).await;
    let mut sorted = users.to_vec();
    sorted.sort_unstable();
    assert_eq!(members.into_keys().collect::<Vec<_>>(), sorted);
    server.stop().await;
}

#[tokio::test]
async fn bad_user_ids_and_room_names_are_refused_before_the_upgrade() {
    let server = TestServer::start(&[]);
    let long = "x".repeat(129);
    let wide = encoded(&"ü".repeat(65));
    let cases = [
        "/v1/connect".to_owned(),
        "/v1/connect?room=lobby".to_owned(),
        "/v1/connect?user=".to_owned(),
        "/v1/connect?user=a%00b".to_owned(),
        "/v1/connect?user=a%0Ab".to_owned(),
        "/v1/connect?user=a%7Fb".to_owned(),
        "/v1/connect?user=a%C2%85b".to_owned(),
        "/v1/connect?user=%FF%FE".to_owned(),
        format!("/v1/connect?user={long}"),
        format!("/v1/connect?user={wide}"),
        "/v1/connect?user=alice&room=".to_owned(),
        "/v1/connect?user=alice&room=lobby&room=a%00".to_owned(),
        format!("/v1/connect?user=alice&room={long}"),
    ];
    for path in cases {
        crate::common::raw::refused_upgrade(server.address(), &path, &[]).await.error(400);
    }
    assert_eq!(server.get("/v1/rooms").await.json()["rooms"], json!([]), "a refused user joined");
    server.stop().await;
}
