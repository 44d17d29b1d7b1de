//! Named users whom somebody watches, and what was last told about each: online in any room or not, since when, in what state.
//!
//! Workers count their watchers in and out; the tick notes which of the watched have moved, looks only at these and at those whom
//! somebody has just begun to watch, and says what is new. Of users whom nobody watches nothing is kept, so only the node that
//! watches somebody knows when that user went.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Diff, State};

/// Users who are watched by anybody: some 300 bytes each, names included.
const MAX_WATCHED: usize = 1_000_000;

/// What watchers are told about a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserStatus {
    /// Whether it is in any room.
    pub online: bool,
    /// Milliseconds since the Unix epoch: since when it is online, or when it went, if somebody was watching then.
    pub since_unix_ms: Option<u64>,
    /// Its state in the first room, in the order joined, in which it has one.
    pub state: Option<State>,
}

/// StoreEvent of a watched user.
#[derive(Debug)]
pub struct StatusChange {
    /// Who.
    pub user: Arc<str>,
    /// How it stands now.
    pub status: UserStatus,
    /// It is news for all who watch; otherwise only for those who asked.
    pub changed: bool,
    /// How many watch on each worker.
    pub watchers: Watchers,
}

/// How many connections of each worker watch a user.
pub type Watchers = SmallVec<[u32; 4]>;

/// All watched users. Its lock is taken by itself: no other is taken while it is held.
#[derive(Debug)]
pub struct Watchlist {
    workers: usize,
    /// Entries in `users`: the tick looks at nothing while nobody watches.
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
    /// What was told last; none before the first time.
    told: Option<UserStatus>,
    /// It stands in `due`, and is kept as long as it does.
    due: bool,
    /// Somebody wants to be told even if nothing has changed.
    asked: bool,
}

/// A user as the registry has it at a tick.
#[derive(Debug, Clone, Default)]
pub(super) struct LiveStatus {
    /// It is in a room, and those who look at the room have been told.
    pub(super) announced: bool,
    /// Sessions hold it somewhere, told or not.
    pub(super) held: bool,
    pub(super) since_unix_ms: u64,
    pub(super) state: Option<State>,
}

impl Watchlist {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, watched: AtomicUsize::new(0), list: Mutex::default() }
    }

    /// Counts a watcher of each of these users in and has the next tick tell about them. Returns the names as they are held.
    pub fn watch<'a>(&self, worker: usize, users: impl Iterator<Item = &'a str>) -> Vec<Arc<str>> {
        self.with_list(|list| {
            let names = users.map(|user| {
                let name = list.users.get_key_value(user).map_or_else(|| Arc::from(user), |(name, _)| Arc::clone(name));
                let watched = list.users.entry(Arc::clone(&name)).or_insert_with(|| Watched::new(self.workers));
                watched.watchers[worker] += 1;
                name
            });
            let names: Vec<_> = names.collect();
            names.iter().for_each(|name| list.ask(name));
            names
        })
    }

    /// Has the next tick tell about these users again, as far as they are watched.
    pub fn ask<'a>(&self, users: impl Iterator<Item = &'a Arc<str>>) {
        self.with_list(|list| users.for_each(|user| list.ask(user)));
    }

    /// Counts a watcher of each of these users out.
    pub fn unwatch<'a>(&self, worker: usize, users: impl Iterator<Item = &'a Arc<str>>) {
        self.with_list(|list| {
            for user in users {
                let Some(watched) = list.users.get_mut(user) else { continue };
                watched.watchers[worker] = watched.watchers[worker].saturating_sub(1);
                if watched.is_over() {
                    list.users.remove(user);
                }
            }
        });
    }

    /// Notes the watched ones among those whom a change of a room is about.
    pub fn note(&self, diff: &Diff) {
        if self.is_empty() {
            return;
        }
        self.with_list(|list| {
            let there = diff.joined.iter().chain(&diff.updated).map(|(user, _)| user);
            there.chain(diff.left.iter().map(|(user, _)| user)).for_each(|user| list.put_due(user));
        });
    }

    /// Looks at the users who were noted or asked about since the last time, and says what there is to tell. For the tick, when
    /// it has settled its rooms.
    pub(super) fn settle(&self, unix_ms: u64, live_status: impl Fn(&str) -> LiveStatus) -> Vec<StatusChange> {
        if self.is_empty() {
            return Vec::new();
        }
        let due = self.with_list(|list| std::mem::take(&mut list.due));
        let looks: Vec<_> = due.into_iter().map(|user| (live_status(&user), user)).collect();
        self.with_list(|list| looks.into_iter().filter_map(|(look, user)| list.see(&user, look, unix_ms)).collect())
    }

    /// Users who are watched.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.watched.load(Ordering::Relaxed)
    }

    /// Whether no more users may be watched.
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
    fn ask(&mut self, user: &Arc<str>) {
        self.put_due(user);
        if let Some(watched) = self.users.get_mut(user) {
            watched.asked = true;
        }
    }

    fn put_due(&mut self, user: &Arc<str>) {
        if let Some(watched) = self.users.get_mut(user)
            && !std::mem::replace(&mut watched.due, true)
        {
            self.due.push(Arc::clone(user));
        }
    }

    /// Takes in how a user stands now. Returns it if somebody is to be told.
    fn see(&mut self, user: &Arc<str>, look: LiveStatus, unix_ms: u64) -> Option<StatusChange> {
        let watched = self.users.get_mut(user)?;
        watched.due = false;
        if watched.is_over() {
            self.users.remove(user);
            return None;
        }
        // It came after its room was settled: the next tick tells that, or it has gone again without a word.
        let to_come = look.held && !look.announced;
        let status = watched.status(look, unix_ms);
        let changed = watched.told.as_ref().is_some_and(|told| *told != status);
        let news = std::mem::take(&mut watched.asked) || changed;
        watched.told = Some(status.clone());
        let seen =
            news.then(|| StatusChange { user: Arc::clone(user), status, changed, watchers: watched.watchers.clone() });
        if to_come {
            self.put_due(user);
        }
        seen
    }
}

