//! Internal names: rooms and users of applications whose clients have their own channels and user ids.
//!
//! They begin with NUL, which no client can send as a part of a room name or user id ([`super::check_id`] refuses it).
//! So clients of other protocols can neither enter such a room nor be such a user, and two applications never share
//! one.

use std::fmt;

use super::is_id;

/// How internal names begin.
const PREFIX: &str = "\0pusher:";
/// The longest internal name, in bytes of UTF-8.
const MAX_BYTES: usize = 256;

/// A room or user of an application: `\0pusher:ID:NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppName<'a> {
    /// The number of the application.
    pub app: u64,
    /// The name within the application. A room or user is hidden ([`is_hidden`]) if it begins with `#`.
    pub name: &'a str,
}

impl<'a> AppName<'a> {
    /// Takes a name apart; `None` if it is the name of no application.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (app, name) = text.strip_prefix(PREFIX)?.split_once(':')?;
        Some(Self { app: app.parse().ok()?, name })
    }

    /// The name of a user with this id. Ids that begin as names of other kinds do are marked with a NUL.
    #[must_use]
    pub fn of_user(app: u64, user_id: &str) -> String {
        let mark = if user_id.starts_with(['#', '\0']) { "\0" } else { "" };
        format!("{PREFIX}{app}:{mark}{user_id}")
    }

    /// The id of the user with this name.
    #[must_use]
    pub fn user_id(&self) -> &'a str {
        self.name.strip_prefix('\0').unwrap_or(self.name)
    }

    /// Whether the whole name is short enough to be stored.
    #[must_use]
    pub fn fits(&self) -> bool {
        !self.name.is_empty() && self.to_string().len() <= MAX_BYTES
    }
}

impl fmt::Display for AppName<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}:{}", self.app, self.name)
    }
}

/// Whether a room or user belongs to an application.
#[must_use]
pub fn is_internal(name: &str) -> bool {
    name.starts_with('\0')
}

/// Whether lists, counts and sinks leave out this room or user: only its application knows of it.
#[must_use]
pub fn is_hidden(name: &str) -> bool {
    AppName::parse(name).is_some_and(|parsed| parsed.name.starts_with('#'))
}

/// Whether a node may store this room name or user id: it is one that clients can have, or an internal one.
#[must_use]
pub fn is_stored_id(text: &str) -> bool {
    if !is_internal(text) {
        return is_id(text);
    }
    text.len() <= MAX_BYTES && AppName::parse(text).is_some_and(|name| name.fits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_id_has_a_name_of_its_own_and_none_is_a_name_of_another_kind() {
        for id in ["7", "#8", "\0#8", "\0", "\0\0#8", "a#b"] {
            let name = AppName::of_user(1, id);
            let parsed = AppName::parse(&name).unwrap();
            assert!(parsed.user_id() == id && !is_hidden(&name) && parsed.fits(), "{id:?}");
        }
    }

    #[test]
    fn internal_names_are_read_back_and_are_no_names_of_clients() {
        let long = "c".repeat(236);
        for (app, name) in [(1, "news"), (u64::MAX, "presence-a"), (7, "a:b\n\t"), (3, "#8"), (0, &*long)] {
            let text = AppName { app, name }.to_string();
            assert_eq!(AppName::parse(&text), Some(AppName { app, name }));
            assert!(is_internal(&text) && !is_id(&text), "{text:?}");
            assert_eq!(is_stored_id(&text), text.len() <= MAX_BYTES, "{text:?}");
        }
        assert!(is_hidden(&AppName { app: 3, name: "#8" }.to_string()) && !is_hidden("#8"));
        for other in ["", "news", "pusher:1:news", "\0pusher:x:news", "\0pusher:1", "\0"] {
            assert_eq!(AppName::parse(other), None, "{other:?}");
            assert_eq!(is_stored_id(other), other == "news" || other == "pusher:1:news", "{other:?}");
        }
        assert!(!is_stored_id("\0pusher:1:") && !is_stored_id(&AppName { app: 1, name: &"c".repeat(250) }.to_string()));
    }
}
