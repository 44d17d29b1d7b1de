//! The interface between the tick and the protocols: encoders of the frames that observers receive.

use std::fmt;

use bytes::Bytes;

use super::snapshot::Snapshot;
use super::update::RoomUpdate;
use crate::memory_budget::MemoryBudget;
use crate::presence::UserStatus;

/// Encodes the frames of a room for one audience. Called once per room, audience and tick, not per delivery.
pub trait Encoder: fmt::Debug + Send {
    /// How often it encodes whole lists.
    fn pacing(&self) -> Pacing;

    /// Whether it keeps a history for later observers. If not, [`Encoder::records`] is not called.
    fn has_history(&self) -> bool {
        false
    }

    /// Whether to call [`Encoder::changes`] although the room has no observers of the audience, for the history.
    fn records(&self, _update: RoomUpdate<'_>) -> bool {
        false
    }

    /// The changes of this tick, for observers that have a snapshot already; `None` if there is nothing to send. Not
    /// called with [`Pacing::Lists`].
    fn changes(&mut self, _update: RoomUpdate<'_>) -> Option<Bytes> {
        None
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
pub type MessageEncoder = fn(update: RoomUpdate<'_>, leaving: bool) -> Bytes;

/// Encodes the status of watched users in the format of one protocol.
#[derive(Debug, Clone, Copy)]
pub struct StatusEncoder {
    /// One user. Called once per user and tick, however many connections watch the user.
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
