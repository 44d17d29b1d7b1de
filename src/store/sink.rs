//! Sinks listen to what happens in rooms: which members joined and left, which rooms became occupied, which users came
//! online.
//!
//! A sink takes events at the end of a tick and never blocks it: it has a bounded queue and a thread of its own. Nodes
//! that share a store announce the same changes. Each [`MemberEvent`] says whether this node is the one that reports
//! it; [`crate::broadcast`] decides that.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::metrics::Metric;
use crate::presence::{Reason, State};

/// Something that happened in one tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A member joined or left a room, or shows another state there.
    Member(MemberEvent),
    /// A room became occupied or vacant.
    Room(RoomEvent),
    /// A user came online or went offline.
    User(UserEvent),
    /// A channel of an application has another number of observers.
    Count(CountEvent),
    /// Something happened on this node that is not part of any state.
    Notice(Notice),
}

/// A member joined or left a room, or shows another state there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberEvent {
    /// When observers were told, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// When the membership began, in milliseconds since the Unix epoch; 0 if no sink needs it.
    pub since_unix_ms: u64,
    /// The room.
    pub room: Arc<str>,
    /// The member.
    pub user: Arc<str>,
    /// What happened.
    pub change: MemberChange,
    /// Whether this node, of all nodes that announce the change, is the one that reports it.
    pub is_reported: bool,
}

/// What happened to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// It joined, with this state.
    Joined(Option<State>),
    /// It shows another state.
    Updated {
        /// What it showed.
        before: Option<State>,
        /// What it shows now.
        now: Option<State>,
    },
    /// It left.
    Left {
        /// Why.
        reason: Reason,
        /// What it showed, if a sink needs it.
        before: Option<State>,
    },
}

/// A room became occupied or vacant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomEvent {
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// The room.
    pub room: Arc<str>,
    /// Whether it has members now.
    pub is_occupied: bool,
}

/// A user came online or went offline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEvent {
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// When the user came online, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// The user.
    pub user: Arc<str>,
    /// Whether the user is online now.
    pub is_online: bool,
}

/// A channel of an application has another number of observers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountEvent {
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// The channel.
    pub room: Arc<str>,
    /// The number, of all nodes.
    pub observers: u64,
}

/// Something happened in a room, on this node, that is not part of any state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The room.
    pub room: Arc<str>,
    /// What happened.
    pub what: Happening,
}

/// What happened in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// A client has published an event.
    ClientEvent {
        /// An object with the name and the data of the event.
        event: Arc<str>,
        /// The member who sent it; `None` in rooms without members.
        user: Option<Arc<str>>,
        /// The number of the connection that sent it.
        connection: u64,
    },
    /// A new observer was told that the room has no last message.
    CacheMiss,
}

impl Notice {
    /// What it takes of a limit of bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let event = match &self.what {
            Happening::ClientEvent { event, .. } => event.len(),
            Happening::CacheMiss => 0,
        };
        2 * size_of::<Self>() + self.room.len() + event
    }
}

/// Which notices sinks take. Others are not made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notices {
    /// Events of clients.
    pub client_events: bool,
    /// New observers of rooms without a last message.
    pub cache_misses: bool,
}

/// What a sink listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Joins and leaves that this node reports.
    Reported,
    /// Everything that this node announces.
    All,
}

/// A listener.
pub trait Sink: fmt::Debug + Send + Sync {
    /// What it listens to. It may be given more.
    fn scope(&self) -> Scope;

    /// Whether it takes the numbers of observers.
    fn takes_counts(&self) -> bool {
        false
    }

    /// Which notices it takes.
    fn notices(&self) -> Notices {
        Notices::default()
    }

    /// Takes the events of one tick, in order. Never blocks: events that do not fit into the queue are dropped and
    /// counted.
    fn record(&self, events: &[Event]);

    /// Closes and opens what it writes to. False if there is nothing to reopen.
    fn reopen(&self) -> bool;

    /// Its counters.
    fn counters(&self) -> Vec<Metric>;

    /// Delivers what is queued, within this time or a shorter one, and ends. Blocks.
    fn close(&self, within: Duration);
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

    /// What all of them together listen to; `None` if there are none.
    #[must_use]
    pub fn scope(&self) -> Option<Scope> {
        let scopes = || self.0.iter().map(|sink| sink.scope());
        if scopes().any(|scope| scope == Scope::All) { Some(Scope::All) } else { scopes().next() }
    }

    /// Whether a sink needs to know which changes this node reports.
    #[must_use]
    pub fn need_reporter(&self) -> bool {
        self.0.iter().any(|sink| sink.scope() == Scope::Reported)
    }

    /// Whether any of them takes the numbers of observers.
    #[must_use]
    pub fn take_counts(&self) -> bool {
        self.0.iter().any(|sink| sink.takes_counts())
    }

    /// The notices that any of them takes.
    #[must_use]
    pub fn notices(&self) -> Notices {
        let all = self.0.iter().map(|sink| sink.notices());
        all.fold(Notices::default(), |one, other| Notices {
            client_events: one.client_events || other.client_events,
            cache_misses: one.cache_misses || other.cache_misses,
        })
    }

    /// Gives the events of one tick to each sink.
    pub fn record(&self, events: &[Event]) {
        if !events.is_empty() {
            self.0.iter().for_each(|sink| sink.record(events));
        }
    }

    /// Has each sink reopen what it writes to. False if no sink has anything to reopen.
    pub fn reopen(&self) -> bool {
        self.0.iter().filter(|sink| sink.reopen()).count() > 0
    }

    /// The counters of all sinks.
    pub fn counters(&self) -> impl Iterator<Item = Metric> {
        self.0.iter().flat_map(|sink| sink.counters())
    }

    /// Closes all sinks at the same time, so that none takes the time of another. Blocks, for this time at most.
    pub fn close(&self, within: Duration) {
        thread::scope(|scope| {
            for sink in &self.0 {
                let closing = thread::Builder::new().spawn_scoped(scope, || sink.close(within));
                if closing.is_err() {
                    sink.close(within); // The system has no more threads.
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::{Condvar, Mutex};

    use super::*;

    /// Has closed when all sinks have begun to close.
    #[derive(Debug, Clone, Default)]
    struct Waiting(Arc<(Mutex<usize>, Condvar)>);

    impl Sink for Waiting {
        fn scope(&self) -> Scope {
            Scope::All
        }

        fn record(&self, _: &[Event]) {}

        fn reopen(&self) -> bool {
            false
        }

        fn counters(&self) -> Vec<Metric> {
            Vec::new()
        }

        fn close(&self, within: Duration) {
            let (closing, changed) = &*self.0;
            let mut closing = closing.lock();
            *closing += 1;
            changed.notify_all();
            let waited = changed.wait_while_for(&mut closing, |closing| *closing < 2, within);
            assert!(!waited.timed_out(), "the sinks are closed one after the other");
        }
    }

    #[test]
    fn sinks_share_the_time_for_closing() {
        let sink = Waiting::default();
        Sinks::new(vec![Box::new(sink.clone()), Box::new(sink)]).close(Duration::from_secs(20));
    }
}
