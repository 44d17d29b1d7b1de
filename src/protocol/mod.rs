//! The wire protocols: bytes of a client become a [`Command`], changes of a room become frames.
//!
//! One file per protocol; the wire format stands in its module's doc. A protocol knows nothing of sockets: it reads the payload
//! of a text message and writes finished, unmasked server frames (RFC 6455, 5.1), which every receiver shares.

pub mod chat;
pub mod native;
pub mod online_status;
pub mod online_users;

use crate::presence::{Audience, LOBBY, State};

/// The protocol that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `presence.v1`, see [`native`].
    Native,
    /// The online-users seed, see [`online_users`].
    OnlineUsers,
    /// The online-status seed, see [`online_status`].
    Status,
    /// The chat seed, see [`chat`].
    Chat,
    /// Gives every message back; for conformance suites.
    #[cfg(feature = "echo")]
    Echo,
}

impl Protocol {
    /// Whether presence is a lease that signs of life renew. Otherwise it is the connection, from its join to its end, and the
    /// connection is pinged at the seeds' pace.
    #[must_use]
    pub fn has_lease(self) -> bool {
        matches!(self, Self::Native | Self::OnlineUsers)
    }

    /// Whether its clients are told events only: a snapshot cannot take back what they were told before they missed something.
    /// That these are the protocols without a lease is the seeds' choice: neither follows from the other.
    #[must_use]
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Status | Self::Chat)
    }
}

/// What a client asks for. Names are checked, states are compact JSON within their limit.
#[derive(Debug, Clone, PartialEq)]
pub enum Command<'a> {
    /// Renews the lease; `ack` asks for an answer.
    Heartbeat {
        /// Whether to answer.
        ack: bool,
    },
    /// Become a member of a room, and look at it unless `audience` is `None`.
    Join {
        /// The room.
        room: &'a str,
        /// The member's state; `None` keeps the one it has.
        state: Option<State>,
        /// How to look at it.
        audience: Option<Audience>,
        /// What the client has of it already.
        resume: Option<Resume<'a>>,
    },
    /// Stop being a member of a room, and looking at it.
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
    /// LiveStatus without being seen.
    Observe {
        /// The room.
        room: &'a str,
        /// How to look at it.
        audience: Audience,
        /// What the client has of it already.
        resume: Option<Resume<'a>>,
    },
    /// Stop looking; a member stays one.
    Unobserve {
        /// The room.
        room: &'a str,
    },
    /// Send a snapshot of an observed room.
    Resync {
        /// The room.
        room: &'a str,
    },
    /// Be told about these users, wherever they are.
    Watch {
        /// Their names.
        users: Vec<&'a str>,
    },
    /// Be told about these users no longer.
    Unwatch {
        /// Their names.
        users: Vec<&'a str>,
    },
    /// Say something to those who look at a joined room.
    Say {
        /// The room.
        room: &'a str,
        /// What: compact JSON text.
        data: String,
    },
}

impl Command<'_> {
    /// What a protocol without rooms of its own does first.
    #[must_use]
    pub fn join_lobby(audience: Audience) -> Self {
        Self::Join { room: LOBBY, state: None, audience: Some(audience), resume: None }
    }
}

/// How far a client that comes back has followed a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume<'a> {
    /// The epoch that `seq` counts in.
    pub epoch: &'a str,
    /// The last diff that the client has applied.
    pub seq: u64,
}
