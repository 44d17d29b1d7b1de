//! What a protocol provides for each of its audiences: the frames that observers are sent.

use std::fmt;

use bytes::Bytes;

use super::snapshot::Snapshot;
use super::update::RoomUpdate;
use crate::memory_budget::MemoryBudget;
use crate::presence::UserStatus;

/// Encodes what one audience is sent of a room. Called once per room, audience and tick; never per delivery.
pub trait Encoder: fmt::Debug + Send {
    /// How its whole lists are paced.
    fn pacing(&self) -> Pacing;

    /// Whether it wants to see this update although it has no observers: to keep a history for later ones.
    fn records(&self, _update: RoomUpdate<'_>) -> bool {
        false
    }

    /// The frames of this tick's change, for observers that have a snapshot; `None` if there is nothing to send. Not called with
    /// [`Pacing::Lists`].
    fn changes(&mut self, _update: RoomUpdate<'_>) -> Option<Bytes> {
        None
    }

    /// Everything that a new observer is sent. Called after [`Encoder::changes`].
    fn snapshot(&mut self, update: RoomUpdate<'_>, unread: &MemoryBudget) -> Snapshot;

    /// Whether its observers are sent the messages of a room apart from its changes, and in which format.
    fn messages(&self) -> Option<MessageEncoder> {
        None
    }
}

/// How often whole lists are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pacing {
    /// Whatever is sent is short: it is never deferred.
    Short,
    /// Changes are sent as they come; snapshots may be deferred when they are long.
    Snapshots,
    /// A change is told by sending the whole list again, at a pace that follows its length.
    Lists,
}

/// Encodes messages of a room, those of the members that leave in this tick (`true`) or all others. Audiences with the same
/// function share its frames.
pub type MessageEncoder = fn(update: RoomUpdate<'_>, leaving: bool) -> Bytes;

/// Encodes the status of watched users in the format of one protocol.
#[derive(Debug, Clone, Copy)]
pub struct StatusEncoder {
    /// One user. Called once per user and tick, however many connections watch it.
    pub user: fn(user: &str, status: &UserStatus) -> Bytes,
    /// The frame around several users.
    pub frame: fn(users: &[&Bytes]) -> Bytes,
}

/// The encoders of all protocols.
#[derive(Debug, Default)]
pub struct Encoders {
    /// By the number of the audience.
    pub audiences: Vec<Box<dyn Encoder>>,
    /// By the number of the status format.
    pub statuses: Vec<StatusEncoder>,
}
