//! The prices of commands, in bytes: about what the server stores, writes or sends because of them.

use crate::presence::{Info, State};
use crate::protocol::Command;

/// Changes of the watchlist that count as one: they cost less than joining a room.
const WATCHED_PER_CHANGE: u32 = 4;

/// The price of a command, or of the replies that it requested.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Price {
    /// In bytes, see [`crate::work_budget`].
    pub(super) work: u64,
    /// Changes that wait for the tick.
    pub(super) changes: u32,
    /// Whether the client asked for what it has already.
    pub(super) is_repeat: bool,
}

impl Price {
    /// A message that is answered with an error.
    pub(super) const REFUSAL: Self = Self::new(256, 0);

    /// A token that is accepted: its signature was checked, and what the connection has compared with its permissions.
    pub(super) const ACCEPTED_TOKEN: Self = Self::new(4 * 256, 0);

    /// A token that is refused: as much as a hundred commands.
    pub(super) const REFUSED_TOKEN: Self = Self::new(100 * 256, 0);

    /// Another info of a user who is in this many rooms.
    pub(super) fn of_info(info: &Info, rooms: usize) -> Self {
        Self::new(rooms * (64 + info.as_str().len() / 4), 0)
    }

    pub(super) const fn new(work: usize, changes: u32) -> Self {
        Self { work: work as u64, changes, is_repeat: false }
    }

    /// The price of a command, without the replies that it requests.
    pub(super) fn of(command: &Command<'_>) -> Self {
        match command {
            Command::Heartbeat => Self::default(),
            // A room with its name, entries in four maps, the work of the tick, and messages to other nodes.
            Command::Join { state, .. } => Self::new(256 + state.as_ref().map_or(0, State::bytes), 1),
            Command::Observe { .. } => Self::new(256, 1),
            Command::Leave { .. } | Command::Unobserve { .. } => Self::new(128, 1),
            // Only the last of a tick counts. Ten per second with 300 bytes are within the rate.
            Command::SetState { state, .. } => {
                Self::new(64 + state.as_ref().map_or(0, |state| state.as_str().len() / 4), 0)
            }
            Command::Resync { .. } => Self::new(64, 0),
            Command::Watch { users } => Self::new(64 + 256 * users.len(), watched_changes(users.len())),
            Command::Unwatch { users } => Self::new(64 + 16 * users.len(), watched_changes(users.len())),
            Command::Publish { data, .. } | Command::Relay { data, .. } => Self::new(64 + data.len() / 4, 0),
        }
    }
}

fn watched_changes(users: usize) -> u32 {
    u32::try_from(users).unwrap_or(u32::MAX).div_ceil(WATCHED_PER_CHANGE)
}
