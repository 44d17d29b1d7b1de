//! The live state: which sessions and other nodes hold which users in which rooms, sharded by user.

mod members;
mod room_limit;
mod sessions;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicU64, Ordering};

use dashmap::DashMap;
use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::first_joins::FirstJoins;
use super::grace::GraceSessions;
use super::histories::Histories;
use super::holders::Holders;
use super::lease_wheel::LeaseWheel;
use super::memberships::User;
use super::remote_observers::RemoteObservers;
use super::rest_sessions::RestSessions;
use super::room::Reported;
use super::room_quota::RoomQuota;
use super::{ApplicationMessages, Audience, AudienceSet, Room, RoomChange, State, Tick, Watchlist, is_hidden, sharded};
use crate::quota::Quota;

pub use status::UserRooms;

/// The settings of a registry.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The length of a lease: a session that is silent for more ticks ends.
    pub ttl: Tick,
    /// The number of worker threads. Rooms count their observers per worker.
    pub workers: usize,
    /// Identifies this incarnation of the node. The first part of each epoch.
    pub incarnation: u64,
}

/// All users who are online, and all rooms.
#[derive(Debug)]
pub struct Registry {
    pub(super) settings: Settings,
    /// Whether settling a room collects [`RoomChange::hold_changes`] for the store.
    pub(super) has_store: bool,
    pub(super) users: DashMap<Arc<str>, User, RandomState>,
    rooms: DashMap<Arc<str>, Arc<Room>, RandomState>,
    /// How many observers rooms have on other nodes.
    pub(super) remote_observers: RemoteObservers,
    /// Sessions of REST heartbeats, by user.
    pub(super) rest_sessions: RestSessions,
    /// Rooms that the next tick settles, each once.
    dirty: Mutex<Vec<Arc<Room>>>,
    pub(super) lease_wheel: LeaseWheel,
    /// Entries in `users` that are not hidden.
    online: AtomicIsize,
    /// Entries in `rooms` that are not hidden.
    open: AtomicIsize,
    next_room: AtomicU64,
    room_quota: RoomQuota,
    /// States that clients of this node set.
    states: Arc<Quota>,
    /// The length of the histories of all rooms.
    histories: Arc<Histories>,
    /// Sessions whose connection is lost.
    pub(super) grace: GraceSessions,
    /// Users that connections watch by user id.
    pub watchlist: Watchlist,
    /// When the first join since the last tick was commanded.
    pub first_joins: FirstJoins,
    /// Messages of the application to users, for the next tick.
    pub application_messages: ApplicationMessages,
    /// If sinks listen: which nodes hold what this node holds, so that one of them reports each change.
    pub(super) holders: Option<Holders>,
}

/// The observation of a room, as [`Registry::observe`] began it.
#[derive(Debug)]
pub struct Attachment {
    /// The room.
    pub room: Arc<Room>,
    /// The generation of the request: the first update of a later generation serves it.
    pub generation: u64,
}

