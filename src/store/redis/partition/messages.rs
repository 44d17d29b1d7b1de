//! Messages of one partition that wait to be published: to rooms, and of the application to users.
//!
//! Messages of clients and of the application have limits of their own, so that clients cannot take the place of the
//! application's. More are dropped, since a message is of its moment; histories get all.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::event::EventWriter;
use super::Partition;
use crate::presence::{Keeping, MessageStamp, Publisher, RoomMessage, UserMessage};

/// The limit of messages of clients that wait.
pub(super) const MAX_CLIENT_BYTES: usize = 256 * 1024;
/// The limit of messages of the application that wait: some ticks of one that publishes as fast as it may to one room.
pub(super) const MAX_APPLICATION_BYTES: usize = 4 * 1024 * 1024;
/// The limit of messages in one event, which one message may exceed.
const MAX_EVENT_BYTES: usize = 256 * 1024;

/// A message that waits.
#[derive(Debug)]
pub(super) enum QueuedMessage {
    /// To the observers of a room.
    ToRoom(Arc<str>, RoomMessage),
    /// To the connections of a user.
    ToUser(UserMessage),
}

/// Messages in the order in which they are published.
#[derive(Debug, Default)]
pub(super) struct MessageQueue {
    waiting: VecDeque<QueuedMessage>,
    /// Bytes of `waiting`: of clients, and of the application.
    client_bytes: usize,
    application_bytes: usize,
    /// How many did not fit.
    dropped: u64,
}

impl QueuedMessage {
    fn bytes(&self) -> usize {
        let data = match self {
            Self::ToRoom(_, message) => message.data.len(),
            Self::ToUser(message) => message.data.len(),
        };
        data + size_of::<Self>()
    }

    fn is_of_client(&self) -> bool {
        matches!(self, Self::ToRoom(_, RoomMessage { publisher: Publisher::Client, .. }))
    }

    /// The room of a message that belongs to its history.
    pub(super) fn kept(&self) -> Option<(&Arc<str>, MessageStamp)> {
        match self {
            Self::ToRoom(room, message) if message.keeping == Keeping::History => Some((room, message.stamp)),
            Self::ToRoom(..) | Self::ToUser(_) => None,
        }
    }

    /// Whether it is the last message of its room for later observers.
    fn is_last(&self) -> bool {
        matches!(self, Self::ToRoom(_, RoomMessage { keeping: Keeping::Last, .. }))
    }

    pub(super) fn write(&self, event: &mut EventWriter) {
        match self {
            Self::ToRoom(room, message) => event.message(room, message),
            Self::ToUser(message) => event.message_to_user(message),
        }
    }
}

impl MessageQueue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> [usize; 2] {
        [self.client_bytes, self.application_bytes]
    }

    /// Adds a message. Returns it if too many wait.
    fn push(&mut self, message: QueuedMessage) -> Result<(), QueuedMessage> {
        let bytes = message.bytes();
        let (waiting, limit) = match message.is_of_client() {
            true => (&mut self.client_bytes, MAX_CLIENT_BYTES),
            false => (&mut self.application_bytes, MAX_APPLICATION_BYTES),
        };
        if *waiting + bytes > limit {
            self.dropped += 1;
            return Err(message);
        }
        *waiting += bytes;
        self.waiting.push_back(message);
        Ok(())
    }

    /// Takes the messages of the next event.
    pub(super) fn take_event(&mut self) -> Vec<QueuedMessage> {
        let mut bytes = 0;
        let fits = |message: &&QueuedMessage| {
            let is_first = bytes == 0;
            bytes += message.bytes();
            is_first || bytes <= MAX_EVENT_BYTES
        };
        let count = self.waiting.iter().take_while(fits).count();
        let taken: Vec<_> = self.waiting.drain(..count).collect();
        for message in &taken {
            match message.is_of_client() {
                true => self.client_bytes -= message.bytes(),
                false => self.application_bytes -= message.bytes(),
            }
        }
        taken
    }
}

impl Partition {
    /// Queues a message. One that does not fit is not published, but still kept for later observers.
    pub(super) fn queue_message(&mut self, message: QueuedMessage) {
        let Err(dropped) = self.messages.push(message) else { return };
        if let Some((room, stamp)) = dropped.kept() {
            self.histories.postpone(room, stamp);
        }
        self.has_unpublished |= dropped.is_last();
    }

    /// Messages that were not published come before those that wait.
    pub(super) fn put_back(&mut self, messages: Vec<QueuedMessage>) {
        let MessageQueue { waiting: later, dropped, .. } = std::mem::take(&mut self.messages);
        self.messages.dropped = dropped;
        messages.into_iter().chain(later).for_each(|message| self.queue_message(message));
    }

    /// How many messages were not published since the last call because too many waited.
    pub fn take_dropped_messages(&mut self) -> u64 {
        std::mem::take(&mut self.messages.dropped)
    }
}
