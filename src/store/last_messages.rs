//! The last message of the application to each room that keeps one, for later observers.
//!
//! Each node keeps those that it has published or heard of, for half an hour and within a limit of bytes. A store that
//! is shared keeps them as well: a node asks it about a room of which it has heard nothing since it began to listen.
//! Observers wait a bounded time for the answer. Without it they receive what this node knows.

mod known;
mod shared;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::presence::MessageStamp;
use known::{Known, Source};
use shared::Shared;

pub use shared::{Answer, Unwritten};

/// A message is kept for this time.
const KEPT_FOR: Duration = Duration::from_secs(30 * 60);
/// The limit of messages on a node, with their names. Those known for longest are dropped.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Nodes that publish at the same moment hear of each other's messages within this time. What comes later is late.
const RACE_MS: Ms = 1000;

/// Monotonic time in milliseconds.
type Ms = u64;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastMessage {
    /// When and where it was published.
    pub stamp: MessageStamp,
    /// Compact JSON text.
    pub data: Arc<str>,
}

/// What is known about the last message of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastFound {
    /// This one, which is kept for this time from now on.
    Message(LastMessage, Duration),
    /// There is none.
    Nothing,
    /// The store is being asked.
    Unknown,
}

/// A message that the store is to be given.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Its room.
    pub room: Arc<str>,
    /// Why.
    pub how: Unwritten,
    /// The message.
    pub message: LastMessage,
    /// It is kept for this time from now on.
    pub left: Duration,
}

/// The last messages of all rooms that keep one.
#[derive(Debug)]
pub struct LastMessages {
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    known: Known,
    /// What must be exchanged with the store; `None` if it is not shared.
    shared: Option<Shared>,
}

impl Inner {
    /// Takes a message. False if a later one of the room is known, or this one.
    fn insert(&mut self, room: &Arc<str>, message: LastMessage, end: Ms, source: Source) -> bool {
        let dropped = self.known.insert(room, message, end, source);
        let is_new = dropped.is_some();
        self.dropped(&dropped.unwrap_or_default());
        is_new
    }

    fn expire(&mut self, now: Ms) {
        let dropped = self.known.expire(now);
        self.dropped(&dropped);
    }

    fn dropped(&mut self, rooms: &[Arc<str>]) {
        if let Some(shared) = &mut self.shared {
            rooms.iter().for_each(|room| shared.dropped(room));
        }
    }
}

impl Default for LastMessages {
    fn default() -> Self {
        Self::new(None)
    }
}

impl LastMessages {
    fn new(shared: Option<Shared>) -> Self {
        Self { started: Instant::now(), inner: Mutex::new(Inner { known: Known::new(MAX_BYTES), shared }) }
    }

    /// Without messages, for a store that is shared and has this number of partitions.
    #[must_use]
    pub fn shared(partitions: usize) -> Self {
        Self::new(Some(Shared::new(partitions)))
    }

    /// Keeps no more than this many bytes of messages.
    pub fn limit_bytes(&self, bytes: usize) {
        self.inner.lock().known.limit_to(bytes);
    }

    fn now(&self) -> Ms {
        self.started.elapsed().as_millis() as Ms
    }

    fn end(&self) -> Ms {
        self.now() + KEPT_FOR.as_millis() as Ms
    }

    /// Takes a message that this node has published.
    pub fn published(&self, room: &Arc<str>, message: LastMessage) {
        let (end, mut inner) = (self.end(), self.inner.lock());
        let is_new = inner.insert(room, message, end, Source::Published);
        let Inner { known, shared: Some(shared) } = &mut *inner else { return };
        if is_new {
            shared.write(room, Unwritten::New);
            shared.heard(room, known);
        }
    }

    /// Takes a message that another node has published. If it is older than one of this node, the store may have the
    /// older one now, and is given the other again. If it is late, other nodes may have read it meanwhile.
    pub fn heard(&self, room: &Arc<str>, message: LastMessage) {
        let (now, end, mut inner) = (self.now(), self.end(), self.inner.lock());
        let own = inner.known.get(room).filter(|last| last.source == Source::Published);
        let overwritten = own.filter(|own| own.message.stamp.is_after(message.stamp));
        let again = overwritten.map(|own| match now + KEPT_FOR.as_millis() as Ms <= own.end + RACE_MS {
            true => Unwritten::New,
            false => Unwritten::Repaired,
        });
        inner.insert(room, message, end, Source::Heard);
        let Inner { known, shared: Some(shared) } = &mut *inner else { return };
        shared.heard(room, known);
        again.into_iter().for_each(|how| shared.write(room, how));
    }

    /// The stamp of the last message that this node knows.
    #[must_use]
    pub fn stamp(&self, room: &str) -> Option<MessageStamp> {
        self.inner.lock().known.get(room).map(|last| last.message.stamp)
    }

    /// The last message of a room. Has the store asked if this node may not know it.
    #[must_use]
    pub fn find(&self, room: &Arc<str>) -> LastFound {
        let (now, mut inner) = (self.now(), self.inner.lock());
        inner.expire(now);
        let Inner { known, shared } = &mut *inner;
        let heard_in = known.get(room).map(|last| last.heard_in);
        match shared.as_mut().is_some_and(|shared| shared.must_wait(room, heard_in, now)) {
            true => LastFound::Unknown,
            false => known.found(room, now),
        }
    }

