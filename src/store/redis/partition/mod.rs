//! What this node still has to write in one partition, and in which order. Decides only; does no I/O.
//!
//! Pending changes are kept per user and room, and the last one wins. Their number is bounded by the users who are here
//! and the users who were here when Redis was last reachable, however long ago that is. A batch that failed is merged
//! back: how much of it Redis executed is unknown, and all of it may be executed twice. If Redis is reachable and
//! refuses all writes, this would remember every user who was ever in such a batch: beyond `MAX_BACKLOG`, the hash is
//! rewritten instead, and nothing about former users has to be kept.
//!
//! If Redis refuses only to publish (permissions are wrong), everything else is written: other nodes notice the silence
//! and read the hash.

mod batch;
mod history;
mod kicks;
mod last_messages;
mod messages;
mod observer_counts;
mod user_keys;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::command::{RedisCommand, RedisReply};
use super::event::EventWriter;
use super::schema::{LastSeq, Metadata, Schema};
use crate::presence::kick::MAX_WAITING_KICKS;
use crate::presence::{HoldChange, Keeping, Reason, Registry, State, Tick};
use crate::store::{KeptMessage, LastMessages, RoomUser, StoreEvent};
use history::Histories;
use kicks::QueuedKick;
use last_messages::MAX_RESENT_BYTES;
use messages::{MessageQueue, QueuedMessage};
use observer_counts::ObserverCounts;
use user_keys::UserKeys;

pub use batch::WriteBatch;
pub use last_messages::{answers as last_answers, read as read_last};

/// On a new connection, this much may wait to be written in addition to what concerns present users and rooms. Of more,
/// most concerns users who have left: rewriting the hash forgets them. As much as two batches.
const MAX_BACKLOG: usize = 2000;

/// The writes of one partition. Used by the task of that partition only.
#[derive(Debug)]
pub struct Partition {
    schema: Arc<Schema>,
    number: usize,
    /// Holds to write, by room and user.
    holds: HashMap<RoomUser, PendingHold, RandomState>,
    /// Messages to publish.
    messages: MessageQueue,
    /// Redis refused to publish. Messages wait until the event of a heartbeat is accepted.
    publish_refused: bool,
    histories: Histories,
    last_messages: Arc<LastMessages>,
    /// Last messages were not published, or Redis had an older one for a while: other nodes are told to read them.
    has_unpublished: bool,
    /// How many bytes of last messages may be written again before the next heartbeat.
    resendable_bytes: usize,
    /// Kicks to publish.
    kicks: Vec<QueuedKick>,
    /// Kicks that were published. They are published again for the time of a lease: other nodes may have been
    /// disconnected.
    published_kicks: Vec<QueuedKick>,
    last_kick_number: u64,
    keys: UserKeys,
    observers: ObserverCounts,
    /// The current tick; set by [`mark_due`](Self::mark_due).
    now: Tick,
    ticks_per_ttl: Tick,
    /// Hashes of dead incarnations, to be deleted.
    dead_hashes: Vec<String>,
    /// The number of the last event published.
    seq: u64,
    /// The last event that the hash is known to include; `None` if the hash has to be rewritten whatever it contains.
    confirmed_seq: Option<u64>,
    /// The value of the hash's [`LAST_SEQ_FIELD`](super::schema::LAST_SEQ_FIELD) once everything in flight has arrived.
    /// The field is incremented and never set, so that it shows if the hash was lost in between.
    last_seq: u64,
    /// How often the hash has been rewritten.
    revision: u64,
    hash: HashState,
}

/// A hold that has to be written.
#[derive(Debug, Clone)]
enum PendingHold {
    Held {
        state: Option<State>,
        joined: bool,
        /// Redis has not been sent this hold yet.
        unsent: bool,
    },
    Released(Reason),
}

/// What is known about this node's hash in Redis.
#[derive(Debug)]
enum HashState {
    /// The connection is new: the metadata must be read first.
    Unknown,
    /// It includes everything that was confirmed.
    Complete,
    /// It is being rewritten; these users, and rooms with observers, are left.
    Rewriting { users: Vec<Arc<str>>, rooms: Vec<Arc<str>>, is_first_page: bool },
}

/// The result of a batch or a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// All of it is in Redis.
    Done,
    /// The hash is not as this node left it; it will be rewritten.
    HashLost,
    /// Redis refused to publish the event; everything else is in Redis.
    NotPublished(String),
    /// Redis refused a command.
    Refused(String),
}

