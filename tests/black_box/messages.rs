//! Messages of the native protocol: each reaches all observers of its room at the next tick, in order.

use serde_json::{Value, json};

use crate::common::{EventClient, Mirror, TestServer};

fn message_to(room: &str, data: &Value) -> Value {
    json!({"type": "message", "room": room, "data": data})
}

/// The messages of a room that a mirror received: user and data.
fn received(mirror: &Mirror, room: &str) -> Vec<(String, Value)> {
    let messages = mirror.since(0, "message", room);
    messages.iter().map(|message| (message["user"].as_str().unwrap().to_owned(), message["data"].clone())).collect()
}

#[tokio::test]
async fn messages_reach_all_observers_and_the_sender() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let mut bob = server.connect_to("bob", "lobby").await;
    let mut unseen = server.observe("unseen", "lobby").await;
    let mut counting = server.connect("counting").await;
    counting.send(&json!({"type": "observe", "room": "lobby", "detail": "count"}));
    counting.wait_until("the count", |counting| counting.observes("lobby")).await;
    let mut elsewhere = server.connect_to("elsewhere", "kitchen").await;
    alice.wait_until("bob", |alice| alice.has("lobby", "bob")).await;
    let seq = alice.room("lobby").seq;
    let all = [json!({"text": "Hi \"all\" 😀", "n": [1, 2.5, -3]}), json!("plain"), json!(null), json!(7), json!([[]])];
    for data in &all {
        alice.send(&message_to("lobby", data));
    }
    let expected: Vec<_> = all.iter().map(|data| ("alice".to_owned(), data.clone())).collect();
    for mirror in [&mut alice, &mut bob, &mut unseen, &mut counting] {
        mirror.wait_until("all messages", |mirror| received(mirror, "lobby").len() == all.len()).await;
        assert_eq!(received(mirror, "lobby"), expected, "the messages that {} received", mirror.user);
        let ts = mirror.since(0, "message", "lobby")[0]["ts"].as_u64().unwrap();
        assert!(ts > 1_700_000_000_000, "ts is not in milliseconds: {ts}");
    }
    assert_eq!(alice.room("lobby").seq, seq, "a message changed the room's seq");
    elsewhere.barrier().await;
    assert!(elsewhere.since(0, "message", "").is_empty(), "an observer of another room received a message");
    server.stop().await;
}

#[tokio::test]
async fn only_members_publish_and_only_observers_receive() {
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "lobby").await;
    for (user, error) in [("observes", "not_joined"), ("does nothing", "not_joined")] {
        let mut client = server.connect(user).await;
        if user == "observes" {
            client.send(&json!({"type": "observe", "room": "lobby"}));
        }
        assert_eq!(client.expect_error(&message_to("lobby", &json!(1)).to_string()).await["code"], error);
    }
    let mut unobserving = server.connect("unobserving").await;
    unobserving.send(&json!({"type": "join", "room": "lobby", "observe": false}));
    unobserving.send(&message_to("lobby", &json!("I do not observe")));
    observer.wait_until("the message", |observer| received(observer, "lobby").len() == 1).await;
    unobserving.barrier().await;
    assert!(unobserving.since(0, "message", "").is_empty());
    unobserving.send(&json!({"type": "leave", "room": "lobby"}));
    assert_eq!(unobserving.expect_error(&message_to("lobby", &json!(2)).to_string()).await["code"], "not_joined");
    observer.barrier().await;
    assert_eq!(received(&observer, "lobby"), [("unobserving".into(), json!("I do not observe"))]);
    server.stop().await;
}

#[tokio::test]
async fn data_over_four_kibibytes_is_too_large() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let data = |bytes: usize| json!("x".repeat(bytes - 2));
    for bytes in [4097, 12_000] {
        let error = alice.expect_error(&message_to("lobby", &data(bytes)).to_string()).await;
        assert_eq!(error["code"], "too_large");
        assert!(error["message"].as_str().unwrap().contains("4096"), "the error lacks the limit: {error}");
    }
    // The limit is on compact JSON: white space is removed.
    let with_spaces = format!(r#"{{"type":"message","room":"lobby","data":[{}1]}}"#, " ".repeat(5000));
    alice.send_text(&with_spaces);
    alice.send(&message_to("lobby", &data(4096)));
    alice.wait_until("both messages", |alice| received(alice, "lobby").len() == 2).await;
    assert_eq!(received(&alice, "lobby"), [("alice".into(), json!([1])), ("alice".into(), data(4096))]);
    server.stop().await;
}

