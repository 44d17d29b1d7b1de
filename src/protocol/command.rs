//! The commands of clients, independent of their protocol, and the outcomes.

use crate::auth::Action;
use crate::presence::{Audience, LOBBY, State};

/// A request of a client, in the terms of the presence core. User ids and room names are valid; states are compact JSON
/// within their limit.
#[derive(Debug, Clone, PartialEq)]
pub enum Command<'a> {
    /// Renew the lease.
    Heartbeat,
    /// Become a member of a room, and observe it unless `audience` is `None`.
    Join {
        /// The room.
        room: &'a str,
        /// The member's state; `None` keeps the present one.
        state: Option<State>,
        /// How to observe the room.
        audience: Option<Audience>,
        /// The position from which the client resumes.
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
        /// The position from which the client resumes.
        resume: Option<Resume<'a>>,
    },
    /// Stop observing a room; a member stays a member.
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
        /// Their user ids.
        users: Vec<&'a str>,
    },
    /// Stop watching these users.
    Unwatch {
        /// Their user ids.
        users: Vec<&'a str>,
    },
    /// Send a message to the observers of a joined room.
    Publish {
        /// The room.
        room: &'a str,
        /// Compact JSON text.
        data: String,
    },
    /// Send an event to the other observers of an observed room, of which the client need not be a member.
    Relay {
        /// The room.
        room: &'a str,
        /// Compact JSON text: an object with the name of the event and its data.
        data: String,
    },
}

impl Command<'_> {
    /// The first command of clients of a protocol without rooms.
    #[must_use]
    pub fn join_lobby(audience: Audience) -> Self {
        Self::Join { room: LOBBY, state: None, audience: Some(audience), resume: None }
    }
}

/// The position in the changes of a room from which a returning client resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume<'a> {
    /// The epoch in which `seq` counts.
    pub epoch: &'a str,
    /// The last diff that the client has applied.
    pub seq: u64,
}

/// Whether a command was executed.
pub type Outcome = Result<(), Refused>;

/// Why a command was not executed. It had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The connection has no user.
    NoUser,
    /// The connection has not joined the room.
    NotJoined,
    /// The connection does not observe the room.
    NotObserved,
    /// The connection has the maximum number of rooms.
    TooManyRooms,
    /// All connections of the user together have the maximum number of rooms.
    TooManyRoomsOfUser,
    /// The server has the maximum number of rooms, or the user or address its share of them.
    TooManyRoomsInAll,
    /// The server has the maximum of states, or the user or address its share of them.
    TooMuchState,
    /// The connection, or the server, has the maximum number of watched users.
    TooManyWatched,
    /// The connection publishes too fast, or the room has too many bytes of messages in this tick.
    RateLimited,
    /// The client's credential does not allow this action in the room.
    Forbidden(Action),
    /// The connection did not begin with a token, so it cannot renew one.
    NoToken,
    /// The application has not confirmed the session in time: no new rooms until it does.
    Unconfirmed,
    /// The client's credential does not allow to see the status of one of the users.
    ForbiddenWatch,
}

impl Refused {
    /// Whether the client may succeed later, because the server has too much of something.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::TooManyRoomsInAll | Self::TooMuchState)
    }

    /// What is wrong, as the reason of a close frame, for clients of protocols without rooms of their own.
    #[must_use]
    pub fn reason(self, room: &str) -> String {
        match self {
            Self::Forbidden(action) => format!("your credential does not allow `{}` in `{room}`", action.name()),
            Self::TooManyRoomsInAll => "the server has too many rooms, or this user or address its share of them \
                                        (--max-rooms); try again later"
                .to_owned(),
            Self::TooMuchState => "the server has too much state, or this user or address its share of it \
                                   (--max-state); try again later"
                .to_owned(),
            _ => "you have joined too many rooms".to_owned(),
        }
    }
}

/// The number of a session within its connection, in the order in which sessions were added.
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

/// The limit of rooms that a connection has joined or observes.
pub const MAX_ROOMS_PER_CONNECTION: usize = 100;
/// The limit of rooms that a user has joined on this node with all connections together, rooms included that were left
/// in the present tick. The first room of a connection is always accepted.
pub const MAX_ROOMS_PER_USER: usize = 2000;
/// The limit of users that a connection watches.
pub const MAX_WATCHED_PER_CONNECTION: usize = 1000;
/// The limit of messages that a connection publishes per second: more than people type and paste.
pub const MAX_MESSAGES_PER_SECOND: u32 = 10;
