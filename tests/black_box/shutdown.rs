//! Stopping and being full: 1012 for everybody at the end, in bounded time whatever clients do, and 1013 for whoever
//! is one too many.

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::{DEADLINE, Mirror, RawClient, TestServer, UserList, http};

#[tokio::test]
async fn every_client_is_told_1012_and_run_returns() {
    let server = TestServer::start(&[]);
    let address = server.address();
    let users: Vec<String> = (0..100).map(|n| format!("user-{n}")).collect();
    let connecting = users.iter().map(|user| Mirror::connect(address, user, &["lobby"]));
    let mut mirrors = join_all(connecting).await;
    let mut list = server.online_users("list").await;
    let mut raw = server.raw("raw").await;
    let run = server.begin_stop();
    for mirror in &mut mirrors {
        assert_eq!(mirror.wait_for_close().await, Some(1012), "{}", mirror.describe());
    }
    list.wait_until("the end", |list| list.ended).await;
    assert_eq!(list.closed, Some(Some(1012)));
    assert_eq!(raw.closed().await, Some(1012));
    let ended = timeout(DEADLINE, run).await.expect("run() returns in bounded time");
    ended.expect("no panic").expect("a stop is no error");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_stop_without_clients_is_quick_and_good() {
    let server = TestServer::start(&[]);
    let address = server.address();
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn clients_that_do_not_care_cannot_hold_up_the_stop() {
    let server = TestServer::start(&["--drain", "200ms"]);
    let address = server.address();
    let silent = RawClient::tcp(address).await;
    let mut half = RawClient::tcp(address).await;
    half.send(b"GET /livez HTTP/1.1\r\nhost: loc").await;
    let mut unfinished = RawClient::tcp(address).await;
    unfinished.send(b"POST /heartbeat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nuser").await;
    let mut kept = RawClient::tcp(address).await;
    kept.send(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(kept.head().await.status, 200);
    // Upgraded, and never reading, never answering the close.
    let mut deaf = RawClient::with_small_buffer(address).await;
    deaf.upgrade("/v1/connect?user=deaf&room=lobby").await;
    server.stop().await;
    drop((silent, half, unfinished, kept, deaf));
}

#[tokio::test]
async fn one_connection_too_many_is_closed_with_1013() {
    let server = TestServer::start(&["--max-connections", "3"]);
    let address = server.address();
    let alice = Mirror::connect(address, "alice", &["lobby"]).await;
    let mut bob = server.connect_to("bob", "lobby").await;
    let mut carol = UserList::connect(address, "carol").await;
    for path in ["/v1/connect?user=dave&room=lobby", "/ws/dave"] {
        let mut dave = RawClient::open(address, path).await;
        assert_eq!(dave.closed().await, Some(1013), "{path}");
    }
    bob.barrier().await;
    assert!(!bob.has("lobby", "dave"), "whoever is refused is not there");
    assert_eq!(http::request(address, "GET", "/livez", &[], b"").await.status, 200);
    // One goes, one may come: as soon as the server has seen the end of the first.
    alice.close(1000);
    bob.wait_until("alice's leave", |bob| bob.rooms["lobby"].diffs > 0 && !bob.has("lobby", "alice")).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let mut dave = RawClient::open(address, "/v1/connect?user=dave").await;
        let first = dave.answer().await;
        if first.opcode == crate::common::frame::TEXT {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the place was not freed");
    }
    carol.heartbeat().await;
    server.stop().await;
}
