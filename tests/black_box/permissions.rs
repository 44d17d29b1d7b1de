//! What a credential allows: every command of every protocol and every route of the API against every action, watched
//! users, lists, and visitors without a credential.

use serde_json::{Value, json};

use crate::common::frame::{CLOSE, TEXT};
use crate::common::http::{self, Response};
use crate::common::token::{SECRET_FLAG, subprotocols, token};
use crate::common::{RawClient, TestServer};

const ACTIONS: [&str; 4] = ["join", "observe", "count", "publish"];

/// A connection of a client that sends its token in `Authorization`.
async fn open(server: &TestServer, path: &str, token: &str) -> RawClient {
    let authorization = format!("Bearer {token}");
    RawClient::open_with(server.address(), path, &[("authorization", &authorization)], b"").await.0
}

/// The first messages up to the close frame, whose code and reason come last, or up to a message of a type.
async fn read_until(client: &mut RawClient, kind: &str) -> Result<Value, (u16, String)> {
    loop {
        let frame = client.answer().await;
        if frame.opcode == CLOSE {
            return Err((frame.close_code().unwrap_or(0), String::from_utf8_lossy(&frame.payload[2..]).into_owned()));
        }
        assert_eq!(frame.opcode, TEXT);
        let message: Value = serde_json::from_slice(&frame.payload).unwrap();
        if message["type"] == kind {
            return Ok(message);
        }
    }
}

/// Sends a native command. Returns the code of the error that answers it, if one does.
async fn error_of(client: &mut RawClient, command: &Value) -> Option<String> {
    client.send_json(command).await;
    client.send_json(&json!({"type": "heartbeat", "ack": true})).await;
    let mut code = None;
    loop {
        let message = client.json().await;
        match message["type"].as_str() {
            Some("error") => code = message["code"].as_str().map(str::to_owned),
            Some("heartbeat_ack") => return code,
            _ => {}
        }
    }
}

async fn request(server: &TestServer, method: &str, path: &str, token: &str, body: &Value) -> Response {
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", &*authorization), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    http::request(server.address(), method, path, &headers, body.as_bytes()).await
}

async fn get(server: &TestServer, path: &str, token: &str) -> Response {
    request(server, "GET", path, token, &Value::Null).await
}

/// All sets of actions, each with a token of the user for the rooms `r` and `lobby`.
fn every_set() -> impl Iterator<Item = (Vec<&'static str>, String)> {
    (0..1 << ACTIONS.len()).map(|bits| {
        let allow: Vec<_> = (0..ACTIONS.len()).filter(|at| bits >> at & 1 == 1).map(|at| ACTIONS[at]).collect();
        let token = token("u", &json!({"caps": [{"rooms": ["r", "lobby"], "allow": allow}]}));
        (allow, token)
    })
}

fn has(allow: &[&str], action: &str) -> bool {
    allow.contains(&action) || action == "count" && allow.contains(&"observe")
}

#[tokio::test]
async fn every_native_command_needs_its_actions() {
    let server = TestServer::start(&SECRET_FLAG);
    let commands = [
        (json!({"type": "join", "room": "r", "observe": false}), &["join"][..]),
        (json!({"type": "state", "room": "r", "state": {"a": 1}}), &["join"]),
        (json!({"type": "message", "room": "r", "data": 1}), &["join", "publish"]),
        (json!({"type": "observe", "room": "r"}), &["observe"]),
        (json!({"type": "resync", "room": "r"}), &["observe"]),
        (json!({"type": "observe", "room": "r", "resume": {"epoch": "e", "seq": 1}}), &["observe"]),
        (json!({"type": "observe", "room": "r", "detail": "count"}), &["count"]),
        (json!({"type": "join", "room": "r"}), &["join", "observe"]),
        (json!({"type": "join", "room": "r", "detail": "count"}), &["join", "count"]),
        (json!({"type": "unobserve", "room": "r"}), &[]),
        (json!({"type": "leave", "room": "r"}), &[]),
        (json!({"type": "unwatch", "users": ["bob"]}), &[]),
    ];
    for (allow, token) in every_set() {
        let mut client = open(&server, "/v1/connect", &token).await;
        client.json_of_type("welcome").await;
        for (command, needed) in &commands {
            let allowed = needed.iter().all(|action| has(&allow, action));
            let code = error_of(&mut client, command).await;
            assert_eq!(code.as_deref() != Some("forbidden"), allowed, "{command} with {allow:?}: {code:?}");
        }
        let watch = json!({"type": "watch", "users": ["bob"]});
        assert_eq!(error_of(&mut client, &watch).await.as_deref(), Some("forbidden"), "caps without watch");
        let elsewhere = json!({"type": "join", "room": "R"});
        assert_eq!(error_of(&mut client, &elsewhere).await.as_deref(), Some("forbidden"));
    }
    server.stop().await;
}

