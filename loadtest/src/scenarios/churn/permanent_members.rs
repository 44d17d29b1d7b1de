//! The members of `soak` who never leave. They change their state, and their connections are reset and reconnect a
//! second later. At the end all of them must be in their room with their last state.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::cli::SoakArgs;
use crate::clients::Clients;
use crate::connection::{Connection, SendOutcome};
use crate::engine::Close;
use crate::protocol::{ClientProtocol, Role};
use crate::schedule::Jittered;

/// Shorter than the time for which any server keeps a lost connection's presence, so no observer may see a leave.
const RECONNECT_AFTER_NS: u64 = 1_000_000_000;

pub(crate) struct PermanentMembers {
    protocol: ClientProtocol,
    base_path: String,
    /// The client index of the first permanent member.
    first_client: usize,
    members: Vec<PermanentMember>,
    /// (due time, member) of clients that reconnect.
    reconnects: VecDeque<(u64, usize)>,
    reset_schedule: Jittered,
    state_schedule: Jittered,
    pub(crate) resets: u64,
    pub(crate) state_changes: u64,
    random: fastrand::Rng,
}

#[derive(Clone, Copy, Debug, Default)]
struct PermanentMember {
    /// The number in the last state; 0: it has no state.
    state: u64,
    /// Its connection was reset and has not been welcomed again.
    is_away: bool,
}

impl PermanentMembers {
    pub(crate) fn new(args: &SoakArgs, protocol: ClientProtocol, base_path: &str, first_client: usize) -> Self {
        let seed = args.server.seed;
        Self {
            protocol,
            base_path: base_path.to_owned(),
            first_client,
            members: vec![PermanentMember::default(); args.permanent_members as usize],
            reconnects: VecDeque::new(),
            reset_schedule: Jittered::new(u64::from(args.resets), seed ^ 1),
            state_schedule: Jittered::new(u64::from(args.state_changes), seed ^ 2),
            resets: 0,
            state_changes: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// When the next action is due, in nanoseconds since the start.
    pub(crate) fn next_ns(&self) -> u64 {
        let reconnect_ns = self.reconnects.front().map_or(u64::MAX, |(due_ns, _)| *due_ns);
        let reset_ns = self.reset_schedule.planned_ns(self.resets);
        reset_ns.min(self.state_schedule.planned_ns(self.state_changes)).min(reconnect_ns)
    }

    /// Executes all actions that are due.
    pub(crate) fn execute_due(&mut self, elapsed_ns: u64, clients: &mut Clients) -> anyhow::Result<()> {
        while self.reset_schedule.planned_ns(self.resets) <= elapsed_ns {
            self.resets += 1;
            let member = self.random.usize(..self.members.len());
            if !std::mem::replace(&mut self.members[member].is_away, true) {
                clients.engine.close(self.first_client + member, Close::Reset);
                self.reconnects.push_back((elapsed_ns + RECONNECT_AFTER_NS, member));
            }
        }
        while self.state_schedule.planned_ns(self.state_changes) <= elapsed_ns {
            self.state_changes += 1;
            let member = self.random.usize(..self.members.len());
            let client = self.first_client + member;
            let frame = self.protocol.set_state(client, &state(self.state_changes));
            if !self.members[member].is_away && clients.engine.try_send(client, &frame) == SendOutcome::Sent {
                self.members[member].state = self.state_changes;
            }
        }
        self.reconnect(elapsed_ns, clients)
    }

    /// Opens the connections that are due by `until_ns`.
    pub(crate) fn reconnect(&mut self, until_ns: u64, clients: &mut Clients) -> anyhow::Result<()> {
        while let Some((_, member)) = self.reconnects.pop_front_if(|(due_ns, _)| *due_ns <= until_ns) {
            let client = self.first_client + member;
            clients.engine.open(client, &self.protocol.path(&self.base_path, client, Role::NoRoom))?;
        }
        Ok(())
    }

    /// A client that reconnected got its welcome: it joins again with its last state.
    pub(crate) fn welcomed(&mut self, connection: &mut Connection) {
        let client = connection.index();
        let member = client.checked_sub(self.first_client).and_then(|member| self.members.get_mut(member));
        let Some(member) = member.filter(|member| member.is_away) else { return };
        member.is_away = false;
        let join = match member.state {
            0 => self.protocol.join(client),
            number => self.protocol.join_with(client, &state(number)),
        };
        connection.send(&join);
    }

    /// The users who must be in a room, with their states.
    pub(crate) fn members_in<'a>(&'a self, room: &'a str) -> impl Iterator<Item = (String, Option<Value>)> + 'a {
        let members = self.members.iter().enumerate().map(|(index, member)| (self.first_client + index, member));
        members.filter(move |(client, _)| self.protocol.room(*client) == room).map(|(client, member)| {
            let state = (member.state > 0).then(|| state(member.state));
            (self.protocol.user(client), state)
        })
    }
}

fn state(number: u64) -> Value {
    json!({ "number": number, "text": "on the train" })
}
