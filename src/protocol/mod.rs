//! The wire protocols. A protocol is one file or folder with [`Rules`]. Adding one edits this file and the settings.
//!
//! A protocol decodes the messages of its clients, executes [`Command`]s through a [`Client`], replies to each
//! [`Outcome`] in its own format, and provides an [`Encoder`] per audience. It does not know sockets, workers or HTTP.
//! The wire format is documented at the top of its file.

pub mod chat;
pub mod client;
mod command;
#[cfg(feature = "echo")]
mod echo;
pub mod event;
pub mod handshake;
pub mod native;
pub mod online_status;
pub mod online_users;
pub mod pusher;

use std::time::Duration;

use bytes::BytesMut;

use crate::broadcast::encoder::{Encoder, Encoders, StatusEncoder, UserMessageEncoder};
use crate::config::Config;
use crate::json::Reader;
use crate::presence::{Audience, Reason};
use crate::websocket::decoder::Limits;
use crate::websocket::{Refusal, close};

pub use client::Client;
pub use command::{
    Command, MAX_MESSAGES_PER_SECOND, MAX_ROOMS_PER_CONNECTION, MAX_ROOMS_PER_USER, MAX_WATCHED_PER_CONNECTION,
    Outcome, Refused, Resume, SessionNumber,
};
pub use event::{Event, EventFormat, EventKind};
pub use handshake::{Handshake, Upgrade};
pub use pusher::{
    data_of_event, event_data, is_cache_channel, is_user_id, owner_of_channel, signed_in_user, socket_number,
};

/// The protocol of a connection. One byte, because every connection stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// `presence.v1`, see [`native`].
    Native,
    /// See [`online_users`].
    OnlineUsers,
    /// See [`online_status`].
    OnlineStatus,
    /// See [`chat`].
    Chat,
    /// See [`pusher`].
    Pusher,
    /// See [`echo`].
    #[cfg(feature = "echo")]
    Echo,
}

impl Protocol {
    /// All protocols. The first one that accepts the path of a handshake gets the connection.
    pub const ALL: &[Self] = &[
        Self::Native,
        Self::OnlineUsers,
        Self::OnlineStatus,
        Self::Chat,
        Self::Pusher,
        #[cfg(feature = "echo")]
        Self::Echo,
    ];

    /// Everything that distinguishes this protocol from the others.
    #[must_use]
    pub const fn rules(self) -> &'static Rules {
        match self {
            Self::Native => &native::RULES,
            Self::OnlineUsers => &online_users::RULES,
            Self::OnlineStatus => &online_status::RULES,
            Self::Chat => &chat::RULES,
            Self::Pusher => &pusher::RULES,
            #[cfg(feature = "echo")]
            Self::Echo => &echo::RULES,
        }
    }

    /// The audience that has this number within the protocol.
    #[must_use]
    pub const fn audience(self, number: usize) -> Audience {
        assert!(number < self.rules().audiences, "the protocol has fewer audiences");
        let (mut first, mut at) = (0, 0);
        while at < self as usize {
            first += Self::ALL[at].rules().audiences;
            at += 1;
        }
        Audience::new(first + number)
    }

    /// The audience that observes instead of this one if the client may see numbers only. `None` if this one shows more
    /// than numbers and messages.
    #[must_use]
    pub fn numbers_only(self, audience: Audience) -> Option<Audience> {
        let counting = self.rules().counting.filter(|counting| self.audience(counting.audience) == audience)?;
        Some(self.audience(counting.numbers_only))
    }

    /// Whether this audience is sent numbers only.
    #[must_use]
    pub fn is_numbers_only(self, audience: Audience) -> bool {
        self.rules().counting.is_some_and(|counting| self.audience(counting.numbers_only) == audience)
    }

    /// Whether messages wait for slow clients.
    #[must_use]
    pub fn keeps_messages(self) -> bool {
        matches!(self.rules().missed, Missed::Wait { .. })
    }

    /// Whether slow clients of this audience receive messages, and a new list in place of the changes between them.
    #[must_use]
    pub fn replaces_members(self, audience: Audience) -> bool {
        matches!(self.rules().missed, Missed::Wait { members } if self.audience(members) == audience)
    }

    /// The index of this protocol's format in [`Encoders::statuses`], if its clients can watch users.
    #[must_use]
    pub fn status_format(self) -> Option<usize> {
        self.rules().status?;
        Some(Self::ALL[..self as usize].iter().filter(|protocol| protocol.rules().status.is_some()).count())
    }
}

/// Appends the result of a renewal: the time until the new token expires, in milliseconds, or why it is refused.
pub type RenewalEncoder = fn(&mut BytesMut, Result<u64, &str>);

