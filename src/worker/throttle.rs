//! Slows clients that cause more work than their budgets allow: their connections are read later.
//!
//! Each command has a price, and so have the replies that it requests. The connection, its user and its address pay it.
//! While one of the three is in debt, the connection pauses after each command until the price of that command is
//! worked off, but at most one second: an honest client that returns to many large rooms is slowed a little and never
//! refused. After a request for something that the client has already, such as another snapshot, a pause may be longer.
//! A client that still runs up a huge debt, or keeps spending in debt for minutes, is disconnected with 1013.
//!
//! Heartbeats are free and come nowhere near this code.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use foldhash::fast::RandomState;

use super::Worker;
use super::addresses::Addresses;
use super::price::Price;
use crate::connection::{Connection, ConnectionId, Connections, Phase, find_connection};
use crate::fanout::Requested;
use crate::node::OverBudget;
use crate::peer::PeerAddress;
use crate::presence::{Audience, Tick, Wheel};
use crate::protocol::Command;
use crate::websocket::put_close;
use crate::work_budget::{Allowance, Budget, CONNECTION, Millis, USER};

/// Changes that one connection may queue for the tick: rooms joined and left, users watched and unwatched. A client
/// that opens another page leaves 100 rooms, joins 100 others and watches 1,000 users.
const CHANGES_PER_TICK: u32 = 512;
/// The longest pause for a command that asks for something new.
const LONGEST_PAUSE_MS: Millis = 1000;
/// The longest pause for a command that asks for the same again.
const LONGEST_REPEAT_PAUSE_MS: Millis = 5 * 60 * 1000;
/// A connection is closed after this many commands with which its debt has grown, without regaining half of its budget
/// in between: at least two minutes of nothing but abuse.
const MAX_OFFENCES: u32 = 1200;
/// Rooms with shorter snapshots may be observed again and again.
const LONG_SNAPSHOT_BYTES: usize = 4096;
/// Rooms that are remembered per connection.
const MAX_SENT_ROOMS: usize = 100;
/// A connection that has spent less is not closed because of the debt of its user or address.
const INVOLVED_BYTES: u64 = 64 * 1024;
/// The price of a new connection, without its requests.
const ARRIVAL_BYTES: u64 = 512;
/// While a user has spent less, its connections have no budgets of their own.
const MAX_LIGHTLY_SPENT: u64 = 8 * 1024;
/// New connections of a user whose debt is larger are refused: otherwise each would have snapshots of its own.
const MAX_DEBT_AT_ENTRY: u64 = USER.burst;
/// The number of connections that each worker reports as over budget, the most often paused ones first.
const MAX_REPORTED: usize = 10;
/// Why a connection is closed.
const REASON: &str = "this client causes too much work, try again later";

/// When a new connection is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// At once.
    Now,
    /// After a pause, because its user or its address has a debt.
    Later,
    /// Not at all: it is closed with this code and reason.
    Refused(u16, &'static str),
}

/// The connections of a worker that have spent something lately, and those that wait.
#[derive(Debug)]
pub(super) struct Throttle {
    /// By serial number of the connection. Connections with a full budget have no entry.
    spenders: HashMap<u32, Spender, RandomState>,
    /// When to look at connections that wait. Each is in it at most once.
    waiting: Wheel<ConnectionId>,
}

/// The number of changes in one tick.
#[derive(Debug, Default)]
struct TickChanges {
    tick: Tick,
    changes: u32,
}

impl TickChanges {
    /// Adds changes. Returns how many there are in this tick.
    fn add(&mut self, changes: u32, tick: Tick) -> u32 {
        let before = if self.tick == tick { self.changes } else { 0 };
        *self = Self { tick, changes: before.saturating_add(changes) };
        self.changes
    }
}