#[tokio::test]
async fn older_protocols_need_join_and_observe_for_the_lobby() {
    let server = TestServer::start(&SECRET_FLAG);
    let (mut handshakes, mut messages) = (0, 0);
    for (allow, token) in every_set() {
        let missing = ["join", "observe"].into_iter().find(|action| !has(&allow, action));
        let refused = missing.map(|action| (1008, format!("your credential does not allow `{action}` in `lobby`")));
        for (path, first) in [("/ws/u", "online_users"), ("/ws-online-status?userId=u", "CONNECTION_ESTABLISHED")] {
            let answer = read_until(&mut open(&server, path, &token).await, first).await;
            assert_eq!(answer.err(), refused, "{path} with {allow:?}");
            handshakes += u64::from(refused.is_some());
        }
        messages += u64::from(refused.is_some() || !has(&allow, "publish"));
        let mut chat = open(&server, "/ws", &token).await;
        chat.send_json(&json!({"type": "join", "payload": {"user": "u"}})).await;
        chat.send_json(&json!({"type": "msg", "payload": {"text": "hello"}})).await;
        let wanted = if has(&allow, "publish") { "msg" } else { "error" };
        match read_until(&mut chat, wanted).await {
            Err(closed) => assert_eq!(Some(closed), refused, "{allow:?}"),
            Ok(message) => {
                assert_eq!(refused, None, "{allow:?}");
                let forbidden = "your credential does not allow `publish` in `lobby`";
                assert!(wanted == "msg" || message["message"] == forbidden, "{message}");
            }
        }
    }
    let counted = (server.stat("handshakes_refused").await, server.stat("messages_refused").await);
    assert_eq!(counted, (handshakes, messages));
    server.stop().await;
}

#[tokio::test]
async fn every_route_needs_its_action() {
    let server = TestServer::start(&SECRET_FLAG);
    let all = token("owner", &json!({}));
    let mut owner = open(&server, "/v1/connect?room=r", &all).await;
    owner.json_of_type("snapshot").await;
    for (allow, token) in every_set() {
        for (path, action) in
            [("/v1/rooms/r/members", "observe"), ("/v1/rooms/r/count", "count"), ("/online_users", "observe")]
        {
            let status = if has(&allow, action) { 200 } else { 403 };
            assert_eq!(get(&server, path, &token).await.status, status, "{path} with {allow:?}");
        }
        let status = if has(&allow, "join") { 200 } else { 403 };
        let heartbeat = request(&server, "POST", "/heartbeat", &token, &json!({"user_id": "u"})).await;
        assert_eq!(heartbeat.status, status, "{allow:?}: {heartbeat:?}");
        let rooms = get(&server, "/v1/rooms", &token).await.json();
        let listed = rooms["rooms"].as_array().unwrap().iter().any(|room| room["room"] == "r");
        assert_eq!(listed, has(&allow, "observe"), "{allow:?}: {rooms}");
        assert_eq!(get(&server, "/v1/rooms/R/count", &token).await.status, 403);
    }
    for path in ["/v1/rooms", "/v1/rooms/r/members", "/v1/rooms/r/count", "/online_users"] {
        assert_eq!(server.get(path).await.status, 401, "{path}");
        assert_eq!(get(&server, path, "garbage").await.status, 401, "{path}");
        assert_eq!(get(&server, path, &all).await.status, 200, "{path}");
    }
    for (user, status) in [("other", 403), ("owner", 200)] {
        let answer = request(&server, "POST", "/heartbeat", &all, &json!({ "user_id": user })).await;
        assert_eq!(answer.status, status, "{user}");
    }
    assert_eq!(server.post_form("/heartbeat", "user_id=owner").await.status, 401);
    server.stop().await;
}

#[tokio::test]
async fn a_chat_client_must_join_as_the_user_of_its_token_and_in_time() {
    let server = TestServer::start(&[&SECRET_FLAG[..], &["--header-timeout", "2s"]].concat());
    let token = token("alice", &json!({}));
    let mut other = open(&server, "/ws", &token).await;
    other.send_json(&json!({"type": "join", "payload": {"user": "bob"}})).await;
    let (code, reason) = read_until(&mut other, "join").await.unwrap_err();
    assert_eq!((code, &*reason), (1008, "user is not the one of your credential"));
    let mut silent = open(&server, "/ws", &token).await;
    assert_eq!(silent.wait_for_close().await, Some(1008), "it has a user and has not joined");
    let mut joined = open(&server, "/ws", &token).await;
    joined.send_json(&json!({"type": "join", "payload": {"user": "alice"}})).await;
    assert_eq!(read_until(&mut joined, "join").await.unwrap()["payload"]["user"], "alice");
    server.stop().await;
}

