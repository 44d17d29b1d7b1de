//! The online-users protocol over WebSocket (`/ws/{user_id}`) and over REST (`/heartbeat`, `/online_users`). It shares
//! the lobby with all other protocols. Each test checks one rule.

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use crate::common::{ONE_SECOND_TTL_FLAG, RawClient, TestServer, frame};

#[tokio::test]
async fn all_clients_receive_the_list_on_connect_and_on_each_change() {
    let server = TestServer::start(&[]);
    let mut alice = server.online_users("alice").await;
    alice.wait_until("a list with only alice", |alice| alice.users == ["alice"]).await;
    let mut carol = server.online_users("carol").await;
    let mut bob = server.online_users("bob").await;
    for list in [&mut alice, &mut bob, &mut carol] {
        list.wait_until("all three", |list| list.users == ["alice", "bob", "carol"]).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn changes_within_one_tick_are_one_list() {
    let server = TestServer::start(&["--tick", "400ms"]);
    let mut alice = server.online_users("alice").await;
    let mut pulse = server.connect_to("pulse", "lobby").await;
    alice.wait_until("the pulse", |alice| alice.users == ["alice", "pulse"]).await;
    for round in 0..100 {
        // The four heartbeats are sent right after a tick, so that all are handled before the next tick. If a tick
        // falls between, the test tries again.
        pulse.barrier().await;
        let (before, ticks) = (alice.lists, server.ticks().await);
        let users: Vec<String> = (0..4).map(|n| format!("user-{round}-{n}")).collect();
        join_all(users.iter().map(|user| server.rest_heartbeat(user))).await;
        let passed = server.ticks().await - ticks;
        alice.wait_until("all four users", |alice| users.iter().all(|user| alice.has(user))).await;
        if passed == 1 {
            assert_eq!(alice.lists, before + 1);
            return server.stop().await;
        }
    }
    panic!("the heartbeats spanned several ticks in every attempt");
}

#[tokio::test]
async fn every_heartbeat_is_acknowledged() {
    let server = TestServer::start(&[]);
    let mut alice = server.online_users("alice").await;
    for _ in 0..5 {
        alice.send("heartbeat");
    }
    alice.wait_until("five acknowledgements", |alice| alice.acknowledged == 5).await;
    assert_eq!(alice.errors, 0);
    server.stop().await;
}

#[tokio::test]
async fn any_other_text_is_answered_with_an_error() {
    let server = TestServer::start(&[]);
    let mut alice = server.online_users("alice").await;
    let cases = ["", "hello", "HEARTBEAT", "heartbeat ", "\"heartbeat\"", "{\"type\":\"heartbeat\"}", "\u{0}", "😀"];
    for (sent, text) in cases.iter().enumerate() {
        alice.send(text);
        alice.wait_until("the error", |alice| alice.errors == sent + 1).await;
    }
    alice.heartbeat().await;
    assert_eq!(alice.acknowledged, 1, "errors are not acknowledged");
    server.stop().await;
}

#[tokio::test]
async fn answers_have_the_documented_bytes() {
    let server = TestServer::start(&[]);
    let mut alice = RawClient::open(server.address(), "/ws/alice").await;
    alice.send_frame(&crate::common::Frame::text("heartbeat")).await;
    alice.send_frame(&crate::common::Frame::text("nonsense")).await;
    let mut texts = Vec::new();
    while texts.len() < 3 {
        let frame = alice.answer().await;
        assert_eq!(frame.opcode, frame::TEXT);
        texts.push(String::from_utf8(frame.payload).expect("text"));
    }
    texts.sort();
    let expected = [
        r#"{"type": "error", "message": "Unknown message"}"#,
        r#"{"type": "heartbeat_ack"}"#,
        r#"{"type": "online_users", "users": ["alice"]}"#,
    ];
    assert_eq!(texts, expected);
    server.stop().await;
}

#[tokio::test]
async fn the_user_id_is_percent_decoded_and_checked() {
    let server = TestServer::start(&[]);
    let mut decoded = server.online_users("a/b \"ü\" 😀").await;
    decoded.wait_until("the decoded user id", |decoded| decoded.users == ["a/b \"ü\" 😀"]).await;
    let long = "x".repeat(129);
    for path in ["/ws/a%00b", "/ws/a%0Ab", "/ws/%FF", "/ws/", &format!("/ws/{long}")] {
        let response = crate::common::raw::refused_upgrade(server.address(), path, &[]).await;
        // The server may treat `/ws/` as an unknown path or as an empty id.
        let status = if path == "/ws/" { response.status } else { 400 };
        assert!(status == 400 || status == 404, "{path}: {response:?}");
        response.error(status);
    }
    server.stop().await;
}

#[tokio::test]
async fn binary_messages_close_with_1003() {
    let server = TestServer::start(&[]);
    let mut alice = RawClient::open(server.address(), "/ws/alice").await;
    alice.send_frame(&crate::common::Frame::new(frame::BINARY, "heartbeat")).await;
    assert_eq!(alice.wait_for_close().await, Some(1003));
    server.stop().await;
}

#[tokio::test]
async fn a_user_leaves_without_heartbeats_and_rejoins_with_the_next() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut observer = server.observe("observer", "lobby").await;
    // The library answers pings, but pongs are not heartbeats.
    let mut alice = server.online_users("alice").await;
    observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
    observer.wait_until("the leave", |observer| !observer.has("lobby", "alice")).await;
    assert_eq!(observer.reason("lobby", "alice").as_deref(), Some("timeout"));
    alice.wait_until("the empty list", |alice| alice.users.is_empty()).await;
    // The client still receives lists while its user is offline.
    let bob = server.connect_to("bob", "lobby").await;
    alice.wait_until("bob", |alice| alice.users == ["bob"]).await;
    alice.heartbeat().await;
    alice.wait_until("alice again", |alice| alice.users == ["alice", "bob"]).await;
    drop(bob);
    server.stop().await;
}

#[tokio::test]
async fn heartbeats_keep_a_user_online() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut observer = server.observe("observer", "lobby").await;
    let mut alice = server.online_users("alice").await;
    observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
    // A heartbeat every fifth of a lease, for three leases.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        alice.heartbeat().await;
        sleep(Duration::from_millis(200)).await;
    }
    observer.barrier().await;
    assert_eq!(observer.room("lobby").diffs, 1, "alice must join once and not leave");
    server.stop().await;
}

