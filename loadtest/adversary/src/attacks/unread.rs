//! Attacks that never read the replies that they request.

use std::time::Duration;

use super::rooms::ROOMS;
use super::team::{FULL, Team, state};
use crate::attack::{Attack, Pace, Size};
use crate::client::{Reading, text};
use crate::swarm::{Event, Id, Swarm};

/// New observers per second. Observers of one tick share a snapshot; observers of different ticks do not.
const OBSERVERS_PER_S: f64 = 20.0;

fn observers_by(now: Duration) -> usize {
    (now.as_secs_f64() * OBSERVERS_PER_S) as usize
}

/// Observers of the lobby that send heartbeats.
struct Lists {
    native: Team,
    lists: Team,
    pace: Pace,
}

pub(super) fn lists(size: &Size) -> Box<dyn Attack> {
    let connections = size.of(150);
    Box::new(Lists {
        native: Team::new(connections, Reading::Never, |number| format!("/v1/connect?user=mute-{number}&room=lobby")),
        lists: Team::new(connections, Reading::Never, |number| format!("/ws/mute-list-{number}")),
        pace: Pace::new(0.3),
    })
}

impl Attack for Lists {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        self.native.note(event);
        if let Some(id) = self.lists.note(event) {
            swarm.send_raw(id, &text("heartbeat"));
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.native.fill_up_to(swarm, observers_by(now));
        self.lists.fill_up_to(swarm, observers_by(now));
        if self.pace.due(now) > 0 {
            for id in self.native.open.iter().chain(&self.lists.open) {
                if swarm.backlog(*id) < FULL {
                    swarm.send_raw(*id, &text("heartbeat"));
                }
            }
        }
    }
}

/// Sockets that request long lists over HTTP.
struct Answers {
    size: usize,
    sockets: Vec<Id>,
}

pub(super) fn answers(size: &Size) -> Box<dyn Attack> {
    Box::new(Answers { size: size.of(330), sockets: Vec::new() })
}

impl Attack for Answers {
    fn react(&mut self, _: &mut Swarm, event: &Event) {
        if let Event::Closed(id, _) = event {
            self.sockets.retain(|other| other != id);
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        // At most 100 new ones per second, however fast the server closes them.
        let due = ((now.as_secs_f64() + 1.0) * 100.0) as u64;
        while self.sockets.len() < self.size && swarm.traffic().connections < due.max(self.size as u64) {
            let id = swarm.plain(Reading::Never);
            for _ in 0..4 {
                swarm.get(id, "/online_users");
            }
            self.sockets.push(id);
        }
    }
}

/// Fourteen members with states of 1 KiB in each of 100 rooms, and observers of all of them.
struct Snapshots {
    members: Team,
    observers: Team,
}

/// Fourteen states of a little more than 1,100 bytes with their names stay under 16 KiB.
const MEMBERS: usize = 14;

pub(super) fn snapshots(size: &Size) -> Box<dyn Attack> {
    let path = |number: usize| format!("/v1/connect?user=stuffed-{}", number % MEMBERS);
    let observers = Team::new(size.of(150), Reading::Never, |number| format!("/v1/connect?user=mute-{}", number % 150));
    Box::new(Snapshots { members: Team::new(MEMBERS, Reading::Always, path), observers })
}

impl Attack for Snapshots {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        if let Some(id) = self.members.note(event) {
            for room in 0..ROOMS {
                let state = state(1020, 0);
                swarm.send(id, &format!(r#"{{"type":"join","room":"full-{room}","observe":false,"state":{state}}}"#));
            }
        }
        if let Some(id) = self.observers.note(event) {
            for room in 0..ROOMS {
                swarm.send(id, &format!(r#"{{"type":"observe","room":"full-{room}"}}"#));
            }
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.members.fill(swarm);
        if self.members.is_complete() {
            self.observers.fill_up_to(swarm, observers_by(now));
        }
    }
}
