//! Stores share presence between nodes: [`MemoryStore`] (one node, nothing to share) or Redis.
//!
//! A store receives what sessions of this node changed, once per tick, and puts what other nodes hold into the
//! registry. It works behind the engine: no worker and no tick ever waits for it. When a store cannot work, the node
//! runs on without it and reports that ([`Store::degraded_since`]).

mod clock;
pub mod deliveries;
pub mod event_log;
pub mod history;
mod last_messages;
mod memory;
pub mod redis;
mod sink;
pub mod webhooks;

use std::fmt;
use std::sync::Arc;

pub use clock::{ComparedClocks, StoreClock};
pub use deliveries::Deliveries;
pub use history::{History, KeptMessage};
pub use last_messages::{Answer, LastFound, LastMessage, LastMessages, Taken, Unwritten};
pub use memory::MemoryStore;
pub use sink::{
    CountEvent, Event, Happening, MemberChange, MemberEvent, Notice, Notices, RoomEvent, Scope, Sink, Sinks, UserEvent,
};

use crate::metrics::StoreTotals;
use crate::presence::kick::Kick;
use crate::presence::{HoldChange, ObserversChange, Room, RoomChange, RoomMessage, UserMessage};

/// The exit code if the store cannot be used at startup (`EX_UNAVAILABLE` of sysexits.h).
pub const EXIT_UNAVAILABLE: u8 = 69;

/// A room and a user in it.
pub type RoomUser = (Arc<str>, Arc<str>);

/// Something that happened on this node in one tick.
#[derive(Debug, Clone)]
pub enum StoreEvent {
    /// Sessions of this node hold a user in a room, with this state, or no longer do.
    HoldChange(RoomUser, HoldChange),
    /// A message to the observers of a room.
    RoomMessage(Arc<str>, RoomMessage),
    /// A message of the application to the connections of a user.
    UserMessage(UserMessage),
    /// The number of observers of a room on this node changed.
    Observers(Arc<str>, ObserversChange),
    /// A user is kicked from all rooms on all nodes.
    Kick(Kick),
}

impl StoreEvent {
    /// What the store has to know about a room's change in this tick.
    pub fn of(room: &Room, change: &RoomChange) -> impl Iterator<Item = Self> {
        let room_user = |user: &Arc<str>| (Arc::clone(room.name()), Arc::clone(user));
        let holds =
            change.hold_changes.iter().map(move |(user, change)| Self::HoldChange(room_user(user), change.clone()));
        let messages = change.messages.iter().filter(|message| message.is_local);
        let messages = messages.map(|message| Self::RoomMessage(Arc::clone(room.name()), message.clone()));
        let observers = change.observers_change.map(|change| Self::Observers(Arc::clone(room.name()), change));
        holds.chain(messages).chain(observers)
    }

    /// The name that decides the partition: the user, or the room if the event is not about a user.
    #[must_use]
    pub fn partition_key(&self) -> &Arc<str> {
        match self {
            Self::HoldChange((_, user), _)
            | Self::Kick(Kick { user, .. })
            | Self::UserMessage(UserMessage { user, .. }) => user,
            Self::RoomMessage(room, message) => message.user.as_ref().unwrap_or(room),
            Self::Observers(room, _) => room,
        }
    }
}

/// A store as the ticker and the workers see it. Except for `close`, nothing blocks.
pub trait Store: fmt::Debug + Send + Sync {
    /// Takes the events of one tick.
    fn record(&self, events: Vec<StoreEvent>);

    /// Takes the kicks that other nodes asked for since the last call.
    fn take_kicks(&self) -> Vec<Kick>;

    /// Takes messages that belong to histories and that this node did not publish: those of other nodes, and those from
    /// before its start. Some may be known already.
    fn take_kept(&self) -> Vec<KeptMessage>;

    /// The last messages of rooms that keep one.
    fn last_messages(&self) -> &Arc<LastMessages>;

    /// Where revocations are kept.
    fn revocations(&self) -> RevocationsIn;

    /// The list of revocations has changed.
    fn revoked(&self);

    /// Since when the node does not know what other nodes hold, in milliseconds since the Unix epoch.
    fn degraded_since(&self) -> Option<u64>;

    /// How the clock of this node compares with that of the store.
    fn clock(&self) -> StoreClock;

    /// Its counters, if it has any.
    fn totals(&self) -> Option<StoreTotals>;

    /// Writes what is left, in bounded time, and ends. Leases in the store stay until they expire. Blocks.
    fn close(&self);
}

/// Where a store keeps revocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationsIn {
    /// They end with the process.
    Memory,
    /// They outlive nodes.
    Redis,
}

/// The sinks that are configured.
#[derive(Debug, Clone, Default)]
pub struct SinkOptions {
    /// Where the event log goes.
    pub event_log: Option<event_log::Target>,
    /// Where webhooks go.
    pub webhooks: Option<webhooks::WebhookOptions>,
}

impl SinkOptions {
    /// Finds out whether they could be opened, and opens nothing.
    ///
    /// # Errors
    /// If what a sink writes to could not be opened.
    pub fn check(&self) -> anyhow::Result<()> {
        self.event_log.as_ref().map_or(Ok(()), event_log::Target::check)
    }

    /// Opens them for an incarnation of the node of this id. `deliveries` are the leases if it shares presence with
    /// other nodes.
    ///
    /// # Errors
    /// If what a sink writes to cannot be opened.
    pub fn open(&self, node: &str, incarnation: u64, deliveries: Option<Arc<Deliveries>>) -> anyhow::Result<Sinks> {
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        if let Some(target) = &self.event_log {
            sinks.push(Box::new(event_log::EventLog::open(target.clone(), node)?));
        }
        if let Some(options) = &self.webhooks {
            sinks.push(Box::new(webhooks::Webhooks::open(options, node, incarnation, deliveries)?));
        }
        Ok(Sinks::new(sinks))
    }
}

/// The store cannot be used; says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}
