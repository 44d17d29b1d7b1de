//! Changes that are too many or too old collapse: the receiver reads the room, or everything, again.

use std::collections::HashMap;
use std::sync::Arc;

use super::entry::{Change, Subject};
use super::{COLLAPSE_MS, Ms, Overflow, Queue, Resync, RoomQueue};

impl Queue {
    /// The resync that the changes of a subject must wait for.
    fn resync_of(&self, subject: &Subject) -> Option<&Resync> {
        let of_room = match subject {
            Subject::Member(room, _) | Subject::Room(room) | Subject::Count(room) => {
                self.rooms.get(room).and_then(|of| of.resync.as_ref())
            }
            Subject::User(_) | Subject::Everything | Subject::Notice(_) => None,
        };
        // One of everything makes older ones of rooms void.
        of_room.or(self.resync.as_ref())
    }

    /// The earliest time at which a new change of a subject may be sent.
    pub(super) fn earliest(&self, subject: &Subject) -> Ms {
        self.resync_of(subject).map_or(0, |resync| resync.place.0)
    }

    /// Whether the receiver may be reading, so that nobody knows what it knows.
    pub(super) fn is_uncertain(&self, subject: &Subject, now: Ms) -> bool {
        let is_read = |change: &Change| match (change, subject) {
            (Change::Resync(Subject::Everything), _) => true,
            (Change::Resync(Subject::Room(read)), Subject::Member(room, _) | Subject::Room(room)) => read == room,
            _ => false,
        };
        let frozen = self.frozen.as_ref().filter(|frozen| frozen.has_resync);
        let is_in_request = || frozen.is_some_and(|frozen| frozen.changes.iter().any(is_read));
        now < self.uncertain_until || self.resync_of(subject).is_some() || is_in_request()
    }

    /// Collapses rooms until the queue has space again, the rooms with most changes first.
    pub(super) fn shrink(&mut self, now: Ms) {
        if self.settings.overflow == Overflow::Drop {
            return;
        }
        let enough = self.settings.max_changes / 4 * 3;
        let mut sizes: Vec<_> = self.rooms.iter().map(|(room, queue)| (queue.len(), Arc::clone(room))).collect();
        sizes.retain(|(size, _)| *size > 1);
        sizes.sort_unstable_by(|one, other| other.cmp(one));
        for (_, room) in sizes {
            if self.order.len() <= enough {
                return;
            }
            self.collapsed += 1;
            self.collapse(&room, now, now);
        }
        if self.order.len() > enough {
            self.collapsed += 1;
            self.resync_all(now);
        }
    }

    /// Everything that the receiver knows is void.
    pub fn resync_all(&mut self, now: Ms) {
        if self.settings.overflow == Overflow::Drop {
            return;
        }
        let frozen = self.frozen.take();
        let first = self.oldest().unwrap_or(now).min(now);
        self.frozen = frozen;
        (self.rooms, self.users) = (HashMap::default(), HashMap::default());
        self.order.retain(|_, subject| matches!(subject, Subject::Notice(_)));
        self.resync = None;
        let resync = self.new_resync(first, now);
        self.order.insert(resync.place, Subject::Everything);
        self.resync = Some(resync);
    }

    /// Everything that the receiver knows is void, because the server has just started and has no members.
    pub fn resync_at_start(&mut self) {
        self.resync_all(0);
        let Some(resync) = &mut self.resync else { return };
        self.order.remove(&resync.place);
        resync.place.0 = 0;
        self.order.insert(resync.place, Subject::Everything);
    }

    /// What the receiver knows of a room is void.
    pub fn resync_room(&mut self, room: &Arc<str>, now: Ms) {
        if self.settings.overflow == Overflow::Drop || !self.settings.selection.has_room(room) {
            return;
        }
        let settled = now + self.settings.settle.as_millis() as Ms;
        if self.resync.is_some_and(|resync| resync.place.0 >= settled) {
            return; // The receiver reads this room as well, and late enough.
        }
        self.collapse(room, now, now);
        if self.order.len() > self.settings.max_changes {
            self.shrink(now);
        }
    }

    /// Replaces the changes of a room by a resync. There are changes since `first`.
    fn collapse(&mut self, room: &Arc<str>, mut first: Ms, now: Ms) {
        let former = self.rooms.remove(room).unwrap_or_default();
        let entries = former.entries().map(|entry| (entry.first, entry.place));
        for (since, place) in entries.chain(former.resync.map(|resync| (resync.first, resync.place))) {
            first = first.min(since);
            self.order.remove(&place);
        }
        let resync = self.new_resync(first, now);
        self.order.insert(resync.place, Subject::Room(Arc::clone(room)));
        self.rooms.insert(Arc::clone(room), RoomQueue { resync: Some(resync), ..RoomQueue::default() });
    }

    fn new_resync(&mut self, first: Ms, now: Ms) -> Resync {
        let ready = now + self.settings.settle.as_millis() as Ms;
        let place = (ready.max(self.resync.map_or(0, |resync| resync.place.0)), self.next_number);
        self.next_number += 1;
        Resync { first, place }
    }

    /// Collapses the room of a change, pending since `first`, that may or may not have arrived.
    pub(super) fn resync_subject(&mut self, subject: &Subject, first: Ms, now: Ms) {
        match subject {
            Subject::Everything => self.resync_all(now),
            Subject::Room(room) | Subject::Member(room, _) | Subject::Count(room) => {
                let queue = self.rooms.get_mut(room);
                match queue.filter(|queue| queue.has_no_changes()).and_then(|queue| queue.resync.as_mut()) {
                    Some(resync) => resync.first = resync.first.min(first),
                    None => self.collapse(room, first, now),
                }
            }
            Subject::User(_) | Subject::Notice(_) => {}
        }
    }

    /// Collapses what was not delivered in time. Returns whether the request was given up.
    pub fn expire(&mut self, now: Ms) -> bool {
        if self.settings.overflow == Overflow::Drop {
            return false;
        }
        let is_old = |first: Ms| now.saturating_sub(first) > COLLAPSE_MS;
        let rooms = self.rooms.iter().filter(|(_, queue)| queue.entries().any(|entry| is_old(entry.first)));
        let rooms: Vec<_> = rooms.map(|(room, _)| Arc::clone(room)).collect();
        for room in rooms {
            self.collapsed += 1;
            self.resync_room(&room, now);
        }
        let gives_up = self.frozen.as_ref().is_some_and(|frozen| is_old(frozen.since));
        if gives_up {
            self.give_up(now);
        }
        gives_up
    }
}
