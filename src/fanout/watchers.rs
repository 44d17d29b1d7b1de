//! The connections of one worker that watch users by user id. Each receives at most one `status` frame per tick, with
//! the statuses that are new to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::deliveries::{Deliveries, Origin, Requested};
use super::views::Views;
use super::watched_users::WatchedUsers;
use crate::auth::Permissions;
use crate::broadcast::StatusFrame;
use crate::connection::{Connection, ConnectionId};
use crate::memory_budget::SHORT_BYTES;
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
    /// Whether a connection that may observe only some rooms has watched users.
    has_restricted: bool,
}

#[derive(Debug)]
struct Watcher {
    connection: ConnectionId,
    protocol: Protocol,
    users: WatchedUsers,
    /// Whether it missed a frame because its socket was full. It requests the status of all its users when the socket
    /// accepts bytes again.
    lagging: bool,
    /// Whether it asked for the status of users that it watched already.
    asked_again: bool,
    /// What it may do, if it may observe only some rooms.
    permissions: Option<Arc<Permissions>>,
}

impl Watching {
    pub(super) fn new(node: Arc<Node>, worker: usize) -> Self {
        let (watchers, waiting) = (HashMap::default(), BTreeSet::new());
        Self { node, worker, pairs: BTreeSet::new(), watchers, waiting, has_restricted: false }
    }

    /// The watched users of a connection whom `is_selected` selects.
    pub(super) fn watched_by(&self, connection: &Connection, is_selected: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let watcher = self.watchers.get(&connection.id.index);
        let users = watcher.into_iter().flat_map(|watcher| watcher.users.names());
        users.filter(|user| is_selected(user)).cloned().collect()
    }

    /// Makes a connection watch users. False if that would exceed a limit; then no user is added. With permissions it
    /// is shown states only from rooms that it may observe.
    pub(super) fn watch(
        &mut self,
        connection: &Connection,
        users: &[&str],
        permissions: Option<&Arc<Permissions>>,
    ) -> bool {
        let index = connection.id.index;
        let permissions = permissions.filter(|permissions| !permissions.observes_all());
        let is_restricted = permissions.is_some();
        self.has_restricted |= is_restricted;
        self.replace_permissions(index, permissions);
        let known = |user: &str| self.watchers.get(&index)?.users.get(user).map(Arc::clone);
        let again: Vec<Arc<str>> = users.iter().filter_map(|user| known(user)).collect();
        let new: BTreeSet<&str> = users.iter().filter(|user| known(user).is_none()).copied().collect();
        let count = self.watchers.get(&index).map_or(0, |watcher| watcher.users.len());
        let watchlist = &self.node.registry.watchlist;
        if !new.is_empty() && count + new.len() > MAX_WATCHED_PER_CONNECTION.min(watchlist.share()) {
            return false;
        }
        watchlist.request_status(again.iter());
        let new = watchlist.watch(self.worker, new.into_iter(), is_restricted);
        self.pairs.extend(new.iter().map(|user| (Arc::clone(user), index)));
        if count + new.len() > 0 {
            let new_watcher = || Watcher::new(connection, permissions.cloned());
            let watcher = self.watchers.entry(index).or_insert_with(new_watcher);
            watcher.asked_again |= !again.is_empty();
            watcher.users.set_requested(&again, true);
            watcher.users.add(new);
            self.waiting.insert(index);
        }
        true
    }

    /// A connection has these permissions from now on.
    pub(super) fn permit(&mut self, connection: &Connection, permissions: &Arc<Permissions>) {
        let permissions = Some(permissions).filter(|permissions| !permissions.observes_all());
        self.has_restricted |= permissions.is_some();
        self.replace_permissions(connection.id.index, permissions);
    }

    /// What a connection may do has changed since it began to watch users.
    fn replace_permissions(&mut self, index: u32, permissions: Option<&Arc<Permissions>>) {
        let Some(watcher) = self.watchers.get_mut(&index) else { return };
        if watcher.permissions.as_ref().map(Arc::as_ptr) == permissions.map(Arc::as_ptr) {
            return;
        }
        let was_restricted = std::mem::replace(&mut watcher.permissions, permissions.cloned()).is_some();
        let watchlist = &self.node.registry.watchlist;
        // Requests the status of all, because the client may see another one now.
        watchlist.watch(self.worker, watcher.users.names().map(|user| &**user), permissions.is_some());
        watchlist.unwatch(self.worker, watcher.users.names(), was_restricted);
        watcher.users.request_all();
        self.waiting.insert(index);
    }

    /// Stops watching users. Users that are not watched are ignored.
    pub(super) fn unwatch(&mut self, connection: &Connection, users: &[&str]) {
        let index = connection.id.index;
        let Some(watcher) = self.watchers.get_mut(&index) else { return };
        let removed = watcher.users.remove(users);
        let is_restricted = watcher.permissions.is_some();
        if watcher.users.is_empty() {
            self.watchers.remove(&index);
            self.waiting.remove(&index);
        }
        self.remove_pairs(index, removed, is_restricted);
    }

    /// Stops all watching of a connection.
    pub(super) fn forget(&mut self, connection: &Connection) {
        let index = connection.id.index;
        if let Some(watcher) = self.watchers.remove(&index) {
            self.waiting.remove(&index);
            self.remove_pairs(index, watcher.users.into_names(), watcher.permissions.is_some());
        }
    }

    fn remove_pairs(&mut self, index: u32, users: Vec<Arc<str>>, is_restricted: bool) {
        self.node.registry.watchlist.unwatch(self.worker, users.iter(), is_restricted);
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
        watcher.users.request_all();
        self.node.registry.watchlist.request_status(watcher.users.names());
        self.waiting.insert(index);
    }