impl Watched {
    fn new(workers: usize) -> Self {
        Self { watchers: SmallVec::from_elem(0, workers), told: None, due: false, asked: false }
    }

    /// Nobody watches, and nothing is on its way.
    fn is_over(&self) -> bool {
        !self.due && self.watchers.iter().all(|watchers| *watchers == 0)
    }

    /// How the user is to be told of, after what was told last.
    fn status(&self, look: LiveStatus, unix_ms: u64) -> UserStatus {
        let told = self.told.clone().unwrap_or_default();
        match (told.online, look.announced) {
            // Between two rooms when the tick came: it has left one and is in another already, so it never went.
            (true, false) if look.held => told,
            (true, true) => {
                let since_unix_ms = told.since_unix_ms.map(|since| since.min(look.since_unix_ms));
                UserStatus { online: true, since_unix_ms, state: look.state }
            }
            (false, true) => UserStatus { online: true, since_unix_ms: Some(look.since_unix_ms), state: look.state },
            (true, false) => UserStatus { online: false, since_unix_ms: Some(unix_ms), state: None },
            (false, false) => told,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 500;

    fn look(announced: bool, held: bool, since_unix_ms: u64) -> LiveStatus {
        LiveStatus { announced, held, since_unix_ms, state: None }
    }

    /// What is told of a user who looks like this after these looks, and whether it is looked at again in the next tick.
    fn check(looks: &[LiveStatus], online: bool, since_unix_ms: Option<u64>, again: bool) {
        let list = Watchlist::new(1);
        let user = list.watch(0, ["bob"].into_iter()).remove(0);
        list.with_list(|list| {
            for look in looks {
                list.due.clear();
                list.see(&user, look.clone(), NOW);
            }
            let told = list.users[&user].told.clone();
            assert_eq!(told, Some(UserStatus { online, since_unix_ms, state: None }), "{looks:?}");
            assert_eq!(list.due.len(), usize::from(again), "{looks:?}");
        });
    }

    #[test]
    fn online_is_announced_and_between_two_rooms_is_not_gone() {
        let (nowhere, here, between) = (|| look(false, false, 0), || look(true, true, 100), || look(false, true, 300));
        check(&[nowhere()], false, None, false);
        check(&[here()], true, Some(100), false);
        check(&[here(), nowhere()], false, Some(NOW), false);
        check(&[here(), nowhere(), nowhere()], false, Some(NOW), false);
        check(&[here(), nowhere(), look(true, true, 400)], true, Some(400), false);
        // It has joined, but no tick has told that: the next will.
        check(&[between()], false, None, true);
        check(&[here(), between()], true, Some(100), true);
        check(&[here(), between(), look(true, true, 300)], true, Some(100), false);
        // Or it went before, and no diff of a room will ever publish so.
        check(&[here(), between(), nowhere()], false, Some(NOW), false);
        // Its leave is not told yet.
        check(&[here(), look(true, false, 100)], true, Some(100), false);
    }

    #[test]
    fn whoever_watches_and_stops_all_the_time_fills_nothing() {
        let list = Watchlist::new(2);
        for _ in 0..100 {
            let names = list.watch(1, ["bob"].into_iter());
            list.unwatch(1, names.iter());
        }
        assert!(list.with_list(|list| list.due.len()) <= 1);
        assert!(list.settle(NOW, |_| look(false, false, 0)).is_empty());
        assert_eq!(list.watched(), 0);
    }
}
