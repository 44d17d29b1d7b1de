//! Messages of the application: to the observers of a room, and to all connections of a user.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::http::{self, Response};
use crate::common::token::{SECRET_FLAG, token};
use crate::common::{DEADLINE, Mirror, RawClient, TestServer};

const KEY: &str = "an api key for tests";
const KEY_FLAG: [&str; 2] = ["--api-key", KEY];
const LONGEST: usize = 16 * 1024;
const TO_LOBBY: &str = "/v1/rooms/lobby/messages";
const TO_ALICE: &str = "/v1/users/alice/messages";

async fn publish(server: &TestServer, path: &str, data: &Value) {
    let answer = server.post_json(path, &json!({ "data": data })).await;
    assert_eq!((answer.status, answer.json()), (202, json!({})), "{answer:?}");
}

async fn send(server: &TestServer, path: &str, body: &str) -> Response {
    let headers = [("authorization", &*format!("Bearer {KEY}"))];
    http::request(server.address(), "POST", path, &headers, body.as_bytes()).await
}

/// The messages that a mirror received: the room, the user and the data of each.
fn received(mirror: &Mirror) -> Vec<(Option<&str>, Option<&str>, &Value)> {
    let messages = mirror.since(0, "message", "").into_iter();
    messages.map(|message| (message["room"].as_str(), message["user"].as_str(), &message["data"])).collect()
}

/// Data of this length.
fn data(bytes: usize) -> Value {
    json!("x".repeat(bytes - 2))
}

#[tokio::test]
async fn messages_to_a_room_are_ordered_with_those_of_members_and_have_no_user() {
    let server = TestServer::start(&KEY_FLAG);
    let mut alice = server.connect_to("alice", "lobby").await;
    let mut observer = server.observe("observer", "lobby").await;
    let mut counting = server.connect("counting").await;
    counting.send(&json!({"type": "observe", "room": "lobby", "detail": "count"}));
    counting.wait_until("the count", |counting| counting.observes("lobby")).await;
    let mut elsewhere = server.connect_to("elsewhere", "kitchen").await;
    let mut chat = server.chat("chatting").await;
    alice.wait_until("the chat client", |alice| alice.has("lobby", "chatting")).await;
    for round in 0..5 {
        alice.send(&json!({"type": "message", "room": "lobby", "data": {"member": round}}));
        publish(&server, TO_LOBBY, &json!({"application": round, "text": "not in chat"})).await;
    }
    for mirror in [&mut alice, &mut observer, &mut counting] {
        mirror.wait_until("all messages", |mirror| received(mirror).len() == 10).await;
    }
    let all = received(&alice);
    assert_eq!(all, received(&observer), "all observers receive one order");
    assert_eq!(all, received(&counting), "all observers receive one order");
    for (name, user) in [("member", Some("alice")), ("application", None)] {
        let of_sender = all.iter().filter(|(_, sender, _)| *sender == user);
        let rounds: Vec<_> = of_sender.map(|(room, _, data)| (*room, data[name].as_u64())).collect();
        assert_eq!(rounds, (0..5).map(|round| (Some("lobby"), Some(round))).collect::<Vec<_>>());
    }
    chat.send(&json!({"type": "msg", "payload": {"text": "last"}}));
    chat.wait_until("its own message", |chat| !chat.of("msg").is_empty()).await;
    assert_eq!(chat.of("msg").len(), 1, "chat cannot show messages without a user: {:?}", chat.log);
    elsewhere.barrier().await;
    assert!(received(&elsewhere).is_empty());
    assert_eq!(server.stat("messages_published").await, 5);
    server.stop().await;
}