    /// Whether a planned frame must still be sent to a connection.
    pub(super) fn is_due(&self, connection: &Connection) -> bool {
        self.watchers.get(&connection.id.index).is_some_and(|watcher| !watcher.lagging)
    }

    /// Adds the frames of this tick to the deliveries.
    pub(super) fn plan(&mut self, statuses: &[StatusFrame], deliveries: &mut Deliveries) {
        let mut views = Views::new(statuses);
        // By connection, the numbers of the statuses that it receives.
        let mut due: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, status) in statuses.iter().enumerate() {
            let (first, last) = ((Arc::clone(&status.user), 0), (Arc::clone(&status.user), u32::MAX));
            let watching = || self.pairs.range(first..=last).map(|(_, index)| *index);
            if !self.has_restricted {
                if status.changed {
                    watching().for_each(|index| due.entry(index).or_default().push(at));
                }
                continue;
            }
            for index in watching() {
                let Some(watcher) = self.watchers.get(&index) else { continue };
                let (view, work) = views.of(at, watcher.permissions.as_ref());
                watcher.pay(work, deliveries);
                if let Some(view) = view.filter(|view| view.changed) {
                    due.entry(index).or_default().push(view.number);
                }
            }
        }
        let requested = self.plan_requested(statuses, &mut views, &mut due, deliveries);
        // Connections that receive the same statuses share a frame, for example all that show the same list of users.
        let mut frames: HashMap<(Protocol, Vec<usize>), Bytes> = HashMap::new();
        for (index, selected) in due {
            let Some(watcher) = self.watchers.get_mut(&index).filter(|watcher| !watcher.lagging) else { continue };
            watcher.users.set_requested(selected.iter().map(|number| views.user(*number)), false);
            let key = (watcher.protocol, selected);
            let frame = frames.get(&key).cloned().or_else(|| encode(&self.node, key.0, &views, &key.1));
            let Some(frame) = frame else {
                // Deferred: requested again for the next tick.
                let users: Vec<_> = key.1.iter().map(|number| Arc::clone(views.user(*number))).collect();
                self.node.registry.watchlist.request_status(users.iter());
                watcher.users.set_requested(&users, true);
                self.waiting.insert(index);
                continue;
            };
            frames.entry(key).or_insert_with(|| frame.clone());
            let bytes = requested.get(&index).copied().unwrap_or(0);
            if bytes > 0 {
                let is_repeat = std::mem::take(&mut watcher.asked_again);
                let connection = watcher.connection;
                deliveries.add_requested(Requested { connection, bytes, room: None, is_repeat });
            }
            let frame = deliveries.add(frame, Origin::Statuses);
            deliveries.push(watcher.connection, frame);
        }
    }

    /// Adds the statuses that connections requested and that did not change. Changed ones are in `due` already. Returns
    /// how many bytes that are, by connection.
    fn plan_requested(
        &mut self,
        statuses: &[StatusFrame],
        views: &mut Views<'_>,
        due: &mut BTreeMap<u32, Vec<usize>>,
        deliveries: &mut Deliveries,
    ) -> HashMap<u32, usize, RandomState> {
        let mut bytes = HashMap::default();
        if self.waiting.is_empty() {
            return bytes;
        }
        let by_user = statuses.iter().enumerate().map(|(at, status)| (&*status.user, at));
        let by_user: HashMap<&str, usize, RandomState> = by_user.collect();
        self.waiting.retain(|index| {
            let Some(watcher) = self.watchers.get(index).filter(|watcher| !watcher.lagging) else { return false };
            let (mut is_complete, mut unchanged) = (true, Vec::new());
            for user in watcher.users.requested() {
                let found = by_user.get(&**user).map(|at| views.of(*at, watcher.permissions.as_ref()));
                let (view, work) = found.unwrap_or_default();
                watcher.pay(work, deliveries);
                is_complete &= view.is_some();
                unchanged.extend(view.filter(|view| !view.changed).map(|view| view.number));
            }
            if let Some(format) = watcher.protocol.status_format() {
                bytes.insert(*index, unchanged.iter().map(|number| views.object(*number, format).len()).sum());
            }
            let selected = due.entry(*index).or_default();
            selected.extend(unchanged);
            // In one order, so that equal selections compare equal.
            selected.sort_unstable();
            if selected.is_empty() {
                due.remove(index);
            }
            !is_complete
        });
        bytes
    }
}

impl Watcher {
    fn new(connection: &Connection, permissions: Option<Arc<Permissions>>) -> Self {
        Self {
            permissions,
            connection: connection.id,
            protocol: connection.protocol,
            users: WatchedUsers::default(),
            lagging: false,
            asked_again: false,
        }
    }

    /// Has the client pay for work that only its permissions caused.
    fn pay(&self, work: usize, deliveries: &mut Deliveries) {
        if work > 0 {
            let Self { connection, .. } = *self;
            deliveries.add_requested(Requested { connection, bytes: work, room: None, is_repeat: false });
        }
    }
}

/// The frame with the selected statuses. Deferred (`None`) if it is long and slow clients have too many bytes of unread
/// long frames.
fn encode(node: &Node, protocol: Protocol, views: &Views<'_>, selected: &[usize]) -> Option<Bytes> {
    let (format, encoder) = (protocol.status_format()?, protocol.rules().status?);
    let objects: Vec<&Bytes> = selected.iter().map(|number| views.object(*number, format)).collect();
    let bytes: usize = objects.iter().map(|object| object.len()).sum();
    let budget = &node.status_bytes;
    let fits = bytes < SHORT_BYTES || !budget.is_full(bytes);
    fits.then(|| budget.count((encoder.frame)(&objects)))
}
