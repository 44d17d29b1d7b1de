//! The live truth: which sessions hold whom in which room, sharded by user, and the leases that end them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::{DashMap, Entry};
use foldhash::quality::RandomState;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::lingering::Lingering;
use super::membership::{Membership, User};
use super::requests::Requests;
use super::room::{Reported, Told, Word};
use super::session::{Joined, SessionRooms};
use super::{Audience, AudienceSet, Now, Reason, Room, RoomChange, Said, Session, State, Tick, Watchlist, Wheel};

/// Many more shards than threads, so that two workers rarely meet at one (dashmap's default is 4 × cores).
const SHARDS: usize = 256;

/// How far ahead the wheel looks: longer leases are looked at early and put back. A session that has ended stays in the wheel
/// until it is looked at, so this bounds how many of those there are, however long leases are.
const LEASE_HORIZON_TICKS: Tick = 600;

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
    has_store: bool,
    pub(super) users: DashMap<Arc<str>, User, RandomState>,
    rooms: DashMap<Arc<str>, Arc<Room>, RandomState>,
    /// Sessions of REST heartbeats, by user.
    pub(super) requests: Requests,
    /// Rooms that the next tick visits, each once.
    dirty: Mutex<Vec<Arc<Room>>>,
    leases: Mutex<Wheel<Arc<Session>>>,
    /// Entries in `users`; `DashMap::len` would lock every shard.
    pub(super) online: AtomicUsize,
    next_room: AtomicU64,
    /// Sessions whose connection is lost.
    pub(super) lingering: Lingering,
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
pub struct UserStatus {
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
            requests: Requests::new(),
            dirty: Mutex::default(),
            leases: Mutex::new(Wheel::new(settings.ttl.min(LEASE_HORIZON_TICKS) + 1)),
            online: AtomicUsize::new(0),
            next_room: AtomicU64::new(1),
            lingering: Lingering::new(),
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

    /// Starts a session that has not joined anything yet. Its lease starts now.
    pub fn open_session(&self, user: &str, now: Now) -> Arc<Session> {
        let lease = now.tick + self.settings.ttl;
        let session = Arc::new(Session::new(self.shared_name(user), lease));
        self.watch_lease(lease, Arc::clone(&session));
        session
    }

    /// Starts a session without a lease: no wheel looks at it, and it lasts until its owner ends it.
    pub fn hold_session(&self, user: &str) -> Arc<Session> {
        // Each join writes an ordinary lease over this one, and no wheel looks at either.
        Arc::new(Session::new(self.shared_name(user), 0))
    }

    /// Records a sign of life. A session whose lease had ended is back in its rooms.
    pub fn renew(&self, session: &Arc<Session>, now: Now) {
        if !session.renew(now.tick + self.settings.ttl) {
            self.revive(session, now);
        }
    }

    /// Makes the session's user a member of `room`, or replaces its state there if a state is given.
    pub fn join(&self, session: &Arc<Session>, room: &str, state: Option<State>, now: Now) -> Arc<Room> {
        let state = state.map(|state| state.stamped(now.unix_ms));
        let mut rooms = self.lock_counted(session, now);
        if let Some(joined) = rooms.joined.iter_mut().find(|joined| **joined.room.name() == *room) {
            if state.is_some() {
                joined.state.clone_from(&state);
                self.set_live_state(session.user(), &joined.room, state, now);
            }
            return Arc::clone(&joined.room);
        }
        let room = self.count_in_by_name(session.user(), room, state.as_ref(), now);
        rooms.joined.push(Joined { room: Arc::clone(&room), state });
        room
    }

    /// Replaces the state of a joined room. False if the session has not joined it.
    pub fn set_state(&self, session: &Arc<Session>, room: &str, state: Option<State>, now: Now) -> bool {
        // Other nodes must see that it was cleared after what they have.
        let cleared = || self.has_store.then(|| State::written("", now.unix_ms));
        let state = state.map(|state| state.stamped(now.unix_ms)).or_else(cleared);
        let mut rooms = self.lock_counted(session, now);
        let Some(joined) = rooms.joined.iter_mut().find(|joined| **joined.room.name() == *room) else { return false };
        joined.state.clone_from(&state);
        self.set_live_state(session.user(), &joined.room, state, now);
        true
    }

