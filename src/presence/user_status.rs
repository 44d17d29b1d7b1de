//! The status of a user, as watchers see it: whether the user is online in any room, since when, and with what state.

use std::sync::Arc;

use super::State;

/// The limit of states of a user, of the rooms joined first, among which a watcher that may not observe every room is
/// shown one. So a user in thousands of rooms costs little.
pub(super) const MAX_STATES: usize = 64;

/// The status of a user, as watchers see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserStatus {
    /// Whether the user is in any room.
    pub online: bool,
    /// Milliseconds since the Unix epoch. If online, since when; if offline, when the user went offline, if the user
    /// was watched at that time.
    pub since_unix_ms: Option<u64>,
    /// The user's state in the first room, in the order joined, in which the user has one.
    pub state: Option<State>,
}

impl UserStatus {
    /// Of a user who was not online as long as the user is watched.
    pub(super) const OFFLINE: Self = Self { online: false, since_unix_ms: None, state: None };
}

/// The states of a user with their rooms, in the order joined.
pub(in crate::presence) type States = Arc<[(Arc<str>, State)]>;

/// The status of a user before and after a tick, for watchers that may observe only some rooms.
#[derive(Debug)]
pub struct StatusDetails {
    /// `None` if it is not known.
    pub(super) before: Option<(UserStatus, States)>,
    pub(super) after: (UserStatus, States),
}

impl StatusDetails {
    /// The new status, with a state only from a room that the watcher may observe, and whether it differs from what the
    /// watcher could see before.
    #[must_use]
    pub fn visible(&self, may_observe: impl Fn(&str) -> bool) -> (UserStatus, bool) {
        let see = |(status, states): &(UserStatus, States)| {
            let visible = states.iter().find(|(room, _)| may_observe(room));
            UserStatus { state: visible.map(|(_, state)| state.clone()), ..status.clone() }
        };
        let after = see(&self.after);
        let changed = self.before.as_ref().is_some_and(|before| see(before) != after);
        (after, changed)
    }

    /// Whether any watcher may see another status than before.
    pub(super) fn differ(&self) -> bool {
        self.before.as_ref() != Some(&self.after)
    }

    /// The number of states that [`StatusDetails::visible`] may look at.
    #[must_use]
    pub fn states(&self) -> usize {
        self.after.1.len() + self.before.as_ref().map_or(0, |(_, states)| states.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn online(states: &[(&str, &str)]) -> (UserStatus, States) {
        let states: States =
            states.iter().map(|(room, state)| (Arc::from(*room), State::from((*state).to_owned()))).collect();
        let state = states.first().map(|(_, state)| state.clone());
        (UserStatus { online: true, since_unix_ms: Some(7), state }, states)
    }

    #[test]
    fn a_state_is_shown_only_from_a_room_that_the_watcher_may_observe() {
        let check = |before: Option<&[_]>, after: &[_], state: Option<&str>, changed: bool| {
            let details = StatusDetails { before: before.map(online), after: online(after) };
            let (status, got) = details.visible(|room| room.starts_with("open"));
            assert_eq!((status.state.as_ref().map(State::as_str), got), (state, changed), "{before:?} {after:?}");
            assert!(status.online && status.since_unix_ms == Some(7));
        };
        let (secret, open, other) = (("secret", "1"), ("open-1", "2"), ("open-2", "3"));
        check(Some(&[]), &[secret], None, false);
        check(Some(&[secret]), &[("secret", "9")], None, false);
        check(Some(&[secret]), &[secret, open], Some("2"), true);
        check(Some(&[secret, open]), &[open, other], Some("2"), false);
        check(Some(&[secret, open]), &[secret, other], Some("3"), true);
        check(None, &[secret, open, other], Some("2"), false);
    }
}
