//! How often whole lists of a room are told. What they cost is bounded in bytes per second: the longer a list, the longer the pause
//! after it.

use std::collections::HashMap;
use std::time::Duration;

use super::RoomUpdate;
use crate::presence::{AUDIENCES, Audience, Room, Tick};

/// What changes of a whole list may cost one observer of a room: 256 KiB a second is some 20,000 names a second, and little
/// enough for a phone.
const EGRESS_BYTES_PER_SECOND: u64 = 256 * 1024;
/// What may be encoded of one room for newcomers: at some 3 ns a byte this is a tenth of a second in each.
const ENCODED_BYTES_PER_SECOND: u64 = 32 * 1024 * 1024;

/// Rooms whose whole lists are long enough to be put off. Gone again when the room is.
#[derive(Debug)]
pub(super) struct Pacer {
    rooms: HashMap<u64, Pace>,
    tick: Duration,
}

/// What the last whole lists of a room cost, by audience.
#[derive(Debug, Default)]
struct Pace {
    last: [Whole; AUDIENCES],
    /// When the list last went to all who are attached.
    told: Tick,
    /// It was due for them and was put off.
    deferred: bool,
}

/// The last time that something whole was encoded.
#[derive(Debug, Default, Clone, Copy)]
struct Whole {
    at: Tick,
    bytes: u64,
    members: u64,
}

impl Pacer {
    pub(super) fn new(tick: Duration) -> Self {
        Self { rooms: HashMap::new(), tick }
    }

    /// Whether something whole may be encoded again: the last one may have been so long that its share of the ticks is not over.
    pub(super) fn may_encode(&self, visit: RoomUpdate<'_>, audience: Audience) -> bool {
        self.rooms.get(&visit.room.id()).is_none_or(|pace| {
            let last = pace.last[audience as usize];
            visit.now.tick >= last.at + last.pause(visit.change.count, ENCODED_BYTES_PER_SECOND, self.tick)
        })
    }

    /// Notes that something whole was encoded, if it is so long that it matters.
    pub(super) fn encoded(&mut self, visit: RoomUpdate<'_>, audience: Audience, bytes: u64) {
        let (room, members) = (visit.room.id(), visit.change.count);
        let encoded = Whole { at: visit.now.tick, bytes, members: members as u64 };
        if self.rooms.contains_key(&room) || encoded.pause(members, EGRESS_BYTES_PER_SECOND, self.tick) > 0 {
            self.rooms.entry(room).or_default().last[audience as usize] = encoded;
        }
    }

    /// Whether those who are attached may be sent the list of names again.
    pub(super) fn may_tell(&self, visit: RoomUpdate<'_>) -> bool {
        self.rooms.get(&visit.room.id()).is_none_or(|pace| {
            let last = pace.last[Audience::Names as usize];
            visit.now.tick >= pace.told + last.pause(visit.change.count, EGRESS_BYTES_PER_SECOND, self.tick)
        })
    }

    /// Whether the list was due for those who are attached and was put off.
    pub(super) fn is_deferred(&self, visit: RoomUpdate<'_>) -> bool {
        self.rooms.get(&visit.room.id()).is_some_and(|pace| pace.deferred)
    }

    /// Notes whether the list went to those who are attached, or is still deferred to them.
    pub(super) fn note(&mut self, visit: RoomUpdate<'_>, deferred: bool, told: bool) {
        if let Some(pace) = self.rooms.get_mut(&visit.room.id()) {
            pace.deferred = deferred && !told;
            if told {
                pace.told = visit.now.tick;
            }
        }
    }

    /// Nobody is in the room, and nobody looks at it.
    pub(super) fn forget(&mut self, room: &Room) {
        self.rooms.remove(&room.id());
    }
}

impl Whole {
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
        let last = Whole { at: 0, bytes: 10_000_000, members: 100_000 };
        assert_eq!(last.pause(100_000, 1_000_000, tick), 100);
        assert_eq!(last.pause(50_000, 1_000_000, tick), 50);
        assert_eq!(last.pause(2, 1_000_000, tick), 0);
        assert_eq!(Whole::default().pause(1_000, 1_000_000, tick), 0);
    }
}
