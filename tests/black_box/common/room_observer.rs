//! Who looks at a room on every node and remembers each coming and going. A leave that nobody has caused fails the test
//! at once, and so do rosters that do not become equal.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::node::Node;
use super::redis::POLL;
use super::room::string;
use super::{DEADLINE, Mirror, Promise};

/// What somebody who looks was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    Joined(String),
    /// With the reason that the diff gave, or `snapshot` if a snapshot just was without the user.
    Left(String, String),
}

struct Witness {
    node: String,
    mirror: Mirror,
    /// How much of the mirror's log has been looked at, and the members and edges as of there.
    read: usize,
    members: BTreeSet<String>,
    seen: bool,
    edges: Vec<Edge>,
}

pub(crate) struct Witnesses {
    room: String,
    list: Vec<Witness>,
    /// Who may be seen leaving.
    leavers: BTreeSet<String>,
}

impl Witnesses {
    /// One on each node, unseen itself.
    pub(crate) async fn on(nodes: &[&Node], room: &str) -> Self {
        let mut witnesses = Self { room: room.to_owned(), list: Vec::new(), leavers: BTreeSet::new() };
        for node in nodes {
            witnesses.add(node).await;
        }
        witnesses
    }

    pub(crate) async fn add(&mut self, node: &Node) {
        let mut mirror = node.connect("witness").await;
        mirror.send(&json!({"type": "observe", "room": self.room}));
        mirror.wait_until("the snapshot", |mirror| mirror.sees(&self.room)).await;
        let (members, edges) = (BTreeSet::new(), Vec::new());
        let mut witness = Witness { node: node.id.clone(), mirror, read: 0, members, seen: false, edges };
        witness.pump(&self.room);
        self.list.push(witness);
    }

    /// No longer looks on a node, because it is about to end.
    pub(crate) fn forget(&mut self, node: &Node) {
        self.list.retain(|witness| witness.node != node.id);
    }

    /// From now on these may be seen leaving.
    pub(crate) fn may_leave(&mut self, users: &[&str]) {
        self.leavers.extend(users.iter().map(|&user| user.to_owned()));
    }

    /// From now on nobody may be seen leaving.
    pub(crate) fn all_stay(&mut self) {
        self.pump();
        self.leavers.clear();
    }

    /// Takes in what has come. Fails on leaves that nobody caused and on connections that ended.
    pub(crate) fn pump(&mut self) {
        for witness in &mut self.list {
            let known = witness.edges.len();
            witness.pump(&self.room);
            assert!(!witness.mirror.ended, "{} has lost its connection: {}", witness.node, witness.mirror.describe());
            for edge in &witness.edges[known..] {
                let Edge::Left(user, reason) = edge else { continue };
                let caused = self.leavers.contains(user);
                assert!(caused, "{} saw {user} leave ({reason}): {}", witness.node, witness.mirror.describe());
            }
        }
    }

    /// Waits until exactly these users are there for every witness, and for whoever asks their nodes over HTTP.
    pub(crate) async fn agree(&mut self, nodes: &[&Node], users: &[&str]) {
        self.agree_within(DEADLINE, nodes, users).await;
    }

    /// The same before the nodes have had so much time.
    pub(crate) async fn agree_within(&mut self, time: Duration, nodes: &[&Node], users: &[&str]) {
        let wanted: BTreeSet<_> = users.iter().map(|&user| user.to_owned()).collect();
        let mut promise = Promise::of(nodes, time).await;
        loop {
            let over = promise.is_over().await;
            self.pump();
            let mut differing: Vec<_> = self.list.iter().filter(|witness| witness.members != wanted).collect();
            if differing.is_empty() && self.states_agree() && same_over_http(nodes, &self.room, &wanted).await {
                return;
            }
            let example = differing.pop().map(|witness| format!("{}: {:?}", witness.node, witness.members));
            assert!(!over, "no agreement on {wanted:?}, but {example:?}");
            sleep(POLL).await;
        }
    }

