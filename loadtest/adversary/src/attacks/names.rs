//! Attacks with watched names.

use std::fmt::Write as _;
use std::time::Duration;

use super::team::{FULL, Team};
use crate::attack::{Attack, Pace, Size};
use crate::client::Reading;
use crate::swarm::{Event, Swarm};

/// Pairs of watch and unwatch per second, each with 1,000 names; more than a server accepts.
const PAIRS_PER_S: f64 = 2000.0;
/// The limit of watched users per connection.
const NAMES: usize = 1000;

/// `first` and the names that follow it, as a JSON list. Short, so that 1,000 fit into a message of 16 KiB.
fn names(first: usize, count: usize) -> String {
    let mut list = String::from("[");
    for number in first..first + count {
        let comma = if number == first { "" } else { "," };
        let _ = write!(list, r#"{comma}"{number:x}""#);
    }
    list + "]"
}

/// One connection watches and unwatches ever-new names.
struct NewNames {
    team: Team,
    pace: Pace,
    next: usize,
}

pub(super) fn new_names(size: &Size) -> Box<dyn Attack> {
    let team = Team::new(1, Reading::Always, |_| "/v1/connect?user=mallory".to_owned());
    let next = 0x1000_0000 + size.rng.clone().usize(..0x1000_0000);
    Box::new(NewNames { team, pace: Pace::new(PAIRS_PER_S * size.share), next })
}

impl Attack for NewNames {
    fn react(&mut self, _: &mut Swarm, event: &Event) {
        self.team.note(event);
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.team.fill(swarm);
        let due = self.pace.due(now);
        for done in 0..due {
            let Some(id) = self.team.open.first().copied().filter(|id| swarm.backlog(*id) < FULL) else {
                self.pace.give_back(due - done);
                return;
            };
            let list = names(self.next, NAMES);
            self.next += NAMES;
            swarm.send(id, &format!(r#"{{"type":"watch","users":{list}}}"#));
            swarm.send(id, &format!(r#"{{"type":"unwatch","users":{list}}}"#));
        }
    }
}

/// Many connections watch as many names as each may, all different.
struct Limit {
    team: Team,
    next: usize,
}

pub(super) fn limit(size: &Size) -> Box<dyn Attack> {
    let team = Team::new(size.of(1000), Reading::Always, |number| format!("/v1/connect?user=watcher-{number}"));
    Box::new(Limit { team, next: 0x1000_0000 })
}

impl Attack for Limit {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        if let Some(id) = self.team.note(event) {
            swarm.send(id, &format!(r#"{{"type":"watch","users":{}}}"#, names(self.next, NAMES)));
            self.next += NAMES;
        }
    }

    fn step(&mut self, swarm: &mut Swarm, _: Duration) {
        self.team.fill(swarm);
    }
}
