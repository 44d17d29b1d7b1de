//! Where a user is online: the live state for HTTP requests, the announced state for watchers.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Registry;
use crate::presence::Room;
use crate::presence::membership::Membership;
use crate::presence::watchlist::{LiveStatus, StatusChange};

/// The rooms of one user, for `POST /v1/users/status`.
#[derive(Debug, PartialEq, Eq)]
pub struct UserRooms {
    /// Rooms where the user is online, in the order joined.
    pub rooms: Vec<Arc<str>>,
    /// Since when the user is online, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
}

impl Registry {
    /// Where the user is online at this moment; `None` if nowhere.
    #[must_use]
    pub fn status(&self, user: &str) -> Option<UserRooms> {
        let user = self.users.get(user)?;
        let online = user.memberships.iter().filter(|membership| membership.is_online());
        let rooms: Vec<_> = online.map(|membership| Arc::clone(membership.room.name())).collect();
        (!rooms.is_empty()).then_some(UserRooms { rooms, since_unix_ms: user.since_unix_ms })
    }

    /// The new statuses of watched users. For the tick, after it has settled its rooms.
    pub fn settle_watchlist(&self, unix_ms: u64) -> Vec<StatusChange> {
        self.watchlist.settle(unix_ms, |user| self.live_status(user))
    }

    /// The announced and the live status of a user. For the tick only, after it has settled its rooms: the memberships
    /// of a user include every room that announces the user, because a membership is removed by the tick that announces
    /// the leave.
    fn live_status(&self, user: &str) -> LiveStatus {
        let Some(entry) = self.users.get(user) else { return LiveStatus::default() };
        let memberships = entry.memberships.iter();
        let rooms: SmallVec<[Arc<Room>; 4]> = memberships.map(|membership| Arc::clone(&membership.room)).collect();
        let held = entry.memberships.iter().any(Membership::is_online);
        let mut status = LiveStatus { held, since_unix_ms: entry.since_unix_ms, ..LiveStatus::default() };
        drop(entry);
        for room in rooms {
            let member = room.read(|roster| roster.members.get(user).cloned());
            status.announced |= member.is_some();
            status.state = status.state.or(member.flatten());
        }
        status
    }
}
