//! Which sockets that are refused are told why.
//!
//! An answer has more bytes than it costs to cause it: a client may be refused before it has sent anything. So each
//! address is answered a few times per second, and its other sockets are closed without an answer. That is enough for a
//! client that does not know the limits.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::peer::PeerAddress;

/// Answers per address and second.
const PER_ADDRESS: u8 = 4;
/// Addresses that are answered per second.
const MAX_ADDRESSES: usize = 256;

/// The answers of the present second.
#[derive(Debug, Default)]
pub(super) struct Answers {
    second: u64,
    given: HashMap<PeerAddress, u8, RandomState>,
}

impl Answers {
    /// Whether another socket of this address is answered, which counts as an answer.
    pub(super) fn may_answer(&mut self, address: PeerAddress, second: u64) -> bool {
        if self.second != second {
            self.second = second;
            self.given.clear();
        }
        if self.given.len() >= MAX_ADDRESSES && !self.given.contains_key(&address) {
            return false;
        }
        let given = self.given.entry(address).or_default();
        let may = *given < PER_ADDRESS;
        *given += u8::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_answered_a_few_times_per_second_and_so_are_a_few_addresses() {
        let address = |number: u32| PeerAddress::of(std::net::Ipv4Addr::from(0x0a00_0000 + number).into());
        let mut answers = Answers::default();
        let mut count = |number, second| (0..10).filter(|_| answers.may_answer(address(number), second)).count();
        assert_eq!(count(0, 7), usize::from(PER_ADDRESS));
        assert_eq!(count(1, 7), usize::from(PER_ADDRESS), "another address");
        assert_eq!(count(0, 8), usize::from(PER_ADDRESS), "another second");
        let answered = (0..1000).filter(|number| count(*number, 9) > 0).count();
        assert_eq!(answered, MAX_ADDRESSES);
        assert_eq!(count(999, 10), usize::from(PER_ADDRESS));
    }
}
