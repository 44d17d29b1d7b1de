//! What happens after the end has begun: a connection that is being closed does nothing any more and leaves nothing behind.

use std::time::Duration;

use serde_json::json;

use crate::common::frame::{BINARY, CLOSE, TEXT, glued};
use crate::common::{DEADLINE, Frame, RawClient, TestServer};

/// Waits until the server counts no connection, no room and no socket but the one that asks.
async fn wait_until_empty(server: &TestServer) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let stats = server.get("/v1/stats").await.json();
        if (&stats["connections"], &stats["rooms"], &stats["sockets"]) == (&json!(0), &json!(0), &json!(1)) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "something stayed: {stats}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn joins_after_the_end_has_begun_leave_nothing_behind() {
    let server = TestServer::start(&["--ttl", "1s", "--tick", "20ms"]);
    let flood: Vec<Frame> = (0..500).map(|_| Frame::text(r#"{"type":"join","room":"leak"}"#)).collect();
    let flood = glued(&flood);
    let mut clients = Vec::new();
    for n in 0..8 {
        let mut client = server.raw(&format!("late-{n}")).await;
        client.send_frame(&Frame::new(BINARY, *b"not a message")).await;
        let flood = flood.clone();
        clients.push(tokio::spawn(async move {
            // Until the server has had enough of it: then nothing is taken any more.
            while client.send_if_taken(&flood, Duration::from_secs(3)).await {}
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    wait_until_empty(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn one_close_frame_is_sent_and_not_two() {
    let server = TestServer::start(&[]);
    let mut client = server.raw("alice").await;
    // A message that is refused with 1003, and a violation (1002) behind it.
    client.send(&glued(&[Frame::new(BINARY, *b"x"), Frame::text("y").reserved(4)])).await;
    let mut closes = 0;
    while let Some(frame) = client.frame().await {
        assert!(frame.opcode == CLOSE || (frame.opcode == TEXT && closes == 0));
        closes += usize::from(frame.opcode == CLOSE);
    }
    assert_eq!(closes, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_reads_is_not_taken_for_dead() {
    let server = TestServer::start(&["--ttl", "1s", "--tick", "20ms"]);
    // A snapshot of some 300 KB, more than fits between the two ends at once.
    let mut crowd = Vec::new();
    let padding = "x".repeat(900);
    for n in 0..300 {
        let mut member = server.connect(&format!("member-{n:03}")).await;
        member.send(&json!({"type": "join", "room": "big", "observe": false, "state": {"padding": padding}}));
        member.barrier().await;
        crowd.push(member);
    }
    let mut slow = RawClient::with_small_buffer(server.address()).await;
    slow.upgrade("/v1/connect?user=slow&room=other").await;
    slow.send_json(&json!({"type": "observe", "room": "big"})).await;
    // It never sends anything, and takes what it is sent over several leases.
    let snapshot = slow.json_slowly("snapshot", 8 * 1024, Duration::from_millis(80)).await;
    assert_eq!(snapshot["members"].as_array().unwrap().len(), 300);
    assert!(slow.is_served().await);
    drop(crowd);
    server.stop().await;
}

#[tokio::test]
async fn many_workers_stop_as_quickly_as_one() {
    let server = TestServer::start(&["--workers", "96", "--tick", "2s", "--drain", "300s"]);
    // A worker a tick would take more than three minutes; all together need two or three ticks.
    let stopped = tokio::time::timeout(Duration::from_secs(120), server.begin_stop()).await;
    assert!(matches!(stopped, Ok(Ok(Ok(())))), "{stopped:?}");
}
