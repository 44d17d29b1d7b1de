//! Faults at random, one after the other and each shorter than a lease, while people come and go: who stays is never seen
//! leaving, and in the end everybody agrees.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::common::{Mirror, Node, Proxy, ProxyMode, Redis, RoomObservers};

const TIME: Duration = Duration::from_secs(10);
/// Each fault is shorter, on a loaded machine too.
const FLAGS: [&str; 2] = ["--ttl", "40s"];
const NODES: usize = 3;
const STAYING: usize = 6;
const MOVING: usize = 6;

/// Marsaglia's xorshift (Journal of Statistical Software 8, 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("below a limit that is one")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Away,
    Hanging,
    Flushed,
    Killed,
    Way(usize, ProxyMode),
    Losing(usize),
    Deaf(usize),
    Stopped(usize),
}

struct World {
    redis: Redis,
    proxies: Vec<Proxy>,
    nodes: Vec<Node>,
}

impl World {
    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Away => self.redis.kill(),
            Fault::Hanging => self.redis.hang(),
            Fault::Flushed => drop(self.redis.command(&["FLUSHALL"]).await),
            Fault::Killed => {
                for kind in ["normal", "pubsub"] {
                    self.redis.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
                }
            }
            Fault::Way(node, mode) => self.proxies[node].set(mode),
            Fault::Losing(node) => self.proxies[node].drop_events(true),
            Fault::Deaf(node) => self.proxies[node].silence_subscriptions(),
            Fault::Stopped(node) => self.nodes[node].signal("STOP"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Away => self.redis.restart().await,
            Fault::Hanging => self.redis.resume(),
            Fault::Flushed | Fault::Killed | Fault::Deaf(_) => {}
            Fault::Way(node, _) => self.proxies[node].set(ProxyMode::Forward),
            Fault::Losing(node) => self.proxies[node].drop_events(false),
            Fault::Stopped(node) => self.nodes[node].signal("CONT"),
        }
    }
}

fn any_fault(random: &mut Random) -> Fault {
    let node = random.below(NODES);
    match random.below(11) {
        0 => Fault::Away,
        1 => Fault::Hanging,
        2 => Fault::Flushed,
        3 => Fault::Killed,
        4 => Fault::Way(node, ProxyMode::Disconnect),
        5 => Fault::Way(node, ProxyMode::Refuse),
        6 => Fault::Way(node, ProxyMode::Stall),
        7 => Fault::Way(node, ProxyMode::Delay(Duration::from_millis(random.below(400) as u64))),
        8 => Fault::Losing(node),
        9 => Fault::Deaf(node),
        _ => Fault::Stopped(node),
    }
}

async fn live_through(seed: u64) {
    let mut random = Random(seed);
    let redis = Redis::start().await;
    let (mut proxies, mut nodes) = (Vec::new(), Vec::new());
    for id in ["a", "b", "c"] {
        let proxy = Proxy::to(redis.address()).await;
        nodes.push(Node::start(id, &proxy.url(), &FLAGS).await);
        proxies.push(proxy);
    }
    let mut world = World { redis, proxies, nodes };
    let mut observers = RoomObservers::on(&world.nodes.iter().collect::<Vec<_>>(), "lobby").await;
    let users: Vec<_> =
        (0..STAYING).map(|n| format!("stays {n}")).chain((0..MOVING).map(|n| format!("moves {n}"))).collect();
    let (staying, moving): (Vec<&str>, Vec<&str>) =
        users.iter().map(String::as_str).partition(|user| user.starts_with('s'));
    // Sessions by user and node. The first of a user who stays is never closed.
    let mut sessions: BTreeMap<(usize, usize), Mirror> = BTreeMap::new();
    for (number, user) in staying.iter().enumerate() {
        sessions.insert((number, number % NODES), world.nodes[number % NODES].connect_to(user, "lobby").await);
    }
    observers.wait_for_members(&world.nodes.iter().collect::<Vec<_>>(), &staying).await;
    observers.allow_leaves(&moving);
    let end = Instant::now() + TIME;
    // Shown if it fails.
    let began = Instant::now();
    let mut fault: Option<(Fault, Instant)> = None;
    while Instant::now() < end || fault.is_some() {
        match fault {
            None => {
                let next = any_fault(&mut random);
                println!("{:?}: {next:?}", began.elapsed());
                world.begin(next).await;
                fault = Some((next, Instant::now() + Duration::from_millis(200 + random.below(1300) as u64)));
            }
            Some((over, at)) if Instant::now() >= at => {
                world.end(over).await;
                println!("{:?}: over", began.elapsed());
                fault = None;
            }
            Some(_) => {}
        }
        let (user, node) = (random.below(users.len()), random.below(NODES));
        let stopped = matches!(fault, Some((Fault::Stopped(stopped), _)) if stopped == node);
        let first = user < STAYING && node == user % NODES;
        match sessions.get(&(user, node)) {
            None if !stopped => {
                let device = world.nodes[node].connect(&users[user]).await;
                device.send(&json!({"type": "join", "room": "lobby", "observe": false}));
                sessions.insert((user, node), device);
            }
            Some(device) if first || random.below(2) == 0 => {
                device.send(&json!({"type": "state", "room": "lobby", "state": {"n": random.below(1000)}}));
            }
            Some(device) => {
                device.close(1000);
                sessions.remove(&(user, node));
            }
            None => {}
        }
        observers.apply_pending();
        sleep(Duration::from_millis(20 + random.below(60) as u64)).await;
    }
    let mut there: Vec<_> = sessions.keys().map(|&(user, _)| users[user].as_str()).collect();
    there.sort_unstable();
    there.dedup();
    let nodes: Vec<_> = world.nodes.iter().collect();
    observers.wait_for_members(&nodes, &there).await;
    for node in &nodes {
        node.wait_until_degraded(false).await;
    }
    observers.wait_for_members(&nodes, &there).await;
    observers.assert_stable(&staying);
}

#[tokio::test]
async fn faults_in_one_order() {
    live_through(0x9E37_79B9_7F4A_7C15).await;
}

#[tokio::test]
async fn faults_in_another_order() {
    live_through(0xD1B5_4A32_D192_ED03).await;
}

#[tokio::test]
async fn faults_in_a_third_order() {
    live_through(0x94D0_49BB_1331_11EB).await;
}
