//! Who on this worker watches whom, and what each is told of a batch: one `status` a connection and tick, of what is new to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::broadcast::StatusFrame;
use crate::connection::Connection;
use crate::memory_budget::COUNTED_BYTES;
use crate::protocol::native;
use crate::worker::Worker;

/// Users whom one connection may watch.
pub const MAX_WATCHED_PER_CONNECTION: usize = 1000;

/// The watching connections of a worker; of those that watch nobody nothing is kept.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// User and connection, by its place in the slab: all who watch a user stand together.
    pairs: BTreeSet<(Arc<str>, u32)>,
    watchers: HashMap<u32, Watcher, RandomState>,
    /// Connections that have asked and were not told yet.
    asking: BTreeSet<u32>,
}

#[derive(Debug)]
struct Watcher {
    connection: Rc<Connection>,
    /// Whom it watches, and whether it waits to be told even if nothing has changed.
    users: HashMap<Arc<str>, bool, RandomState>,
    /// It missed something because its socket was full, and asks about everybody when it is not.
    lagging: bool,
}

impl Watching {
    /// Adds users to those whom a connection watches. False if that would be too many: then none is added.
    pub(super) fn watch(&mut self, worker: &Worker, connection: &Rc<Connection>, users: &[&str]) -> bool {
        let index = connection.id.index;
        let known = |user: &str| self.watchers.get(&index)?.users.get_key_value(user).map(|(name, _)| Arc::clone(name));
        let again: Vec<Arc<str>> = users.iter().filter_map(|user| known(user)).collect();
        let new: BTreeSet<&str> = users.iter().filter(|user| known(user).is_none()).copied().collect();
        let held = self.watchers.get(&index).map_or(0, |watcher| watcher.users.len());
        let watchlist = &worker.node.registry.watchlist;
        if held + new.len() > MAX_WATCHED_PER_CONNECTION || !new.is_empty() && watchlist.is_full() {
            return false;
        }
        watchlist.ask(again.iter());
        let new = watchlist.watch(worker.number, new.into_iter());
        self.pairs.extend(new.iter().map(|user| (Arc::clone(user), index)));
        if held + new.len() > 0 {
            let watcher = self.watchers.entry(index).or_insert_with(|| Watcher::new(connection));
            watcher.users.extend(again.into_iter().chain(new).map(|user| (user, true)));
            self.asking.insert(index);
        }
        true
    }

    /// Ends the watching of users; of those that are not watched nothing is said.
    pub(super) fn unwatch(&mut self, worker: &Worker, connection: &Rc<Connection>, users: &[&str]) {
        let index = connection.id.index;
        let Some(watcher) = self.watchers.get_mut(&index) else { return };
        let gone: Vec<_> =
            users.iter().filter_map(|user| watcher.users.remove_entry(*user)).map(|gone| gone.0).collect();
        if watcher.users.is_empty() {
            self.watchers.remove(&index);
            self.asking.remove(&index);
        }
        self.end(worker, index, gone);
    }

    /// Ends all watching of a connection that is going.
    pub(super) fn forget(&mut self, worker: &Worker, connection: &Rc<Connection>) {
        let index = connection.id.index;
        if let Some(watcher) = self.watchers.remove(&index) {
            self.asking.remove(&index);
            self.end(worker, index, watcher.users.into_keys().collect());
        }
    }

    fn end(&mut self, worker: &Worker, index: u32, users: Vec<Arc<str>>) {
        worker.node.registry.watchlist.unwatch(worker.number, users.iter());
        for user in users {
            self.pairs.remove(&(user, index));
        }
    }

    /// Notes that a connection missed a status.
    pub(super) fn lag(&mut self, connection: &Connection) {
        if let Some(watcher) = self.watchers.get_mut(&connection.id.index) {
            watcher.lagging = true;
        }
    }

    /// Has a connection that missed something be told of everybody whom it watches.
    pub(super) fn catch_up(&mut self, worker: &Worker, connection: &Connection) {
        let index = connection.id.index;
        let Some(watcher) = self.watchers.get_mut(&index).filter(|watcher| watcher.lagging) else { return };
        watcher.lagging = false;
        watcher.users.values_mut().for_each(|asked| *asked = true);
        worker.node.registry.watchlist.ask(watcher.users.keys());
        self.asking.insert(index);
    }

