//! The list of the members of a room, kept encoded in parts while clients observe it.
//!
//! A change of the room encodes the parts again in which names joined or left, and not the whole list. The parts are
//! first made when a client begins to observe the room: of a huge room over several ticks, so that no tick takes long.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::broadcast::RoomUpdate;
use crate::json::put_string;
use crate::presence::{Diff, Room};
use crate::websocket::frame::sized_text_frame;

/// Names per part when it is made. It is split when it has twice as many.
const PART_NAMES: usize = 128;
/// Names that are read while the room is locked.
const PAGE_NAMES: usize = 1024;
/// Names that one tick reads and encodes for the first time: some milliseconds. Shorter lists are complete at once.
const NAMES_PER_TICK: usize = 50_000;

const HEAD: &[u8] = br#"{"type": "online_users", "users": ["#;
const END: &[u8] = b"]}";

/// The list of one room.
#[derive(Debug)]
pub(super) struct NameList {
    room: u64,
    /// The sequence number of the room that the list has.
    seq: u64,
    /// Sorted, and none is empty.
    parts: Vec<Part>,
    /// Up to this name the members were read. `None` if all were.
    read_until: Option<Arc<str>>,
}

/// Some names, sorted.
#[derive(Debug, Default)]
struct Part {
    names: Vec<Arc<str>>,
    /// Each name with a comma before it. Empty if a name joined or left since.
    encoded: Bytes,
}

impl NameList {
    /// A list that has read no member yet.
    pub(super) fn new(room: &Room) -> Self {
        Self { room: room.id(), seq: 0, parts: Vec::new(), read_until: Some("".into()) }
    }

    /// Takes the changes of a tick, and reads more members if it has not read all. False if it cannot: it belongs to
    /// another room or has missed changes.
    pub(super) fn follow(&mut self, update: RoomUpdate<'_>) -> bool {
        let is_new = self.parts.is_empty() && self.read_until.is_some();
        let before = update.change.seq - u64::from(!update.change.diff.is_empty());
        if self.room != update.room.id() || !is_new && self.seq != before {
            return false;
        }
        self.apply(&update.change.diff);
        self.seq = update.change.seq;
        self.read(update.room, NAMES_PER_TICK);
        true
    }

    /// Whether all members were read.
    pub(super) fn is_complete(&self) -> bool {
        self.read_until.is_none()
    }

    /// The frame with the whole list.
    pub(super) fn encode(&mut self) -> Bytes {
        self.parts.iter_mut().filter(|part| part.encoded.is_empty()).for_each(Part::encode);
        let names: usize = self.parts.iter().map(|part| part.encoded.len()).sum();
        let length = HEAD.len() + names.saturating_sub(1) + END.len();
        sized_text_frame(length, |buffer| {
            buffer.put_slice(HEAD);
            for (at, part) in self.parts.iter().enumerate() {
                buffer.put_slice(&part.encoded[usize::from(at == 0)..]);
            }
            buffer.put_slice(END);
        })
    }

    /// Changes of members that were not read yet are left out: they are read as they are then.
    fn apply(&mut self, diff: &Diff) {
        let read_until = self.read_until.clone();
        let was_read = |name: &str| read_until.as_ref().is_none_or(|until| *name <= **until);
        diff.left.iter().filter(|(name, _)| was_read(name)).for_each(|(name, _)| self.remove(name));
        diff.joined.iter().filter(|(name, _)| was_read(name)).for_each(|(name, _)| self.insert(name));
    }

    /// Reads further members, about as many as `limit`.
    fn read(&mut self, room: &Room, limit: usize) {
        for _ in 0..limit.div_ceil(PAGE_NAMES) {
            let Some(after) = &self.read_until else { return };
            let page: Vec<Arc<str>> = room.read(|roster| {
                roster.members_after(Some(after)).take(PAGE_NAMES).map(|(name, _)| Arc::clone(name)).collect()
            });
            self.read_until = page.last().filter(|_| page.len() == PAGE_NAMES).cloned();
            self.parts.extend(page.chunks(PART_NAMES).map(|names| Part { names: names.into(), ..Part::default() }));
        }
    }

    /// The part where a name is or would be.
    fn part_of(&self, name: &str) -> usize {
        self.parts.partition_point(|part| *part.names[0] <= *name).saturating_sub(1)
    }

    fn insert(&mut self, name: &Arc<str>) {
        let at = self.part_of(name);
        let Some(part) = self.parts.get_mut(at) else {
            return self.parts.push(Part { names: vec![Arc::clone(name)], ..Part::default() });
        };
        if let Err(place) = part.names.binary_search(name) {
            part.names.insert(place, Arc::clone(name));
            part.encoded.clear();
            if part.names.len() >= 2 * PART_NAMES {
                let names = part.names.split_off(PART_NAMES);
                self.parts.insert(at + 1, Part { names, ..Part::default() });
            }
        }
    }

