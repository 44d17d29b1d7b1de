//! `message` of the native protocol: messages of members reach all observers of the room with the tick, in order.

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
        mirror.wait_until("all of it", |mirror| received(mirror, "lobby").len() == all.len()).await;
        assert_eq!(received(mirror, "lobby"), expected, "in order, {}", mirror.user);
        let ts = mirror.since(0, "message", "lobby")[0]["ts"].as_u64().unwrap();
        assert!(ts > 1_700_000_000_000, "milliseconds: {ts}");
    }
    assert_eq!(alice.room("lobby").seq, seq, "a message does not change the room's seq");
    elsewhere.barrier().await;
    assert!(elsewhere.since(0, "message", "").is_empty(), "observers of other rooms receive nothing");
    server.stop().await;
}

#[tokio::test]
async fn only_members_publish_and_only_observers_receive() {
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "lobby").await;
    for (what, error) in [("observe", "not_joined"), ("nothing", "not_joined")] {
        let mut client = server.connect(what).await;
        if what == "observe" {
            client.send(&json!({"type": "observe", "room": "lobby"}));
        }
        assert_eq!(client.expect_error(&message_to("lobby", &json!(1)).to_string()).await["code"], error);
    }
    let mut deaf = server.connect("deaf").await;
    deaf.send(&json!({"type": "join", "room": "lobby", "observe": false}));
    deaf.send(&message_to("lobby", &json!("I do not listen")));
    observer.wait_until("it", |observer| received(observer, "lobby").len() == 1).await;
    deaf.barrier().await;
    assert!(deaf.since(0, "message", "").is_empty());
    deaf.send(&json!({"type": "leave", "room": "lobby"}));
    assert_eq!(deaf.expect_error(&message_to("lobby", &json!(2)).to_string()).await["code"], "not_joined");
    observer.barrier().await;
    assert_eq!(received(&observer, "lobby"), [("deaf".into(), json!("I do not listen"))]);
    server.stop().await;
}

#[tokio::test]
async fn data_of_more_than_four_kibibytes_is_too_large() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect_to("alice", "lobby").await;
    let data = |bytes: usize| json!("x".repeat(bytes - 2));
    for bytes in [4097, 12_000] {
        let error = alice.expect_error(&message_to("lobby", &data(bytes)).to_string()).await;
        assert_eq!(error["code"], "too_large");
        assert!(error["message"].as_str().unwrap().contains("4096"), "the limit is stated: {error}");
    }
    // The limit is on compact JSON: white space is removed.
    let wide = format!(r#"{{"type":"message","room":"lobby","data":[{}1]}}"#, " ".repeat(5000));
    alice.send_text(&wide);
    alice.send(&message_to("lobby", &data(4096)));
    alice.wait_until("both", |alice| received(alice, "lobby").len() == 2).await;
    assert_eq!(received(&alice, "lobby"), [("alice".into(), json!([1])), ("alice".into(), data(4096))]);
    server.stop().await;
}

#[tokio::test]
async fn a_flood_of_messages_is_rate_limited_and_others_are_not_affected() {
    let server = TestServer::start(&["--tick", "500ms"]);
    let mut flood = server.connect_to("flood", "lobby").await;
    let mut calm = server.connect_to("calm", "lobby").await;
    flood.send_all(&(0..200).map(|n| message_to("lobby", &json!(n))).collect::<Vec<_>>());
    calm.send(&message_to("lobby", &json!("peace")));
    let peace = ("calm".to_owned(), json!("peace"));
    calm.wait_until("its own", |calm| received(calm, "lobby").contains(&peace)).await;
    flood.wait_until("the errors", |flood| flood.since(0, "error", "").len() >= 180).await;
    assert!(flood.since(0, "error", "").iter().all(|error| error["code"] == "rate_limited"), "{}", flood.describe());
    // The limit is ten per second, and the flood may have spanned two seconds.
    calm.barrier().await;
    let passed = received(&calm, "lobby").iter().filter(|(user, _)| user == "flood").count();
    assert!((10..=20).contains(&passed), "{passed}");
    // All rooms of one connection share the limit.
    flood.send(&json!({"type": "join", "room": "kitchen", "observe": false}));
    let mut floods: Vec<Value> = (0..50).map(|n| message_to("lobby", &json!(n))).collect();
    floods.extend((0..50).map(|n| message_to("kitchen", &json!(n))));
    let refused = flood.since(0, "error", "").len();
    flood.send_all(&floods);
    flood.wait_until("the errors", |flood| flood.since(0, "error", "").len() >= refused + 80).await;
    server.stop().await;
}

