//! Who comes and who goes, and when: an open-loop plan in which the number of those present never changes.
//!
//! There are 2 · `half` movers; the first half is in at the start. Join i takes mover i + half, leave i takes mover i (modulo
//! their number), so each is in for `half` intervals of the plan and then out for as long, give or take one.

use crate::cli::MIN_STAY;
use crate::connection::Offer;
use crate::crowd::Crowd;
use crate::engine::Close;
use crate::mirror::Arrivals;
use crate::protocol::{Dialect, Role};
use crate::scenarios::churn::nanos;
use crate::scenarios::churn::plan::Act;

/// What became of joins and leaves in one phase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) joins: u64,
    pub(crate) leaves: u64,
    /// Due, but the connection took nothing, the one before it had not been possible, or had been possible so late that a server
    /// may see both at once.
    pub(crate) blocked: u64,
    pub(crate) late: u64,
}

pub(crate) struct Moves {
    dialect: Dialect,
    base_path: String,
    /// The slot of the first mover; observers come before.
    first_slot: usize,
    half: usize,
    /// By mover: the number of the user that it is present as.
    present: Vec<Option<usize>>,
    /// By mover: not before this moment again. A generator that was held up does what it missed at once, and who comes and
    /// goes within a tick is rightly never shown.
    next_ns: Vec<u64>,
    /// Where closing is not leaving, a user that left stays online until its lease ends, so each join is a new user.
    next_number: usize,
    pub(crate) tally: Tally,
}

impl Moves {
    /// Numbers of new users begin at `clients`.
    pub(crate) fn new(crowd: &Crowd, first_slot: usize, half: usize, clients: usize) -> Self {
        let present = (0..2 * half).map(|mover| (mover < half).then_some(first_slot + mover)).collect();
        Self {
            dialect: crowd.dialect,
            base_path: crowd.target.base_path.clone(),
            first_slot,
            half,
            present,
            next_ns: vec![0; 2 * half],
            next_number: clients,
            tally: Tally::default(),
        }
    }

    /// Does one operation of the plan, if it is possible. Times are when it was planned and now.
    pub(super) fn act(
        &mut self,
        act: Act,
        [planned_ns, now_ns]: [u64; 2],
        crowd: &mut Crowd,
        arrivals: &mut Arrivals,
    ) -> anyhow::Result<()> {
        let movers = self.present.len();
        let mover = match act {
            Act::Join(number) => (number as usize + self.half) % movers,
            Act::Leave(number) => number as usize % movers,
        };
        let is_done = match act {
            _ if now_ns < self.next_ns[mover] => false,
            Act::Join(_) => self.join(mover, planned_ns, crowd, arrivals)?,
            Act::Leave(_) => self.leave(mover, crowd),
        };
        if !is_done {
            self.tally.blocked += 1;
            return Ok(());
        }
        self.next_ns[mover] = now_ns + nanos(MIN_STAY);
        match act {
            Act::Join(_) => self.tally.joins += 1,
            Act::Leave(_) => self.tally.leaves += 1,
        }
        Ok(())
    }

    /// Names of those who must be in a room now.
    pub(crate) fn names_in<'a>(&'a self, room: &'a str) -> impl Iterator<Item = String> + 'a {
        let users = self.present.iter().flatten();
        users.filter(move |number| self.dialect.room(**number) == room).map(|number| self.dialect.user(*number))
    }

    /// Numbers below are users of this run, present or not.
    pub(crate) fn numbers(&self) -> usize {
        self.next_number
    }

    /// False if it is not possible.
    fn join(
        &mut self,
        mover: usize,
        planned_ns: u64,
        crowd: &mut Crowd,
        arrivals: &mut Arrivals,
    ) -> anyhow::Result<bool> {
        let slot = self.first_slot + mover;
        if self.present[mover].is_some() {
            return Ok(false);
        }
        let number = if self.dialect.protocol.joins_by_connecting() {
            let number = if self.dialect.protocol.leaves_by_closing() { slot } else { self.new_number() };
            crowd.engine.open(slot, &self.dialect.path(&self.base_path, number, Role::Visitor))?;
            number
        } else {
            if crowd.engine.offer(slot, &self.dialect.join(slot)) != Offer::Taken {
                return Ok(false);
            }
            slot
        };
        self.present[mover] = Some(number);
        arrivals.sent(number, planned_ns);
        Ok(true)
    }

    fn new_number(&mut self) -> usize {
        self.next_number += 1;
        self.next_number - 1
    }

    /// False if it is not possible.
    fn leave(&mut self, mover: usize, crowd: &mut Crowd) -> bool {
        let slot = self.first_slot + mover;
        if self.present[mover].is_none() {
            return false;
        }
        if self.dialect.protocol.joins_by_connecting() {
            crowd.engine.close(slot, Close::Goodbye);
        } else if crowd.engine.offer(slot, &self.dialect.leave(slot)) != Offer::Taken {
            return false;
        }
        self.present[mover] = None;
        true
    }
}

impl Tally {
    pub(crate) fn since(self, start: Self) -> Self {
        Self {
            joins: self.joins - start.joins,
            leaves: self.leaves - start.leaves,
            blocked: self.blocked - start.blocked,
            late: self.late - start.late,
        }
    }
}
