//! How many connections are subscribed to a channel, for applications with the option `subscription-count`.

use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use super::cache::event;
use super::connecting::OTHER;
use crate::common::pusher::{APP, App};
use crate::common::pusher_api::Call;
use crate::common::{DEADLINE, Process, PusherClient, TestServer};

pub(crate) const COUNTING_FLAGS: [&str; 3] =
    ["--open", "--pusher-app", "1:app-key:app-secret,client-messages,subscription-count"];
/// The pause between two counts of a channel with more than 100 subscribers, in ticks of the tests' servers.
const PAUSE_TICKS: u64 = 5_000 / TICK_MS;
const TICK_MS: u64 = 10;
const COUNT: &str = "pusher_internal:subscription_count";

/// The counts of a channel that a client was told, in order.
pub(super) fn counts(client: &PusherClient, channel: &str) -> Vec<u64> {
    let messages = client.of(COUNT).into_iter().filter(|message| message["channel"] == channel);
    let number = |data: &serde_json::Value| {
        assert_eq!(data.as_object().map(serde_json::Map::len), Some(1), "{data}");
        data["subscription_count"].as_u64().expect("a number")
    };
    messages.map(|message| number(&message["data"])).collect()
}

/// Waits until this is the last count of a channel.
pub(crate) async fn wait_for_count(client: &mut PusherClient, channel: &str, count: u64) {
    client.wait_until(&format!("count {count}"), |client| counts(client, channel).last() == Some(&count)).await;
}

async fn connect(server: &TestServer, app: App) -> PusherClient {
    PusherClient::connect(server.address(), app).await
}

