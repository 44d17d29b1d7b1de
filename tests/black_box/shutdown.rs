//! Stopping, and the connection limit: a stop closes all connections with 1012 in bounded time whatever clients do, and
//! a connection over the limit is closed with 1013.

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::{DEADLINE, Mirror, RawClient, TestServer, UserList, http};

#[tokio::test]
async fn a_stop_closes_every_client_with_1012() {
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
    assert_eq!(raw.wait_for_close().await, Some(1012));
    let ended = timeout(DEADLINE, run).await.expect("run() returns in bounded time");
    ended.expect("the server does not panic").expect("a stop is not an error");
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn a_stop_without_clients_succeeds() {
    let server = TestServer::start(&[]);
    let address = server.address();
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn clients_that_do_not_answer_the_close_cannot_delay_a_stop() {
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
    // Upgraded, never reading, and never answering the close frame.
    let mut unresponsive = RawClient::with_small_buffer(address).await;
    unresponsive.upgrade("/v1/connect?user=unresponsive&room=lobby").await;
    server.stop().await;
    drop((silent, half, unfinished, kept, unresponsive));
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_with_1013() {
    let server = TestServer::start(&["--max-connections", "3"]);
    let address = server.address();
    let alice = Mirror::connect(address, "alice", &["lobby"]).await;
    let mut bob = server.connect_to("bob", "lobby").await;
    let mut carol = UserList::connect(address, "carol").await;
    for path in ["/v1/connect?user=dave&room=lobby", "/ws/dave"] {
        let mut dave = RawClient::open(address, path).await;
        assert_eq!(dave.wait_for_close().await, Some(1013), "{path}");
    }
    bob.barrier().await;
    assert!(!bob.has("lobby", "dave"), "a refused user does not join");
    assert_eq!(http::request(address, "GET", "/livez", &[], b"").await.status, 200);
    // Once the server has seen one connection end, another may connect.
    alice.close(1000);
    bob.wait_until("alice's leave", |bob| bob.rooms["lobby"].diffs > 0 && !bob.has("lobby", "alice")).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let mut dave = RawClient::open(address, "/v1/connect?user=dave").await;
        let first = dave.answer().await;
        if first.opcode == crate::common::frame::TEXT {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the ended connection still counts");
    }
    carol.heartbeat().await;
    server.stop().await;
}
