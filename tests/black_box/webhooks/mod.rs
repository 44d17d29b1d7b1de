//! Webhooks: what an application is told, and that its mirror equals the server in the end, however its endpoint fails.

mod failures;
mod pusher;
mod pusher_notices;

use serde_json::json;

use crate::common::webhooks::{Plan, Receiver, SECRET};
use crate::common::{Does, TestServer};

fn start(receiver: &Receiver, more: &[&str]) -> TestServer {
    let flags = receiver.flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    if let Some(at) =
        flags.iter().position(|flag| *flag == "--webhook-delay").filter(|_| more.contains(&"--webhook-delay"))
    {
        flags.drain(at..at + 2);
    }
    let server = TestServer::start(&[&flags[..], more].concat());
    // With a key, reading needs one.
    if !more.contains(&"--api-key") {
        receiver.read_from(&[server.address()]);
    }
    server
}

#[tokio::test]
async fn joins_and_leaves_are_reported_with_state_and_reason() {
    let receiver = Receiver::start().await;
    let server = start(&receiver, &["--node-id", "n1"]);
    let mut alice = server.connect("alice").await;
    alice.send(&json!({"type": "join", "room": "lobby", "state": {"mood": "ü \"x\""}}));
    let mut expected = vec!["room_occupied lobby", "member_joined lobby alice", "user_online alice"];
    receiver.wait_for(&expected).await;
    receiver.known(|known| {
        let joined = known.events.iter().find(|event| event["type"] == "member_joined").unwrap();
        assert_eq!(joined["state"], json!({"mood": "ü \"x\""}));
        assert!(joined["since"].as_u64() <= joined["at"].as_u64(), "{joined}");
    });
    assert!(receiver.upstream.seen().iter().all(|seen| seen.json()["node"] == "n1"));
    // By default, a new state is not reported.
    alice.send(&json!({"type": "state", "room": "lobby", "state": {"mood": "new"}}));
    alice.wait_until("the state", |alice| alice.state("lobby", "alice") == Some(&json!({"mood": "new"}))).await;
    alice.send(&json!({"type": "join", "room": "game", "observe": false}));
    expected.extend(["room_occupied game", "member_joined game alice"]);
    receiver.wait_for(&expected).await;
    alice.send(&json!({"type": "leave", "room": "lobby"}));
    expected.extend(["member_left lobby alice left", "room_vacated lobby"]);
    receiver.wait_for(&expected).await;
    alice.close(1000);
    expected.extend(["member_left game alice closed", "room_vacated game", "user_offline alice"]);
    receiver.wait_for(&expected).await;
    receiver.known(|known| {
        let event = |kind: &str, room: Option<&str>| {
            let mut found = known.events.iter().filter(|event| event["type"] == kind && event["room"].as_str() == room);
            found.next().unwrap().clone()
        };
        let (joined, left) = (event("member_joined", Some("game")), event("member_left", Some("game")));
        assert_eq!(left["since"], joined["since"], "the membership began with the join");
        let (online, offline) = (event("user_online", None), event("user_offline", None));
        assert_eq!((&offline["since"], &offline["last_seen"]), (&online["since"], &left["at"]));
    });
    receiver.wait_for_agreement(server.address()).await;
    assert_eq!(server.stat("webhooks_queued").await, 0);
    assert_eq!(server.stat("webhooks_events").await, expected.len() as u64 + 1, "with the resync at the start");
    let metrics = String::from_utf8(server.get("/metrics").await.body.clone()).unwrap();
    assert!(metrics.contains("# TYPE rollcall_webhooks_queued gauge"), "{metrics}");
    assert!(metrics.contains("\nrollcall_webhook_requests_total{result=\"delivered\"} "), "{metrics}");
    server.stop().await;
}

#[tokio::test]
async fn everything_earlier_is_void_when_a_server_starts() {
    let receiver = Receiver::start().await;
    let server = start(&receiver, &[]);
    let _alice = server.connect_to("alice", "lobby").await;
    receiver.wait_until("the join", |known| known.online.contains("alice")).await;
    receiver.known(|known| {
        assert_eq!(known.events[0]["type"], "resync");
        assert_eq!(known.events[0].get("room"), None);
    });
    server.stop().await;
}

#[tokio::test]
async fn a_reload_and_a_second_device_are_not_reported() {
    let receiver = Receiver::start().await;
    let server = start(&receiver, &["--webhook-delay", "60s", "--drain", "1s"]);
    let alice = server.connect_to("alice", "lobby").await;
    let joined = ["room_occupied lobby", "member_joined lobby alice", "user_online alice"];
    receiver.wait_for(&joined).await;
    let second = server.connect_to("alice", "lobby").await;
    second.close(1000);
    // A reload that is slower than the grace: others see alice leave and join.
    let mut observer = server.observe("bob", "lobby").await;
    alice.close(1000);
    observer.wait_until("the leave", |observer| !observer.has("lobby", "alice")).await;
    let mut alice = server.connect_to("alice", "lobby").await;
    // What comes later is reported, so what cancelled out is not.
    alice.send(&json!({"type": "join", "room": "game", "observe": false}));
    receiver.wait_for(&[&joined[..], &["room_occupied game", "member_joined game alice"]].concat()).await;
    alice.barrier().await;
    receiver.wait_for_agreement(server.address()).await;
    server.stop().await;
}

