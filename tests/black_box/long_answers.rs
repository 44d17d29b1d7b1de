//! Long HTTP answers: their length follows the request, and clients that do not read them do not affect others.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::http::{self, request_text};
use crate::common::{DEADLINE, Mirror, RawClient, TestServer};

/// Names of 128 bytes, so that a page of 1,000 members is some 150 KB.
fn long_name(number: usize) -> String {
    format!("{number:0>128}")
}

/// The statuses of these users, with the rooms that the question asks for.
async fn status(server: &TestServer, question: Value) -> Vec<Value> {
    let answer = server.post_json("/v1/users/status", &question).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["users"].as_array().expect("users").clone()
}

#[tokio::test]
async fn a_user_named_many_times_is_answered_once_and_without_rooms() {
    let server = TestServer::start(&[]);
    let rooms: Vec<String> = (0..99).map(long_name).collect();
    let rooms: Vec<&str> = rooms.iter().map(String::as_str).collect();
    let mut alice = Mirror::connect(server.address(), "alice", &rooms[..50]).await;
    for room in &rooms[50..] {
        alice.send(&json!({"type": "join", "room": room}));
    }
    alice.barrier().await;
    let users = vec!["alice"; 1000];
    let answer = server.post_json("/v1/users/status", &json!({"users": users})).await;
    assert_eq!(answer.json()["users"].as_array().map(Vec::len), Some(1));
    assert!(answer.body.len() < 100, "{answer:?}");
    // Each user once, in the order of the first mention.
    let users = status(&server, json!({"users": ["bob", "alice", "bob", "alice", "carol"]})).await;
    let named: Vec<_> = users.iter().map(|user| user["user"].as_str().unwrap_or_default()).collect();
    assert_eq!(named, ["bob", "alice", "carol"]);
    server.stop().await;
}

#[tokio::test]
async fn the_rooms_of_users_are_listed_on_request_in_pages() {
    let server = TestServer::start(&[]);
    let rooms: Vec<String> = (0..25).map(|number| format!("room {number:02} \"ü\"")).collect();
    let mut clients = Vec::new();
    for user in ["alice", "bob"] {
        let mut client = server.connect(user).await;
        for room in rooms.iter().rev() {
            client.send(&json!({"type": "join", "room": room}));
        }
        client.barrier().await;
        clients.push(client);
    }
    for limit in [1, 7, 24, 25, 1000] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let users = status(&server, json!({"users": ["alice", "bob"], "rooms": limit, "after": after})).await;
            let page: Vec<String> = serde_json::from_value(users[0]["rooms"].clone()).expect("names");
            assert_eq!(users[0]["rooms"], users[1]["rooms"]);
            assert!(page.len() <= limit);
            seen.extend(page);
            let Some(next) = users[0].get("next") else { break };
            assert_eq!(next.as_str(), seen.last().map(String::as_str));
            after = next.as_str().expect("a room").to_owned();
        }
        assert_eq!(seen, rooms, "limit {limit}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_answer_lists_at_most_a_thousand_rooms_and_says_where_to_continue() {
    let server = TestServer::start(&[]);
    let mut clients = Vec::new();
    for user in 0..12 {
        let mut client = server.connect(&format!("user-{user:02}")).await;
        for room in 0..99 {
            client.send(&json!({"type": "join", "room": format!("{room:03}"), "observe": false}));
        }
        client.barrier().await;
        clients.push(client);
    }
    let users: Vec<String> = (0..12).map(|user| format!("user-{user:02}")).collect();
    let answer = status(&server, json!({"users": users, "rooms": 1000})).await;
    let listed = |user: &Value| user["rooms"].as_array().expect("rooms").len();
    assert_eq!(answer.iter().map(listed).sum::<usize>(), 1000);
    assert!(answer[..10].iter().all(|user| listed(user) == 99 && user.get("next").is_none()));
    assert_eq!((listed(&answer[10]), &answer[10]["next"]), (10, &json!("009")));
    assert_eq!((listed(&answer[11]), &answer[11]["next"]), (0, &json!("")));
    server.stop().await;
}

#[tokio::test]
async fn clients_that_do_not_read_long_answers_are_dropped_and_nobody_else_is_refused() {
    // Room for some fourteen answers of 150 KB.
    let server = TestServer::start_with(&[], |config| config.limits.max_unread_answer_bytes = 2 << 20);
    let mut members = Vec::new();
    for number in 0..1000 {
        let name = long_name(number);
        server.rest_heartbeat(&name).await;
        members.push(name);
    }
    // Each asks for 60 answers, 9 MB, and reads none. The system keeps some 3 MB of them.
    let ask = request_text("GET", "/v1/rooms/lobby/members", &[], b"");
    let ask = String::from_utf8(ask).expect("text").replace("connection: close\r\n", "").repeat(60);
    let mut silent = Vec::new();
    for _ in 0..40 {
        let mut client = RawClient::with_small_buffer(server.address()).await;
        client.send(ask.as_bytes()).await;
        silent.push(client);
        let page = server.get("/v1/rooms/lobby/members").await;
        assert_eq!(page.status, 200, "{:?}", String::from_utf8_lossy(&page.body));
        assert_eq!(page.json()["members"].as_array().map(Vec::len), Some(1000));
        assert_eq!(server.get("/online_users").await.status, 200);
    }
    assert!(server.stat("answers_dropped").await > 0);
    server.stop().await;
}

