//! Three nodes, a Redis and faults between them, tick by tick.

mod chat;
mod node;
mod redis;

use std::collections::{BTreeMap, BTreeSet};

use node::SimulatedNode;
use redis::SimulatedRedis;
use rollcall::presence::Now;

pub(crate) const ROOMS: [&str; 2] = ["lobby", "a:b%"];
/// The time of the first tick.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;
pub(crate) const TICK_MS: u64 = 100;
pub(crate) const TTL_MS: u64 = 2_000;
pub(crate) const MAX_PARTITIONS: usize = 2;
/// After this time a wrong member must be corrected, or the node must report that it is degraded: longer than a lease
/// of a dead node, than the silence after which a node is suspected, and than the load of a hash.
const NOTICE_TICKS: u64 = (TTL_MS + 1500) / TICK_MS + 20;
/// Long enough for a node to be declared dead, and for everything to be read again.
const QUIET_TICKS: u64 = (3 * TTL_MS + 2 * 1500) / TICK_MS + 20;

/// What can happen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Join {
        node: usize,
        user: usize,
        room: usize,
        state: Option<u8>,
    },
    SetState {
        node: usize,
        user: usize,
        room: usize,
        state: Option<u8>,
    },
    Leave {
        node: usize,
        user: usize,
        room: usize,
    },
    End {
        node: usize,
        user: usize,
    },
    Observe {
        node: usize,
        room: usize,
    },
    Unobserve {
        node: usize,
        room: usize,
    },
    Publish {
        node: usize,
        user: usize,
        room: usize,
    },
    /// The node dies. A new one with its id starts this many ticks later.
    Crash {
        node: usize,
        ticks: u64,
    },
    /// The node receives no replies for `hang` ticks, and then cannot connect for `ticks` ticks. `is_executed` says
    /// whether Redis executes what the node sent.
    Disconnect {
        node: usize,
        is_executed: bool,
        hang: u64,
        ticks: u64,
    },
    RedisDown {
        ticks: u64,
        empty: bool,
    },
    Flush,
    WrongType,
    LoseMessage {
        node: usize,
    },
    /// Redis refuses to publish for the node.
    Silence {
        node: usize,
        ticks: u64,
    },
    /// The clock of the node is set.
    SetClock {
        node: usize,
        ahead_ms: i64,
    },
    /// The node cannot reach the server of a partition.
    CutOff {
        node: usize,
        partition: usize,
        ticks: u64,
    },
    Wait {
        ticks: u64,
    },
}

/// The users are in both of two partitions.
pub(crate) fn user_name(user: usize) -> String {
    format!("user-{user}x")
}

pub(crate) struct World {
    nodes: [Option<SimulatedNode>; 3],
    redis: SimulatedRedis,
    partitions: usize,
    tick: u64,
    /// Counts the nodes started.
    incarnations: u64,
    /// When the replacement of a crashed node starts.
    restart_at: [u64; 3],
    /// When a node's connections fail, and when it can connect again.
    disconnect_at: [u64; 3],
    reconnect_at: [u64; 3],
    /// The node loses the next message.
    loses_message: [bool; 3],
    silenced_until: [u64; 3],
    clocks_ahead_ms: [i64; 3],
    /// By node and partition.
    cut_off_until: [[u64; MAX_PARTITIONS]; 3],
    /// Since when each node shows something that is not so, without reporting that it is degraded.
    wrong_since: [BTreeMap<(String, String), u64>; 3],
    /// Users and rooms that each node holds.
    model: [BTreeSet<(usize, usize)>; 3],
    /// Observers of each room on each node.
    observers: [[u64; ROOMS.len()]; 3],
    /// Fail when any node shows a member leaving.
    pub(crate) forbid_leaves: bool,
}

impl World {
    pub(crate) fn new(partitions: usize) -> Self {
        let mut world = Self {
            nodes: [None, None, None],
            redis: SimulatedRedis::default(),
            partitions,
            tick: 0,
            incarnations: 0,
            restart_at: [0; 3],
            disconnect_at: [0; 3],
            reconnect_at: [0; 3],
            loses_message: [false; 3],
            silenced_until: [0; 3],
            clocks_ahead_ms: [0; 3],
            cut_off_until: Default::default(),
            wrong_since: Default::default(),
            model: Default::default(),
            observers: Default::default(),
            forbid_leaves: false,
        };
        world.wait(12);
        world
    }

    fn now(&self) -> Now {
        Now { tick: self.tick, unix_ms: EPOCH_MS + self.tick * TICK_MS }
    }

