//! Channels: what their names mean.

use crate::presence::MEMBERS_PREFIX;

/// What a client needs to subscribe to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Public,
    /// A signature.
    Private,
    /// A signature of a member, whom the others see.
    Presence,
}

/// What the name of a channel says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traits {
    pub(super) kind: Kind,
    /// Whether only the application can read its events, and clients send none.
    pub(super) is_encrypted: bool,
    /// Whether new subscribers receive the last event of the application.
    pub(super) is_cached: bool,
}

impl Traits {
    /// Of the channel with this name.
    pub(super) fn of(channel: &str) -> Self {
        let kind = match channel {
            _ if channel.starts_with("private-") => Kind::Private,
            _ if channel.starts_with(MEMBERS_PREFIX) => Kind::Presence,
            _ => Kind::Public,
        };
        let is_encrypted = channel.starts_with("private-encrypted-");
        let prefixes = ["private-encrypted-", "private-", MEMBERS_PREFIX];
        let rest = prefixes.iter().find_map(|prefix| channel.strip_prefix(prefix)).unwrap_or(channel);
        Self { kind, is_encrypted, is_cached: rest.starts_with("cache-") }
    }

    /// Whether clients may send events to each other.
    pub(super) fn has_client_events(self) -> bool {
        self.kind != Kind::Public && !self.is_encrypted
    }
}

/// Whether new subscribers of this channel receive the last event of the application.
#[must_use]
pub fn is_cache_channel(channel: &str) -> bool {
    Traits::of(channel).is_cached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::is_channel_name;

    #[test]
    fn a_name_says_who_may_subscribe_and_who_may_send() {
        let check = |channel: &str, kind: Kind, has_client_events: bool| {
            let traits = Traits::of(channel);
            assert_eq!((traits.kind, traits.has_client_events()), (kind, has_client_events), "{channel}");
            assert!(is_channel_name(channel));
        };
        check("news", Kind::Public, false);
        check("cache-news", Kind::Public, false);
        check("privatenews", Kind::Public, false);
        check("private-a", Kind::Private, true);
        check("private-cache-a", Kind::Private, true);
        check("private-encrypted-a", Kind::Private, false);
        check("private-encrypted-cache-a", Kind::Private, false);
        check("presence-a", Kind::Presence, true);
        check("presence-cache-a", Kind::Presence, true);
    }

    #[test]
    fn a_prefix_says_whether_the_last_event_is_cached() {
        for cached in ["cache-", "cache-a", "private-cache-a", "private-encrypted-cache-a", "presence-cache-a"] {
            assert!(is_cache_channel(cached), "{cached}");
        }
        for other in ["cache", "a-cache-b", "private-a-cache-b", "private-private-cache-a", "encrypted-cache-a"] {
            assert!(!is_cache_channel(other), "{other}");
        }
    }
}