impl Registry {
    /// An empty registry without a store.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            has_store: false,
            users: sharded(),
            rooms: sharded(),
            remote_observers: RemoteObservers::default(),
            rest_sessions: RestSessions::new(),
            dirty: Mutex::default(),
            lease_wheel: LeaseWheel::new(settings.ttl),
            online: AtomicIsize::new(0),
            open: AtomicIsize::new(0),
            next_room: AtomicU64::new(1),
            room_quota: RoomQuota::new(u64::MAX),
            states: Arc::new(Quota::in_all(u64::MAX)),
            histories: Arc::default(),
            grace: GraceSessions::new(),
            watchlist: Watchlist::new(settings.workers),
            first_joins: FirstJoins::new(settings.workers),
            application_messages: ApplicationMessages::default(),
            holders: None,
        }
    }

    /// An empty registry that collects [`RoomChange::hold_changes`] for a store.
    #[must_use]
    pub fn with_store(settings: Settings) -> Self {
        Self { has_store: true, ..Self::new(settings) }
    }

    /// Has it count rooms, and bytes of states, against these limits.
    #[must_use]
    pub fn with_limits(self, rooms: u64, state_bytes: u64) -> Self {
        let states = Arc::new(Quota::in_all(state_bytes / State::UNIT_BYTES));
        Self { room_quota: RoomQuota::new(rooms), states, ..self }
    }

    /// What clients of this node hold of states, in units.
    #[must_use]
    pub fn states(&self) -> &Arc<Quota> {
        &self.states
    }

    /// Has it remember which nodes hold what this node holds.
    #[must_use]
    pub fn with_holders(self) -> Self {
        Self { holders: Some(Holders::new(self.settings.incarnation)), ..self }
    }

    /// Has it remember the rooms of applications whose observers on other nodes change.
    #[must_use]
    pub fn with_observer_changes(mut self) -> Self {
        self.remote_observers.track_changes();
        self
    }

    /// Identifies this run of the node.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.settings.incarnation
    }

    /// Whether it collects [`RoomChange::hold_changes`] for a store.
    #[must_use]
    pub fn has_store(&self) -> bool {
        self.has_store
    }

    /// Starts to observe a room, which may be empty. `snapshot` is false if the client wants to resume from the
    /// history.
    pub fn observe(&self, room: &str, worker: usize, audience: Audience, snapshot: bool) -> Attachment {
        loop {
            let room = self.room_or_new(room);
            let reported = room.count_observer(worker, audience, 1);
            if reported != Reported::Closed {
                self.queue(&room, reported);
                let generation = self.request_snapshot(&room, audience, snapshot);
                return Attachment { room, generation };
            }
        }
    }

    /// Requests a snapshot at the next tick (or only an update, if `snapshot` is false), for an observer that the room
    /// counts already. Returns the generation of the request.
    pub fn request_snapshot(&self, room: &Arc<Room>, audience: Audience, snapshot: bool) -> u64 {
        let (reported, generation) = room.request_snapshot(audience, snapshot);
        self.queue(room, reported);
        generation
    }

    /// Ends an observation that [`Registry::observe`] began.
    pub fn unobserve(&self, room: &Arc<Room>, worker: usize, audience: Audience) {
        let reported = room.count_observer(worker, audience, -1);
        self.queue(room, reported);
    }

    /// Makes the next tick settle the room again, with these snapshots still requested.
    pub fn defer(&self, room: &Arc<Room>, requested: AudienceSet) {
        let reported = room.defer(requested);
        self.queue(room, reported);
    }

    /// Gives up the diffs that rooms keep for clients that resume.
    pub fn give_up_histories(&self) {
        self.histories.give_up(0);
    }

    /// Takes the rooms to settle: those with a change, a message or a request since the last call.
    pub fn take_dirty(&self) -> Vec<Arc<Room>> {
        std::mem::take(&mut *self.dirty.lock())
    }

    /// Makes the live state of a room the announced one, and returns what changed.
    pub fn settle(&self, room: &Arc<Room>) -> RoomChange {
        room.settle(|user| self.live_state(user, room))
    }

    /// Removes the room if it has neither members nor observers.
    pub fn close_if_unused(&self, room: &Room) {
        if self.rooms.remove_if(room.name(), |_, known| known.id() == room.id() && known.try_close()).is_some() {
            self.room_quota.removed(room);
            count(&self.open, room.name(), -1);
        }
    }

    /// The room with this name, if it exists.
    #[must_use]
    pub fn room(&self, name: &str) -> Option<Arc<Room>> {
        self.rooms.get(name).map(|room| Arc::clone(&room))
    }

    /// All rooms, in no particular order. Locks one shard after the other.
    #[must_use]
    pub fn rooms(&self) -> Vec<Arc<Room>> {
        self.rooms.iter().map(|room| Arc::clone(&room)).collect()
    }

    /// The number of users who are in at least one room, without hidden users.
    #[must_use]
    pub fn users_online(&self) -> usize {
        self.online.load(Ordering::Relaxed).unsigned_abs()
    }

    /// The number of rooms with a member or an observer, without hidden rooms.
    #[must_use]
    pub fn rooms_open(&self) -> usize {
        self.open.load(Ordering::Relaxed).unsigned_abs()
    }

    /// A user has come online, or gone offline.
    fn count_online(&self, user: &str, change: isize) {
        count(&self.online, user, change);
    }

    /// The user id as the registry stores it already, or a new copy.
    pub(in crate::presence) fn shared_name(&self, user: &str) -> Arc<str> {
        self.users.get(user).map_or_else(|| Arc::from(user), |entry| Arc::clone(entry.key()))
    }

    /// The room with this name, which is created if it does not exist.
    pub(in crate::presence) fn room_or_new(&self, name: &str) -> Arc<Room> {
        if let Some(room) = self.room(name) {
            return room;
        }
        let name: Arc<str> = Arc::from(name);
        let room = self.rooms.entry(Arc::clone(&name)).or_insert_with(|| {
            let id = self.next_room.fetch_add(1, Ordering::Relaxed);
            self.room_quota.created();
            count(&self.open, &name, 1);
            let epoch = format!("{:x}-{id:x}", self.settings.incarnation).into_boxed_str();
            Arc::new(Room::new(id, name, epoch, self.settings.workers, Arc::clone(&self.histories)))
        });
        Arc::clone(&room)
    }

    /// Adds the room to the dirty list if the report requires it.
    pub(in crate::presence) fn queue(&self, room: &Arc<Room>, reported: Reported) {
        if reported == Reported::Queue {
            self.dirty.lock().push(Arc::clone(room));
        }
    }
}

/// Adds to the number of users or rooms, unless this one is hidden.
fn count(number: &AtomicIsize, name: &str, change: isize) {
    if !is_hidden(name) {
        number.fetch_add(change, Ordering::Relaxed);
    }
}
