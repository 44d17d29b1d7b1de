//! What observers receive with the native protocol: snapshots, diffs, counts, resume, heartbeats. Each test checks one
//! rule. Every `Mirror` asserts on every message that `seq` is contiguous, members are sorted and empty lists are left
//! out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::common::{Mirror, RawClient, TestServer, room};

/// A tick long enough to handle messages that are sent together between two ticks.
const SLOW_TICK: [&str; 2] = ["--tick", "400ms"];

/// Sends one round of `bob`'s messages in one TCP segment right after a tick, and repeats with the next round until all
/// were handled before the next tick. Returns that round, and the length of `alice`'s log before it.
async fn within_one_tick(
    server: &TestServer,
    bob: &mut Mirror,
    alice: &mut Mirror,
    messages: impl Fn(u64) -> Vec<Value>,
) -> (u64, usize) {
    for round in 1..100 {
        bob.barrier().await;
        alice.barrier().await;
        let (mark, ticks) = (alice.mark(), server.ticks().await);
        bob.send_all(&messages(round));
        bob.heartbeat().await;
        if server.ticks().await == ticks {
            return (round, mark);
        }
    }
    panic!("a tick fell between the messages in every attempt");
}

#[tokio::test]
async fn changes_within_one_tick_are_one_diff_with_the_last_state() {
    let server = TestServer::start(&SLOW_TICK);
    let mut alice = server.connect_to("alice", "lobby").await;
    let mut bob = server.connect_to("bob", "lobby").await;
    alice.wait_until("bob", |alice| alice.has("lobby", "bob")).await;
    let state = |round: u64, n: u64| json!({"round": round, "n": n});
    let states = |round| {
        let message = |n| json!({"type": "state", "room": "lobby", "state": state(round, n)});
        (1..=20).map(message).collect()
    };
    let (round, mark) = within_one_tick(&server, &mut bob, &mut alice, states).await;
    let last = state(round, 20);
    alice.wait_until("the last state", |alice| alice.state("lobby", "bob") == Some(&last)).await;
    let diffs = alice.since(mark, "diff", "lobby");
    assert_eq!(diffs.len(), 1, "{diffs:?}");
    assert_eq!(diffs[0]["updated"], json!([{"user": "bob", "state": last}]));
    server.stop().await;
}

#[tokio::test]
async fn a_join_and_a_leave_within_one_tick_cancel_out() {
    let server = TestServer::start(&SLOW_TICK);
    let mut alice = server.connect_to("alice", "lobby").await;
    let mut bob = server.connect("bob").await;
    let come_and_go = vec![
        json!({"type": "join", "room": "lobby", "state": {"n": 1}}),
        json!({"type": "state", "room": "lobby", "state": {"n": 2}}),
        json!({"type": "leave", "room": "lobby"}),
    ];
    let (_, mark) = within_one_tick(&server, &mut bob, &mut alice, |_| come_and_go.clone()).await;
    bob.barrier().await;
    let _carol = server.connect_to("carol", "lobby").await;
    alice.wait_until("carol", |alice| alice.has("lobby", "carol")).await;
    let diffs = alice.since(mark, "diff", "lobby");
    assert_eq!(diffs.len(), 1, "only carol joined: {diffs:?}");
    assert_eq!(diffs[0]["joined"], json!([{"user": "carol"}]));
    server.stop().await;
}

#[tokio::test]
async fn a_leave_and_a_join_within_one_tick_are_at_most_an_update() {
    let server = TestServer::start(&SLOW_TICK);
    let mut alice = server.connect_to("alice", "lobby").await;
    let mut bob = server.connect_to("bob", "lobby").await;
    alice.wait_until("bob", |alice| alice.has("lobby", "bob")).await;
    let go_and_come = |round: u64| {
        let join = json!({"type": "join", "room": "lobby", "state": {"back": round}});
        vec![json!({"type": "leave", "room": "lobby"}), join]
    };
    let (round, mark) = within_one_tick(&server, &mut bob, &mut alice, go_and_come).await;
    let state = json!({ "back": round });
    alice.wait_until("the state", |alice| alice.state("lobby", "bob") == Some(&state)).await;
    let diffs = alice.since(mark, "diff", "lobby");
    assert_eq!(diffs.len(), 1, "{diffs:?}");
    assert_eq!(diffs[0]["updated"], json!([{"user": "bob", "state": state}]));
    assert!(diffs[0].get("left").is_none() && diffs[0].get("joined").is_none(), "{}", diffs[0]);
    server.stop().await;
}

