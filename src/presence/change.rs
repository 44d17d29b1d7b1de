//! What changes: of a room for its observers, of this node for the store.

use std::sync::Arc;

use super::{Reason, State};

/// What changed in a room between two sequence numbers, each list sorted by user. An empty one is never sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Members who were not there before, with their states.
    pub joined: Vec<(Arc<str>, Option<State>)>,
    /// Members whose state is another now.
    pub updated: Vec<(Arc<str>, Option<State>)>,
    /// Members who are gone, and why.
    pub left: Vec<(Arc<str>, Reason)>,
}

impl Diff {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty() && self.updated.is_empty() && self.left.is_empty()
    }

    /// Whether the set of members changed, not only somebody's state.
    #[must_use]
    pub fn moved(&self) -> bool {
        !(self.joined.is_empty() && self.left.is_empty())
    }
}

/// What the store has to be told about a user in a room: whether this node holds it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldChange {
    /// It does, as of now or with another state.
    Held {
        /// What sessions of this node wrote last.
        state: Option<State>,
        /// It did not before.
        joined: bool,
    },
    /// It does not any more.
    Released(Reason),
}

/// The live state of one user that reported a change.
#[derive(Debug)]
pub(super) enum LiveState {
    Online(Option<State>),
    Offline(Reason),
}