#[tokio::test]
async fn messages_to_a_user_reach_each_connection_of_the_user_once_and_nobody_else() {
    let server = TestServer::start(&KEY_FLAG);
    // The chat client waits for the join of its user, which is announced only if the user is not a member yet.
    let mut chat = server.chat("alice").await;
    let mut tab = server.connect_to("alice", "lobby").await;
    let mut without_rooms = server.connect("alice").await;
    let mut bob = server.connect_to("bob", "lobby").await;
    let mut status = server.online_status("alice").await;
    let all = [json!({"n": [1, {"deep": "ü"}]}), json!("text"), json!(null), json!(0)];
    for data in &all {
        publish(&server, TO_ALICE, data).await;
    }
    publish(&server, "/v1/users/bob/messages", &json!("for bob")).await;
    for mirror in [&mut tab, &mut without_rooms] {
        mirror.wait_until("all messages", |mirror| received(mirror).len() >= all.len()).await;
        mirror.barrier().await;
        assert_eq!(received(mirror), all.iter().map(|data| (None, None, data)).collect::<Vec<_>>());
        let ts = mirror.since(0, "message", "")[0]["ts"].as_u64().unwrap();
        assert!(ts > 1_700_000_000_000, "ts is not in milliseconds: {ts}");
    }
    bob.wait_until("the message", |bob| !received(bob).is_empty()).await;
    assert_eq!(received(&bob), [(None, None, &json!("for bob"))]);
    // Other protocols have no such message.
    chat.send(&json!({"type": "msg", "payload": {"text": "last"}}));
    chat.wait_until("its own message", |chat| !chat.of("msg").is_empty()).await;
    status.wait_until("the others", |status| status.online.contains("\"bob\"")).await;
    assert!(!format!("{:?} {:?}", chat.log, status.log).contains("deep"));
    server.stop().await;
}

#[tokio::test]
async fn no_client_can_send_a_message_like_one_of_the_application() {
    let server = TestServer::start(&KEY_FLAG);
    let mut observer = server.connect_to("observer", "lobby").await;
    let mut eve = server.connect_to("eve", "lobby").await;
    for without_room in [json!({"type": "message", "data": 1}), json!({"type": "message", "room": null, "data": 1})] {
        assert_eq!(eve.expect_error(&without_room.to_string()).await["code"], "bad_field");
    }
    for user in [json!(null), json!(""), json!("observer")] {
        eve.send(&json!({"type": "message", "room": "lobby", "user": user, "data": 1}));
    }
    observer.wait_until("the messages", |observer| received(observer).len() == 3).await;
    assert!(received(&observer).iter().all(|(room, user, _)| (*room, *user) == (Some("lobby"), Some("eve"))));
    server.stop().await;
}

#[tokio::test]
async fn it_is_no_error_if_nobody_receives_a_message() {
    let server = TestServer::start(&KEY_FLAG);
    publish(&server, TO_LOBBY, &json!(1)).await;
    publish(&server, TO_ALICE, &json!(1)).await;
    // Messages are of their moment: those to alice were for the ticks before she connects.
    let ticks = server.ticks().await;
    while server.ticks().await < ticks + 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.get("/v1/rooms").await.json()["rooms"], json!([]), "the room is not kept");
    let mut alice = server.connect_to("alice", "lobby").await;
    publish(&server, TO_ALICE, &json!(2)).await;
    alice.wait_until("the message", |alice| !received(alice).is_empty()).await;
    assert_eq!(received(&alice), [(None, None, &json!(2))]);
    server.stop().await;
}