#[tokio::test]
async fn a_long_list_of_online_users_is_shared_and_follows_the_room() {
    let server = TestServer::start(&[]);
    let names: Vec<String> = (0..1500).map(|number| format!("user-{number:04}")).collect();
    for names in names.chunks(100) {
        join_all(names.iter().map(|name| server.rest_heartbeat(name))).await;
    }
    let list = async || server.get("/online_users").await.json()["online_users"].clone();
    let expected = json!(names);
    let deadline = Instant::now() + DEADLINE;
    while list().await != expected {
        assert!(Instant::now() < deadline, "the list is not that of the members");
    }
    let lists = join_all((0..20).map(|_| list())).await;
    assert!(lists.iter().all(|list| *list == expected));
    server.rest_heartbeat("late").await;
    while list().await.as_array().and_then(|list| list.first()) != Some(&json!("late")) {
        assert!(Instant::now() < deadline, "the list does not have the last user");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_address_over_its_budget_is_refused_long_answers_and_others_are_not() {
    let server = TestServer::start(&[]);
    // A page of 1,000 members is some 320 KB: quotes are escaped.
    let names: Vec<String> = (0..1000).map(|number| format!("{number:04}{}", "\"".repeat(124))).collect();
    for names in names.chunks(100) {
        join_all(names.iter().map(|name| server.rest_heartbeat(name))).await;
    }
    // HEAD has the price of GET. An address may ask for 64 MiB at once.
    let head = String::from_utf8(request_text("HEAD", "/v1/rooms/lobby/members", &[], b"")).expect("text");
    let batch = head.replace("connection: close\r\n", "").repeat(99) + &head;
    let page = request_text("GET", "/v1/rooms/lobby/members", &[], b"");
    server
        .without_ticks(async || {
            let mut refused = false;
            for _ in 0..100 {
                let answers = http::exchange_from("127.0.0.2", server.address(), batch.as_bytes()).await;
                refused = String::from_utf8_lossy(&answers).contains("HTTP/1.1 429 ");
                if refused {
                    break;
                }
            }
            assert!(refused);
            let response = http::request_from("127.0.0.2", server.address(), &page).await;
            assert_eq!(response.json()["error"]["code"], "too_many_requests");
            response.error(429);
            assert!(response.header("retry-after").is_some());
            assert_eq!(http::request_from("127.0.0.3", server.address(), &page).await.status, 200);
            assert_eq!(server.get("/v1/rooms/lobby/members").await.status, 200);
        })
        .await;
    assert!(server.stat("requests_refused").await > 0);
    server.stop().await;
}

#[tokio::test]
async fn metrics_and_files_are_charged_to_the_address() {
    // 16 KB at once.
    let server = TestServer::start(&["--work-per-address", "1K"]);
    let get = async |from: &str, path: &str| {
        http::request_from(from, server.address(), &request_text("GET", path, &[], b"")).await
    };
    server
        .without_ticks(async || {
            for (from, path) in [("127.0.0.2", "/metrics"), ("127.0.0.3", "/v1/stats"), ("127.0.0.4", "/presence.js")] {
                let mut answers = 0;
                while get(from, path).await.status == 200 {
                    answers += 1;
                    assert!(answers < 50, "{path} is never refused");
                }
                assert!(answers > 0, "{path} is refused although nothing was spent");
                for path in ["/metrics", "/v1/stats", "/presence.js", "/"] {
                    let refused = get(from, path).await;
                    assert_eq!(refused.json()["error"]["code"], "too_many_requests", "{path}");
                    refused.error(429);
                    assert!(refused.header("retry-after").is_some(), "{path}");
                }
                assert_eq!(get(from, "/livez").await.status, 200);
            }
            assert_eq!(get("127.0.0.1", "/metrics").await.status, 200, "programs on this machine have no budget");
        })
        .await;
    server.stop().await;
}

#[tokio::test]
async fn short_answers_pass_while_long_ones_have_no_room() {
    let server = TestServer::start_with(&[], |config| config.limits.max_unread_answer_bytes = 20_000);
    for number in 0..200 {
        server.rest_heartbeat(&long_name(number)).await;
    }
    let long = server.get("/v1/rooms/lobby/members").await;
    assert_eq!(long.status, 503, "longer than all answers may be together");
    assert!(long.header("retry-after").is_some());
    assert_eq!(server.get("/v1/rooms/lobby/members?limit=50").await.status, 200);
    assert_eq!(http::request(server.address(), "GET", "/livez", &[], b"").await.status, 200);
    server.stop().await;
}
