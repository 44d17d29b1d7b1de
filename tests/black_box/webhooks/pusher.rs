//! Webhooks in the format of Pusher: members and channels of the application, signed with its key and secret.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::common::pusher::{APP, APP_FLAGS, App};
use crate::common::token::token;
use crate::common::upstream::Seen;
use crate::common::webhooks::Receiver;
use crate::common::{DEADLINE, Does, Mirror, Node, PusherClient, TestServer, Upstream};
use crate::pusher::ROOMS_FLAGS;
use crate::pusher::{COUNTING_FLAGS, wait_for_count};

/// The events that have arrived, as short texts, in order.
type Events = Arc<Mutex<Vec<String>>>;

/// Checks a request and returns its events.
pub(super) fn verified(seen: &Seen, apps: &[App]) -> Vec<Value> {
    assert_eq!(seen.header("content-type"), Some("application/json"));
    let app = apps.iter().find(|app| seen.header("x-pusher-key") == Some(app.key)).expect("a known key");
    let body = std::str::from_utf8(&seen.body).expect("text");
    let signature = app.sign(body);
    assert_eq!(seen.header("x-pusher-signature"), signature.rsplit(':').next());
    let body: Value = seen.json();
    assert!(body["time_ms"].as_u64().expect("a time") > 1_700_000_000_000);
    body["events"].as_array().expect("events").clone()
}

/// Checks a request and returns its events as short texts.
fn events_of(seen: &Seen, apps: &[App]) -> Vec<String> {
    let words = |event: &Value| {
        let words = ["name", "channel", "user_id"].map(|name| event[name].as_str().map(str::to_owned));
        let count = event["subscription_count"].as_u64().map(|count| count.to_string());
        words.into_iter().flatten().chain(count).collect::<Vec<_>>().join(" ")
    };
    verified(seen, apps).iter().map(words).collect()
}

async fn start(flags: &[&str]) -> (TestServer, Upstream, Events) {
    let events = Events::default();
    let (of_handler, mut attempts) = (Arc::clone(&events), BTreeMap::<Vec<String>, usize>::new());
    let upstream = Upstream::start(move |seen| {
        let events = events_of(seen, &[APP, OTHER]);
        let attempt = attempts.entry(events.clone()).or_default();
        *attempt += 1;
        // Each request fails once.
        if *attempt == 1 {
            return Does::Answer(500, String::new(), Vec::new());
        }
        of_handler.lock().expect("no panic").extend(events);
        Does::Answer(200, String::new(), Vec::new())
    });
    let upstream = upstream.await;
    let url = upstream.url("/pusher");
    let webhooks = ["--webhook-url", &url, "--webhook-format", "pusher", "--webhook-delay", "0s"];
    let server = TestServer::start(&[flags, &["--pusher-app", "2:other-key:other-secret"], &webhooks].concat());
    (server, upstream, events)
}

const OTHER: App = App { key: "other-key", secret: "other-secret" };

async fn wait_for(events: &Events, expected: &[&str]) {
    let deadline = Instant::now() + DEADLINE;
    let known = || events.lock().expect("no panic").clone();
    while known().len() < expected.len() {
        assert!(Instant::now() < deadline, "{:?} instead of {expected:?}", known());
        sleep(Duration::from_millis(5)).await;
    }
    let (mut known, mut expected) = (known(), expected.to_vec());
    known.sort_unstable();
    expected.sort_unstable();
    assert_eq!(known, expected);
}