    /// Takes the session out of one room. False if it had not joined it.
    pub fn leave(&self, session: &Session, room: &str) -> bool {
        let mut rooms = session.rooms.lock();
        let Some(at) = rooms.joined.iter().position(|joined| **joined.room.name() == *room) else { return false };
        let joined = rooms.joined.swap_remove(at);
        if rooms.counted {
            self.count_out(session.user(), &joined.room, Reason::Left);
        }
        true
    }

    /// Says something to those who look at a joined room. False if the session has not joined it, or too much is being said there.
    pub fn say(&self, session: &Arc<Session>, room: &str, data: Box<str>, now: Now) -> bool {
        let rooms = self.lock_counted(session, now);
        let Some(joined) = rooms.joined.iter().find(|joined| **joined.room.name() == *room) else { return false };
        let (reported, taken) = joined.room.say(Said { user: Arc::clone(session.user()), data, from_here: true });
        self.queue(&joined.room, reported);
        taken
    }

    /// Ends the session now: its user leaves wherever this was the last one.
    pub fn end_session(&self, session: &Session, reason: Reason) {
        let mut rooms = session.rooms.lock();
        session.end();
        self.count_out_all(session, &mut rooms, reason);
        rooms.joined = SmallVec::new();
    }

    /// Lets the session linger without an owner: it ends when its lease does, but no later than `grace` ticks from now.
    pub fn abandon_session(&self, session: &Arc<Session>, grace: Tick, now: Now) {
        self.lingering.add(session);
        if grace < self.settings.ttl {
            session.shorten(now.tick + grace);
            self.watch_lease(now.tick + grace, Arc::clone(session));
        }
    }

    /// Ends the sessions whose lease has run out.
    pub fn end_leases(&self, now: Now) {
        let mut due = Vec::new();
        self.leases.lock().take_due(now.tick, &mut due);
        let mut alive = Vec::with_capacity(due.len());
        for session in due {
            let Some(lease) = session.lease() else { continue };
            if now.tick <= lease {
                alive.push((lease, session));
            } else if !session.end_unless_renewed(lease) || !self.lapse(&session) {
                alive.push((now.tick, session));
            }
        }
        let mut leases = self.leases.lock();
        for (lease, session) in alive {
            leases.insert(lease + 1, session);
        }
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
        room.settle(|user| self.last_word(user, room))
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
    pub fn status(&self, user: &str) -> Option<UserStatus> {
        let user = self.users.get(user)?;
        let online = user.memberships.iter().filter(|membership| membership.is_online());
        let rooms: Vec<_> = online.map(|membership| Arc::clone(membership.room.name())).collect();
        (!rooms.is_empty()).then_some(UserStatus { rooms, since_unix_ms: user.since_unix_ms })
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

    fn watch_lease(&self, lease: Tick, session: Arc<Session>) {
        self.leases.lock().insert(lease + 1, session);
    }

    /// Renews the session and holds its rooms at a moment when it counts in them.
    fn lock_counted<'a>(&self, session: &'a Arc<Session>, now: Now) -> MutexGuard<'a, SessionRooms> {
        loop {
            self.renew(session, now);
            let rooms = session.rooms.lock();
            if rooms.counted {
                return rooms;
            }
        }
    }

    /// Counts a session out whose lease has just ended. False if it was renewed meanwhile and must be watched on.
    fn lapse(&self, session: &Arc<Session>) -> bool {
        let mut rooms = session.rooms.lock();
        if session.lease().is_some() {
            return false;
        }
        self.count_out_all(session, &mut rooms, Reason::Timeout);
        drop(rooms);
        self.lingering.remove(session);
        self.requests.forget(session);
        true
    }

    /// Counts a session in again that lapsed and then gave a sign of life.
    fn revive(&self, session: &Arc<Session>, now: Now) {
        let mut rooms = session.rooms.lock();
        if rooms.counted {
            return; // It never lapsed: the end of its lease was overtaken by this sign of life, and the wheel keeps it.
        }
        rooms.counted = true;
        for joined in &mut rooms.joined {
            let name = Arc::clone(joined.room.name());
            // Others may have written a state meanwhile, and the last one written wins.
            let state = joined.state.as_ref().filter(|_| !self.is_member(session.user(), &name));
            joined.room = self.count_in_by_name(session.user(), &name, state, now);
        }
        drop(rooms);
        self.watch_lease(now.tick + self.settings.ttl, Arc::clone(session));
    }

