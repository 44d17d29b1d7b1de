//! Messages of the application that wait for the next tick: those to users, and how much of all of them there is.
//!
//! Messages to rooms wait in their rooms. Everything here is bounded per tick. Messages of other nodes have limits of
//! their own, so that they cannot take the place of messages that this node accepts.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::MessageStamp;

/// The limit per user and tick: some 1.3 MB per second to each connection at the default tick.
const MAX_USER_BYTES_PER_TICK: usize = 128 * 1024;
/// The limit of all messages per tick that this node accepts for rooms and users.
const MAX_BYTES_PER_TICK: usize = 64 * 1024 * 1024;
/// The limit of messages per tick that other nodes send.
const MAX_REMOTE_BYTES_PER_TICK: usize = 16 * 1024 * 1024;
/// About what a message to a user has in its frame besides its data, and in the memory of a slow connection.
const FRAME_BYTES: usize = 64;
/// About what a message takes besides its names and its data: nearly all of it is a room that exists only for the tick.
const MESSAGE_BYTES: usize = 1024;

/// A message of the application to all connections of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserMessage {
    /// The user.
    pub user: Arc<str>,
    /// Compact JSON text.
    pub data: Arc<str>,
    /// Whether it was published on this node, which forwards it to the other nodes.
    pub is_local: bool,
    /// The tick sets it for messages of this node.
    pub stamp: MessageStamp,
}

impl UserMessage {
    /// A message that was published on this node.
    #[must_use]
    pub fn local(user: &str, data: &str) -> Self {
        Self { user: user.into(), data: data.into(), is_local: true, stamp: MessageStamp::default() }
    }

    /// A message of another node.
    #[must_use]
    pub fn remote(user: &str, data: &str, stamp: MessageStamp) -> Self {
        Self { user: user.into(), data: data.into(), is_local: false, stamp }
    }

    fn bytes(&self) -> usize {
        MESSAGE_BYTES + self.user.len() + self.data.len()
    }
}

/// What the application has published since the last tick.
#[derive(Debug, Default)]
pub struct ApplicationMessages(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// In the order in which they were published.
    to_users: Vec<UserMessage>,
    /// Bytes of frames per user, of messages of this node.
    by_user: HashMap<Arc<str>, usize, RandomState>,
    /// Bytes of all messages of this node, those to rooms included.
    local_bytes: usize,
    remote_bytes: usize,
}

impl Waiting {
    /// Counts a message of this node. False if that would exceed the limit.
    fn reserve(&mut self, bytes: usize) -> bool {
        let fits = self.local_bytes + bytes <= MAX_BYTES_PER_TICK;
        self.local_bytes += if fits { bytes } else { 0 };
        fits
    }

    /// Counts a message in. False if that would exceed a limit.
    fn admit(&mut self, message: &UserMessage) -> bool {
        if !message.is_local {
            let fits = self.remote_bytes + message.bytes() <= MAX_REMOTE_BYTES_PER_TICK;
            self.remote_bytes += if fits { message.bytes() } else { 0 };
            return fits;
        }
        let published = self.by_user.get(&message.user).copied().unwrap_or(0) + FRAME_BYTES + message.data.len();
        let fits = published <= MAX_USER_BYTES_PER_TICK && self.reserve(message.bytes());
        if fits {
            self.by_user.insert(Arc::clone(&message.user), published);
        }
        fits
    }
}

impl ApplicationMessages {
    /// Adds a message to the next tick. False if that would exceed a limit; then it is dropped.
    pub fn add(&self, message: UserMessage) -> bool {
        let mut waiting = self.0.lock();
        let fits = waiting.admit(&message);
        if fits {
            waiting.to_users.push(message);
        }
        fits
    }

    /// Counts messages to rooms, with this many bytes of names and data. False if they would exceed the limit; then
    /// none of them counts.
    pub(super) fn reserve(&self, messages: usize, bytes: usize) -> bool {
        self.0.lock().reserve(messages * MESSAGE_BYTES + bytes)
    }

    /// Begins the next tick: removes and returns the messages to users.
    pub fn take(&self) -> Vec<UserMessage> {
        let mut waiting = self.0.lock();
        // Each accepted message counts. A new map, with its random seed, costs more than a quiet tick should.
        if waiting.local_bytes == 0 && waiting.remote_bytes == 0 {
            return Vec::new();
        }
        std::mem::take(&mut *waiting).to_users
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = 16 * 1024;

    fn data() -> String {
        "1".repeat(LONGEST)
    }

    #[test]
    fn a_user_has_a_limit_per_tick_and_other_users_have_their_own() {
        let messages = ApplicationMessages::default();
        let add = |user| messages.add(UserMessage::local(user, &data()));
        assert!((0..MAX_USER_BYTES_PER_TICK / (LONGEST + FRAME_BYTES)).all(|_| add("alice")));
        assert!(!add("alice") && add("bob"));
        let short = (0..10_000).filter(|_| messages.add(UserMessage::local("carol", "1"))).count();
        assert!(short <= MAX_USER_BYTES_PER_TICK / FRAME_BYTES, "short messages count as well: {short}");
        messages.take();
        assert!(add("alice") && messages.take().len() == 1);
    }

    #[test]
    fn all_messages_of_a_tick_are_bounded_and_other_nodes_take_nothing_from_this_one() {
        let messages = ApplicationMessages::default();
        let remote = |number: u64| {
            let stamp = MessageStamp { unix_ms: 1, incarnation: 2, number };
            messages.add(UserMessage::remote("alice", &data(), stamp))
        };
        let accepted = (0..10_000).filter(|number| remote(*number)).count();
        assert_eq!(accepted, MAX_REMOTE_BYTES_PER_TICK / (LONGEST + MESSAGE_BYTES + "alice".len()));
        assert!(messages.add(UserMessage::local("alice", &data())));
        let accepted = (0..10_000).filter(|_| messages.reserve(1, LONGEST)).count();
        assert!(accepted * LONGEST < MAX_BYTES_PER_TICK && accepted > 3_000, "{accepted}");
        assert!(!messages.add(UserMessage::local("bob", &data())), "rooms and users share the limit");
        messages.take();
        assert!(messages.add(UserMessage::local("bob", &data())) && messages.reserve(1, LONGEST));
    }
}
