//! Endpoints that fail in every way: the receiver is right in the end, and nothing grows.

use serde_json::json;
use tokio::time::{Duration, sleep};

use super::start;
use crate::common::random::Random;
use crate::common::upstream::response;
use crate::common::webhooks::{Plan, Receiver, SECRET};
use crate::common::{Does, TestServer};

fn status(status: u16) -> Does {
    Does::Answer(status, "x".repeat(10_000), Vec::new())
}

/// Everything that an endpoint can do with a request besides answering well.
fn any_failure(number: usize) -> Does {
    let with_head = |head: &str| Does::Raw(format!("HTTP/1.1 {head}\r\n\r\n").into_bytes());
    match number % 10 {
        0 => status(500),
        1 => status(404),
        2 => Does::Answer(429, String::new(), vec![("retry-after", "1".to_owned())]),
        3 => Does::Answer(302, String::new(), vec![("location", "http://127.0.0.1:1/".to_owned())]),
        // Closed without an answer.
        4 => Does::Raw(Vec::new()),
        5 => Does::Raw(b"no HTTP at all\r\n\r\n".to_vec()),
        6 => with_head("500 Lies\r\ncontent-length: 5"),
        7 => with_head("503 Breaks\r\ntransfer-encoding: chunked\r\n\r\nff\r\nabc"),
        8 => Does::Raw(b"HTTP/1.1 20".to_vec()),
        _ => Does::Raw(response(500, &"x".repeat(100_000), &[])),
    }
}

#[tokio::test]
async fn the_mirror_equals_the_server_after_random_failures() {
    let receiver = Receiver::start().await;
    let server = start(&receiver, &["--webhook-events", EVERYTHING, "--webhook-queue", "100"]);
    let (mut random, mut number) = (Random(7), 0);
    receiver.set(move |_| {
        number += 1;
        match number % 4 {
            0 => Plan::Take,
            1 => Plan::TakeBut(any_failure(number / 4)),
            _ => Plan::Refuse(any_failure(number / 4)),
        }
    });
    let rooms = ["a", "b", "c"];
    let mut clients = Vec::new();
    for user in 0..6 {
        clients.push(server.connect(&format!("user {user}")).await);
    }
    for round in 0..150 {
        let client = &clients[random.below(clients.len())];
        let room = rooms[random.below(rooms.len())];
        client.send(&match random.below(5) {
            0 | 1 => json!({"type": "join", "room": room, "state": {"n": round}, "observe": false}),
            2 => json!({"type": "leave", "room": room}),
            _ => json!({"type": "join", "room": room, "observe": false}),
        });
        sleep(Duration::from_millis(random.below(30) as u64)).await;
    }
    for client in &mut clients {
        client.barrier().await;
    }
    for counter in ["webhooks_refused", "webhooks_failed", "webhooks_broken", "webhooks_delivered"] {
        while server.stat(counter).await == 0 {
            // There must be something to send.
            clients[0]
                .send(&json!({"type": "join", "room": "a", "state": {"n": random.below(1000)}, "observe": false}));
            sleep(Duration::from_millis(50)).await;
        }
    }
    receiver.set(|_| Plan::Take);
    receiver.wait_for_agreement(server.address()).await;
    server.wait_for_stat("webhooks_queued", 0).await;
    server.stop().await;
}

const EVERYTHING: &str = "member_joined,member_updated,member_left,room_occupied,room_vacated,user_online,user_offline";

#[tokio::test]
async fn a_dead_endpoint_costs_no_tick_and_no_memory_beyond_the_bound() {
    let receiver = Receiver::start().await;
    receiver.set(|_| Plan::Refuse(Does::Raw(Vec::new())));
    let server = start(&receiver, &["--webhook-queue", "100", "--drain", "1s"]);
    let mut clients = Vec::new();
    for round in 0..5 {
        let mut client = server.connect(&format!("user {round}")).await;
        for room in 0..60 {
            let room = format!("room {round} {room}");
            client.send(&json!({"type": "join", "room": room, "observe": false}));
        }
        client.barrier().await;
        clients.push(client);
        let (queued, before) = (server.stat("webhooks_queued").await, server.ticks().await);
        assert!(queued <= 200, "{queued}");
        while server.ticks().await < before + 5 {
            sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(server.stat("webhooks_collapsed").await > 0);
    receiver.set(|_| Plan::Take);
    receiver.wait_for_agreement(server.address()).await;
    receiver.known(|known| {
        let resyncs = known.events.iter().filter(|event| event["type"] == "resync").count();
        assert!(resyncs > 0, "more changes than the queue keeps");
    });
    server.stop().await;
}

#[tokio::test]
async fn an_answer_counts_by_its_status_whatever_its_body_does() {
    let receiver = Receiver::start().await;
    let mut number = 0;
    receiver.set(move |_| {
        number += 1;
        Plan::TakeBut(match number {
            // Longer than what is read, shorter than it says, and broken off.
            1 => Does::Raw(response(200, &"x".repeat(1_000_000), &[])),
            2 => Does::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nx".to_vec()),
            3 => Does::Raw(b"HTTP/1.1 202 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nabc".to_vec()),
            _ => Does::Answer(204, String::new(), Vec::new()),
        })
    });
    let server = start(&receiver, &[]);
    for user in ["alice", "bob", "carol"] {
        let _client = server.connect_to(user, "lobby").await;
        receiver.wait_until("the join", |known| known.online.contains(user)).await;
    }
    server.wait_for_stat("webhooks_queued", 0).await;
    let failures = ["webhooks_broken", "webhooks_failed", "webhooks_timed_out"];
    for counter in failures {
        assert_eq!(server.stat(counter).await, 0, "{counter}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_paused() {
    let receiver = Receiver::start().await;
    receiver.set(|_| Plan::Refuse(status(410)));
    let server = start(&receiver, &[]);
    let _alice = server.connect_to("alice", "lobby").await;
    server.wait_for_stat("webhooks_paused", 1).await;
    let before = server.ticks().await;
    while server.ticks().await < before + 50 {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(receiver.upstream.count(), 1, "an hour has not passed");
    // At the end there is one more attempt. A server that stops answers no requests.
    receiver.read_from(&[]);
    receiver.set(|_| Plan::Take);
    server.stop().await;
    assert!(receiver.known(|known| known.online.contains("alice")));
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_asked_again_with_the_same_request() {
    let receiver = Receiver::start().await;
    receiver.set(|_| Plan::TakeBut(Does::Hold(200, String::new())));
    let server = start(&receiver, &[]);
    receiver.upstream.wait_for(2).await;
    let ids: Vec<_> =
        receiver.upstream.seen().iter().map(|seen| seen.header("webhook-id").map(str::to_owned)).collect();
    assert_eq!(ids[0], ids[1]);
    assert!(server.stat("webhooks_timed_out").await > 0);
    receiver.upstream.release();
    server.wait_for_stat("webhooks_queued", 0).await;
    server.stop().await;
}

#[tokio::test]
async fn a_closed_port_is_no_reason_to_wait_for_long() {
    let receiver = Receiver::start().await;
    let url = receiver.upstream.url("/");
    receiver.upstream.die().await;
    let server = TestServer::start(&[
        "--webhook-url",
        &url,
        "--webhook-secret",
        SECRET,
        "--webhook-delay",
        "0s",
        "--drain",
        "1s",
    ]);
    let _alice = server.connect_to("alice", "lobby").await;
    while server.stat("webhooks_unconnected").await < 3 {
        sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}
