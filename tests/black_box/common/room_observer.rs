//! Observers of one room, one per node, that record every join and leave. A leave that the test has not allowed fails
//! the test at once. The test also fails if the observers do not agree in time.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::node::Node;
use super::redis::POLL;
use super::room::string;
use super::{DEADLINE, Mirror, TickDeadline};

/// A change that an observer received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MembershipChange {
    Joined(String),
    /// User and reason: the one in the diff, or `snapshot` if a later snapshot lacks the user.
    Left(String, String),
}

struct RoomObserver {
    node: String,
    mirror: Mirror,
    /// How many messages of the mirror's log have been processed. `members` and `changes` result from these.
    read: usize,
    members: BTreeSet<String>,
    /// Whether the first snapshot has been processed.
    attached: bool,
    changes: Vec<MembershipChange>,
}

pub(crate) struct RoomObservers {
    room: String,
    list: Vec<RoomObserver>,
    /// The users that may leave.
    leavers: BTreeSet<String>,
}

impl RoomObservers {
    /// One observer per node; observers are not members.
    pub(crate) async fn on(nodes: &[&Node], room: &str) -> Self {
        let mut observers = Self { room: room.to_owned(), list: Vec::new(), leavers: BTreeSet::new() };
        for node in nodes {
            observers.add(node).await;
        }
        observers
    }

    pub(crate) async fn add(&mut self, node: &Node) {
        let mut mirror = node.connect("observer").await;
        mirror.send(&json!({"type": "observe", "room": self.room}));
        mirror.wait_until("the snapshot", |mirror| mirror.observes(&self.room)).await;
        let (members, changes) = (BTreeSet::new(), Vec::new());
        let mut observer = RoomObserver { node: node.id.clone(), mirror, read: 0, members, attached: false, changes };
        observer.apply_pending(&self.room);
        self.list.push(observer);
    }

    /// Removes the observer on a node that is about to end.
    pub(crate) fn remove(&mut self, node: &Node) {
        self.list.retain(|observer| observer.node != node.id);
    }

    /// From now on these users may leave.
    pub(crate) fn allow_leaves(&mut self, users: &[&str]) {
        self.leavers.extend(users.iter().map(|&user| user.to_owned()));
    }

    /// From now on no user may leave.
    pub(crate) fn forbid_leaves(&mut self) {
        self.apply_pending();
        self.leavers.clear();
    }

    /// Processes what has been received. Fails on leaves that are not allowed and on connections that ended.
    pub(crate) fn apply_pending(&mut self) {
        for observer in &mut self.list {
            let known = observer.changes.len();
            observer.apply_pending(&self.room);
            assert!(
                !observer.mirror.ended,
                "{} has lost its connection: {}",
                observer.node,
                observer.mirror.describe()
            );
            for change in &observer.changes[known..] {
                let MembershipChange::Left(user, reason) = change else { continue };
                let allowed = self.leavers.contains(user);
                let (node, mirror) = (&observer.node, observer.mirror.describe());
                assert!(allowed, "the observer on {node} saw {user} leave ({reason}): {mirror}");
            }
        }
    }

    /// Waits until every observer, and the HTTP API of every node, has exactly these members.
    pub(crate) async fn wait_for_members(&mut self, nodes: &[&Node], users: &[&str]) {
        self.wait_for_members_within(DEADLINE, nodes, users).await;
    }

    /// The same, but fails after this time, measured in ticks of the nodes.
    pub(crate) async fn wait_for_members_within(&mut self, time: Duration, nodes: &[&Node], users: &[&str]) {
        let wanted: BTreeSet<_> = users.iter().map(|&user| user.to_owned()).collect();
        let mut tick_deadline = TickDeadline::after(nodes, time).await;
        loop {
            let over = tick_deadline.has_passed().await;
            self.apply_pending();
            let mut differing: Vec<_> = self.list.iter().filter(|observer| observer.members != wanted).collect();
            if differing.is_empty() && self.states_agree() && same_over_http(nodes, &self.room, &wanted).await {
                return;
            }
            let example = differing.pop().map(|observer| format!("{}: {:?}", observer.node, observer.members));
            assert!(!over, "the members are not {wanted:?}; an observer has {example:?}");
            sleep(POLL).await;
        }
    }