#[tokio::test]
async fn messages_of_one_room_and_tick_are_bounded() {
    let server = TestServer::start(&["--tick", "1s"]);
    for round in 0..100 {
        let mut speakers = Vec::new();
        for n in 0..4 {
            let speaker = server.connect(&format!("speaker-{round}-{n}")).await;
            speaker.send(&json!({"type": "join", "room": "lobby", "observe": false}));
            speakers.push(speaker);
        }
        let ticks = server.ticks().await;
        for speaker in &speakers {
            speaker.send_all(&vec![message_to("lobby", &json!("x".repeat(4000))); 9]);
        }
        // Four users send 144 KB within their own limits; the room's limit is 32 KiB per tick.
        let mut passed = 36;
        for speaker in &mut speakers {
            speaker.heartbeat().await;
            let errors = speaker.since(0, "error", "");
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
    // Each within one tick and one TCP segment. Every mirror asserts that the sender of a message is a member.
    let server = TestServer::start(&["--tick", "300ms"]);
    let mut observer = server.observe("observer", "lobby").await;
    let mut hasty = server.connect("hasty").await;
    let other = server.connect_to("other", "lobby").await;
    let (join, leave) = (json!({"type": "join", "room": "lobby"}), json!({"type": "leave", "room": "lobby"}));
    hasty.send_all(&[join.clone(), message_to("lobby", &json!("one"))]);
    observer.wait_until("it", |observer| received(observer, "lobby").len() == 1).await;
    hasty.send_all(&[message_to("lobby", &json!("two")), leave.clone()]);
    other.send_all(&[message_to("lobby", &json!("meanwhile"))]);
    observer
        .wait_until("all", |observer| !observer.has("lobby", "hasty") && received(observer, "lobby").len() == 3)
        .await;
    // The messages of a user who joins and leaves within one tick are not sent.
    let (mut round, mut unheard) = (0, None);
    while unheard.is_none() {
        round += 1;
        assert!(round < 100, "a tick fell between in every attempt");
        observer.barrier().await;
        let (text, ticks) = (format!("three {round}"), server.ticks().await);
        hasty.send_all(&[join.clone(), message_to("lobby", &json!(text)), leave.clone()]);
        hasty.heartbeat().await;
        unheard = (server.ticks().await == ticks).then_some(text);
    }
    let unheard = format!("hasty: {}", unheard.unwrap());
    observer.barrier().await;
    observer.barrier().await;
    let told: Vec<String> = observer.log.iter().filter(|message| message["room"] == "lobby").map(short).collect();
    let after: Vec<&str> = told.iter().map(String::as_str).skip_while(|told| *told != "hasty: one").collect();
    // The two messages of the second round may be in different ticks. Each stands in order with the joins and leaves of
    // its sender.
    assert_eq!(after[0], "hasty: one");
    let place = |what: &str| after.iter().position(|told| *told == what).unwrap_or_else(|| panic!("{what}: {told:?}"));
    assert!(place("hasty: two") < place("diff -hasty"), "{told:?}");
    assert!(told.iter().any(|told| told == "other: meanwhile") && !told.contains(&unheard), "{told:?}");
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
    native.wait_until("the text", |native| received(native, "lobby").len() == 1).await;
    assert_eq!(received(&native, "lobby"), [("chatter".into(), json!({"text": "Hi \"you\""}))]);
    for data in [json!({"typing": true}), json!("plain"), json!({"text": " "}), json!({"text": "Hello", "bold": true})]
    {
        native.send(&message_to("lobby", &data));
    }
    chat.wait_until("the message with a text", |chat| chat.of("msg").len() == 2).await;
    native.wait_until("all", |native| received(native, "lobby").len() == 5).await;
    assert_eq!(in_chat(&chat), [r#""chatter": "Hi \"you\"""#, r#""native": "Hello""#]);
    let newcomer = server.chat("newcomer").await;
    assert_eq!(in_chat(&newcomer), in_chat(&chat), "it is part of the history");
    // Chat clients receive messages of the lobby only.
    native.send(&json!({"type": "join", "room": "kitchen"}));
    native.send(&message_to("kitchen", &json!({"text": "not for the lobby"})));
    native.wait_until("it", |native| received(native, "kitchen").len() == 1).await;
    native.send(&message_to("lobby", &json!({"text": "end"})));
    chat.wait_until("the end", |chat| chat.of("msg").len() == 3).await;
    assert_eq!(in_chat(&chat)[2], r#""native": "end""#);
    server.stop().await;
}

#[tokio::test]
async fn resume_sends_missed_diffs_and_no_missed_messages() {
    let server = TestServer::start(&[]);
    let mut speaker = server.connect_to("speaker", "lobby").await;
    let first = server.observe("again", "lobby").await;
    let (epoch, seq) = (first.room("lobby").epoch.clone(), first.room("lobby").seq);
    first.close(1000);
    speaker.send(&message_to("lobby", &json!("missed")));
    speaker.wait_until("it", |speaker| received(speaker, "lobby").len() == 1).await;
    speaker.send(&json!({"type": "state", "room": "lobby", "state": {"n": 1}}));
    speaker.wait_until("the state", |speaker| speaker.state("lobby", "speaker").is_some()).await;
    let mut raw = server.raw("again").await;
    raw.send_json(&json!({"type": "observe", "room": "lobby", "resume": {"epoch": epoch, "seq": seq}})).await;
    let diff = raw.json().await;
    assert_eq!((&diff["type"], &diff["seq"]), (&json!("diff"), &json!(seq + 1)), "only the diff: {diff}");
    speaker.send(&message_to("lobby", &json!("heard")));
    let message = raw.json().await;
    assert_eq!((&message["type"], &message["data"]), (&json!("message"), &json!("heard")), "{message}");
    server.stop().await;
}

/// Members of the lobby that together send about 2.4 MB within about a second.
struct Crowd(Vec<Mirror>);

impl Crowd {
    async fn start(server: &TestServer) -> Self {
        let mut speakers = Vec::new();
        for n in 0..60 {
            let speaker = server.connect(&format!("speaker-{n:02}")).await;
            speaker.send(&json!({"type": "join", "room": "lobby", "observe": false}));
            server.wait_for_member("lobby", &speaker.user, true).await;
            speakers.push(speaker);
        }
        Self(speakers)
    }

    /// Each user sends its ten messages per second. They go in small groups that fit into a tick, each after `fast`
    /// received the one before.
    async fn publish_all(&self, fast: &mut Mirror) {
        let mut messages = 0;
        for round in 0..10 {
            for few in self.0.chunks(6) {
                few.iter().for_each(|speaker| speaker.send(&message_to("lobby", &json!([round, "x".repeat(4000)]))));
                messages += few.len();
                fast.wait_until("these", |fast| fast.since(0, "message", "lobby").len() == messages).await;
            }
        }
    }
}

#[tokio::test]
async fn a_slow_client_misses_messages_but_no_diffs() {
    let server = TestServer::start(&["--tick", "10ms"]);
    let mut fast = server.observe("fast", "lobby").await;
    let crowd = Crowd::start(&server).await;
    let mut slow = Mirror::connect_with_small_buffer(server.address(), "slow", &["lobby"]).await;
    slow.wait_until("the snapshot", |slow| slow.has("lobby", "slow")).await;
    let (seq, snapshots) = (slow.room("lobby").seq, slow.room("lobby").snapshots);
    slow.set_reading(false);
    crowd.publish_all(&mut fast).await;
    slow.set_reading(true);
    slow.barrier().await;
    let got = received(&slow, "lobby").len();
    assert!(got < 600, "{got} of 600: messages were dropped");
    // No diff was missed, so there is no snapshot and the next diff applies.
    fast.send(&json!({"type": "join", "room": "lobby", "state": {"n": 1}}));
    slow.wait_until("the next diff", |slow| slow.has("lobby", "fast")).await;
    assert_eq!((slow.room("lobby").seq, slow.room("lobby").snapshots), (seq + 1, snapshots));
    fast.send(&message_to("lobby", &json!("after all")));
    let last = ("fast".to_owned(), json!("after all"));
    slow.wait_until("the messages from here on", |slow| received(slow, "lobby").last() == Some(&last)).await;
    server.stop().await;
}

#[tokio::test]
async fn dropped_messages_leave_no_gap_in_the_diffs() {
    // Observers fall behind and catch up while states change and many messages are sent. Every mirror asserts
    // contiguous diffs.
    let server = TestServer::start(&["--tick", "10ms", "--workers", "1"]);
    let mut fast = server.observe("fast", "lobby").await;
    let crowd = Crowd::start(&server).await;
    let mut hovering = Vec::new();
    for n in 0..20 {
        let mut client = Mirror::connect_with_small_buffer(server.address(), &format!("hovering-{n}"), &[]).await;
        client.send(&json!({"type": "observe", "room": "lobby"}));
        client.wait_until("the snapshot", |client| client.observes("lobby")).await;
        client.logging = false;
        hovering.push(client);
    }
    for round in 0..40usize {
        for (n, speaker) in crowd.0.iter().enumerate().filter(|(n, _)| n % 8 == round % 8) {
            speaker.send_all(&[
                message_to("lobby", &json!("x".repeat(3000))),
                json!({"type": "join", "room": "lobby", "observe": false, "state": {"round": round, "n": n}}),
            ]);
        }
        let state = json!({"round": round, "n": round % 8});
        let speaker = &crowd.0[round % 8].user;
        fast.wait_until("the round", |fast| fast.state("lobby", speaker) == Some(&state)).await;
        for (n, client) in hovering.iter_mut().enumerate() {
            client.set_reading(!(n + round).is_multiple_of(3));
            client.apply_pending();
        }
    }
    hovering.iter().for_each(|client| client.set_reading(true));
    hovering.push(fast);
    server.wait_for_agreement("lobby", &mut hovering).await;
    server.stop().await;
}