#[derive(Debug)]
struct Spender {
    connection: ConnectionId,
    budget: Budget,
    /// The address that limits apply to, if any do.
    address: Option<PeerAddress>,
    changes: TickChanges,
    /// Until when the connection waits.
    resume: Tick,
    /// Whether it is in the wheel.
    is_waiting: bool,
    /// How often it had to wait since it last had half of its budget.
    pauses: u32,
    /// How often its own debt has grown since then. It does not grow while a client spends less than the rate, or waits
    /// because of what others spend.
    offences: u32,
    /// The least debt of its own since then, or since it was sent a long list.
    least_debt: u64,
    /// Whether it must be disconnected.
    is_over_limit: bool,
    /// Rooms whose snapshots it was sent lately. Observing them again is a repetition, also after it stopped.
    sent_rooms: Vec<u64>,
}

impl Throttle {
    pub(super) fn new(longest_wait: Tick) -> Self {
        Self { spenders: HashMap::default(), waiting: Wheel::new(longest_wait + 1) }
    }

    /// The entry of a connection, which is made if there is none.
    fn spender(&mut self, connection: &Connection, addresses: &mut Addresses) -> &mut Spender {
        let entry = self.spenders.entry(connection.id.serial);
        entry.or_insert_with(|| Spender::new(connection.id, addresses.of(connection)))
    }

    /// A connection has ended, perhaps while it waited.
    pub(super) fn forget(&mut self, serial: u32) {
        if !self.spenders.is_empty() {
            self.spenders.remove(&serial);
        }
    }
}

impl Spender {
    fn new(connection: ConnectionId, address: Option<PeerAddress>) -> Self {
        Self {
            connection,
            budget: Budget::default(),
            address,
            changes: TickChanges::default(),
            resume: 0,
            is_waiting: false,
            pauses: 0,
            offences: 0,
            least_debt: u64::MAX,
            is_over_limit: false,
            sent_rooms: Vec::new(),
        }
    }

    /// Remembers that a snapshot was sent. Returns whether it was sent before.
    fn note_sent(&mut self, room: u64) -> bool {
        let is_known = self.sent_rooms.contains(&room);
        if !is_known {
            if self.sent_rooms.len() == MAX_SENT_ROOMS {
                self.sent_rooms.remove(0);
            }
            self.sent_rooms.push(room);
        }
        is_known
    }

    /// Takes note of its own debt after a command. Returns whether the debt has grown too often.
    fn note_debt(&mut self, debt: u64, price: Price, now_ms: Millis) -> bool {
        if self.budget.is_half_full(CONNECTION, now_ms) {
            (self.offences, self.least_debt) = (0, u64::MAX);
        } else if debt > self.least_debt {
            self.offences += 1;
        }
        // A long list counts once: the debt may take minutes to shrink to what it was before.
        if debt < self.least_debt || price.work > INVOLVED_BYTES {
            self.least_debt = debt;
        }
        self.offences > MAX_OFFENCES
    }
}

/// How long the connection pauses, given the debts of all who pay.
#[derive(Debug, Default)]
struct Bill {
    wait: Millis,
    is_over_limit: bool,
}

impl Bill {
    fn add(&mut self, debt: u64, allowance: Allowance, price: Price) {
        if debt > 0 {
            self.wait = self.wait.max(allowance.wait_for(price.work.min(debt))).max(1);
            self.is_over_limit |= debt > allowance.limit;
        }
    }
}

impl Worker {
    /// Has a connection, its user and its address pay a price. If one of them is in debt then, the connection pauses:
    /// it is not read for a while.
    pub(super) fn charge(&mut self, connection: &mut Connection, price: Price) {
        let now = self.node.now().tick;
        let now_ms = self.node.engine_ms(now);
        self.turns.count(connection, &self.addresses, price.changes);
        if self.pay_lightly(connection, price, now_ms) {
            return;
        }
        let spender = self.throttle.spender(connection, &mut self.addresses);
        let mut bill = Bill::default();
        let own_debt = spender.budget.spend(CONNECTION, price.work, now_ms);
        bill.add(own_debt, CONNECTION, price);
        let goes_on = spender.note_debt(own_debt, price, now_ms);
        // Only connections that helped to run up the debt of a user are closed because of it.
        let is_involved = bill.is_over_limit || spender.budget.spent(CONNECTION, now_ms) > INVOLVED_BYTES;
        if let Some(session) = connection.session() {
            let holder = (&**session.user(), spender.address);
            bill.add(self.node.user_work.spend(&holder, price.work, now_ms), USER, price);
        }
        if let (Some(address), Some(budgets)) = (spender.address, &self.node.address_work) {
            bill.add(budgets.spend(&address, price.work, now_ms), budgets.allowance(), price);
        }
        let has_too_many_changes = spender.changes.add(price.changes, now) > CHANGES_PER_TICK;
        if bill.wait > 0 {
            spender.pauses += 1;
        } else if spender.budget.is_half_full(CONNECTION, now_ms) {
            spender.pauses = 0;
        }
        if bill.wait == 0 && !has_too_many_changes {
            return;
        }
        spender.is_over_limit |= bill.is_over_limit && is_involved || goes_on;
        let longest = if price.is_repeat { LONGEST_REPEAT_PAUSE_MS } else { LONGEST_PAUSE_MS };
        self.pause(connection, bill.wait.min(longest));
    }

