//! The interface between the tick and the protocols: encoders of the frames that observers receive.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use super::snapshot::Snapshot;
use super::update::RoomUpdate;
use crate::memory_budget::MemoryBudget;
use crate::presence::{Room, RoomMessage, UserStatus};
use crate::store::KeptMessage;

/// Encodes the frames of a room for one audience. Called once per room, audience and tick, not per delivery.
pub trait Encoder: fmt::Debug + Send {
    /// How often it encodes whole lists.
    fn pacing(&self) -> Pacing;

    /// Whether it keeps a history for later observers. If not, [`Encoder::records`], [`Encoder::keeps`],
    /// [`Encoder::restore`] and [`Encoder::limit_times`] are not called.
    fn has_history(&self) -> bool {
        false
    }

    /// Whether to call [`Encoder::changes`] although the room has no observers of the audience, for the history.
    fn records(&self, _update: RoomUpdate<'_>) -> bool {
        false
    }

    /// Whether its history includes this message, which was published on this node. The store then keeps it, for all
    /// nodes.
    fn keeps(&mut self, _room: &Room, _message: &RoomMessage) -> bool {
        false
    }

    /// Adds messages to the history that other nodes have published, or that were published before this node started.
    /// Some may be known already, as messages of a tick.
    fn restore(&mut self, _messages: &[KeptMessage]) {}

    /// Takes messages of later times than this out of the history, and adds no more of them. Called before each tick.
    fn limit_times(&mut self, _latest_unix_ms: u64) {}

    /// Whether new observers of this room receive the last message of the application ([`RoomUpdate::last`]).
    fn keeps_last(&self, _room: &Room) -> bool {
        false
    }

    /// Whether observers of this room are told how many observers it has on all nodes ([`RoomUpdate::observers`]). May
    /// change while the server runs.
    fn announces_count(&self, _room: &str) -> bool {
        false
    }

    /// The changes of this tick, for observers that have a snapshot already; `None` if there is nothing to send. Not
    /// called with [`Pacing::Lists`].
    fn changes(&mut self, _update: RoomUpdate<'_>) -> Option<Bytes> {
        None
    }

    /// Called in each tick in which a room changed that has, or had, observers of the audience, before anything is
    /// encoded: for an encoder that keeps lists.
    fn follow(&mut self, _update: RoomUpdate<'_>, _is_observed: bool) {}

    /// Whether a snapshot can be encoded in this tick. If not, it is deferred. Not called with [`Pacing::Short`].
    fn is_ready(&self) -> bool {
        true
    }

    /// Everything that a new observer receives first. Called after [`Encoder::changes`].
    fn snapshot(&mut self, update: RoomUpdate<'_>, unread: &MemoryBudget) -> Snapshot;

    /// The format of messages, if its observers receive them separately from the changes.
    fn messages(&self) -> Option<MessageEncoder> {
        None
    }
}

/// How often an encoder encodes whole lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pacing {
    /// All frames are short and never deferred.
    Short,
    /// Changes are sent in their tick; long snapshots may be deferred.
    Snapshots,
    /// Each change sends the whole list again: the longer the list, the less often.
    Lists,
}

/// Encodes the messages of a room: those of members who leave in this tick if `leaving`, else all others. Audiences
/// with the same function share the frames.
pub type MessageEncoder = fn(update: RoomUpdate<'_>, leaving: bool) -> EncodedMessages;

/// The frames of messages.
#[derive(Debug, Default, Clone)]
pub struct EncodedMessages {
    /// All of them.
    pub frames: Bytes,
    /// The parts that single connections do not receive, in order.
    pub excluded: Vec<Exclusion>,
}

/// A part of the frames that one connection does not receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion {
    /// The number of the connection.
    pub number: u64,
    /// The bytes of the part.
    pub bytes: Range<usize>,
    /// Whether the connection receives the part nevertheless if it is a new observer, as the last message of the room:
    /// its snapshot does not have it then.
    pub is_last: bool,
}

impl EncodedMessages {
    /// Messages that all observers receive.
    #[must_use]
    pub fn for_all(frames: Bytes) -> Self {
        Self { frames, excluded: Vec::new() }
    }
}

/// Encodes a message of the application to a user: its data, and the time of the tick.
pub type UserMessageEncoder = fn(data: &str, unix_ms: u64) -> Bytes;

/// Encodes the status of watched users in the format of one protocol.
#[derive(Debug, Clone, Copy)]
pub struct StatusEncoder {
    /// One user. Called once per user and tick, however many connections watch the user. Empty if no client of the
    /// protocol can watch the user.
    pub user: fn(user: &str, status: &UserStatus) -> Bytes,
    /// The frame around several users.
    pub frame: fn(users: &[&Bytes]) -> Bytes,
}

/// The encoders of all protocols.
#[derive(Debug, Default)]
pub struct Encoders {
    /// Indexed by audience.
    pub audiences: Vec<Box<dyn Encoder>>,
    /// Indexed by status format.
    pub statuses: Vec<StatusEncoder>,
}
