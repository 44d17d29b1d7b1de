//! The HTTP API and the common rules of HTTP: answers, errors and limits. Each test checks one rule.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::{DEADLINE, Mirror, TestServer, encoded, http, room};

#[tokio::test]
async fn members_carry_states_and_the_epoch_and_seq_of_the_room() {
    let server = TestServer::start(&[]);
    let mut alice = server.connect("alice").await;
    alice.send(&json!({"type": "join", "room": "lobby", "state": {"k": [1, "ü"]}}));
    let _bob = server.connect_to("bob", "lobby").await;
    alice.wait_until("both members", |alice| alice.members("lobby").len() == 2).await;
    let answer = server.get("/v1/rooms/lobby/members").await.json();
    room::assert_keys(&answer, &["room", "epoch", "seq", "count", "observers", "members"], &[]);
    assert_eq!(answer["room"], "lobby");
    assert_eq!(answer["epoch"], alice.room("lobby").epoch.as_str());
    assert_eq!(answer["seq"], alice.room("lobby").seq);
    assert_eq!(answer["count"], 2);
    let members = json!([{"user": "alice", "state": {"k": [1, "ü"]}}, {"user": "bob"}]);
    assert_eq!(answer["members"], members);
    server.stop().await;
}

#[tokio::test]
async fn members_are_paged_by_limit_and_after() {
    let server = TestServer::start(&[]);
    let users: Vec<String> = (0..25).map(|n| format!("user {n:02} ü")).collect();
    for user in users.iter().rev() {
        server.rest_heartbeat(user).await;
    }
    for limit in [1, 7, 24, 25, 26, 1000] {
        let mut seen = Vec::new();
        let mut path = format!("/v1/rooms/lobby/members?limit={limit}");
        loop {
            let page = server.get(&path).await.json();
            assert_eq!(page["count"], 25, "count must be that of the whole room");
            let members = page["members"].as_array().expect("members");
            assert!(members.len() <= limit, "{limit}: {page}");
            seen.extend(members.iter().map(|member| room::string(member, "user")));
            let Some(next) = page.get("next") else { break };
            assert_eq!(members.len(), limit, "a page that is not full has a next");
            let next = next.as_str().expect("next is a user");
            assert_eq!(Some(next), seen.last().map(String::as_str), "next must be the last user of the page");
            path = format!("/v1/rooms/lobby/members?limit={limit}&after={}", encoded(next));
        }
        assert_eq!(seen, users, "limit {limit}");
    }
    let after = server.get("/v1/rooms/lobby/members?after=user+10+%C3%BCx").await.json();
    assert_eq!(after["members"][0]["user"], "user 11 ü", "`after` need not be a member: {after}");
    let none = server.get("/v1/rooms/lobby/members?after=zzz").await.json();
    assert_eq!((&none["members"], none.get("next")), (&json!([]), None));
    server.stop().await;
}

#[tokio::test]
async fn bad_limits_rooms_and_cursors_are_400() {
    let server = TestServer::start(&[]);
    let long = "x".repeat(129);
    for path in [
        "/v1/rooms/lobby/members?limit=abc",
        "/v1/rooms/lobby/members?limit=-1",
        "/v1/rooms/lobby/members?limit=",
        "/v1/rooms/lobby/members?limit=0",
        "/v1/rooms/lobby/members?limit=1.5",
        "/v1/rooms/lobby/members?limit=99999999999999999999999",
        "/v1/rooms/a%00b/members",
        "/v1/rooms/%FF/members",
        "/v1/rooms/a%0Ab/count",
        &format!("/v1/rooms/{long}/count"),
    ] {
        server.get(path).await.error(400);
    }
    server.stop().await;
}

