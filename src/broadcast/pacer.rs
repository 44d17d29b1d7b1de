//! How often whole lists of a room are sent. Their cost is bounded in bytes per second: the longer a list, the longer the pause
//! after it.

use std::collections::HashMap;
use std::time::Duration;

use super::RoomUpdate;
use crate::presence::{Audience, MAX_AUDIENCES, Room, Tick};

/// What changes of a whole list may cost one observer of a room: 256 KiB per second is some 20,000 names per second, and little
/// enough for a phone.
const EGRESS_BYTES_PER_SECOND: u64 = 256 * 1024;
/// What may be encoded of one room for new observers: at some 3 ns per byte this is a tenth of a second in each.
const ENCODED_BYTES_PER_SECOND: u64 = 32 * 1024 * 1024;

/// Rooms whose whole lists are long enough to be deferred. An entry goes away with its room.
#[derive(Debug)]
pub(super) struct Pacer {
    rooms: HashMap<u64, [Pace; MAX_AUDIENCES]>,
    tick: Duration,
}

/// The state of one audience of a room.
#[derive(Debug, Default, Clone, Copy)]
struct Pace {
    last: List,
    /// When the list was last sent to all attached observers.
    sent: Tick,
    /// It was due for them and was deferred.
    deferred: bool,
}

/// The last whole list that was encoded.
#[derive(Debug, Default, Clone, Copy)]
struct List {
    at: Tick,
    bytes: u64,
    members: u64,
}

impl Pacer {
    pub(super) fn new(tick: Duration) -> Self {
        Self { rooms: HashMap::new(), tick }
    }

    fn pace(&self, update: RoomUpdate<'_>, audience: Audience) -> Option<Pace> {
        self.rooms.get(&update.room.id()).map(|paces| paces[audience.index()])
    }

    /// Whether a whole list may be encoded again: the last one may have been so long that its share of the ticks is not over.
    pub(super) fn may_encode(&self, update: RoomUpdate<'_>, audience: Audience) -> bool {
        self.pace(update, audience).is_none_or(|Pace { last, .. }| {
            update.now.tick >= last.at + last.pause(update.change.count, ENCODED_BYTES_PER_SECOND, self.tick)
        })
    }

    /// Notes that a whole list was encoded, if it is so long that it matters.
    pub(super) fn encoded(&mut self, update: RoomUpdate<'_>, audience: Audience, bytes: u64) {
        let (room, members) = (update.room.id(), update.change.count);
        let encoded = List { at: update.now.tick, bytes, members: members as u64 };
        if self.rooms.contains_key(&room) || encoded.pause(members, EGRESS_BYTES_PER_SECOND, self.tick) > 0 {
            self.rooms.entry(room).or_default()[audience.index()].last = encoded;
        }
    }

    /// Whether attached observers may be sent the list again.
    pub(super) fn may_send(&self, update: RoomUpdate<'_>, audience: Audience) -> bool {
        self.pace(update, audience).is_none_or(|Pace { last, sent, .. }| {
            update.now.tick >= sent + last.pause(update.change.count, EGRESS_BYTES_PER_SECOND, self.tick)
        })
    }

    /// Whether the list was due for attached observers and was deferred.
    pub(super) fn is_deferred(&self, update: RoomUpdate<'_>, audience: Audience) -> bool {
        self.pace(update, audience).is_some_and(|pace| pace.deferred)
    }

    /// Notes whether the list was sent to attached observers, or is still due to them.
    pub(super) fn note(&mut self, update: RoomUpdate<'_>, audience: Audience, due: bool, sent: bool) {
        if let Some(paces) = self.rooms.get_mut(&update.room.id()) {
            let pace = &mut paces[audience.index()];
            pace.deferred = due && !sent;
            if sent {
                pace.sent = update.now.tick;
            }
        }
    }

    /// The room has neither members nor observers.
    pub(super) fn forget(&mut self, room: &Room) {
        self.rooms.remove(&room.id());
    }
}

impl List {
    /// How many ticks to pause after it at this rate, were it as long as the room has members now: a room that was huge once
    /// must not make anybody wait when it is small again.
    fn pause(self, members: usize, bytes_per_second: u64, tick: Duration) -> Tick {
        let bytes = self.bytes as f64 * (members as f64 / self.members.max(1) as f64).min(1.0);
        (bytes / (bytes_per_second as f64 * tick.as_secs_f64())) as Tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_follows_the_size_that_the_room_has_now() {
        let tick = Duration::from_millis(100);
        let last = List { at: 0, bytes: 10_000_000, members: 100_000 };
        assert_eq!(last.pause(100_000, 1_000_000, tick), 100);
        assert_eq!(last.pause(50_000, 1_000_000, tick), 50);
        assert_eq!(last.pause(2, 1_000_000, tick), 0);
        assert_eq!(List::default().pause(1_000, 1_000_000, tick), 0);
    }
}
