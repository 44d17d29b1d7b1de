//! What the tick hands to the workers: for each room that moved what its observers are told, as finished frames.

use std::sync::Arc;

use bytes::Bytes;

use crate::presence::kick::Kick;
use crate::presence::{AUDIENCES, Now, Room};
use crate::protocol::online_status as status;

/// The pages of a snapshot, as finished frames.
pub type Pages = Arc<[Bytes]>;

/// What a tick has to tell the observers of one room.
#[derive(Debug)]
pub struct RoomFrames {
    /// The room.
    pub room: Arc<Room>,
    /// Observers who asked before it are served by it.
    pub generation: u64,
    /// The sequence number that the room has now.
    pub seq: u64,
    /// For each audience, the frame for those who are attached.
    pub changes: [Option<Bytes>; AUDIENCES],
    /// For each audience, the frames for those who are not yet.
    pub snapshots: [Option<Pages>; AUDIENCES],
    /// What was said, for those who see it as messages of the room.
    pub said: Spoken,
    /// Where each user stands in the snapshot for [`Audience::Events`](crate::presence::Audience::Events).
    pub spans: status::Spans,
}

/// What was said in a room in one tick, for those who see [members](crate::presence::Audience::Members) and for those who see
/// [numbers](crate::presence::Audience::Count). Nobody is heard after its leave is
/// told or before its join, and a diff tells both at once. What is said in a tick is heard at its end, so nothing said by one in it
/// answers what another said in it.
#[derive(Debug, Default)]
pub struct Spoken {
    /// By those whose leave the tick tells.
    pub before_changes: Option<Bytes>,
    /// By all others.
    pub after_changes: Option<Bytes>,
}

/// One tick's work for one worker. It is sent even if there is none: it is the worker's clock.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The moment of the tick.
    pub now: Now,
    /// Rooms in which this worker has observers.
    pub updates: Vec<Arc<RoomFrames>>,
    /// For native clients, if the node has lost sight of the others, or sees them again.
    pub health: Option<Bytes>,
    /// Users whom connections of this worker watch.
    pub status_frames: Vec<StatusFrame>,
    /// Users who are to go at once.
    pub kicks: Arc<[Kick]>,
}

/// StoreEvent of a user whom somebody watches.
#[derive(Debug, Clone)]
pub struct StatusFrame {
    /// Who.
    pub user: Arc<str>,
    /// What to tell: the object for a `status`.
    pub object: Bytes,
    /// It is news for all who watch; otherwise only for those who have just asked.
    pub changed: bool,
}

/// What a tick did, for the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TickCounts {
    /// Rooms visited.
    pub rooms: u64,
    /// Members that joined, changed or left.
    pub changes: u64,
}
