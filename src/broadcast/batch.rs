//! The result of a tick for the workers: for each room that changed, the frames for its observers.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::encoder::EncodedMessages;
use super::snapshot::Snapshot;
use crate::presence::kick::Kick;
use crate::presence::{Audience, Diff, Now, Room, StatusDetails, UserMessage};
use crate::revocations::Target;

/// The frames of one tick for the observers of one room.
#[derive(Debug)]
pub struct RoomFrames {
    /// The room.
    pub room: Arc<Room>,
    /// Serves observers whose request was made in an earlier generation.
    pub generation: u64,
    /// The sequence number of the room.
    pub seq: u64,
    /// The frames of each audience that has observers: nearly always one.
    pub audiences: SmallVec<[AudienceFrames; 1]>,
}

/// What a tick sends to the observers of one room in one audience.
#[derive(Debug)]
pub struct AudienceFrames {
    /// The audience.
    pub audience: Audience,
    /// The frames for observers that have a snapshot.
    pub changes: Option<Bytes>,
    /// The frames for observers that have none yet.
    pub snapshot: Option<Snapshot>,
    /// The messages that are sent apart from the changes. Most rooms have none.
    pub messages: Option<Box<MessageFrames>>,
}

impl RoomFrames {
    /// The frames of an audience.
    #[must_use]
    pub fn audience(&self, audience: Audience) -> Option<&AudienceFrames> {
        self.audiences.iter().find(|frames| frames.audience == audience)
    }

    /// The changes for an audience.
    #[must_use]
    pub fn changes(&self, audience: Audience) -> Option<&Bytes> {
        self.audience(audience)?.changes.as_ref()
    }

    /// The snapshot for an audience.
    #[must_use]
    pub fn snapshot(&self, audience: Audience) -> Option<&Snapshot> {
        self.audience(audience)?.snapshot.as_ref()
    }
}

/// The messages of one tick, in two parts: a message must not be delivered before the join of its sender or after the
/// leave, and one diff announces both. The split may change the order of messages. That is harmless: all messages of a
/// tick are delivered at its end, so none of them replies to another.
#[derive(Debug, Default, Clone)]
pub struct MessageFrames {
    /// Messages of members whose leave the tick announces.
    pub before_changes: Option<EncodedMessages>,
    /// All other messages.
    pub after_changes: Option<EncodedMessages>,
}

/// One tick's work for one worker. Sent even if it is empty, because it is also the worker's clock.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The time of the tick.
    pub now: Now,
    /// Rooms in which this worker has observers.
    pub rooms: Vec<Arc<RoomFrames>>,
    /// The connection to the other nodes, if it was lost or restored since the last tick.
    pub health: Option<Health>,
    /// The statuses of users that connections of this worker watch.
    pub status_frames: Vec<StatusFrame>,
    /// Messages of the application to users, whether or not they have connections on this worker.
    pub user_messages: Arc<[UserMessage]>,
    /// Users to disconnect now.
    pub kicks: Arc<[Kick]>,
    /// Whose credentials were revoked.
    pub revoked: Arc<[Target]>,
    /// Bytes of unread lists to free on this worker.
    pub unread_excess: UnreadExcess,
    /// Bytes of memory to free, by closing the connections that take the most.
    pub memory_excess: usize,
    /// When the first join that this tick announces was commanded, in microseconds since the start of the server.
    pub first_join_us: Option<u64>,
}

/// Bytes of unread lists to free, by disconnecting the clients with the most unread bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnreadExcess {
    /// Of clients that read nothing.
    pub of_stalled: usize,
    /// Of all clients.
    pub of_all: usize,
}

/// Whether this node is connected to the other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Since when it is not, in milliseconds since the Unix epoch; `None` if it is.
    pub degraded_since_unix_ms: Option<u64>,
}

/// The new status of a watched user.
#[derive(Debug, Clone)]
pub struct StatusFrame {
    /// The user.
    pub user: Arc<str>,
    /// The user's status in each status format; empty in those of clients that cannot watch the user.
    pub objects: SmallVec<[Bytes; 2]>,
    /// Whether it changed and goes to all watchers. If not, it goes to watchers that requested it.
    pub changed: bool,
    /// What watchers see instead that may observe only some rooms, if the user has any.
    pub details: Option<Arc<StatusDetails>>,
}

/// Counts of one tick, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TickCounts {
    /// Settled rooms.
    pub rooms: u64,
    /// Members that joined.
    pub joins: u64,
    /// Members that changed their state.
    pub updates: u64,
    /// Members that left.
    pub leaves: u64,
    /// When the first of these joins was commanded, if clients of this node commanded any: in microseconds since the
    /// start of the server.
    pub first_join_us: Option<u64>,
}

impl TickCounts {
    /// Counts a settled room.
    pub(super) fn add(&mut self, diff: &Diff) {
        self.rooms += 1;
        self.joins += diff.joined.len() as u64;
        self.updates += diff.updated.len() as u64;
        self.leaves += diff.left.len() as u64;
    }

    /// Joins, leaves and changed states.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.joins + self.updates + self.leaves
    }
}