#[tokio::test]
async fn closing_keeps_the_user_online_until_the_lease_ends() {
    // The lease is longer than the test: alice is still online after a clean close.
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "lobby").await;
    let mut alice = server.online_users("alice").await;
    observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
    alice.close(1000);
    alice.wait_until("the end", |alice| alice.ended).await;
    observer.barrier().await;
    assert!(observer.has("lobby", "alice"));
    server.stop().await;
    // With a short lease the user leaves.
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut observer = server.observe("observer", "lobby").await;
    let alice = server.online_users("alice").await;
    observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
    alice.close(1000);
    observer.wait_until("the leave", |observer| !observer.has("lobby", "alice")).await;
    assert_eq!(observer.reason("lobby", "alice").as_deref(), Some("timeout"));
    server.stop().await;
}

#[tokio::test]
async fn a_rest_heartbeat_is_a_form_or_json() {
    let server = TestServer::start(&[]);
    let success = json!({"status": "success"});
    let answer = server.post_form("/heartbeat", "user_id=form+u%C3%BCser&other=1").await;
    assert_eq!((answer.status, answer.json()), (200, success.clone()));
    let answer = server.post_json("/heartbeat", &json!({"user_id": "json \"user\"", "x": [1]})).await;
    assert_eq!((answer.status, answer.json()), (200, success.clone()));
    let headers = [("content-type", "Application/JSON; charset=utf-8")];
    let body = br#"{"user_id":"charset"}"#;
    let answer = crate::common::http::request(server.address(), "POST", "/heartbeat", &headers, body).await;
    assert_eq!((answer.status, answer.json()), (200, success));
    let users = server.get("/online_users").await.json();
    assert_eq!(users, json!({"online_users": ["charset", "form uüser", "json \"user\""]}));
    server.stop().await;
}

#[tokio::test]
async fn online_users_contains_a_user_as_soon_as_its_heartbeat_is_answered() {
    let server = TestServer::start(&["--tick", "200ms"]);
    assert_eq!(server.get("/online_users").await.json(), json!({"online_users": []}));
    for n in (0..8).rev() {
        let user = format!("user-{n:02}");
        server.rest_heartbeat(&user).await;
        let users = server.get("/online_users").await.json();
        // The newest user sorts first, and the test did not wait for a tick.
        assert_eq!(users["online_users"][0], user.as_str(), "{users}");
    }
    server.stop().await;
}

#[tokio::test]
async fn online_users_contains_the_user_of_two_concurrent_heartbeats_after_the_first_answer() {
    let server = TestServer::start(&["--tick", "200ms"]);
    let send_heartbeat_and_check_list = async |user: &str| {
        server.rest_heartbeat(user).await;
        let users = server.get("/online_users").await.json();
        let listed = users["online_users"].as_array().expect("a list");
        assert!(
            listed.contains(&json!(user)),
            "the heartbeat of {user} was answered, but the list lacks the user: {users}"
        );
    };
    let users: Vec<String> = (0..10).map(|n| format!("user-{n}")).collect();
    join_all(users.iter().chain(&users).map(|user| send_heartbeat_and_check_list(user))).await;
    server.stop().await;
}

