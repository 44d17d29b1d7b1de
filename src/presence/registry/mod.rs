//! The live truth: which sessions hold whom in which room, sharded by user.

mod members;
mod sessions;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::grace::GraceSessions;
use super::holders::Holders;
use super::leases::Leases;
use super::membership::User;
use super::rest_sessions::RestSessions;
use super::room::Reported;
use super::{Audience, AudienceSet, Room, RoomChange, Tick, Watchlist, sharded};

pub use status::UserRooms;

/// What the registry has to know about its surroundings.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// A session silent for longer than this many ticks has ended.
    pub ttl: Tick,
    /// Worker threads that observe on behalf of their connections.
    pub workers: usize,
    /// Distinguishes this run of the node from every other: the first part of each epoch.
    pub incarnation: u64,
}

/// Everybody who is here.
#[derive(Debug)]
pub struct Registry {
    pub(super) settings: Settings,
    /// Other nodes are to know what sessions of this one do: each tick hands it out.
    pub(super) has_store: bool,
    pub(super) users: DashMap<Arc<str>, User, RandomState>,
    rooms: DashMap<Arc<str>, Arc<Room>, RandomState>,
    /// Sessions of REST heartbeats, by user.
    pub(super) rest_sessions: RestSessions,
    /// Rooms that the next tick visits, each once.
    dirty: Mutex<Vec<Arc<Room>>>,
    pub(super) leases: Leases,
    /// Entries in `users`; `DashMap::len` would lock every shard.
    pub(super) online: AtomicUsize,
    next_room: AtomicU64,
    /// Sessions whose connection is lost.
    pub(super) grace: GraceSessions,
    /// Users whom somebody watches by name.
    pub watchlist: Watchlist,
    /// If sinks listen: which nodes hold what this node holds, so that one of them reports each change.
    pub holders: Option<Holders>,
}

/// Where an observer stands in line.
#[derive(Debug)]
pub struct Attachment {
    /// The room.
    pub room: Arc<Room>,
    /// Served by the first update of a later generation than this.
    pub generation: u64,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            has_store: false,
            users: sharded(),
            rooms: sharded(),
            rest_sessions: RestSessions::new(),
            dirty: Mutex::default(),
            leases: Leases::new(settings.ttl),
            online: AtomicUsize::new(0),
            next_room: AtomicU64::new(1),
            grace: GraceSessions::new(),
            watchlist: Watchlist::new(settings.workers),
            holders: None,
        }
    }

    /// An empty one that hands out what a store is to be told ([`RoomChange::told`]).
    #[must_use]
    pub fn with_store(settings: Settings) -> Self {
        Self { has_store: true, ..Self::new(settings) }
    }

    /// Has it remember which nodes hold what this node holds.
    #[must_use]
    pub fn with_holders(self) -> Self {
        Self { holders: Some(Holders::new(self.settings.incarnation)), ..self }
    }

    /// Whether a store is to be told what changes.
    #[must_use]
    pub fn has_store(&self) -> bool {
        self.has_store
    }

    /// Starts to observe a room; it need not have members. Ask with `snapshot: false` if history will do.
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

    /// Asks for a snapshot at the next tick, for an observer that the room counts already. Returns the generation of the asking.
    pub fn request_snapshot(&self, room: &Arc<Room>, audience: Audience, snapshot: bool) -> u64 {
        let (reported, generation) = room.request_snapshot(audience, snapshot);
        self.queue(room, reported);
        generation
    }

    /// Ends an observation that `observe` began.
    pub fn unobserve(&self, room: &Arc<Room>, worker: usize, audience: Audience) {
        let reported = room.count_observer(worker, audience, -1);
        self.queue(room, reported);
    }

    /// Has the next tick settle the room again, with these snapshots still requested.
    pub fn defer(&self, room: &Arc<Room>, requested: AudienceSet) {
        let reported = room.defer(requested);
        self.queue(room, reported);
    }

    /// Takes the rooms in which something has changed since the last call.
    pub fn take_dirty(&self) -> Vec<Arc<Room>> {
        std::mem::take(&mut *self.dirty.lock())
    }

    /// Moves the announced state of a room to the live one and says what that changed.
    pub fn settle(&self, room: &Arc<Room>) -> RoomChange {
        room.settle(|user| self.live_state(user, room))
    }

    /// Forgets the room if nobody is in it and nobody looks at it.
    pub fn close_if_unused(&self, room: &Room) {
        self.rooms.remove_if(room.name(), |_, held| held.id() == room.id() && held.try_close());
    }

    /// The room of that name, if there is one.
    #[must_use]
    pub fn room(&self, name: &str) -> Option<Arc<Room>> {
        self.rooms.get(name).map(|room| Arc::clone(&room))
    }

    /// All rooms, in no order. Locks one shard after the other.
    #[must_use]
    pub fn rooms(&self) -> Vec<Arc<Room>> {
        self.rooms.iter().map(|room| Arc::clone(&room)).collect()
    }

    /// Users who are in at least one room.
    #[must_use]
    pub fn users_online(&self) -> usize {
        self.online.load(Ordering::Relaxed)
    }

    /// Rooms with a member or an observer.
    #[must_use]
    pub fn rooms_open(&self) -> usize {
        self.rooms.len()
    }

    /// The user's name as it is held already, or a new copy.
    pub(in crate::presence) fn shared_name(&self, user: &str) -> Arc<str> {
        self.users.get(user).map_or_else(|| Arc::from(user), |entry| Arc::clone(entry.key()))
    }

    pub(in crate::presence) fn room_or_new(&self, name: &str) -> Arc<Room> {
        if let Some(room) = self.room(name) {
            return room;
        }
        let name: Arc<str> = Arc::from(name);
        let room = self.rooms.entry(Arc::clone(&name)).or_insert_with(|| {
            let id = self.next_room.fetch_add(1, Ordering::Relaxed);
            let epoch = format!("{:x}-{id:x}", self.settings.incarnation).into_boxed_str();
            Arc::new(Room::new(id, name, epoch, self.settings.workers))
        });
        Arc::clone(&room)
    }

    pub(in crate::presence) fn queue(&self, room: &Arc<Room>, reported: Reported) {
        if reported == Reported::Queue {
            self.dirty.lock().push(Arc::clone(room));
        }
    }
}
