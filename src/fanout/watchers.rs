//! The connections of one worker that watch users by name. Each gets one `status` frame per tick, about the users that are new to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::broadcast::StatusFrame;
use crate::connection::Connection;
use crate::memory_budget::COUNTED_BYTES;
use crate::node::Node;
use crate::protocol::{MAX_WATCHED_PER_CONNECTION, Protocol};

/// The watching connections of a worker. Nothing is kept about connections that watch no user.
#[derive(Debug)]
pub(super) struct Watching {
    node: Arc<Node>,
    worker: usize,
    /// User and connection, by its slot in the slab: all watchers of a user are adjacent.
    pairs: BTreeSet<(Arc<str>, u32)>,
    watchers: HashMap<u32, Watcher, RandomState>,
    /// Connections that have asked and have not been answered.
    asking: BTreeSet<u32>,
}

#[derive(Debug)]
struct Watcher {
    connection: Rc<Connection>,
    /// The users it watches, and whether it waits for their status even if nothing has changed.
    users: HashMap<Arc<str>, bool, RandomState>,
    /// It missed a frame because its socket was full, and asks about all its users when it is not.
    lagging: bool,
}

impl Watching {
    pub(super) fn new(node: Arc<Node>, worker: usize) -> Self {
        let (watchers, asking) = (HashMap::default(), BTreeSet::new());
        Self { node, worker, pairs: BTreeSet::new(), watchers, asking }
    }

    /// Adds users to those that a connection watches. False if that would be too many: then none is added.
    pub(super) fn watch(&mut self, connection: &Rc<Connection>, users: &[&str]) -> bool {
        let index = connection.id.index;
        let known = |user: &str| self.watchers.get(&index)?.users.get_key_value(user).map(|(name, _)| Arc::clone(name));
        let again: Vec<Arc<str>> = users.iter().filter_map(|user| known(user)).collect();
        let new: BTreeSet<&str> = users.iter().filter(|user| known(user).is_none()).copied().collect();
        let count = self.watchers.get(&index).map_or(0, |watcher| watcher.users.len());
        let watchlist = &self.node.registry.watchlist;
        if count + new.len() > MAX_WATCHED_PER_CONNECTION || !new.is_empty() && watchlist.is_full() {
            return false;
        }
        watchlist.request_status(again.iter());
        let new = watchlist.watch(self.worker, new.into_iter());
        self.pairs.extend(new.iter().map(|user| (Arc::clone(user), index)));
        if count + new.len() > 0 {
            let watcher = self.watchers.entry(index).or_insert_with(|| Watcher::new(connection));
            watcher.users.extend(again.into_iter().chain(new).map(|user| (user, true)));
            self.asking.insert(index);
        }
        true
    }

    /// Stops to watch users. Users that are not watched are ignored.
    pub(super) fn unwatch(&mut self, connection: &Rc<Connection>, users: &[&str]) {
        let index = connection.id.index;
        let Some(watcher) = self.watchers.get_mut(&index) else { return };
        let gone: Vec<_> =
            users.iter().filter_map(|user| watcher.users.remove_entry(*user)).map(|gone| gone.0).collect();
        if watcher.users.is_empty() {
            self.watchers.remove(&index);
            self.asking.remove(&index);
        }
        self.end(index, gone);
    }

    /// Ends all watching of a connection.
    pub(super) fn forget(&mut self, connection: &Rc<Connection>) {
        let index = connection.id.index;
        if let Some(watcher) = self.watchers.remove(&index) {
            self.asking.remove(&index);
            self.end(index, watcher.users.into_keys().collect());
        }
    }

    fn end(&mut self, index: u32, users: Vec<Arc<str>>) {
        self.node.registry.watchlist.unwatch(self.worker, users.iter());
        for user in users {
            self.pairs.remove(&(user, index));
        }
    }

    /// Notes that a connection missed a frame.
    pub(super) fn lag(&mut self, connection: &Connection) {
        if let Some(watcher) = self.watchers.get_mut(&connection.id.index) {
            watcher.lagging = true;
        }
    }

