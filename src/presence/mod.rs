//! The presence core: which users are in which rooms, since when, and what has changed since the last tick.
//!
//! It is pure: no socket, no store, no `.await`, no clock. `now` is passed in and changes are returned. All threads
//! share it: workers record joins, leaves and signs of life; the ticker takes what has changed.
//!
//! There are two states of each room. The *live* state ([`Registry`], sharded by user) is what sessions hold at this
//! moment. The *announced* state (the [`Roster`] of a [`Room`], sorted by user) is what observers were sent up to
//! `seq`; only the tick changes it. The tick compares the two for each user that reported a change: the result is a
//! diff.
//!
//! A thread takes locks in this order, and holds none while it waits for another thread:
//!
//! - session rooms → user shard → room inbox → dirty list
//! - roster → inbox
//! - room shard → roster, inbox
//! - user shard → holders
//!
//! The locks of the watchlist, of the histories and of messages of the application are taken alone.

mod app_name;
mod app_rooms;
mod application_messages;
mod audience;
mod change;
mod credential;
mod first_joins;
mod grace;
mod histories;
mod holders;
mod id;
pub mod kick;
mod lease_wheel;
mod local_holds;
mod membership;
mod memberships;
mod message;
mod observers;
mod registry;
mod remote;
mod remote_hold;
mod remote_observers;
mod rest_sessions;
mod room;
mod room_quota;
mod roster;
mod session;
mod state;
mod user_status;
mod watchlist;
mod wheel;

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::quality::RandomState;

pub use app_name::{AppName, is_hidden, is_internal, is_stored_id};
pub use app_rooms::{AppRooms, MEMBERS_PREFIX, app_user_id, channel_name, is_channel_name};
pub use application_messages::{ApplicationMessages, UserMessage};
pub use audience::{Audience, AudienceSet, MAX_AUDIENCES, Observers};
pub use change::{Diff, HoldChange, ObserversChange};
pub use credential::Credential;
pub use id::{IdError, MAX_ID_BYTES, check_id, decode_id, is_id};
pub use local_holds::{LocalHolds, LocalRooms};
pub use message::{ApplicationMessage, Form, Keeping, MessageStamp, Publisher, RoomMessage};
pub use registry::{Attachment, Registry, Settings, UserRooms};
pub use remote::RemoteMember;
pub use remote_hold::IncarnationId;
pub use rest_sessions::{RestOrigin, RestRefused};
pub use room::{Room, RoomChange};
pub use roster::Roster;
pub use session::{Begun, Session};
pub use state::{Info, MAX_STATE_BYTES, State};
pub use user_status::{StatusDetails, UserStatus};
pub use watchlist::{StatusChange, Watchers, Watchlist};
pub use wheel::Wheel;

/// The room of REST heartbeats and of protocols without rooms.
pub const LOBBY: &str = "lobby";

/// Many more shards than threads, so that two workers rarely need the same one (dashmap's default is 4 × cores).
const SHARDS: usize = 256;

/// Engine time: the number of ticks executed so far. It stops while the engine cannot keep up, so that no user times
/// out because the server was slow.
pub type Tick = u64;

/// The current time, as the caller knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Engine time. Leases are measured in it.
    pub tick: Tick,
    /// Wall-clock time in milliseconds since the Unix epoch. For timestamps, never for deadlines.
    pub unix_ms: u64,
}

/// Why a member left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The client sent a leave, or the user signed out.
    Left,
    /// The user's last connection was closed cleanly.
    Closed,
    /// The lease ended.
    Timeout,
    /// The node that held the user is gone.
    NodeLost,
    /// An operator kicked the user.
    Kicked,
}

impl Reason {
    /// The reason with this name on the wire.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Left, Self::Closed, Self::Timeout, Self::NodeLost, Self::Kicked]
            .into_iter()
            .find(|reason| reason.as_str() == name)
    }

    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::NodeLost => "node_lost",
            Self::Kicked => "kicked",
        }
    }
}

fn sharded<V>() -> DashMap<Arc<str>, V, RandomState> {
    DashMap::with_capacity_and_hasher_and_shard_amount(0, RandomState::default(), SHARDS)
}