#[tokio::test]
async fn diffs_list_joined_users_with_their_state_and_left_users_with_the_reason() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let bob = server.connect("bob").await;
    let mark = alice.mark();
    let before = alice.room("lobby").seq;
    bob.send(&json!({"type": "join", "room": "lobby", "state": {"k": "v \"quoted\" \\ ü 😀 \n"}}));
    alice.wait_until("bob", |alice| alice.has("lobby", "bob")).await;
    bob.send(&json!({"type": "leave", "room": "lobby"}));
    alice.wait_until("bob's leave", |alice| !alice.has("lobby", "bob")).await;
    let expected = [
        json!({"type": "diff", "room": "lobby", "seq": before + 1, "count": 2,
            "joined": [{"user": "bob", "state": {"k": "v \"quoted\" \\ ü 😀 \n"}}]}),
        json!({"type": "diff", "room": "lobby", "seq": before + 2, "count": 1,
            "left": [{"user": "bob", "reason": "left"}]}),
    ];
    assert_eq!(alice.since(mark, "diff", "lobby"), expected.iter().collect::<Vec<_>>());
    server.stop().await;
}

#[tokio::test]
async fn rooms_have_their_own_members_and_seq() {
    let server = TestServer::start(&[]);
    let mut alice = Mirror::connect(server.address(), "alice", &["a", "b"]).await;
    alice.wait_until("both rooms", |alice| alice.has("a", "alice") && alice.has("b", "alice")).await;
    let in_b = alice.room("b").seq;
    for user in ["u1", "u2", "u3"] {
        let _ = server.connect_to(user, "a").await;
        alice.wait_until("the user", |alice| alice.has("a", user)).await;
    }
    alice.barrier().await;
    assert_eq!(alice.room("b").seq, in_b, "changes in a must not change seq in b");
    assert_eq!(alice.members("b").into_keys().collect::<Vec<_>>(), ["alice"]);
    server.stop().await;
}

#[tokio::test]
async fn resync_is_answered_with_a_snapshot() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let before = alice.room("lobby").clone();
    let mark = alice.mark();
    alice.send(&json!({"type": "resync", "room": "lobby"}));
    alice.wait_until("a snapshot", |alice| !alice.since(mark, "snapshot", "lobby").is_empty()).await;
    let after = alice.room("lobby");
    assert_eq!((&after.epoch, after.seq), (&before.epoch, before.seq), "the snapshot changed epoch or seq");
    assert_eq!(after.members, before.members);
    server.stop().await;
}

#[tokio::test]
async fn count_observers_receive_a_count_only_when_it_changes() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let mut observer = server.connect("observer").await;
    observer.send(&json!({"type": "observe", "room": "lobby", "detail": "count"}));
    observer.wait_until("the first count", |observer| observer.observes("lobby")).await;
    assert_eq!(observer.room("lobby").count, 1);
    let bob = server.connect_to("bob", "lobby").await;
    observer.wait_until("bob", |observer| observer.room("lobby").count == 2).await;
    bob.send(&json!({"type": "state", "room": "lobby", "state": {"n": 1}}));
    alice.wait_until("the state", |alice| alice.state("lobby", "bob").is_some()).await;
    observer.barrier().await;
    bob.send(&json!({"type": "leave", "room": "lobby"}));
    observer.wait_until("bob's leave", |observer| observer.room("lobby").count == 1).await;
    let counts = observer.since(0, "count", "lobby");
    let numbers: Vec<_> = counts.iter().map(|count| room::number(count, "count")).collect();
    assert_eq!(numbers, [1, 2, 1], "one on attach, one per change, none for a state");
    let (seq, room) = (alice.room("lobby").seq, observer.room("lobby"));
    assert!(room.seq >= seq, "counts carry the room's seq: {} and {seq}", room.seq);
    assert_eq!((room.snapshots, room.diffs), (0, 0), "an observer of the count received members");
    server.stop().await;
}

/// A new connection of a client that still has the rooms of its lost one.
async fn reconnect(server: &TestServer, user: &str, known: &Mirror) -> Mirror {
    let mut mirror = server.connect(user).await;
    mirror.rooms.clone_from(&known.rooms);
    mirror
}

fn resume(kind: &str, epoch: &str, seq: u64) -> Value {
    json!({"type": kind, "room": "lobby", "resume": {"epoch": epoch, "seq": seq}})
}

#[tokio::test]
async fn resume_sends_the_missed_diffs() {
    let server = TestServer::start(&[]);
    let observer = server.observe("observer", "lobby").await;
    let mut alice = server.connect_to("alice", "lobby").await;
    for n in 0..5 {
        let state = json!({ "n": n });
        alice.send(&json!({"type": "state", "room": "lobby", "state": state}));
        alice.wait_until("the state", |alice| alice.state("lobby", "alice") == Some(&state)).await;
    }
    // The mirror has processed no message since the snapshot, so it does not know alice.
    assert_eq!(observer.room("lobby").count, 0);
    let mut back = reconnect(&server, "observer", &observer).await;
    let (epoch, seq) = (observer.room("lobby").epoch.clone(), observer.room("lobby").seq);
    back.send(&resume("observe", &epoch, seq));
    back.wait_until("all that was missed", |back| back.room("lobby").seq == alice.room("lobby").seq).await;
    assert_eq!(back.members("lobby"), alice.members("lobby"));
    assert_eq!(
        back.since(0, "snapshot", "lobby"),
        Vec::<&Value>::new(),
        "the server sent a snapshot although it has all missed diffs"
    );
    let missed = alice.room("lobby").seq - seq;
    assert_eq!(back.since(0, "diff", "lobby").len() as u64, missed);
    // The next diff applies.
    let _bob = server.connect_to("bob", "lobby").await;
    back.wait_until("bob", |back| back.has("lobby", "bob")).await;
    server.stop().await;
}

