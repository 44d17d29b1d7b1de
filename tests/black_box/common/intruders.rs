//! Clients without a valid credential, which try to get in all the time. The test fails as soon as one is let in.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::frame::{CLOSE, PING};
use super::front_door::Header;
use super::raw::upgrade_request;
use super::{DEADLINE, FrontDoor, Node, RawClient, http};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// All protocols of connections.
const PATHS: [&str; 4] =
    ["/v1/connect?user=intruder&room=lobby", "/ws/intruder", "/ws-online-status?userId=intruder", "/ws"];
/// Lists of who is online.
const LISTS: [&str; 2] = ["/v1/rooms/lobby/members", "/online_users"];

pub(crate) struct Intruders {
    /// Whether there is a door to get through. Nobody intrudes into open nodes.
    is_closed: bool,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    /// Rounds in which each credential was tried on each node, and how many attempts a node refused.
    rounds: watch::Receiver<(usize, usize)>,
    task: JoinHandle<()>,
}

impl Drop for Intruders {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Intruders {
    /// Begins to try the nodes.
    pub(crate) fn of(door: &FrontDoor, nodes: &[&Node]) -> Self {
        let (forgeries, targets) = (door.forgeries(), Arc::default());
        let (counter, rounds) = watch::channel((0, 0));
        let is_closed = !forgeries.is_empty();
        let task = tokio::spawn(attempt_all(forgeries, Arc::clone(&targets), counter));
        let intruders = Self { is_closed, targets, rounds, task };
        intruders.turn_to(nodes);
        intruders
    }

    /// Tries these nodes from now on.
    pub(crate) fn turn_to(&self, nodes: &[&Node]) {
        let addresses = nodes.iter().map(|node| node.address).filter(|_| self.is_closed);
        *self.targets.lock().expect("no panic") = addresses.collect();
    }

    /// Waits for a round that begins after this call. Fails if an intruder was let in.
    pub(crate) async fn check(&mut self) {
        let (begun, refused) = *self.rounds.borrow();
        let wait = self.rounds.wait_for(|(rounds, _)| *rounds >= begun + 2);
        let after = timeout(DEADLINE, wait).await.expect("rounds end").map(|rounds| *rounds);
        match after {
            Ok((_, now_refused)) => assert!(now_refused > refused || self.targets.lock().unwrap().is_empty()),
            Err(_) => panic!("an intruder was let in; see above"),
        }
    }
}

async fn attempt_all(
    forgeries: Vec<Vec<Header>>,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    counter: watch::Sender<(usize, usize)>,
) {
    // A server of another test may have the port of a node that is no target any more.
    let is_target = |address: SocketAddr| targets.lock().expect("no panic").contains(&address);
    for round in 0.. {
        let addresses = targets.lock().expect("no panic").clone();
        let mut refused = 0;
        for (number, address) in addresses.into_iter().enumerate() {
            for (of, forgery) in forgeries.iter().enumerate() {
                let path = PATHS[(round + number + of) % PATHS.len()];
                let answer = answer(address, path, forgery).await;
                let is_in = answer == Answer::Admitted && is_target(address);
                assert!(!is_in, "{address} lets an intruder into {path} with {forgery:?}");
                refused += usize::from(answer == Answer::Refused);
                sleep(PAUSE).await;
            }
            let list = LISTS[round % LISTS.len()];
            let status = status_of_list(address, list).await;
            let is_refused = status.is_none_or(|status| matches!(status, 401 | 403 | 503));
            assert!(is_refused || !is_target(address), "{address} lets an intruder read {list}: {status:?}");
        }
        counter.send_modify(|(rounds, all)| (*rounds, *all) = (*rounds + 1, *all + refused));
        sleep(PAUSE).await;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// A message, which only clients that are let in receive.
    Admitted,
    Refused,
    /// The node does not run, or has ended during the attempt.
    Gone,
}

async fn answer(address: SocketAddr, path: &str, headers: &[Header]) -> Answer {
    let Ok(stream) = TcpStream::connect(address).await else { return Answer::Gone };
    let mut client = RawClient::over(stream);
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
    client.send(&upgrade_request(path, &headers)).await;
    match client.try_head().await {
        None => return Answer::Gone,
        Some(head) if head.status != 101 => return Answer::Refused,
        Some(_) => {}
    }
    if path == "/ws" {
        // The chat sends nothing before the client speaks.
        client.send_json(&serde_json::json!({"type": "join", "payload": {"user": "intruder"}})).await;
    }
    loop {
        match client.frame().await {
            None => return Answer::Gone,
            Some(frame) if frame.opcode == PING => {}
            Some(frame) if frame.opcode == CLOSE => {
                let is_refusal = matches!(frame.close_code(), Some(1008 | 1013 | 4401));
                return if is_refusal { Answer::Refused } else { Answer::Gone };
            }
            Some(_) => return Answer::Admitted,
        }
    }
}

/// The status of the answer to a request for a list, if the node answers.
async fn status_of_list(address: SocketAddr, path: &str) -> Option<u16> {
    let mut client = RawClient::over(TcpStream::connect(address).await.ok()?);
    client.send(&http::request_text("GET", path, &[], b"")).await;
    client.try_head().await.map(|head| head.status)
}

/// Whether a native client with these headers is let in.
pub(crate) async fn is_welcome(address: SocketAddr, user: &str, headers: &[Header]) -> bool {
    answer(address, &format!("/v1/connect?user={user}"), headers).await == Answer::Admitted
}
