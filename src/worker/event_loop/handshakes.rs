//! TLS handshakes: how many are under way, and the connections that wait for their turn.
//!
//! A handshake takes memory and much more CPU time than anything else that a client can cause with one packet. So their
//! number is limited, an address has a share of it, and each has a deadline. A connection that waits has sent bytes
//! that were not read.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use crate::connection::ConnectionId;
use crate::peer::PeerAddress;

/// The limit of handshakes of all workers together.
const MAX_HANDSHAKES: usize = 256;
/// An address may have this part of them.
const SHARE: usize = 4;
/// Handshakes that begin in one turn of the loop: each takes up to a millisecond, with an RSA key.
const STARTS_PER_TURN: usize = 8;
/// The time limit of a handshake.
const DEADLINE: Duration = Duration::from_secs(10);
/// The time limit of a handshake for which others have to wait.
const DEADLINE_IF_OTHERS_WAIT: Duration = Duration::from_secs(2);

/// `None` for programs on this machine, which have no share.
type Address = Option<PeerAddress>;

/// The handshakes of a worker.
#[derive(Debug)]
pub(super) struct Handshakes {
    limit: usize,
    /// Those under way, by serial number of the connection.
    active: HashMap<u32, Address, RandomState>,
    /// The same in the order in which they began, and some that have ended.
    oldest: VecDeque<(Instant, ConnectionId)>,
    /// The connections that wait for their turn, by serial number.
    waiting: HashMap<u32, Address, RandomState>,
    addresses: HashMap<Address, OfAddress, RandomState>,
    /// The addresses with waiting connections, in turn.
    turns: VecDeque<Address>,
    started_in_turn: usize,
}

/// The handshakes of one address.
#[derive(Debug, Default)]
struct OfAddress {
    active: usize,
    waiting: VecDeque<ConnectionId>,
}

