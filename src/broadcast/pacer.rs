//! How often the whole list of a room is sent. The cost is bounded in bytes per second: the longer the list, the longer
//! the pause after it.

use std::collections::HashMap;
use std::time::Duration;

use super::RoomUpdate;
use crate::presence::{Audience, MAX_AUDIENCES, Room, Tick};

/// Bytes per second that one observer receives when a list keeps changing: 256 KiB are some 20,000 user ids, and little
/// enough for a phone.
const EGRESS_BYTES_PER_SECOND: u64 = 256 * 1024;
/// Bytes per second that are encoded of one room for new observers: at some 3 ns per byte, 2.5 % of the time. Clients
/// that do not read hold at most as many.
const ENCODED_BYTES_PER_SECOND: u64 = 8 * 1024 * 1024;

/// The rooms whose lists are long enough to be deferred, or were deferred. An entry is removed with its room.
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
    /// Whether it was due to them and was deferred.
    deferred: bool,
}

/// The last whole list that was encoded.
#[derive(Debug, Default, Clone, Copy)]
struct List {
    encoded_at: Tick,
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

    /// Whether the list may be encoded again: the pause after the last one is over.
    pub(super) fn may_encode(&self, update: RoomUpdate<'_>, audience: Audience) -> bool {
        self.pace(update, audience).is_none_or(|Pace { last, .. }| {
            update.now.tick >= last.encoded_at + last.pause(update.change.count, ENCODED_BYTES_PER_SECOND, self.tick)
        })
    }

    /// The length of the last list that was encoded of a room with long lists.
    pub(super) fn last_bytes(&self, update: RoomUpdate<'_>, audience: Audience) -> usize {
        self.pace(update, audience).map_or(0, |pace| pace.last.bytes as usize)
    }

    /// Records that the list was encoded. Short lists in rooms without an entry need no record.
    pub(super) fn encoded(&mut self, update: RoomUpdate<'_>, audience: Audience, bytes: u64) {
        let (room, members) = (update.room.id(), update.change.count);
        let encoded = List { encoded_at: update.now.tick, bytes, members: members as u64 };
        if self.rooms.contains_key(&room) || encoded.pause(members, EGRESS_BYTES_PER_SECOND, self.tick) > 0 {
            self.rooms.entry(room).or_default()[audience.index()].last = encoded;
        }
    }

    /// Whether the list may be sent to attached observers again.
    pub(super) fn may_send(&self, update: RoomUpdate<'_>, audience: Audience) -> bool {
        self.pace(update, audience).is_none_or(|Pace { last, sent, .. }| {
            update.now.tick >= sent + last.pause(update.change.count, EGRESS_BYTES_PER_SECOND, self.tick)
        })
    }

    /// Whether the list was due to attached observers and was deferred.
    pub(super) fn is_deferred(&self, update: RoomUpdate<'_>, audience: Audience) -> bool {
        self.pace(update, audience).is_some_and(|pace| pace.deferred)
    }

    /// Records whether the list was due to attached observers and whether it was sent to them. A short list can be
    /// deferred too, if slow clients have too many bytes of unread lists.
    pub(super) fn record(&mut self, update: RoomUpdate<'_>, audience: Audience, due: bool, sent: bool) {
        let (room, deferred) = (update.room.id(), due && !sent);
        let paces = if deferred { Some(self.rooms.entry(room).or_default()) } else { self.rooms.get_mut(&room) };
        if let Some(paces) = paces {
            let pace = &mut paces[audience.index()];
            pace.deferred = deferred;
            if sent {
                pace.sent = update.now.tick;
            }
        }
    }

    /// Removes a room that has neither members nor observers.
    pub(super) fn forget(&mut self, room: &Room) {
        self.rooms.remove(&room.id());
    }
}

impl List {
    /// The pause after it at this rate, in ticks. The length is scaled to the present number of members: otherwise
    /// observers of a room that was huge once would wait for a short list.
    fn pause(self, members: usize, bytes_per_second: u64, tick: Duration) -> Tick {
        let bytes = self.bytes as f64 * (members as f64 / self.members.max(1) as f64).min(1.0);
        (bytes / (bytes_per_second as f64 * tick.as_secs_f64())) as Tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_the_present_size_of_the_room() {
        let tick = Duration::from_millis(100);
        let last = List { encoded_at: 0, bytes: 10_000_000, members: 100_000 };
        assert_eq!(last.pause(100_000, 1_000_000, tick), 100);
        assert_eq!(last.pause(50_000, 1_000_000, tick), 50);
        assert_eq!(last.pause(2, 1_000_000, tick), 0);
        assert_eq!(List::default().pause(1_000, 1_000_000, tick), 0);
    }
}
