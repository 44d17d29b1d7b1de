//! How many connections observe a room: on this node, and on all nodes. Members who observe count as well.

use std::sync::Arc;

use super::{IncarnationId, Registry};

impl Registry {
    /// The number of observers of a room on all nodes.
    #[must_use]
    pub fn observers(&self, room: &str) -> u64 {
        self.local_observers(room).saturating_add(self.remote_observers.total(room))
    }

    /// The same, with those of this node when the room was last settled.
    #[must_use]
    pub fn observers_at_tick(&self, room: &str) -> u64 {
        self.settled_observers(room).saturating_add(self.remote_observers.total(room))
    }

    /// Takes the rooms of applications whose observers on other nodes have changed since the last call.
    pub fn take_observer_changes(&self) -> impl Iterator<Item = Arc<str>> + use<> {
        self.remote_observers.take_changes()
    }

    /// Whether a room has members or observers on any node.
    #[must_use]
    pub fn is_used(&self, room: &str) -> bool {
        self.room(room).is_some_and(|room| room.is_used()) || self.remote_observers.total(room) > 0
    }

    fn local_observers(&self, room: &str) -> u64 {
        self.room(room).map_or(0, |room| room.observers())
    }

    /// The number of observers of a room on this node when the room was last settled.
    #[must_use]
    pub fn settled_observers(&self, room: &str) -> u64 {
        self.room(room).map_or(0, |room| room.settled_observers())
    }

    /// The selected rooms that had observers on this node when they were last settled. Locks one shard after the other.
    pub fn locally_observed_rooms(&self, is_selected: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let rooms = self.rooms().into_iter().filter(|room| room.settled_observers() > 0 && is_selected(room.name()));
        rooms.map(|room| Arc::clone(room.name())).collect()
    }

    /// The names of all rooms with a member on any node or an observer on any node, each once, sorted.
    #[must_use]
    pub fn used_rooms(&self) -> Vec<Arc<str>> {
        let local = self.rooms().into_iter().filter(|room| room.is_used()).map(|room| Arc::clone(room.name()));
        let mut names: Vec<_> = local.chain(self.remote_observers.rooms()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// An upper bound of the number of names that [`Registry::used_rooms`] returns.
    #[must_use]
    pub fn max_used_rooms(&self) -> usize {
        self.room_quota().used() as usize + self.remote_observers.len()
    }

    /// Takes the number of observers of a room on another node.
    pub fn set_remote_observers(&self, incarnation: IncarnationId, generation: u32, room: &str, observers: u64) {
        self.remote_observers.set(incarnation, generation, room, observers);
    }

    /// Forgets the observers that an incarnation had before this generation, in the selected rooms. Walks all observed
    /// rooms.
    pub fn sweep_remote_observers(
        &self,
        incarnation: IncarnationId,
        generation: u32,
        is_selected: impl Fn(&str) -> bool,
    ) {
        self.remote_observers.sweep(incarnation, generation, is_selected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{Audience, Now, ObserversChange, Settings};

    #[test]
    fn a_settlement_reports_each_change_of_the_number_once() {
        let registry = Registry::with_store(Settings { ttl: 10, workers: 2, incarnation: 1 });
        let first = registry.observe("lobby", 0, Audience::new(0), true);
        let room = first.room;
        assert_eq!(registry.settle(&room).observers_change, Some(ObserversChange::Occupied));
        assert_eq!(registry.settle(&room).observers_change, None);
        registry.observe("lobby", 1, Audience::new(1), true);
        registry.observe("lobby", 1, Audience::new(1), true);
        assert_eq!((registry.local_observers("lobby"), registry.observers("lobby")), (3, 3));
        assert_eq!(registry.settle(&room).observers_change, Some(ObserversChange::Count));
        let alice = registry.open_session("alice", Now::default());
        registry.join(&alice, "lobby", None, Now::default());
        assert_eq!(registry.settle(&room).observers_change, None, "a member who does not observe");
        registry.set_remote_observers(7, 1, "lobby", 4);
        registry.set_remote_observers(7, 1, "attic", 1);
        assert_eq!((registry.observers("lobby"), registry.observers("attic")), (7, 1));
        assert_eq!(registry.used_rooms(), [Arc::from("attic"), Arc::from("lobby")]);
        registry.unobserve(&room, 0, Audience::new(0));
        registry.unobserve(&room, 1, Audience::new(1));
        registry.unobserve(&room, 1, Audience::new(1));
        assert_eq!(registry.settle(&room).observers_change, Some(ObserversChange::Vacant));
        assert!(registry.locally_observed_rooms(|_| true).is_empty());
        registry.sweep_remote_observers(7, u32::MAX, |_| true);
        assert_eq!((registry.observers("lobby"), registry.observers("attic")), (0, 0));
    }
}
