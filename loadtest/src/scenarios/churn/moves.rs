//! Who comes and who goes, and when: an open-loop plan in which the number of those present never changes.
//!
//! There are 2 · `half` movers; the first half is in at the start. Join i takes mover i + half, leave i takes mover i (modulo
//! their number), so each is in for `half` intervals of the plan and then out for as long, give or take one.

use crate::connection::Offer;
use crate::crowd::Crowd;
use crate::engine::Close;
use crate::mirror::Arrivals;
use crate::protocol::{Dialect, Role};
use crate::scenarios::churn::plan::Act;

/// What became of joins and leaves in one phase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) joins: u64,
    pub(crate) leaves: u64,
    /// Due, but the connection took nothing, or the join before it had not been possible.
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
            next_number: clients,
            tally: Tally::default(),
        }
    }

    /// Does one operation of the plan.
    pub(super) fn act(
        &mut self,
        act: Act,
        planned_ns: u64,
        crowd: &mut Crowd,
        arrivals: &mut Arrivals,
    ) -> anyhow::Result<()> {
        let movers = self.present.len();
        let mover = |number: u64| (number % movers as u64) as usize;
        match act {
            Act::Join(number) => self.join((mover(number) + self.half) % movers, planned_ns, crowd, arrivals)?,
            Act::Leave(number) => self.leave(mover(number), crowd),
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

    fn join(
        &mut self,
        mover: usize,
        planned_ns: u64,
        crowd: &mut Crowd,
        arrivals: &mut Arrivals,
    ) -> anyhow::Result<()> {
        let slot = self.first_slot + mover;
        if self.present[mover].is_some() {
            self.tally.blocked += 1;
            return Ok(());
        }
        let number = if self.dialect.protocol.joins_by_connecting() {
            let number = if self.dialect.protocol.leaves_by_closing() { slot } else { self.new_number() };
            crowd.engine.open(slot, &self.dialect.path(&self.base_path, number, Role::Visitor))?;
            number
        } else {
            if crowd.engine.offer(slot, &self.dialect.join(slot)) != Offer::Taken {
                self.tally.blocked += 1;
                return Ok(());
            }
            slot
        };
        self.present[mover] = Some(number);
        arrivals.sent(number, planned_ns);
        self.tally.joins += 1;
        Ok(())
    }

    fn new_number(&mut self) -> usize {
        self.next_number += 1;
        self.next_number - 1
    }

    fn leave(&mut self, mover: usize, crowd: &mut Crowd) {
        let slot = self.first_slot + mover;
        if self.present[mover].is_none() {
            self.tally.blocked += 1;
            return;
        }
        if self.dialect.protocol.joins_by_connecting() {
            crowd.engine.close(slot, Close::Goodbye);
        } else if crowd.engine.offer(slot, &self.dialect.leave(slot)) != Offer::Taken {
            self.tally.blocked += 1;
            return;
        }
        self.present[mover] = None;
        self.tally.leaves += 1;
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