#[tokio::test]
async fn a_flood_of_messages_is_rate_limited_and_others_are_not_affected() {
    let server = TestServer::start(&["--tick", "500ms"]);
    let mut flood = server.connect_to("flood", "lobby").await;
    let mut calm = server.connect_to("calm", "lobby").await;
    flood.send_all(&(0..200).map(|n| message_to("lobby", &json!(n))).collect::<Vec<_>>());
    calm.send(&message_to("lobby", &json!("calm message")));
    let calm_message = ("calm".to_owned(), json!("calm message"));
    calm.wait_until("its own message", |calm| received(calm, "lobby").contains(&calm_message)).await;
    flood.wait_until("the errors", |flood| flood.since(0, "error", "").len() >= 180).await;
    assert!(flood.since(0, "error", "").iter().all(|error| error["code"] == "rate_limited"), "{}", flood.describe());
    // The limit is ten per second, and the flood may have spanned two seconds.
    calm.barrier().await;
    let passed = received(&calm, "lobby").iter().filter(|(user, _)| user == "flood").count();
    assert!((10..=20).contains(&passed), "{passed}");
    // All rooms of one connection share the limit.
    flood.send(&json!({"type": "join", "room": "kitchen", "observe": false}));
    let mut further_messages: Vec<Value> = (0..50).map(|n| message_to("lobby", &json!(n))).collect();
    further_messages.extend((0..50).map(|n| message_to("kitchen", &json!(n))));
    let errors_before = flood.since(0, "error", "").len();
    flood.send_all(&further_messages);
    flood.wait_until("the errors", |flood| flood.since(0, "error", "").len() >= errors_before + 80).await;
    server.stop().await;
}

#[tokio::test]
async fn messages_of_one_room_and_tick_are_bounded() {
    let server = TestServer::start(&["--tick", "1s"]);
    for round in 0..100 {
        let mut senders = Vec::new();
        for n in 0..4 {
            let sender = server.connect(&format!("sender-{round}-{n}")).await;
            sender.send(&json!({"type": "join", "room": "lobby", "observe": false}));
            senders.push(sender);
        }
        let ticks = server.ticks().await;
        for sender in &senders {
            sender.send_all(&vec![message_to("lobby", &json!("x".repeat(4000))); 9]);
        }
        // Four users send 144 KB within their own limits; the room's limit is 32 KiB per tick.
        let mut passed = 36;
        for sender in &mut senders {
            sender.heartbeat().await;
            let errors = sender.since(0, "error", "");
            assert!(errors.iter().all(|error| error["code"] == "rate_limited"));
            passed -= errors.len() as u64;
        }
        let ticks = server.ticks().await - ticks + 1;
        assert!(passed > 0 && passed <= 8 * ticks, "{passed} of 36 in {ticks} ticks");
        if ticks <= 2 {
            return server.stop().await;
        }
    }
    panic!("every attempt took more than two ticks");
}

#[tokio::test]
async fn messages_never_come_before_the_join_or_after_the_leave() {
    // Each pair is sent in one TCP segment, so both usually fall within one tick. Every mirror asserts that the sender
    // of a message is a member.
    let server = TestServer::start(&["--tick", "300ms"]);
    let mut observer = server.observe("observer", "lobby").await;
    let mut hasty = server.connect("hasty").await;
    let other = server.connect_to("other", "lobby").await;
    let (join, leave) = (json!({"type": "join", "room": "lobby"}), json!({"type": "leave", "room": "lobby"}));
    hasty.send_all(&[join.clone(), message_to("lobby", &json!("one"))]);
    observer.wait_until("the message", |observer| received(observer, "lobby").len() == 1).await;
    hasty.send_all(&[message_to("lobby", &json!("two")), leave.clone()]);
    other.send_all(&[message_to("lobby", &json!("meanwhile"))]);
    observer
        .wait_until("the leave and three messages", |observer| {
            !observer.has("lobby", "hasty") && received(observer, "lobby").len() == 3
        })
        .await;
    // The messages of a user who joins and leaves within one tick are not sent.
    let (mut round, mut unsent) = (0, None);
    while unsent.is_none() {
        round += 1;
        assert!(round < 100, "a tick fell between in every attempt");
        observer.barrier().await;
        let (text, ticks) = (format!("three {round}"), server.ticks().await);
        hasty.send_all(&[join.clone(), message_to("lobby", &json!(text)), leave.clone()]);
        hasty.heartbeat().await;
        unsent = (server.ticks().await == ticks).then_some(text);
    }
    let unsent = format!("hasty: {}", unsent.unwrap());
    observer.barrier().await;
    observer.barrier().await;
    let received_in_order: Vec<String> =
        observer.log.iter().filter(|message| message["room"] == "lobby").map(short).collect();
    let after: Vec<&str> =
        received_in_order.iter().map(String::as_str).skip_while(|entry| *entry != "hasty: one").collect();
    // The messages of the two senders may fall into different ticks, so only the order of the entries of one sender is
    // checked.
    assert_eq!(after[0], "hasty: one");
    let place = |what: &str| {
        after.iter().position(|entry| *entry == what).unwrap_or_else(|| panic!("{what}: {received_in_order:?}"))
    };
    assert!(place("hasty: two") < place("diff -hasty"), "{received_in_order:?}");
    assert!(
        received_in_order.iter().any(|entry| entry == "other: meanwhile") && !received_in_order.contains(&unsent),
        "{received_in_order:?}"
    );
    server.stop().await;
}