#[tokio::test]
async fn resume_sends_nothing_if_nothing_was_missed() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    alice.barrier().await;
    let known = alice.room("lobby").clone();
    let mut back = reconnect(&server, "observer", &alice).await;
    back.send(&resume("observe", &known.epoch, known.seq));
    back.barrier().await;
    assert_eq!(back.since(0, "snapshot", "lobby"), Vec::<&Value>::new());
    let _bob = server.connect_to("bob", "lobby").await;
    back.wait_until("bob", |back| back.has("lobby", "bob")).await;
    assert_eq!(back.since(0, "diff", "lobby").len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_join_may_resume_too() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let mut bob = server.connect_to("bob", "lobby").await;
    bob.barrier().await;
    let mut back = reconnect(&server, "bob", &bob).await;
    let known = back.room("lobby").clone();
    bob.drop_connection();
    let _carol = server.connect_to("carol", "lobby").await;
    back.send(&resume("join", &known.epoch, known.seq));
    back.wait_until("carol", |back| back.has("lobby", "carol")).await;
    assert_eq!(back.since(0, "snapshot", "lobby"), Vec::<&Value>::new());
    alice.wait_until("carol", |alice| alice.has("lobby", "carol")).await;
    assert_eq!(alice.since(0, "diff", "lobby").len(), 2, "bob and carol joined, and bob's reload is invisible");
    server.stop().await;
}

#[tokio::test]
async fn resume_from_another_epoch_or_an_unknown_seq_sends_a_snapshot() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    alice.barrier().await;
    let known = alice.room("lobby").clone();
    let cases = [("another-epoch", known.seq), (known.epoch.as_str(), known.seq + 1000)];
    for (epoch, seq) in cases {
        let mut observer = server.connect("observer").await;
        observer.send(&resume("observe", epoch, seq));
        observer.wait_until("a snapshot", |observer| observer.has("lobby", "alice")).await;
        assert_eq!(observer.room("lobby").snapshots, 1);
    }
    server.stop().await;
}

#[tokio::test]
async fn resume_from_a_seq_that_is_too_old_sends_a_snapshot() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let known = alice.room("lobby").clone();
    // More diffs than the history keeps; each is waited for.
    for n in 0..150 {
        let state = json!({ "n": n });
        alice.send(&json!({"type": "state", "room": "lobby", "state": state}));
        alice.wait_until("the state", |alice| alice.state("lobby", "alice") == Some(&state)).await;
    }
    let mut observer = server.connect("observer").await;
    observer.send(&resume("observe", &known.epoch, known.seq));
    observer.wait_until("a snapshot", |observer| observer.has("lobby", "alice")).await;
    assert_eq!(observer.room("lobby").snapshots, 1);
    assert_eq!(observer.members("lobby"), alice.members("lobby"));
    server.stop().await;
}

#[tokio::test]
async fn heartbeats_are_acknowledged_only_on_request() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect("alice").await;
    alice.send_text("heartbeat");
    alice.send(&json!({"type": "heartbeat"}));
    alice.send(&json!({"type": "heartbeat", "ack": false}));
    let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let acknowledgement = alice.heartbeat().await;
    assert_eq!(alice.log.len(), 2, "the welcome and one acknowledgement: {:?}", alice.log);
    let ts = Duration::from_millis(room::number(&acknowledgement, "ts"));
    // Milliseconds since 1970. A tolerance of a minute tells them from seconds and microseconds.
    assert!(ts.abs_diff(before) < Duration::from_secs(60), "{acknowledgement} at {before:?}");
    server.stop().await;
}

#[tokio::test]
async fn several_messages_in_one_tcp_segment_are_all_handled() {
    let server = TestServer::start(&[]);
    let rooms: Vec<String> = (0..30).map(|n| format!("room-{n}")).collect();
    let joins: Vec<Value> = rooms.iter().map(|room| json!({"type": "join", "room": room})).collect();
    let mut alice = server.connect("alice").await;
    alice.send_all(&joins);
    for room in &rooms {
        alice.wait_until("the snapshot", |alice| alice.has(room, "alice")).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn messages_sent_together_with_the_upgrade_request_are_handled() {
    let server = TestServer::start(&[]);
    let join = crate::common::Frame::text(r#"{"type":"join","room":"lobby"}"#).encode();
    let path = "/v1/connect?user=hasty";
    // The complete frame, and one that is cut in the middle.
    for cut in [join.len(), 9, 1] {
        let (mut hasty, _) = RawClient::open_with(server.address(), path, &[], &join[..cut]).await;
        assert_eq!(hasty.json().await["type"], "welcome");
        hasty.send(&join[cut..]).await;
        let snapshot = hasty.json_of_type("snapshot").await;
        assert_eq!(snapshot["members"], json!([{"user": "hasty"}]));
    }
    server.stop().await;
}
