//! What clients can ask for, whatever protocol they speak, and what comes of it.

use crate::presence::{Audience, LOBBY, State};

/// A request of a client, in the terms of the presence core. Names are checked; states are compact JSON within their limit.
#[derive(Debug, Clone, PartialEq)]
pub enum Command<'a> {
    /// Renew the lease.
    Heartbeat,
    /// Become a member of a room, and observe it unless `audience` is `None`.
    Join {
        /// The room.
        room: &'a str,
        /// The member's state; `None` keeps the one it has.
        state: Option<State>,
        /// How to observe the room.
        audience: Option<Audience>,
        /// What the client has of the room already.
        resume: Option<Resume<'a>>,
    },
    /// Stop being a member of a room, and observing it.
    Leave {
        /// The room.
        room: &'a str,
    },
    /// Replace the state in a joined room; `None` clears it.
    SetState {
        /// The room.
        room: &'a str,
        /// The new state.
        state: Option<State>,
    },
    /// Observe a room without being a member.
    Observe {
        /// The room.
        room: &'a str,
        /// How to observe it.
        audience: Audience,
        /// What the client has of the room already.
        resume: Option<Resume<'a>>,
    },
    /// Stop observing; a member stays one.
    Unobserve {
        /// The room.
        room: &'a str,
    },
    /// Send a snapshot of an observed room.
    Resync {
        /// The room.
        room: &'a str,
    },
    /// Send the status of these users now and whenever it changes.
    Watch {
        /// Their names.
        users: Vec<&'a str>,
    },
    /// Stop watching these users.
    Unwatch {
        /// Their names.
        users: Vec<&'a str>,
    },
    /// Send a message to the observers of a joined room.
    Publish {
        /// The room.
        room: &'a str,
        /// Compact JSON text.
        data: String,
    },
}

impl Command<'_> {
    /// The first command of a protocol that has no rooms of its own.
    #[must_use]
    pub fn join_lobby(audience: Audience) -> Self {
        Self::Join { room: LOBBY, state: None, audience: Some(audience), resume: None }
    }
}

/// What a returning client has of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume<'a> {
    /// The epoch in which `seq` counts.
    pub epoch: &'a str,
    /// The last diff that the client has applied.
    pub seq: u64,
}

/// Whether a command was executed.
pub type Outcome = Result<(), Refused>;

/// Why a command was not executed. Nothing of it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The connection has no user.
    NoUser,
    /// The room was not joined.
    NotJoined,
    /// The room is not observed.
    NotObserved,
    /// The connection has the maximum number of rooms.
    TooManyRooms,
    /// The connection, or the server, has the maximum number of watched users.
    TooManyWatched,
    /// The connection publishes too fast, or the room has too many bytes of messages in this tick.
    RateLimited,
}

/// A session of a connection, in the order in which they were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionNumber(u8);

impl SessionNumber {
    /// The first session, which nearly every connection has.
    pub const FIRST: Self = Self(0);

    /// The session of this index; `None` beyond the maximum of 256.
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        u8::try_from(index).ok().map(Self)
    }

    /// Its index.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Rooms that one connection may have joined or observe.
pub const MAX_ROOMS_PER_CONNECTION: usize = 100;
/// Users that one connection may watch.
pub const MAX_WATCHED_PER_CONNECTION: usize = 1000;
/// Messages that one connection may publish per second: more than people type, and paste.
pub const MAX_MESSAGES_PER_SECOND: u32 = 10;
