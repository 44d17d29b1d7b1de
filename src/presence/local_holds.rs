//! What this node holds, as the store reads it: a session of this node holds its user in each room that it has joined.

use std::sync::Arc;

use super::{Registry, State};

/// What this node holds of a user.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LocalHolds {
    /// Since when the user has been online, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// Rooms in which a session of this node holds the user, with the state that was set here last.
    pub rooms: Vec<(Arc<str>, Option<State>)>,
}

/// The rooms in which a session of this node holds a user.
#[derive(Debug, PartialEq, Eq)]
pub struct LocalRooms {
    /// Since when the user has been online, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// Some of the rooms, at least one.
    pub rooms: Vec<Arc<str>>,
}

impl Registry {
    /// Up to `limit` rooms in which sessions of this node hold a user; `None` if there are none.
    #[must_use]
    pub fn local_rooms(&self, user: &str, limit: usize) -> Option<LocalRooms> {
        let user = self.users.get(user)?;
        let held = user.memberships.iter().filter(|held| held.sessions > 0);
        let rooms: Vec<_> = held.take(limit).map(|held| Arc::clone(held.room.name())).collect();
        (!rooms.is_empty()).then_some(LocalRooms { since_unix_ms: user.since_unix_ms, rooms })
    }

    /// What sessions of this node hold of a user; `None` if nothing. Without holds that no tick has reported to the
    /// store yet.
    #[must_use]
    pub fn reported_holds(&self, user: &str) -> Option<LocalHolds> {
        let user = self.users.get(user)?;
        let held = user.memberships.iter().filter(|held| held.sessions > 0 && held.known_to_store);
        let rooms: Vec<_> = held.map(|held| (Arc::clone(held.room.name()), held.state.clone())).collect();
        (!rooms.is_empty()).then_some(LocalHolds { since_unix_ms: user.since_unix_ms, rooms })
    }

    /// If the last report to the store was that this node holds the user in the room: the state there.
    #[must_use]
    pub fn reported_hold(&self, room: &str, user: &str) -> Option<Option<State>> {
        let room = self.room(room)?;
        let user = self.users.get(user)?;
        let reported = user.memberships.get(&room).filter(|membership| membership.known_to_store);
        reported.map(|membership| membership.state.clone())
    }

    /// Since when the user has been online on any node, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn online_since(&self, user: &str) -> Option<u64> {
        self.users.get(user).map(|user| user.since_unix_ms)
    }

    /// The selected users whom sessions of this node hold. Walks all users, one shard at a time.
    pub fn locally_held_users(&self, is_selected: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let held = self.users.iter().filter(|user| user.memberships.iter().any(|held| held.sessions > 0));
        held.filter(|user| is_selected(user.key())).map(|user| Arc::clone(user.key())).collect()
    }

    /// How many rooms sessions of this node hold the selected users in, added up. Walks all users, one shard at a time.
    pub fn count_local_holds(&self, is_selected: impl Fn(&str) -> bool) -> usize {
        let selected = self.users.iter().filter(|user| is_selected(user.key()));
        selected.map(|user| user.memberships.iter().filter(|held| held.sessions > 0).count()).sum()
    }
}
