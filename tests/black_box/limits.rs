//! What clients may hold in all, per user and per address.

use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::common::frame::CLOSE;
use crate::common::http::{exchange_from, request_from, request_text};
use crate::common::{DEADLINE, Mirror, RawClient, TestServer};

const POLL: Duration = Duration::from_millis(20);

/// Sends a message. The `room_…` or error answer is not waited for.
async fn refusal(client: &mut Mirror, message: &Value) -> Option<String> {
    let mark = client.mark();
    client.send(message);
    client.heartbeat().await;
    let error = client.log[mark..].iter().find(|message| message["type"] == "error");
    error.map(|error| {
        assert_eq!(error["code"], "forbidden", "{error}");
        error["message"].as_str().unwrap_or_default().to_owned()
    })
}

/// How many of these messages are not refused.
async fn accepted(client: &mut Mirror, messages: impl Iterator<Item = Value>) -> usize {
    let mut accepted = 0;
    for message in messages {
        match refusal(client, &message).await {
            None => accepted += 1,
            Some(error) => assert!(error.contains("--max-"), "{error}"),
        }
    }
    accepted
}

async fn logging(server: &TestServer, user: &str) -> Mirror {
    let mut client = server.connect(user).await;
    client.logging = true;
    client
}

fn joins(prefix: &str, rooms: usize) -> impl Iterator<Item = Value> {
    (0..rooms).map(move |room| json!({"type": "join", "room": format!("{prefix}-{room}")}))
}

#[tokio::test]
async fn rooms_are_limited_in_all_and_while_they_are_scarce_per_user() {
    let server = TestServer::start(&["--max-rooms", "100"]);
    let mut eve = logging(&server, "eve").await;
    assert_eq!(accepted(&mut eve, joins("eve", 90)).await, 75, "three quarters");
    let mut others = Vec::new();
    for number in 0..30 {
        let mut other = logging(&server, &format!("user-{number}")).await;
        let got = accepted(&mut other, joins(&format!("{number}"), 3)).await;
        assert!(got <= 1 && (got == 1 || number >= 24), "{number} opened {got}");
        // Rooms that exist are open to all, and so is everything else.
        assert_eq!(refusal(&mut other, &json!({"type": "join", "room": "eve-0"})).await, None);
        others.push(other);
    }
    assert_eq!(server.stat("rooms").await, 100);
    assert_eq!(refusal(&mut eve, &json!({"type": "observe", "room": "new"})).await.map(|_| ()), Some(()));
    let lobby = server.get("/v1/rooms/new/count").await;
    assert_eq!(lobby.status, 200, "to ask about a room opens none");
    assert!(server.stat("rooms_refused").await >= 15 + 25);
    // Rooms that are left make room.
    (0..50).for_each(|room| eve.send(&json!({"type": "leave", "room": format!("eve-{room}")})));
    server.wait_for_stat("rooms", 51).await;
    assert_eq!(accepted(&mut eve, joins("more", 20)).await, 20);
    server.stop().await;
}

#[tokio::test]
async fn states_are_limited_in_all_and_while_they_are_scarce_per_user() {
    let server = TestServer::start(&["--max-state", "64K"]);
    let state = json!({"filler": "x".repeat(1000)});
    let with_state = |prefix: &'static str| {
        let state = state.clone();
        joins(prefix, 60).map(move |mut join| {
            join["state"] = state.clone();
            join
        })
    };
    let mut eve = logging(&server, "eve").await;
    let got = accepted(&mut eve, with_state("eve")).await;
    assert_eq!(got, 48, "three quarters of 64 KiB");
    let mut ann = logging(&server, "ann").await;
    assert_eq!(accepted(&mut ann, with_state("ann")).await, 1, "a sixteenth of the rest");
    assert_eq!(server.stat("states_refused").await, 12 + 59);
    let short = json!({"type": "join", "room": "eve-0"});
    assert_eq!(refusal(&mut ann, &short).await, None, "without a state");
    // A state that is cleared makes room, and so does a client that ends.
    for room in 0..30 {
        eve.send(&json!({"type": "state", "room": format!("eve-{room}"), "state": null}));
    }
    server.wait_for_stat("state_bytes", 19 * 1024).await;
    eve.close(1000);
    server.wait_for_stat("state_bytes", 1024).await;
    server.stop().await;
}

/// Whether a native client of this user, from this address and with these headers, is served; or else it is closed with
/// 1013.
async fn try_connect(server: &TestServer, from: &str, headers: &[(&str, &str)], user: &str) -> Option<RawClient> {
    let mut client = RawClient::tcp_from(from, server.address()).await;
    client.upgrade_with(&format!("/v1/connect?user={user}"), headers).await;
    let first = client.answer().await;
    if first.opcode == CLOSE {
        assert_eq!(first.payload.get(..2), Some(&1013_u16.to_be_bytes()[..]), "{first:?}");
        return None;
    }
    Some(client)
}

