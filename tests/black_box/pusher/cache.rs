//! Cache channels: a new subscriber receives the last event of the application.

use serde_json::{Value, json};

use super::client;
use super::connecting::OTHER;
use crate::common::pusher::{APP, APP_FLAGS};
use crate::common::pusher_api::Call;
use crate::common::{PusherClient, TestServer};

const CHANNELS: [&str; 4] = ["cache-a", "private-cache-a", "private-encrypted-cache-a", "presence-cache-a"];

pub(super) fn member(channel: &str) -> Option<&'static str> {
    channel.starts_with("presence-").then_some(r#"{"user_id":"ann"}"#)
}

pub(super) fn event(name: &str, channels: &[&str]) -> Value {
    json!({"name": name, "data": format!("{{\"{name}\":\"\t\"}}"), "channels": channels})
}

/// What a client has received of a channel since it subscribed to it last, without member events: the names of events.
pub(super) fn received<'a>(client: &'a PusherClient, channel: &str) -> Vec<&'a str> {
    let of_channel: Vec<_> = client.log.iter().filter(|message| message["channel"] == channel).collect();
    let succeeded = |message: &&Value| message["event"] == "pusher_internal:subscription_succeeded";
    let last = of_channel.iter().rposition(succeeded).expect("a subscription");
    of_channel[last + 1..].iter().map(|message| message["event"].as_str().expect("an event")).collect()
}

/// Waits until something has come after the subscription.
pub(super) async fn wait_for_first(client: &mut PusherClient, channel: &str) {
    client.wait_until("what is cached", |client| !received(client, channel).is_empty()).await;
}

/// Publishes an event and waits until it is delivered. A client that subscribes in the same tick receives it live.
async fn publish(server: &TestServer, event: &Value) {
    let address = server.address();
    Call::post(APP, "/apps/1/events", event).ok(address).await;
    for channel in event["channels"].as_array().expect("channels").iter().filter_map(Value::as_str) {
        let path = format!("/apps/1/channels/{channel}");
        let cached = Call::get(APP, &path).with("info=cache");
        while channel.contains("cache-") && cached.ok(address).await["cache"]["data"] != event["data"] {}
    }
}