    fn is_member(&self, user: &str, room: &str) -> bool {
        let Some(user) = self.users.get(user) else { return false };
        user.memberships.iter().any(|membership| **membership.room.name() == *room && membership.sessions > 0)
    }

    fn count_out_all(&self, session: &Session, rooms: &mut SessionRooms, reason: Reason) {
        if std::mem::replace(&mut rooms.counted, false) {
            for joined in &rooms.joined {
                self.count_out(session.user(), &joined.room, reason);
            }
        }
    }

    fn count_in_by_name(&self, user: &Arc<str>, room: &str, state: Option<&State>, now: Now) -> Arc<Room> {
        loop {
            let room = self.room_or_new(room);
            let reported = self.count_in(user, &room, state, now);
            if reported != Reported::Closed {
                self.queue(&room, reported);
                return room;
            }
        }
    }

    /// Adds a session to the membership, which it creates if need be. An existing membership keeps its room open.
    fn count_in(&self, user: &Arc<str>, room: &Arc<Room>, state: Option<&State>, now: Now) -> Reported {
        let mut entry = match self.users.entry(Arc::clone(user)) {
            Entry::Occupied(entry) => entry.into_ref(),
            Entry::Vacant(entry) => {
                let reported = room.report(user);
                if reported != Reported::Closed {
                    let memberships = SmallVec::from_buf([Membership::new(room, state)]);
                    entry.insert(User { since_unix_ms: now.unix_ms, memberships });
                    self.online.fetch_add(1, Ordering::Relaxed);
                }
                return reported;
            }
        };
        let Some(membership) = entry.membership(room) else {
            let reported = room.report(user);
            if reported != Reported::Closed {
                entry.memberships.push(Membership::new(room, state));
            }
            return reported;
        };
        if membership.sessions == 0 || state.is_some() {
            membership.state = state.cloned().map(|state| membership.dated(state, now));
            membership.moved = true;
        }
        membership.sessions += 1;
        membership.report(user)
    }

    fn count_out(&self, user: &Arc<str>, room: &Arc<Room>, reason: Reason) {
        self.with_membership(user, room, |membership| {
            membership.sessions -= 1;
            membership.reason = reason;
            membership.sessions == 0
        });
    }

    fn set_live_state(&self, user: &Arc<str>, room: &Arc<Room>, state: Option<State>, now: Now) {
        self.with_membership(user, room, |membership| {
            // Beside other nodes' states it matters when it was written, even if it says what it said before.
            let changed = membership.state != state || self.has_store;
            membership.state = state.map(|state| membership.dated(state, now));
            changed
        });
    }

    /// Changes a membership, and reports it to its room if `change` says that there is something to announce.
    fn with_membership(&self, user: &Arc<str>, room: &Arc<Room>, change: impl FnOnce(&mut Membership) -> bool) {
        let Some(mut entry) = self.users.get_mut(user) else { return };
        let Some(membership) = entry.membership(room) else { return };
        if change(membership) {
            membership.moved = true;
            let reported = membership.report(user);
            drop(entry);
            self.queue(room, reported);
        }
    }

    /// What the live truth says about a user in a room's inbox, and what of that the store does not know; a membership that
    /// nobody holds goes away with it.
    fn last_word(&self, user: &Arc<str>, room: &Arc<Room>) -> (Word, Option<Told>) {
        let gone = || (Word::Offline(Reason::Left), None);
        let Entry::Occupied(mut entry) = self.users.entry(Arc::clone(user)) else { return gone() };
        let memberships = &mut entry.get_mut().memberships;
        let Some(at) = memberships.iter().position(|membership| Arc::ptr_eq(&membership.room, room)) else {
            return gone();
        };
        memberships[at].pending = false;
        let told = if self.has_store { memberships[at].tell() } else { None };
        if memberships[at].is_online() {
            return (Word::Online(memberships[at].shown_state()), told);
        }
        let reason = memberships.remove(at).reason;
        if memberships.is_empty() {
            entry.remove();
            self.online.fetch_sub(1, Ordering::Relaxed);
        }
        (Word::Offline(reason), told)
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