#[tokio::test]
async fn a_rest_user_leaves_when_the_lease_ends() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut observer = server.observe("observer", "lobby").await;
    server.rest_heartbeat("alice").await;
    observer.wait_until("alice", |observer| observer.has("lobby", "alice")).await;
    observer.wait_until("the leave", |observer| !observer.has("lobby", "alice")).await;
    assert_eq!(observer.reason("lobby", "alice").as_deref(), Some("timeout"));
    assert_eq!(server.get("/online_users").await.json(), json!({"online_users": []}));
    server.stop().await;
}

#[tokio::test]
async fn rest_heartbeats_keep_a_user_online() {
    let server = TestServer::start(&ONE_SECOND_TTL_FLAG);
    let mut observer = server.observe("observer", "lobby").await;
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        server.rest_heartbeat("alice").await;
        sleep(Duration::from_millis(200)).await;
    }
    observer.barrier().await;
    assert_eq!(observer.room("lobby").diffs, 1, "alice must join once and not leave");
    server.stop().await;
}

#[tokio::test]
async fn a_missing_or_bad_user_id_is_422() {
    let server = TestServer::start(&[]);
    let long = "x".repeat(129);
    let too_long = format!("user_id={long}");
    for body in ["", "user=alice", "user_id=", "user_id", "user_id=a%00b", "user_id=%FF", &too_long] {
        server.post_form("/heartbeat", body).await.error(422);
    }
    for body in [
        json!({}),
        json!([]),
        json!("alice"),
        json!({"user_id": true}),
        json!({"user_id": 1.5}),
        json!({"user_id": ["alice"]}),
        json!({"user_id": null}),
        json!({"user_id": ""}),
        json!({"user_id": "a\u{0}b"}),
        json!({"user_id": long}),
    ] {
        server.post_json("/heartbeat", &body).await.error(422);
    }
    let headers = [("content-type", "application/json")];
    for body in [&b"{"[..], b"", b"\xFF\xFE", b"{\"user_id\":\"\xFF\"}"] {
        let path = "/heartbeat";
        crate::common::http::request(server.address(), "POST", path, &headers, body).await.error(422);
    }
    assert_eq!(server.get("/online_users").await.json(), json!({"online_users": []}));
    server.stop().await;
}

#[tokio::test]
async fn all_protocols_share_the_lobby() {
    let server = TestServer::start(&[]);
    let mut native = server.connect_to("native", "lobby").await;
    let mut list = server.online_users("list").await;
    server.rest_heartbeat("rest").await;
    let everyone = ["list", "native", "rest"];
    list.wait_until("all users", |list| list.users == everyone).await;
    native.wait_until("all users", |native| native.members("lobby").len() == 3).await;
    assert_eq!(server.get("/online_users").await.json()["online_users"], json!(everyone));
    assert_eq!(server.members("lobby").await, native.members("lobby"));
    // Protocols without rooms do not see other rooms.
    let _elsewhere = server.connect_to("elsewhere", "other").await;
    native.barrier().await;
    assert_eq!(server.get("/online_users").await.json()["online_users"], json!(everyone));
    assert!(!list.has("elsewhere"));
    server.stop().await;
}

#[tokio::test]
async fn a_user_of_several_protocols_is_one_member() {
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "lobby").await;
    let native = server.connect_to("alice", "lobby").await;
    let mut list = server.online_users("alice").await;
    server.rest_heartbeat("alice").await;
    observer.barrier().await;
    list.wait_until("alice once", |list| list.users == ["alice"]).await;
    assert_eq!(server.count("lobby").await, 1);
    native.send(&json!({"type": "leave", "room": "lobby"}));
    observer.barrier().await;
    assert_eq!(server.get("/online_users").await.json()["online_users"], json!(["alice"]));
    assert_eq!(observer.room("lobby").diffs, 1, "alice must join once and not leave");
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_method_is_405_and_allow_names_the_right_one() {
    let server = TestServer::start(&[]);
    let get = server.get("/heartbeat").await;
    get.error(405);
    assert_eq!(get.header("allow"), Some("POST, OPTIONS"));
    let post = server.post_form("/online_users", "user_id=alice").await;
    post.error(405);
    assert!(post.header("allow").is_some_and(|allow| allow.contains("GET")), "{post:?}");
    server.stop().await;
}
