//! What observers know about rooms from the messages they received, to be compared with the server's lists.
//!
//! `diffs` for protocols that send changes, `lists` for protocols that send all users each time, `events` for protocols
//! that send one message whenever a user comes online or goes offline.

mod delivery;
mod diffs;
mod events;
mod join_times;
mod lists;
mod messages;
mod room_state;
mod shared_log;

pub(crate) use delivery::Delivery;
pub(crate) use join_times::JoinTimes;
pub(crate) use messages::{is_event, read};
pub(crate) use room_state::{RoomState, filtered, members_of};

use crate::connection::Message;
use crate::error_log::ErrorLog;
use crate::protocol::{ClientProtocol, Protocol};

/// The mirrors of all observers.
pub(crate) enum Mirrors {
    Diffs(diffs::Diffs),
    Lists(lists::Lists),
    Events(events::Events),
}

impl Mirrors {
    /// Clients with an index below `initial_members` are present from the start. Observers have the lowest indexes.
    pub(crate) fn new(protocol: ClientProtocol, observers: usize, initial_members: usize) -> Self {
        match protocol.kind {
            Protocol::OnlineUsers => Self::Lists(lists::Lists::new(protocol, observers)),
            Protocol::OnlineStatus | Protocol::Chat => {
                Self::Events(events::Events::new(protocol, observers, initial_members))
            }
            // Pusher has its own mirror, `scenarios::pusher`.
            Protocol::Native | Protocol::Pusher | Protocol::Floor => {
                Self::Diffs(diffs::Diffs::new(protocol, observers))
            }
        }
    }

    /// Handles a message that an observer received. `None`: it is not about presence.
    #[inline]
    pub(crate) fn apply(
        &mut self,
        observer: usize,
        message: &Message<'_>,
        join_times: &mut JoinTimes,
        now_ns: u64,
    ) -> Option<Delivery> {
        match self {
            Self::Diffs(diffs) => diffs.apply(observer, message, join_times, now_ns),
            Self::Lists(lists) => lists.apply(observer, message, join_times, now_ns),
            Self::Events(events) => events.apply(observer, message, join_times, now_ns),
        }
    }

    pub(crate) fn closed(&mut self, observer: usize) {
        match self {
            Self::Diffs(diffs) => diffs.closed(observer),
            Self::Lists(lists) => lists.closed(observer),
            // Its mirror stays as it is; the lost connection itself is reported as a problem.
            Self::Events(_) => {}
        }
    }

    /// How the mirrors of a room differ from its expected state.
    pub(crate) fn differences(&self, expected: &RoomState) -> ErrorLog {
        match self {
            Self::Diffs(diffs) => diffs.differences(expected),
            Self::Lists(lists) => lists.differences(expected),
            Self::Events(events) => events.differences(expected),
        }
    }

    /// Messages that a correct server cannot send.
    pub(crate) fn errors(&self) -> &ErrorLog {
        match self {
            Self::Diffs(diffs) => &diffs.errors,
            Self::Lists(lists) => &lists.errors,
            Self::Events(events) => &events.errors,
        }
    }

    /// All clients are ready, and the load starts.
    pub(crate) fn load_starts(&mut self) {
        if let Self::Events(events) = self {
            events.has_started = true;
        }
    }

    /// Planned joins that were received, counted per observer. `None` if missing joins show in another way (`seq`,
    /// lists).
    pub(crate) fn joins_seen(&self) -> Option<u64> {
        match self {
            Self::Events(events) => Some(events.joins_seen),
            Self::Diffs(_) | Self::Lists(_) => None,
        }
    }

    /// Events that repeated what the observer knew. `None` if the protocol has no events.
    pub(crate) fn repeated_events(&self) -> Option<u64> {
        match self {
            Self::Events(events) => Some(events.repeated),
            Self::Diffs(_) | Self::Lists(_) => None,
        }
    }

    /// Snapshots that no client requested. `None` if the protocol has no snapshots.
    pub(crate) fn unrequested_snapshots(&self) -> Option<u64> {
        match self {
            Self::Diffs(diffs) => Some(diffs.unrequested_snapshots),
            Self::Lists(_) | Self::Events(_) => None,
        }
    }
}
