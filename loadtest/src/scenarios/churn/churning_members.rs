//! The members who join and leave. The number of present members stays the same.
//!
//! There are 2 · `half` churning members; the first half is present at the start. Join i is of member i + half, leave i
//! of member i (modulo their number). So each member is present for `half` intervals of the plan and then absent for as
//! long, give or take one interval.

use crate::cli::MIN_STAY;
use crate::clients::Clients;
use crate::connection::SendOutcome;
use crate::engine::Close;
use crate::mirror::JoinTimes;
use crate::protocol::{ClientProtocol, Role};
use crate::scenarios::churn_plan::Operation;
use crate::schedule::nanos;

/// Counts of operations, in total or in one phase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChurnCounts {
    pub(crate) joins: u64,
    pub(crate) leaves: u64,
    /// Operations that were due and not possible: the socket was full, or the member's previous operation was blocked,
    /// or was so late that the server might see both at once.
    pub(crate) blocked: u64,
    pub(crate) late: u64,
}

pub(crate) struct ChurningMembers {
    protocol: ClientProtocol,
    base_path: String,
    /// The client index of the first churning member; observers come before it.
    first_client: usize,
    half: usize,
    /// By member: the number of the user that it is present as.
    present: Vec<Option<usize>>,
    /// By member: the earliest time of its next operation. A generator that was delayed catches up at once, and a
    /// server may not announce a stay within one tick.
    not_before_ns: Vec<u64>,
    /// The next unused user number. In online-users a user stays online after its connection closes until its lease
    /// ends, so each join is of a new user.
    next_user: usize,
    pub(crate) counts: ChurnCounts,
}

impl ChurningMembers {
    /// New users get numbers from `first_new_user` on.
    pub(crate) fn new(clients: &Clients, first_client: usize, half: usize, first_new_user: usize) -> Self {
        let present = (0..2 * half).map(|member| (member < half).then_some(first_client + member)).collect();
        Self {
            protocol: clients.protocol,
            base_path: clients.target.base_path.clone(),
            first_client,
            half,
            present,
            not_before_ns: vec![0; 2 * half],
            next_user: first_new_user,
            counts: ChurnCounts::default(),
        }
    }

    /// Executes one operation of the plan if it is possible.
    pub(super) fn execute(
        &mut self,
        operation: Operation,
        planned_ns: u64,
        now_ns: u64,
        clients: &mut Clients,
        join_times: &mut JoinTimes,
    ) -> anyhow::Result<()> {
        let members = self.present.len();
        let member = match operation {
            Operation::Join(number) => (number as usize + self.half) % members,
            Operation::Leave(number) => number as usize % members,
        };
        let is_done = match operation {
            _ if now_ns < self.not_before_ns[member] => false,
            Operation::Join(_) => self.join(member, planned_ns, clients, join_times)?,
            Operation::Leave(_) => self.leave(member, clients),
        };
        if !is_done {
            self.counts.blocked += 1;
            return Ok(());
        }
        self.not_before_ns[member] = now_ns + nanos(MIN_STAY);
        match operation {
            Operation::Join(_) => self.counts.joins += 1,
            Operation::Leave(_) => self.counts.leaves += 1,
        }
        Ok(())
    }

    /// Names of the users who must be present in a room now.
    pub(crate) fn names_in<'a>(&'a self, room: &'a str) -> impl Iterator<Item = String> + 'a {
        let users = self.present.iter().flatten();
        users.filter(move |user| self.protocol.room(**user) == room).map(|user| self.protocol.user(*user))
    }

    /// Users with a lower number belong to this run, present or not.
    pub(crate) fn user_count(&self) -> usize {
        self.next_user
    }

    /// Returns whether it was possible.
    fn join(
        &mut self,
        member: usize,
        planned_ns: u64,
        clients: &mut Clients,
        join_times: &mut JoinTimes,
    ) -> anyhow::Result<bool> {
        let client = self.first_client + member;
        if self.present[member].is_some() {
            return Ok(false);
        }
        let user = if self.protocol.kind.joins_by_connecting() {
            let user = if self.protocol.kind.leaves_by_closing() { client } else { self.new_user() };
            clients.engine.open(client, &self.protocol.path(&self.base_path, user, Role::NoRoom))?;
            user
        } else {
            if clients.engine.try_send(client, &self.protocol.join(client)) != SendOutcome::Sent {
                return Ok(false);
            }
            client
        };
        self.present[member] = Some(user);
        join_times.sent(user, planned_ns);
        Ok(true)
    }

    fn new_user(&mut self) -> usize {
        self.next_user += 1;
        self.next_user - 1
    }

    /// Returns whether it was possible.
    fn leave(&mut self, member: usize, clients: &mut Clients) -> bool {
        let client = self.first_client + member;
        if self.present[member].is_none() {
            return false;
        }
        if self.protocol.kind.joins_by_connecting() {
            clients.engine.close(client, Close::Clean);
        } else if clients.engine.try_send(client, &self.protocol.leave(client)) != SendOutcome::Sent {
            return false;
        }
        self.present[member] = None;
        true
    }
}

impl ChurnCounts {
    pub(crate) fn since(self, start: Self) -> Self {
        Self {
            joins: self.joins - start.joins,
            leaves: self.leaves - start.leaves,
            blocked: self.blocked - start.blocked,
            late: self.late - start.late,
        }
    }
}
