//! The newcomers that wait until the application can be asked about them, with a fair share for each address.
//!
//! Addresses take turns, so a flood from one of them delays no other. A full queue makes room for an address with fewer
//! newcomers by turning away the last one of the address that has most.

use std::collections::{HashMap, VecDeque};

use super::question::Key;
use crate::peer::PeerAddress;

/// A queue of bounded length.
#[derive(Debug)]
pub(super) struct FairQueue {
    capacity: usize,
    len: usize,
    by_address: HashMap<PeerAddress, VecDeque<Key>>,
    /// Each address of the queue once.
    turns: VecDeque<PeerAddress>,
}

/// What a full queue does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// There was room.
    Added,
    /// There is room because this one was refused.
    InPlaceOf(Key),
    /// There is none for this address.
    Full,
}

impl FairQueue {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, len: 0, by_address: HashMap::new(), turns: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a newcomer at the end of its address.
    pub(super) fn push(&mut self, address: PeerAddress, key: Key) -> Pushed {
        let mut pushed = Pushed::Added;
        if self.len >= self.capacity {
            let own = self.by_address.get(&address).map_or(0, VecDeque::len);
            let longest = self.by_address.iter().max_by_key(|(_, keys)| keys.len());
            let Some((&longest, keys)) = longest.filter(|(_, keys)| keys.len() > own + 1) else { return Pushed::Full };
            let Some(&last) = keys.back() else { return Pushed::Full };
            self.remove(longest, &last);
            pushed = Pushed::InPlaceOf(last);
        }
        let keys = self.by_address.entry(address).or_insert_with(|| {
            self.turns.push_back(address);
            VecDeque::new()
        });
        keys.push_back(key);
        self.len += 1;
        pushed
    }

    /// Takes the first newcomer of the address whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Key> {
        let address = self.turns.pop_front()?;
        let keys = self.by_address.get_mut(&address)?;
        let key = keys.pop_front()?;
        self.len -= 1;
        if keys.is_empty() {
            self.by_address.remove(&address);
        } else {
            self.turns.push_back(address);
        }
        Some(key)
    }

    /// Takes a newcomer out. It is nearly always the first or the last one of its address.
    pub(super) fn remove(&mut self, address: PeerAddress, key: &Key) {
        let Some(keys) = self.by_address.get_mut(&address) else { return };
        let place =
            if keys.back() == Some(key) { keys.len().checked_sub(1) } else { keys.iter().position(|it| it == key) };
        if place.and_then(|place| keys.remove(place)).is_some() {
            self.len -= 1;
        }
        if keys.is_empty() {
            self.by_address.remove(&address);
            self.turns.retain(|turn| *turn != address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> PeerAddress {
        PeerAddress::of([10, 0, 0, number].into())
    }

    fn key(number: u8) -> Key {
        [number; 32]
    }

    fn all(queue: &mut FairQueue) -> Vec<u8> {
        std::iter::from_fn(|| queue.pop()).map(|key| key[0]).collect()
    }

    #[test]
    fn addresses_take_turns() {
        let mut queue = FairQueue::new(10);
        for number in 1..=5 {
            assert_eq!(queue.push(address(1), key(number)), Pushed::Added);
        }
        queue.push(address(2), key(11));
        queue.push(address(3), key(21));
        queue.push(address(2), key(12));
        assert_eq!(all(&mut queue), [1, 11, 21, 2, 12, 3, 4, 5]);
        assert_eq!((queue.len(), queue.by_address.len(), queue.turns.len()), (0, 0, 0));
    }

    #[test]
    fn a_full_queue_makes_room_for_addresses_with_fewer() {
        let mut queue = FairQueue::new(4);
        (1..=4).for_each(|number| assert_eq!(queue.push(address(1), key(number)), Pushed::Added));
        assert_eq!(queue.push(address(1), key(5)), Pushed::Full);
        assert_eq!(queue.push(address(2), key(11)), Pushed::InPlaceOf(key(4)));
        assert_eq!(queue.push(address(2), key(12)), Pushed::InPlaceOf(key(3)));
        assert_eq!(queue.push(address(2), key(13)), Pushed::Full, "each has half");
        assert_eq!(queue.push(address(1), key(6)), Pushed::Full);
        assert_eq!(all(&mut queue), [1, 11, 2, 12]);
    }

    #[test]
    fn removed_newcomers_leave_nothing_behind() {
        let mut queue = FairQueue::new(4);
        for number in 1..=3 {
            queue.push(address(1), key(number));
        }
        queue.push(address(2), key(11));
        queue.remove(address(1), &key(2));
        queue.remove(address(1), &key(9));
        queue.remove(address(2), &key(11));
        queue.remove(address(3), &key(1));
        assert_eq!((queue.len(), queue.turns.len()), (2, 1));
        assert_eq!(all(&mut queue), [1, 3]);
    }
}
