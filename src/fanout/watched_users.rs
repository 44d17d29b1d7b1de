//! The users that one connection watches.

use std::sync::Arc;

/// Sorted by user id, because a list takes less than half of the memory of a map.
#[derive(Debug, Default)]
pub(super) struct WatchedUsers(Vec<WatchedUser>);

#[derive(Debug)]
struct WatchedUser {
    /// Shared with the watchlist.
    name: Arc<str>,
    /// Whether the status was requested and has not been sent yet.
    requested: bool,
}

impl WatchedUsers {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of a user, if the user is watched.
    pub(super) fn get(&self, user: &str) -> Option<&Arc<str>> {
        self.place(user).map(|place| &self.0[place].name)
    }

    /// Adds users that are not watched yet, and requests their status.
    pub(super) fn add(&mut self, names: Vec<Arc<str>>) {
        self.0.reserve_exact(names.len());
        self.0.extend(names.into_iter().map(|name| WatchedUser { name, requested: true }));
        self.0.sort_by(|one, other| one.name.cmp(&other.name));
    }

    /// Removes users. Returns those that were watched.
    pub(super) fn remove(&mut self, users: &[&str]) -> Vec<Arc<str>> {
        let mut users = users.to_vec();
        users.sort_unstable();
        let removed = self.0.extract_if(.., |watched| users.binary_search(&&*watched.name).is_ok());
        let removed = removed.map(|watched| watched.name).collect();
        self.0.shrink_to_fit();
        removed
    }

    /// Notes whether the status of these users is requested. Others are ignored.
    pub(super) fn set_requested<'a>(&mut self, users: impl IntoIterator<Item = &'a Arc<str>>, requested: bool) {
        for user in users {
            if let Some(place) = self.place(user) {
                self.0[place].requested = requested;
            }
        }
    }

    /// Requests the status of all users.
    pub(super) fn request_all(&mut self) {
        self.0.iter_mut().for_each(|watched| watched.requested = true);
    }

    /// The users whose status is requested.
    pub(super) fn requested(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().filter(|watched| watched.requested).map(|watched| &watched.name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|watched| &watched.name)
    }

    pub(super) fn into_names(self) -> Vec<Arc<str>> {
        self.0.into_iter().map(|watched| watched.name).collect()
    }

    fn place(&self, user: &str) -> Option<usize> {
        self.0.binary_search_by(|watched| (*watched.name).cmp(user)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(users: &[&str]) -> Vec<Arc<str>> {
        users.iter().map(|user| Arc::from(*user)).collect()
    }

    #[test]
    fn users_are_found_after_others_were_added_and_removed() {
        let mut watched = WatchedUsers::default();
        watched.add(names(&["b", "d"]));
        watched.add(names(&["a", "c", "e"]));
        assert_eq!(watched.names().map(|name| &**name).collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
        watched.set_requested(&names(&["a", "e", "unknown"]), false);
        assert_eq!(watched.requested().cloned().collect::<Vec<_>>(), names(&["b", "c", "d"]));
        assert_eq!(watched.remove(&["d", "unknown", "b", "d"]), names(&["b", "d"]));
        assert!(watched.get("c").is_some() && watched.get("d").is_none());
        watched.request_all();
        assert_eq!((watched.requested().count(), watched.len()), (3, 3));
        assert_eq!(watched.into_names(), names(&["a", "c", "e"]));
    }
}
