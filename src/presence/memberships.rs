//! The memberships of one user, found by room.
//!
//! Most users are in one room or in a few: their memberships are in a list. A list is searched from its start. So the
//! memberships of a user in many rooms are in a tree: commands must not become slower with the number of rooms.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Room;
use super::membership::Membership;
use crate::inline_vec::InlineVec;

/// Longer lists become trees.
const LONGEST_LIST: usize = 16;

/// One user in all rooms.
#[derive(Debug)]
pub(super) struct User {
    pub(super) since_unix_ms: u64,
    pub(super) memberships: Memberships,
}

/// All memberships of a user, at most one per room.
#[derive(Debug)]
pub(super) enum Memberships {
    /// In the order joined.
    List(InlineVec<Membership>),
    /// By the id of the room.
    Tree(Box<Tree>),
}

#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Each membership with the number of its join.
    by_room: BTreeMap<u64, (u64, Membership)>,
    joins: u64,
}

impl User {
    pub(super) fn membership(&mut self, room: &Arc<Room>) -> Option<&mut Membership> {
        self.memberships.get_mut(room)
    }
}

impl Tree {
    fn push(&mut self, membership: Membership) {
        self.joins += 1;
        self.by_room.insert(membership.room.id(), (self.joins, membership));
    }
}

impl Memberships {
    pub(super) fn one(membership: Membership) -> Self {
        Self::List(InlineVec::One(membership))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::List(list) => list.len(),
            Self::Tree(tree) => tree.by_room.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, room: &Room) -> Option<&Membership> {
        match self {
            Self::List(list) => list.iter().find(|membership| is_of(membership, room)),
            Self::Tree(tree) => tree.by_room.get(&room.id()).map(|(_, membership)| membership),
        }
    }

    pub(super) fn get_mut(&mut self, room: &Room) -> Option<&mut Membership> {
        match self {
            Self::List(list) => list.iter_mut().find(|membership| is_of(membership, room)),
            Self::Tree(tree) => tree.by_room.get_mut(&room.id()).map(|(_, membership)| membership),
        }
    }

    /// Adds the membership of a room that has none.
    pub(super) fn push(&mut self, membership: Membership) {
        match self {
            Self::List(list) if list.len() < LONGEST_LIST => list.push(membership),
            Self::List(list) => {
                let mut tree = Tree::default();
                std::iter::from_fn(|| list.remove(0)).chain([membership]).for_each(|membership| tree.push(membership));
                *self = Self::Tree(Box::new(tree));
            }
            Self::Tree(tree) => tree.push(membership),
        }
    }

    pub(super) fn remove(&mut self, room: &Room) {
        match self {
            Self::List(list) => {
                if let Some(at) = list.iter().position(|membership| is_of(membership, room)) {
                    list.remove(at);
                }
            }
            Self::Tree(tree) => drop(tree.by_room.remove(&room.id())),
        }
    }

    /// All of them, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Membership> {
        let (list, tree) = match self {
            Self::List(list) => (Some(list.iter()), None),
            Self::Tree(tree) => (None, Some(tree.by_room.values().map(|(_, membership)| membership))),
        };
        list.into_iter().flatten().chain(tree.into_iter().flatten())
    }

    /// All of them, in no particular order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Membership> {
        let (list, tree) = match self {
            Self::List(list) => (Some(list.iter_mut()), None),
            Self::Tree(tree) => (None, Some(tree.by_room.values_mut().map(|(_, membership)| membership))),
        };
        list.into_iter().flatten().chain(tree.into_iter().flatten())
    }

    /// Their rooms, in the order joined.
    pub(super) fn rooms(&self) -> SmallVec<[Arc<Room>; 4]> {
        match self {
            Self::List(list) => list.iter().map(|membership| Arc::clone(&membership.room)).collect(),
            Self::Tree(tree) => {
                let mut rooms: Vec<_> = tree.by_room.values().collect();
                rooms.sort_unstable_by_key(|(join, _)| *join);
                rooms.into_iter().map(|(_, membership)| Arc::clone(&membership.room)).collect()
            }
        }
    }
}

fn is_of(membership: &Membership, room: &Room) -> bool {
    std::ptr::eq(&*membership.room, room)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_user_in_one_room_takes_8_bytes_more_than_the_membership() {
        assert_eq!(size_of::<User>(), size_of::<Membership>() + 8);
    }

    proptest! {
        /// Rooms are joined and left in any order, around the length at which the list becomes a tree.
        #[test]
        fn lists_and_trees_behave_alike(steps in prop::collection::vec((0..40usize, any::<bool>()), 0..200)) {
            let room = |number: usize| {
                Arc::new(Room::new(number as u64, Arc::from("room"), "".into(), 1, Arc::default()))
            };
            let rooms: Vec<_> = (0..40).map(room).collect();
            let (mut memberships, mut model) = (Memberships::List(InlineVec::Empty), Vec::new());
            for (number, joins) in steps {
                let room = &rooms[number];
                let known = model.iter().position(|known| *known == number);
                prop_assert_eq!(memberships.get(room).is_some(), known.is_some());
                prop_assert_eq!(memberships.get_mut(room).is_some(), known.is_some());
                match (known, joins) {
                    (None, true) => {
                        memberships.push(Membership::empty(room));
                        model.push(number);
                    }
                    (Some(at), false) => {
                        memberships.remove(room);
                        model.remove(at);
                    }
                    _ => {}
                }
                let in_order: Vec<_> = memberships.rooms().iter().map(|room| room.id() as usize).collect();
                prop_assert_eq!(&in_order, &model);
                prop_assert_eq!((memberships.len(), memberships.is_empty()), (model.len(), model.is_empty()));
                let mut all: Vec<_> = memberships.iter().map(|membership| membership.room.id()).collect();
                let mut all_mut: Vec<_> = memberships.iter_mut().map(|membership| membership.room.id()).collect();
                all.sort_unstable();
                all_mut.sort_unstable();
                model.clone().into_iter().for_each(|number| assert!(all.contains(&(number as u64))));
                prop_assert_eq!(all.len(), model.len());
                prop_assert_eq!(all, all_mut);
            }
        }
    }
}