/// A message about a room as a short text.
fn short(message: &Value) -> String {
    let users = |list: &str| {
        let entries = message[list].as_array().into_iter().flatten();
        entries.map(|entry| entry["user"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(",")
    };
    match message["type"].as_str().unwrap() {
        "message" => format!("{}: {}", message["user"].as_str().unwrap(), message["data"].as_str().unwrap()),
        "diff" if message["left"].is_array() => format!("diff -{}", users("left")),
        "diff" => format!("diff +{}", users("joined")),
        other => other.to_owned(),
    }
}

#[tokio::test]
async fn chat_and_native_messages_reach_each_other_in_the_lobby() {
    let server = TestServer::start(&[]);
    let mut native = server.connect_to("native", "lobby").await;
    let mut chat = server.chat("chatter").await;
    let in_chat = |client: &EventClient| -> Vec<String> {
        let of = |message: &&Value| format!("{}: {}", message["payload"]["user"], message["payload"]["text"]);
        client.of("msg").iter().map(of).collect()
    };
    chat.send(&json!({"type": "msg", "payload": {"text": "Hi \"you\""}}));
    native.wait_until("the chat message", |native| received(native, "lobby").len() == 1).await;
    assert_eq!(received(&native, "lobby"), [("chatter".into(), json!({"text": "Hi \"you\""}))]);
    for data in [json!({"typing": true}), json!("plain"), json!({"text": " "}), json!({"text": "Hello", "bold": true})]
    {
        native.send(&message_to("lobby", &data));
    }
    chat.wait_until("the native message with a text", |chat| chat.of("msg").len() == 2).await;
    native.wait_until("all messages", |native| received(native, "lobby").len() == 5).await;
    assert_eq!(in_chat(&chat), [r#""chatter": "Hi \"you\"""#, r#""native": "Hello""#]);
    let newcomer = server.chat("newcomer").await;
    assert_eq!(in_chat(&newcomer), in_chat(&chat), "the history lacks a message");
    // Chat clients receive messages of the lobby only.
    native.send(&json!({"type": "join", "room": "kitchen"}));
    native.send(&message_to("kitchen", &json!({"text": "not for the lobby"})));
    native.wait_until("the message in the kitchen", |native| received(native, "kitchen").len() == 1).await;
    native.send(&message_to("lobby", &json!({"text": "end"})));
    chat.wait_until("the last message", |chat| chat.of("msg").len() == 3).await;
    assert_eq!(in_chat(&chat)[2], r#""native": "end""#);
    server.stop().await;
}

#[tokio::test]
async fn resume_sends_missed_diffs_but_no_missed_messages() {
    let server = TestServer::start(&[]);
    let mut sender = server.connect_to("sender", "lobby").await;
    let first = server.observe("again", "lobby").await;
    let (epoch, seq) = (first.room("lobby").epoch.clone(), first.room("lobby").seq);
    first.close(1000);
    sender.send(&message_to("lobby", &json!("missed")));
    sender.wait_until("the message", |sender| received(sender, "lobby").len() == 1).await;
    sender.send(&json!({"type": "state", "room": "lobby", "state": {"n": 1}}));
    sender.wait_until("the state", |sender| sender.state("lobby", "sender").is_some()).await;
    let mut raw = server.raw("again").await;
    raw.send_json(&json!({"type": "observe", "room": "lobby", "resume": {"epoch": epoch, "seq": seq}})).await;
    let diff = raw.json().await;
    assert_eq!((&diff["type"], &diff["seq"]), (&json!("diff"), &json!(seq + 1)), "only the diff: {diff}");
    sender.send(&message_to("lobby", &json!("after the resume")));
    let message = raw.json().await;
    assert_eq!((&message["type"], &message["data"]), (&json!("message"), &json!("after the resume")), "{message}");
    server.stop().await;
}

/// Members of the lobby that together send about 2.4 MB within about a second.
struct Senders(Vec<Mirror>);

impl Senders {
    async fn start(server: &TestServer) -> Self {
        let mut senders = Vec::new();
        for n in 0..60 {
            let sender = server.connect(&format!("sender-{n:02}")).await;
            sender.send(&json!({"type": "join", "room": "lobby", "observe": false}));
            server.wait_for_member("lobby", &sender.user, true).await;
            senders.push(sender);
        }
        Self(senders)
    }

    /// Each user sends the ten messages per second that the limit allows, in small groups that fit into a tick. The
    /// next group is sent once `fast` has received the one before.
    async fn publish_all(&self, fast: &mut Mirror) {
        let mut messages = 0;
        for round in 0..10 {
            for group in self.0.chunks(6) {
                group.iter().for_each(|sender| sender.send(&message_to("lobby", &json!([round, "x".repeat(4000)]))));
                messages += group.len();
                fast.wait_until("the messages of the group", |fast| {
                    fast.since(0, "message", "lobby").len() == messages
                })
                .await;
            }
        }
    }
}

#[tokio::test]
async fn a_slow_client_misses_messages_but_no_diffs() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let mut fast = server.observe("fast", "lobby").await;
    let senders = Senders::start(&server).await;
    let mut slow = Mirror::connect_with_small_buffer(server.address(), "slow", &["lobby"]).await;
    slow.wait_until("the snapshot", |slow| slow.has("lobby", "slow")).await;
    let (seq, snapshots) = (slow.room("lobby").seq, slow.room("lobby").snapshots);
    slow.set_reading(false);
    senders.publish_all(&mut fast).await;
    slow.set_reading(true);
    slow.barrier().await;
    let count = received(&slow, "lobby").len();
    assert!(count < 600, "the slow client received {count} of 600 messages: none was dropped");
    // No diff was missed, so there is no snapshot and the next diff applies.
    fast.send(&json!({"type": "join", "room": "lobby", "state": {"n": 1}}));
    slow.wait_until("the next diff", |slow| slow.has("lobby", "fast")).await;
    assert_eq!((slow.room("lobby").seq, slow.room("lobby").snapshots), (seq + 1, snapshots));
    fast.send(&message_to("lobby", &json!("last message")));
    let last = ("fast".to_owned(), json!("last message"));
    slow.wait_until("the next message", |slow| received(slow, "lobby").last() == Some(&last)).await;
    server.stop().await;
}

#[tokio::test]
async fn dropped_messages_leave_no_gap_in_the_diffs() {
    // Observers fall behind and catch up while states change and many messages are sent. Every mirror asserts that it
    // misses no diff.
    let server = TestServer::start(&["--tick", "10ms", "--workers", "1"]);
    let mut fast = server.observe("fast", "lobby").await;
    let senders = Senders::start(&server).await;
    let mut lagging = Vec::new();
    for n in 0..20 {
        let mut client = Mirror::connect_with_small_buffer(server.address(), &format!("lagging-{n}"), &[]).await;
        client.send(&json!({"type": "observe", "room": "lobby"}));
        client.wait_until("the snapshot", |client| client.observes("lobby")).await;
        client.logging = false;
        lagging.push(client);
    }
    for round in 0..40usize {
        for (n, sender) in senders.0.iter().enumerate().filter(|(n, _)| n % 8 == round % 8) {
            sender.send_all(&[
                message_to("lobby", &json!("x".repeat(3000))),
                json!({"type": "join", "room": "lobby", "observe": false, "state": {"round": round, "n": n}}),
            ]);
        }
        let state = json!({"round": round, "n": round % 8});
        let sender = &senders.0[round % 8].user;
        fast.wait_until("the round", |fast| fast.state("lobby", sender) == Some(&state)).await;
        for (n, client) in lagging.iter_mut().enumerate() {
            client.set_reading(!(n + round).is_multiple_of(3));
            client.apply_pending();
        }
    }
    lagging.iter().for_each(|client| client.set_reading(true));
    lagging.push(fast);
    server.wait_for_agreement("lobby", &mut lagging).await;
    server.stop().await;
}