/// The status of `bob` in the next status message that satisfies the condition.
async fn status_of_bob(client: &mut RawClient, is_it: impl Fn(&Value) -> bool) -> Value {
    loop {
        let message = client.json_of_type("status").await;
        let bob = message["users"].as_array().unwrap().iter().find(|user| user["user"] == "bob").cloned();
        if let Some(bob) = bob.filter(|bob| is_it(bob)) {
            return bob;
        }
    }
}

#[tokio::test]
async fn a_watched_state_comes_only_from_rooms_that_the_watcher_may_observe() {
    let server = TestServer::start(&SECRET_FLAG);
    let watch = json!({"type": "watch", "users": ["bob"]});
    let mut all = open(&server, "/v1/connect", &token("all", &json!({}))).await;
    all.send_json(&watch).await;
    let caps = json!([{"rooms": ["open-*"], "allow": ["observe"]}, {"rooms": ["secret"], "allow": ["join", "count"]}]);
    let some = token("some", &json!({"caps": caps, "watch": ["b*"]}));
    let mut some = open(&server, "/v1/connect", &some).await;
    some.send_json(&watch).await;
    status_of_bob(&mut some, |bob| bob["online"] == false).await;

    let mut bob = open(&server, "/v1/connect", &token("bob", &json!({}))).await;
    bob.send_json(&json!({"type": "join", "room": "secret", "state": {"at": "secret"}})).await;
    let seen = status_of_bob(&mut some, |bob| bob["online"] == true).await;
    assert_eq!(seen["state"], Value::Null, "online, but no state");
    status_of_bob(&mut all, |bob| bob["state"]["at"] == "secret").await;

    bob.send_json(&json!({"type": "join", "room": "open-1", "state": {"at": "open"}})).await;
    assert_eq!(status_of_bob(&mut some, |_| true).await["state"]["at"], "open");
    // Only clients that may see the hidden room are sent its changes.
    bob.send_json(&json!({"type": "state", "room": "secret", "state": {"at": "secret 2"}})).await;
    status_of_bob(&mut all, |bob| bob["state"]["at"] == "secret 2").await;
    bob.send_json(&json!({"type": "state", "room": "open-1", "state": {"at": "open 2"}})).await;
    let next = status_of_bob(&mut some, |_| true).await;
    assert_eq!(next["state"]["at"], "open 2", "nothing in between");
    bob.send_json(&json!({"type": "leave", "room": "open-1"})).await;
    assert_eq!(status_of_bob(&mut some, |_| true).await["state"], Value::Null);
    // Asking again shows the same.
    some.send_json(&watch).await;
    let again = status_of_bob(&mut some, |_| true).await;
    assert_eq!((&again["online"], &again["state"]), (&json!(true), &Value::Null));
    server.stop().await;
}

#[tokio::test]
async fn lists_have_only_what_the_token_may_see_and_read_a_fixed_number_per_page() {
    let server = TestServer::start(&SECRET_FLAG);
    let mut bob = open(&server, "/v1/connect", &token("bob", &json!({}))).await;
    let rooms: Vec<String> =
        (0..10).map(|number| format!("{number}-{}", if number % 5 == 4 { "open" } else { "hidden" })).collect();
    for room in &rooms {
        bob.send_json(&json!({"type": "join", "room": room})).await;
        bob.json_of_type("snapshot").await;
    }
    let caps = json!([{"rooms": ["*-open"], "allow": ["observe"]}]);
    let some = token("some", &json!({"caps": caps, "watch": ["bob"]}));
    let open_rooms = json!(["4-open", "9-open"]);

    let (mut found, mut pages, mut next) = (Vec::new(), 0, String::new());
    loop {
        let path = format!("/v1/rooms?limit=3&after={}", next.replace('\t', "%09"));
        let page = get(&server, &path, &some).await.json();
        found.extend(page["rooms"].as_array().unwrap().iter().map(|room| room["room"].clone()));
        pages += 1;
        let Some(after) = page["next"].as_str() else { break };
        assert!(!after.contains("hidden"), "{after}");
        next = after.to_owned();
    }
    assert_eq!((Value::from(found), pages), (open_rooms.clone(), 4), "ten rooms, three per page");

    let (mut found, mut pages, mut after) = (Vec::new(), 0, Value::Null);
    loop {
        let mut question = json!({"users": ["bob", "carol"], "rooms": 3});
        if !after.is_null() {
            question["after"] = after.clone();
        }
        let answer = request(&server, "POST", "/v1/users/status", &some, &question).await.json();
        let users = answer["users"].as_array().unwrap();
        assert_eq!(users.len(), 1, "carol is not in `watch`: {answer}");
        assert_eq!((&users[0]["user"], &users[0]["online"]), (&json!("bob"), &json!(true)));
        found.extend(users[0]["rooms"].as_array().unwrap().iter().cloned());
        pages += 1;
        after = users[0]["next"].clone();
        if after.is_null() {
            break;
        }
        assert!(!after.as_str().unwrap().contains("hidden"), "{after}");
    }
    assert_eq!((Value::from(found), pages), (open_rooms, 4));
    server.stop().await;
}

