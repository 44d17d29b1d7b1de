//! Event logs of several nodes: together they contain each join and leave once, whichever nodes a user is on.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::common::event_log::{EventLog, summary};
use crate::common::node::wait_until_known;
use crate::common::{Mirror, Node, SHORT_TTL_FLAG, Store};

on_both!(each_change_is_logged_by_one_node, other_nodes_log_the_leaves_of_a_dead_node);

const ROOM: &str = "lobby";

/// A node and its log.
struct Logging {
    node: Node,
    log: EventLog,
}

impl Logging {
    /// Starts nodes one after the other: the first has the lowest incarnation.
    async fn three(store: &Store, flags: &[&str]) -> [Self; 3] {
        [
            Self::start(store, "a", flags).await,
            Self::start(store, "b", flags).await,
            Self::start(store, "c", flags).await,
        ]
    }

    async fn start(store: &Store, id: &str, flags: &[&str]) -> Self {
        let log = EventLog::new();
        let node = store.node_with(id, &[&["--event-log", log.argument()], flags].concat()).await;
        Self { node, log }
    }

    /// The events of the room in the log, as short texts, once all announced changes have been written.
    async fn logged(&self) -> Vec<String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let room = format!("marker {}", NEXT.fetch_add(1, Ordering::Relaxed));
        let marker = self.node.connect("marker").await;
        marker.send(&json!({"type": "join", "room": room}));
        let is_marker = |event: &Value| event["room"] == room.as_str();
        let events = self.log.wait_until("the marker", |events| events.iter().any(is_marker)).await;
        assert!(events.iter().all(|event| event["node"] == self.node.id.as_str()), "{events:?}");
        events.iter().filter(|event| event["room"] == ROOM).map(summary).collect()
    }
}

/// Connects a user to the room and waits until all nodes know.
async fn connect(user: &str, node: &Node, all: &[&Node]) -> Mirror {
    let client = node.connect_to(user, ROOM).await;
    wait_until_known(&client, all).await;
    client
}

/// Leaves the room and waits until all nodes know.
async fn leave(client: &Mirror, all: &[&Node]) {
    client.send(&json!({"type": "leave", "room": ROOM}));
    wait_until_known(client, all).await;
}

async fn wait_until_empty(nodes: &[&Node]) {
    for node in nodes {
        node.wait_until("the room is empty", async || node.members(ROOM).await.is_empty()).await;
    }
}

async fn each_change_is_logged_by_one_node(store: Store) {
    let [a, b, c] = Logging::three(&store, &[]).await;
    let all = [&a.node, &b.node, &c.node];
    // Users on one node: it logs the join and the leave.
    for (user, node) in [("on a", &a.node), ("on b", &b.node), ("on c", &c.node)] {
        let client = connect(user, node, &all).await;
        leave(&client, &all).await;
    }
    // Users on several nodes: the first node logs the join. The node with the lowest incarnation logs the leave,
    // whichever node the user leaves last.
    for (user, nodes) in [
        ("c, b, a", [&c.node, &b.node, &a.node]),
        ("b, a, c", [&b.node, &a.node, &c.node]),
        ("a, c, b", [&a.node, &c.node, &b.node]),
    ] {
        let mut clients = Vec::new();
        for node in nodes {
            clients.push(connect(user, node, &all).await);
        }
        for client in &clients {
            leave(client, &all).await;
        }
    }
    for (user, nodes) in [("b, c", [&b.node, &c.node]), ("c, b", [&c.node, &b.node])] {
        let first = connect(user, nodes[0], &all).await;
        let second = connect(user, nodes[1], &all).await;
        leave(&first, &all).await;
        leave(&second, &all).await;
    }
    wait_until_empty(&all).await;
    let both = |user: &str| [format!("join lobby {user}"), format!("leave lobby {user} left")];
    let [join, leave] = both("c, b, a");
    let [other_join, other_leave] = both("b, a, c");
    let [bc_join, bc_leave] = both("b, c");
    let [cb_join, cb_leave] = both("c, b");
    let of_a = [both("on a").to_vec(), vec![leave, other_leave], both("a, c, b").to_vec()].concat();
    assert_eq!(a.logged().await, of_a);
    let of_b = [both("on b").to_vec(), vec![other_join, bc_join, bc_leave, cb_leave]].concat();
    assert_eq!(b.logged().await, of_b);
    let of_c = [both("on c").to_vec(), vec![join, cb_join]].concat();
    assert_eq!(c.logged().await, of_c);
}

async fn other_nodes_log_the_leaves_of_a_dead_node(store: Store) {
    let [a, b, c] = Logging::three(&store, &SHORT_TTL_FLAG).await;
    let all = [&a.node, &b.node, &c.node];
    let _alice = connect("alice", &a.node, &all).await;
    let _here = connect("bob", &a.node, &all).await;
    let bob = connect("bob", &c.node, &all).await;
    let _carol = connect("carol", &b.node, &all).await;
    let joins = [a.logged().await, b.logged().await, c.logged().await];
    assert_eq!(joins, [vec!["join lobby alice", "join lobby bob"], vec!["join lobby carol"], vec![]]);
    a.node.kill();
    let living = [&b.node, &c.node];
    for node in living {
        let has_left = async || !node.members(ROOM).await.contains_key("alice");
        node.wait_until("the users of the dead node leave", has_left).await;
    }
    leave(&bob, &living).await;
    for node in living {
        node.wait_until("bob leaves", async || node.members(ROOM).await.len() == 1).await;
    }
    assert_eq!(b.logged().await, ["join lobby carol", "leave lobby alice node_lost"]);
    assert_eq!(c.logged().await, ["leave lobby bob left"]);
}
