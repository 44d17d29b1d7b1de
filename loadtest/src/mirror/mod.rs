//! What observers know of a room from what they were told, to be compared with what the server says of it.
//!
//! `diffs` for dialects that tell changes, `lists` for those that tell everybody each time, `events` for those that tell
//! of one user at a time.

mod arrivals;
mod chronicle;
mod diffs;
mod events;
mod lists;
mod members;
mod own;
mod wire;

pub(crate) use arrivals::Arrivals;
pub(crate) use members::Members;
pub(crate) use wire::{Snapshot, is_event, read};

use crate::connection::Message;
use crate::protocol::{Dialect, Protocol};

/// One delivery of presence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Members that joined, changed or left in it.
    pub(crate) changes: u32,
}

/// A room as the server's HTTP API gives it, or as it must be by what was sent.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) room: String,
    pub(crate) epoch: String,
    pub(crate) seq: u64,
    pub(crate) members: Members,
}

/// Things that must not be: how many, and the first few in words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Complaints {
    pub(crate) count: u64,
    pub(crate) examples: Vec<String>,
}

/// One per observer.
pub(crate) enum Mirrors {
    Diffs(diffs::Diffs),
    Lists(lists::Lists),
    Events(events::Events),
}

impl Mirrors {
    /// Client numbers below `insiders` are in at the start; observers come first.
    pub(crate) fn new(dialect: Dialect, observers: usize, insiders: usize) -> Self {
        match dialect.protocol {
            Protocol::OnlineUsers => Self::Lists(lists::Lists::new(dialect, observers)),
            Protocol::Status | Protocol::Chat => Self::Events(events::Events::new(dialect, observers, insiders)),
            Protocol::Native | Protocol::Floor => Self::Diffs(diffs::Diffs::new(dialect, observers)),
        }
    }

    /// What an observer has read. Returns what it saw, if that was a delivery of presence.
    #[inline]
    pub(crate) fn take(
        &mut self,
        observer: usize,
        message: &Message<'_>,
        arrivals: &mut Arrivals,
        now_ns: u64,
    ) -> Option<Seen> {
        match self {
            Self::Diffs(diffs) => diffs.take(observer, message, arrivals, now_ns),
            Self::Lists(lists) => lists.take(observer, message, arrivals, now_ns),
            Self::Events(events) => events.take(observer, message, arrivals, now_ns),
        }
    }

    pub(crate) fn closed(&mut self, observer: usize) {
        match self {
            Self::Diffs(diffs) => diffs.closed(observer),
            Self::Lists(lists) => lists.closed(observer),
            // What it was told stays what it was told; the loss itself is a problem of the run.
            Self::Events(_) => {}
        }
    }

    /// How the observers of a room differ from the truth about it.
    pub(crate) fn differences(&self, truth: &Truth) -> Complaints {
        match self {
            Self::Diffs(diffs) => diffs.differences(truth),
            Self::Lists(lists) => lists.differences(truth),
            Self::Events(events) => events.differences(truth),
        }
    }

    /// What observers were told that cannot be.
    pub(crate) fn complaints(&self) -> &Complaints {
        match self {
            Self::Diffs(diffs) => &diffs.complaints,
            Self::Lists(lists) => &lists.complaints,
            Self::Events(events) => &events.complaints,
        }
    }

    /// All are in, and the plan begins.
    pub(crate) fn begin(&mut self) {
        if let Self::Events(events) = self {
            events.playing = true;
        }
    }

    /// Planned joins that were read, once for each observer, where nothing else tells that one was left out.
    pub(crate) fn joins_seen(&self) -> Option<u64> {
        match self {
            Self::Events(events) => Some(events.joins_seen),
            Self::Diffs(_) | Self::Lists(_) => None,
        }
    }

    /// Events that told what was known; `None` where there are no events.
    pub(crate) fn repeated(&self) -> Option<u64> {
        match self {
            Self::Events(events) => Some(events.repeated),
            Self::Diffs(_) | Self::Lists(_) => None,
        }
    }

    /// Snapshots that nobody asked for; `None` where there are no snapshots.
    pub(crate) fn skipped_forward(&self) -> Option<u64> {
        match self {
            Self::Diffs(diffs) => Some(diffs.skipped_forward),
            Self::Lists(_) | Self::Events(_) => None,
        }
    }
}

impl Complaints {
    const SHOWN: usize = 3;

    pub(crate) fn add(&mut self, complaint: String) {
        self.count += 1;
        if self.examples.len() < Self::SHOWN {
            self.examples.push(complaint);
        }
    }

    /// A sentence for the report, if there is anything to complain about.
    pub(crate) fn problem(&self, what: &str) -> Option<String> {
        (self.count > 0).then(|| format!("{} {what}: {}", self.count, self.examples.join("; ")))
    }
}
