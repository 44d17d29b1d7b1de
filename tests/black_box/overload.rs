//! A server that does not keep up, or takes too much memory, says so and accepts no clients.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::common::frame::{CLOSE, glued};
use crate::common::http::{Response, request};
use crate::common::{DEADLINE, Frame, Mirror, Process, RawClient, TestServer};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

async fn get(address: SocketAddr, path: &str) -> Response {
    request(address, "GET", path, &[], b"").await
}

/// Connects a user who holds 100 rooms with states of 1 KB: some 200 KB. `None` if it is refused. The server may shed
/// it at any time.
async fn connect_holder(address: SocketAddr, number: usize) -> Option<RawClient> {
    let mut client = RawClient::open(address, &format!("/v1/connect?user=user-{number}")).await;
    let first = client.frame().await.expect("a frame");
    if first.opcode == CLOSE {
        assert_eq!(first.close_code(), Some(1013));
        return None;
    }
    let state = json!({"filler": "x".repeat(1000)});
    let join = |room| json!({"type": "join", "room": format!("{number}-{room}"), "state": state, "observe": false});
    let joins: Vec<Frame> = (0..100).map(|room| Frame::text(&join(room).to_string())).collect();
    client.send(&glued(&joins)).await;
    Some(client)
}

#[tokio::test]
async fn a_server_that_takes_more_memory_than_its_limit_sheds_clients_and_accepts_none() {
    // Nobody leaves for want of heartbeats, and those whose clients are closed leave soon.
    let mut process = Process::start(&["--tick", "20ms", "--ttl", "600s", "--grace", "1s", "--max-memory", "64M"]);
    let address = process.address();
    let deadline = Instant::now() + DEADLINE;
    // Users come until one is refused and the server has said why. It may have shed others meanwhile.
    let (mut users, mut is_refused, mut why) = (Vec::new(), false, None);
    while !is_refused || why.is_none() {
        match connect_holder(address, users.len()).await {
            Some(user) => users.push(user),
            None => is_refused = true,
        }
        let ready = get(address, "/readyz").await;
        why = why.or((ready.status == 503).then(|| ready.json()["error"]["code"].clone()));
        assert!(Instant::now() < deadline, "the limit has no effect on {} users", users.len());
    }
    assert_eq!(why, Some(json!("memory")));
    // The largest holders are closed until the rest fits; then newcomers are accepted again.
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
    let deadline = Instant::now() + DEADLINE;
    while server.get("/readyz").await.status != 200 {
        assert!(Instant::now() < deadline, "the server is never ready");
        sleep(POLL).await;
    }
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
