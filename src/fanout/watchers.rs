//! The connections of one worker that watch users by user id. Each receives at most one `status` frame per tick, with
//! the statuses that are new to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::broadcast::StatusFrame;
use crate::connection::{Connection, ConnectionId};
use crate::memory_budget::COUNTED_BYTES;
use crate::node::Node;
use crate::protocol::{MAX_WATCHED_PER_CONNECTION, Protocol};

/// The watching connections of a worker. Nothing is kept about connections that watch no user.
#[derive(Debug)]
pub(super) struct Watching {
    node: Arc<Node>,
    worker: usize,
    /// Pairs of a user and a connection (its slot in the slab), so that all watchers of a user are adjacent.
    pairs: BTreeSet<(Arc<str>, u32)>,
    /// Indexed by the connection's slot in the slab.
    watchers: HashMap<u32, Watcher, RandomState>,
    /// Connections that wait for a requested status.
    waiting: BTreeSet<u32>,
}

#[derive(Debug)]
struct Watcher {
    connection: ConnectionId,
    protocol: Protocol,
    /// The watched users, and whether the status was requested and has not been sent yet.
    users: HashMap<Arc<str>, bool, RandomState>,
    /// Whether it missed a frame because its socket was full. It requests the status of all its users when the socket
    /// accepts bytes again.
    lagging: bool,
}

impl Watching {
    pub(super) fn new(node: Arc<Node>, worker: usize) -> Self {
        let (watchers, waiting) = (HashMap::default(), BTreeSet::new());
        Self { node, worker, pairs: BTreeSet::new(), watchers, waiting }
    }

