//! The rooms and users of applications whose clients have channels.
//!
//! A channel is a room of its own with an internal name ([`AppName`]), and so is each user. One application may share
//! its channels with members: `presence-X` is then the room `X` of all protocols, and its members are ordinary users.
//! This is the only place that knows which room is which channel.

use std::borrow::Cow;

use super::{AppName, is_id, is_internal, is_stored_id};

/// How the names of channels with members begin.
pub const MEMBERS_PREFIX: &str = "presence-";
/// The longest name of a channel.
const MAX_CHANNEL_BYTES: usize = 200;

/// Which rooms the channels of applications are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AppRooms {
    /// The number of the application that shares its channels with members.
    sharing: Option<u64>,
}

impl AppRooms {
    /// This application shares its channels with members.
    #[must_use]
    pub fn shared_by(app: u64) -> Self {
        Self { sharing: Some(app) }
    }

    /// The application that shares its channels with members.
    #[must_use]
    pub fn sharing(self) -> Option<u64> {
        self.sharing
    }

    /// Whether a channel is a room of all protocols.
    #[must_use]
    pub fn is_shared(self, app: u64, channel: &str) -> bool {
        self.shared_name(app, channel).is_some()
    }

    /// The name of the room of all protocols that a channel is.
    fn shared_name(self, app: u64, channel: &str) -> Option<&str> {
        channel.strip_prefix(MEMBERS_PREFIX).filter(|_| self.sharing == Some(app))
    }

    /// The room of a channel; `None` if it would be one of all protocols, and no such room can have this name.
    #[must_use]
    pub fn room(self, app: u64, channel: &str) -> Option<String> {
        match self.shared_name(app, channel) {
            Some(name) => is_id(name).then(|| name.to_owned()),
            None => Some(AppName { app, name: channel }.to_string()),
        }
    }

    /// The user with this id in a channel; `None` if no user there can have the id.
    #[must_use]
    pub fn user(self, app: u64, channel: &str, user_id: &str) -> Option<String> {
        match self.is_shared(app, channel) {
            true => is_id(user_id).then(|| user_id.to_owned()),
            false => Some(AppName::of_user(app, user_id)).filter(|name| is_stored_id(name)),
        }
    }

    /// The application and the channel that a room is; `None` if it is not a channel.
    #[must_use]
    pub fn channel(self, room: &str) -> Option<(u64, Cow<'_, str>)> {
        match AppName::parse(room) {
            Some(AppName { app, name }) => Some((app, name.into())),
            // Not all names of rooms are also names of channels.
            None => self.sharing.filter(|_| is_channel_name(room)).map(|app| (app, channel_name(room))),
        }
    }
}

/// Whether clients can subscribe to a channel of this name, and applications publish to it. A colon would make signed
/// texts ambiguous.
#[must_use]
pub fn is_channel_name(channel: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=@,.;".contains(&byte);
    (1..=MAX_CHANNEL_BYTES).contains(&channel.len()) && channel.bytes().all(is_allowed)
}

/// The name of the channel of this room. The room must have a channel.
#[must_use]
pub fn channel_name(room: &str) -> Cow<'_, str> {
    match AppName::parse(room) {
        Some(channel) => channel.name.into(),
        None => format!("{MEMBERS_PREFIX}{room}").into(),
    }
}

/// The id of a user, within the application if it is one of an application.
#[must_use]
pub fn app_user_id(user: &str) -> &str {
    match is_internal(user) {
        true => AppName::parse(user).map_or(user, |name| name.user_id()),
        false => user,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_channels_have_no_colon_and_at_most_200_characters() {
        assert!(is_channel_name("-aZ09_=@,.;") && is_channel_name(&"x".repeat(200)));
        for wrong in ["", "a:b", "a b", "é", "a\n", "#a", "a/b", &"x".repeat(201)] {
            assert!(!is_channel_name(wrong), "{wrong:?}");
        }
        let longest = AppRooms::default().room(u64::MAX, &"x".repeat(200)).unwrap();
        assert!(is_stored_id(&longest));
    }

    #[test]
    fn a_channel_is_a_room_of_its_application_and_back() {
        for rooms in [AppRooms::default(), AppRooms::shared_by(2)] {
            for (app, channel) in [(1, "presence-a"), (1, "news"), (2, "news"), (2, "private-presence-a"), (2, "#8")] {
                let room = rooms.room(app, channel).unwrap();
                assert_eq!(room, format!("\0pusher:{app}:{channel}"));
                assert_eq!(rooms.channel(&room), Some((app, channel.into())));
                assert_eq!(channel_name(&room), channel);
                assert!(!rooms.is_shared(app, channel));
                let user = rooms.user(app, channel, " a\tb").unwrap();
                assert!(is_internal(&user) && app_user_id(&user) == " a\tb");
            }
        }
        assert_eq!(AppRooms::default().channel("lobby"), None);
    }

    #[test]
    fn channels_with_members_of_one_application_are_rooms_of_all_protocols() {
        let rooms = AppRooms::shared_by(2);
        assert_eq!(rooms.room(2, "presence-lobby").as_deref(), Some("lobby"));
        assert_eq!(rooms.channel("lobby"), Some((2, "presence-lobby".into())));
        assert!(rooms.is_shared(2, "presence-lobby") && !rooms.is_shared(1, "presence-lobby"));
        let longest = "x".repeat(128);
        assert_eq!(rooms.room(2, &format!("presence-{longest}")), Some(longest));
        for wrong in ["", &"x".repeat(129)] {
            assert_eq!(rooms.room(2, &format!("presence-{wrong}")), None, "{wrong}");
        }
        for other in ["é", "a b", "a:b"] {
            assert_eq!(rooms.channel(other), None, "{other}: no channel has this name");
        }
        let user = |id: &str| rooms.user(2, "presence-lobby", id);
        assert_eq!((user("ann"), user("é").as_deref()), (Some("ann".to_owned()), Some("é")));
        for wrong in ["", "e\u{301}", " a", "a\n", "\0a", "a\u{200b}b", &"é".repeat(65)] {
            assert_eq!(user(wrong), None, "{wrong:?}");
        }
        assert_eq!(app_user_id("ann"), "ann");
    }
}
