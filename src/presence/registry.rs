//! The live truth: which sessions hold whom in which room, sharded by user.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::grace::GraceSessions;
use super::leases::Leases;
use super::membership::User;
use super::rest_sessions::RestSessions;
use super::room::Reported;
use super::session::Joined;
use super::{Audience, AudienceSet, Now, Reason, Room, RoomChange, RoomMessage, Session, State, Tick, Watchlist};

/// Many more shards than threads, so that two workers rarely meet at one (dashmap's default is 4 × cores).
const SHARDS: usize = 256;

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
    pub(super) requests: RestSessions,
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
}

/// Where an observer stands in line.
#[derive(Debug)]
pub struct Attachment {
    /// The room.
    pub room: Arc<Room>,
    /// Served by the first update of a later generation than this.
    pub generation: u64,
}

/// One user as `POST /v1/users/status` shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct UserRooms {
    /// Rooms where the user is online, in the order joined.
    pub rooms: Vec<Arc<str>>,
    /// Milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
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
            requests: RestSessions::new(),
            dirty: Mutex::default(),
            leases: Leases::new(settings.ttl),
            online: AtomicUsize::new(0),
            next_room: AtomicU64::new(1),
            grace: GraceSessions::new(),
            watchlist: Watchlist::new(settings.workers),
        }
    }

    /// An empty one that hands out what a store is to be told ([`RoomChange::told`]).
    #[must_use]
    pub fn with_store(settings: Settings) -> Self {
        Self { has_store: true, ..Self::new(settings) }
    }

    /// Whether a store is to be told what changes.
    #[must_use]
    pub fn has_store(&self) -> bool {
        self.has_store
    }

    /// Makes the session's user a member of `room`, or replaces its state there if a state is given.
    pub fn join(&self, session: &Arc<Session>, room: &str, state: Option<State>, now: Now) -> Arc<Room> {
        let state = state.map(|state| state.stamped(now.unix_ms));
        let mut rooms = self.lock_counted(session, now);
        if let Some(joined) = rooms.joined.iter_mut().find(|joined| joined.room.is_named(room)) {
            if state.is_some() {
                joined.state.clone_from(&state);
                self.set_live_state(session.user(), &joined.room, state, now);
            }
            return Arc::clone(&joined.room);
        }
        let room = self.count_in(session.user(), room, state.as_ref(), now);
        rooms.joined.push(Joined { room: Arc::clone(&room), state });
        room
    }

    /// Replaces the state of a joined room. False if the session has not joined it.
    pub fn set_state(&self, session: &Arc<Session>, room: &str, state: Option<State>, now: Now) -> bool {
        // Other nodes must see that it was cleared after what they have.
        let cleared = || self.has_store.then(|| State::written("", now.unix_ms));
        let state = state.map(|state| state.stamped(now.unix_ms)).or_else(cleared);
        let mut rooms = self.lock_counted(session, now);
        let Some(joined) = rooms.joined.iter_mut().find(|joined| joined.room.is_named(room)) else { return false };
        joined.state.clone_from(&state);
        self.set_live_state(session.user(), &joined.room, state, now);
        true
    }

    /// Takes the session out of one room. False if it had not joined it.
    pub fn leave(&self, session: &Session, room: &str) -> bool {
        let mut rooms = session.rooms.lock();
        let Some(at) = rooms.joined.iter().position(|joined| joined.room.is_named(room)) else { return false };
        let joined = rooms.joined.swap_remove(at);
        if rooms.counted {
            self.count_out(session.user(), &joined.room, Reason::Left);
        }
        true
    }

    /// Says something to those who look at a joined room. False if the session has not joined it, or too much is being said there.
    pub fn publish(&self, session: &Arc<Session>, room: &str, data: Box<str>, now: Now) -> bool {
        let rooms = self.lock_counted(session, now);
        let Some(joined) = rooms.joined.iter().find(|joined| joined.room.is_named(room)) else { return false };
        let (reported, taken) =
            joined.room.publish(RoomMessage { user: Arc::clone(session.user()), data, from_here: true });
        self.queue(&joined.room, reported);
        taken
    }

    /// Starts to observe a room; it need not have members. Ask with `snapshot: false` if history will do.
    pub fn observe(&self, room: &str, worker: usize, audience: Audience, snapshot: bool) -> Attachment {
        loop {
            let room = self.room_or_new(room);
            let reported = room.count_observer(worker, audience, 1);
            if reported != Reported::Closed {
                self.queue(&room, reported);
                let generation = self.ask(&room, audience, snapshot);
                return Attachment { room, generation };
            }
        }
    }

    /// Asks for a snapshot at the next tick, for an observer that the room counts already. Returns the generation of the asking.
    pub fn ask(&self, room: &Arc<Room>, audience: Audience, snapshot: bool) -> u64 {
        let (reported, generation) = room.want(audience, snapshot);
        self.queue(room, reported);
        generation
    }

    /// Ends an observation that `observe` began.
    pub fn unobserve(&self, room: &Arc<Room>, worker: usize, audience: Audience) {
        let reported = room.count_observer(worker, audience, -1);
        self.queue(room, reported);
    }

    /// Has the next tick visit the room again, with these snapshots still wanted.
    pub fn revisit(&self, room: &Arc<Room>, wanted: AudienceSet) {
        let reported = room.revisit(wanted);
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

    /// Where the user is online at this moment; `None` if nowhere.
    #[must_use]
    pub fn status(&self, user: &str) -> Option<UserRooms> {
        let user = self.users.get(user)?;
        let online = user.memberships.iter().filter(|membership| membership.is_online());
        let rooms: Vec<_> = online.map(|membership| Arc::clone(membership.room.name())).collect();
        (!rooms.is_empty()).then_some(UserRooms { rooms, since_unix_ms: user.since_unix_ms })
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
    pub(super) fn shared_name(&self, user: &str) -> Arc<str> {
        self.users.get(user).map_or_else(|| Arc::from(user), |entry| Arc::clone(entry.key()))
    }

    pub(super) fn room_or_new(&self, name: &str) -> Arc<Room> {
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

    pub(super) fn queue(&self, room: &Arc<Room>, reported: Reported) {
        if reported == Reported::Queue {
            self.dirty.lock().push(Arc::clone(room));
        }
    }
}

pub(super) fn sharded<V>() -> DashMap<Arc<str>, V, RandomState> {
    DashMap::with_capacity_and_hasher_and_shard_amount(0, RandomState::default(), SHARDS)
}
