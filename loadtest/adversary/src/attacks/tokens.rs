//! Attacks on a server with identity: floods of bad tokens, and of good ones.

use std::time::Duration;

use wire::token;

use super::team::{FULL, Team};
use crate::attack::{Attack, Pace, Size};
use crate::client::{Reading, text};
use crate::swarm::{Event, Id, Swarm};

/// Handshakes with bad tokens, as fast as they are refused.
struct Forgers {
    size: usize,
    sockets: Vec<Id>,
    opened: usize,
    forge: fn(usize) -> String,
}

/// Signed with another secret: the server has to check the signature.
pub(super) fn bad_signatures(size: &Size) -> Box<dyn Attack> {
    let forge = |_| token::forged(r#"{"alg":"HS256","typ":"JWT"}"#, "mallory", 32);
    Box::new(Forgers { size: size.of(20), sockets: Vec::new(), opened: 0, forge })
}

/// Each names another key, which the server has to look for where keys are published.
pub(super) fn unknown_keys(size: &Size) -> Box<dyn Attack> {
    let forge = |number| token::forged(&format!(r#"{{"alg":"EdDSA","kid":"key-{number}"}}"#), "mallory", 64);
    Box::new(Forgers { size: size.of(1000), sockets: Vec::new(), opened: 0, forge })
}

impl Attack for Forgers {
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
        swarm.request_everything();
        for _ in 0..(self.size - self.sockets.len()).min(64) {
            self.opened += 1;
            let token = (self.forge)(self.opened);
            self.sockets.push(swarm.websocket_with_token(&token, "/v1/connect", Reading::Always));
        }
    }
}

/// Connections that send one token after the other.
struct Renewing {
    team: Team,
    pace: Pace,
    message: Option<Vec<u8>>,
    is_valid: bool,
}

/// Tokens of another user: the third closes the connection, which is opened again.
pub(super) fn bad_renewals(size: &Size) -> Box<dyn Attack> {
    renewing(size, false)
}

/// Valid tokens, far more often than necessary.
pub(super) fn renewals(size: &Size) -> Box<dyn Attack> {
    renewing(size, true)
}

fn renewing(size: &Size, is_valid: bool) -> Box<dyn Attack> {
    let team = Team::new(size.of(20), Reading::Always, |_| "/v1/connect?user=mallory&room=hall".to_owned());
    Box::new(Renewing { team, pace: Pace::new(20_000.0 * size.share), message: None, is_valid })
}

impl Attack for Renewing {
    fn react(&mut self, _: &mut Swarm, event: &Event) {
        self.team.note(event);
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.team.fill(swarm);
        let is_valid = self.is_valid;
        let message = self.message.get_or_insert_with(|| {
            let token = match is_valid {
                true => swarm.token("mallory").unwrap_or_default(),
                false => token::forged(r#"{"alg":"HS256","typ":"JWT"}"#, "mallory", 32),
            };
            text(&format!(r#"{{"type":"auth","token":"{token}"}}"#))
        });
        for number in 0..self.pace.due(now) {
            let Some(id) = self.team.open.get(number % self.team.open.len().max(1)).copied() else { return };
            if swarm.backlog(id) < FULL {
                swarm.send_raw(id, message);
            }
        }
    }
}