impl Partition {
    /// A partition with nothing to write.
    #[must_use]
    pub fn new(schema: Arc<Schema>, number: usize, ticks_per_ttl: Tick, seed: u64) -> Self {
        let ticks_per_second = ticks_per_ttl * 1000 / schema.ttl_ms().max(1);
        Self {
            schema,
            number,
            holds: HashMap::default(),
            messages: MessageQueue::default(),
            publish_refused: false,
            histories: Histories::new(&[], 0),
            last_messages: Arc::default(),
            has_unpublished: false,
            resendable_bytes: 0,
            kicks: Vec::new(),
            published_kicks: Vec::new(),
            last_kick_number: 0,
            keys: UserKeys::new(ticks_per_ttl, ticks_per_second, seed),
            observers: ObserverCounts::new(ticks_per_second),
            now: 0,
            ticks_per_ttl,
            dead_hashes: Vec::new(),
            seq: 0,
            confirmed_seq: None,
            last_seq: 0,
            revision: 0,
            hash: HashState::Unknown,
        }
    }

    /// It is this tick now.
    pub fn advance(&mut self, now: Tick) {
        self.now = self.now.max(now);
    }

    /// Takes an event of this node.
    pub fn record(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::HoldChange(room_user, change) => {
                let (room, user) = &room_user;
                match change {
                    // The key does not contain the state.
                    HoldChange::Held { joined: false, .. } => {}
                    HoldChange::Held { .. } | HoldChange::Released(_) => self.keys.mark_changed(user, room),
                }
                self.record_hold(room_user, change);
            }
            StoreEvent::RoomMessage(room, message) => {
                if message.keeping == Keeping::History {
                    let (user, data, stamp) = (message.user.clone(), (*message.data).into(), message.stamp);
                    self.histories.add(&KeptMessage { room: Arc::clone(&room), user, data, stamp });
                }
                self.queue_message(QueuedMessage::ToRoom(room, message));
            }
            StoreEvent::UserMessage(message) => self.queue_message(QueuedMessage::ToUser(message)),
            StoreEvent::Observers(room, change) => {
                self.observers.record(room, change, !matches!(self.hash, HashState::Unknown));
            }
            StoreEvent::Kick(kick) if self.kicks.len() < MAX_WAITING_KICKS => {
                self.last_kick_number += 1;
                let (requested, number) = (self.now, self.last_kick_number);
                self.kicks.push(QueuedKick { requested, published: None, number, kick });
            }
            StoreEvent::Kick(_) => {}
        }
    }

    fn record_hold(&mut self, room_user: RoomUser, change: HoldChange) {
        let unsent = match self.holds.get(&room_user) {
            Some(PendingHold::Held { unsent, .. }) => *unsent,
            Some(PendingHold::Released(_)) => false,
            // While the connection works, a batch in flight may include the hold.
            None => matches!(change, HoldChange::Held { joined: true, .. }) && matches!(self.hash, HashState::Unknown),
        };
        match change {
            HoldChange::Held { state, joined } => {
                self.holds.insert(room_user, PendingHold::Held { state, joined, unsent });
            }
            HoldChange::Released(_) if unsent => {
                if !self.keys.is_written(&room_user.1) {
                    self.keys.unmark(&room_user.1);
                }
                self.holds.remove(&room_user);
            }
            HoldChange::Released(reason) => {
                self.holds.insert(room_user, PendingHold::Released(reason));
            }
        }
    }

    /// Deletes the hash of a dead incarnation in this partition.
    pub fn delete_incarnation(&mut self, incarnation: &str) {
        self.dead_hashes.push(self.schema.hash_key(self.number, incarnation));
    }

    /// Writes or renews the key of a user: another node has released the user and may have deleted the key.
    pub fn renew_key(&mut self, user: &str) {
        self.keys.renew(user);
    }

    /// Writes the key of a user whom this node holds again: it may name a node that is dead.
    pub fn rewrite_key(&mut self, user: &str) {
        self.keys.rewrite(user);
    }

    /// Marks the keys that are due for renewal, and the numbers of observers that are due.
    pub fn mark_due(&mut self, now: Tick) {
        self.now = now;
        self.keys.mark_due(now);
        self.observers.mark_due(now);
    }

    /// The number of things that wait to be written.
    #[must_use]
    pub fn pending(&self) -> usize {
        let messages = self.messages.len() + usize::from(self.has_unpublished);
        let last = self.pending_last_messages();
        self.pending_changes() + last + if self.publish_refused { 0 } else { messages }
    }

    /// The same without messages and last messages.
    fn pending_changes(&self) -> usize {
        let changes = self.holds.len() + self.observers.due() + self.kicks.len();
        changes + self.keys.dirty() + self.dead_hashes.len() + self.histories.missing()
    }

    /// Whether the hash includes everything that this node holds, as far as is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.hash, HashState::Complete)
    }

    /// The connection is new.
    pub fn reconnected(&mut self) {
        self.hash = HashState::Unknown;
        self.histories.reconnected();
        self.repeat_kicks();
    }

    /// The commands of a heartbeat: every second, and first on a new connection. They read the metadata of the hash,
    /// renew it, and tell other nodes the number of the last event.
    #[must_use]
    pub fn heartbeat(&mut self, now: Tick) -> Vec<RedisCommand> {
        self.advance(now); // After a pause of this process, kicks are older than the last tick says.
        self.resendable_bytes = MAX_RESENT_BYTES;
        let published = std::mem::take(&mut self.published_kicks);
        self.published_kicks = self.recent(published);
        let key = self.schema.hash_key(self.number, &self.schema.incarnation);
        let metadata = RedisCommand::HashMetadata(key.clone());
        if !self.is_complete() {
            return vec![metadata];
        }
        let renew = RedisCommand::Expire { key, ttl_ms: self.schema.hash_ttl_ms() };
        let kicks = self.take_due_kicks();
        vec![metadata, renew, self.publish_kicks(&kicks)]
    }

    /// Takes the replies to a heartbeat. If the hash has lost something, it is rewritten.
    pub fn verify(&mut self, replies: &[RedisReply], registry: &Registry) -> WriteOutcome {
        match Metadata::parse(replies.first()) {
            Err(message) => WriteOutcome::Refused(message),
            Ok(Some(Metadata { last_seq: LastSeq::Complete(seq), revision }))
                if revision == self.revision && self.is_possible(seq) && !self.has_backlog(registry) =>
            {
                self.last_seq = seq;
                self.hash = HashState::Complete;
                match &replies[1..] {
                    [.., event] if event.is_denied() => self.not_published(event),
                    others => match others.iter().find(|reply| matches!(reply, RedisReply::Error(_))) {
                        Some(reply) => WriteOutcome::Refused(reply.error_text()),
                        None => {
                            // The first heartbeat of a connection publishes nothing.
                            self.publish_refused &= others.is_empty();
                            WriteOutcome::Done
                        }
                    },
                }
            }
            Ok(_) => {
                self.rewrite(registry);
                WriteOutcome::HashLost
            }
        }
    }

    /// Whether the hash can include exactly the events up to `seq`. On a new connection any number from the last
    /// confirmed event to the last published one is possible: how many batches arrived is unknown.
    fn is_possible(&self, seq: u64) -> bool {
        match (&self.hash, self.confirmed_seq) {
            (HashState::Complete, Some(_)) => seq == self.last_seq,
            (_, Some(confirmed)) => (confirmed..=self.seq).contains(&seq),
            (_, None) => false,
        }
    }

    /// Whether more waits on a new connection than `MAX_BACKLOG` and what concerns present users and rooms. Walks all
    /// users if much waits.
    fn has_backlog(&self, registry: &Registry) -> bool {
        let pending = self.pending_changes();
        if !matches!(self.hash, HashState::Unknown) || pending <= MAX_BACKLOG {
            return false;
        }
        let is_here = |name: &str| self.schema.partition_of(name) == self.number;
        let present = registry.count_local_holds(is_here) + registry.locally_observed_rooms(is_here).len();
        pending > MAX_BACKLOG + 2 * present // A hold is written twice: to the hash and to the user's key.
    }

    fn not_published(&mut self, refusal: &RedisReply) -> WriteOutcome {
        self.publish_refused = true;
        self.repeat_kicks();
        WriteOutcome::NotPublished(refusal.error_text())
    }

    /// Starts to rewrite the hash and all user keys. Pending changes are dropped: the registry includes them.
    fn rewrite(&mut self, registry: &Registry) {
        self.holds.clear();
        self.observers.clear();
        self.keys.forget_expired(registry);
        self.histories.lost(false);
        self.last_messages.lost(self.number);
        self.confirmed_seq = None;
        self.revision += 1;
        let is_here = |name: &str| self.schema.partition_of(name) == self.number;
        let (users, rooms) = (registry.locally_held_users(is_here), registry.locally_observed_rooms(is_here));
        self.hash = HashState::Rewriting { users, rooms, is_first_page: true };
    }

    fn publish(&self, event: EventWriter) -> RedisCommand {
        RedisCommand::Publish { channel: self.schema.events_channel(self.number), message: event.finish() }
    }
}

#[cfg(test)]
mod tests;
