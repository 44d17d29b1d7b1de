//! Attacks with short messages that have long answers.

use std::time::Duration;

use wire::frame;

use super::team::{FULL, Team};
use crate::attack::{Attack, Pace, Size};
use crate::client::{Reading, text};
use crate::swarm::{Event, Swarm};

const TICKS_PER_S: f64 = 10.0;
const FAST: f64 = 100_000.0;

/// Connections that first send one message and then others at a steady rate.
struct Asking {
    team: Team,
    opening: Vec<u8>,
    /// Sent in turn.
    messages: Vec<Vec<u8>>,
    pace: Pace,
    sent: usize,
}

impl Asking {
    fn boxed(
        connections: usize,
        path: &'static str,
        opening: &str,
        messages: &[&str],
        per_second: f64,
    ) -> Box<dyn Attack> {
        Box::new(Self {
            team: Team::new(connections, Reading::Always, move |number| path.replace('#', &number.to_string())),
            opening: if opening.is_empty() { Vec::new() } else { text(opening) },
            messages: messages.iter().map(|message| text(message)).collect(),
            pace: Pace::new(per_second),
            sent: 0,
        })
    }
}

impl Attack for Asking {
    fn react(&mut self, swarm: &mut Swarm, event: &Event) {
        if let Some(id) = self.team.note(event) {
            swarm.send_raw(id, &self.opening);
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.team.fill(swarm);
        for _ in 0..self.pace.due(now) {
            let message = &self.messages[self.sent % self.messages.len()];
            self.sent += 1;
            for id in &self.team.open {
                if swarm.backlog(*id) < FULL {
                    swarm.send_raw(*id, message);
                }
            }
        }
    }
}

pub(super) fn resync(_: &Size) -> Box<dyn Attack> {
    let opening = r#"{"type":"observe","room":"hall 0"}"#;
    Asking::boxed(1, "/v1/connect?user=mallory", opening, &[r#"{"type":"resync","room":"hall 0"}"#], TICKS_PER_S)
}

/// All members of the room, whose states are in the answer.
pub(super) fn watch_again(size: &Size) -> Box<dyn Attack> {
    let names: Vec<_> = (0..size.of(300)).map(|number| format!(r#""member-{number}""#)).collect();
    let watch = format!(r#"{{"type":"watch","users":[{}]}}"#, names.join(","));
    Asking::boxed(1, "/v1/connect?user=mallory", "", &[&watch], TICKS_PER_S)
}

pub(super) fn observe_toggle(_: &Size) -> Box<dyn Attack> {
    let messages = [r#"{"type":"observe","room":"hall 0"}"#, r#"{"type":"unobserve","room":"hall 0"}"#];
    Asking::boxed(1, "/v1/connect?user=mallory", "", &messages, 2.0 * TICKS_PER_S)
}

pub(super) fn errors(size: &Size) -> Box<dyn Attack> {
    Asking::boxed(1, "/v1/connect?user=mallory", "", &["x"], FAST * size.share)
}

pub(super) fn acks(size: &Size) -> Box<dyn Attack> {
    let message = r#"{"type":"heartbeat","ack":true}"#;
    Asking::boxed(1, "/v1/connect?user=mallory", "", &[message], FAST * size.share)
}

pub(super) fn publish(size: &Size) -> Box<dyn Attack> {
    let data = "x".repeat(4000);
    let messages = [
        format!(r#"{{"type":"message","room":"lobby","data":"{data}"}}"#),
        r#"{"type":"message","room":"lobby","data":1}"#.to_owned(),
    ];
    let messages: Vec<_> = messages.iter().map(String::as_str).collect();
    Asking::boxed(size.of(10), "/v1/connect?user=mallory-#&room=lobby", "", &messages, 500.0 * size.share)
}

pub(super) fn chat(size: &Size) -> Box<dyn Attack> {
    let message = format!(r#"{{"type":"msg","payload":{{"text":"{}"}}}}"#, "x".repeat(4000));
    let join = r#"{"type":"join","payload":{"user":"mallory"}}"#;
    Asking::boxed(size.of(10), "/ws", join, &[&message, r#"{"type":"ping"}"#], 500.0 * size.share)
}

/// Joins again, with the first seq that it saw, while states of its own fill the diff history.
struct Resume {
    team: Team,
    epoch: String,
    seq: u64,
    pace: Pace,
    sent: u64,
}

pub(super) fn resume(_: &Size) -> Box<dyn Attack> {
    let team = Team::new(1, Reading::Always, |_| "/v1/connect?user=mallory&room=hall%200".to_owned());
    Box::new(Resume { team, epoch: String::new(), seq: 0, pace: Pace::new(TICKS_PER_S), sent: 0 })
}

impl Attack for Resume {
    fn react(&mut self, _: &mut Swarm, event: &Event) {
        self.team.note(event);
        if let Event::Text(_, text) = event
            && text.starts_with(br#"{"type":"snapshot""#)
            && let Ok(snapshot) = serde_json::from_slice::<serde_json::Value>(text)
        {
            self.epoch = snapshot["epoch"].as_str().unwrap_or_default().to_owned();
            self.seq = snapshot["seq"].as_u64().unwrap_or_default();
        }
    }

    fn step(&mut self, swarm: &mut Swarm, now: Duration) {
        self.team.fill(swarm);
        for _ in 0..self.pace.due(now) {
            let Some(id) = self.team.open.first().copied().filter(|id| swarm.backlog(*id) < FULL) else { return };
            self.sent += 1;
            let state = super::team::state(1000, self.sent);
            let message = match self.sent {
                1..=30 => format!(r#"{{"type":"state","room":"hall 0","state":{state}}}"#),
                _ => format!(
                    r#"{{"type":"join","room":"hall 0","resume":{{"epoch":"{}","seq":{}}}}}"#,
                    self.epoch, self.seq
                ),
            };
            swarm.send_raw(id, &frame::masked(frame::TEXT, message.as_bytes()));
        }
    }
}