/// The rules of a protocol: everything about it that other modules need to know.
#[derive(Debug)]
pub struct Rules {
    /// The name, for applications that decide about its connections.
    pub name: &'static str,
    /// What keeps a member online.
    pub presence: Presence,
    /// What happens to changes that a slow client misses.
    pub missed: Missed,
    /// Whether a client observes a room before it joins it, because it is told about its own join as an event. Other
    /// clients join first, so that their first list has them.
    pub observes_first: bool,
    /// The format of events, if slow clients must not miss any ([`Missed::Queue`]).
    pub events: Option<EventFormat>,
    /// When the user of a connection is known.
    pub identity: Identity,
    /// What happens to the sessions of a connection when it ends.
    pub on_close: OnClose,
    /// The codes with which the server closes connections.
    pub close_codes: CloseCodes,
    /// The limits of frames and messages.
    pub limits: Limits,
    /// The WebSocket subprotocol that is selected when a client offers it.
    pub subprotocol: Option<&'static str>,
    /// The number of audiences, which is the number of encoders that `encoders` returns.
    pub audiences: usize,
    /// The audiences for which fewer permissions suffice, if the protocol has any.
    pub counting: Option<Counting>,
    /// The format of the status of watched users, if clients can watch any.
    pub status: Option<StatusEncoder>,
    /// The format of messages of the application to a user, if clients receive them.
    pub user_message: Option<UserMessageEncoder>,
    /// Appends a message about the health of the node, if the protocol has one.
    pub health: Option<fn(&mut BytesMut, degraded_since_unix_ms: Option<u64>)>,
    /// Appends the result of a renewal. Without it, clients cannot renew their tokens.
    pub renewed: Option<RenewalEncoder>,
    /// Looks at the request of a WebSocket; `None` if its path belongs to another protocol.
    pub upgrade: fn(&Handshake<'_>) -> Option<Result<Upgrade, Refusal>>,
    /// Sends the first messages, and joins rooms if the request or the protocol asks for it.
    pub greet: fn(&mut Client<'_>, &Upgrade),
    /// Handles a text message.
    pub receive: fn(&mut Client<'_>, &mut Reader, &[u8]),
    /// Handles a binary message; without it, one closes the connection with 1003.
    pub receive_binary: Option<fn(&mut Client<'_>, &[u8])>,
    /// Answers a text message that is dropped because it is beyond the limits ([`Limits::drops_too_big`]); without it,
    /// one closes the connection with 1009.
    pub too_big: Option<fn(&mut Client<'_>)>,
    /// Called when an alarm goes off that the protocol has set ([`Client::set_alarm`]).
    pub alarm: Option<fn(&mut Client<'_>)>,
    /// One encoder per audience.
    pub encoders: fn(&Config) -> Vec<Box<dyn Encoder>>,
}

/// The audiences of clients that see the number of members and not who they are, as numbers within the protocol.
#[derive(Debug, Clone, Copy)]
pub struct Counting {
    /// Numbers and messages.
    pub audience: usize,
    /// Numbers only, for clients that may not see more.
    pub numbers_only: usize,
}

/// What keeps a member online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// A lease that signs of life renew. `--liveness` overrides which ones do.
    Lease {
        /// Whether any frame renews the lease, even a pong; if not, only commands do.
        any_frame_renews: bool,
    },
    /// The connection, from the join to its end. It is pinged every `--ping-interval`.
    Connection,
}

impl Rules {
    /// Whether the application signs for the users of its clients.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        matches!(self.identity, Identity::Signed)
    }
}

impl Presence {
    /// Whether presence is a lease.
    #[must_use]
    pub fn is_lease(self) -> bool {
        matches!(self, Self::Lease { .. })
    }
}

/// What happens to changes that a slow client misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// They are skipped. The client receives a new snapshot when it reads again.
    Snapshot,
    /// They are queued up to a limit, because a snapshot cannot replace events. Beyond that limit, events that cancel
    /// out are dropped, and beyond another limit the client is disconnected.
    Queue,
    /// Messages wait, up to a limit beyond which the connection is closed. Changes of members are skipped: the client
    /// receives the new list when it reads again.
    Wait {
        /// The audience whose snapshots are lists of members, as a number within the protocol. What others are sent of
        /// a room waits like messages.
        members: usize,
    },
}

/// When the user of a connection is known.
#[derive(Debug, Clone, Copy)]
pub enum Identity {
    /// The request names the user, or authentication finds it.
    AtUpgrade {
        /// How a request without a user is refused.
        missing: fn() -> Refusal,
    },
    /// The first message names the user. If it does not arrive before the deadline, the connection is closed with 1008.
    FirstMessage {
        /// The time for the first message.
        deadline: fn(&Config) -> Duration,
        /// The reason in the close frame.
        reason: &'static str,
    },
    /// No user is needed: the connection is an anonymous observer, or has one user per subscription.
    PerSubscription,
    /// As [`Identity::PerSubscription`], and the application signs for each user. Other credentials are not asked for.
    Signed,
}

/// The codes with which the server closes connections for reasons of its own. Violations of RFC 6455 have the codes of
/// that standard.
#[derive(Debug, Clone, Copy)]
pub struct CloseCodes {
    /// The server stops.
    pub restart: u16,
    /// The client may succeed later, because there is too much of something.
    pub try_again: u16,
    /// The user was kicked or signed out.
    pub removed: u16,
    /// The client broke another rule of the server.
    pub policy: u16,
}

impl CloseCodes {
    /// The codes of the IANA registry.
    pub const STANDARD: Self =
        Self { restart: close::RESTART, try_again: close::TRY_AGAIN, removed: close::POLICY, policy: close::POLICY };
}

/// What happens to the sessions of a connection, depending on how it ended.
#[derive(Debug, Clone, Copy)]
pub struct OnClose {
    /// The client closed it with 1000, or without a code as `close()` in a browser does.
    pub clean: AtClose,
    /// It ended in any other way.
    pub lost: AtClose,
    /// It ended in any other way while the server was stopping.
    pub drained: AtClose,
}

/// What happens to a session when its connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtClose {
    /// It ends at once, and the user leaves for this reason.
    Leave(Reason),
    /// Its lease ends after `--grace`.
    Grace,
    /// It stays until its lease ends.
    LeaseEnds,
    /// It stays: the server stops without announcing leaves.
    Stay,
}

/// Whether each session ends. Without a lease it must not outlive its connection, because nothing would end it.
const fn each_session_ends(presence: Presence, on_close: OnClose) -> bool {
    let OnClose { clean, lost, drained } = on_close;
    let needs_lease = clean.needs_lease() || lost.needs_lease() || drained.needs_lease();
    matches!(presence, Presence::Lease { .. }) || !needs_lease
}

impl AtClose {
    /// Whether only a lease ends the session.
    const fn needs_lease(self) -> bool {
        matches!(self, Self::Grace | Self::LeaseEnds)
    }
}

const _: () = {
    let mut at = 0;
    while at < Protocol::ALL.len() {
        let rules = Protocol::ALL[at].rules();
        assert!(
            each_session_ends(rules.presence, rules.on_close),
            "without a lease, no session outlives its connection"
        );
        assert!(rules.limits.drops_too_big == rules.too_big.is_some(), "messages that are dropped are answered");
        assert!(!matches!(rules.missed, Missed::Queue) || rules.events.is_some(), "queued events have a format");
        at += 1;
    }
};

/// The encoders of all protocols.
#[must_use]
pub fn encoders(config: &Config) -> Encoders {
    let rules = Protocol::ALL.iter().map(|protocol| protocol.rules());
    let audiences = rules.clone().flat_map(|rules| {
        let encoders = (rules.encoders)(config);
        debug_assert_eq!(encoders.len(), rules.audiences, "one encoder per audience");
        encoders
    });
    Encoders { audiences: audiences.collect(), statuses: rules.filter_map(|rules| rules.status).collect() }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod rules_tests {
    use super::*;

    #[test]
    fn sessions_without_a_lease_end_with_their_connection() {
        let leave = AtClose::Leave(Reason::Closed);
        let check = |presence, lost, expected| {
            let on_close = OnClose { clean: leave, lost, drained: AtClose::Stay };
            assert_eq!(each_session_ends(presence, on_close), expected, "{presence:?} {lost:?}");
        };
        let lease = Presence::Lease { any_frame_renews: false };
        for lost in [AtClose::Grace, AtClose::LeaseEnds] {
            check(lease, lost, true);
            check(Presence::Connection, lost, false);
        }
        check(Presence::Connection, leave, true);
    }

    #[test]
    fn audiences_are_numbered_in_the_order_of_the_encoders() {
        let config = Config::from_args(["rollcall"]).unwrap();
        let mut next = 0;
        for protocol in Protocol::ALL {
            assert_eq!((protocol.rules().encoders)(&config).len(), protocol.rules().audiences, "{protocol:?}");
            for number in 0..protocol.rules().audiences {
                assert_eq!(protocol.audience(number).index(), next);
                next += 1;
            }
        }
        assert_eq!(encoders(&config).audiences.len(), next);
    }

    #[test]
    fn status_formats_are_numbered_in_the_order_of_the_encoders() {
        let config = Config::from_args(["rollcall"]).unwrap();
        let formats: Vec<_> = Protocol::ALL.iter().filter_map(|protocol| protocol.status_format()).collect();
        assert_eq!(formats, (0..encoders(&config).statuses.len()).collect::<Vec<_>>());
    }
}
