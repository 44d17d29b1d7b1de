//! Attacks with frames: unfinished, tiny, empty.

use std::time::Duration;

use wire::frame::{self, PING, PONG, TEXT};

use super::team::{FULL, Team};
use crate::attack::{Attack, Pace, Size};
use crate::client::Reading;
use crate::swarm::{Event, Swarm};

const FINAL: u8 = 0x80;
/// As fast as the attacker can.
const BYTES_PER_STEP: usize = 256 * 1024;

/// A frame that need not be the last of its message.
fn part(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 14);
    frame::put_header(&mut bytes, first_byte, Some(frame::MASKING_KEY), payload.len() as u64);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    frame::apply_mask(&mut bytes[start..], frame::MASKING_KEY);
    bytes
}

/// Each connection sends the beginning of a message, and from then on only pongs.
struct Unfinished {
    team: Team,
    pace: Pace,
}

pub(super) fn unfinished(size: &Size) -> Box<dyn Attack> {
    let team = Team::new(size.of(1000), Reading::Always, |number| format!("/v1/connect?user=unfinished-{number}"));
    Box::new(Unfinished { team, pace: Pace::new(0.5) })
}

impl Attack for Unfinished {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        if let Some(id) = self.team.note(event) {
            swarm.send_raw(id, &part(TEXT, &[b' '; 16_000]));
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.team.fill(swarm);
        if self.pace.due(now) > 0 {
            for id in &self.team.open {
                swarm.send_raw(*id, &frame::masked(PONG, b""));
            }
        }
    }
}

/// One connection sends the same bytes as fast as the server reads them.
struct Repeated {
    team: Team,
    once: Vec<u8>,
    block: Vec<u8>,
}

impl Repeated {
    fn boxed(path: &str, once: Vec<u8>, bytes: &[u8], size: &Size) -> Box<dyn Attack> {
        let path = path.to_owned();
        let team = Team::new(1, Reading::Always, move |_| path.clone());
        let length = (BYTES_PER_STEP as f64 * size.share.min(1.0)) as usize;
        Box::new(Self { team, once, block: bytes.repeat((length / bytes.len()).max(1)) })
    }
}

impl Attack for Repeated {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        if let Some(id) = self.team.note(event) {
            swarm.send_raw(id, &self.once);
        }
    }

    fn step(&mut self, swarm: &mut Swarm, _: Duration) {
        self.team.fill(swarm);
        for id in &self.team.open {
            if swarm.backlog(*id) < FULL {
                swarm.send_raw(*id, &self.block);
            }
        }
    }
}

pub(super) fn pings(size: &Size) -> Box<dyn Attack> {
    Repeated::boxed("/v1/connect?user=mallory", Vec::new(), &frame::masked(PING, b""), size)
}

/// `heartbeat` in nine fragments.
pub(super) fn fragments(size: &Size) -> Box<dyn Attack> {
    let text = b"heartbeat";
    let mut bytes = part(TEXT, &text[..1]);
    for at in 1..text.len() {
        let is_last = at == text.len() - 1;
        bytes.extend(part(if is_last { FINAL } else { 0 }, &text[at..=at]));
    }
    Repeated::boxed("/v1/connect?user=mallory", Vec::new(), &bytes, size)
}

pub(super) fn empty_fragments(size: &Size) -> Box<dyn Attack> {
    Repeated::boxed("/v1/connect?user=mallory", part(TEXT, b"x"), &part(0, b""), size)
}
