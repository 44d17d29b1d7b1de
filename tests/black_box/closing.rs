//! Closing connections: the server ignores further messages of a connection that it is closing, and frees everything.

use std::time::Duration;

use serde_json::json;

use crate::common::frame::{BINARY, CLOSE, TEXT, glued};
use crate::common::{DEADLINE, Frame, RawClient, TestServer};

/// Waits until the server counts no connection, no room, and only the socket of the request.
async fn wait_until_empty(server: &TestServer) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let stats = server.get("/v1/stats").await.json();
        if (&stats["connections"], &stats["rooms"], &stats["sockets"]) == (&json!(0), &json!(0), &json!(1)) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "not everything is closed: {stats}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn joins_on_a_closing_connection_have_no_effect() {
    let server = TestServer::start(&["--ttl", "1s", "--tick", "20ms"]);
    let flood: Vec<Frame> = (0..500).map(|_| Frame::text(r#"{"type":"join","room":"leak"}"#)).collect();
    let flood = glued(&flood);
    let mut clients = Vec::new();
    for n in 0..8 {
        let mut client = server.raw(&format!("late-{n}")).await;
        client.send_frame(&Frame::new(BINARY, *b"not a message")).await;
        let flood = flood.clone();
        clients.push(tokio::spawn(async move {
            // Until the server stops reading.
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
async fn only_one_close_frame_is_sent() {
    let server = TestServer::start(&[]);
    let mut client = server.raw("alice").await;
    // The first message is refused with 1003; the frame after it would be refused with 1002.
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
async fn a_client_that_reads_slowly_does_not_time_out() {
    let server = TestServer::start(&["--ttl", "1s", "--tick", "20ms"]);
    // A snapshot of about 300 KB, more than the socket buffers of both ends hold.
    let mut members = Vec::new();
    let padding = "x".repeat(900);
    for n in 0..300 {
        let mut member = server.connect(&format!("member-{n:03}")).await;
        member.send(&json!({"type": "join", "room": "big", "observe": false, "state": {"padding": padding}}));
        member.barrier().await;
        members.push(member);
    }
    let mut slow = RawClient::with_small_buffer(server.address()).await;
    slow.upgrade("/v1/connect?user=slow&room=other").await;
    slow.send_json(&json!({"type": "observe", "room": "big"})).await;
    // The client sends nothing, and reading the snapshot takes several leases.
    let snapshot = slow.json_slowly("snapshot", 8 * 1024, Duration::from_millis(80)).await;
    assert_eq!(snapshot["members"].as_array().unwrap().len(), 300);
    assert!(slow.is_served().await);
    drop(members);
    server.stop().await;
}

#[tokio::test]
async fn many_workers_stop_as_fast_as_one() {
    let server = TestServer::start(&["--workers", "96", "--tick", "2s", "--drain", "300s"]);
    // Stopping one worker per tick would take more than three minutes; stopping all at once takes two or three ticks.
    let stopped = tokio::time::timeout(Duration::from_secs(120), server.begin_stop()).await;
    assert!(matches!(stopped, Ok(Ok(Ok(())))), "{stopped:?}");
}