    fn remove(&mut self, name: &str) {
        let at = self.part_of(name);
        let Some(part) = self.parts.get_mut(at) else { return };
        if let Ok(place) = part.names.binary_search_by(|known| (**known).cmp(name)) {
            part.names.remove(place);
            part.encoded.clear();
            if part.names.is_empty() {
                self.parts.remove(at);
            }
        }
    }
}

impl Part {
    fn encode(&mut self) {
        let bytes = self.names.iter().map(|name| name.len() + 3).sum();
        let mut buffer = BytesMut::with_capacity(bytes);
        for name in &self.names {
            buffer.put_u8(b',');
            put_string(&mut buffer, name);
        }
        self.encoded = buffer.freeze();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{NAMES, encode_list};
    use super::*;
    use crate::broadcast::Last;
    use crate::presence::{AudienceSet, Now, Reason, Registry, Session, Settings};

    struct Test {
        registry: Registry,
        sessions: BTreeMap<String, Arc<Session>>,
        list: Option<NameList>,
    }

    impl Test {
        fn new() -> Self {
            let registry = Registry::new(Settings { ttl: 1_000_000, workers: 1, incarnation: 1 });
            let _ = registry.observe("lobby", 0, NAMES, true);
            Self { registry, sessions: BTreeMap::new(), list: None }
        }

        /// The user joins, or leaves.
        fn toggle(&mut self, user: &str) {
            match self.sessions.remove(user) {
                Some(session) => self.registry.end_session(&session, Reason::Closed),
                None => {
                    let session = self.registry.open_session(user, Now::default());
                    self.registry.join(&session, "lobby", None, Now::default());
                    self.sessions.insert(user.to_owned(), session);
                }
            }
        }

        /// One tick. Returns whether the list could follow.
        fn tick(&mut self) -> bool {
            let room = self.registry.room("lobby").unwrap();
            let change = self.registry.settle(&room);
            let (in_use, now) = (AudienceSet::from_iter([NAMES]), Now::default());
            let update = RoomUpdate {
                room: &room,
                change: &change,
                messages: &[],
                in_use,
                last: Last::Nothing,
                observers: None,
                now,
            };
            self.list.get_or_insert_with(|| NameList::new(&room)).follow(update)
        }

        fn check(&mut self) {
            let room = self.registry.room("lobby").unwrap();
            let expected = room.read(|roster| encode_list(roster.members_after(None).map(|(user, _)| user)));
            let list = self.list.as_mut().unwrap();
            assert!(list.parts.iter().all(|part| !part.names.is_empty() && part.names.len() < 2 * PART_NAMES));
            assert_eq!(list.encode(), expected);
        }
    }

    #[test]
    fn a_huge_room_is_read_over_several_ticks_while_users_come_and_go() {
        let mut test = Test::new();
        (0..2 * (NAMES_PER_TICK + PAGE_NAMES)).for_each(|number| test.toggle(&format!("user-{number:06}")));
        let mut ticks = 0;
        while !test.list.as_ref().is_some_and(NameList::is_complete) {
            assert!(test.tick());
            ticks += 1;
            for number in [5, 60_000, 100_001] {
                test.toggle(&format!("user-{:06}", number + ticks));
                test.toggle(&format!("user-{:06}-new", number + ticks));
            }
        }
        assert_eq!(ticks, 3);
        test.tick();
        test.check();
    }

    #[test]
    fn only_parts_in_which_names_changed_are_encoded_again() {
        let mut test = Test::new();
        (0..10 * PART_NAMES).for_each(|number| test.toggle(&format!("user-{number:06}")));
        test.tick();
        test.check();
        test.toggle("user-000005");
        test.tick();
        let stale = test.list.as_ref().unwrap().parts.iter().filter(|part| part.encoded.is_empty()).count();
        assert_eq!(stale, 1);
        test.check();
    }

    #[test]
    fn a_list_that_missed_a_change_cannot_follow() {
        let mut test = Test::new();
        test.toggle("ann");
        assert!(test.tick());
        test.toggle("bob");
        test.registry.settle(&test.registry.room("lobby").unwrap());
        test.toggle("cid");
        assert!(!test.tick());
    }

    proptest! {
        #[test]
        fn the_list_is_that_of_the_members(ticks in prop::collection::vec(prop::collection::vec(0u16..600, 0..300), 1..8)) {
            let mut test = Test::new();
            for users in ticks {
                users.iter().for_each(|user| test.toggle(&format!("user \"{user}\"")));
                assert!(test.tick());
                test.check();
            }
        }
    }
}
