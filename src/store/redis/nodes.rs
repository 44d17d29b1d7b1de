//! Which runs there are: their leases, and who goes by which node id. It decides and does no I/O.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::command::{Command, Reply};
use super::remote_view::{Leases, MAX_RUNS, View};
use super::schema::Schema;

/// The list of runs goes when nobody has renewed it for so many leases.
const LIST_LEASES: u64 = 10;
/// Names of runs that are read from the list: what is longer has not been written by a node.
const MAX_RUN_NAME_BYTES: usize = 256;

/// Looks after the leases.
#[derive(Debug)]
pub struct Nodes {
    schema: Arc<Schema>,
    /// The list as it was read last.
    listed: Vec<String>,
    /// The runs whose leases have been asked for.
    asked: Vec<String>,
    /// The list is something else than a list.
    list_broken: bool,
    /// Counts how often this run has said that it lives; whoever wants its id sees it move.
    rest_heartbeat: u64,
}

impl Nodes {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(schema: Arc<Schema>) -> Self {
        Self { schema, listed: Vec::new(), asked: Vec::new(), list_broken: false, rest_heartbeat: 0 }
    }

    /// Asks for the list of runs, before this one is on it.
    #[must_use]
    pub fn list(&self) -> Vec<Command> {
        vec![Command::SetMembers(self.schema.runs_key())]
    }

    /// Asks for the leases of these runs.
    #[must_use]
    pub fn leases(&self, runs: &[String]) -> Vec<Command> {
        vec![Command::Get(runs.iter().map(|run| self.schema.run_key(run)).collect())]
    }

    /// Takes the node id, unless another run has it.
    #[must_use]
    pub fn claim(&self) -> Vec<Command> {
        let (key, value, ttl_ms) = (self.schema.id_key(), self.schema.run.clone(), self.schema.ttl_ms());
        vec![Command::Claim { key: key.clone(), value, ttl_ms }, Command::Get(vec![key])]
    }

    /// The run that has the node id, if it is not this one.
    #[must_use]
    pub fn claimed(&self, replies: &[Reply]) -> Option<String> {
        let Some(Reply::Texts(held)) = replies.get(1) else { return None };
        held.first().cloned().flatten().filter(|run| *run != self.schema.run)
    }

    /// Takes the node id from a run that has died.
    #[must_use]
    pub fn inherit(&self) -> Vec<Command> {
        vec![Command::Set { key: self.schema.id_key(), value: self.schema.run.clone(), ttl_ms: self.schema.ttl_ms() }]
    }

    /// Gives the node id back, so that the next start need not wait for its lease to end. The lease of the run stays.
    #[must_use]
    pub fn resign(&self) -> Vec<Command> {
        vec![Command::Unlink(self.schema.id_key())]
    }

    /// Renews this run's lease and asks for those of the others. What there was of this run's own is asked for first.
    pub fn ask(&mut self, view: &View) -> Vec<Command> {
        self.rest_heartbeat += 1;
        let schema = &self.schema;
        let known = view.runs().chain(self.listed.iter().map(String::as_str)).filter(|run| *run != schema.run);
        let asked: BTreeSet<&str> = known.collect();
        self.asked = asked.into_iter().map(str::to_owned).collect();
        let keys = [&schema.run].into_iter().chain(&self.asked).map(|run| schema.run_key(run)).collect();
        let (list, ttl_ms) = (schema.runs_key(), schema.ttl_ms());
        let mut commands = vec![Command::Get(keys)];
        if std::mem::take(&mut self.list_broken) {
            commands.push(Command::Unlink(list.clone()));
        }
        commands.extend([
            Command::Set { key: schema.run_key(&schema.run), value: self.lease(), ttl_ms },
            Command::Set { key: schema.id_key(), value: schema.run.clone(), ttl_ms },
            Command::SetAdd { key: list.clone(), member: schema.run.clone() },
            Command::Keep { key: list.clone(), ttl_ms: (ttl_ms * LIST_LEASES).max(60_000) },
            Command::SetMembers(list),
        ]);
        commands
    }

    /// Takes the answers. True if runs are listed whose leases have not been asked for.
    pub fn answered(&mut self, replies: Vec<Reply>, view: &mut View, now_ms: u64) -> Result<(Leases, bool), String> {
        let mut replies = replies.into_iter();
        let (leases, list) = (replies.next(), replies.next_back());
        self.list_broken = list == Some(Reply::WrongType);
        let refused = replies.find(|reply| matches!(reply, Reply::Failed(_) | Reply::WrongType));
        if let Some(reply) = refused {
            return Err(reply.complaint());
        }
        let (leases, list) = match (leases, list) {
            (Some(Reply::Texts(leases)), Some(Reply::Texts(list))) => (leases, list),
            (leases, list) => {
                return Err(leases
                    .into_iter()
                    .chain(list)
                    .map(|reply| reply.complaint())
                    .collect::<Vec<_>>()
                    .join("; "));
            }
        };
        let mut leases = leases.into_iter();
        let own = leases.next().flatten().is_some();
        let alive: Vec<_> = self.asked.drain(..).zip(leases.map(|lease| lease.is_some())).collect();
        let found = view.leases(own, &alive, now_ms);
        let listed = list.into_iter().flatten().filter(|run| run.len() <= MAX_RUN_NAME_BYTES);
        // Of more, those that are dead are taken off the list first.
        self.listed = listed.take(MAX_RUNS).collect();
        let asked: HashSet<&str> = alive.iter().map(|(run, _)| run.as_str()).collect();
        let is_new = |run: &String| *run != self.schema.run && !asked.contains(run.as_str());
        let news = self.listed.iter().any(is_new);
        Ok((found, news))
    }

    /// Takes dead runs off the list.
    #[must_use]
    pub fn bury(&self, dead: &[String]) -> Vec<Command> {
        let list = self.schema.runs_key();
        dead.iter().map(|run| Command::SetRemove { key: list.clone(), member: run.clone() }).collect()
    }

    fn lease(&self) -> String {
        let Schema { node, lanes, .. } = &*self.schema;
        // A node id has no characters that JSON would escape.
        format!("{{\"node\":\"{node}\",\"lanes\":{lanes},\"beat\":{}}}", self.rest_heartbeat)
    }
}

/// The number of lanes that a lease tells of.
#[must_use]
pub fn lanes_of(lease: &str) -> Option<usize> {
    let (_, after) = lease.split_once("\"lanes\":")?;
    after.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_tells_of_its_lanes() {
        assert_eq!(lanes_of("{\"node\":\"n1\",\"lanes\":16,\"beat\":3}"), Some(16));
        assert_eq!(lanes_of("{}"), None);
    }
}