#[tokio::test]
async fn invalid_requests_are_refused_and_publish_nothing() {
    let server = TestServer::start(&KEY_FLAG);
    let mut alice = server.connect_to("alice", "lobby").await;
    for path in [TO_LOBBY, TO_ALICE] {
        for body in ["", "1", "[]", "{", "{}", r#"{"Data":1}"#, r#"{"data":}"#, r#"{"data":1}{"data":2}"#, "data=1"] {
            let message = send(&server, path, body).await.error(400);
            assert!(message.contains(r#"{"data":any JSON}"#), "{body}: {message}");
        }
        let deep = format!(r#"{{"data":{}{}}}"#, "[".repeat(8), "]".repeat(8));
        send(&server, path, &deep).await.error(400);
        let too_large = send(&server, path, &json!({"data": data(LONGEST + 1)}).to_string()).await;
        assert!(too_large.error(413).contains("16,384"));
        send(&server, path, &" ".repeat(300_000)).await.error(413);
        assert_eq!(http::request(server.address(), "GET", path, &[], b"").await.status, 405);
    }
    for name in ["%20", "a%00", "%ff", &"x".repeat(129), "", "%E2%80%8B"] {
        for path in [format!("/v1/rooms/{name}/messages"), format!("/v1/users/{name}/messages")] {
            send(&server, &path, r#"{"data":1}"#).await.error(400);
        }
    }
    // Unknown fields are ignored, and of repeated ones the last counts. The limit is on compact JSON.
    let spaces = " ".repeat(20_000);
    let body = format!(r#"{{"data":1,"room":"x","user":"bob",{spaces}"data":{spaces}{}}}"#, data(LONGEST));
    for path in [TO_LOBBY, TO_ALICE] {
        assert_eq!(send(&server, path, &body).await.status, 202);
    }
    alice.wait_until("both messages", |alice| received(alice).len() == 2).await;
    assert!(received(&alice).iter().all(|(_, user, sent)| user.is_none() && **sent == data(LONGEST)));
    server.stop().await;
}

#[tokio::test]
async fn an_api_key_is_needed_in_every_mode() {
    const READ_KEY: &str = "a read key for tests";
    for flags in [&[][..], &["--read-key", READ_KEY], &["--api-key", KEY, "--read-key", READ_KEY], &SECRET_FLAG] {
        let server = TestServer::start(flags);
        for path in [TO_LOBBY, TO_ALICE] {
            let send = async |authorization: &str| {
                let headers = [("authorization", authorization)];
                let headers = if authorization.is_empty() { &headers[..0] } else { &headers };
                http::request(server.address(), "POST", path, headers, br#"{"data":1}"#).await
            };
            assert!(send("").await.error(401).contains("--api-key"), "{flags:?}");
            for wrong in [READ_KEY, "another key", &token("alice", &json!({}))] {
                send(&format!("Bearer {wrong}")).await.error(403);
            }
            let status = send(&format!("Bearer {KEY}")).await.status;
            assert_eq!(status, if flags.contains(&KEY) { 202 } else { 403 }, "{flags:?}");
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn a_room_and_a_user_have_limits_per_tick() {
    let server = TestServer::start(&[&KEY_FLAG[..], &["--tick", "50ms"]].concat());
    let mut alice = server.connect_to("alice", "lobby").await;
    let body = json!({"data": data(LONGEST)}).to_string();
    let accepted = server
        .without_ticks(async || {
            let mut accepted = [0; 2];
            for (path, accepted) in [TO_LOBBY, TO_ALICE].into_iter().zip(&mut accepted) {
                let refused = loop {
                    let answer = send(&server, path, &body).await;
                    if answer.status != 202 {
                        break answer;
                    }
                    *accepted += 1;
                };
                assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
                assert!(refused.error(429).contains("try again"));
            }
            // Others are not affected.
            for path in ["/v1/rooms/kitchen/messages", "/v1/users/bob/messages"] {
                assert_eq!(send(&server, path, &body).await.status, 202);
            }
            accepted
        })
        .await;
    let [to_room, to_user] = accepted.map(|count: usize| count * LONGEST);
    assert!((1_000_000..=1024 * 1024).contains(&to_room) && (110_000..=128 * 1024).contains(&to_user), "{accepted:?}");
    // All accepted messages are delivered. The next tick accepts as many again.
    let all = accepted.iter().sum::<usize>();
    alice.wait_until("all messages", |alice| received(alice).len() == all).await;
    assert_eq!(send(&server, TO_ALICE, &body).await.status, 202);
    alice.wait_until("the next one", |alice| received(alice).len() == all + 1).await;
    server.stop().await;
}

#[tokio::test]
async fn messages_of_members_leave_room_for_those_of_the_application() {
    let server = TestServer::start(&[&KEY_FLAG[..], &["--tick", "1s"]].concat());
    let mut observer = server.observe("observer", "lobby").await;
    let mut flood = Vec::new();
    for number in 0..10 {
        let member = server.connect_to(&format!("member {number}"), "lobby").await;
        member.send_all(&vec![json!({"type": "message", "room": "lobby", "data": data(4000)}); 9]);
        flood.push(member);
    }
    // More than ten ticks carry: some are refused, wherever ticks fall.
    let deadline = Instant::now() + DEADLINE;
    while flood.iter().all(|member| member.since(0, "error", "").is_empty()) {
        assert!(Instant::now() < deadline, "nothing is refused");
        sleep(Duration::from_millis(5)).await;
        flood.iter_mut().for_each(Mirror::apply_pending);
    }
    publish(&server, TO_LOBBY, &data(LONGEST)).await;
    let is_there = |observer: &Mirror| received(observer).iter().any(|(_, user, _)| user.is_none());
    observer.wait_until("the message of the application", is_there).await;
    server.stop().await;
}

#[tokio::test]
async fn permissions_decide_about_messages_to_rooms_and_not_to_users() {
    let server = TestServer::start(&[&SECRET_FLAG[..], &KEY_FLAG].concat());
    let connect = async |user: &str, allow: &[&str]| {
        let token = token(user, &json!({"caps": [{"rooms": ["lobby"], "allow": allow}]}));
        let authorization = format!("Bearer {token}");
        let (mut client, _) =
            RawClient::open_with(server.address(), "/v1/connect", &[("authorization", &authorization)], b"").await;
        client.json_of_type("welcome").await;
        client
    };
    let mut counting = connect("counting", &["count"]).await;
    let mut nothing = connect("nothing", &["publish"]).await;
    let mut observer = connect("observer", &["observe"]).await;
    counting.send_json(&json!({"type": "observe", "room": "lobby", "detail": "count"})).await;
    counting.json_of_type("count").await;
    nothing.send_json(&json!({"type": "observe", "room": "lobby"})).await;
    assert_eq!(nothing.json_of_type("error").await["code"], "forbidden");
    observer.send_json(&json!({"type": "observe", "room": "lobby"})).await;
    observer.json_of_type("snapshot").await;
    publish(&server, TO_LOBBY, &json!("to the room")).await;
    let message = observer.json_of_type("message").await;
    assert_eq!((&message["room"], &message["data"]), (&json!("lobby"), &json!("to the room")));
    // What comes first is the message to the user: the one to the room was not sent.
    for (user, client) in [("counting", &mut counting), ("nothing", &mut nothing), ("observer", &mut observer)] {
        publish(&server, &format!("/v1/users/{user}/messages"), &json!(user)).await;
        let message = client.json_of_type("message").await;
        assert_eq!(message, json!({"type": "message", "data": user, "ts": message["ts"]}));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_slow_client_loses_messages_and_others_do_not() {
    let server = TestServer::start(&[&KEY_FLAG[..], &["--tick", "10ms"]].concat());
    let mut slow = Mirror::connect_with_small_buffer(server.address(), "alice", &[]).await;
    slow.wait_until("the welcome", |slow| !slow.since(0, "welcome", "").is_empty()).await;
    let mut fast = server.connect("alice").await;
    slow.set_reading(false);
    let mut sent = 0;
    while server.stat("deliveries_skipped").await < 5 {
        sent += 1;
        publish(&server, TO_ALICE, &json!([sent, "x".repeat(16_000)])).await;
        fast.wait_until("the message", |fast| received(fast).len() == sent).await;
        assert!(sent < 5000, "no message was skipped");
    }
    slow.set_reading(true);
    slow.barrier().await;
    publish(&server, TO_ALICE, &json!(["last"])).await;
    slow.wait_until("the last message", |slow| received(slow).iter().any(|message| message.2[0] == "last")).await;
    let numbers: Vec<_> = received(&slow).iter().filter_map(|message| message.2[0].as_u64()).collect();
    assert!(numbers.len() <= sent - 5 && numbers.is_sorted_by(|one, next| one < next), "{numbers:?} of {sent}");
    server.stop().await;
}

#[tokio::test]
async fn nothing_follows_the_close_of_a_kicked_user() {
    let server = TestServer::start(&[&KEY_FLAG[..], &["--tick", "200ms"]].concat());
    let mut alice = server.raw("alice").await;
    let (kicked, ()) = tokio::join!(send(&server, "/v1/users/alice/kick", ""), async {
        // Whether the tick comes before or behind it, no frame follows a close frame.
        for number in 0..20 {
            publish(&server, TO_ALICE, &json!(number)).await;
        }
    });
    assert_eq!(kicked.status, 200);
    assert_eq!(alice.wait_for_close().await, Some(1008));
    let mut again = server.connect("alice").await;
    publish(&server, TO_ALICE, &json!("again")).await;
    again.wait_until("the message", |again| !received(again).is_empty()).await;
    server.stop().await;
}