    /// Asks for the status of all users of a connection that missed a frame.
    pub(super) fn catch_up(&mut self, connection: &Connection) {
        let index = connection.id.index;
        let Some(watcher) = self.watchers.get_mut(&index).filter(|watcher| watcher.lagging) else { return };
        watcher.lagging = false;
        watcher.users.values_mut().for_each(|asked| *asked = true);
        self.node.registry.watchlist.request_status(watcher.users.keys());
        self.asking.insert(index);
    }

    /// Whether a frame that was planned for a connection is still to be sent.
    pub(super) fn is_due(&self, connection: &Connection) -> bool {
        self.watchers.get(&connection.id.index).is_some_and(|watcher| !watcher.lagging)
    }

    /// The frame of each connection that gets one.
    pub(super) fn plan(&mut self, statuses: &[StatusFrame]) -> Vec<(Rc<Connection>, Bytes)> {
        let mut due: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, status) in statuses.iter().enumerate().filter(|(_, status)| status.changed) {
            let (first, last) = ((Arc::clone(&status.user), 0), (Arc::clone(&status.user), u32::MAX));
            self.pairs.range(first..=last).for_each(|(_, index)| due.entry(*index).or_default().push(at));
        }
        self.plan_asked(statuses, &mut due);
        // Connections that get the same statuses share a frame: all that show one page of friends, for example.
        let mut frames: HashMap<(Protocol, Vec<usize>), Bytes> = HashMap::new();
        let mut planned = Vec::new();
        for (index, selected) in due {
            let Some(watcher) = self.watchers.get_mut(&index).filter(|watcher| !watcher.lagging) else { continue };
            watcher.users.extend(selected.iter().map(|at| (Arc::clone(&statuses[*at].user), false)));
            let key = (watcher.connection.protocol, selected);
            let frame = frames.get(&key).cloned().or_else(|| encode(&self.node, key.0, statuses, &key.1));
            let Some(frame) = frame else {
                let users: Vec<_> = key.1.iter().map(|at| Arc::clone(&statuses[*at].user)).collect();
                self.node.registry.watchlist.request_status(users.iter());
                watcher.users.extend(users.into_iter().map(|user| (user, true)));
                self.asking.insert(index);
                continue;
            };
            frames.entry(key).or_insert_with(|| frame.clone());
            planned.push((Rc::clone(&watcher.connection), frame));
        }
        planned
    }

    /// Adds statuses that connections have asked for and that are not news for the others.
    fn plan_asked(&mut self, statuses: &[StatusFrame], due: &mut BTreeMap<u32, Vec<usize>>) {
        if self.asking.is_empty() {
            return;
        }
        let places = statuses.iter().enumerate().map(|(at, status)| (&*status.user, at));
        let places: HashMap<&str, usize, RandomState> = places.collect();
        self.asking.retain(|index| {
            let Some(watcher) = self.watchers.get(index).filter(|watcher| !watcher.lagging) else { return false };
            let asked: Vec<_> = watcher.users.iter().filter(|(_, asked)| **asked).map(|(user, _)| user).collect();
            let told: Vec<usize> = asked.iter().filter_map(|user| places.get(&***user).copied()).collect();
            let all = told.len() == asked.len();
            let not_changed = told.into_iter().filter(|at| !statuses[*at].changed);
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

/// The frame with the selected statuses, unless it is long and clients that do not read hold too many long ones: then it is deferred.
fn encode(node: &Node, protocol: Protocol, statuses: &[StatusFrame], selected: &[usize]) -> Option<Bytes> {
    let (format, encoder) = (protocol.status_format()?, protocol.rules().status?);
    let objects: Vec<&Bytes> = selected.iter().map(|at| &statuses[*at].objects[format]).collect();
    let bytes: usize = objects.iter().map(|object| object.len()).sum();
    let budget = &node.status_bytes;
    let fits = bytes < COUNTED_BYTES || !budget.is_full(bytes);
    fits.then(|| budget.count((encoder.frame)(&objects)))
}