#[tokio::test]
async fn visitors_without_a_credential_read_the_rooms_of_their_rules_and_nothing_else() {
    let rules = ["--anonymous", "count:page-*", "--anonymous", "observe:news"];
    let server = TestServer::start(&[&SECRET_FLAG[..], &rules].concat());
    let alice = token("alice", &json!({}));
    let mut alice = open(&server, "/v1/connect?room=news&room=page-1", &alice).await;
    let mut visitor = RawClient::open(server.address(), "/v1/connect").await;
    let welcome = visitor.json_of_type("welcome").await;
    assert!(welcome.get("user").is_none(), "{welcome}");
    for (command, code) in [
        (json!({"type": "observe", "room": "news"}), None),
        (json!({"type": "resync", "room": "news"}), None),
        (json!({"type": "observe", "room": "page-1", "detail": "count"}), None),
        (json!({"type": "observe", "room": "page-1"}), Some("forbidden")),
        (json!({"type": "observe", "room": "lobby", "detail": "count"}), Some("forbidden")),
        (json!({"type": "join", "room": "news"}), Some("forbidden")),
        (json!({"type": "state", "room": "news", "state": {}}), Some("forbidden")),
        (json!({"type": "message", "room": "news", "data": 1}), Some("forbidden")),
        (json!({"type": "watch", "users": ["alice"]}), Some("forbidden")),
    ] {
        assert_eq!(error_of(&mut visitor, &command).await.as_deref(), code, "{command}");
    }
    // Messages of the room that it observes, and none of the room that it counts.
    alice.send_json(&json!({"type": "message", "room": "page-1", "data": "hidden"})).await;
    alice.send_json(&json!({"type": "message", "room": "news", "data": "shown"})).await;
    assert_eq!(visitor.json_of_type("message").await["data"], "shown");

    for (path, status) in [
        ("/v1/rooms/news/members", 200),
        ("/v1/rooms/news/count", 200),
        ("/v1/rooms/page-1/count", 200),
        ("/v1/rooms/page-1/members", 403),
        ("/v1/rooms/lobby/count", 403),
        ("/online_users", 403),
        ("/v1/rooms", 401),
    ] {
        assert_eq!(server.get(path).await.status, status, "{path}");
    }
    assert_eq!(server.post_json("/v1/users/status", &json!({"users": ["alice"]})).await.status, 401);
    assert_eq!(server.post_form("/heartbeat", "user_id=visitor").await.status, 401);
    for path in ["/ws/visitor", "/ws-online-status?userId=visitor", "/ws", "/v1/connect?user=visitor"] {
        let mut client = RawClient::open(server.address(), path).await;
        assert_eq!(client.wait_for_close().await, Some(1008), "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_bad_credential_is_never_anonymous() {
    let server = TestServer::start(&[&SECRET_FLAG[..], &["--anonymous", "observe:*"]].concat());
    let bad = token("alice", &json!({"exp": 1000}));
    let offered = subprotocols(&bad);
    let (mut client, _) =
        RawClient::open_with(server.address(), "/v1/connect", &[("sec-websocket-protocol", &offered)], b"").await;
    assert_eq!(client.wait_for_close().await, Some(4401));
    for bad in [&*bad, "garbage", ""] {
        let status = get(&server, "/v1/rooms/lobby/members", bad).await.status;
        assert!(matches!(status, 400 | 401), "{bad:?}: {status}");
    }
    assert_eq!(server.get("/v1/rooms/lobby/members").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn silent_visitors_are_pinged_and_disconnected_and_a_drain_ends_them() {
    let flags = [&SECRET_FLAG[..], &["--anonymous", "observe:*", "--ttl", "2s"]].concat();
    let server = TestServer::start(&flags);
    let mut silent = RawClient::open(server.address(), "/v1/connect").await;
    silent.json_of_type("welcome").await;
    silent.send_json(&json!({"type": "observe", "room": "news"})).await;
    silent.read_to_end().await;
    let mut alive = RawClient::open(server.address(), "/v1/connect").await;
    assert!(alive.is_served().await);
    let (ended, closed) = tokio::join!(server.stop(), alive.wait_for_close());
    assert_eq!((ended, closed), ((), Some(1012)));
}
