//! Attacks with connections: many, short, or never ready.

use std::collections::VecDeque;
use std::time::Duration;

use super::team::Team;
use crate::attack::{Attack, Pace, Size};
use crate::client::{Reading, text};
use crate::swarm::{Event, Id, Swarm};

/// Connections that are closed as soon as they have received a reply, and are opened again.
struct Short {
    team: Team,
    opening: Vec<u8>,
    /// The message that ends the connection starts with this.
    until: &'static [u8],
    is_clean: bool,
}

impl Attack for Short {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        if let Some(id) = self.team.note(event) {
            swarm.send_raw(id, &self.opening);
        }
        if let Event::Text(id, text) = event
            && text.starts_with(self.until)
        {
            self.team.forget(*id);
            if self.is_clean {
                swarm.close(*id);
            } else {
                swarm.reset(*id);
            }
        }
    }

    fn step(&mut self, swarm: &mut Swarm, _: Duration) {
        self.team.fill(swarm);
    }
}

/// Each snapshot is requested on a fresh connection of the same user.
pub(super) fn reconnects(size: &Size) -> Box<dyn Attack> {
    Box::new(Short {
        team: Team::new(size.of(20), Reading::Always, |_| "/v1/connect?user=mallory".to_owned()),
        opening: text(r#"{"type":"observe","room":"hall 0"}"#),
        until: br#"{"type":"snapshot""#,
        is_clean: false,
    })
}

/// The same with a user of its own for each connection.
pub(super) fn reconnects_of_new_users(size: &Size) -> Box<dyn Attack> {
    Box::new(Short {
        team: Team::new(size.of(20), Reading::Always, |number| format!("/v1/connect?user=mallory-{number}")),
        opening: text(r#"{"type":"observe","room":"hall 0"}"#),
        until: br#"{"type":"snapshot""#,
        is_clean: false,
    })
}

/// Each connection joins 100 rooms in its query.
pub(super) fn rejoin(size: &Size) -> Box<dyn Attack> {
    let rooms: String = (0..100).map(|room| format!("&room=r{room}")).collect();
    Box::new(Short {
        team: Team::new(size.of(20), Reading::Always, move |number| format!("/v1/connect?user=re-{number}{rooms}")),
        opening: Vec::new(),
        until: br#"{"type":"welcome""#,
        is_clean: true,
    })
}

/// New users of the online-users protocol: each makes a new list for everyone.
pub(super) fn lists(size: &Size) -> Box<dyn Attack> {
    Box::new(Short {
        team: Team::new(size.of(20), Reading::Always, |number| format!("/ws/passing-{number}")),
        opening: text("heartbeat"),
        until: br#"{"type": "online_users""#,
        is_clean: true,
    })
}

/// How long a client stays connected to receive the messages for newcomers.
const VISIT: Duration = Duration::from_millis(300);

/// Connections that request the messages for newcomers: users who are online, or the chat history.
struct Visitors {
    /// Fill the chat history first.
    talkers: Option<Team>,
    team: Team,
    opening: Vec<u8>,
    now: Duration,
    visits: VecDeque<(Duration, Id)>,
}

/// New users of online status, who are sent all users.
pub(super) fn greetings(size: &Size) -> Box<dyn Attack> {
    let path = |number: usize| format!("/ws-online-status?userId=visitor-{number}");
    let team = Team::new(size.of(20), Reading::Always, path);
    Box::new(Visitors { talkers: None, team, opening: Vec::new(), now: Duration::ZERO, visits: VecDeque::new() })
}

/// Chat clients that join for the history.
pub(super) fn chat_histories(size: &Size) -> Box<dyn Attack> {
    Box::new(Visitors {
        talkers: Some(Team::new(10, Reading::Always, |_| "/ws".to_owned())),
        team: Team::new(size.of(20), Reading::Always, |_| "/ws".to_owned()),
        opening: text(r#"{"type":"join","payload":{"user":"visitor"}}"#),
        now: Duration::ZERO,
        visits: VecDeque::new(),
    })
}

impl Attack for Visitors {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        if let Some(id) = self.talkers.as_mut().and_then(|talkers| talkers.note(event)) {
            swarm.send(id, r#"{"type":"join","payload":{"user":"talker-of-mallory"}}"#);
            for _ in 0..10 {
                let words = "x".repeat(4000);
                swarm.send(id, &format!(r#"{{"type":"msg","payload":{{"text":"{words}"}}}}"#));
            }
        }
        if let Some(id) = self.team.note(event) {
            swarm.send_raw(id, &self.opening);
            self.visits.push_back((self.now, id));
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        swarm.request_everything();
        self.now = now;
        if let Some(talkers) = &mut self.talkers {
            talkers.fill(swarm);
        }
        self.team.fill(swarm);
        while let Some((_, id)) = self.visits.pop_front_if(|(begin, _)| now > *begin + VISIT) {
            self.team.forget(id);
            swarm.reset(id);
        }
    }
}

/// Requests whose headers arrive one byte at a time, one per second.
struct SlowHeaders {
    size: usize,
    sockets: Vec<Id>,
    pace: Pace,
}

pub(super) fn slow_headers(size: &Size) -> Box<dyn Attack> {
    Box::new(SlowHeaders { size: size.of(1000), sockets: Vec::new(), pace: Pace::new(1.0) })
}

impl Attack for SlowHeaders {
    fn react(&mut self, _: &mut Swarm, event: &Event) {
        if let Event::Closed(id, _) = event {
            self.sockets.retain(|other| other != id);
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        let missing = self.size - self.sockets.len();
        for _ in 0..missing.min(64) {
            let id = swarm.plain(Reading::Always);
            swarm.send_raw(id, b"GET /v1/connect?user=slow HTTP/1.1\r\nHost: slow\r\nX-Slow: ");
            self.sockets.push(id);
        }
        if self.pace.due(now) > 0 {
            for id in &self.sockets {
                swarm.send_raw(*id, b"x");
            }
        }
    }
}

/// Handshakes that the server must refuse, as fast as it does.
struct Refused {
    size: usize,
    sockets: Vec<Id>,
}

pub(super) fn refused(size: &Size) -> Box<dyn Attack> {
    Box::new(Refused { size: size.of(20), sockets: Vec::new() })
}

impl Attack for Refused {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        match event {
            Event::Closed(id, _) => self.sockets.retain(|other| other != id),
            Event::Answer { id, .. } => {
                swarm.reset(*id);
                self.sockets.retain(|other| other != id);
            }
            Event::Open(_) | Event::Text(..) => {}
        }
    }

    fn step(&mut self, swarm: &mut Swarm, _: Duration) {
        while self.sockets.len() < self.size {
            self.sockets.push(swarm.websocket("/v1/connect?user=", Reading::Always));
        }
    }
}
