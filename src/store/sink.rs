//! Sinks listen to what this node reports: which members joined and left.
//!
//! Every change of a room is reported once in the whole cluster; [`crate::broadcast`] decides which node does it. A
//! sink takes events at the end of a tick and never blocks it: it has a bounded queue and a thread of its own.

use std::fmt;
use std::sync::Arc;

use crate::presence::{Reason, State};

/// A member joined or left a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberEvent {
    /// When observers were told, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// The room.
    pub room: Arc<str>,
    /// The member.
    pub user: Arc<str>,
    /// What happened.
    pub change: MemberChange,
}

/// What happened to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// It joined, with this state.
    Joined(Option<State>),
    /// It left.
    Left(Reason),
}

/// The name, the meaning and the value of a counter.
pub type CounterValue = (&'static str, &'static str, u64);

/// A listener for what this node reports.
pub trait Sink: fmt::Debug + Send + Sync {
    /// Takes the events of one tick, in order. Never blocks: events that do not fit into the queue are dropped and
    /// counted.
    fn record(&self, events: &[MemberEvent]);

    /// Closes and opens what it writes to. False if there is nothing to reopen.
    fn reopen(&self) -> bool;

    /// Its counters.
    fn counters(&self) -> Vec<CounterValue>;

    /// Delivers what is queued, in bounded time, and ends. Blocks.
    fn close(&self);
}

/// All sinks of a node.
#[derive(Debug, Default)]
pub struct Sinks(Vec<Box<dyn Sink>>);

impl Sinks {
    /// These sinks.
    #[must_use]
    pub fn new(sinks: Vec<Box<dyn Sink>>) -> Self {
        Self(sinks)
    }

    /// Whether there are none, so that nothing needs to be reported.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives the events of one tick to each sink.
    pub fn record(&self, events: &[MemberEvent]) {
        if !events.is_empty() {
            self.0.iter().for_each(|sink| sink.record(events));
        }
    }

    /// Has each sink reopen what it writes to. False if no sink has anything to reopen.
    pub fn reopen(&self) -> bool {
        self.0.iter().filter(|sink| sink.reopen()).count() > 0
    }

    /// The counters of all sinks.
    pub fn counters(&self) -> impl Iterator<Item = CounterValue> {
        self.0.iter().flat_map(|sink| sink.counters())
    }

    /// Closes each sink. Blocks, in bounded time.
    pub fn close(&self) {
        self.0.iter().for_each(|sink| sink.close());
    }
}
