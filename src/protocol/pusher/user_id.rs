//! User ids, and the names of what belongs to a user who has signed in.

use crate::presence::AppName;

/// The longest user id, in characters.
const MAX_CHARS: usize = 128;
/// The longest user id, in bytes of UTF-8. It leaves space for the longest name around it: that of the user's own
/// channel in the application with the largest number.
const MAX_BYTES: usize = 210;
/// How the name of a user's own channel begins.
const USER_CHANNEL: &str = "#server-to-user-";

/// Whether a user can have this id.
#[must_use]
pub fn is_user_id(id: &str) -> bool {
    (1..=MAX_BYTES).contains(&id.len()) && id.chars().count() <= MAX_CHARS
}

/// The user whose own channel this is. It is open to the connections that are signed in as this user.
#[must_use]
pub fn owner_of_channel(channel: &str) -> Option<&str> {
    channel.strip_prefix(USER_CHANNEL)
}

/// The name of a user who has signed in. Members of channels have other names ([`AppName::of_user`]), so a user who
/// has signed in and is a member is one user for the application and two for the registry.
#[must_use]
pub fn signed_in_user(app: u64, id: &str) -> String {
    AppName { app, name: &format!("#{id}") }.to_string()
}

/// The id of a user who has signed in; `None` for the name of another user.
pub(super) fn signed_in_id(user: &str) -> Option<&str> {
    AppName::parse(user)?.name.strip_prefix('#')
}

/// The room of all users of an application who have signed in.
pub(super) fn signed_in_room(app: u64) -> String {
    AppName { app, name: "#signed-in" }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{AppRooms, is_hidden, is_stored_id};

    #[test]
    fn every_user_id_fits_into_every_name() {
        for id in ["7", "#8", "\0", "a:b\t", "é", &"x".repeat(128), &"é".repeat(105), &"👩".repeat(52)] {
            assert!(is_user_id(id), "{id}");
            let (user, channel) = (signed_in_user(u64::MAX, id), format!("{USER_CHANNEL}{id}"));
            let room = AppRooms::default().room(u64::MAX, &channel).unwrap();
            let member = AppName::of_user(u64::MAX, id);
            for name in [&user, &room, &member] {
                assert!(is_stored_id(name), "{id}");
            }
            assert!(is_hidden(&user) && is_hidden(&room) && !is_hidden(&member), "{id}");
            assert_eq!((signed_in_id(&user), signed_in_id(&member), signed_in_id(id)), (Some(id), None, None));
            assert_eq!((owner_of_channel(&channel), owner_of_channel(id)), (Some(id), None));
        }
        for wrong in ["", &"x".repeat(129), &"é".repeat(106), &"👩".repeat(53)] {
            assert!(!is_user_id(wrong), "{wrong}");
        }
    }
}
