//! The deliveries of one tick: which connection receives which frames. The worker writes them.

use std::ops::Range;

use bytes::Bytes;

use crate::broadcast::RoomFrames;
use crate::connection::ConnectionId;

/// The frames of one batch and their receivers.
///
/// The worker writes them in slices, with other work in between: a connection may have ended before its turn comes.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// Each frame once, so that its reference count changes once per worker instead of once per receiver.
    frames: Vec<(Bytes, Origin)>,
    /// Receivers, with the index of the frame in `frames`.
    list: Vec<(ConnectionId, u32)>,
    /// The first receiver in `list` whose turn has not come.
    next: usize,
    /// What clients requested, so that they pay for it.
    requested: Vec<Requested>,
}

/// Replies that a client requested, and that a tick sends.
#[derive(Debug, Clone, Copy)]
pub struct Requested {
    /// The connection.
    pub connection: ConnectionId,
    /// Their length.
    pub bytes: usize,
    /// The room, by its id, if they are about one.
    pub room: Option<u64>,
    /// Whether the client had been sent the same before.
    pub is_repeat: bool,
}

/// What a frame is about. Rooms are given by their id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The members of a room. A client that misses the frame needs a snapshot.
    Presence(u64),
    /// Messages of a room. They are lost to a client that misses the frame.
    Messages(u64),
    /// A message to the user of the connection. It is lost to a client that misses the frame.
    ToUser,
    /// The statuses of watched users. A client that misses the frame is sent the status of all users it watches.
    Statuses,
}

impl Deliveries {
    /// Adds a frame about the members of a room. Returns its index.
    pub(super) fn presence(&mut self, frame: &Bytes, frames: &RoomFrames) -> u32 {
        self.add(frame.clone(), Origin::Presence(frames.room.id()))
    }

    /// Adds a frame. Returns its index.
    pub(super) fn add(&mut self, frame: Bytes, origin: Origin) -> u32 {
        self.frames.push((frame, origin));
        (self.frames.len() - 1) as u32
    }

    /// Adds a message to a user. Returns its index.
    pub fn add_to_user(&mut self, frame: Bytes) -> u32 {
        self.add(frame, Origin::ToUser)
    }

    /// Adds the parts of a page before and after `cut`.
    pub(super) fn presence_around(&mut self, page: &Bytes, cut: Range<usize>, frames: &RoomFrames) -> Vec<u32> {
        let around = [page.slice(..cut.start), page.slice(cut.end..)];
        around.iter().filter(|bytes| !bytes.is_empty()).map(|bytes| self.presence(bytes, frames)).collect()
    }

    /// Adds a connection as a receiver of a frame.
    pub fn push(&mut self, connection: ConnectionId, frame: u32) {
        self.list.push((connection, frame));
    }

    /// Adds frames about a room that a client requested.
    pub(super) fn push_requested(&mut self, connection: ConnectionId, frames: &[u32], room: u64, is_repeat: bool) {
        frames.iter().for_each(|frame| self.push(connection, *frame));
        let bytes = frames.iter().map(|frame| self.frames[*frame as usize].0.len()).sum();
        self.add_requested(Requested { connection, bytes, room: Some(room), is_repeat });
    }

    /// Records that a client requested what was added.
    pub(super) fn add_requested(&mut self, requested: Requested) {
        self.requested.push(requested);
    }

    /// Takes what clients requested.
    pub(super) fn take_requested(&mut self) -> Vec<Requested> {
        std::mem::take(&mut self.requested)
    }

    /// Makes the frames of each connection adjacent. The sort is stable, so they stay in order.
    pub fn group_by_connection(&mut self) {
        self.list.sort_by_key(|(connection, _)| connection.index);
    }

    /// The next connection with its frames, in order. `None` when all have had their turn.
    pub fn next_connection(&mut self) -> Option<(ConnectionId, impl Iterator<Item = &(Bytes, Origin)> + Clone)> {
        let group = self.list.get(self.next..)?.chunk_by(|a, b| a.0 == b.0).next()?;
        self.next += group.len();
        Some((group[0].0, group.iter().map(|(_, frame)| &self.frames[*frame as usize])))
    }
}
