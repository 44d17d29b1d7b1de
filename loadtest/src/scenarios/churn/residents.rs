//! Those who are always present (`soak`): they change their state, are cut off and come back a second later. Whatever
//! happens to them, they are in their room with their last state at the end.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::cli::SoakArgs;
use crate::connection::{Connection, Offer};
use crate::crowd::Crowd;
use crate::engine::Close;
use crate::protocol::{Dialect, Role};
use crate::schedule::Jittered;

/// Shorter than any server's patience with a lost connection, so that nobody may notice.
const BACK_AFTER_NS: u64 = 1_000_000_000;

pub(crate) struct Residents {
    dialect: Dialect,
    base_path: String,
    first_slot: usize,
    homes: Vec<Home>,
    /// When those who were cut off come back.
    returns: VecDeque<(u64, usize)>,
    drops: Jittered,
    states: Jittered,
    pub(crate) dropped: u64,
    pub(crate) changed: u64,
    random: fastrand::Rng,
}

/// One resident.
#[derive(Clone, Copy, Debug, Default)]
struct Home {
    /// The number in the last state; 0: none was ever set.
    state: u64,
    /// Cut off, or back and not welcomed yet.
    is_away: bool,
}

impl Residents {
    pub(crate) fn new(args: &SoakArgs, dialect: Dialect, base_path: &str, first_slot: usize) -> Self {
        let seed = args.server.seed;
        Self {
            dialect,
            base_path: base_path.to_owned(),
            first_slot,
            homes: vec![Home::default(); args.residents as usize],
            returns: VecDeque::new(),
            drops: Jittered::new(u64::from(args.drops), seed ^ 1),
            states: Jittered::new(u64::from(args.states), seed ^ 2),
            dropped: 0,
            changed: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// When something is due next, in nanoseconds since the start.
    pub(crate) fn next_ns(&self) -> u64 {
        let back_ns = self.returns.front().map_or(u64::MAX, |(due_ns, _)| *due_ns);
        self.drops.planned_ns(self.dropped).min(self.states.planned_ns(self.changed)).min(back_ns)
    }

    /// Does what is due.
    pub(crate) fn act(&mut self, elapsed_ns: u64, crowd: &mut Crowd) -> anyhow::Result<()> {
        while self.drops.planned_ns(self.dropped) <= elapsed_ns {
            self.dropped += 1;
            let home = self.random.usize(..self.homes.len());
            if !std::mem::replace(&mut self.homes[home].is_away, true) {
                crowd.engine.close(self.first_slot + home, Close::Abrupt);
                self.returns.push_back((elapsed_ns + BACK_AFTER_NS, home));
            }
        }
        while self.states.planned_ns(self.changed) <= elapsed_ns {
            self.changed += 1;
            let home = self.random.usize(..self.homes.len());
            let slot = self.first_slot + home;
            if !self.homes[home].is_away
                && crowd.engine.offer(slot, &self.dialect.set_state(slot, &state(self.changed))) == Offer::Taken
            {
                self.homes[home].state = self.changed;
            }
        }
        self.come_back(elapsed_ns, crowd)
    }

    /// Opens the connections of those whose time has come, or of all.
    pub(crate) fn come_back(&mut self, until_ns: u64, crowd: &mut Crowd) -> anyhow::Result<()> {
        while let Some((_, home)) = self.returns.pop_front_if(|(due_ns, _)| *due_ns <= until_ns) {
            let slot = self.first_slot + home;
            crowd.engine.open(slot, &self.dialect.path(&self.base_path, slot, Role::Visitor))?;
        }
        Ok(())
    }

    /// Someone who came back is welcome and joins as they were.
    pub(crate) fn welcomed(&mut self, connection: &mut Connection) {
        let slot = connection.index();
        let Some(home) = slot.checked_sub(self.first_slot).and_then(|home| self.homes.get_mut(home)) else {
            return;
        };
        if std::mem::take(&mut home.is_away) {
            let join = if home.state == 0 {
                self.dialect.join(slot)
            } else {
                self.dialect.join_with(slot, &state(home.state))
            };
            connection.push(&join);
        }
    }

    /// Those who must be in a room, and with which state.
    pub(crate) fn members_in<'a>(&'a self, room: &'a str) -> impl Iterator<Item = (String, Value)> + 'a {
        let homes = self.homes.iter().enumerate().map(|(home, resident)| (self.first_slot + home, resident));
        homes.filter(move |(slot, _)| self.dialect.room(*slot) == room).map(|(slot, resident)| {
            let state = if resident.state == 0 { Value::Null } else { state(resident.state) };
            (self.dialect.user(slot), state)
        })
    }
}

fn state(number: u64) -> Value {
    json!({ "number": number, "text": "on the train" })
}