    /// Does not read a connection for this long, and for one tick at least.
    fn pause(&mut self, connection: &mut Connection, wait: Millis) {
        let now = self.node.now().tick;
        let spender = self.throttle.spender(connection, &mut self.addresses);
        spender.resume = spender.resume.max(now + self.times.ticks_of(wait).max(1));
        let look_again = spender.resume.min(now + self.times.second);
        if !std::mem::replace(&mut spender.is_waiting, true) {
            self.throttle.waiting.insert(look_again, connection.id);
        }
        if !std::mem::replace(&mut connection.is_paused, true) {
            self.counters.pauses.add(1);
        }
    }

    /// Charges only the user and the address if a connection has no entry and its user has hardly spent anything. That
    /// is the case for nearly all arrivals: an entry for each of them would take as much memory as the connection.
    fn pay_lightly(&mut self, connection: &Connection, price: Price, now: Millis) -> bool {
        let is_light = price.work < LONG_SNAPSHOT_BYTES as u64 && price.changes <= 1 && !price.is_repeat;
        if !is_light || self.throttle.spenders.contains_key(&connection.id.serial) {
            return false;
        }
        let Some(session) = connection.session() else { return false };
        let address = self.addresses.of(connection);
        let holder = (&**session.user(), address);
        if self.node.user_work.spent(&holder, now) + price.work > MAX_LIGHTLY_SPENT {
            return false;
        }
        if let (Some(budgets), Some(address)) = (&self.node.address_work, address) {
            if budgets.debt(&address, now) > 0 {
                return false;
            }
            budgets.spend(&address, price.work, now);
        }
        self.node.user_work.spend(&holder, price.work, now);
        true
    }

    /// Has a new connection pay for its arrival, and decides when it is served.
    pub(super) fn admit(&mut self, connection: &mut Connection, user: Option<&str>, rooms: usize) -> Admission {
        let now_ms = self.node.engine_ms(self.node.now().tick);
        let address = self.addresses.of(connection);
        let mut wait = 0;
        if let Some(user) = user {
            let debt = self.node.user_work.spend(&(user, address), ARRIVAL_BYTES, now_ms);
            if debt > MAX_DEBT_AT_ENTRY {
                self.counters.connections_over_limit.add(1);
                return Admission::Refused(connection.protocol.rules().close_codes.try_again, REASON);
            }
            wait = if debt > 0 { USER.wait_for(debt) } else { 0 };
        }
        if let (Some(budgets), Some(address)) = (&self.node.address_work, address) {
            // The price of the rooms that its handshake names.
            let observe = Command::Observe { room: "", audience: Audience::new(0), resume: None };
            let debt = budgets.spend(&address, ARRIVAL_BYTES, now_ms);
            let asked = debt.max(rooms as u64 * Price::of(&observe).work);
            wait = if debt > 0 { wait.max(budgets.allowance().wait_for(asked)) } else { wait };
        }
        if wait > 0 {
            self.pause(connection, wait.min(LONGEST_PAUSE_MS));
            return Admission::Later;
        }
        match self.must_wait_for_greeting(connection, user, rooms) {
            true => Admission::Later,
            false => Admission::Now,
        }
    }

