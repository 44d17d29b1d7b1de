//! Users that connections watch by user id, and the last status sent for each: whether the user is online in any room,
//! since when, and with what state.
//!
//! Workers add and remove watchers. The tick marks the watched users that a diff changes; it looks only at these and at
//! users whose status was requested, and returns the new statuses. Nothing is kept about users that nobody watches, so
//! a node knows when a user went offline only if the user was watched on this node at that time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Diff, State};

/// The limit of watched users on this node: some 300 bytes each, user id included.
const MAX_WATCHED: usize = 1_000_000;

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

/// The status of a watched user, to be sent to watchers.
#[derive(Debug)]
pub struct StatusChange {
    /// The user.
    pub user: Arc<str>,
    /// The user's status now.
    pub status: UserStatus,
    /// Whether it differs from the last status and goes to all watchers. If not, it goes to watchers that requested it.
    pub changed: bool,
    /// The number of watchers on each worker.
    pub watchers: Watchers,
}

/// The number of connections that watch a user, per worker.
pub type Watchers = SmallVec<[u32; 4]>;

/// All watched users. Its lock is taken alone: no other lock is taken inside it.
#[derive(Debug)]
pub struct Watchlist {
    workers: usize,
    /// Entries in `users`, so that the tick skips an empty watchlist without locking it.
    watched: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    users: HashMap<Arc<str>, Watched, RandomState>,
    /// Users that the next tick looks at, each once.
    due: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Watched {
    watchers: Watchers,
    /// The last status; `None` before the first one.
    last_status: Option<UserStatus>,
    /// Whether the user is in `due`. The entry is kept as long as that is so.
    due: bool,
    /// Whether a watcher requested the status, even if it did not change.
    requested: bool,
}

/// A user in the registry, as the tick sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct LiveStatus {
    /// Whether the user is an announced member of any room.
    pub(super) announced: bool,
    /// Whether sessions or other nodes hold the user in any room, announced or not.
    pub(super) held: bool,
    pub(super) since_unix_ms: u64,
    pub(super) state: Option<State>,
}

impl Watchlist {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, watched: AtomicUsize::new(0), list: Mutex::default() }
    }

    /// Adds a watcher to each of these users and requests their status. Returns the user ids, shared with the
    /// watchlist.
    pub fn watch<'a>(&self, worker: usize, users: impl Iterator<Item = &'a str>) -> Vec<Arc<str>> {
        self.with_list(|list| {
            let names = users.map(|user| {
                let name = list.users.get_key_value(user).map_or_else(|| Arc::from(user), |(name, _)| Arc::clone(name));
                let watched = list.users.entry(Arc::clone(&name)).or_insert_with(|| Watched::new(self.workers));
                watched.watchers[worker] += 1;
                name
            });
            let names: Vec<_> = names.collect();
            names.iter().for_each(|name| list.request_status(name));
            names
        })
    }

    /// Makes the next tick return the status of these users, changed or not. Users that are not watched are ignored.
    pub fn request_status<'a>(&self, users: impl Iterator<Item = &'a Arc<str>>) {
        self.with_list(|list| users.for_each(|user| list.request_status(user)));
    }

    /// Removes a watcher from each of these users.
    pub fn unwatch<'a>(&self, worker: usize, users: impl Iterator<Item = &'a Arc<str>>) {
        self.with_list(|list| {
            for user in users {
                let Some(watched) = list.users.get_mut(user) else { continue };
                watched.watchers[worker] = watched.watchers[worker].saturating_sub(1);
                if watched.is_unused() {
                    list.users.remove(user);
                }
            }
        });
    }

    /// Marks the watched users in this diff, so that the tick looks at them.
    pub fn mark_changed(&self, diff: &Diff) {
        if self.is_empty() {
            return;
        }
        self.with_list(|list| {
            let members = diff.joined.iter().chain(&diff.updated).map(|(user, _)| user);
            members.chain(diff.left.iter().map(|(user, _)| user)).for_each(|user| list.mark_due(user));
        });
    }

    /// Looks at the users that were marked or requested since the last call, and returns the statuses to send. For the
    /// tick, after it has settled its rooms.
    pub(super) fn settle(&self, unix_ms: u64, live_status: impl Fn(&str) -> LiveStatus) -> Vec<StatusChange> {
        if self.is_empty() {
            return Vec::new();
        }
        let due = self.with_list(|list| std::mem::take(&mut list.due));
        let live: Vec<_> = due.into_iter().map(|user| (live_status(&user), user)).collect();
        self.with_list(|list| live.into_iter().filter_map(|(live, user)| list.update(&user, live, unix_ms)).collect())
    }

    /// The number of watched users.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.watched.load(Ordering::Relaxed)
    }

    /// Whether the number of watched users has reached its limit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.watched() >= MAX_WATCHED
    }

    fn is_empty(&self) -> bool {
        self.watched() == 0
    }

    fn with_list<R>(&self, act: impl FnOnce(&mut List) -> R) -> R {
        let mut list = self.list.lock();
        let result = act(&mut list);
        self.watched.store(list.users.len(), Ordering::Relaxed);
        result
    }
}

