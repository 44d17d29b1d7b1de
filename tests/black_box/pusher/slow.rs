//! Clients that do not read: messages wait for them in order, members are corrected by a new list, and a client for
//! which too much waits is disconnected.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::client;
use crate::common::pusher::{APP, APP_FLAGS};
use crate::common::pusher_api::Call;
use crate::common::{PusherClient, TestServer};

/// It has a last event, which a client that has it does not receive again.
const ROOM: &str = "presence-cache-room";
/// About what fills the buffers of a connection with a small receive buffer: 64 KB at the server and 16 KB at the
/// client.
const BUFFER_BYTES: usize = 100_000;
/// The data of a long event.
const LONG: usize = 9_000;

/// A server with short ticks.
fn start() -> TestServer {
    TestServer::start(&[&APP_FLAGS[..], &["--tick", "10ms"]].concat())
}

/// The `channel_data` of a user with a long info, so that few changes fill the buffers.
fn member(user: &str) -> String {
    json!({"user_id": user, "user_info": "x".repeat(900)}).to_string()
}

/// Publishes a numbered event to the channel.
async fn publish(address: SocketAddr, channel: &str, number: usize, bytes: usize) {
    let data = format!("{number} {}", "x".repeat(bytes));
    let body = json!({"name": "news", "channel": channel, "data": data});
    Call::post(APP, "/apps/1/events", &body).ok(address).await;
}

/// The numbers of the events that a client has received in this channel.
fn numbers(client: &PusherClient, channel: &str) -> Vec<usize> {
    let events = client.of("news").into_iter().filter(|event| event["channel"] == channel);
    let number = |event: &Value| event["data"].as_str()?.split(' ').next()?.parse().ok();
    events.map(|event| number(event).expect("a number")).collect()
}

/// Publishes long events until the socket of a client that does not read is full. Returns how many.
async fn fill(server: &TestServer, channel: &str) -> usize {
    let count = BUFFER_BYTES / LONG + 1;
    for number in 0..count {
        publish(server.address(), channel, number, LONG).await;
    }
    count
}