    /// Whether a connection that waits may be read again. If not, it counts as alive meanwhile.
    pub(super) fn may_resume(&mut self, connection: &mut Connection, now: Tick) -> bool {
        let Some(spender) = self.throttle.spenders.get_mut(&connection.id.serial) else { return true };
        if spender.resume > now && connection.phase == Phase::Open {
            self.throttle.waiting.insert(spender.resume.min(now + self.times.second), connection.id);
            self.sign_of_life(connection, self.node.now());
            return false;
        }
        spender.is_waiting = false;
        true
    }

    /// Whether a connection waits because of what it has spent.
    pub(super) fn is_pausing(&self, connection: &Connection) -> bool {
        let spender = || self.throttle.spenders.get(&connection.id.serial);
        connection.is_paused && spender().is_some_and(|spender| spender.is_waiting)
    }

    /// The connections whose pause may be over.
    pub(super) fn take_waiting(&mut self, now: Tick) -> Vec<ConnectionId> {
        let mut due = Vec::new();
        self.throttle.waiting.take_due(now, &mut due);
        due
    }

    /// Closes a connection that has exceeded a limit. The close frame is appended to the replies that are not sent yet.
    pub(super) fn end_if_over_limit(&mut self, connection: &mut Connection, replies: &mut BytesMut) {
        let is_over_limit = |throttle: &Throttle| {
            let spender = throttle.spenders.get(&connection.id.serial);
            spender.is_some_and(|spender| spender.is_over_limit)
        };
        if connection.is_paused && connection.phase == Phase::Open && is_over_limit(&self.throttle) {
            self.counters.connections_over_limit.add(1);
            put_close(replies, connection.protocol.rules().close_codes.try_again, REASON);
            self.expect_close(connection, Phase::Closing);
        }
    }

    /// Has connections pay for replies that were planned in this tick.
    pub(super) fn charge_for_replies(&mut self, connections: &mut Connections, requested: Vec<Requested>) {
        for requested in requested {
            if let Some(connection) = find_connection(connections, requested.connection) {
                self.charge_for_reply(connection, requested);
            }
        }
        self.addresses.end_tick();
    }

    pub(super) fn charge_for_reply(&mut self, connection: &mut Connection, requested: Requested) {
        let Requested { bytes, room, mut is_repeat, .. } = requested;
        if let Some(room) = room.filter(|_| bytes >= LONG_SNAPSHOT_BYTES) {
            is_repeat |= self.throttle.spender(connection, &mut self.addresses).note_sent(room);
        }
        self.charge(connection, Price { work: bytes as u64, changes: 0, is_repeat });
        let mut close_frame = BytesMut::new();
        self.end_if_over_limit(connection, &mut close_frame);
        self.reply(connection, &mut close_frame);
    }

    /// Forgets connections whose budget is full again, and publishes which are over it. Called once per second.
    pub(super) fn review_spenders(&mut self, connections: &Connections, now: Tick) {
        if self.throttle.spenders.is_empty() {
            return;
        }
        let now_ms = self.node.engine_ms(now);
        self.throttle.spenders.retain(|_, spender| spender.is_waiting || !spender.budget.is_full(CONNECTION, now_ms));
        self.throttle.spenders.shrink_to(2 * self.throttle.spenders.len());
        let over = self.throttle.spenders.values().filter(|spender| spender.pauses > 0);
        let mut over: Vec<_> = over.map(|spender| (spender.pauses, spender.connection, spender.address)).collect();
        over.sort_unstable_by_key(|(pauses, ..)| std::cmp::Reverse(*pauses));
        self.counters.connections_over_budget.set(over.len() as u64);
        let worst = over.into_iter().take(MAX_REPORTED).map(|(pauses, id, address)| {
            let connection = connections.get(id.index as usize).filter(|connection| connection.id == id);
            let user = connection.and_then(Connection::session).map(|session| Arc::clone(session.user()));
            OverBudget { user, address, pauses }
        });
        *self.node.over_budget[self.number].lock() = worst.collect();
    }
}

#[cfg(test)]
mod tests;