impl Handshakes {
    /// The handshakes of one of this many workers.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            limit: (MAX_HANDSHAKES / workers.max(1)).max(1),
            active: HashMap::default(),
            oldest: VecDeque::new(),
            waiting: HashMap::default(),
            addresses: HashMap::default(),
            turns: VecDeque::new(),
            started_in_turn: 0,
        }
    }

    /// Whether a connection may begin its handshake now. If not, [`Handshakes::next`] returns it later.
    pub(super) fn start(&mut self, id: ConnectionId, address: Address) -> bool {
        if self.waiting.contains_key(&id.serial) {
            return false;
        }
        if self.has_room() && self.has_share(address) {
            self.begin(id, address);
            return true;
        }
        let of_address = self.addresses.entry(address).or_default();
        if of_address.waiting.is_empty() {
            self.turns.push_back(address);
        }
        of_address.waiting.push_back(id);
        self.waiting.insert(id.serial, address);
        false
    }

    /// A handshake has ended, or a connection that waits. Returns whether it was under way.
    pub(super) fn end(&mut self, id: ConnectionId) -> bool {
        let was_active = self.active.remove(&id.serial);
        if let Some(address) = was_active {
            if let Some(of_address) = self.addresses.get_mut(&address) {
                of_address.active -= 1;
            }
            self.forget_if_empty(address);
            if self.active.is_empty() {
                self.oldest.clear();
            }
        }
        if let Some(address) = self.waiting.remove(&id.serial) {
            if let Some(of_address) = self.addresses.get_mut(&address) {
                of_address.waiting.retain(|waiting| *waiting != id);
                if of_address.waiting.is_empty() {
                    self.turns.retain(|turn| *turn != address);
                }
            }
            self.forget_if_empty(address);
        }
        was_active.is_some()
    }

    /// A turn of the loop begins.
    pub(super) fn begin_turn(&mut self) {
        self.started_in_turn = 0;
    }

    /// The next connection that waits and may begin its handshake now.
    pub(super) fn next(&mut self) -> Option<ConnectionId> {
        if !self.has_room() {
            return None;
        }
        let place = self.turns.iter().position(|address| self.has_share(*address))?;
        let address = self.turns.remove(place)?;
        let of_address = self.addresses.get_mut(&address)?;
        let id = of_address.waiting.pop_front()?;
        if !of_address.waiting.is_empty() {
            self.turns.push_back(address);
        }
        self.waiting.remove(&id.serial);
        self.begin(id, address);
        Some(id)
    }

    /// Whether a connection waits that may begin its handshake in the next turn.
    pub(super) fn is_ready(&self) -> bool {
        self.active.len() < self.limit && self.turns.iter().any(|address| self.has_share(*address))
    }

    /// Whether no handshake is under way and none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.waiting.is_empty()
    }

    /// The connections whose handshake has taken too long.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<ConnectionId> {
        let limit = if self.waiting.is_empty() { DEADLINE } else { DEADLINE_IF_OTHERS_WAIT };
        let mut overdue = Vec::new();
        while let Some((began, id)) = self.oldest.front().copied() {
            let is_active = self.active.contains_key(&id.serial);
            if is_active && now.saturating_duration_since(began) < limit {
                break;
            }
            self.oldest.pop_front();
            overdue.extend(is_active.then_some(id));
        }
        overdue
    }

    fn has_room(&self) -> bool {
        self.active.len() < self.limit && self.started_in_turn < STARTS_PER_TURN
    }

    fn has_share(&self, address: Address) -> bool {
        let share = if address.is_some() { (self.limit / SHARE).max(1) } else { self.limit };
        self.addresses.get(&address).is_none_or(|of_address| of_address.active < share)
    }

    fn begin(&mut self, id: ConnectionId, address: Address) {
        self.started_in_turn += 1;
        self.active.insert(id.serial, address);
        self.oldest.push_back((Instant::now(), id));
        self.addresses.entry(address).or_default().active += 1;
    }

    fn forget_if_empty(&mut self, address: Address) {
        let is_empty = |of_address: &OfAddress| of_address.active == 0 && of_address.waiting.is_empty();
        if self.addresses.get(&address).is_some_and(is_empty) {
            self.addresses.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(serial: u32) -> ConnectionId {
        ConnectionId { index: serial, serial }
    }

    fn address(text: &str) -> Address {
        PeerAddress::limited(text.parse().unwrap())
    }

    /// Begins as many as it can, each in a turn of its own.
    fn start_all(handshakes: &mut Handshakes, serials: std::ops::Range<u32>, from: Address) -> usize {
        let mut started = 0;
        for serial in serials {
            handshakes.begin_turn();
            started += usize::from(handshakes.start(id(serial), from));
        }
        started
    }

    #[test]
    fn an_address_has_a_quarter_and_programs_on_the_machine_have_all() {
        let mut handshakes = Handshakes::new(2);
        assert_eq!(start_all(&mut handshakes, 0..100, address("10.0.0.1")), 32);
        assert_eq!(start_all(&mut handshakes, 100..200, address("127.0.0.1")), 96);
        assert!(!handshakes.is_ready() && !handshakes.is_empty());
        let waiting = handshakes.waiting.len();
        assert!(
            !handshakes.start(id(99), address("10.0.0.1")) && handshakes.waiting.len() == waiting,
            "it waits already"
        );
    }

    #[test]
    fn a_free_place_goes_to_the_addresses_in_turn() {
        let mut handshakes = Handshakes::new(64);
        let [a, b, local] = ["10.0.0.1", "10.0.0.2", "127.0.0.1"].map(address);
        assert_eq!(start_all(&mut handshakes, 0..4, local), 4, "the limit of one of 64 workers");
        for (serial, from) in [(10, a), (11, a), (12, b)] {
            assert!(!handshakes.start(id(serial), from));
        }
        let mut next = |ended: u32| {
            assert!(handshakes.end(id(ended)));
            handshakes.begin_turn();
            handshakes.next()
        };
        assert_eq!(next(0), Some(id(10)));
        assert_eq!(next(1), Some(id(12)));
        assert_eq!(next(2), None, "the share of an address is one");
        assert_eq!(next(10), Some(id(11)));
        for ended in [3, 12, 11] {
            assert!(handshakes.end(id(ended)) && !handshakes.end(id(ended)));
        }
        assert!(handshakes.is_empty() && handshakes.addresses.is_empty() && handshakes.oldest.is_empty());
    }

    #[test]
    fn connections_that_end_while_they_wait_leave_nothing() {
        let mut handshakes = Handshakes::new(256);
        let a = address("10.0.0.1");
        assert_eq!(start_all(&mut handshakes, 0..50, a), 1);
        for serial in (0..50).rev() {
            assert_eq!(handshakes.end(id(serial)), serial == 0);
        }
        assert!(handshakes.is_empty() && handshakes.addresses.is_empty() && handshakes.turns.is_empty());
    }

    #[test]
    fn a_turn_of_the_loop_begins_only_some() {
        let mut handshakes = Handshakes::new(1);
        let local = address("::1");
        handshakes.begin_turn();
        let started = (0..20).filter(|serial| handshakes.start(id(*serial), local)).count();
        assert_eq!(started, STARTS_PER_TURN);
        assert!(handshakes.is_ready() && handshakes.next().is_none());
        handshakes.begin_turn();
        assert_eq!(std::iter::from_fn(|| handshakes.next()).count(), STARTS_PER_TURN);
    }

    #[test]
    fn a_handshake_is_overdue_sooner_if_others_wait() {
        let mut handshakes = Handshakes::new(256);
        let local = address("127.0.0.1");
        handshakes.begin_turn();
        assert!(handshakes.start(id(0), local));
        let later = Instant::now() + DEADLINE_IF_OTHERS_WAIT;
        assert_eq!(handshakes.overdue(later), []);
        assert!(!handshakes.start(id(1), local));
        assert_eq!(handshakes.overdue(later), [id(0)]);
        assert!(handshakes.end(id(0)) && !handshakes.end(id(1)));
    }
}
