//! Where a user is online: the live state for HTTP requests, the announced state for watchers.

use std::collections::BinaryHeap;
use std::sync::Arc;

use super::Registry;
use crate::presence::membership::Membership;
use crate::presence::user_status::{MAX_STATES, States};
use crate::presence::watchlist::{LiveStatus, StatusChange};

/// Where one user is online, for `POST /v1/users/status`.
#[derive(Debug, PartialEq, Eq)]
pub struct UserRooms {
    /// A page of the rooms where the user is online, sorted.
    pub rooms: Vec<Arc<str>>,
    /// Whether rooms come after this page.
    pub has_more: bool,
    /// Since when the user is online, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// The rooms that were looked at to find the page: all of the user.
    pub looked_at: usize,
}

impl Registry {
    /// Where the user is online at this moment: the first `limit` rooms behind `after`. `None` if nowhere.
    #[must_use]
    pub fn status(&self, user: &str, after: &str, limit: usize) -> Option<UserRooms> {
        let user = self.users.get(user)?;
        let mut online = user.memberships.iter().filter(|membership| membership.is_online()).peekable();
        online.peek()?;
        let names = online.map(|membership| membership.room.name()).filter(|name| ***name > *after);
        // The heap has the page and one more: memory and time follow the page, not the rooms of the user.
        let mut first = BinaryHeap::with_capacity(limit.saturating_add(2).min(user.memberships.len() + 1));
        for name in names {
            first.push(name);
            if first.len() > limit.saturating_add(1) {
                first.pop();
            }
        }
        let mut page = first.into_sorted_vec();
        let has_more = page.len() > limit;
        page.truncate(limit);
        let rooms = page.into_iter().map(Arc::clone).collect();
        Some(UserRooms { rooms, has_more, since_unix_ms: user.since_unix_ms, looked_at: user.memberships.len() })
    }

    /// The new statuses of watched users. For the tick, after it has settled its rooms.
    pub fn settle_watchlist(&self, unix_ms: u64) -> Vec<StatusChange> {
        self.watchlist.settle(unix_ms, |user, is_detailed| self.live_status(user, is_detailed))
    }

    /// The announced and the live status of a user. For the tick only, after it has settled its rooms: the memberships
    /// of a user include every room that announces the user, because a membership is removed by the tick that announces
    /// the leave.
    fn live_status(&self, user: &str, is_detailed: bool) -> LiveStatus {
        let no_states = is_detailed.then(States::default);
        let Some(entry) = self.users.get(user) else {
            return LiveStatus { states: no_states, ..LiveStatus::default() };
        };
        let rooms = entry.memberships.rooms();
        let held = entry.memberships.iter().any(Membership::is_online);
        let mut status = LiveStatus { held, since_unix_ms: entry.since_unix_ms, ..LiveStatus::default() };
        drop(entry);
        let mut states = Vec::new();
        for room in rooms {
            let member = room.read(|roster| roster.members.get(user).cloned());
            status.announced |= member.is_some();
            let Some(state) = member.flatten() else { continue };
            if is_detailed && states.len() < MAX_STATES {
                states.push((Arc::clone(room.name()), state.clone()));
            }
            status.state.get_or_insert(state);
        }
        LiveStatus { states: is_detailed.then(|| states.into()), ..status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{Now, Settings};

    #[test]
    fn the_rooms_of_a_user_are_paged_in_order() {
        let registry = Registry::new(Settings { ttl: 10, workers: 1, incarnation: 1 });
        let session = registry.open_session("alice", Now::default());
        for room in ["d", "a", "c", "b"] {
            registry.join(&session, room, None, Now::default());
        }
        let check = |after, limit, rooms: &[&str], has_more| {
            let page = registry.status("alice", after, limit).unwrap();
            let names: Vec<&str> = page.rooms.iter().map(|room| &**room).collect();
            assert_eq!((&names[..], page.has_more), (rooms, has_more), "{after} {limit}");
        };
        check("", 0, &[], true);
        check("", 2, &["a", "b"], true);
        check("b", 2, &["c", "d"], false);
        check("bb", 1, &["c"], true);
        check("", usize::MAX, &["a", "b", "c", "d"], false);
        check("d", 2, &[], false);
        assert_eq!(registry.status("bob", "", 1), None);
    }
}