    /// The same without the store: never [`LastFound::Unknown`].
    #[must_use]
    pub fn find_here(&self, room: &str) -> LastFound {
        let (now, mut inner) = (self.now(), self.inner.lock());
        inner.expire(now);
        inner.known.found(room, now)
    }

    /// A room is not observed any more: what the store has answered about it is forgotten.
    pub fn closed(&self, room: &str) {
        self.with_shared(|shared| shared.closed(room));
    }

    /// Drops messages that are too old.
    pub fn expire(&self) {
        let (now, mut inner) = (self.now(), self.inner.lock());
        inner.expire(now);
    }

    /// This node hears of all messages of a partition from now on; it may have missed some before.
    pub fn listens(&self, partition: usize) {
        self.with_shared(|shared| shared.listens(partition));
    }

    /// This node may have missed messages of a partition.
    pub fn missed(&self, partition: usize) {
        self.with_shared(|shared| shared.missed(partition));
    }

    /// The store cannot be reached, so nobody waits for its answers.
    pub fn disconnected(&self, partition: usize) {
        self.with_shared(|shared| shared.disconnected(partition));
    }

    fn with_shared<R: Default>(&self, act: impl FnOnce(&mut Shared) -> R) -> R {
        self.inner.lock().shared.as_mut().map(act).unwrap_or_default()
    }

    /// Whether the store is to be asked about rooms of a partition.
    #[must_use]
    pub fn has_questions(&self, partition: usize) -> bool {
        self.with_shared(|shared| shared.has_questions(partition))
    }

    /// Takes rooms about which the store is to be asked, up to a limit, and the number of these questions.
    #[must_use]
    pub fn take_questions(&self, partition: usize, limit: usize) -> (u64, Vec<Arc<str>>) {
        self.with_shared(|shared| shared.take_questions(partition, limit))
    }

    /// Takes what the store has answered to questions with this number. If the store has an older message than this
    /// node, or none, it is given this node's.
    pub fn answered(&self, partition: usize, number: u64, answers: impl IntoIterator<Item = (Arc<str>, Answer)>) {
        let (now, mut inner) = (self.now(), self.inner.lock());
        inner.expire(now);
        for (room, answer) in answers {
            let known = inner.known.get(&room).map(|last| last.message.stamp);
            let again = known.and_then(|known| match &answer {
                None => Some(Unwritten::Lost),
                Some((message, _)) => known.is_after(message.stamp).then_some(Unwritten::Repaired),
            });
            if let Some((message, left)) = answer {
                let end = now + left.min(KEPT_FOR).as_millis() as Ms;
                inner.insert(&room, message, end, Source::Read);
            }
            if let Some(shared) = &mut inner.shared {
                shared.answered(partition, number, &room);
                again.into_iter().for_each(|how| shared.write(&room, how));
            }
        }
    }

    /// The store has lost its data in a partition: it is given what this node has published or read.
    pub fn lost(&self, partition: usize) {
        let mut inner = self.inner.lock();
        let Inner { known, shared: Some(shared) } = &mut *inner else { return };
        shared.lost(partition, known);
    }

    /// The number of messages of a partition that the store is to be given, without those that it has lost.
    #[must_use]
    pub fn unwritten(&self, partition: usize) -> usize {
        self.with_shared(|shared| shared.unwritten(partition))
    }

    /// The number of messages of a partition that the store has lost and is to be given again.
    #[must_use]
    pub fn lost_messages(&self, partition: usize) -> usize {
        self.with_shared(|shared| shared.lost_messages(partition))
    }

    /// Takes messages that the store is to be given, up to a limit of bytes, each with the time for which it is kept.
    #[must_use]
    pub fn take_unwritten(&self, partition: usize, max_bytes: usize) -> Vec<Taken> {
        let (now, mut inner) = (self.now(), self.inner.lock());
        inner.expire(now);
        let Inner { known, shared: Some(shared) } = &mut *inner else { return Vec::new() };
        take(shared.take_unwritten(partition), known, now, max_bytes)
    }

    /// The same with messages that the store has lost.
    #[must_use]
    pub fn take_lost(&self, partition: usize, max_bytes: usize) -> Vec<Taken> {
        let (now, mut inner) = (self.now(), self.inner.lock());
        inner.expire(now);
        let Inner { known, shared: Some(shared) } = &mut *inner else { return Vec::new() };
        take(shared.take_lost(partition), known, now, max_bytes)
    }

    /// Whether the store has taken a message is unknown.
    pub fn put_back(&self, room: &Arc<str>, how: Unwritten) {
        self.with_shared(|shared| shared.write(room, how));
    }
}

/// Takes rooms until their messages have this many bytes.
fn take(
    mut rooms: impl Iterator<Item = (Arc<str>, Unwritten)>,
    known: &Known,
    now: Ms,
    max_bytes: usize,
) -> Vec<Taken> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    while bytes < max_bytes
        && let Some((room, how)) = rooms.next()
    {
        let Some(last) = known.get(&room) else { continue };
        let (message, left) = (last.message.clone(), last.left(now));
        bytes += room.len() + message.data.len();
        taken.push(Taken { room, how, message, left });
    }
    taken
}

#[cfg(test)]
mod tests;