    /// Observes for a while. Fails on leaves that are not allowed.
    pub(crate) async fn observe_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.apply_pending();
            sleep(POLL).await;
        }
    }

    /// Whether all observers have the same members with the same states.
    fn states_agree(&self) -> bool {
        let rosters: Vec<_> = self.list.iter().map(|observer| observer.mirror.members(&self.room)).collect();
        rosters.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Waits until every observer has this state of `user`.
    pub(crate) async fn wait_for_state(&mut self, user: &str, state: &Value) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.apply_pending();
            let known = |observer: &RoomObserver| observer.mirror.state(&self.room, user) == Some(state);
            if self.list.iter().all(known) {
                return;
            }
            assert!(Instant::now() < deadline, "not every observer has the state {state} of {user}");
            sleep(POLL).await;
        }
    }

    /// The changes of `user` that the observers received, one list per observer.
    pub(crate) fn changes_of(&mut self, user: &str) -> Vec<Vec<MembershipChange>> {
        self.apply_pending();
        let about = |change: &&MembershipChange| matches!(change, MembershipChange::Joined(of) | MembershipChange::Left(of, _) if of == user);
        self.list.iter().map(|observer| observer.changes.iter().filter(about).cloned().collect()).collect()
    }

    /// Fails if an observer received more than one join of any of these users.
    pub(crate) fn assert_stable(&mut self, users: &[&str]) {
        for user in users {
            let stable = |changes: &Vec<MembershipChange>| matches!(&changes[..], [] | [MembershipChange::Joined(_)]);
            let changes = self.changes_of(user);
            assert!(changes.iter().all(stable), "{user}: {changes:?}");
        }
    }

    /// Fails unless every observer received exactly one leave of `user`, with one of these reasons.
    pub(crate) fn assert_left_once(&mut self, user: &str, reasons: &[&str]) {
        for changes in self.changes_of(user) {
            let left: Vec<_> = changes.iter().filter(|change| matches!(change, MembershipChange::Left(..))).collect();
            let has_reason = |change: &&&MembershipChange| matches!(change, MembershipChange::Left(_, reason) if reasons.contains(&reason.as_str()));
            assert!(left.len() == 1 && left.iter().all(|change| has_reason(&change)), "{user}: {changes:?}");
        }
    }

    /// The observer on a node.
    pub(crate) fn mirror(&mut self, node: &Node) -> &mut Mirror {
        let observer = self.list.iter_mut().find(|observer| observer.node == node.id);
        &mut observer.expect("the node has an observer").mirror
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

impl RoomObserver {
    fn apply_pending(&mut self, room: &str) {
        self.mirror.apply_pending();
        for message in &self.mirror.log[self.read..] {
            if message["room"] != room {
                continue;
            }
            match message["type"].as_str() {
                Some("diff") => {
                    for entry in message["left"].as_array().into_iter().flatten() {
                        let user = string(entry, "user");
                        self.members.remove(&user);
                        self.changes.push(MembershipChange::Left(user, string(entry, "reason")));
                    }
                    for entry in message["joined"].as_array().into_iter().flatten() {
                        let user = string(entry, "user");
                        self.members.insert(user.clone());
                        self.changes.push(MembershipChange::Joined(user));
                    }
                }
                Some("snapshot") => {
                    assert_eq!(message["pages"], 1, "rooms with observers are small");
                    let listed = message["members"].as_array().expect("a list").iter();
                    let members: BTreeSet<_> = listed.map(|entry| string(entry, "user")).collect();
                    if self.attached {
                        let gone = self.members.difference(&members).cloned();
                        self.changes.extend(gone.map(|user| MembershipChange::Left(user, "snapshot".to_owned())));
                        self.changes.extend(members.difference(&self.members).cloned().map(MembershipChange::Joined));
                    }
                    self.attached = true;
                    self.members = members;
                }
                _ => {}
            }
        }
        self.read = self.mirror.log.len();
    }
}
