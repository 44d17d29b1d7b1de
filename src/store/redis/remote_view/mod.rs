//! What the other runs hold, as this node has heard. It decides what to ask and what to believe, and does no I/O.
//!
//! Events accelerate, hashes repair: every event has a number, and whoever misses one, or hears of a run for the first time, reads
//! the run's hash. A run is dead when its lease is gone and nothing is heard of it, and that only counts for a node that has been
//! in touch itself: nobody leaves because *this* node went deaf, or because Redis lost everybody's lease.

mod reading;

use std::collections::HashMap;
use std::sync::Arc;

use super::event::{Event, Happened, Line};
use super::schema::Schema;
use crate::json::Reader;
use crate::presence::kick::{Kick, MAX_WAITING, Recent};
use crate::presence::{Reason, Registry, Remote, RunNumber};
use reading::Known;

pub use reading::{Load, Step};

/// How much later than this node another may be back after an outage: a deadline and a pause.
const RETURN_MS: u64 = 1500;
/// Runs that are believed in at once: a bound on what a broken writer can make this node hold.
pub(super) const MAX_RUNS: usize = 10_000;

/// All other runs.
#[derive(Debug)]
pub struct View {
    schema: Arc<Schema>,
    registry: Arc<Registry>,
    runs: HashMap<String, Run>,
    next_number: RunNumber,
    next_generation: u32,
    /// Since when this node has read leases without a break, and when it did last, in milliseconds of its own clock.
    in_touch_since_ms: Option<u64>,
    in_touch_at_ms: u64,
    json: Reader,
    /// Somebody spoke who is not known yet.
    heard_stranger: bool,
    /// Users who are to go.
    kicks: Vec<Kick>,
}

/// One run.
#[derive(Debug)]
struct Run {
    number: RunNumber,
    lanes: Vec<Known>,
    /// The latest event that is known of, by lane: a hash that is older has been lost and is not whole again.
    latest: Vec<u64>,
    /// Since when a hash of this edition has been whole and older than that, by lane: if it stays so, what was heard was not true.
    doubts: Vec<Option<(u64, u64)>>,
    /// Kicks that were passed on, by lane: they are told several times.
    removed: Vec<Recent>,
    /// The number of the last message that was passed on, by lane: some are told twice.
    said: Vec<u64>,
    heard_ms: u64,
}

/// What the leases have told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// Hashes to read.
    pub loads: Vec<Load>,
    /// Runs that are dead, and whose keys nobody needs any more.
    pub dead: Vec<String>,
    /// Of these, runs that were alive as far as this node knew.
    pub lost: Vec<String>,
}

impl View {
    /// Nobody else, yet.
    #[must_use]
    pub fn new(schema: Arc<Schema>, registry: Arc<Registry>) -> Self {
        Self {
            schema,
            registry,
            runs: HashMap::new(),
            next_number: 0,
            next_generation: 1,
            in_touch_since_ms: None,
            in_touch_at_ms: 0,
            json: Reader::default(),
            heard_stranger: false,
            kicks: Vec::new(),
        }
    }

    /// Whether a run that is not known has spoken since the last call: leases are to be read then, since only a run that has one
    /// is believed in.
    pub fn take_stranger(&mut self) -> bool {
        std::mem::take(&mut self.heard_stranger)
    }

    /// Users who are to go because another node was asked for it.
    pub fn take_kicks(&mut self) -> Vec<Kick> {
        std::mem::take(&mut self.kicks)
    }

    /// The runs that are known, dead ones not.
    pub fn runs(&self) -> impl Iterator<Item = &str> {
        self.runs.keys().map(String::as_str)
    }

