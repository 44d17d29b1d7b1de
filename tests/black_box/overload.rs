//! A server that does not keep up, or takes too much memory, says so and accepts no clients.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::common::http::{Response, request};
use crate::common::{DEADLINE, Mirror, Process, RawClient, TestServer};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

async fn get(address: SocketAddr, path: &str) -> Response {
    request(address, "GET", path, &[], b"").await
}

#[tokio::test]
async fn a_server_that_takes_more_memory_than_its_limit_sheds_clients_and_accepts_none() {
    let mut process = Process::start(&["--tick", "20ms", "--max-memory", "64M"]);
    let address = process.address();
    let mut users = Vec::new();
    for number in 0..600 {
        users.push(Mirror::connect(address, &format!("user-{number}"), &[]).await);
    }
    // Each user holds 100 rooms with states of 1 KB: some 200 KB.
    let state = json!({"filler": "x".repeat(1000)});
    let mut waiting = users.iter().enumerate();
    while get(address, "/readyz").await.status != 503 {
        let (number, user) = waiting.next().expect("the limit has no effect");
        let join = |room| json!({"type": "join", "room": format!("{number}-{room}"), "state": state, "observe": false});
        user.send_all(&(0..100).map(join).collect::<Vec<_>>());
    }
    let ready = get(address, "/readyz").await;
    assert_eq!(ready.json()["error"]["code"], "memory", "{ready:?}");
    let mut refused = RawClient::open(address, "/v1/connect?user=newcomer").await;
    assert_eq!(refused.wait_for_close().await, Some(1013));
    // The largest holders are closed until the rest fits; then newcomers are accepted again.
    let deadline = Instant::now() + DEADLINE;
    while get(address, "/readyz").await.status != 200 {
        assert!(Instant::now() < deadline, "the server never recovers");
        sleep(POLL).await;
    }
    let shed = get(address, "/v1/stats").await.json()["connections_shed"].as_u64();
    assert!(shed.is_some_and(|shed| shed > 0), "{shed:?}");
    let _newcomer = Mirror::connect(address, "newcomer", &["lobby"]).await;
    process.signal("TERM");
}

#[tokio::test]
async fn a_server_that_completes_no_tick_is_not_ready() {
    let server = TestServer::start(&[]);
    assert_eq!(server.get("/readyz").await.status, 200);
    let address = server.address();
    let ask = move || {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            if answer.starts_with("HTTP/1.1 503") {
                return answer;
            }
            std::thread::sleep(POLL);
        }
        panic!("the server claims to be ready");
    };
    // The server ticks on the thread of the test, which waits here.
    let answer = std::thread::spawn(ask).join().unwrap();
    assert!(answer.contains(r#""code":"stalled""#), "{answer}");
    while server.get("/readyz").await.status != 200 {
        sleep(POLL).await;
    }
    server.stop().await;
}
