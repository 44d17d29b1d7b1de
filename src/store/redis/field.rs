//! Fields of hashes, and the part of an event's line that says what it is about: a room, and a user in it.

use std::borrow::Cow;

use crate::presence::{is_internal, is_stored_id};

/// The field of a user in a room: the room with its colons and percent signs escaped, a colon, the user.
#[must_use]
pub fn member_field(room: &str, user: &str) -> String {
    let user = encode_user(user);
    match room.contains(['%', ':']) {
        true => format!("{}:{user}", room.replace('%', "%25").replace(':', "%3A")),
        false => format!("{room}:{user}"),
    }
}

/// The field with the number of observers of a room. A user id is never empty, so it differs from the fields of
/// members.
#[must_use]
pub fn observers_field(room: &str) -> String {
    member_field(room, "")
}

/// The room of a field, and its user; without a user, it is a field with a number of observers. `None` if the field is
/// not of this form.
#[must_use]
pub fn parse_field(field: &str) -> Option<(String, Option<Cow<'_, str>>)> {
    let (room, user) = field.split_once(':')?;
    let room = room.replace("%3A", ":").replace("%25", "%");
    let user = Some(user).filter(|user| !user.is_empty()).map(decode_user);
    let is_valid = is_stored_id(&room) && user.as_deref().is_none_or(is_stored_id);
    is_valid.then_some((room, user))
}

/// A user id as fields and lines have it. Those of applications may contain what separates fields and lines: such
/// characters are escaped.
#[must_use]
pub fn encode_user(user: &str) -> Cow<'_, str> {
    let needs_escapes = is_internal(user) && user.contains(['%', '\t', '\n']);
    if !needs_escapes {
        return Cow::Borrowed(user);
    }
    Cow::Owned(user.replace('%', "%25").replace('\t', "%09").replace('\n', "%0A"))
}

/// Reads what [`encode_user`] writes.
#[must_use]
pub fn decode_user(text: &str) -> Cow<'_, str> {
    if !is_internal(text) || !text.contains('%') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace("%0A", "\n").replace("%09", "\t").replace("%25", "%"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::is_id;
    use proptest::prelude::*;

    #[test]
    fn other_fields_are_refused() {
        assert_eq!(parse_field("lobby"), None);
        assert_eq!(parse_field(":alice"), None);
        assert_eq!(parse_field("lobby:al\nice"), None);
        assert_eq!(parse_field(":"), None);
    }

    proptest! {
        #[test]
        fn fields_are_read_back(room in "[^\\pC]{1,20}", user in "[^\\pC]{1,20}") {
            prop_assume!(is_id(&room) && is_id(&user));
            let (member, observers) = (member_field(&room, &user), observers_field(&room));
            prop_assert_eq!(parse_field(&member), Some((room.clone(), Some(user.as_str().into()))));
            prop_assert_eq!(parse_field(&observers), Some((room, None)));
        }
    }

    #[test]
    fn users_of_applications_may_contain_what_separates_fields_and_lines() {
        for user in ["\0pusher:1:a\tb\n%0A:c", "\0pusher:1:plain", "100%0A"] {
            let field = member_field("\0pusher:1:presence-x", user);
            assert!(!field.contains(['\t', '\n']), "{field:?}");
            assert_eq!(parse_field(&field), Some(("\0pusher:1:presence-x".to_owned(), Some(user.into()))));
        }
    }
}