#[tokio::test]
async fn a_new_subscriber_receives_the_last_event_of_the_application_directly_behind_the_success() {
    let server = TestServer::start(&APP_FLAGS);
    publish(&server, &event("first", &CHANNELS)).await;
    publish(&server, &event("news", &[&CHANNELS[..], &["news"]].concat())).await;
    let mut first = client(&server).await;
    for channel in CHANNELS {
        first.join(channel, member(channel)).await;
        wait_for_first(&mut first, channel).await;
        assert_eq!(received(&first, channel), ["news"], "{channel}");
        let events = first.of("news");
        let expected = json!({"channel": channel, "event": "news", "data": "{\"news\":\"\t\"}"});
        assert_eq!(**events.last().expect("the event"), expected);
    }
    // Other channels have no cache, and events of clients are not cached.
    first.join("news", None).await;
    first.trigger("private-cache-a", "client-x", &json!(1));
    publish(&server, &event("end", &["news"])).await;
    first.wait_until("the end", |client| !client.of("end").is_empty()).await;
    assert_eq!(received(&first, "news"), ["end"]);
    let mut second = client(&server).await;
    for channel in CHANNELS {
        second.join(channel, member(channel)).await;
        wait_for_first(&mut second, channel).await;
        assert_eq!(received(&second, channel), ["news"], "{channel}");
    }
    assert_eq!(received(&first, "private-cache-a"), ["news"], "subscribers receive an event once");
    assert!(first.of("pusher:cache_miss").is_empty() && second.of("pusher:cache_miss").is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_subscriber_is_told_that_there_is_no_event() {
    let server = TestServer::start(&[&APP_FLAGS[..], &["--pusher-app", "2:other-key:other-secret"]].concat());
    // Another application's channel of the same name, and an event of a client.
    Call::post(OTHER, "/apps/2/events", &event("other", &CHANNELS)).ok(server.address()).await;
    let (mut first, mut second) = (client(&server).await, client(&server).await);
    for client in [&mut first, &mut second] {
        for channel in CHANNELS {
            client.join(channel, member(channel)).await;
            wait_for_first(client, channel).await;
            assert_eq!(received(client, channel), ["pusher:cache_miss"], "{channel}");
            let expected = json!({"event": "pusher:cache_miss", "channel": channel});
            assert_eq!(**client.of("pusher:cache_miss").last().expect("a miss"), expected);
        }
        client.trigger("private-cache-a", "client-x", &json!(1));
    }
    // Each subscription is answered.
    publish(&server, &event("news", &["cache-a"])).await;
    first.wait_until("the event", |client| !client.of("news").is_empty()).await;
    first.subscribe("cache-a", None);
    first.wait_until("the event", |client| client.of("news").len() == 2).await;
    assert_eq!(received(&first, "cache-a"), ["news"]);
    second.wait_until("the event", |client| !client.of("news").is_empty()).await;
    assert_eq!(received(&second, "cache-a"), ["pusher:cache_miss", "news"]);
    server.stop().await;
}

#[tokio::test]
async fn a_subscriber_receives_the_event_of_its_tick_although_the_event_excludes_it() {
    let server = TestServer::start(&[&APP_FLAGS[..], &["--tick", "500ms"]].concat());
    let address = server.address();
    let channels = &[CHANNELS[0], CHANNELS[1], CHANNELS[3]];
    let (mut own, mut other) = (client(&server).await, client(&server).await);
    for channel in channels {
        other.join(channel, member(channel)).await;
    }
    // Once as a new subscriber and once as one that subscribes again.
    for (round, name) in ["first", "second"].into_iter().enumerate() {
        for channel in channels {
            own.subscribe(channel, member(channel));
        }
        own.sync().await;
        let mut event = event(name, channels);
        event["socket_id"] = own.socket_id.as_str().into();
        Call::post(APP, "/apps/1/events", &event).ok(address).await;
        for channel in channels {
            let is_answered =
                |client: &PusherClient| client.channels.get(*channel).map_or(0, |it| it.succeeded) > round;
            own.wait_until("the subscription", is_answered).await;
            wait_for_first(&mut own, channel).await;
            other.wait_until("the event", |client| received(client, channel).contains(&name)).await;
        }
    }
    Call::post(APP, "/apps/1/events", &event("end", channels)).ok(address).await;
    for channel in channels {
        own.wait_until("the end", |client| received(client, channel).contains(&"end")).await;
        // If the tick ended before the event was published, the subscription was answered with what was known.
        let answers = [["second", "end"], ["first", "end"], ["pusher:cache_miss", "end"]];
        let own = received(&own, channel);
        assert!(answers.iter().any(|answer| own == answer), "{channel}: {own:?}");
        other.wait_until("the end", |client| received(client, channel).contains(&"end")).await;
        let of_other = received(&other, channel);
        assert_eq!(of_other, ["pusher:cache_miss", "first", "second", "end"], "{channel}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_application_can_ask_for_the_last_event() {
    let server = TestServer::start(&APP_FLAGS);
    let get = |path, info| Call::get(APP, path).with(info);
    let none = get("/apps/1/channels/cache-a", "info=cache").ok(server.address()).await;
    assert_eq!(none, json!({"occupied": false, "cache": null}));
    publish(&server, &event("first", &["cache-a", "presence-cache-a"])).await;
    let mut client = client(&server).await;
    client.join("presence-cache-a", member("presence-cache-a")).await;
    wait_for_first(&mut client, "presence-cache-a").await;
    let all = get("/apps/1/channels/presence-cache-a", "info=user_count,subscription_count,cache");
    let answer = all.ok(server.address()).await;
    let ttl = answer["cache"]["ttl"].as_u64().expect("a time");
    assert!((1700..=1800).contains(&ttl), "{answer}");
    let cache = json!({"data": "{\"first\":\"\t\"}", "ttl": ttl});
    assert_eq!(answer, json!({"occupied": true, "user_count": 1, "subscription_count": 1, "cache": cache}));
    for (path, info) in [
        ("/apps/1/channels/news", "info=cache"),
        ("/apps/1/channels/presence-a", "info=user_count,cache"),
        ("/apps/1/channels", "info=cache"),
    ] {
        get(path, info).error(server.address(), 400).await;
    }
    server.stop().await;
}
