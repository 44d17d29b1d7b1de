//! Changes: of a room for its observers, of this node for the store.

use std::sync::Arc;

use super::{Reason, State};

/// The changes of a room between two sequence numbers, each list sorted by user. An empty diff is not sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// New members, with their states.
    pub joined: Vec<(Arc<str>, Option<State>)>,
    /// Members whose state or info changed, with their new states, and the info if it changed: an empty one if there is
    /// none any more.
    pub updated: Vec<(Arc<str>, Option<State>)>,
    /// Users who are not members any more, and why.
    pub left: Vec<(Arc<str>, Reason)>,
    /// The last states of users of applications who are not members any more, if they had any.
    pub last_states: Vec<(Arc<str>, State)>,
}

impl Diff {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty() && self.updated.is_empty() && self.left.is_empty()
    }

    /// Whether users joined or left; false if only states changed.
    #[must_use]
    pub fn changes_members(&self) -> bool {
        !(self.joined.is_empty() && self.left.is_empty())
    }
}

/// A change for the store: whether this node holds a user in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldChange {
    /// This node holds the user, and did not before or with another state.
    Held {
        /// The state that sessions of this node set last.
        state: Option<State>,
        /// Whether this node did not hold the user before.
        joined: bool,
    },
    /// This node does not hold the user any more.
    Released(Reason),
}

/// The live state of one user in one room.
#[derive(Debug)]
pub(super) enum LiveState {
    Online(Option<State>),
    Offline(Reason),
}

/// What the store has to know about the observers of a room on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObserversChange {
    /// The first observer came.
    Occupied,
    /// The last observer left.
    Vacant,
    /// Their number changed otherwise.
    Count,
}

impl ObserversChange {
    /// The change from one number to another, if they differ.
    pub(super) fn between(before: u64, now: u64) -> Option<Self> {
        match (before, now) {
            _ if before == now => None,
            (0, _) => Some(Self::Occupied),
            (_, 0) => Some(Self::Vacant),
            _ => Some(Self::Count),
        }
    }
}