#[tokio::test]
async fn updates_are_reported_if_selected_and_other_rooms_are_not() {
    let receiver = Receiver::start().await;
    let events = "member_joined,member_updated,member_left";
    let server = start(&receiver, &["--webhook-events", events, "--webhook-rooms", "team-*"]);
    let mut alice = server.connect_to("alice", "team-1").await;
    receiver.wait_for(&["member_joined team-1 alice"]).await;
    alice.send(&json!({"type": "join", "room": "lobby", "state": {"n": 1}}));
    alice.wait_until("the lobby", |alice| alice.has("lobby", "alice")).await;
    alice.send(&json!({"type": "state", "room": "team-1", "state": {"n": 2}}));
    receiver.wait_for(&["member_joined team-1 alice", "member_updated team-1 alice"]).await;
    receiver.known(|known| assert_eq!(known.rooms["team-1"]["alice"], json!({"n": 2})));
    server.stop().await;
}

#[tokio::test]
async fn users_who_are_kicked_or_silent_have_left_for_that_reason() {
    let receiver = Receiver::start().await;
    let key = "a key of 16 bytes";
    let server = start(&receiver, &["--api-key", key, "--ttl", "2s", "--webhook-events", "member_left"]);
    let _alice = server.connect_to("alice", "lobby").await;
    let kicked = server.post_json("/v1/users/alice/kick", &json!({})).await;
    assert_eq!(kicked.status, 200, "{kicked:?}");
    receiver.wait_for(&["member_left lobby alice kicked"]).await;
    server.rest_heartbeat("rest").await;
    receiver.wait_for(&["member_left lobby alice kicked", "member_left lobby rest timeout"]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_delivers_what_waits() {
    let receiver = Receiver::start().await;
    let server = start(&receiver, &["--webhook-delay", "60s"]);
    let alice = server.connect_to("alice", "lobby").await;
    receiver.wait_until("the join", |known| known.online.contains("alice")).await;
    alice.close(1000);
    server.wait_for_member("lobby", "alice", false).await;
    let other = server.connect_to("bob", "lobby").await;
    receiver.wait_until("the other join", |known| known.online.contains("bob")).await;
    assert!(receiver.known(|known| known.online.contains("alice")), "the leave waits");
    drop(other);
    server.stop().await;
    assert!(!receiver.known(|known| known.online.contains("alice")), "{:?}", receiver.events());
}

#[tokio::test]
async fn a_rotated_secret_signs_too_and_each_endpoint_has_its_own() {
    let (one, two) = (Receiver::start().await, Receiver::start().await);
    let other = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
    let urls = [format!("one={}", one.upstream.url("/")), format!("two={}", two.upstream.url("/"))];
    let secrets = [format!("one={SECRET}"), format!("two={SECRET}"), format!("two={other}")];
    let mut flags = vec!["--webhook-delay", "0s"];
    urls.iter().for_each(|url| flags.extend(["--webhook-url", url]));
    secrets.iter().for_each(|secret| flags.extend(["--webhook-secret", secret]));
    two.expect_secret(other);
    let server = TestServer::start(&flags);
    let _alice = server.connect_to("alice", "lobby").await;
    for receiver in [&one, &two] {
        receiver.wait_until("the join", |known| known.online.contains("alice")).await;
    }
    let signatures = |receiver: &Receiver| {
        let seen = receiver.upstream.seen().remove(0);
        seen.header("webhook-signature").unwrap().split(' ').count()
    };
    assert_eq!((signatures(&one), signatures(&two)), (1, 2));
    server.stop().await;
}

#[tokio::test]
async fn the_login_in_a_url_is_sent_and_not_logged() {
    let receiver = Receiver::start().await;
    let url = format!("http://user:open%20sesame@{}/hook", receiver.upstream.address);
    let server = TestServer::start(&["--webhook-url", &url, "--webhook-secret", SECRET]);
    receiver.upstream.wait_for(1).await;
    assert_eq!(receiver.upstream.seen()[0].header("authorization"), Some("Basic dXNlcjpvcGVuIHNlc2FtZQ=="));
    server.stop().await;
}

#[tokio::test]
async fn many_changes_are_sent_in_few_requests_one_at_a_time() {
    let receiver = Receiver::start().await;
    receiver.set(|_| Plan::Refuse(Does::Hold(500, String::new())));
    let server = start(&receiver, &[]);
    receiver.upstream.wait_for_held(1).await;
    let mut clients = Vec::new();
    for user in 0..5 {
        let mut client = server.connect(&format!("user {user}")).await;
        for room in 0..50 {
            client.send(&json!({"type": "join", "room": format!("room {user} {room}"), "observe": false}));
        }
        client.barrier().await;
        clients.push(client);
    }
    // The resync at the start, the rooms, their members, and the users.
    server.wait_for_stat("webhooks_queued", 1 + 250 + 250 + 5).await;
    assert_eq!(receiver.upstream.count(), 1, "one request at a time");
    receiver.set(|_| Plan::Take);
    receiver.upstream.release();
    receiver.wait_until("all rooms", |known| known.rooms.len() == 250).await;
    receiver.wait_for_agreement(server.address()).await;
    let delivered = server.stat("webhooks_delivered").await;
    assert!((7..=12).contains(&delivered), "{delivered} requests for 506 changes");
    server.stop().await;
}
