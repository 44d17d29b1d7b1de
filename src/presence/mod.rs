//! The presence core: who is in which room, since when, and what has changed since the last tick.
//!
//! It is pure: no socket, no store, no `.await`, no clock. `now` is passed in and changes are handed back. Threads share it:
//! workers record joins, leaves and signs of life, one ticker takes what has changed.
//!
//! Two truths, on purpose. The *live* one ([`Registry`], sharded by user) is what sessions publish at this moment. The *announced*
//! one ([`Room`]'s roster, sorted) is what observers have been told up to `seq`; only the tick moves it. A diff is the
//! difference between the two for the users that reported a change.
//!
//! Locks are taken in this order and none is held while another thread is waited for:
//! session rooms → user shard → room inbox → dirty list; roster → inbox; room shard → roster, inbox. The watchlist by itself;
//! the holders inside a user shard.

mod audience;
mod change;
mod grace;
mod holders;
mod id;
pub mod kick;
mod leases;
mod local_holds;
mod membership;
mod registry;
mod remote;
mod remote_hold;
mod rest_sessions;
mod room;
mod roster;
mod session;
mod state;
mod watchlist;
mod wheel;

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::quality::RandomState;

pub use audience::{Audience, AudienceSet, MAX_AUDIENCES, Observers};
pub use change::{Diff, HoldChange};
pub use holders::Holders;
pub use id::{IdError, MAX_ID_BYTES, check_id};
pub use local_holds::LocalHolds;
pub use registry::{Attachment, Registry, Settings, UserRooms};
pub use remote::RemoteMember;
pub use remote_hold::IncarnationId;
pub use rest_sessions::RestSessionsFull;
pub use room::{Room, RoomChange, RoomMessage};
pub use roster::Roster;
pub use session::Session;
pub use state::{MAX_STATE_BYTES, State};
pub use watchlist::{StatusChange, UserStatus, Watchers, Watchlist};
pub use wheel::Wheel;

/// The room of REST heartbeats, and of protocols without rooms of their own.
pub const LOBBY: &str = "lobby";

/// Many more shards than threads, so that two workers rarely meet at one (dashmap's default is 4 × cores).
const SHARDS: usize = 256;

/// Engine time: the number of ticks that have been executed. It stands still while the engine cannot keep up, so that nobody
/// times out because *we* were slow.
pub type Tick = u64;

/// The current moment, as the caller knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Engine time; leases are counted in it.
    pub tick: Tick,
    /// Milliseconds since the Unix epoch; only ever shown, never compared.
    pub unix_ms: u64,
}

/// Why a member left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It said so.
    Left,
    /// Its last connection was closed cleanly.
    Closed,
    /// Its lease ended.
    Timeout,
    /// The node that held it is gone.
    NodeLost,
    /// It was removed by an operator.
    Kicked,
}

impl Reason {
    /// The reason of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Left, Self::Closed, Self::Timeout, Self::NodeLost, Self::Kicked]
            .into_iter()
            .find(|reason| reason.as_str() == word)
    }

    /// The word for it on the wire.
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
