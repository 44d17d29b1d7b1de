//! Nodes, a Redis and the faults between them, tick by tick.

mod node;
mod redis;

use std::collections::{BTreeMap, BTreeSet};

use node::Node;
use redis::Redis;
use rollcall::presence::Now;

pub(crate) const ROOMS: [&str; 2] = ["lobby", "a:b%"];
pub(crate) const TICK_MS: u64 = 100;
pub(crate) const TTL_MS: u64 = 2_000;
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
    /// It is gone, and a new one with its id starts so many ticks later.
    Crash {
        node: usize,
        ticks: u64,
    },
    /// It waits for answers that do not come, and then cannot reach Redis for so many ticks.
    Cut {
        node: usize,
        done: bool,
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
    Wait {
        ticks: u64,
    },
}

pub(crate) struct World {
    nodes: [Option<Node>; 3],
    redis: Redis,
    lanes: usize,
    tick: u64,
    lives: u64,
    /// Until when a node is gone, or cannot reach Redis.
    gone_until: [u64; 3],
    cut_until: [u64; 3],
    cut_at: [u64; 3],
    lose: [bool; 3],
    /// Who is where, by node.
    model: [BTreeSet<(usize, usize)>; 3],
    /// Fail at the first leave that is shown.
    pub(crate) nobody_leaves: bool,
}

impl World {
    pub(crate) fn new(lanes: usize) -> Self {
        let mut world = Self {
            nodes: [None, None, None],
            redis: Redis::default(),
            lanes,
            tick: 0,
            lives: 0,
            gone_until: [0; 3],
            cut_until: [0; 3],
            cut_at: [0; 3],
            lose: [false; 3],
            model: Default::default(),
            nobody_leaves: false,
        };
        world.wait(12);
        world
    }

    fn now(&self) -> Now {
        Now { tick: self.tick, unix_ms: 1_700_000_000_000 + self.tick * TICK_MS }
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
            Step::Crash { node, ticks } => {
                self.nodes[node] = None;
                self.model[node].clear();
                self.gone_until[node] = self.tick + ticks;
            }
            Step::Cut { node, done, hang, ticks } => {
                if let Some(alive) = &mut self.nodes[node] {
                    alive.hang(done);
                    self.cut_at[node] = self.tick + 1 + hang;
                    self.cut_until[node] = self.cut_until[node].max(self.tick + 1 + hang + ticks);
                }
            }
            Step::RedisDown { ticks, empty } => {
                for (number, alive) in self.nodes.iter_mut().enumerate() {
                    let number = number as u64;
                    if let Some(alive) = alive {
                        alive.hang(ticks.is_multiple_of(2));
                    }
                    // They notice and come back one after the other, up to a deadline and a pause apart.
                    self.cut_at[number as usize] = self.tick + 1 + (ticks + number * 3) % 10;
                    self.cut_until[number as usize] = self.tick + 1 + ticks.max(10) + (ticks * 3 + number * 7) % 15;
                }
                self.redis.published.clear();
                if empty {
                    self.redis.clear();
                }
            }
            Step::Flush => self.redis.clear(),
            Step::WrongType => self.redis.spoil(),
            Step::LoseMessage { node } => self.lose[node] = true,
            Step::Wait { ticks } => self.wait(ticks),
        }
    }

    fn wait(&mut self, ticks: u64) {
        (0..ticks).for_each(|_| self.pass());
    }

    fn pass(&mut self) {
        self.tick += 1;
        self.redis.now_ms = self.tick * TICK_MS;
        let now = self.now();
        for number in 0..3 {
            if self.nodes[number].is_none() && self.tick >= self.gone_until[number] {
                self.lives += 1;
                self.nodes[number] = Some(Node::new(number, self.lives, self.lanes));
            }
            let Some(node) = &mut self.nodes[number] else { continue };
            let left = node.tick(now);
            assert!(!self.nobody_leaves || left.is_empty(), "tick {}: node {number} shows {left:?} leaving", self.tick);
            if self.tick >= self.cut_at[number] && self.tick < self.cut_until[number] {
                node.cut();
            }
            if self.tick < self.cut_at[number] || self.tick >= self.cut_until[number] {
                node.talk(&mut self.redis, self.tick);
                self.publish();
            }
        }
    }

    /// Messages go to those who can be reached, but for those that get lost.
    fn publish(&mut self) {
        for (channel, message) in std::mem::take(&mut self.redis.published) {
            let lane = (0..self.lanes).find(|lane| channel == format!("p:{{{lane}}}:events")).unwrap();
            for (number, node) in self.nodes.iter_mut().enumerate() {
                let Some(node) = node.as_mut().filter(|node| node.up) else { continue };
                if !std::mem::take(&mut self.lose[number]) {
                    node.inbox.push_back((lane, message.clone()));
                }
            }
        }
    }

    /// All faults end, and it is quiet for a while.
    pub(crate) fn settle(&mut self) {
        self.lose = [false; 3];
        let latest = [self.gone_until, self.cut_until].concat().into_iter().max().unwrap_or(0);
        self.wait(latest.saturating_sub(self.tick) + QUIET_TICKS);
    }

    /// Every node shows whom the model knows, with the same states, and Redis has their keys and nobody else's.
    pub(crate) fn check(&self) {
        let model = self.model.iter().flatten();
        let model: BTreeSet<_> = model.map(|(user, room)| (ROOMS[*room].to_owned(), format!("user{user}"))).collect();
        let shown: Vec<&BTreeMap<_, _>> = self.nodes.iter().flatten().map(|node| &node.shown).collect();
        let first = shown[0];
        for (number, shown) in shown.iter().enumerate() {
            let members: BTreeSet<_> = shown.keys().cloned().collect();
            assert_eq!(members, model, "node {number} at tick {}", self.tick);
            assert_eq!(*shown, first, "node {number} and node 0 at tick {}", self.tick);
        }
        for lane in 0..self.lanes {
            let keys = self.redis.texts(&format!("p:{{{lane}}}:u:"));
            assert!(keys.iter().all(|user| model.iter().any(|(_, known)| known == user)), "{keys:?}: {model:?}");
        }
        let users: BTreeSet<_> = model.iter().map(|(_, user)| user.clone()).collect();
        let keys: BTreeSet<_> =
            (0..self.lanes).flat_map(|lane| self.redis.texts(&format!("p:{{{lane}}}:u:"))).collect();
        assert_eq!(keys, users);
        assert!(self.redis.everything_ends(), "a key would stay for ever");
    }
}
