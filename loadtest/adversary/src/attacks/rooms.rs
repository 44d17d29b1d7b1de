//! Attacks with memberships: many rooms, one after the other or at once.

use std::time::Duration;

use super::team::{FULL, Team};
use crate::attack::{Attack, Pace, Size};
use crate::client::Reading;
use crate::swarm::{Event, Swarm};

/// Pairs of join and leave per second, more than a server accepts: about 16 MB/s.
const PAIRS_PER_S: f64 = 200_000.0;
/// The limit of rooms per connection.
pub(super) const ROOMS: usize = 100;

struct Churn {
    team: Team,
    pace: Pace,
    next: usize,
    seed: u32,
}

/// One connection.
pub(super) fn churn(size: &Size) -> Box<dyn Attack> {
    churn_on(1, size)
}

/// Four connections of one user.
pub(super) fn churn_of_four(size: &Size) -> Box<dyn Attack> {
    churn_on(4, size)
}

fn churn_on(connections: usize, size: &Size) -> Box<dyn Attack> {
    let team = Team::new(connections, Reading::Always, |_| "/v1/connect?user=mallory".to_owned());
    Box::new(Churn { team, pace: Pace::new(PAIRS_PER_S * size.share), next: 0, seed: size.rng.clone().u32(..) })
}

impl Attack for Churn {
    fn react(&mut self, _: &mut Swarm, event: &Event) {
        self.team.note(event);
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.team.fill(swarm);
        let due = self.pace.due(now);
        for done in 0..due {
            let free = self.team.open.iter().copied().find(|id| swarm.backlog(*id) < FULL);
            let Some(id) = free else {
                self.pace.give_back(due - done);
                return;
            };
            let room = format!("{:x}-{}", self.seed, self.next);
            self.next += 1;
            swarm.send(id, &format!(r#"{{"type":"join","room":"{room}"}}"#));
            swarm.send(id, &format!(r#"{{"type":"leave","room":"{room}"}}"#));
            let turn = self.next % self.team.open.len();
            self.team.open.rotate_left(usize::from(turn != 0));
        }
    }
}

/// 300 connections of one user, each in 100 rooms of its own; when all have joined, all close.
struct Closing {
    team: Team,
    size: usize,
    joined: usize,
    round: usize,
}

pub(super) fn closing_memberships(size: &Size) -> Box<dyn Attack> {
    let connections = size.of(300);
    let team = Team::new(connections, Reading::Always, |_| "/v1/connect?user=mallory".to_owned());
    Box::new(Closing { team, size: connections, joined: 0, round: 0 })
}

impl Attack for Closing {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        if let Some(id) = self.team.note(event) {
            for room in 0..ROOMS {
                let number = (self.round * self.size + self.team.open.len()) * ROOMS + room;
                swarm.send(id, &format!(r#"{{"type":"join","room":"m{number}","observe":false}}"#));
            }
            swarm.send(id, r#"{"type":"heartbeat","ack":true}"#);
        }
        if matches!(event, Event::Text(_, text) if text.starts_with(br#"{"type":"heartbeat_ack""#)) {
            self.joined += 1;
        }
    }

    fn step(&mut self, swarm: &mut Swarm, _: Duration) {
        if self.joined < self.size {
            self.team.fill(swarm);
            return;
        }
        for id in std::mem::take(&mut self.team.open) {
            swarm.close(id);
        }
        self.joined = 0;
        self.round += 1;
    }
}

/// Connections of different users hold as many rooms with long names as they may, and then only stay alive.
struct Many {
    team: Team,
}

pub(super) fn many(size: &Size) -> Box<dyn Attack> {
    Box::new(Many {
        team: Team::new(size.of(200), Reading::Always, |number| format!("/v1/connect?user=many-{number}")),
    })
}

impl Attack for Many {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        if let Some(id) = self.team.note(event) {
            for room in 0..ROOMS {
                let name = format!("{:0128}", self.team.open.len() * ROOMS + room);
                swarm.send(id, &format!(r#"{{"type":"join","room":"{name}"}}"#));
            }
        }
    }

    fn step(&mut self, swarm: &mut Swarm, _: Duration) {
        self.team.fill(swarm);
    }
}