#[tokio::test]
async fn members_and_channels_are_reported_as_pusher_does() {
    let (server, _upstream, events) = start(&APP_FLAGS).await;
    let mut alice = PusherClient::connect(server.address(), APP).await;
    // Neither the sign-in nor the user's own channel is reported.
    alice.sign_in_as("7", &["8"]).await;
    alice.join("#server-to-user-7", None).await;
    alice.join("presence-room", Some(r#"{"user_id":"7"}"#)).await;
    let mut expected = vec!["channel_occupied presence-room", "member_added presence-room 7"];
    wait_for(&events, &expected).await;
    {
        let events = events.lock().expect("no panic");
        assert_eq!(*events, expected, "a channel is occupied before its first member joins");
    }
    // A second connection of the user, and a channel without members.
    let mut second = PusherClient::connect(server.address(), APP).await;
    second.join("presence-room", Some(r#"{"user_id":"7"}"#)).await;
    second.join("news", None).await;
    expected.push("channel_occupied news");
    wait_for(&events, &expected).await;
    // The channel of another application has the same name.
    let mut other = PusherClient::connect(server.address(), OTHER).await;
    other.join("news", None).await;
    expected.push("channel_occupied news");
    wait_for(&events, &expected).await;
    second.unsubscribe("news");
    expected.push("channel_vacated news");
    wait_for(&events, &expected).await;
    second.close(1000);
    alice.unsubscribe("presence-room");
    expected.extend(["member_removed presence-room 7", "channel_vacated presence-room"]);
    wait_for(&events, &expected).await;
    assert_eq!(events.lock().expect("no panic").last().map(String::as_str), Some("channel_vacated presence-room"));
    // Native rooms are not reported.
    let _native = server.connect_to("native", "lobby").await;
    alice.join("presence-room", Some(r#"{"user_id":"8"}"#)).await;
    expected.extend(["channel_occupied presence-room", "member_added presence-room 8"]);
    wait_for(&events, &expected).await;
    server.stop().await;
}

#[tokio::test]
async fn webhooks_of_an_application_that_is_gone_are_dropped_and_not_counted_as_delivered() {
    let upstream = Upstream::start(|_| Does::Answer(500, String::new(), Vec::new())).await;
    let url = upstream.url("/pusher");
    let file = std::env::temp_dir().join(format!("rollcall-webhook-apps-{}", std::process::id()));
    std::fs::write(&file, "1:app-key:app-secret\n").expect("a file");
    let path = file.to_str().expect("a path");
    let webhooks = ["--webhook-url", &url, "--webhook-format", "pusher", "--webhook-delay", "0s"];
    let flags = [&["--open", "--pusher-app-file", path][..], &webhooks].concat();
    let node = Node::with_flags("a", &flags).await;
    let mut client = PusherClient::connect(node.address, APP).await;
    client.join("news", None).await;
    node.wait_until("an attempt", async || node.stat("webhooks_failed").await > 0).await;
    std::fs::write(&file, "2:other-key:other-secret\n").expect("a file");
    node.signal("HUP");
    node.wait_until("the drop", async || node.stat("webhooks_dropped").await == 1).await;
    assert_eq!((node.stat("webhooks_events").await, node.stat("webhooks_queued").await), (0, 0));
    std::fs::remove_file(&file).expect("the file");
}

async fn native(server: &TestServer, user: &str, rooms: &[&str]) -> Mirror {
    let headers = [("authorization", format!("Bearer {}", token(user, &Value::Object(serde_json::Map::new()))))];
    Mirror::connect_with(server.address(), user, rooms, &headers).await
}

#[tokio::test]
async fn rooms_of_all_protocols_are_reported_as_channels_of_the_application_that_shares_them() {
    let (server, _upstream, events) = start(&ROOMS_FLAGS).await;
    let mut expected = vec!["channel_occupied presence-den", "member_added presence-den ann"];
    // Rooms whose names no channel can have are not reported.
    let ann = native(&server, "ann", &["a b", "den"]).await;
    wait_for(&events, &expected).await;
    let mut bob = PusherClient::connect(server.address(), APP).await;
    bob.join("presence-den", Some(r#"{"user_id":7}"#)).await;
    expected.push("member_added presence-den 7");
    wait_for(&events, &expected).await;
    ann.close(1000);
    expected.push("member_removed presence-den ann");
    wait_for(&events, &expected).await;
    // That of another application is a channel of its own.
    let mut other = PusherClient::connect(server.address(), OTHER).await;
    other.join("presence-den", Some(r#"{"user_id":"7"}"#)).await;
    expected.extend(["channel_occupied presence-den", "member_added presence-den 7"]);
    wait_for(&events, &expected).await;
    bob.unsubscribe("presence-den");
    expected.extend(["member_removed presence-den 7", "channel_vacated presence-den"]);
    wait_for(&events, &expected).await;
    server.stop().await;
}

#[tokio::test]
async fn the_native_format_describes_rooms_of_all_protocols_as_rooms() {
    let receiver = Receiver::start().await;
    let webhooks = receiver.flags();
    let webhooks: Vec<&str> = webhooks.iter().map(String::as_str).collect();
    let server = TestServer::start(&[&ROOMS_FLAGS[..], &webhooks].concat());
    let mut bob = PusherClient::connect(server.address(), APP).await;
    bob.join("presence-den", Some(r#"{"user_id":"7"}"#)).await;
    receiver.wait_until("the join", |known| known.online.contains("7") && known.occupied.contains("den")).await;
    bob.close(1000);
    receiver.wait_until("the leave", |known| !known.online.contains("7") && !known.occupied.contains("den")).await;
    let joins = receiver.events().into_iter().filter(|event| event == "member_joined den 7").count();
    assert_eq!(joins, 1, "{:?}", receiver.events());
    server.stop().await;
}

#[tokio::test]
async fn counts_of_subscribers_are_reported_if_selected_and_only_the_last_one_after_an_outage() {
    let (events, is_up) = (Events::default(), Arc::new(AtomicBool::new(false)));
    let (of_handler, up) = (Arc::clone(&events), Arc::clone(&is_up));
    let upstream = Upstream::start(move |seen| {
        let is_up = up.load(Ordering::Relaxed);
        if is_up {
            of_handler.lock().expect("no panic").extend(events_of(seen, &[APP]));
        }
        Does::Answer(if is_up { 200 } else { 500 }, String::new(), Vec::new())
    });
    let upstream = upstream.await;
    let url = upstream.url("/pusher");
    let format = ["--webhook-url", &url, "--webhook-format", "pusher", "--webhook-events", "subscription_count"];
    let other = ["--pusher-app", "2:other-key:other-secret"];
    let server = TestServer::start(&[&COUNTING_FLAGS[..], &other, &format].concat());
    let mut first = PusherClient::connect(server.address(), APP).await;
    first.join("news", None).await;
    while server.stat("webhooks_failed").await == 0 {}
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut client = PusherClient::connect(server.address(), APP).await;
        client.join("news", None).await;
        others.push(client);
    }
    // Presence channels have members instead, and the other application does not count.
    others[0].join("presence-a", Some(r#"{"user_id":"7"}"#)).await;
    let mut other = PusherClient::connect(server.address(), OTHER).await;
    other.join("news", None).await;
    others[2].unsubscribe("news");
    wait_for_count(&mut first, "news", 3).await;
    is_up.store(true, Ordering::Relaxed);
    wait_for(&events, &["subscription_count news 1", "subscription_count news 3"]).await;
    drop((first, others));
    let deadline = Instant::now() + DEADLINE;
    while events.lock().expect("no panic").last().is_none_or(|last| last != "subscription_count news 0") {
        assert!(Instant::now() < deadline, "{events:?}");
        sleep(Duration::from_millis(5)).await;
    }
    server.stop().await;
}