/// How many of this number of clients are served. They stay.
async fn connect_all(
    server: &TestServer,
    from: &str,
    headers: &[(&str, &str)],
    number: usize,
    clients: &mut Vec<RawClient>,
) -> usize {
    let before = clients.len();
    for _ in 0..number {
        let user = format!("user-{}", clients.len());
        clients.extend(try_connect(server, from, headers, &user).await);
    }
    clients.len() - before
}

/// Waits until a client is served.
async fn connect_in_the_end(server: &TestServer, from: &str, headers: &[(&str, &str)], user: &str) -> RawClient {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(client) = try_connect(server, from, headers, user).await {
            return client;
        }
        assert!(Instant::now() < deadline, "{user} from {from} is still refused");
        sleep(POLL).await;
    }
}

#[tokio::test]
async fn a_user_has_a_limit_of_connections_in_every_protocol() {
    let server = TestServer::start(&["--connections-per-user", "3"]);
    let address = server.address();
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(try_connect(&server, "127.0.0.1", &[], "ann").await.expect("it fits"));
    }
    for path in ["/v1/connect?user=ann", "/ws/ann", "/ws-online-status?userId=ann"] {
        let mut refused = RawClient::open(address, path).await;
        assert_eq!(refused.wait_for_close().await, Some(1013), "{path}");
    }
    let mut chat = RawClient::open(address, "/ws").await;
    chat.send_json(&json!({"type": "join", "payload": {"user": "ann"}})).await;
    assert_eq!(chat.wait_for_close().await, Some(1013));
    assert_eq!(server.stat("connections_over_quota").await, 4);
    assert!(try_connect(&server, "127.0.0.1", &[], "bob").await.is_some());
    // Where clients claim their names, nobody uses up the connections of a user elsewhere.
    assert!(try_connect(&server, "127.0.0.2", &[], "ann").await.is_some());
    drop(clients.pop());
    clients.push(connect_in_the_end(&server, "127.0.0.1", &[], "ann").await);
    server.stop().await;
}

#[tokio::test]
async fn an_address_has_a_limit_of_connections_and_reconnecting_does_not_reset_it() {
    let server = TestServer::start(&["--connections-per-address", "5"]);
    let mut clients = Vec::new();
    assert_eq!(connect_all(&server, "127.0.0.2", &[], 8, &mut clients).await, 5);
    assert_eq!(connect_all(&server, "127.0.0.3", &[], 8, &mut clients).await, 5, "another address");
    assert_eq!(connect_all(&server, "127.0.0.1", &[], 8, &mut clients).await, 8, "this machine has no limit");
    assert_eq!(server.stat("connections_over_quota").await, 6);
    // Lost connections make room, also those that the client resets.
    for round in 0..20 {
        drop(clients.swap_remove(0));
        clients.push(connect_in_the_end(&server, "127.0.0.2", &[], "again").await);
        let last = clients.len() - 1;
        clients.swap(0, last);
        assert!(try_connect(&server, "127.0.0.2", &[], "more").await.is_none(), "round {round}");
    }
    server.stop().await;
}

#[tokio::test]
async fn clients_of_a_trusted_proxy_have_limits_of_their_own() {
    let server = TestServer::start(&["--open", "--trust-proxy", "127.0.0.0/8", "--connections-per-address", "5"]);
    let mut clients = Vec::new();
    let mut connect = async |address: &str, number: usize| {
        connect_all(&server, "127.0.0.2", &[("x-forwarded-for", address)], number, &mut clients).await
    };
    assert_eq!(connect("203.0.113.7", 7).await, 5);
    assert_eq!(connect("::ffff:203.0.113.7", 2).await, 0, "the same address");
    assert_eq!(connect("127.0.0.1", 7).await, 5, "a header does not exempt");
    assert_eq!(connect("2001:db8:1:1::1", 3).await, 3);
    assert_eq!(connect("2001:db8:1:1::2", 7).await, 2, "the same network");
    for network in 2..9 {
        assert_eq!(connect(&format!("2001:db8:1:{network}::1"), 5).await, 5);
    }
    assert_eq!(connect("2001:db8:1:9::1", 1).await, 0, "a site has eight times the limit");
    assert_eq!(connect("2001:db8:2::1", 1).await, 1);
    server.stop().await;
}

