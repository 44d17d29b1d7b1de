//! Watching users with the native protocol: the client receives the online status of users it names, in any room.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::{DEADLINE, Mirror, ONE_SECOND_TTL_FLAG, Random, TestServer};

fn watch(users: &[&str]) -> Value {
    json!({"type": "watch", "users": users})
}

fn unwatch(users: &[&str]) -> Value {
    json!({"type": "unwatch", "users": users})
}

/// The last online status of the user that a mirror received; `None` if it received none.
fn online(mirror: &Mirror, user: &str) -> Option<bool> {
    mirror.watched.get(user)?["online"].as_bool()
}

fn statuses(mirror: &Mirror, mark: usize) -> Vec<&Value> {
    mirror.since(mark, "status", "")
}

/// A client that watches these users and has received the status of all.
async fn watcher(server: &TestServer, name: &str, users: &[&str]) -> Mirror {
    let mut mirror = server.connect(name).await;
    mirror.send(&watch(users));
    mirror
        .wait_until("the status of all users", |mirror| users.iter().all(|user| online(mirror, user).is_some()))
        .await;
    mirror
}

#[tokio::test]
async fn a_thousand_names_fit_into_one_message_whatever_their_length() {
    let server = TestServer::start(&[]);
    for length in [36, 128] {
        let names: Vec<String> = (0..1000).map(|number| format!("{number:0length$}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut alice = watcher(&server, "alice", &names).await;
        assert_eq!(alice.watched.len(), 1000);
        alice.send(&unwatch(&names));
        alice.send(&watch(&["bob"]));
        alice.wait_until("room for one more name", |alice| online(alice, "bob").is_some()).await;
        assert!(alice.since(0, "error", "").is_empty());
    }
    server.stop().await;
}

#[tokio::test]
async fn watch_is_answered_with_all_users_and_followed_by_changes() {
    let server = TestServer::start(&[]);
    let mut bob = server.connect_to("bob", "kitchen").await;
    bob.send(&json!({"type": "state", "room": "kitchen", "state": {"mood": "fine"}}));
    bob.wait_until("the state", |bob| bob.state("kitchen", "bob").is_some()).await;
    let mut alice = watcher(&server, "alice", &["bob", "carol"]).await;
    let first = statuses(&alice, 0);
    assert_eq!(first.len(), 1, "not one answer: {first:?}");
    assert_eq!(alice.watched["carol"], json!({"user": "carol", "online": false}), "carol was never online");
    let first_status = alice.watched["bob"].clone();
    assert_eq!((&first_status["online"], &first_status["state"]), (&json!(true), &json!({"mood": "fine"})));
    // The HTTP API answers the same time.
    let answer = server.post_json("/v1/users/status", &json!({"users": ["bob"]})).await.json();
    assert_eq!(answer["users"][0]["since"], first_status["since"]);
    let mut carol = server.connect_to("carol", "attic").await;
    alice.wait_until("carol", |alice| online(alice, "carol") == Some(true)).await;
    bob.send(&json!({"type": "state", "room": "kitchen", "state": null}));
    alice.wait_until("no state", |alice| alice.watched["bob"].get("state").is_none()).await;
    assert_eq!(alice.watched["bob"]["since"], first_status["since"], "a new state changed since");
    carol.send(&json!({"type": "leave", "room": "attic"}));
    alice.wait_until("the leave of carol", |alice| online(alice, "carol") == Some(false)).await;
    let offline_since = alice.watched["carol"]["since"].as_u64().expect("carol was online");
    assert!(offline_since >= first_status["since"].as_u64().unwrap(), "{offline_since}");
    carol.barrier().await;
    // A client that connects later receives the same status.
    let late = watcher(&server, "late", &["carol"]).await;
    assert_eq!(late.watched["carol"], alice.watched["carol"]);
    for status in statuses(&alice, 0).iter().skip(1) {
        assert_eq!(status["users"].as_array().unwrap().len(), 1, "a message must contain only what changed: {status}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_user_in_any_room_is_online() {
    let server = TestServer::start(&["--tick", "100ms"]);
    let mut alice = watcher(&server, "alice", &["bob"]).await;
    let mut bob = server.connect("bob").await;
    bob.barrier().await;
    alice.barrier().await;
    assert_eq!(online(&alice, "bob"), Some(false), "a user without a room must be offline");
    bob.send(&json!({"type": "join", "room": "one", "state": {"n": 1}}));
    alice.wait_until("bob", |alice| online(alice, "bob") == Some(true)).await;
    let since = alice.watched["bob"]["since"].clone();
    let mark = alice.mark();
    bob.send(&json!({"type": "join", "room": "two", "state": {"n": 2}}));
    bob.barrier().await;
    bob.barrier().await;
    alice.barrier().await;
    assert!(statuses(&alice, mark).is_empty(), "the first room has a state, so a second room changes nothing");
    bob.send(&json!({"type": "leave", "room": "one"}));
    alice.wait_until("the state in the other room", |alice| alice.watched["bob"]["state"] == json!({"n": 2})).await;
    // Changing rooms, even with a tick in between, is not reported as offline.
    for n in 0..20 {
        let (old, new) = if n % 2 == 0 { ("two", "three") } else { ("three", "two") };
        let join = json!({"type": "join", "room": new, "observe": false, "state": {"n": n}});
        bob.send_all(&[json!({"type": "leave", "room": old}), join]);
        alice.wait_until("the state", |alice| alice.watched["bob"]["state"] == json!({ "n": n })).await;
    }
    let received = statuses(&alice, mark);
    assert!(received.iter().all(|status| status["users"][0]["online"] == true), "{received:?}");
    assert_eq!(alice.watched["bob"]["since"], since);
    server.stop().await;
}

#[tokio::test]
async fn a_leave_and_a_join_within_one_tick_send_no_status() {
    let server = TestServer::start(&["--tick", "300ms"]);
    let mut bob = server.connect_to("bob", "lobby").await;
    let mut brief = server.connect("brief").await;
    let mut alice = watcher(&server, "alice", &["bob", "brief"]).await;
    let (join, leave) = (json!({"type": "join", "room": "lobby"}), json!({"type": "leave", "room": "lobby"}));
    for _ in 0..100 {
        alice.barrier().await;
        let (mark, ticks) = (alice.mark(), server.ticks().await);
        bob.send_all(&[leave.clone(), join.clone()]);
        brief.send_all(&[join.clone(), leave.clone()]);
        bob.heartbeat().await;
        brief.heartbeat().await;
        if server.ticks().await == ticks {
            alice.barrier().await;
            alice.barrier().await;
            assert!(statuses(&alice, mark).is_empty(), "{}", alice.describe());
            return server.stop().await;
        }
    }
    panic!("a tick fell between in every attempt");
}

#[tokio::test]
async fn changes_within_one_tick_are_one_message() {
    let server = TestServer::start(&["--tick", "500ms"]);
    let users: Vec<String> = (0..20).map(|n| format!("user-{n:02}")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let mut alice = watcher(&server, "alice", &names).await;
    assert_eq!(statuses(&alice, 0).len(), 1);
    let mut members = Vec::new();
    for user in &users {
        members.push(server.connect(user).await);
    }
    alice.barrier().await;
    let (mark, ticks) = (alice.mark(), server.ticks().await);
    members.iter().for_each(|user| user.send(&json!({"type": "join", "room": user.user})));
    alice.wait_until("all users online", |alice| names.iter().all(|user| online(alice, user) == Some(true))).await;
    // One tick, or two if a tick fell between.
    let passed = server.ticks().await - ticks;
    assert!(statuses(&alice, mark).len() as u64 <= passed, "{passed} ticks: {}", alice.describe());
    server.stop().await;
}

#[tokio::test]
async fn users_of_every_protocol_are_reported_online_and_offline() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let users = ["native", "lister", "7", "chatter", "rest"];
    let mut alice = watcher(&server, "alice", &users).await;
    let is = |user: &'static str, now: bool| move |alice: &Mirror| online(alice, user) == Some(now);
    let native = server.connect_to("native", "lobby").await;
    alice.wait_until("native online", is("native", true)).await;
    let mut lister = server.online_users("lister").await;
    alice.wait_until("lister online", is("lister", true)).await;
    lister.heartbeat().await;
    let status = server.online_status("7").await;
    alice.wait_until("7 online", is("7", true)).await;
    let chat = server.chat("chatter").await;
    alice.wait_until("chatter online", is("chatter", true)).await;
    server.rest_heartbeat("rest").await;
    alice.wait_until("rest online or offline again", |alice| online(alice, "rest").is_some()).await;
    native.drop_connection();
    status.close(1000);
    chat.close(1000);
    drop(lister);
    for user in users {
        alice.wait_until(user, is(user, false)).await;
        assert!(alice.watched[user]["since"].is_u64(), "{}", alice.watched[user]);
    }
    server.stop().await;
}

#[tokio::test]
async fn unwatched_users_are_no_longer_reported() {
    let server = TestServer::start(&[]);
    let mut alice = watcher(&server, "alice", &["bob", "carol"]).await;
    let mut bystander = watcher(&server, "bystander", &["bob"]).await;
    alice.send(&unwatch(&["bob", "bob", "not watched"]));
    alice.heartbeat().await;
    let mark = alice.mark();
    let _bob = server.connect_to("bob", "lobby").await;
    let _carol = server.connect_to("carol", "lobby").await;
    bystander.wait_until("bob", |bystander| online(bystander, "bob") == Some(true)).await;
    alice.wait_until("carol", |alice| online(alice, "carol") == Some(true)).await;
    alice.barrier().await;
    assert_eq!(statuses(&alice, mark).len(), 1, "only carol is still watched");
    assert_eq!(online(&alice, "bob"), Some(false));
    // Watching a user again is answered, even if the user is still watched.
    alice.send(&watch(&["bob"]));
    alice.wait_until("bob", |alice| online(alice, "bob") == Some(true)).await;
    let mark = alice.mark();
    alice.send(&watch(&["bob", "carol", "bob"]));
    alice.wait_until("the answer", |alice| !statuses(alice, mark).is_empty()).await;
    assert_eq!(statuses(&alice, mark)[0]["users"].as_array().unwrap().len(), 2);
    alice.send(&watch(&[]));
    alice.send(&unwatch(&[]));
    alice.barrier().await;
    assert_eq!(statuses(&alice, mark).len(), 1, "an empty list was answered");
    assert!(bystander.since(0, "status", "").len() <= 2, "the bystander received an answer to another client");
    server.stop().await;
}

#[tokio::test]
async fn a_connection_may_watch_a_thousand_users() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect("alice").await;
    let names = |range: std::ops::Range<usize>| -> Vec<String> { range.map(|n| format!("user-{n}")).collect() };
    alice.send(&json!({"type": "watch", "users": names(0..600)}));
    alice.send(&json!({"type": "watch", "users": names(500..1000)}));
    alice.wait_until("the status of all users", |alice| alice.watched.len() == 1000).await;
    let error = alice.expect_error(&watch(&["one more"]).to_string()).await;
    assert_eq!(error["code"], "forbidden");
    assert!(error["message"].as_str().unwrap().contains("1000"), "the error lacks the limit: {error}");
    // If a list exceeds the limit, none of its users is watched. Users who are already watched do not count again.
    assert_eq!(alice.expect_error(&watch(&["user-1", "another"]).to_string()).await["code"], "forbidden");
    alice.send(&watch(&["user-1"]));
    alice.send(&unwatch(&["user-0"]));
    alice.send(&watch(&["one more"]));
    alice.wait_until("the status of one more", |alice| alice.watched.len() == 1001).await;
    assert!(!alice.watched.contains_key("another"));
    let _late = server.connect_to("user-999", "lobby").await;
    alice.wait_until("user-999 online", |alice| online(alice, "user-999") == Some(true)).await;
    server.stop().await;
}

#[tokio::test]
async fn the_status_of_unwatched_users_is_forgotten() {
    let server = TestServer::start(&[]);
    let alice = watcher(&server, "alice", &["bob"]).await;
    let mut other = server.connect("other").await;
    let bob = server.connect_to("bob", "lobby").await;
    bob.close(1000);
    server.wait_for_member("lobby", "bob", false).await;
    alice.close(1000);
    other.barrier().await;
    let deadline = Instant::now() + DEADLINE;
    while server.get("/v1/stats").await.json()["watched_users"] != json!(0) {
        assert!(Instant::now() < deadline, "bob is still watched although alice disconnected");
    }
    other.send(&watch(&["bob"]));
    other.wait_until("bob", |other| online(other, "bob").is_some()).await;
    assert_eq!(other.watched["bob"], json!({"user": "bob", "online": false}));
    assert_eq!(server.get("/v1/stats").await.json()["watched_users"], json!(1));
    server.stop().await;
}

#[tokio::test]
async fn a_slow_client_receives_the_current_status_when_it_reads_again() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let users: Vec<String> = (0..100).map(|n| format!("{n:0>100}")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let mut fast = watcher(&server, "fast", &names).await;
    let mut slow = Mirror::connect_with_small_buffer(server.address(), "slow", &[]).await;
    slow.send(&watch(&names));
    slow.wait_until("the status of all users", |slow| slow.watched.len() == names.len()).await;
    slow.set_reading(false);
    let mut members = Vec::new();
    for user in &users {
        members.push(server.connect(user).await);
    }
    let rounds = 40;
    for round in 0..rounds {
        let state = json!({"round": round, "filler": "x".repeat(900)});
        members.iter().for_each(|user| {
            user.send(&json!({"type": "join", "room": "lobby", "observe": false, "state": state}));
        });
        fast.wait_until("the states of the round", |fast| {
            names.iter().all(|user| fast.watched[*user]["state"] == state)
        })
        .await;
    }
    // One user goes offline.
    members[0].send(&json!({"type": "leave", "room": "lobby"}));
    fast.wait_until("the leave", |fast| online(fast, names[0]) == Some(false)).await;
    slow.set_reading(true);
    slow.wait_until("the current status", |slow| slow.watched == fast.watched).await;
    let received: usize =
        slow.since(0, "status", "").iter().map(|status| status["users"].as_array().unwrap().len()).sum();
    assert!(received < rounds * names.len(), "{received} status changes were received: none was skipped");
    members[1].send(&json!({"type": "leave", "room": "lobby"}));
    slow.wait_until("the next change", |slow| online(slow, names[1]) == Some(false)).await;
    server.stop().await;
}

#[tokio::test]
async fn watchers_agree_with_the_http_api_after_a_random_schedule() {
    const USERS: usize = 8;
    let server = TestServer::start(&["--tick", "10ms", "--workers", "3", "--ttl", "1s"]);
    let users: Vec<String> = (0..USERS).map(|n| format!("user-{n}")).collect();
    let mut watchers = Vec::new();
    for n in 0..3 {
        watchers.push((server.connect(&format!("watcher-{n}")).await, BTreeSet::new()));
    }
    let mut clients = Vec::new();
    for user in &users {
        clients.push(server.connect(user).await);
    }
    let mut random = Random(0x0057_A7E5);
    for step in 0..800 {
        let (at, room) = (random.below(USERS), ["red", "green"][random.below(2)]);
        match random.below(12) {
            0..4 => clients[at].send(&json!({"type": "join", "room": room, "observe": false, "state": {"step": step}})),
            4..6 => clients[at].send(&json!({"type": "leave", "room": room})),
            6..8 => {
                let (watcher, watched) = &mut watchers[random.below(3)];
                watcher.send(&watch(&[&users[at]]));
                watched.insert(at);
            }
            8 => {
                let (watcher, watched) = &mut watchers[random.below(3)];
                watcher.send(&unwatch(&[&users[at]]));
                watched.remove(&at);
            }
            9 => {
                clients[at].close(if random.below(2) == 0 { 1000 } else { 1001 });
                clients[at] = server.connect(&users[at]).await;
            }
            10 => drop(clients[at].heartbeat().await),
            _ => clients[at].apply_pending(),
        }
    }
    // Users without a clean close stay online for one lease. After that, watchers and API agree.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let answer = server.post_json("/v1/users/status", &json!({"users": users})).await.json();
        let mut received: Vec<BTreeSet<String>> = vec![BTreeSet::new(); USERS];
        let mut agreed = true;
        for (watcher, watched) in &mut watchers {
            watcher.barrier().await;
            for at in watched.iter() {
                let known = &watcher.watched[&users[*at]];
                agreed &= known["online"] == answer["users"][*at]["online"];
                received[*at].insert(known.to_string());
            }
        }
        if agreed && received.iter().all(|statuses| statuses.len() <= 1) {
            break;
        }
        assert!(Instant::now() < deadline, "the watchers received {received:?}, the API answers {answer}");
    }
    server.stop().await;
}
