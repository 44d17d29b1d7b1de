//! A protocol that keeps the history of all messages of a room.

use std::sync::Arc;

use parking_lot::Mutex;
use rollcall::broadcast::encoder::{Encoder, Encoders, Pacing};
use rollcall::broadcast::{RoomUpdate, Snapshot};
use rollcall::memory_budget::MemoryBudget;
use rollcall::presence::{MessageStamp, Room, RoomMessage};
use rollcall::store::{History, KeptMessage};

use super::ROOMS;

/// The limit of messages.
pub(crate) const MAX_MESSAGES: usize = 5;

/// What the protocol would show: texts by stamp.
pub(crate) type Shown = Arc<Mutex<History<String>>>;

#[derive(Debug)]
struct Chat(Shown);

/// The encoders of a node, and its history.
pub(crate) fn chat() -> (Encoders, Shown) {
    let shown = Shown::new(Mutex::new(History::new(MAX_MESSAGES)));
    (Encoders { audiences: vec![Box::new(Chat(Arc::clone(&shown)))], statuses: Vec::new() }, shown)
}

impl Chat {
    fn show(&self, stamp: MessageStamp, data: &str) {
        self.0.lock().insert(stamp, data.len(), data.to_owned());
    }
}

impl Encoder for Chat {
    fn pacing(&self) -> Pacing {
        Pacing::Short
    }

    fn has_history(&self) -> bool {
        true
    }

    fn records(&self, update: RoomUpdate<'_>) -> bool {
        !update.messages.is_empty()
    }

    fn keeps(&mut self, room: &Room, _message: &RoomMessage) -> bool {
        room.is_named(ROOMS[0])
    }

    fn restore(&mut self, messages: &[KeptMessage]) {
        messages.iter().for_each(|message| self.show(message.stamp, &message.data));
    }

    fn limit_times(&mut self, latest_unix_ms: u64) {
        self.0.lock().set_latest(latest_unix_ms);
    }

    fn changes(&mut self, update: RoomUpdate<'_>) -> Option<bytes::Bytes> {
        for message in update.messages.iter().filter(|_| update.room.is_named(ROOMS[0])) {
            self.show(message.stamp, &message.data);
        }
        None
    }

    fn snapshot(&mut self, _: RoomUpdate<'_>, _: &MemoryBudget) -> Snapshot {
        Snapshot::default()
    }
}