    /// Whether everything that is known to be there has been read, but for runs that have been silent all along.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let since = self.in_touch_since_ms.unwrap_or(u64::MAX);
        let speaking = self.runs.values().filter(|run| run.heard_ms >= since);
        speaking.flat_map(|run| &run.lanes).all(|known| matches!(known, Known::Current { .. }))
    }

    /// Takes a message of a lane. Returns users of this node whose keys another node may have deleted, and the hash to read if
    /// something was missed.
    pub fn hear(&mut self, lane: usize, message: &str, now_ms: u64) -> (Vec<String>, Option<Load>) {
        let Some(event) = Event::parse(message, &mut self.json) else {
            // A message that cannot be read is one that was missed: the next one of its run shows the gap.
            tracing::debug!(lane, bytes = message.len(), "a message in the events channel makes no sense");
            return (Vec::new(), None);
        };
        if event.run == self.schema.run || lane >= self.schema.lanes {
            return (Vec::new(), None);
        }
        let Some(run) = self.runs.get_mut(&event.run) else {
            self.heard_stranger = true;
            return (Vec::new(), None);
        };
        run.heard_ms = now_ms;
        let is_new = event.seq > run.latest[lane];
        if is_new {
            run.doubts[lane] = None; // It goes on counting from there.
        }
        run.latest[lane] = run.latest[lane].max(event.seq);
        for (id, kick) in &event.kicks {
            if self.kicks.len() < MAX_WAITING && run.removed[lane].is_new(*id) {
                self.kicks.push(kick.clone());
            }
        }
        // What was said stands in no hash, and must not wait until a gap is repaired.
        for Line { room, user, what } in event.lines.iter().filter(|line| self.schema.lane_of(&line.user) == lane) {
            if let Happened::RoomMessage { number, data } = what
                && *number > run.said[lane]
            {
                run.said[lane] = *number;
                self.registry.publish_remote(room, user, data.as_str().into());
            }
        }
        let number = run.number;
        match &mut run.lanes[lane] {
            Known::Reading(reading) => {
                reading.keep(event);
                (Vec::new(), None)
            }
            Known::Current { seq, generation } if event.seq == *seq + u64::from(!event.lines.is_empty()) => {
                *seq = event.seq;
                let generation = *generation;
                (self.apply(number, generation, lane, &event.lines), None)
            }
            Known::Current { seq, .. } if event.seq <= *seq => (Vec::new(), None),
            Known::Current { .. } | Known::Missing { .. } => {
                let load = Load { run: event.run.clone(), lane };
                self.read(&load, false);
                if let Some(Known::Reading(reading)) = self.known(&load) {
                    reading.keep(event);
                }
                (Vec::new(), Some(load))
            }
        }
    }

    /// Messages of a lane may have been missed. Returns the hashes to look at.
    pub fn resubscribed(&mut self, lane: usize) -> Vec<Load> {
        let loads: Vec<_> = self.runs.keys().map(|run| Load { run: run.clone(), lane }).collect();
        loads.iter().for_each(|load| self.read(load, true));
        loads
    }

    /// Takes what leases there are: this run's own, and those of runs that are listed or known.
    pub fn leases(&mut self, own: bool, leases: &[(String, bool)], now_ms: u64) -> Leases {
        let (ttl_ms, beacon_ms) = (self.schema.ttl_ms(), self.schema.beacon_every().as_millis() as u64);
        let silent_ms = now_ms.saturating_sub(std::mem::replace(&mut self.in_touch_at_ms, now_ms));
        if !own || silent_ms > (ttl_ms / 2).max(beacon_ms * 2) {
            // Redis has lost what it had or hung, or this process slept: nobody else's lease means anything yet.
            self.lost_touch();
        }
        let in_touch_since = *self.in_touch_since_ms.get_or_insert(now_ms);
        let quiet_ms = beacon_ms * 5 / 2;
        // Others may come back later than this node, by as long as it takes to give up one connect and make the next.
        let in_touch = now_ms.saturating_sub(in_touch_since) >= ttl_ms + RETURN_MS;
        let mut found = Leases::default();
        let schema = Arc::clone(&self.schema);
        for (name, alive) in leases.iter().filter(|(name, _)| *name != schema.run) {
            if *alive {
                self.meet(name);
                let Some(run) = self.runs.get_mut(name) else { continue };
                let missing = |lane: &usize| matches!(run.lanes[*lane], Known::Missing { .. });
                let lanes: Vec<_> = (0..run.lanes.len()).filter(missing).collect();
                for lane in lanes {
                    let load = Load { run: name.clone(), lane };
                    self.read(&load, false);
                    found.loads.push(load);
                }
                continue;
            }
            match self.runs.get(name) {
                Some(run) if !in_touch || now_ms.saturating_sub(run.heard_ms) < quiet_ms => {}
                Some(run) => {
                    self.registry.sweep_remote(run.number, u32::MAX, Reason::NodeLost, |_| true);
                    self.runs.remove(name);
                    found.lost.push(name.clone());
                    found.dead.push(name.clone());
                }
                None if in_touch => found.dead.push(name.clone()),
                None => {}
            }
        }
        found
    }

    /// This node has no connection to where the leases are.
    pub fn lost_touch(&mut self) {
        self.in_touch_since_ms = None;
    }

    /// Whether a run is quiet, so that its lease may end at any moment.
    #[must_use]
    pub fn anybody_is_quiet(&self, now_ms: u64) -> bool {
        let quiet_ms = self.schema.beacon_every().as_millis() as u64 * 2;
        self.runs.values().any(|run| now_ms.saturating_sub(run.heard_ms) > quiet_ms)
    }

    /// Makes room for a run that is not known, unless there are too many.
    fn meet(&mut self, name: &str) {
        if self.runs.contains_key(name) || self.runs.len() >= MAX_RUNS {
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        let lanes = (0..self.schema.lanes).map(|_| Known::Missing { generation: 0 }).collect();
        let (latest, doubts, said) =
            (vec![0; self.schema.lanes], vec![None; self.schema.lanes], vec![0; self.schema.lanes]);
        let removed = (0..self.schema.lanes).map(|_| Recent::default()).collect();
        self.runs.insert(name.to_owned(), Run { number, lanes, latest, doubts, removed, said, heard_ms: 0 });
    }

    /// Tells the registry what an event says. Returns users of this node that the run has let go of.
    fn apply(&mut self, run: RunNumber, generation: u32, lane: usize, lines: &[Line]) -> Vec<String> {
        let mut released = Vec::new();
        for Line { room, user, what } in lines.iter().filter(|line| self.schema.lane_of(&line.user) == lane) {
            let remote = Remote { run, generation, room, user };
            match what {
                Happened::Held { since_unix_ms, state } => {
                    self.registry.hold_remote(remote, state.as_ref(), *since_unix_ms);
                }
                Happened::Left(reason) => {
                    if self.registry.release_remote(remote, *reason) {
                        released.push(user.clone());
                    }
                }
                Happened::RoomMessage { .. } => {} // Passed on when it was heard.
            }
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::schema::{Head, Header};
    use super::*;
    use crate::presence::{Now, Settings};

    /// What n1 knows when n2 has shown itself.
    fn view_of_another(lanes: usize) -> (Arc<Registry>, View) {
        let registry = Arc::new(Registry::with_store(Settings { ttl: 100, workers: 1, incarnation: 1 }));
        let (prefix, node, run) = ("p".to_owned(), "n1".to_owned(), "n1.1".to_owned());
        let schema = Arc::new(Schema { prefix, lanes, node, run, ttl: Duration::from_secs(10) });
        let mut view = View::new(schema, Arc::clone(&registry));
        view.leases(true, &[("n2.1".to_owned(), true)], 0);
        (registry, view)
    }

    #[test]
    fn a_removal_that_is_told_again_is_passed_on_once_and_each_lane_counts_for_itself() {
        let (_, mut view) = view_of_another(2);
        for (lane, user) in [(0, "alice"), (1, "bob"), (0, "alice"), (1, "bob")] {
            view.hear(lane, &format!("n2.1\t0\nremoved\t*:{user}\t1\tkicked"), 0);
        }
        let users: Vec<_> = view.take_kicks().into_iter().map(|kick| kick.user).collect();
        assert_eq!(users, ["alice".into(), "bob".into()] as [Arc<str>; 2]);
    }

    #[test]
    fn what_is_said_again_because_nobody_knew_is_heard_once() {
        let (registry, mut view) = view_of_another(1);
        let alice = registry.open_unleased_session("alice");
        let room = registry.join(&alice, "lobby", None, Now { tick: 1, unix_ms: 1 });
        for (seq, number) in [(1, 1), (2, 2), (3, 1), (4, 2), (5, 3)] {
            view.hear(0, &format!("n2.1\t{seq}\nsaid\tlobby:alice\t{number}\t\"{number}\""), 0);
        }
        let said: Vec<_> = registry.settle(&room).messages.iter().map(|said| said.data.to_string()).collect();
        assert_eq!(said, ["\"1\"", "\"2\"", "\"3\""]);
    }

    #[test]
    fn whoever_is_let_go_of_while_its_hash_is_read_has_its_key_written_again() {
        let (registry, mut view) = view_of_another(1);
        let alice = registry.open_unleased_session("alice");
        registry.join(&alice, "lobby", None, Now { tick: 1, unix_ms: 1 });
        let head = |seq: u64| Some(Head { header: Header::Whole(seq), edition: 1 });
        let load = Load { run: "n2.1".to_owned(), lane: 0 };
        assert_eq!(view.begin(&load, head(1), 0), Step::Scan);
        view.page(&load, &[("lobby:alice".to_owned(), "1".to_owned())]);
        assert_eq!(view.hear(0, "n2.1\t2\nleft\tlobby:alice\tclosed", 0), (Vec::new(), None));
        assert_eq!(view.finish(&load, head(2)), (vec!["alice".to_owned()], None));
        // And if the word was not heard: the next reading does not find it.
        view.hear(0, "n2.1\t3\njoined\tlobby:alice\t1", 0);
        assert!(view.hear(0, "n2.1\t5\njoined\tlobby:bob\t1", 0).1.is_some());
        assert_eq!(view.begin(&load, head(5), 0), Step::Scan);
        view.page(&load, &[("lobby:bob".to_owned(), "1".to_owned())]);
        assert_eq!(view.finish(&load, head(5)), (vec!["alice".to_owned()], None));
    }
}