#[tokio::test]
async fn an_address_has_a_limit_of_sockets_that_have_not_completed_anything() {
    // One worker accepts the sockets in their order.
    let server = TestServer::start(&["--unauthenticated-per-address", "5", "--workers", "1"]);
    let live = request_text("GET", "/livez", &[], b"");
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(RawClient::tcp_from("127.0.0.2", server.address()).await);
    }
    // The socket of an answered request may still count when the next one arrives, which is refused then.
    let refused = async |silent: &mut Vec<RawClient>| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = request_from("127.0.0.2", server.address(), &live).await;
            if answer.status != 200 {
                return answer;
            }
            assert!(Instant::now() < deadline, "a socket too many is accepted");
            silent.push(RawClient::tcp_from("127.0.0.2", server.address()).await);
        }
    };
    let answer = refused(&mut silent).await;
    assert!(answer.error(429).contains("--unauthenticated-per-address"), "{answer:?}");
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
    assert_eq!(request_from("127.0.0.3", server.address(), &live).await.status, 200);
    assert!(server.stat("sockets_over_quota").await >= 1);
    // A WebSocket does not count, and neither does one that has ended.
    let mut first = silent.remove(0);
    first.upgrade_with("/v1/connect?user=ann", &[]).await;
    assert!(first.is_served().await);
    assert_eq!(request_from("127.0.0.2", server.address(), &live).await.status, 200);
    silent.push(RawClient::tcp_from("127.0.0.2", server.address()).await);
    assert_eq!(refused(&mut silent).await.status, 429);
    server.stop().await;
}

/// An answer has more bytes than a socket costs the client.
#[tokio::test]
async fn an_address_that_is_refused_all_the_time_is_no_longer_told_why() {
    let server = TestServer::start(&["--unauthenticated-per-address", "1", "--workers", "1"]);
    let silent = RawClient::tcp_from("127.0.0.2", server.address()).await;
    server.wait_for_stat("sockets", 2).await;
    let address = server.address();
    let flood = async || {
        let answers = |from: &'static str| async move {
            let mut bytes = 0;
            for _ in 0..50 {
                bytes += exchange_from(from, address, b"").await.len();
            }
            bytes
        };
        let _other = RawClient::tcp_from("127.0.0.3", address).await;
        [answers("127.0.0.2").await, answers("127.0.0.3").await]
    };
    let [often, other] = server.without_ticks(flood).await;
    assert!(often > 0 && often < 2000, "{often} bytes for sockets that sent nothing");
    assert_eq!(often, other, "each address is told");
    assert_eq!(server.stat("sockets_over_quota").await, 100);
    drop(silent);
    server.stop().await;
}

#[tokio::test]
async fn an_address_has_a_limit_of_new_connections_per_second() {
    let server = TestServer::start(&["--arrivals-per-address", "3"]);
    let address = server.address();
    let live = request_text("GET", "/livez", &[], b"");
    let flood = async || {
        let mut answered = 0;
        for _ in 0..60 {
            let answer = exchange_from("127.0.0.2", address, &live).await;
            answered += usize::from(answer.starts_with(b"HTTP/1.1 200"));
        }
        assert_eq!(request_from("127.0.0.3", address, &live).await.status, 200);
        (0..50).for_each(|_| drop(std::net::TcpStream::connect(address)));
        answered
    };
    assert_eq!(server.without_ticks(flood).await, 30, "ten seconds at once");
    assert_eq!(server.stat("arrivals_refused").await, 30);
    let deadline = Instant::now() + DEADLINE;
    while !exchange_from("127.0.0.2", address, &live).await.starts_with(b"HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "the address is refused for ever");
        sleep(POLL).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn sockets_that_send_nothing_do_not_keep_others_out() {
    let server = TestServer::start(&["--max-connections", "16", "--workers", "1"]);
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(RawClient::tcp_from("127.0.0.1", server.address()).await);
    }
    // Within the time limit for headers of ten minutes.
    assert_eq!(server.get("/livez").await.status, 200);
    assert!(silent.remove(0).ends_within(DEADLINE).await, "the oldest is closed");
    let mut last = silent.pop().expect("200");
    last.upgrade_with("/v1/connect?user=ann", &[]).await;
    assert!(last.is_served().await, "the latest is not");
    assert!(server.stat("sockets").await <= 129);
    server.stop().await;
}

#[tokio::test]
async fn on_a_nearly_full_server_an_address_has_only_its_share() {
    let server = TestServer::start(&["--max-connections", "100"]);
    let mut clients = Vec::new();
    assert_eq!(connect_all(&server, "127.0.0.2", &[], 90, &mut clients).await, 75);
    for address in ["127.0.0.3", "127.0.0.4"] {
        assert_eq!(connect_all(&server, address, &[], 3, &mut clients).await, 1, "{address}");
    }
    server.stop().await;
}
