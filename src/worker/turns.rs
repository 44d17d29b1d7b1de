//! Whose turn it is when the clients of a worker want to change more than one tick can carry.
//!
//! Near that limit, a message that may cause many changes is not read until it is its connection's turn. Addresses take
//! turns, and so do the users of an address, so that a thousand connections of one client delay others as much as one
//! does. Short messages need not wait for a turn as long as their address has caused little in this tick.
//!
//! What a message may cause follows from its length, so it is known before the message is decoded.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::Worker;
use super::addresses::Addresses;
use crate::connection::{Connection, ConnectionId, Phase};
use crate::peer::PeerAddress;

/// Changes that all connections of a worker may leave for the tick: at some 10 µs each, there and here, less than a
/// tick. Then nothing is handled that may change something.
const CHANGES_PER_TICK: u32 = 8192;
/// After this many changes in a tick, only short messages are handled out of turn.
const CHANGES_BEFORE_TURNS: u32 = CHANGES_PER_TICK / 4 * 3;
/// The changes of one address that are handled out of turn in a tick, once messages have to wait. A client that opens a
/// page needs about ten.
const CHANGES_OUT_OF_TURN: u32 = 64;
/// A turn ends after this many changes. One message may cause more.
const CHANGES_PER_TURN: u32 = 32;
/// The length of the shortest message that changes something: `{"type":"join","room":"r"}`. Heartbeats are shorter.
const JOIN_BYTES: usize = 26;
/// Messages up to this length are short: 128 watched users fit, which is 32 changes.
const SHORT_BYTES: usize = 512;

/// The connections that wait, by user.
type Users = Ring<Option<Arc<str>>, BTreeMap<u64, ConnectionId>>;

/// The changes since the last tick, and the connections that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    changes: u32,
    /// Whether messages may have to wait. Kept, because every read asks for it.
    is_tight: bool,
    /// What the present turn may still change, if there is one.
    turn: Option<u32>,
    waiting: Ring<Option<PeerAddress>, Users>,
    /// Where each waiting connection is, by serial number.
    places: HashMap<u32, Place, RandomState>,
    next_number: u64,
    /// The changes of each address since messages may have to wait.
    out_of_turn: HashMap<Holder, u32, RandomState>,
}

#[derive(Debug, Clone)]
struct Place {
    address: Option<PeerAddress>,
    user: Option<Arc<str>>,
    number: u64,
}

/// Who causes changes: an address, or a user on this machine.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Holder {
    Address(PeerAddress),
    User(Option<Arc<str>>),
}

impl Holder {
    fn of(address: Option<PeerAddress>, user: impl FnOnce() -> Option<Arc<str>>) -> Self {
        address.map_or_else(|| Self::User(user()), Self::Address)
    }
}

fn user(connection: &Connection) -> Option<Arc<str>> {
    connection.session().map(|session| Arc::clone(session.user()))
}

impl Turns {
    /// Whether messages may have to wait for a turn.
    #[inline]
    pub(super) fn is_tight(&self) -> bool {
        self.is_tight
    }

    /// Whether this is a turn. Then as much is read as usual.
    pub(super) fn is_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// A tick has taken the changes.
    pub(super) fn start_tick(&mut self) {
        self.changes = 0;
        self.out_of_turn = HashMap::default();
        self.update();
    }

    /// A connection has left changes for the tick.
    pub(super) fn count(&mut self, connection: &Connection, addresses: &Addresses, changes: u32) {
        if changes == 0 {
            return;
        }
        self.changes = self.changes.saturating_add(changes);
        if let Some(left) = &mut self.turn {
            *left = left.saturating_sub(changes);
        } else if self.is_tight {
            *self.out_of_turn.entry(Holder::of(addresses.limited(connection), || user(connection))).or_default() +=
                changes;
        }
        self.update();
    }

    fn update(&mut self) {
        self.is_tight = self.changes > CHANGES_BEFORE_TURNS || !self.places.is_empty();
    }

    /// Whether a message of this length may be handled now.
    fn admits(&self, bytes: usize, holder: impl FnOnce() -> Holder) -> bool {
        if !self.is_tight || bytes < JOIN_BYTES {
            return true;
        }
        match self.turn {
            Some(left) => left > 0,
            None if bytes > SHORT_BYTES => false,
            None => {
                let caused = self.out_of_turn.get(&holder()).copied().unwrap_or(0);
                self.changes < CHANGES_PER_TICK && caused < CHANGES_OUT_OF_TURN
            }
        }
    }

    fn push(&mut self, connection: &Connection, address: Option<PeerAddress>, user: Option<Arc<str>>) {
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.entry(address).entry(user.clone()).insert(number, connection.id);
        self.places.insert(connection.id.serial, Place { address, user, number });
        self.update();
    }

    /// The connection whose turn it is.
    fn pop(&mut self) -> Option<ConnectionId> {
        let id = self.waiting.rotate(|users| users.rotate(|queue| queue.pop_first().map(|(_, id)| id)))?;
        self.places.remove(&id.serial);
        self.update();
        Some(id)
    }

