//! What the tick hands to the workers: for each room that changed, the frames for its observers.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::snapshot::Snapshot;
use crate::presence::kick::Kick;
use crate::presence::{Audience, MAX_AUDIENCES, Now, Room};

/// What a tick sends to the observers of one room.
#[derive(Debug)]
pub struct RoomFrames {
    /// The room.
    pub room: Arc<Room>,
    /// Observers that asked in an earlier generation are served by it.
    pub generation: u64,
    /// The sequence number of the room.
    pub seq: u64,
    /// For each audience, the frames for observers that have a snapshot.
    pub changes: [Option<Bytes>; MAX_AUDIENCES],
    /// For each audience, the frames for observers that have none yet.
    pub snapshots: [Option<Snapshot>; MAX_AUDIENCES],
    /// For each audience, the messages that are sent apart from the changes.
    pub messages: [MessageFrames; MAX_AUDIENCES],
}

impl RoomFrames {
    pub(super) fn new(room: &Arc<Room>, generation: u64, seq: u64) -> Self {
        let (changes, snapshots, messages) = Default::default();
        Self { room: Arc::clone(room), generation, seq, changes, snapshots, messages }
    }

    /// The changes for an audience.
    #[must_use]
    pub fn changes(&self, audience: Audience) -> Option<&Bytes> {
        self.changes[audience.index()].as_ref()
    }

    /// The snapshot for an audience.
    #[must_use]
    pub fn snapshot(&self, audience: Audience) -> Option<&Snapshot> {
        self.snapshots[audience.index()].as_ref()
    }
}

/// The messages of one tick. A message is never delivered before the join of its sender or after its leave, and a diff tells
/// both at once. Messages of a tick are delivered at its end, so none of them answers another.
#[derive(Debug, Default, Clone)]
pub struct MessageFrames {
    /// Of members whose leave the tick announces.
    pub before_changes: Option<Bytes>,
    /// All others.
    pub after_changes: Option<Bytes>,
}

/// One tick's work for one worker. It is sent even if it is empty: it is the worker's clock.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The moment of the tick.
    pub now: Now,
    /// Rooms in which this worker has observers.
    pub rooms: Vec<Arc<RoomFrames>>,
    /// Whether the node sees the other nodes, if that has changed.
    pub health: Option<Health>,
    /// Users that connections of this worker watch.
    pub status_frames: Vec<StatusFrame>,
    /// Users to disconnect now.
    pub kicks: Arc<[Kick]>,
}

/// Whether this node sees what other nodes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Since when it does not, in milliseconds since the Unix epoch.
    pub degraded_since_unix_ms: Option<u64>,
}

/// The new status of a watched user.
#[derive(Debug, Clone)]
pub struct StatusFrame {
    /// The user.
    pub user: Arc<str>,
    /// The user's status in each status format.
    pub objects: SmallVec<[Bytes; 1]>,
    /// It is news for all watchers; otherwise only for those that have just asked.
    pub changed: bool,
}

/// What a tick did, for the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TickCounts {
    /// Rooms settled.
    pub rooms: u64,
    /// Members that joined, changed or left.
    pub changes: u64,
}
