//! Attacks with HTTP requests: expensive to answer, long to answer, or many.

use std::time::Duration;

use super::rooms::ROOMS;
use super::team::{FULL, Team};
use crate::attack::{Attack, Pace, Size};
use crate::client::Reading;
use crate::swarm::{Event, Id, Swarm};

/// A request of a pipeline.
#[derive(Clone)]
enum Request {
    Get(String),
    Post(&'static str, String),
}

/// Sockets that repeat requests and read the answers; closed ones are replaced.
struct Asking {
    size: usize,
    sockets: Vec<Id>,
    request: Box<dyn FnMut() -> Request + Send>,
    pace: Pace,
    next: usize,
}

impl Asking {
    fn boxed(size: usize, per_second: f64, request: impl FnMut() -> Request + Send + 'static) -> Box<Self> {
        Box::new(Self { size, sockets: Vec::new(), request: Box::new(request), pace: Pace::new(per_second), next: 0 })
    }
}

impl Attack for Asking {
    fn react(&mut self, _: &mut Swarm, event: &Event) {
        if let Event::Closed(id, _) = event {
            self.sockets.retain(|other| other != id);
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        for _ in 0..self.pace.due(now) {
            if self.sockets.len() < self.size {
                self.sockets.push(swarm.plain(Reading::Always));
            }
            self.next += 1;
            let id = self.sockets[self.next % self.sockets.len()];
            if swarm.backlog(id) < FULL {
                match (self.request)() {
                    Request::Get(path) => swarm.get(id, &path),
                    Request::Post(path, body) => swarm.post(id, path, &body),
                }
            }
        }
    }
}

fn get(path: &'static str) -> impl FnMut() -> Request {
    move || Request::Get(path.to_owned())
}

pub(super) fn made_up_users(size: &Size) -> Box<dyn Attack> {
    let mut number = size.rng.clone().u64(..1 << 40);
    let request = move || {
        number += 1;
        Request::Post("/heartbeat", format!(r#"{{"user_id":"made-up-{number}"}}"#))
    };
    // The server answers the first heartbeat of a user after a tick. Several sockets send heartbeats meanwhile.
    Asking::boxed(size.of(400), 4000.0 * size.share, request)
}

pub(super) fn online_users(size: &Size) -> Box<dyn Attack> {
    Asking::boxed(size.of(50), 50.0, get("/online_users"))
}

pub(super) fn members(_: &Size) -> Box<dyn Attack> {
    Asking::boxed(4, 200.0, get("/v1/rooms/lobby/members?limit=1000"))
}

pub(super) fn metrics(_: &Size) -> Box<dyn Attack> {
    Asking::boxed(4, 2000.0, get("/metrics"))
}

pub(super) fn pages(_: &Size) -> Box<dyn Attack> {
    Asking::boxed(4, 1000.0, get("/presence.js"))
}

/// A user with many rooms, and requests that name it a thousand times.
struct Duplicates {
    team: Team,
    asking: Box<Asking>,
}

pub(super) fn status_duplicates(size: &Size) -> Box<dyn Attack> {
    let names = vec![r#""a""#; size.of(1000)].join(",");
    let body = format!(r#"{{"users":[{names}]}}"#);
    Box::new(Duplicates {
        team: Team::new(size.of(60), Reading::Always, |_| "/v1/connect?user=a".to_owned()),
        asking: Asking::boxed(2, 2.0, move || Request::Post("/v1/users/status", body.clone())),
    })
}

impl Attack for Duplicates {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        self.asking.react(swarm, event);
        if let Some(id) = self.team.note(event) {
            for room in 0..ROOMS {
                let name = format!("{:0128}", self.team.open.len() * ROOMS + room);
                swarm.send(id, &format!(r#"{{"type":"join","room":"{name}","observe":false}}"#));
            }
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.team.fill(swarm);
        if self.is_prepared(swarm) {
            self.asking.step(swarm, now);
        }
    }

    fn is_prepared(&self, swarm: &Swarm) -> bool {
        self.team.is_complete() && self.team.open.iter().all(|id| swarm.backlog(*id) == 0)
    }
}

/// Requests that are reset as soon as they are sent.
struct Abandoned {
    pace: Pace,
    sent: Vec<Id>,
}

pub(super) fn abandoned(_: &Size) -> Box<dyn Attack> {
    Box::new(Abandoned { pace: Pace::new(149.0), sent: Vec::new() })
}

impl Attack for Abandoned {
    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        let mut waiting = Vec::new();
        for id in std::mem::take(&mut self.sent) {
            match swarm.exists(id) && swarm.backlog(id) > 0 {
                true => waiting.push(id),
                false => swarm.reset(id),
            }
        }
        self.sent = waiting;
        for _ in 0..self.pace.due(now) {
            let id = swarm.plain(Reading::Always);
            swarm.get(id, "/v1/rooms?limit=1000");
            self.sent.push(id);
        }
    }
}
