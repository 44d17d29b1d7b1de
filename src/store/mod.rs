//! Where presence outlives a connection's node: nowhere (memory, one node), or Redis, shared by any number of nodes.
//!
//! A store is told what the sessions of this node changed, tick by tick, and tells the registry what other nodes hold. It is
//! behind and never in front: nothing here is waited for by a worker or the ticker, and whatever a store cannot do now, the node
//! goes on without it and says so ([`Store::degraded_since`]).

mod memory;
pub mod redis;

use std::fmt;
use std::sync::Arc;

pub use memory::Memory;

use crate::metrics::StoreTotals;
use crate::presence::{Room, RoomChange, Told};
use crate::removal::Removal;

/// The exit code when the store cannot be used at the start (`EX_UNAVAILABLE` of sysexits.h).
pub const EXIT_UNAVAILABLE: u8 = 69;

/// Something that a session of this node did, as of a tick.
#[derive(Debug, Clone)]
pub struct News {
    /// Where.
    pub room: Arc<str>,
    /// Who.
    pub user: Arc<str>,
    /// What.
    pub what: What,
}

/// What a session did.
#[derive(Debug, Clone)]
pub enum What {
    /// It came, went or has another state.
    Told(Told),
    /// It said this, compact JSON text.
    Said(Box<str>),
    /// The user is to go at once, wherever it is.
    Removed(Removal),
}

impl News {
    /// A user is to go at once. Not of a room: the place is anywhere.
    #[must_use]
    pub fn removed(removal: &Removal) -> Self {
        Self { room: "*".into(), user: Arc::clone(&removal.user), what: What::Removed(removal.clone()) }
    }

    /// What a tick's change of a room means for the store.
    pub fn of(room: &Room, change: &RoomChange) -> impl Iterator<Item = Self> {
        let news = |user: &Arc<str>, what| Self { room: Arc::clone(room.name()), user: Arc::clone(user), what };
        let told = change.told.iter().map(move |(user, told)| news(user, What::Told(told.clone())));
        let said = change.said.iter().filter(|said| said.from_here);
        told.chain(said.map(move |said| news(&said.user, What::Said(said.data.clone()))))
    }
}

/// A store, as the ticker and the workers see it. None of this blocks.
pub trait Store: fmt::Debug + Send + Sync {
    /// Takes what happened in a tick.
    fn record(&self, news: Vec<News>);

    /// Users who are to go at once because another node was asked for it, since the last call.
    fn take_removals(&self) -> Vec<Removal>;

    /// Since when the node has not seen what others hold, in milliseconds since the Unix epoch.
    fn degraded_since(&self) -> Option<u64>;

    /// What it counted, if it has something to count.
    fn totals(&self) -> Option<StoreTotals>;

    /// Writes what is left, in bounded time, and ends; what is in the store stays there until its leases end. Blocks.
    fn close(&self);
}

/// The store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}
