//! A hold of another node, as it is stored with the membership.

use super::State;

/// Names an incarnation of another node, for as long as this process lives.
pub type IncarnationId = u32;

/// An incarnation holds the user in a room.
#[derive(Debug)]
pub(super) struct RemoteHold {
    pub(super) incarnation: IncarnationId,
    /// Of the load that found it. A later load of the same incarnation sweeps older ones.
    pub(super) generation: u32,
    pub(super) state: Option<State>,
}