#[tokio::test]
async fn subscribers_are_told_how_many_they_are_whenever_that_changes() {
    let server = TestServer::start(&COUNTING_FLAGS);
    for channel in ["news", "private-a", "private-encrypted-a", "cache-a"] {
        let mut first = connect(&server, APP).await;
        let mut second = connect(&server, APP).await;
        first.join(channel, None).await;
        wait_for_count(&mut first, channel, 1).await;
        second.join(channel, None).await;
        for client in [&mut first, &mut second] {
            wait_for_count(client, channel, 2).await;
        }
        // Events, and clients that subscribe again, change no number.
        Call::post(APP, "/apps/1/events", &event("news", &[channel])).ok(server.address()).await;
        first.wait_until("the event", |first| !first.of("news").is_empty()).await;
        second.subscribe(channel, None);
        second.wait_until("the answer", |second| second.channels[channel].succeeded == 2).await;
        second.unsubscribe(channel);
        wait_for_count(&mut first, channel, 1).await;
        let mut third = connect(&server, APP).await;
        third.join(channel, None).await;
        wait_for_count(&mut first, channel, 2).await;
        third.close(1000);
        wait_for_count(&mut first, channel, 1).await;
        assert_eq!(counts(&first, channel), [1, 2, 1, 2, 1], "{channel}");
        second.sync().await;
        assert_eq!(counts(&second, channel), [2, 2], "{channel}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_new_subscriber_is_told_behind_the_success_and_the_cached_event() {
    let server = TestServer::start(&COUNTING_FLAGS);
    let mut client = connect(&server, APP).await;
    client.join("cache-a", None).await;
    wait_for_count(&mut client, "cache-a", 1).await;
    Call::post(APP, "/apps/1/events", &event("last", &["cache-a"])).ok(server.address()).await;
    client.wait_until("the event", |client| !client.of("last").is_empty()).await;
    let mut second = connect(&server, APP).await;
    second.join("cache-a", None).await;
    wait_for_count(&mut second, "cache-a", 2).await;
    let received = |client: &PusherClient| -> Vec<_> {
        client.log[1..].iter().map(|message| message["event"].as_str().expect("an event").to_owned()).collect()
    };
    let succeeded = "pusher_internal:subscription_succeeded";
    assert_eq!(received(&second), [succeeded, "last", COUNT]);
    assert_eq!(received(&client)[..4], [succeeded, "pusher:cache_miss", COUNT, "last"]);
    server.stop().await;
}

#[tokio::test]
async fn presence_channels_own_channels_and_other_applications_have_no_counts() {
    let server = TestServer::start(&[&COUNTING_FLAGS[..], &["--pusher-app", "2:other-key:other-secret"]].concat());
    let (mut member, mut other) = (connect(&server, APP).await, connect(&server, OTHER).await);
    member.sign_in_as("7", &[]).await;
    for channel in ["presence-a", "presence-cache-a", "#server-to-user-7"] {
        member.join(channel, None).await;
    }
    other.join("news", None).await;
    let mut second = connect(&server, OTHER).await;
    second.join("news", None).await;
    // Another application's channel of the same name is another one.
    member.join("news", None).await;
    wait_for_count(&mut member, "news", 1).await;
    assert_eq!(member.of(COUNT).len(), 1);
    Call::post(OTHER, "/apps/2/events", &event("end", &["news"])).ok(server.address()).await;
    for client in [&mut other, &mut second] {
        client.wait_until("the end", |client| !client.of("end").is_empty()).await;
        assert!(client.of(COUNT).is_empty());
    }
    server.stop().await;
}

#[tokio::test]
async fn the_option_can_be_turned_on_and_off_while_the_server_runs() {
    let file = std::env::temp_dir().join(format!("rollcall-counting-apps-{}", std::process::id()));
    let (off, on) = ("1:app-key:app-secret\n", "1:app-key:app-secret,subscription-count\n");
    std::fs::write(&file, off).expect("a file");
    let path = file.to_str().expect("a path");
    let mut process = Process::start(&["--open", "--tick", "10ms", "--pusher-app-file", path]);
    let address = process.address();
    let mut clients = Vec::new();
    let reloads = |process: &Process| process.stderr().iter().filter(|line| line.contains("SIGHUP: reloading")).count();
    for (settings, expected) in [(off, None), (on, Some(2)), (on, Some(3)), (off, None), (on, Some(5))] {
        std::fs::write(&file, settings).expect("a file");
        process.signal("HUP");
        // It is logged after the file was read, once per round.
        let deadline = Instant::now() + DEADLINE;
        while reloads(&process) == clients.len() {
            assert!(Instant::now() < deadline, "not reloaded: {:?}", process.output());
            sleep(Duration::from_millis(5)).await;
        }
        let mut client = PusherClient::connect(address, APP).await;
        client.join("news", None).await;
        clients.push(client);
        for client in &mut clients {
            match expected {
                Some(count) => wait_for_count(client, "news", count).await,
                None => client.sync().await,
            }
        }
    }
    let told: Vec<_> = clients.iter().map(|client| counts(client, "news")).collect();
    assert_eq!(told, [vec![2, 3, 5], vec![2, 3, 5], vec![3, 5], vec![5], vec![5]]);
    drop(process);
    std::fs::remove_file(&file).expect("a file");
}

#[tokio::test]
async fn with_more_than_100_subscribers_they_are_told_after_a_pause_and_new_ones_at_once() {
    let tick = format!("{TICK_MS}ms");
    let server = TestServer::start(&[&COUNTING_FLAGS[..], &["--tick", &tick]].concat());
    let mut first = connect(&server, APP).await;
    first.join("news", None).await;
    let mut others = Vec::new();
    for _ in 0..98 {
        let mut client = connect(&server, APP).await;
        client.join("news", None).await;
        others.push(client);
    }
    wait_for_count(&mut first, "news", 99).await;
    let before = server.stat("ticks").await;
    others.push(connect(&server, APP).await);
    others[98].join("news", None).await;
    wait_for_count(&mut first, "news", 100).await;
    for count in [101, 102] {
        let mut client = connect(&server, APP).await;
        client.join("news", None).await;
        wait_for_count(&mut client, "news", count).await;
        others.push(client);
    }
    wait_for_count(&mut first, "news", 102).await;
    assert!(server.stat("ticks").await - before >= PAUSE_TICKS, "told within the pause");
    assert!(!counts(&first, "news").contains(&101), "{:?}", counts(&first, "news"));
    // The newcomers are in line with all others.
    for newcomer in &mut others[99..] {
        wait_for_count(newcomer, "news", 102).await;
    }
    for (client, count) in others.iter_mut().zip([101, 100]) {
        client.unsubscribe("news");
        client.sync().await;
        if count == 100 {
            wait_for_count(&mut first, "news", 100).await;
        }
    }
    assert_eq!(counts(&first, "news")[99..], [100, 102, 100]);
    let all = Call::get(APP, "/apps/1/channels/news").with("info=subscription_count").ok(server.address()).await;
    assert_eq!(all, json!({"occupied": true, "subscription_count": 100}));
    server.stop().await;
}