impl List {
    fn request_status(&mut self, user: &Arc<str>) {
        self.mark_due(user);
        if let Some(watched) = self.users.get_mut(user) {
            watched.requested = true;
        }
    }

    fn mark_due(&mut self, user: &Arc<str>) {
        if let Some(watched) = self.users.get_mut(user)
            && !std::mem::replace(&mut watched.due, true)
        {
            self.due.push(Arc::clone(user));
        }
    }

    /// Updates the status of a user. Returns it if it changed or was requested.
    fn update(&mut self, user: &Arc<str>, live: LiveStatus, unix_ms: u64) -> Option<StatusChange> {
        let watched = self.users.get_mut(user)?;
        watched.due = false;
        if watched.is_unused() {
            self.users.remove(user);
            return None;
        }
        // The user joined after the room was settled. The next tick announces the join, unless the user has left by
        // then: no diff shows that, so the next tick must look again.
        let look_again = live.held && !live.announced;
        let status = watched.next_status(live, unix_ms);
        let changed = watched.last_status.as_ref().is_some_and(|last| *last != status);
        let send = std::mem::take(&mut watched.requested) || changed;
        watched.last_status = Some(status.clone());
        let change =
            send.then(|| StatusChange { user: Arc::clone(user), status, changed, watchers: watched.watchers.clone() });
        if look_again {
            self.mark_due(user);
        }
        change
    }
}

impl Watched {
    fn new(workers: usize) -> Self {
        Self { watchers: SmallVec::from_elem(0, workers), last_status: None, due: false, requested: false }
    }

    /// Whether the entry has no watchers and is not due.
    fn is_unused(&self) -> bool {
        !self.due && self.watchers.iter().all(|watchers| *watchers == 0)
    }

    /// The status that follows the last one.
    fn next_status(&self, live: LiveStatus, unix_ms: u64) -> UserStatus {
        let last = self.last_status.clone().unwrap_or_default();
        match (last.online, live.announced) {
            // The user has left one room and joined another that is not settled yet: the user stays online.
            (true, false) if live.held => last,
            (true, true) => {
                let since_unix_ms = last.since_unix_ms.map(|since| since.min(live.since_unix_ms));
                UserStatus { online: true, since_unix_ms, state: live.state }
            }
            (false, true) => UserStatus { online: true, since_unix_ms: Some(live.since_unix_ms), state: live.state },
            (true, false) => UserStatus { online: false, since_unix_ms: Some(unix_ms), state: None },
            (false, false) => last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 500;

    fn live(announced: bool, held: bool, since_unix_ms: u64) -> LiveStatus {
        LiveStatus { announced, held, since_unix_ms, state: None }
    }

    /// Checks the status after these updates, and whether the next tick looks at the user again.
    fn check(updates: &[LiveStatus], online: bool, since_unix_ms: Option<u64>, again: bool) {
        let list = Watchlist::new(1);
        let user = list.watch(0, ["bob"].into_iter()).remove(0);
        list.with_list(|list| {
            for update in updates {
                list.due.clear();
                list.update(&user, update.clone(), NOW);
            }
            let status = list.users[&user].last_status.clone();
            assert_eq!(status, Some(UserStatus { online, since_unix_ms, state: None }), "{updates:?}");
            assert_eq!(list.due.len(), usize::from(again), "{updates:?}");
        });
    }

    #[test]
    fn a_user_is_online_once_announced_and_stays_online_when_changing_rooms() {
        let (offline, member, unannounced) =
            (|| live(false, false, 0), || live(true, true, 100), || live(false, true, 300));
        check(&[offline()], false, None, false);
        check(&[member()], true, Some(100), false);
        check(&[member(), offline()], false, Some(NOW), false);
        check(&[member(), offline(), offline()], false, Some(NOW), false);
        check(&[member(), offline(), live(true, true, 400)], true, Some(400), false);
        // The join is announced by the next tick.
        check(&[unannounced()], false, None, true);
        check(&[member(), unannounced()], true, Some(100), true);
        check(&[member(), unannounced(), live(true, true, 300)], true, Some(100), false);
        // The user left again before the next tick: no diff shows it.
        check(&[member(), unannounced(), offline()], false, Some(NOW), false);
        // The leave is not announced yet.
        check(&[member(), live(true, false, 100)], true, Some(100), false);
    }

    #[test]
    fn repeated_watching_and_unwatching_leaves_nothing_behind() {
        let list = Watchlist::new(2);
        for _ in 0..100 {
            let names = list.watch(1, ["bob"].into_iter());
            list.unwatch(1, names.iter());
        }
        assert!(list.with_list(|list| list.due.len()) <= 1);
        assert!(list.settle(NOW, |_| live(false, false, 0)).is_empty());
        assert_eq!(list.watched(), 0);
    }
}