    pub(crate) fn act(&mut self, step: Step) {
        let now = self.now();
        match step {
            Step::Join { node, user, room, state } => {
                if let Some(alive) = &mut self.nodes[node] {
                    alive.join(user, room, state, now);
                    self.model[node].insert((user, room));
                }
            }
            Step::SetState { node, user, room, state } => {
                if let Some(alive) = &mut self.nodes[node] {
                    alive.set_state(user, room, state, now);
                }
            }
            Step::Leave { node, user, room } => {
                if let Some(alive) = &mut self.nodes[node] {
                    alive.leave(user, room);
                    self.model[node].remove(&(user, room));
                }
            }
            Step::End { node, user } => {
                if let Some(alive) = &mut self.nodes[node] {
                    alive.end(user);
                    self.model[node].retain(|(of, _)| *of != user);
                }
            }
            Step::Observe { node, room } => {
                if let Some(alive) = &mut self.nodes[node] {
                    alive.observe(room);
                    self.observers[node][room] += 1;
                }
            }
            Step::Unobserve { node, room } => {
                if let Some(alive) = self.nodes[node].as_mut().filter(|_| self.observers[node][room] > 0) {
                    alive.unobserve(room);
                    self.observers[node][room] -= 1;
                }
            }
            Step::Publish { node, user, room } => {
                if let Some(alive) = &mut self.nodes[node] {
                    alive.publish(user, room, now);
                }
            }
            Step::Crash { node, ticks } => {
                self.nodes[node] = None;
                self.model[node].clear();
                self.observers[node] = Default::default();
                self.restart_at[node] = self.tick + ticks;
            }
            Step::Disconnect { node, is_executed, hang, ticks } => {
                if let Some(alive) = &mut self.nodes[node] {
                    alive.hang(is_executed);
                    self.disconnect_at[node] = self.tick + 1 + hang;
                    self.reconnect_at[node] = self.reconnect_at[node].max(self.tick + 1 + hang + ticks);
                }
            }
            Step::RedisDown { ticks, empty } => self.take_redis_down(ticks, empty),
            Step::Flush => self.redis.clear(),
            Step::WrongType => self.redis.spoil(),
            Step::SetClock { node, ahead_ms } => self.clocks_ahead_ms[node] = ahead_ms,
            Step::Silence { node, ticks } => self.silenced_until[node] = self.tick + ticks,
            Step::CutOff { node, partition, ticks } => {
                self.cut_off_until[node][partition % self.partitions] = self.tick + ticks;
            }
            Step::LoseMessage { node } => self.loses_message[node] = true,
            Step::Wait { ticks } => self.wait(ticks),
        }
    }

    fn take_redis_down(&mut self, ticks: u64, empty: bool) {
        for (number, alive) in self.nodes.iter_mut().enumerate() {
            if let Some(alive) = alive {
                alive.hang(ticks.is_multiple_of(2));
            }
            // Nodes notice it and come back one after the other, up to a deadline and a pause apart.
            let at = number as u64;
            self.disconnect_at[number] = self.tick + 1 + (ticks + at * 3) % 10;
            self.reconnect_at[number] = self.tick + 1 + ticks.max(10) + (ticks * 3 + at * 7) % 15;
        }
        self.redis.published.clear();
        if empty {
            self.redis.clear();
        }
    }

    fn wait(&mut self, ticks: u64) {
        (0..ticks).for_each(|_| self.pass_tick());
    }

    fn pass_tick(&mut self) {
        self.tick += 1;
        self.redis.now_ms = self.tick * TICK_MS;
        let now = self.now();
        for number in 0..3 {
            if self.nodes[number].is_none() && self.tick >= self.restart_at[number] {
                self.incarnations += 1;
                self.nodes[number] = Some(SimulatedNode::new(number, self.incarnations, self.partitions));
            }
            let Some(node) = &mut self.nodes[number] else { continue };
            node.set_clock(self.clocks_ahead_ms[number]);
            node.is_silenced = self.tick < self.silenced_until[number];
            for (partition, until) in self.cut_off_until[number][..self.partitions].iter().enumerate() {
                node.cut_off(partition, self.tick < *until, self.tick);
            }
            let left = node.tick(now);
            assert!(!self.forbid_leaves || left.is_empty(), "tick {}: node {number} shows {left:?} leaving", self.tick);
            if self.tick >= self.disconnect_at[number] && self.tick < self.reconnect_at[number] {
                node.disconnect();
            }
            if self.tick < self.disconnect_at[number] || self.tick >= self.reconnect_at[number] {
                node.exchange(&mut self.redis, self.tick);
                self.deliver();
            }
        }
        self.check_notice();
    }