    /// Makes a connection watch users. False if that would exceed a limit; then no user is added.
    pub(super) fn watch(&mut self, connection: &Connection, users: &[&str]) -> bool {
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
            self.waiting.insert(index);
        }
        true
    }

    /// Stops watching users. Users that are not watched are ignored.
    pub(super) fn unwatch(&mut self, connection: &Connection, users: &[&str]) {
        let index = connection.id.index;
        let Some(watcher) = self.watchers.get_mut(&index) else { return };
        let removed: Vec<_> =
            users.iter().filter_map(|user| watcher.users.remove_entry(*user)).map(|(user, _)| user).collect();
        if watcher.users.is_empty() {
            self.watchers.remove(&index);
            self.waiting.remove(&index);
        }
        self.remove_pairs(index, removed);
    }

    /// Stops all watching of a connection.
    pub(super) fn forget(&mut self, connection: &Connection) {
        let index = connection.id.index;
        if let Some(watcher) = self.watchers.remove(&index) {
            self.waiting.remove(&index);
            self.remove_pairs(index, watcher.users.into_keys().collect());
        }
    }

    fn remove_pairs(&mut self, index: u32, users: Vec<Arc<str>>) {
        self.node.registry.watchlist.unwatch(self.worker, users.iter());
        for user in users {
            self.pairs.remove(&(user, index));
        }
    }

    /// Records that a connection missed a frame.
    pub(super) fn missed(&mut self, connection: &Connection) {
        if let Some(watcher) = self.watchers.get_mut(&connection.id.index) {
            watcher.lagging = true;
        }
    }

    /// Requests the status of all users of a connection that missed a frame.
    pub(super) fn catch_up(&mut self, connection: &Connection) {
        let index = connection.id.index;
        let Some(watcher) = self.watchers.get_mut(&index).filter(|watcher| watcher.lagging) else { return };
        watcher.lagging = false;
        watcher.users.values_mut().for_each(|requested| *requested = true);
        self.node.registry.watchlist.request_status(watcher.users.keys());
        self.waiting.insert(index);
    }

    /// Whether a planned frame must still be sent to a connection.
    pub(super) fn is_due(&self, connection: &Connection) -> bool {
        self.watchers.get(&connection.id.index).is_some_and(|watcher| !watcher.lagging)
    }

    /// The frames of this tick, with their connections.
    pub(super) fn plan(&mut self, statuses: &[StatusFrame]) -> Vec<(ConnectionId, Bytes)> {
        // By connection, the indexes of the statuses that it receives.
        let mut due: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, status) in statuses.iter().enumerate().filter(|(_, status)| status.changed) {
            let (first, last) = ((Arc::clone(&status.user), 0), (Arc::clone(&status.user), u32::MAX));
            self.pairs.range(first..=last).for_each(|(_, index)| due.entry(*index).or_default().push(at));
        }
        self.plan_requested(statuses, &mut due);
        // Connections that receive the same statuses share a frame, for example all that show the same list of users.
        let mut frames: HashMap<(Protocol, Vec<usize>), Bytes> = HashMap::new();
        let mut planned = Vec::new();
        for (index, selected) in due {
            let Some(watcher) = self.watchers.get_mut(&index).filter(|watcher| !watcher.lagging) else { continue };
            watcher.users.extend(selected.iter().map(|at| (Arc::clone(&statuses[*at].user), false)));
            let key = (watcher.protocol, selected);
            let frame = frames.get(&key).cloned().or_else(|| encode(&self.node, key.0, statuses, &key.1));
            let Some(frame) = frame else {
                // Deferred: requested again for the next tick.
                let users: Vec<_> = key.1.iter().map(|at| Arc::clone(&statuses[*at].user)).collect();
                self.node.registry.watchlist.request_status(users.iter());
                watcher.users.extend(users.into_iter().map(|user| (user, true)));
                self.waiting.insert(index);
                continue;
            };
            frames.entry(key).or_insert_with(|| frame.clone());
            planned.push((watcher.connection, frame));
        }
        planned
    }

    /// Adds the statuses that connections requested and that did not change. Changed ones are in `due` already.
    fn plan_requested(&mut self, statuses: &[StatusFrame], due: &mut BTreeMap<u32, Vec<usize>>) {
        if self.waiting.is_empty() {
            return;
        }
        let by_user = statuses.iter().enumerate().map(|(at, status)| (&*status.user, at));
        let by_user: HashMap<&str, usize, RandomState> = by_user.collect();
        self.waiting.retain(|index| {
            let Some(watcher) = self.watchers.get(index).filter(|watcher| !watcher.lagging) else { return false };
            let requested: Vec<_> =
                watcher.users.iter().filter(|(_, requested)| **requested).map(|(user, _)| user).collect();
            let found: Vec<usize> = requested.iter().filter_map(|user| by_user.get(&***user).copied()).collect();
            let is_complete = found.len() == requested.len();
            let unchanged = found.into_iter().filter(|at| !statuses[*at].changed);
            let selected = due.entry(*index).or_default();
            selected.extend(unchanged);
            // In the order of the batch, so that equal selections compare equal.
            selected.sort_unstable();
            if selected.is_empty() {
                due.remove(index);
            }
            !is_complete
        });
    }
}

impl Watcher {
    fn new(connection: &Connection) -> Self {
        Self { connection: connection.id, protocol: connection.protocol, users: HashMap::default(), lagging: false }
    }
}

/// The frame with the selected statuses. Deferred (`None`) if it is long and slow clients have too many bytes of unread
/// long frames.
fn encode(node: &Node, protocol: Protocol, statuses: &[StatusFrame], selected: &[usize]) -> Option<Bytes> {
    let (format, encoder) = (protocol.status_format()?, protocol.rules().status?);
    let objects: Vec<&Bytes> = selected.iter().map(|at| &statuses[*at].objects[format]).collect();
    let bytes: usize = objects.iter().map(|object| object.len()).sum();
    let budget = &node.status_bytes;
    let fits = bytes < COUNTED_BYTES || !budget.is_full(bytes);
    fits.then(|| budget.count((encoder.frame)(&objects)))
}