    /// A connection has ended.
    pub(super) fn forget(&mut self, serial: u32) {
        if self.places.is_empty() {
            return;
        }
        let Some(Place { address, user, number }) = self.places.remove(&serial) else { return };
        self.waiting.remove(&address, |users| {
            users.remove(&user, |queue| {
                queue.remove(&number);
            });
        });
        self.update();
    }

    /// Whether a connection waits for its turn.
    pub(super) fn is_waiting(&self, serial: u32) -> bool {
        !self.places.is_empty() && self.places.contains_key(&serial)
    }
}

impl Worker {
    /// Whether the next message of a connection has to wait for a turn. The connection is not read until then.
    pub(super) fn must_wait_for_turn(&mut self, connection: &mut Connection, message_bytes: usize) -> bool {
        let holder = || Holder::of(self.addresses.limited(connection), || user(connection));
        let must_wait = connection.phase == Phase::Open && !self.turns.admits(message_bytes, holder);
        if must_wait {
            self.wait_for_turn(connection, user(connection));
        }
        must_wait
    }

    /// The same for the greeting of a new connection, which joins this many rooms.
    pub(super) fn must_wait_for_greeting(
        &mut self,
        connection: &mut Connection,
        user: Option<&str>,
        rooms: usize,
    ) -> bool {
        let user = || user.map(Arc::from);
        let must_wait =
            !self.turns.admits(rooms.max(1) * JOIN_BYTES, || Holder::of(self.addresses.limited(connection), user));
        if must_wait {
            self.wait_for_turn(connection, user());
        }
        must_wait
    }

    fn wait_for_turn(&mut self, connection: &mut Connection, user: Option<Arc<str>>) {
        connection.is_paused = true;
        if !self.turns.is_waiting(connection.id.serial) {
            self.turns.push(connection, self.addresses.limited(connection), user);
            self.counters.turns_waited.add(1);
        }
    }

    /// Begins the turn of the next connection that waits. `None` if none waits, or none may change anything any more in
    /// this tick.
    pub(super) fn begin_turn(&mut self) -> Option<ConnectionId> {
        if !self.has_turn() {
            return None;
        }
        let id = self.turns.pop()?;
        self.turns.turn = Some(CHANGES_PER_TURN);
        Some(id)
    }

    /// Whether a connection waits that may have its turn now.
    pub(super) fn has_turn(&self) -> bool {
        !self.turns.places.is_empty() && self.turns.changes <= CHANGES_BEFORE_TURNS
    }

    /// Ends the turn.
    pub(super) fn end_turn(&mut self) {
        self.turns.turn = None;
    }

    /// Whether the connection whose turn it is has not changed anything yet.
    pub(super) fn is_turn_unused(&self) -> bool {
        self.turns.turn == Some(CHANGES_PER_TURN)
    }
}

/// Queues that take turns, one per key.
#[derive(Debug)]
struct Ring<K, Q> {
    queues: BTreeMap<u64, (K, Q)>,
    places: HashMap<K, u64, RandomState>,
    next_place: u64,
}

/// A queue in a ring.
trait Queue: Default {
    fn is_empty(&self) -> bool;
}

impl Queue for BTreeMap<u64, ConnectionId> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<K, Q> Queue for Ring<K, Q> {
    fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

impl<K, Q> Default for Ring<K, Q> {
    fn default() -> Self {
        Self { queues: BTreeMap::new(), places: HashMap::default(), next_place: 0 }
    }
}

impl<K: Clone + Eq + Hash, Q: Queue> Ring<K, Q> {
    /// The queue of a key. A new one is the last to have its turn.
    fn entry(&mut self, key: K) -> &mut Q {
        let place = *self.places.entry(key.clone()).or_insert_with(|| {
            self.next_place += 1;
            self.next_place
        });
        &mut self.queues.entry(place).or_insert_with(|| (key, Q::default())).1
    }

    /// Takes an item of the queue whose turn it is. Then the queue is the last one, if it is not empty.
    fn rotate<T>(&mut self, take: impl FnOnce(&mut Q) -> Option<T>) -> Option<T> {
        let (_, (key, mut queue)) = self.queues.pop_first()?;
        let item = take(&mut queue);
        if queue.is_empty() {
            self.places.remove(&key);
        } else {
            self.next_place += 1;
            self.places.insert(key.clone(), self.next_place);
            self.queues.insert(self.next_place, (key, queue));
        }
        item
    }

    /// Removes an item from the queue of a key, which keeps its turn.
    fn remove(&mut self, key: &K, remove: impl FnOnce(&mut Q)) {
        let Some(place) = self.places.get(key).copied() else { return };
        let Some((_, queue)) = self.queues.get_mut(&place) else { return };
        remove(queue);
        if queue.is_empty() {
            self.queues.remove(&place);
            self.places.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
