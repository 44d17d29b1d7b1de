//! Verdicts that are remembered for a while, so that the application is not asked the same again.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::Verdict;
use super::question::Key;

/// Verdicts by question. The oldest is forgotten first if there are too many.
#[derive(Debug)]
pub(super) struct Memory {
    capacity: usize,
    verdicts: HashMap<Key, (Verdict, Instant)>,
    /// In the order in which they were remembered, with their ends.
    order: VecDeque<(Key, Instant)>,
}

impl Memory {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, verdicts: HashMap::new(), order: VecDeque::new() }
    }

    /// Remembers a verdict until then.
    pub(super) fn insert(&mut self, key: Key, verdict: Verdict, until: Instant) {
        while self.order.len() >= self.capacity {
            self.forget_first();
        }
        self.order.push_back((key, until));
        self.verdicts.insert(key, (verdict, until));
    }

    /// The verdict on a question, if it is remembered.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Verdict> {
        while self.order.front().is_some_and(|(_, until)| *until <= now) {
            self.forget_first();
        }
        let (verdict, until) = self.verdicts.get(key)?;
        (*until > now).then(|| verdict.clone())
    }

    fn forget_first(&mut self) {
        let Some((key, until)) = self.order.pop_front() else { return };
        // A later verdict on the same question has a later end.
        if self.verdicts.get(&key).is_some_and(|(_, known)| *known == until) {
            self.verdicts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused(reason: &str) -> Verdict {
        Verdict::Refused(reason.into())
    }

    #[test]
    fn verdicts_are_remembered_for_their_time_and_the_oldest_are_forgotten_first() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut memory = Memory::new(3);
        memory.insert([1; 32], refused("a"), at(10));
        assert_eq!(memory.get(&[1; 32], at(9)), Some(refused("a")));
        assert_eq!(memory.get(&[1; 32], at(10)), None);
        assert!(memory.verdicts.is_empty() && memory.order.is_empty());
        for number in 1..=4 {
            memory.insert([number; 32], refused("b"), at(30));
        }
        assert_eq!(memory.get(&[1; 32], at(11)), None, "there is no room for it");
        assert_eq!(memory.get(&[4; 32], at(11)), Some(refused("b")));
        memory.insert([4; 32], refused("c"), at(40));
        assert_eq!(memory.get(&[4; 32], at(39)), Some(refused("c")), "the later verdict counts");
        assert_eq!(memory.get(&[3; 32], at(39)), None);
        assert_eq!(memory.verdicts.len(), 1);
    }
}
