//! A thousand clients that change as much as they may at the same moment: they wait for each other, and others do not
//! wait for them.

use serde_json::{Value, json};

use crate::common::frame::{Frame, ServerFrame, glued};
use crate::common::tls::Certificates;
use crate::common::tls_client::TlsClient;
use crate::common::{Mirror, RawClient, TestServer};

const ATTACKERS: usize = 1000;
/// Changes of all attackers are more than 40 ticks carry.
const NAMES: usize = 1000;
/// An honest client needs one or two ticks. An unoptimized worker needs longer than a tick for what one carries.
const PROMPT_TICKS: u64 = 10;

fn about_users(kind: &str, names: usize) -> Value {
    let names: Vec<_> = (0..names).map(|number| format!("name-{number}")).collect();
    json!({"type": kind, "users": names})
}

/// The member joins or leaves, and the observer sees it within a few ticks.
async fn assert_prompt(server: &TestServer, observer: &mut Mirror, member: &Mirror, joins: bool) {
    let before = server.ticks().await;
    member.send(&json!({"type": if joins { "join" } else { "leave" }, "room": "honest"}));
    observer.wait_until("the change", |observer| observer.has("honest", "alice") == joins).await;
    let took = server.ticks().await - before;
    assert!(took <= PROMPT_TICKS, "it was seen after {took} ticks");
}

#[tokio::test]
async fn long_messages_over_tls_take_turns_as_well() {
    let certificates = Certificates::make();
    let [certificate, key] = ["redis.crt", "redis.key"].map(|name| certificates.path(name));
    // All changes are in one long tick.
    let flags = ["--workers", "1", "--tick", "1s", "--tls-cert", &certificate, "--tls-key", &key];
    let (server, tls) = (TestServer::start(&flags), TlsClient::new(&certificates));
    let mut clients = Vec::new();
    for number in 0..60 {
        clients.push(tls.native(server.address(), &format!("user=user-{number}")).await);
    }
    let message = Frame::text(&about_users("unwatch", NAMES).to_string());
    let message = glued(&[message, Frame::text(r#"{"type":"heartbeat","ack":true}"#)]);
    for client in &mut clients {
        client.send(&message).await;
    }
    for client in &mut clients {
        client.json_of_type("heartbeat_ack").await;
    }
    server.stop().await;
}

/// Attackers with these addresses and users send this message about as many users as they may watch, all at once.
async fn check(kind: &str, attacker: impl Fn(usize) -> (&'static str, String)) {
    let server = TestServer::start(&["--workers", "1", "--connections-per-user", "0"]);
    let mut observer = server.observe("observer", "honest").await;
    let alice = server.connect("alice").await;
    let mut watcher = server.connect("watcher").await;
    let mut attackers = Vec::new();
    for number in 0..ATTACKERS {
        let (address, user) = attacker(number);
        let path = format!("/v1/connect?user={user}");
        attackers.push(RawClient::open_from(address, server.address(), &path).await);
    }
    let message = Frame::text(&about_users(kind, NAMES).to_string());
    let message = glued(&[message, Frame::text(r#"{"type":"heartbeat","ack":true}"#)]);
    for attacker in &mut attackers {
        attacker.send(&message).await;
    }
    while server.stat("turns_waited").await == 0 {}
    for joins in [true, false, true, false] {
        assert_prompt(&server, &mut observer, &alice, joins).await;
    }
    let before = server.ticks().await;
    let newcomer = server.connect_to("newcomer", "honest").await;
    watcher.send(&about_users("watch", 200));
    watcher.wait_until("the statuses", |watcher| watcher.watched.len() == 200).await;
    let took = server.ticks().await - before;
    assert!(took <= 2 * PROMPT_TICKS, "a newcomer and a long message took {took} ticks");
    assert!(server.stat("turns_waited").await > ATTACKERS as u64 / 2, "the attackers wait");
    drop(newcomer);
    for attacker in &mut attackers {
        let is_served = |frame: &ServerFrame| frame.payload.starts_with(br#"{"type":"heartbeat_ack""#);
        while !is_served(&attacker.answer().await) {}
    }
    assert_eq!((server.stat("messages_refused").await, server.stat("connections_over_limit").await), (0, 0));
    server.stop().await;
}

#[tokio::test]
async fn a_thousand_clients_of_one_address_delay_only_each_other() {
    check("watch", |number| ("127.0.0.2", format!("mallory-{number}"))).await;
}

#[tokio::test]
async fn a_thousand_connections_of_one_user_delay_only_each_other() {
    // The debt of a user who watched a million users would close connections.
    check("unwatch", |_| ("127.0.0.1", "mallory".to_owned())).await;
}
