//! Where presence outlives a connection's node: nowhere (memory, one node), or Redis, shared by any number of nodes.
//!
//! A store is told what the sessions of this node changed, tick by tick, and tells the registry what other nodes hold. It is
//! behind and never in front: nothing here is waited for by a worker or the ticker, and whatever a store cannot do now, the node
//! goes on without it and says so ([`Store::degraded_since`]).

pub mod event_log;
mod memory;
pub mod redis;
mod sink;

use std::fmt;
use std::sync::Arc;

pub use memory::Memory;
pub use sink::{CounterValue, MemberChange, MemberEvent, Sink, Sinks};

use crate::metrics::StoreTotals;
use crate::presence::kick::Kick;
use crate::presence::{HoldChange, Room, RoomChange};

/// The exit code when the store cannot be used at the start (`EX_UNAVAILABLE` of sysexits.h).
pub const EXIT_UNAVAILABLE: u8 = 69;

/// A user in a room.
pub type RoomUser = (Arc<str>, Arc<str>);

/// What happened on this node, as of a tick.
#[derive(Debug, Clone)]
pub enum StoreEvent {
    /// Sessions of this node hold a user in a room, with this state, or do not any more.
    HoldChange(RoomUser, HoldChange),
    /// A message to the observers of a room.
    RoomMessage {
        /// The room.
        room: Arc<str>,
        /// The member that published it; `None` for the application.
        user: Option<Arc<str>>,
        /// Compact JSON text.
        data: Box<str>,
    },
    /// A user is to go at once, from all rooms.
    Removed(Kick),
}

impl StoreEvent {
    /// What a tick's change of a room means for the store.
    pub fn of(room: &Room, change: &RoomChange) -> impl Iterator<Item = Self> {
        let place = |user: &Arc<str>| (Arc::clone(room.name()), Arc::clone(user));
        let held = change.told.iter().map(move |(user, told)| Self::HoldChange(place(user), told.clone()));
        let messages = change.messages.iter().filter(|message| message.is_local);
        held.chain(messages.map(|message| Self::RoomMessage {
            room: Arc::clone(room.name()),
            user: message.user.clone(),
            data: message.data.clone(),
        }))
    }

    /// The name that decides about the partition: the user, or the room of a message of the application.
    #[must_use]
    pub fn partition_key(&self) -> &Arc<str> {
        match self {
            Self::HoldChange((_, user), _) | Self::Removed(Kick { user, .. }) => user,
            Self::RoomMessage { room, user, .. } => user.as_ref().unwrap_or(room),
        }
    }
}

/// A store, as the ticker and the workers see it. None of this blocks.
pub trait Store: fmt::Debug + Send + Sync {
    /// Takes what happened in a tick.
    fn record(&self, news: Vec<StoreEvent>);

    /// Users who are to go at once because another node was asked for it, since the last call.
    fn take_kicks(&self) -> Vec<Kick>;

    /// Since when the node has not seen what others hold, in milliseconds since the Unix epoch.
    fn degraded_since(&self) -> Option<u64>;

    /// What it counted, if it has something to count.
    fn totals(&self) -> Option<StoreTotals>;

    /// Writes what is left, in bounded time, and ends; what is in the store stays there until its leases end. Blocks.
    fn close(&self);
}

/// The sinks that are configured.
#[derive(Debug, Clone, Default)]
pub struct SinkOptions {
    /// Where the event log goes.
    pub event_log: Option<event_log::Target>,
}

impl SinkOptions {
    /// Opens them for the node of this id.
    ///
    /// # Errors
    /// If what a sink writes to cannot be opened.
    pub fn open(&self, node: &str) -> anyhow::Result<Sinks> {
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        if let Some(target) = &self.event_log {
            sinks.push(Box::new(event_log::EventLog::open(target.clone(), node)?));
        }
        Ok(Sinks::new(sinks))
    }
}

/// The store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}