    /// Looks on for a while in which nobody may be seen leaving who may not.
    pub(crate) async fn look_on(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.pump();
            sleep(POLL).await;
        }
    }

    /// Whether every witness knows the same members with the same states.
    fn states_agree(&self) -> bool {
        let rosters: Vec<_> = self.list.iter().map(|witness| witness.mirror.members(&self.room)).collect();
        rosters.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Waits until every witness knows this state of `user`.
    pub(crate) async fn see_state(&mut self, user: &str, state: &Value) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.pump();
            let known = |witness: &Witness| witness.mirror.state(&self.room, user) == Some(state);
            if self.list.iter().all(known) {
                return;
            }
            assert!(Instant::now() < deadline, "not everybody sees {state} of {user}");
            sleep(POLL).await;
        }
    }

    /// What the witnesses were shown of `user`, one list for each.
    pub(crate) fn edges_of(&mut self, user: &str) -> Vec<Vec<Edge>> {
        self.pump();
        let about = |edge: &&Edge| matches!(edge, Edge::Joined(of) | Edge::Left(of, _) if of == user);
        self.list.iter().map(|witness| witness.edges.iter().filter(about).cloned().collect()).collect()
    }

    /// Nobody was shown more of these than that they came, once.
    pub(crate) fn assert_still(&mut self, users: &[&str]) {
        for user in users {
            let came = |edges: &Vec<Edge>| matches!(&edges[..], [] | [Edge::Joined(_)]);
            let edges = self.edges_of(user);
            assert!(edges.iter().all(came), "{user}: {edges:?}");
        }
    }

    /// Every witness was shown that `user` left exactly once, for one of these reasons.
    pub(crate) fn assert_left_once(&mut self, user: &str, reasons: &[&str]) {
        for edges in self.edges_of(user) {
            let left: Vec<_> = edges.iter().filter(|edge| matches!(edge, Edge::Left(..))).collect();
            let good = |edge: &&&Edge| matches!(edge, Edge::Left(_, reason) if reasons.contains(&reason.as_str()));
            assert!(left.len() == 1 && left.iter().all(|edge| good(&edge)), "{user}: {edges:?}");
        }
    }

    /// The witness on a node.
    pub(crate) fn mirror(&mut self, node: &Node) -> &mut Mirror {
        let witness = self.list.iter_mut().find(|witness| witness.node == node.id);
        &mut witness.expect("somebody looks there").mirror
    }
}

async fn same_over_http(nodes: &[&Node], room: &str, wanted: &BTreeSet<String>) -> bool {
    for node in nodes {
        if !node.members(room).await.keys().eq(wanted) {
            return false;
        }
    }
    true
}

impl Witness {
    fn pump(&mut self, room: &str) {
        self.mirror.pump();
        for message in &self.mirror.log[self.read..] {
            if message["room"] != room {
                continue;
            }
            match message["type"].as_str() {
                Some("diff") => {
                    for entry in message["left"].as_array().into_iter().flatten() {
                        let user = string(entry, "user");
                        self.members.remove(&user);
                        self.edges.push(Edge::Left(user, string(entry, "reason")));
                    }
                    for entry in message["joined"].as_array().into_iter().flatten() {
                        let user = string(entry, "user");
                        self.members.insert(user.clone());
                        self.edges.push(Edge::Joined(user));
                    }
                }
                Some("snapshot") => {
                    assert_eq!(message["pages"], 1, "rooms with witnesses are small");
                    let listed = message["members"].as_array().expect("a list").iter();
                    let members: BTreeSet<_> = listed.map(|entry| string(entry, "user")).collect();
                    if self.seen {
                        let gone = self.members.difference(&members).cloned();
                        self.edges.extend(gone.map(|user| Edge::Left(user, "snapshot".to_owned())));
                        self.edges.extend(members.difference(&self.members).cloned().map(Edge::Joined));
                    }
                    self.seen = true;
                    self.members = members;
                }
                _ => {}
            }
        }
        self.read = self.mirror.log.len();
    }
}
