//! Where a user is online: for requests at this moment, for watchers as announced.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Registry;
use crate::presence::Room;
use crate::presence::membership::Membership;
use crate::presence::watchlist::{LiveStatus, StatusChange};

/// One user as `POST /v1/users/status` shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct UserRooms {
    /// Rooms where the user is online, in the order joined.
    pub rooms: Vec<Arc<str>>,
    /// Milliseconds since the Unix epoch.
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
        self.watchlist.settle(unix_ms, |user| self.look(user))
    }

    /// How a user stands in the announced rooms. Every room that was told of a user is among its memberships, because only the
    /// tick that tells its leave ends one: so this is for the tick alone, between its rooms and the next.
    fn look(&self, user: &str) -> LiveStatus {
        let Some(entry) = self.users.get(user) else { return LiveStatus::default() };
        let rooms: SmallVec<[Arc<Room>; 4]> = entry.memberships.iter().map(|held| Arc::clone(&held.room)).collect();
        let held = entry.memberships.iter().any(Membership::is_online);
        let mut look = LiveStatus { held, since_unix_ms: entry.since_unix_ms, ..LiveStatus::default() };
        drop(entry);
        for room in rooms {
            let member = room.read(|roster| roster.members.get(user).cloned());
            look.announced |= member.is_some();
            look.state = look.state.or(member.flatten());
        }
        look
    }
}
