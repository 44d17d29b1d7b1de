//! The rooms that a connection has joined or observes.

use std::sync::Arc;

use crate::inline_vec::InlineVec;
use crate::presence::{Audience, Room};
use crate::protocol::SessionNumber;

/// The rooms of a connection.
pub type Subscriptions = InlineVec<Subscription>;

/// A room that the connection has joined, observes, or both.
#[derive(Debug)]
pub struct Subscription {
    /// The room.
    pub room: Arc<Room>,
    /// The session that has joined the room, if one has.
    pub member: Option<SessionNumber>,
    /// How it observes the room. Meaningless while it does not ([`ObserverState::Absent`]).
    pub audience: Audience,
    /// Its state as an observer of the room.
    pub state: ObserverState,
}

/// The state of an observer, with its slot in the fanout of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObserverState {
    /// It does not observe the room.
    Absent,
    /// It waits for a snapshot.
    Pending(u32),
    /// It receives each change.
    Attached(u32),
    /// It missed changes because its socket was full. It receives a snapshot when the socket accepts bytes again.
    Lagging(u32),
}
