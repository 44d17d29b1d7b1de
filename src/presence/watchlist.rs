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

use super::user_status::{States, StatusDetails, UserStatus};
use super::{Diff, State, is_internal};
use crate::work_budget::fair_share;

/// The limit of watched users on this node: some 200 bytes each, user id and watcher included.
const MAX_WATCHED: usize = 1_000_000;

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
    /// For watchers that may observe only some rooms, if the user has any. They decide by it whether it changed.
    pub details: Option<Arc<StatusDetails>>,
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
    /// The users with watchers that may observe only some rooms.
    restricted: HashMap<Arc<str>, Restricted, RandomState>,
}

#[derive(Debug)]
struct Watched {
    watchers: Watchers,
    /// The last status, unless it is [`UserStatus::OFFLINE`]: most users that clients watch are, so nothing is stored
    /// for them.
    last_status: Option<Box<UserStatus>>,
    /// Whether there was a status.
    has_status: bool,
    /// Whether the user is in `due`. The entry is kept as long as that is so.
    due: bool,
    /// Whether a watcher requested the status, even if it did not change.
    requested: bool,
}

/// Watchers of a user that may observe only some rooms. They see the user's state only from those.
#[derive(Debug, Default)]
struct Restricted {
    watchers: u32,
    /// The last states; `None` before the first ones.
    last_states: Option<States>,
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
    /// All states with their rooms, up to a limit, if they were asked for.
    pub(super) states: Option<States>,
}

impl Watchlist {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, watched: AtomicUsize::new(0), list: Mutex::default() }
    }

    /// Adds a watcher to each of these users and requests their status. A restricted watcher may observe only some
    /// rooms. Returns the user ids, shared with the watchlist.
    pub fn watch<'a>(&self, worker: usize, users: impl Iterator<Item = &'a str>, is_restricted: bool) -> Vec<Arc<str>> {
        self.with_list(|list| {
            let names = users.map(|user| {
                let name = list.users.get_key_value(user).map_or_else(|| Arc::from(user), |(name, _)| Arc::clone(name));
                let watched = list.users.entry(Arc::clone(&name)).or_insert_with(|| Watched::new(self.workers));
                watched.watchers[worker] += 1;
                if is_restricted {
                    list.restricted.entry(Arc::clone(&name)).or_default().watchers += 1;
                }
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

    /// Removes a watcher, which was added in the same way, from each of these users.
    pub fn unwatch<'a>(&self, worker: usize, users: impl Iterator<Item = &'a Arc<str>>, is_restricted: bool) {
        self.with_list(|list| {
            for user in users {
                let Some(watched) = list.users.get_mut(user) else { continue };
                watched.watchers[worker] = watched.watchers[worker].saturating_sub(1);
                if watched.is_unused() {
                    list.users.remove(user);
                }
                if let Some(restricted) = list.restricted.get_mut(user).filter(|_| is_restricted) {
                    restricted.watchers -= 1;
                    if restricted.watchers == 0 {
                        list.restricted.remove(user);
                    }
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
    /// `live_status` is called with whether all states are needed.
    pub(super) fn settle(&self, unix_ms: u64, live_status: impl Fn(&str, bool) -> LiveStatus) -> Vec<StatusChange> {
        if self.is_empty() {
            return Vec::new();
        }
        let due: Vec<_> = self.with_list(|list| {
            let due = std::mem::take(&mut list.due).into_iter();
            let is_detailed = |user: &Arc<str>| list.restricted.contains_key(user);
            due.map(|user| (is_detailed(&user), user)).collect()
        });
        let live: Vec<_> = due.into_iter().map(|(detailed, user)| (live_status(&user, detailed), user)).collect();
        self.with_list(|list| live.into_iter().filter_map(|(live, user)| list.update(&user, live, unix_ms)).collect())
    }

    /// The number of watched users.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.watched.load(Ordering::Relaxed)
    }

    /// The number of users that one connection may watch: fewer and fewer as the limit of this node comes near.
    #[must_use]
    pub fn share(&self) -> usize {
        fair_share(MAX_WATCHED, self.watched())
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
        let mut look_again = live.held && !live.announced;
        let restricted = self.restricted.get_mut(user);
        // The first restricted watcher came while the tick looked at the user: it sees no state until the next tick.
        look_again |= restricted.is_some() && live.states.is_none();
        let last_status = watched.last_status().clone();
        let states = restricted.map(|restricted| restricted.next(last_status.online, &live));
        let mut status = watched.next_status(live, unix_ms);
        if is_internal(user) {
            // Watchers of users of an application see no more than this, and nothing else is a change for them.
            status = UserStatus { online: status.online, ..UserStatus::OFFLINE };
        }
        let details = states.map(|(last_states, states)| {
            let before = last_states.map(|states| (last_status.clone(), states));
            Arc::new(StatusDetails { before, after: (status.clone(), states) })
        });
        let changed = watched.has_status && last_status != status;
        let differs = details.as_ref().is_some_and(|details| details.differ());
        let send = std::mem::take(&mut watched.requested) || changed || differs;
        watched.set_status(&status);
        let watchers = watched.watchers.clone();
        let change = send.then(|| StatusChange { user: Arc::clone(user), status, changed, watchers, details });
        if look_again {
            self.mark_due(user);
        }
        change
    }
}

impl Watched {
    fn new(workers: usize) -> Self {
        let watchers = SmallVec::from_elem(0, workers);
        Self { watchers, last_status: None, has_status: false, due: false, requested: false }
    }

    /// The last status; [`UserStatus::OFFLINE`] before the first one.
    fn last_status(&self) -> &UserStatus {
        self.last_status.as_deref().unwrap_or(&UserStatus::OFFLINE)
    }

    fn set_status(&mut self, status: &UserStatus) {
        self.has_status = true;
        self.last_status = (*status != UserStatus::OFFLINE).then(|| Box::new(status.clone()));
    }

    /// Whether the entry has no watchers and is not due.
    fn is_unused(&self) -> bool {
        !self.due && self.watchers.iter().all(|watchers| *watchers == 0)
    }

    /// The status that follows the last one.
    fn next_status(&self, live: LiveStatus, unix_ms: u64) -> UserStatus {
        let last = self.last_status().clone();
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

impl Restricted {
    /// Replaces the last states, as [`Watched::next_status`] replaces the last status. Returns the old and the new
    /// ones.
    fn next(&mut self, was_online: bool, live: &LiveStatus) -> (Option<States>, States) {
        let last = self.last_states.clone();
        let states = match live.announced {
            true => live.states.clone().unwrap_or_default(),
            false if live.held && was_online => last.clone().unwrap_or_default(),
            false => States::default(),
        };
        self.last_states = Some(Arc::clone(&states));
        (last, states)
    }
}

#[cfg(test)]
mod tests;