    /// Whether a status that was planned for a connection is still to be sent.
    pub(super) fn is_told(&self, connection: &Connection) -> bool {
        self.watchers.get(&connection.id.index).is_some_and(|watcher| !watcher.lagging)
    }

    /// Who is to be told what.
    pub(super) fn plan(&mut self, worker: &Worker, status_frames: &[StatusFrame]) -> Vec<(Rc<Connection>, Bytes)> {
        let mut due: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, status_frame) in status_frames.iter().enumerate().filter(|(_, status_frame)| status_frame.changed) {
            let (first, last) = ((Arc::clone(&status_frame.user), 0), (Arc::clone(&status_frame.user), u32::MAX));
            self.pairs.range(first..=last).for_each(|(_, index)| due.entry(*index).or_default().push(at));
        }
        self.plan_asked(status_frames, &mut due);
        // Those who are to be told the same, as all who look at one page of friends are, share one frame.
        let mut frames: HashMap<Vec<usize>, Bytes> = HashMap::new();
        let mut planned = Vec::new();
        for (index, of_it) in due {
            let Some(watcher) = self.watchers.get_mut(&index).filter(|watcher| !watcher.lagging) else { continue };
            watcher.users.extend(of_it.iter().map(|at| (Arc::clone(&status_frames[*at].user), false)));
            let frame = frames.get(&of_it).cloned().or_else(|| encode(worker, status_frames, &of_it));
            let Some(frame) = frame else {
                let users: Vec<_> = of_it.iter().map(|at| Arc::clone(&status_frames[*at].user)).collect();
                worker.node.registry.watchlist.ask(users.iter());
                watcher.users.extend(users.into_iter().map(|user| (user, true)));
                self.asking.insert(index);
                continue;
            };
            frames.entry(of_it).or_insert_with(|| frame.clone());
            planned.push((Rc::clone(&watcher.connection), frame));
        }
        planned
    }

    /// Adds what connections have asked about and is no news for the others.
    fn plan_asked(&mut self, status_frames: &[StatusFrame], due: &mut BTreeMap<u32, Vec<usize>>) {
        if self.asking.is_empty() {
            return;
        }
        let places = status_frames.iter().enumerate().map(|(at, status_frame)| (&*status_frame.user, at));
        let places: HashMap<&str, usize, RandomState> = places.collect();
        self.asking.retain(|index| {
            let Some(watcher) = self.watchers.get(index).filter(|watcher| !watcher.lagging) else { return false };
            let asked: Vec<_> = watcher.users.iter().filter(|(_, asked)| **asked).map(|(user, _)| user).collect();
            let told: Vec<usize> = asked.iter().filter_map(|user| places.get(&***user).copied()).collect();
            let all = told.len() == asked.len();
            let not_changed = told.into_iter().filter(|at| !status_frames[*at].changed);
            let of_it = due.entry(*index).or_default();
            of_it.extend(not_changed);
            // In the order of the batch, so that the same is the same.
            of_it.sort_unstable();
            if of_it.is_empty() {
                due.remove(index);
            }
            !all
        });
    }
}

impl Watcher {
    fn new(connection: &Rc<Connection>) -> Self {
        Self { connection: Rc::clone(connection), users: HashMap::default(), lagging: false }
    }
}

/// A status of these, unless it is long and too much that is long waits for clients that do not read: then it is put off.
fn encode(worker: &Worker, status_frames: &[StatusFrame], of_it: &[usize]) -> Option<Bytes> {
    let objects: Vec<&Bytes> = of_it.iter().map(|at| &status_frames[*at].object).collect();
    let bytes: usize = objects.iter().map(|object| object.len()).sum();
    let account = &worker.node.status_bytes;
    let fits = bytes < COUNTED_BYTES || !account.is_full(bytes);
    fits.then(|| account.count(native::encode_status(&objects)))
}
