//! The state of a room that mirrors are compared with.

use wire::room::Members;

/// A room as the server's HTTP API lists it, or as it must be according to what was sent.
#[derive(Clone, Debug)]
pub(crate) struct RoomState {
    pub(crate) room: String,
    pub(crate) epoch: String,
    pub(crate) seq: u64,
    pub(crate) members: Members,
}

/// Members without states.
pub(crate) fn members_of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Members {
    names.into_iter().map(|name| (name.into(), None)).collect()
}

/// The members whose names are wanted.
pub(crate) fn filtered(members: &Members, is_wanted: impl Fn(&str) -> bool) -> Members {
    let wanted = members.iter().filter(|(name, _)| is_wanted(name));
    wanted.map(|(name, state)| (name.clone(), state.clone())).collect()
}
