//! Random faults while users join and leave, one at a time and each shorter than a lease. No observer sees a leave of a
//! user who stays, and at the end all nodes agree.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::common::{Mirror, Node, Proxy, ProxyMode, Redis, RoomObservers};

/// How long faults happen.
const TIME: Duration = Duration::from_secs(10);
/// A lease that is longer than each fault, even on a loaded machine.
const FLAGS: [&str; 2] = ["--ttl", "40s"];
const NODES: usize = 3;
/// Users whose first connection is never closed.
const STAYING: usize = 6;
/// Users who join and leave.
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
    RedisKilled,
    RedisStopped,
    RedisFlushed,
    ConnectionsClosed,
    /// The connection between a node and Redis.
    Network(usize, ProxyMode),
    EventsDropped(usize),
    SubscriptionsSilent(usize),
    NodeStopped(usize),
}

struct Cluster {
    redis: Redis,
    proxies: Vec<Proxy>,
    nodes: Vec<Node>,
}

impl Cluster {
    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::RedisKilled => self.redis.kill(),
            Fault::RedisStopped => self.redis.hang(),
            Fault::RedisFlushed => drop(self.redis.command(&["FLUSHALL"]).await),
            Fault::ConnectionsClosed => {
                for kind in ["normal", "pubsub"] {
                    self.redis.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
                }
            }
            Fault::Network(node, mode) => self.proxies[node].set(mode),
            Fault::EventsDropped(node) => self.proxies[node].drop_events(true),
            Fault::SubscriptionsSilent(node) => self.proxies[node].silence_subscriptions(),
            Fault::NodeStopped(node) => self.nodes[node].signal("STOP"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::RedisKilled => self.redis.restart().await,
            Fault::RedisStopped => self.redis.resume(),
            Fault::RedisFlushed | Fault::ConnectionsClosed | Fault::SubscriptionsSilent(_) => {}
            Fault::Network(node, _) => self.proxies[node].set(ProxyMode::Forward),
            Fault::EventsDropped(node) => self.proxies[node].drop_events(false),
            Fault::NodeStopped(node) => self.nodes[node].signal("CONT"),
        }
    }
}

fn any_fault(random: &mut Random) -> Fault {
    let node = random.below(NODES);
    match random.below(11) {
        0 => Fault::RedisKilled,
        1 => Fault::RedisStopped,
        2 => Fault::RedisFlushed,
        3 => Fault::ConnectionsClosed,
        4 => Fault::Network(node, ProxyMode::Disconnect),
        5 => Fault::Network(node, ProxyMode::Refuse),
        6 => Fault::Network(node, ProxyMode::Stall),
        7 => Fault::Network(node, ProxyMode::Delay(Duration::from_millis(random.below(400) as u64))),
        8 => Fault::EventsDropped(node),
        9 => Fault::SubscriptionsSilent(node),
        _ => Fault::NodeStopped(node),
    }
}

async fn run_random_faults(seed: u64) {
    let mut random = Random(seed);
    let redis = Redis::start().await;
    let (mut proxies, mut nodes) = (Vec::new(), Vec::new());
    for id in ["a", "b", "c"] {
        let proxy = Proxy::to(redis.address()).await;
        nodes.push(Node::start(id, &proxy.url(), &FLAGS).await);
        proxies.push(proxy);
    }
    let mut cluster = Cluster { redis, proxies, nodes };
    let mut observers = RoomObservers::on(&cluster.nodes.iter().collect::<Vec<_>>(), "lobby").await;
    let users: Vec<_> =
        (0..STAYING).map(|n| format!("stays {n}")).chain((0..MOVING).map(|n| format!("moves {n}"))).collect();
    let (staying, moving): (Vec<&str>, Vec<&str>) =
        users.iter().map(String::as_str).partition(|user| user.starts_with('s'));
    // Connections by user and node. The first connection of a user who stays is never closed.
    let mut connections: BTreeMap<(usize, usize), Mirror> = BTreeMap::new();
    for (number, user) in staying.iter().enumerate() {
        connections.insert((number, number % NODES), cluster.nodes[number % NODES].connect_to(user, "lobby").await);
    }
    observers.wait_for_members(&cluster.nodes.iter().collect::<Vec<_>>(), &staying).await;
    observers.allow_leaves(&moving);
    let end = Instant::now() + TIME;
    // Printed faults appear in the output of a failed test.
    let began = Instant::now();
    let mut fault: Option<(Fault, Instant)> = None;
    while Instant::now() < end || fault.is_some() {
        match fault {
            None => {
                let next = any_fault(&mut random);
                println!("{:?}: {next:?}", began.elapsed());
                cluster.begin(next).await;
                fault = Some((next, Instant::now() + Duration::from_millis(200 + random.below(1300) as u64)));
            }
            Some((over, at)) if Instant::now() >= at => {
                cluster.end(over).await;
                println!("{:?}: end of {over:?}", began.elapsed());
                fault = None;
            }
            Some(_) => {}
        }
        let (user, node) = (random.below(users.len()), random.below(NODES));
        let stopped = matches!(fault, Some((Fault::NodeStopped(stopped), _)) if stopped == node);
        let first = user < STAYING && node == user % NODES;
        match connections.get(&(user, node)) {
            None if !stopped => {
                let client = cluster.nodes[node].connect(&users[user]).await;
                client.send(&json!({"type": "join", "room": "lobby", "observe": false}));
                connections.insert((user, node), client);
            }
            Some(client) if first || random.below(2) == 0 => {
                client.send(&json!({"type": "state", "room": "lobby", "state": {"n": random.below(1000)}}));
            }
            Some(client) => {
                client.close(1000);
                connections.remove(&(user, node));
            }
            None => {}
        }
        observers.apply_pending();
        sleep(Duration::from_millis(20 + random.below(60) as u64)).await;
    }
    let mut present: Vec<_> = connections.keys().map(|&(user, _)| users[user].as_str()).collect();
    present.sort_unstable();
    present.dedup();
    check_agreement(&cluster, &mut observers, &present).await;
    observers.assert_stable(&staying);
}

/// Waits until all nodes see these users and are not degraded.
async fn check_agreement(cluster: &Cluster, observers: &mut RoomObservers, present: &[&str]) {
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    observers.wait_for_members(&nodes, present).await;
    for node in &nodes {
        node.wait_until_degraded(false).await;
    }
    observers.wait_for_members(&nodes, present).await;
}

#[tokio::test]
async fn staying_users_never_leave_during_random_faults() {
    run_random_faults(0x9E37_79B9_7F4A_7C15).await;
}

#[tokio::test]
async fn staying_users_never_leave_during_other_random_faults() {
    run_random_faults(0xD1B5_4A32_D192_ED03).await;
}

#[tokio::test]
async fn staying_users_never_leave_during_a_third_series_of_random_faults() {
    run_random_faults(0x94D0_49BB_1331_11EB).await;
}