    /// No node shows anything wrong for long without reporting that it is degraded. A node that is cut off from Redis
    /// counts as dead for the others, so what it holds is left out.
    fn check_notice(&mut self) {
        let is_away = |number: &usize| self.nodes[*number].as_ref().is_none_or(|node| !node.is_connected);
        let named = |(user, room): &(usize, usize)| (ROOMS[*room].to_owned(), user_name(*user));
        let away: BTreeSet<_> =
            (0..3).filter(is_away).flat_map(|number| self.model[number].iter().map(named)).collect();
        let model: BTreeSet<_> = self.model.iter().flatten().map(named).collect();
        for (number, node) in self.nodes.iter().enumerate() {
            let wrong = &mut self.wrong_since[number];
            let Some(node) = node.as_ref().filter(|node| !node.is_degraded(self.tick)) else {
                wrong.clear();
                continue;
            };
            let shown: BTreeSet<_> = node.members.keys().cloned().collect();
            let different: BTreeSet<_> =
                shown.symmetric_difference(&model).filter(|pair| !away.contains(*pair)).collect();
            wrong.retain(|pair, _| different.contains(pair));
            for pair in different {
                let since = *wrong.entry(pair.clone()).or_insert(self.tick);
                let ticks = self.tick - since;
                assert!(
                    ticks <= NOTICE_TICKS,
                    "node {number} is wrong about {pair:?} for {ticks} ticks without notice"
                );
            }
        }
    }

    /// How many nodes report that they are degraded.
    pub(crate) fn degraded(&self) -> usize {
        self.nodes.iter().flatten().filter(|node| node.is_degraded(self.tick)).count()
    }

    /// What a node shows, and whether it reports that it is degraded.
    pub(crate) fn view(&self, node: usize) -> (Vec<String>, bool) {
        let node = self.nodes[node].as_ref().unwrap();
        (node.members.keys().map(|(_, user)| user.clone()).collect(), node.is_degraded(self.tick))
    }

    /// The history of messages that a node shows.
    pub(crate) fn history(&self, node: usize) -> Vec<String> {
        let node = self.nodes[node].as_ref().unwrap();
        node.shown.lock().iter().map(|(_, text)| text.clone()).collect()
    }

    /// How often a node has read leases.
    pub(crate) fn leases_read(&self, node: usize) -> u64 {
        self.nodes[node].as_ref().unwrap().leases_read
    }

    /// Delivers published messages to all connected nodes, except those that lose one.
    fn deliver(&mut self) {
        for (channel, message) in std::mem::take(&mut self.redis.published) {
            let is_channel = |partition: &usize| channel == format!("p:{{{partition}}}:events");
            let partition = (0..self.partitions).find(is_channel).unwrap();
            for (number, node) in self.nodes.iter_mut().enumerate() {
                let Some(node) = node.as_mut().filter(|node| node.is_connected) else { continue };
                if !std::mem::take(&mut self.loses_message[number]) {
                    node.inbox.push_back((partition, message.clone()));
                }
            }
        }
    }

    /// All faults end, and nothing happens for a while.
    pub(crate) fn settle(&mut self) {
        self.loses_message = [false; 3];
        let cut_off = self.cut_off_until.as_flattened();
        let latest = [&self.restart_at, &self.reconnect_at, &self.silenced_until, cut_off]
            .concat()
            .into_iter()
            .max()
            .unwrap_or(0);
        self.wait(latest.saturating_sub(self.tick) + QUIET_TICKS);
    }

    /// Every node shows the members and the numbers of observers of the model, all with the same states, and Redis has
    /// keys of exactly these users.
    pub(crate) fn check(&self) {
        let model = self.model.iter().flatten();
        let model: BTreeSet<_> = model.map(|(user, room)| (ROOMS[*room].to_owned(), user_name(*user))).collect();
        let shown: Vec<&BTreeMap<_, _>> = self.nodes.iter().flatten().map(|node| &node.members).collect();
        for (number, shown_by_node) in shown.iter().enumerate() {
            let members: BTreeSet<_> = shown_by_node.keys().cloned().collect();
            assert_eq!(members, model, "node {number} at tick {}", self.tick);
            assert_eq!(*shown_by_node, shown[0], "node {number} and node 0 at tick {}", self.tick);
        }
        for (room, name) in ROOMS.iter().enumerate() {
            let observers: u64 = self.observers.iter().map(|rooms| rooms[room]).sum();
            for node in self.nodes.iter().flatten() {
                assert_eq!(node.registry.observers(name), observers, "observers of {name} at tick {}", self.tick);
            }
        }
        let shown = |node: &SimulatedNode| node.shown.lock().iter().map(|(_, text)| text.clone()).collect::<Vec<_>>();
        let mut histories = self.nodes.iter().flatten().map(shown);
        let first = histories.next().unwrap_or_default();
        histories.for_each(|history| assert_eq!(history, first, "histories at tick {}", self.tick));
        let users: BTreeSet<_> = model.iter().map(|(_, user)| user.clone()).collect();
        let partitions = 0..self.partitions;
        let keys: BTreeSet<_> =
            partitions.flat_map(|partition| self.redis.names_after(&format!("p:{{{partition}}}:u:"))).collect();
        assert_eq!(keys, users);
        assert!(self.redis.all_keys_expire(), "a key would stay forever");
    }
}
