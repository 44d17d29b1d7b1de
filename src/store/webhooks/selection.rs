//! Which events an endpoint receives.

use crate::pattern::Pattern;
use std::borrow::Cow;

use crate::presence::{AppName, AppRooms};

/// The kind of an event. `resync` is not among them: it is always sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A user is a member of a room.
    MemberJoined,
    /// A member shows another state or info.
    MemberUpdated,
    /// A user is no longer a member of a room.
    MemberLeft,
    /// A room has its first member.
    RoomOccupied,
    /// The last member has left a room.
    RoomVacated,
    /// A user is in a room, and was in none.
    UserOnline,
    /// A user is in no room any more.
    UserOffline,
    /// Another number of connections is subscribed to a channel of an application.
    SubscriptionCount,
    /// A client has published an event to a channel.
    ClientEvent,
    /// A channel has no last event for a new subscriber.
    CacheMiss,
}

impl Kind {
    /// All kinds with their names on the wire.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::MemberJoined, "member_joined"),
        (Self::MemberUpdated, "member_updated"),
        (Self::MemberLeft, "member_left"),
        (Self::RoomOccupied, "room_occupied"),
        (Self::RoomVacated, "room_vacated"),
        (Self::UserOnline, "user_online"),
        (Self::UserOffline, "user_offline"),
        (Self::SubscriptionCount, "subscription_count"),
        (Self::ClientEvent, "client_event"),
        (Self::CacheMiss, "cache_miss"),
    ];

    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Whether it is reported only if the settings name it.
    #[must_use]
    pub fn is_opt_in(self) -> bool {
        matches!(self, Self::MemberUpdated | Self::SubscriptionCount | Self::ClientEvent | Self::CacheMiss)
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The kinds and the rooms that are selected. Events of users have no room and are selected by their kind.
#[derive(Debug, Clone)]
pub struct Selection {
    kinds: u16,
    /// Only events of these rooms of applications.
    only_apps: Option<AppRooms>,
    rooms: Vec<Pattern>,
}

impl Default for Selection {
    /// Everything that is not opt-in, in all rooms.
    fn default() -> Self {
        let kinds = Kind::ALL.into_iter().map(|(kind, _)| kind).filter(|kind| !kind.is_opt_in());
        Self::new(kinds, Vec::new())
    }
}

impl Selection {
    /// These kinds, in rooms that fit one of the patterns; in all rooms if there are none.
    #[must_use]
    pub fn new(kinds: impl IntoIterator<Item = Kind>, rooms: Vec<Pattern>) -> Self {
        Self { kinds: kinds.into_iter().fold(0, |bits, kind| bits | kind.bit()), only_apps: None, rooms }
    }

    /// The same, but only events of these rooms of applications.
    #[must_use]
    pub fn only_apps(self, apps: AppRooms) -> Self {
        Self { only_apps: Some(apps), ..self }
    }

    /// Whether events of this kind are selected.
    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        self.kinds & kind.bit() != 0
    }

    /// Whether events of this room are selected. A channel of an application has the name that the application uses.
    #[must_use]
    pub fn has_room(&self, room: &str) -> bool {
        let name: Cow<'_, str> = match self.only_apps {
            Some(apps) => match apps.channel(room) {
                Some((_, channel)) => channel,
                None => return false,
            },
            None => AppName::parse(room).map_or(room, |channel| channel.name).into(),
        };
        self.rooms.is_empty() || self.rooms.iter().any(|pattern| pattern.matches(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_and_rooms_have_patterns() {
        for (at, (kind, name)) in Kind::ALL.into_iter().enumerate() {
            assert_eq!((kind as usize, Kind::parse(name), kind.name()), (at, Some(kind), name));
        }
        assert_eq!(Kind::parse("resync"), None);
        let selection = Selection::new([Kind::UserOnline], vec![Pattern::new("team-*").unwrap()]);
        assert!(selection.has(Kind::UserOnline) && !selection.has(Kind::UserOffline));
        assert!(selection.has_room("team-1") && !selection.has_room("lobby"));
        assert!(selection.has_room("\0pusher:1:team-1") && !selection.has_room("\0pusher:1:lobby"));
        let only = selection.clone().only_apps(AppRooms::default());
        assert!(only.has_room("\0pusher:1:team-1") && !only.has_room("team-1"));
        let only = Selection::new([], vec![Pattern::new("presence-team-*").unwrap()]).only_apps(AppRooms::shared_by(1));
        assert!(only.has_room("team-1") && !only.has_room("lobby") && !only.has_room("team-é"));
        let default = Selection::default();
        assert!(default.has_room("lobby") && default.has(Kind::RoomVacated) && !default.has(Kind::CacheMiss));
    }
}
