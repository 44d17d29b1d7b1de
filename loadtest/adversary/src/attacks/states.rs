//! Attacks with states: what the server keeps of them, and what it writes to Redis for each change.

use std::time::Duration;

use super::rooms::ROOMS;
use super::team::{FULL, Team, state};
use crate::attack::{Attack, Pace, Size};
use crate::client::Reading;
use crate::swarm::{Event, Swarm};

/// Close to the limit of 1,024.
const STATE_BYTES: usize = 1000;
const TICKS_PER_S: f64 = 10.0;

/// One user with a state in each of many rooms changes one of them per tick.
struct OneChange {
    team: Team,
    pace: Pace,
    changes: u64,
}

pub(super) fn one_change_per_tick(size: &Size) -> Box<dyn Attack> {
    let team = Team::new(size.of(300), Reading::Always, |_| "/v1/connect?user=mallory".to_owned());
    Box::new(OneChange { team, pace: Pace::new(TICKS_PER_S), changes: 0 })
}

impl Attack for OneChange {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        if let Some(id) = self.team.note(event) {
            for room in 0..ROOMS {
                let number = self.team.open.len() * ROOMS + room;
                let state = state(STATE_BYTES, 0);
                swarm.send(id, &format!(r#"{{"type":"join","room":"s{number}","observe":false,"state":{state}}}"#));
            }
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.team.fill(swarm);
        let due = self.pace.due(now);
        let Some(first) = self.team.open.first().copied().filter(|id| swarm.backlog(*id) < FULL) else { return };
        for _ in 0..due {
            self.changes += 1;
            swarm.send(first, &format!(r#"{{"type":"state","room":"s100","state":{{"n":{}}}}}"#, self.changes));
        }
    }

    fn is_prepared(&self, swarm: &Swarm) -> bool {
        self.team.is_complete() && self.team.open.iter().all(|id| swarm.backlog(*id) == 0)
    }
}

/// One connection, alone in 100 rooms, sends 70 states for each, one room after the other, each in a tick of its own.
struct History {
    team: Team,
    pace: Pace,
    sent: usize,
    limit: usize,
}

pub(super) fn history(size: &Size) -> Box<dyn Attack> {
    let team = Team::new(1, Reading::Always, |_| "/v1/connect?user=mallory".to_owned());
    // Seventy states in seven seconds.
    Box::new(History { team, pace: Pace::new(TICKS_PER_S), sent: 0, limit: size.of(70) })
}

impl Attack for History {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        if let Some(id) = self.team.note(event) {
            for room in 0..ROOMS {
                swarm.send(id, &format!(r#"{{"type":"join","room":"h{room}"}}"#));
            }
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.team.fill(swarm);
        let due = self.pace.due(now);
        let Some(id) = self.team.open.first().copied().filter(|id| swarm.backlog(*id) < FULL) else { return };
        if due == 0 || self.sent == self.limit {
            return;
        }
        self.sent += 1;
        for room in 0..ROOMS {
            let state = state(STATE_BYTES, self.sent as u64);
            swarm.send(id, &format!(r#"{{"type":"state","room":"h{room}","state":{state}}}"#));
        }
    }
}

/// New states in one room as fast as the server reads them.
struct Flood {
    team: Team,
    changes: u64,
    pace: Pace,
}

pub(super) fn flood(size: &Size) -> Box<dyn Attack> {
    let team = Team::new(4, Reading::Always, |number| format!("/v1/connect?user=mallory-{}&room=flood", number % 4));
    Box::new(Flood { team, changes: 0, pace: Pace::new(4000.0 * size.share) })
}

impl Attack for Flood {
    fn react(&mut self, _: &mut Swarm, event: &Event) {
        self.team.note(event);
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.team.fill(swarm);
        for _ in 0..self.pace.due(now) {
            self.changes += 1;
            let open = &self.team.open;
            let Some(id) = open.get(self.changes as usize % open.len().max(1)).copied() else { return };
            if swarm.backlog(id) < FULL {
                let state = state(STATE_BYTES, self.changes);
                swarm.send(id, &format!(r#"{{"type":"state","room":"flood","state":{state}}}"#));
            }
        }
    }
}