#[tokio::test]
async fn rooms_with_odd_names_are_reached_through_percent_encoding() {
    let server = TestServer::start(&[]);
    for name in ["a/b", "..", "ü 😀", "%2F", "?x=1#y", "count", "members"] {
        let _alice = server.connect_to("alice", name).await;
        assert_eq!(server.count(name).await, 1, "{name}");
        assert!(server.members(name).await.contains_key("alice"), "{name}");
        let answer = server.get(&format!("/v1/rooms/{}/count", encoded(name))).await.json();
        assert_eq!(answer, json!({"room": name, "count": 1, "observers": 1}));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_room_without_members_is_empty() {
    let server = TestServer::start(&[]);
    let count = server.get("/v1/rooms/nobody/count").await;
    assert_eq!((count.status, count.json()), (200, json!({"room": "nobody", "count": 0, "observers": 0})));
    let members = server.get("/v1/rooms/nobody/members").await;
    assert_eq!(members.status, 200);
    assert_eq!((&members.json()["count"], &members.json()["members"]), (&json!(0), &json!([])));
    assert_eq!(server.get("/v1/rooms").await.json(), json!({"rooms": []}), "the request created the room");
    server.stop().await;
}

#[tokio::test]
async fn observers_are_counted_whether_they_are_members_or_not() {
    let server = TestServer::start(&[]);
    let mut observer = server.observe("observer", "hall").await;
    let count = |count: u64, observers: u64| json!({"room": "hall", "count": count, "observers": observers});
    assert_eq!(server.get("/v1/rooms/hall/count").await.json(), count(0, 1));
    let members = server.get("/v1/rooms/hall/members").await.json();
    room::assert_keys(&members, &["room", "epoch", "seq", "count", "observers", "members"], &[]);
    assert_eq!((&members["count"], &members["observers"]), (&json!(0), &json!(1)));
    assert_eq!(server.get("/v1/rooms").await.json()["rooms"], json!([count(0, 1)]));
    let _member = server.connect_to("member", "hall").await;
    observer.wait_until("the member", |observer| observer.has("hall", "member")).await;
    assert_eq!(server.get("/v1/rooms/hall/count").await.json(), count(1, 2));
    // A REST heartbeat makes a member that observes nothing.
    server.rest_heartbeat("resting").await;
    let lobby = server.get("/v1/rooms/lobby/count").await.json();
    assert_eq!(lobby["observers"], 0, "{lobby}");
    observer.send(&json!({"type": "unobserve", "room": "hall"}));
    observer.barrier().await;
    assert_eq!(server.get("/v1/rooms/hall/count").await.json(), count(1, 1));
    server.stop().await;
}

#[tokio::test]
async fn rooms_are_listed_with_their_counts() {
    let server = TestServer::start(&[]);
    let mut clients = Vec::new();
    for (user, rooms) in [("alice", &["a", "b", "c"][..]), ("bob", &["b", "c"]), ("carol", &["c"])] {
        let mut client = Mirror::connect(server.address(), user, rooms).await;
        client.wait_until("all rooms", |client| rooms.iter().all(|room| client.has(room, user))).await;
        clients.push(client);
    }
    let answer = server.get("/v1/rooms").await.json();
    let mut rooms = answer["rooms"].as_array().expect("rooms").clone();
    rooms.sort_by_key(|entry| room::string(entry, "room"));
    let expected = json!([
        {"room": "a", "count": 1, "observers": 1},
        {"room": "b", "count": 2, "observers": 2},
        {"room": "c", "count": 3, "observers": 3}
    ]);
    assert_eq!(Value::from(rooms), expected);
    // A room without members and observers is not in the list.
    clients[0].send(&json!({"type": "leave", "room": "a"}));
    clients[0].barrier().await;
    // The room that the client observed to wait for the tick goes with a later one.
    let deadline = Instant::now() + DEADLINE;
    while server.get("/v1/rooms").await.json()["rooms"].as_array().map(Vec::len) != Some(2) {
        assert!(Instant::now() < deadline, "{:?}", server.get("/v1/rooms").await);
    }
    server.stop().await;
}

#[tokio::test]
async fn status_answers_list_users_in_the_order_of_the_request() {
    let server = TestServer::start(&[]);
    let mut alice = Mirror::connect(server.address(), "alice", &["b", "a"]).await;
    alice.wait_until("both rooms", |alice| alice.has("a", "alice") && alice.has("b", "alice")).await;
    server.rest_heartbeat("rest ü").await;
    let request = json!({"users": ["nobody", "alice", "rest ü"], "rooms": 100});
    let answer = server.post_json("/v1/users/status", &request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let users = answer["users"].as_array().expect("users");
    assert_eq!(users.len(), 3);
    for (entry, (user, online)) in users.iter().zip([("nobody", false), ("alice", true), ("rest ü", true)]) {
        room::assert_keys(entry, &["user", "online"], &["rooms", "since"]);
        assert_eq!((&entry["user"], &entry["online"]), (&json!(user), &json!(online)));
        assert_eq!(entry.get("rooms").is_some(), online, "{entry}");
    }
    assert_eq!(users[1]["rooms"], json!(["a", "b"]));
    assert_eq!(users[2]["rooms"], json!(["lobby"]));
    if let Some(since) = users[1].get("since") {
        assert!(since.as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "not in milliseconds: {since}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bad_status_requests_are_400() {
    let server = TestServer::start(&[]);
    let users = |count: usize| json!({"users": (0..count).map(|n| format!("user-{n}")).collect::<Vec<_>>()});
    let answer = server.post_json("/v1/users/status", &users(1000)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["users"].as_array().map(Vec::len), Some(1000));
    assert_eq!(server.post_json("/v1/users/status", &json!({"users": []})).await.status, 200);
    let message = server.post_json("/v1/users/status", &users(1001)).await.error(400);
    assert_eq!(message, "the limit is 1,000 users per request; this one asks about 1,001");
    let twice = json!({"users": vec!["alice"; 1001]});
    assert_eq!(server.post_json("/v1/users/status", &twice).await.error(400), message, "each time counts");
    assert_eq!(server.post_json("/v1/users/status", &json!({"users": ["alice"], "rooms": 2.0})).await.status, 200);
    for body in [
        json!({}),
        json!([]),
        json!({"users": "alice"}),
        json!({"users": [1]}),
        json!({"users": [null]}),
        json!({"users": {"a": 1}}),
        json!({"users": [""]}),
        json!({"users": ["alice"], "rooms": 0}),
        json!({"users": ["alice"], "rooms": 1001}),
        json!({"users": ["alice"], "rooms": true}),
        json!({"users": ["alice"], "rooms": 1, "after": 1}),
    ] {
        server.post_json("/v1/users/status", &body).await.error(400);
    }
    let null = json!({"users": ["alice"], "rooms": null, "after": null});
    assert_eq!(server.post_json("/v1/users/status", &null).await.json()["users"][0].get("rooms"), None);
    let deep = "[".repeat(5000);
    for body in [&b"{"[..], b"", b"\xFF", deep.as_bytes()] {
        let path = "/v1/users/status";
        let headers = [("content-type", "application/json")];
        http::request(server.address(), "POST", path, &headers, body).await.error(400);
    }
    server.stop().await;
}

#[tokio::test]
async fn stats_count_connections_rooms_users_and_heartbeats() {
    let server = TestServer::start(&[]);
    let _alice = Mirror::connect(server.address(), "alice", &["a", "b"]).await;
    let mut bob = server.connect_to("bob", "a").await;
    bob.send_text("heartbeat");
    bob.send_text("heartbeat");
    bob.heartbeat().await;
    bob.wait_until("alice", |bob| bob.has("a", "alice")).await;
    let stats = server.get("/v1/stats").await.json();
    assert_eq!(room::number(&stats, "connections"), 2, "{stats}");
    assert_eq!(room::number(&stats, "rooms"), 2, "{stats}");
    assert!(room::number(&stats, "users") >= 2, "{stats}");
    assert!(room::number(&stats, "heartbeats") >= 3, "{stats}");
    assert!(room::number(&stats, "cpu_ns") > 0 && room::number(&stats, "memory_bytes") > 0, "{stats}");
    let ticks = room::number(&stats, "ticks");
    bob.barrier().await;
    bob.barrier().await;
    assert!(room::number(&server.get("/v1/stats").await.json(), "ticks") > ticks, "{stats}");
    server.stop().await;
}

#[tokio::test]
async fn health_probes_answer_200() {
    let server = TestServer::start(&[]);
    for path in ["/livez", "/readyz"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_start_page_is_html() {
    let server = TestServer::start(&[]);
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    assert!(page.body.starts_with(b"<!") || page.body.starts_with(b"<html"), "the page is incomplete");
    server.stop().await;
}

#[tokio::test]
async fn unknown_paths_are_404() {
    let server = TestServer::start(&[]);
    for path in [
        "/nothing",
        "/v1",
        "/v1/",
        "/v1/rooms/lobby",
        "/v1/rooms/lobby/nothing",
        "/v1/rooms/lobby/members/more",
        "/v2/rooms",
        "/..%2f..%2fetc/passwd",
        "/ws/a/b",
        "//",
    ] {
        server.get(path).await.error(404);
    }
    server.stop().await;
}

#[tokio::test]
async fn wrong_methods_are_405_and_allow_names_the_right_ones() {
    let server = TestServer::start(&[]);
    let cases = [
        ("POST", "/v1/rooms", "GET"),
        ("DELETE", "/v1/rooms/lobby/members", "GET"),
        ("PUT", "/v1/rooms/lobby/count", "GET"),
        ("GET", "/v1/users/status", "POST"),
        ("POST", "/v1/stats", "GET"),
        ("POST", "/metrics", "GET"),
        ("POST", "/livez", "GET"),
        ("PATCH", "/online_users", "GET"),
        ("GET", "/heartbeat", "POST"),
        ("POST", "/", "GET"),
    ];
    for (method, path, allowed) in cases {
        let response = http::request(server.address(), method, path, &[], b"").await;
        response.error(405);
        let allow = response.header("allow").unwrap_or_default();
        assert!(allow.split(", ").any(|name| name == allowed), "{method} {path}: {response:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn several_requests_share_a_connection() {
    let server = TestServer::start(&[]);
    let mut requests = Vec::new();
    for path in ["/v1/rooms", "/nothing", "/v1/rooms/lobby/count"] {
        requests.extend(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes());
    }
    requests.extend(http::request_text("GET", "/livez", &[], b""));
    let answers = http::exchange(server.address(), &requests).await;
    let answers = String::from_utf8(answers).expect("text");
    let statuses: Vec<_> = answers.matches("HTTP/1.1 ").collect();
    assert_eq!(statuses.len(), 4, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 404").count(), 1, "{answers}");
    server.stop().await;
}

#[tokio::test]
async fn large_bodies_are_413() {
    let server = TestServer::start(&[]);
    let large = vec![b'a'; 256 * 1024 + 1];
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    for path in ["/heartbeat", "/v1/users/status"] {
        let response = http::request(server.address(), "POST", path, &headers, &large).await;
        response.error(413);
    }
    // The same body without a content-length.
    let mut chunked = b"POST /heartbeat HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
        content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for chunk in large.chunks(64 * 1024) {
        chunked.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let answer = http::exchange(server.address(), &chunked).await;
    http::Response::parse(&answer).error(413);
    assert_eq!(server.get("/livez").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn large_headers_are_431() {
    let server = TestServer::start(&[]);
    let value = "x".repeat(100_000);
    let large = http::request(server.address(), "GET", "/livez", &[("x-large", &value)], b"").await;
    assert_eq!(large.status, 431);
    let names: Vec<String> = (0..2000).map(|n| format!("x-header-{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(http::request(server.address(), "GET", "/livez", &many, b"").await.status, 431);
    assert_eq!(server.get("/livez").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn bytes_that_are_not_http_are_400() {
    let server = TestServer::start(&[]);
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls?\r\n\r\n"[..], b"nonsense\r\n\r\n"] {
        let answer = http::exchange(server.address(), bytes).await;
        assert!(answer.is_empty() || http::Response::parse(&answer).status == 400);
    }
    assert_eq!(server.get("/livez").await.status, 200);
    server.stop().await;
}