#[tokio::test]
async fn a_client_that_did_not_read_for_a_while_has_all_messages_and_the_present_members() {
    let server = start();
    let mut fast = client(&server).await;
    let mut slow = PusherClient::connect_with_small_buffer(server.address(), APP).await;
    for channel in ["news", "other"] {
        slow.join(channel, None).await;
    }
    fast.join(ROOM, Some(r#"{"user_id":"fast"}"#)).await;
    slow.join(ROOM, Some(r#"{"user_id":"slow"}"#)).await;
    slow.set_reading(false);
    let mut published = fill(&server, "news").await;
    // 900 changes of 1 KB are more than may wait. Ten users stay and come again as others.
    for round in 0..45 {
        let mut guests = Vec::new();
        for number in 0..10 {
            let (mut guest, name) = (client(&server).await, format!("{}-{number}", round % 3));
            guest.join(ROOM, Some(&member(&name))).await;
            guests.push((guest, name));
        }
        let has_all = |fast: &PusherClient| guests.iter().all(|(_, name)| fast.members(ROOM).contains(&&**name));
        fast.wait_until("all guests", has_all).await;
        publish(server.address(), "news", published, 100).await;
        publish(server.address(), ROOM, round, 100).await;
        published += 1;
        guests.iter().for_each(|(guest, _)| guest.close(1000));
        fast.wait_until("the leaves", |fast| fast.members(ROOM) == ["fast", "slow"]).await;
    }
    assert!(server.stat("deliveries_skipped").await > 0, "nothing was skipped");
    let mut guest = client(&server).await;
    guest.join(ROOM, Some(&member("guest"))).await;
    // A channel to which it subscribes meanwhile.
    slow.subscribe("presence-late", Some(r#"{"user_id":"slow"}"#));
    fast.join("presence-late", Some(r#"{"user_id":"fast"}"#)).await;
    fast.wait_until("slow", |fast| fast.members("presence-late") == ["fast", "slow"]).await;
    slow.set_reading(true);
    // The mirror fails if a member is added or removed twice.
    slow.wait_until("the members", |slow| slow.members(ROOM) == ["fast", "guest", "slow"]).await;
    slow.wait_until("the late channel", |slow| slow.members("presence-late") == ["fast", "slow"]).await;
    publish(server.address(), "news", published, 1).await;
    slow.wait_until("the last event", |slow| numbers(slow, "news").last() == Some(&published)).await;
    assert!(numbers(&slow, "news").into_iter().eq(0..=published), "{:?}", numbers(&slow, "news"));
    assert!(numbers(&slow, ROOM).into_iter().eq(0..45), "{:?}", numbers(&slow, ROOM));
    assert!(slow.of("pusher_internal:member_added").len() < 450, "nothing was skipped");
    assert_eq!((slow.channels["news"].succeeded, slow.channels["other"].succeeded), (1, 1));
    assert_eq!((slow.channels[ROOM].succeeded, slow.channels["presence-late"].succeeded), (2, 1));
    // From now on it receives single changes again.
    guest.close(1000);
    slow.wait_until("the leave", |slow| slow.members(ROOM) == ["fast", "slow"]).await;
    assert_eq!(slow.channels[ROOM].succeeded, 2);
    assert_eq!(server.stat("connections_too_slow").await, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_misses_only_messages_receives_no_list() {
    let server = start();
    let mut slow = PusherClient::connect_with_small_buffer(server.address(), APP).await;
    slow.join("news", None).await;
    slow.join(ROOM, Some(r#"{"user_id":"slow"}"#)).await;
    slow.set_reading(false);
    let published = fill(&server, ROOM).await;
    // An answer to a client that subscribes again waits like messages, and is sent once.
    slow.subscribe("news", None);
    let mut marker = client(&server).await;
    marker.sync().await;
    for number in published..2 * published {
        publish(server.address(), ROOM, number, LONG).await;
    }
    slow.set_reading(true);
    slow.wait_until("all events", |slow| numbers(slow, ROOM).len() == 2 * published).await;
    slow.wait_until("the answer", |slow| slow.channels["news"].succeeded == 2).await;
    slow.sync().await;
    assert!(numbers(&slow, ROOM).into_iter().eq(0..2 * published), "{:?}", numbers(&slow, ROOM));
    assert_eq!((slow.channels["news"].succeeded, slow.channels[ROOM].succeeded), (2, 1));
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_told_to_connect_again_when_1_mib_waits() {
    let server = start();
    let mut fast = client(&server).await;
    fast.join(ROOM, Some(r#"{"user_id":"fast"}"#)).await;
    let mut slow = PusherClient::connect_with_small_buffer(server.address(), APP).await;
    slow.join(ROOM, Some(r#"{"user_id":"slow"}"#)).await;
    fast.wait_until("both", |fast| fast.members(ROOM) == ["fast", "slow"]).await;
    slow.set_reading(false);
    let mut published = 0;
    while server.stat("connections_too_slow").await == 0 {
        publish(server.address(), ROOM, published, LONG).await;
        published += 1;
        assert!(published < 300, "more than 1 MiB waits");
    }
    assert!(published * LONG > 1024 * 1024, "disconnected after {published} events");
    fast.wait_until("all events", |fast| numbers(fast, ROOM).len() == published).await;
    // What waited was dropped: the close frame follows what was on its way.
    slow.set_reading(true);
    assert_eq!(slow.wait_for_close().await, Some(4100));
    let received = numbers(&slow, ROOM);
    assert!(received.iter().copied().eq(0..received.len()) && received.len() * LONG < 4 * BUFFER_BYTES, "{received:?}");
    // Its member stays for the grace period, and is the same member when it comes back.
    let mut again = client(&server).await;
    again.join(ROOM, Some(r#"{"user_id":"slow"}"#)).await;
    assert_eq!(again.members(ROOM), ["fast", "slow"]);
    fast.sync().await;
    assert!(fast.of("pusher_internal:member_removed").is_empty());
    server.stop().await;
}
