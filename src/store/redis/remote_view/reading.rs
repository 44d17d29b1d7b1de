//! The reading of a hash: its head says whether it is whole, its pages are believed as they come, and what was heard meanwhile comes
//! on top.

use super::super::event::Event;
use super::super::schema::{Head, Header, parse_field, parse_hold};
use super::View;
use crate::presence::{Reason, Remote};

/// Events of one lane that wait while the hash is read. Beyond that they are let go of, and the hash is read again.
const MAX_WAITING_EVENTS: usize = 1000;

/// What is known of a run's holds in one lane.
#[derive(Debug)]
pub(super) enum Known {
    /// Less than there is. What was known before stays as it is.
    Missing { generation: u32 },
    /// The hash is being read, for the first time or anew.
    Reading(Reading),
    /// All of it, up to this event.
    Current { seq: u64, generation: u32 },
}

/// A hash that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    generation: u32,
    /// What was known before.
    before: u32,
    known_seq: Option<u64>,
    /// The hash was whole up to this event when the reading began, and this was it.
    seq: u64,
    edition: u64,
    waiting: Vec<Event>,
    overflowed: bool,
}

/// A hash that is to be read: its header, and then page by page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Load {
    /// Whose.
    pub run: String,
    /// In which lane.
    pub lane: usize,
}

/// How to go on with a hash after its header has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read its pages.
    Scan,
    /// There is nothing more to read.
    Stop,
}

impl View {
    /// Takes the head of a hash that is to be read.
    pub fn begin(&mut self, load: &Load, head: Option<Head>, now_ms: u64) -> Step {
        let latest = self.latest(load, head, now_ms);
        let Some(known) = self.known(load) else { return Step::Stop };
        let Known::Reading(reading) = known else { return Step::Stop };
        match head {
            Some(Head { header: Header::Whole(seq), .. }) if reading.known_seq == Some(seq) => {
                (reading.seq, reading.generation) = (seq, reading.before);
                Step::Stop
            }
            Some(Head { header: Header::Whole(seq), edition }) if seq >= latest => {
                (reading.seq, reading.edition, reading.known_seq) = (seq, edition, None);
                Step::Scan
            }
            // Not there, not whole, or lost and begun anew: what was known stays until it is whole again.
            _ => {
                *known = Known::Missing { generation: reading.before };
                Step::Stop
            }
        }
    }

    /// The latest event of a lane that there must be in its hash.
    fn latest(&mut self, load: &Load, head: Option<Head>, now_ms: u64) -> u64 {
        // Without touch this node does not hear either what would be the next event.
        let (patience_ms, in_touch_since_ms) = (self.schema.ttl_ms(), self.in_touch_since_ms.unwrap_or(now_ms));
        let Some(run) = self.runs.get_mut(&load.run) else { return 0 };
        let (latest, doubt) = (&mut run.latest[load.lane], &mut run.doubts[load.lane]);
        match head {
            Some(Head { header: Header::Whole(seq), edition }) if seq < *latest => {
                let (_, since_ms) = doubt.filter(|(of, _)| *of == edition).unwrap_or((edition, now_ms));
                *doubt = Some((edition, since_ms));
                // Its owner would have written it anew by now: somebody else has told of an event that there never was.
                if now_ms.saturating_sub(since_ms.max(in_touch_since_ms)) > patience_ms {
                    (*latest, *doubt) = (seq, None);
                }
            }
            _ => *doubt = None,
        }
        *latest
    }

    /// Takes a page of a hash.
    pub fn page(&mut self, load: &Load, fields: &[(String, String)]) {
        let Some(run) = self.runs.get(&load.run) else { return };
        let (number, Known::Reading(reading)) = (run.number, &run.lanes[load.lane]) else { return };
        let generation = reading.generation;
        for (field, value) in fields {
            let Some((room, user)) = parse_field(field) else { continue };
            let Some((since, state)) = parse_hold(value, &mut self.json) else { continue };
            if self.schema.lane_of(user) == load.lane {
                self.registry.hold_remote(Remote { run: number, generation, room: &room, user }, state.as_ref(), since);
            }
        }
    }

    /// The hash has been read, and this is its head now: what was heard meanwhile comes on top, and what is not held any more is
    /// let go of. Returns users of this node whose keys another node may have deleted, and the hash again if something was missed
    /// meanwhile.
    pub fn finish(&mut self, load: &Load, head: Option<Head>) -> (Vec<String>, Option<Load>) {
        let (lane, mut released) = (load.lane, Vec::new());
        let Some(run) = self.runs.get_mut(&load.run) else { return (released, None) };
        let number = run.number;
        let reading = match std::mem::replace(&mut run.lanes[lane], Known::Missing { generation: 0 }) {
            Known::Reading(reading) => reading,
            other => {
                run.lanes[lane] = other;
                return (released, None);
            }
        };
        let Reading { generation, before, .. } = reading;
        let scanned = generation != before;
        let is_same = |head: Head| head.edition == reading.edition && matches!(head.header, Header::Whole(_));
        if scanned && !head.is_some_and(is_same) {
            // It was written anew meanwhile, so that the pages are of two hashes.
            run.lanes[lane] = Known::Missing { generation: before };
            return (released, None);
        }
        let (mut seq, mut missed) = (reading.seq, reading.overflowed);
        for event in reading.waiting.iter().filter(|event| event.seq > reading.seq) {
            if event.seq == seq + 1 && !event.lines.is_empty() && !missed {
                released.extend(self.apply(number, generation, lane, &event.lines));
                seq = event.seq;
            } else {
                missed |= event.seq > seq;
            }
        }
        if scanned && !missed {
            let schema = &self.schema;
            released.extend(
                self.registry.sweep_remote(number, generation, Reason::Left, |user| schema.lane_of(user) == lane),
            );
        }
        let Some(run) = self.runs.get_mut(&load.run) else { return (released, None) };
        run.latest[lane] = run.latest[lane].max(seq);
        if missed {
            run.lanes[lane] = Known::Missing { generation: before };
            self.read(load, false);
            return (released, Some(load.clone()));
        }
        run.lanes[lane] = Known::Current { seq, generation };
        (released, None)
    }

    /// The reading was broken off.
    pub fn abort(&mut self, load: &Load) {
        if let Some(known) = self.known(load)
            && let Known::Reading(reading) = known
        {
            *known = Known::Missing { generation: reading.before };
        }
    }

    pub(super) fn known(&mut self, load: &Load) -> Option<&mut Known> {
        self.runs.get_mut(&load.run)?.lanes.get_mut(load.lane)
    }

    /// Begins to read a hash; with `check` it may turn out that nothing was missed.
    pub(super) fn read(&mut self, load: &Load, check: bool) {
        let generation = self.next_generation;
        let Some(known) = self.known(load) else { return };
        let (before, known_seq) = match known {
            Known::Missing { generation } => (*generation, None),
            Known::Current { seq, generation } => (*generation, Some(*seq).filter(|_| check)),
            Known::Reading(_) => return,
        };
        let (waiting, overflowed) = (Vec::new(), false);
        *known = Known::Reading(Reading { generation, before, known_seq, seq: 0, edition: 0, waiting, overflowed });
        self.next_generation += 1;
    }
}

impl Reading {
    /// Takes what is heard meanwhile.
    pub(super) fn keep(&mut self, event: Event) {
        if self.waiting.len() >= MAX_WAITING_EVENTS {
            self.overflowed = true;
            self.waiting.clear();
        }
        if !self.overflowed {
            self.waiting.push(event);
        }
    }
}
