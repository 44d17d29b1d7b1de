//! The online-status protocol (`/ws-online-status`). Each test checks one rule.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::frame::{BINARY, CLOSE, PING, PONG};
use crate::common::{EventClient, Frame, RawClient, TestServer, raw};

pub(super) fn path(user: &str) -> String {
    format!("/ws-online-status?userId={user}")
}

/// How far a timestamp is from now.
fn age(message: &Value) -> Duration {
    let text = message["timestamp"].as_str().expect("a timestamp is a string");
    assert_eq!(text.len(), "2024-01-01T12:00:00.000Z".len(), "{text}");
    let time = humantime::parse_rfc3339(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    SystemTime::now().duration_since(time).unwrap_or_else(|error| error.duration())
}

#[tokio::test]
async fn the_greeting_has_the_user_id_and_a_connection_id() {
    let server = TestServer::start(&[]);
    let client = server.online_status("123").await;
    let greeting = &client.log[0];
    assert_eq!(greeting["type"], "CONNECTION_ESTABLISHED");
    assert_eq!(greeting["userId"], json!(123));
    assert!(age(greeting) < Duration::from_secs(60), "{greeting}");
    let (user, unix_ms) = greeting["connectionId"].as_str().unwrap().split_once('-').unwrap();
    assert_eq!(user, "123");
    assert_eq!(unix_ms.len(), 13, "not in milliseconds: {greeting}");
    assert_eq!(greeting.as_object().unwrap().len(), 4, "{greeting}");
    let text = server.online_status("ann 007").await;
    assert_eq!(text.log[0]["userId"], json!("ann 007"));
    server.stop().await;
}

#[tokio::test]
async fn others_receive_an_event_when_a_user_goes_online_or_offline() {
    let server = TestServer::start(&[]);
    let mut alice = server.online_status("alice").await;
    let bob = server.online_status("7").await;
    alice.wait_until("7", |alice| alice.has_online(&["7"])).await;
    assert_eq!(alice.log[1]["userId"], json!(7), "a numeric id must be a JSON number");
    assert!(age(&alice.log[1]) < Duration::from_secs(60));
    assert_eq!(alice.log[1].as_object().unwrap().len(), 3, "{}", alice.log[1]);
    bob.close(1000);
    alice.wait_until("the offline event", |alice| alice.has_online(&[])).await;
    assert_eq!(alice.log[2]["type"], "USER_OFFLINE");
    assert!(age(&alice.log[2]) < Duration::from_secs(60));
    assert_eq!(alice.log.len(), 3, "no other message: {:?}", alice.log);
    server.stop().await;
}

#[tokio::test]
async fn a_new_client_receives_all_online_users_except_itself() {
    let server = TestServer::start(&[]);
    let names: Vec<String> = (0..5).map(|n| format!("user-{n}")).collect();
    let mut clients = Vec::new();
    for name in &names {
        clients.push(server.online_status(name).await);
    }
    for (client, name) in clients.iter_mut().zip(&names) {
        let others: BTreeSet<String> =
            names.iter().filter(|other| *other != name).map(|n| json!(n).to_string()).collect();
        client.wait_until("the others", |client| client.online == others).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn clients_that_connect_within_one_tick_receive_each_other_once() {
    let server = TestServer::start(&["--tick", "200ms"]);
    let names: Vec<String> = (0..20).map(|n| format!("{n}")).collect();
    let mut clients = join_all(names.iter().map(|name| server.online_status(name))).await;
    for (client, name) in clients.iter_mut().zip(&names) {
        let others: BTreeSet<String> = names.iter().filter(|other| *other != name).cloned().collect();
        client.wait_until("the others", |client| client.online == others).await;
    }
    let last = server.online_status("last").await;
    for client in &mut clients {
        client.wait_until("the last", |client| client.online.contains("\"last\"")).await;
        assert_eq!(client.log.len(), 21, "a greeting, 19 others, the last: {:?}", client.log);
    }
    drop(last);
    server.stop().await;
}

#[tokio::test]
async fn a_new_client_receives_a_large_room_except_itself() {
    let server = TestServer::start(&[]);
    let members: Vec<String> = (0..2_500).map(|n| format!("member-{n:04}")).collect();
    for group in members.chunks(100) {
        join_all(group.iter().map(|name| server.rest_heartbeat(name))).await;
    }
    // Users that sort first, in the middle and last among the members, and one that is a member already.
    for name in ["a", "member-1000", "member-1200x", "z"] {
        let mut client = server.online_status(name).await;
        let others: BTreeSet<String> =
            members.iter().filter(|other| *other != name).map(|n| json!(n).to_string()).collect();
        client.wait_until("all members", |client| client.log.len() > others.len()).await;
        assert!(client.online == others, "{name}");
        client.close(1000);
        server.wait_for_member("lobby", name, members.iter().any(|member| member == name)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn users_of_all_protocols_are_online_to_each_other() {
    let server = TestServer::start(&[]);
    let mut status = server.online_status("1").await;
    let mut native = server.connect_to("native", "lobby").await;
    let mut list = server.online_users("list").await;
    server.rest_heartbeat("rest").await;
    status.wait_until("all other users", |status| status.has_online(&["\"list\"", "\"native\"", "\"rest\""])).await;
    list.wait_until("all users", |list| list.users == ["1", "list", "native", "rest"]).await;
    native.wait_until("status", |native| native.has("lobby", "1")).await;
    native.close(1000);
    status.wait_until("the offline event", |status| status.has_online(&["\"list\"", "\"rest\""])).await;
    status.close(1000);
    list.wait_until("the offline event", |list| !list.has("1")).await;
    server.stop().await;
}

#[tokio::test]
async fn a_user_goes_offline_when_the_last_connection_ends_in_any_way() {
    // Other protocols would keep the user for a lease of a minute.
    let server = TestServer::start(&[]);
    let mut watcher = server.online_status("watcher").await;
    let mut native = server.observe("native", "lobby").await;
    let address = server.address();
    for ending in ["clean close", "going away", "no code", "connection lost", "violation"] {
        let mut client = RawClient::open(address, &path("7")).await;
        watcher.wait_until("online", |watcher| watcher.has_online(&["7"])).await;
        native.wait_until("online", |native| native.has("lobby", "7")).await;
        match ending {
            "clean close" => client.send_frame(&Frame::close(1000, b"")).await,
            "going away" => client.send_frame(&Frame::close(1001, b"")).await,
            "no code" => client.send_frame(&Frame::new(CLOSE, *b"")).await,
            "violation" => client.send_frame(&Frame::text("x").unmasked()).await,
            _ => drop(client),
        }
        watcher.wait_until(ending, |watcher| watcher.has_online(&[])).await;
        native.wait_until(ending, |native| !native.has("lobby", "7")).await;
        assert_eq!(native.reason("lobby", "7").as_deref(), Some("closed"), "{ending}");
    }
    server.stop().await;
}

#[tokio::test]
async fn further_connections_of_a_user_send_no_event() {
    let server = TestServer::start(&[]);
    let mut watcher = server.online_status("watcher").await;
    let first = server.online_status("7").await;
    watcher.wait_until("7", |watcher| watcher.has_online(&["7"])).await;
    let mut second = server.online_status("7").await;
    second.wait_until("the watcher", |second| second.has_online(&["\"watcher\""])).await;
    let mut elsewhere = server.connect_to("7", "lobby").await;
    first.close(1000);
    second.close(1000);
    let marker = server.online_status("marker").await;
    watcher.wait_until("the marker", |watcher| watcher.has_online(&["\"marker\"", "7"])).await;
    marker.close(1000);
    watcher.wait_until("the offline event", |watcher| watcher.of("USER_OFFLINE").len() == 1).await;
    assert!(watcher.has_online(&["7"]), "still online with another protocol: {:?}", watcher.log);
    elsewhere.barrier().await;
    elsewhere.close(1000);
    watcher.wait_until("the end of the last", |watcher| watcher.has_online(&[])).await;
    assert_eq!(watcher.log.len(), 5, "one online and one offline event: {:?}", watcher.log);
    server.stop().await;
}

#[tokio::test]
async fn connecting_and_closing_within_one_tick_sends_no_event() {
    let server = TestServer::start(&["--tick", "500ms"]);
    let mut watcher = server.online_status("watcher").await;
    let mut pulse = server.connect_to("pulse", "lobby").await;
    for round in 0..100 {
        // The client connects and closes right after a tick, so that both are handled before the next tick. If a tick
        // falls between, the test tries again.
        pulse.barrier().await;
        let (name, ticks) = (format!("brief-{round}"), server.ticks().await);
        let mut brief = RawClient::open(server.address(), &path(&name)).await;
        brief.send_frame(&Frame::close(1000, b"")).await;
        brief.read_to_end().await;
        if server.ticks().await == ticks {
            let _marker = server.online_status("marker").await;
            watcher.wait_until("the marker", |watcher| watcher.online.contains("\"marker\"")).await;
            assert!(!watcher.log.iter().any(|message| message["userId"] == name), "{:?}", watcher.log);
            return server.stop().await;
        }
    }
    panic!("a tick fell between in every attempt");
}

#[tokio::test]
async fn a_connection_without_a_user_id_is_closed_with_1008() {
    let server = TestServer::start(&[]);
    for path in ["/ws-online-status", "/ws-online-status?userId=", "/ws-online-status?user=7"] {
        let mut client = RawClient::open(server.address(), path).await;
        let frame = client.frame().await.expect("a close frame");
        assert_eq!((frame.opcode, frame.close_code()), (CLOSE, Some(1008)), "{path}");
        assert_eq!(&frame.payload[2..], b"User ID required", "{path}");
    }
    for id in ["a%00b", "%FF", &"x".repeat(129)] {
        raw::refused_upgrade(server.address(), &path(id), &[]).await.error(400);
    }
    assert_eq!(server.count("lobby").await, 0);
    server.stop().await;
}

#[tokio::test]
async fn messages_of_clients_are_ignored() {
    let server = TestServer::start(&[]);
    let mut client = server.online_status("7").await;
    for text in ["", "heartbeat", "{\"type\":\"leave\",\"room\":\"lobby\"}", "[[[[", "\u{0}", &"x".repeat(16_000)] {
        client.send_text(text);
    }
    let _other = server.online_status("8").await;
    client.wait_until("the other user", |client| client.has_online(&["8"])).await;
    assert_eq!(client.log.len(), 2, "a message was answered: {:?}", client.log);
    let mut binary = RawClient::open(server.address(), &path("9")).await;
    binary.send_frame(&Frame::new(BINARY, *b"x")).await;
    assert_eq!(raw_close(&mut binary).await, Some(1003));
    let mut long = RawClient::open(server.address(), &path("9")).await;
    long.send(&Frame::text("").header(16 * 1024 + 1)).await;
    assert_eq!(raw_close(&mut long).await, Some(1009));
    server.stop().await;
}

/// The code of the close frame; events before it are skipped.
async fn raw_close(client: &mut RawClient) -> Option<u16> {
    loop {
        let frame = client.frame().await.expect("a close frame");
        if frame.opcode == CLOSE {
            return frame.close_code();
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_answer_a_ping_is_disconnected_at_the_next() {
    let server = TestServer::start(&["--ping-interval", "500ms", "--liveness", "strict", "--ttl", "100ms"]);
    let mut watcher = server.online_status("watcher").await;
    let mut lively = RawClient::open(server.address(), &path("lively")).await;
    let started = Instant::now();
    let mut silent = RawClient::open(server.address(), &path("silent")).await;
    watcher.wait_until("both clients", |watcher| watcher.has_online(&["\"lively\"", "\"silent\""])).await;
    let mut pings = 0;
    while let Some(frame) = silent.frame().await {
        pings += usize::from(frame.opcode == PING);
        if frame.opcode == PING {
            lively.send_frame(&Frame::new(PONG, *b"")).await;
        }
    }
    assert_eq!(pings, 1, "pinged once, disconnected when the next ping was due");
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    watcher.wait_until("the offline event", |watcher| watcher.has_online(&["\"lively\""])).await;
    // A client that answers stays connected and is pinged again. The watcher's library answers by itself.
    for _ in 0..3 {
        while lively.frame().await.expect("the connection is open").opcode != PING {}
        lively.send_frame(&Frame::new(PONG, *b"")).await;
    }
    let _marker = server.online_status("marker").await;
    watcher.wait_until("the marker", |watcher| watcher.has_online(&["\"lively\"", "\"marker\""])).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_only_answers_pings_stays_online() {
    let server = TestServer::start(&["--ping-interval", "300ms", "--ttl", "200ms"]);
    let mut watcher = server.online_status("watcher").await;
    let quiet = server.online_status("quiet").await;
    sleep(Duration::from_secs(1)).await;
    watcher.wait_until("quiet", |watcher| watcher.has_online(&["\"quiet\""])).await;
    assert_eq!(watcher.log.len(), 2, "no offline event in between: {:?}", watcher.log);
    drop(quiet);
    server.stop().await;
}

#[tokio::test]
async fn the_status_port_serves_online_status_too() {
    let server = TestServer::start(&["--status-port", "0"]);
    let second: SocketAddr = server.status_address();
    assert_ne!(second, server.address());
    let mut here = server.online_status("1").await;
    let mut there = EventClient::connect(second, &path("2")).await;
    here.wait_until("the other user", |here| here.has_online(&["2"])).await;
    there.wait_until("the other user", |there| there.has_online(&["1"])).await;
    let run = server.begin_stop();
    assert_eq!(here.wait_for_close().await, Some(1012));
    assert_eq!(there.wait_for_close().await, Some(1012));
    run.await.expect("the server does not panic").expect("a stop is not an error");
    assert!(tokio::net::TcpStream::connect(second).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn a_stop_closes_with_1012_and_sends_no_offline_events() {
    let server = TestServer::start(&["--workers", "1"]);
    let mut clients = Vec::new();
    for n in 0..400 {
        clients.push(server.online_status(&format!("{n}")).await);
    }
    let run = server.begin_stop();
    for client in &mut clients {
        assert_eq!(client.wait_for_close().await, Some(1012));
        assert!(client.of("USER_OFFLINE").is_empty(), "a stop must not take users offline: {:?}", client.log.last());
    }
    run.await.expect("the server does not panic").expect("a stop is not an error");
}
