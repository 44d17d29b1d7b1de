//! Batches of a partition: what goes into one pipeline, and what follows from its replies, or from their absence.

use std::sync::Arc;

use super::super::command::{RedisCommand, RedisReply};
use super::super::event::EventWriter;
use super::super::field::{member_field, observers_field};
use super::super::schema::{LAST_SEQ_FIELD, LastSeq, MAX_KEY_ROOMS, REVISION_FIELD, encode_hold};
use super::user_keys::KeyWrite;
use super::{HashState, Partition, PendingHold, QueuedKick, QueuedMessage, WriteOutcome};
use crate::presence::kick::MAX_WAITING_KICKS;
use crate::presence::{Reason, Registry, Tick};
use crate::store::{RoomUser, Unwritten};

/// The limit of users, and of holds, per pipeline: larger ones gain nothing and delay others on the same master.
const MAX_BATCH_USERS: usize = 1000;
/// The limit of bytes per pipeline, mostly states: as much as Redis takes in some milliseconds.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// Commands that go to Redis together, and what they are for.
#[derive(Debug, Default)]
pub struct WriteBatch {
    /// In the order of the pipeline.
    pub commands: Vec<RedisCommand>,
    /// The number of user keys that it writes.
    pub keys_written: u64,
    /// Holds, each with the time since when the user has been online.
    holds: Vec<(RoomUser, PendingHold, u64)>,
    /// Rooms with their numbers of observers.
    observers: Vec<(Arc<str>, u64)>,
    users: Vec<Arc<str>>,
    /// Users whose keys only get a new lease, each with the index of the command.
    extended: Vec<(usize, Arc<str>)>,
    messages: Vec<QueuedMessage>,
    /// Rooms whose last messages it writes.
    pub(super) last_messages: Vec<(Arc<str>, Unwritten)>,
    kicks: Vec<QueuedKick>,
    dead_hashes: Vec<String>,
    /// The place of the event in the pipeline.
    event_at: Option<usize>,
    seq: u64,
    kind: BatchKind,
}

/// What a batch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum BatchKind {
    #[default]
    Changes,
    RewritePage,
    LastRewritePage,
}

impl Partition {
    /// The next pipeline, if there is anything to write and the state of the hash is known.
    pub fn next_batch(&mut self, registry: &Registry, now: Tick) -> Option<WriteBatch> {
        self.now = self.now.max(now);
        match self.hash {
            HashState::Unknown => None,
            HashState::Rewriting { .. } => Some(self.rewrite_page(registry, now)),
            HashState::Complete if self.pending() == 0 => None,
            HashState::Complete => Some(self.changes(registry, now)),
        }
    }

    fn rewrite_page(&mut self, registry: &Registry, now: Tick) -> WriteBatch {
        let key = self.schema.hash_key(self.number, &self.schema.incarnation);
        let HashState::Rewriting { users, rooms, is_first_page } = &mut self.hash else {
            return self.changes(registry, now);
        };
        let (mut users, mut rooms) = (std::mem::take(users), std::mem::take(rooms));
        let is_first_page = *is_first_page;
        let (mut commands, mut key_commands, mut page, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        if is_first_page {
            commands.push(RedisCommand::Unlink(key.clone()));
        }
        let revision = (REVISION_FIELD.to_owned(), self.revision.to_string());
        let mut fields = vec![(LAST_SEQ_FIELD.to_owned(), LastSeq::Partial.text()), revision];
        while page.len() < MAX_BATCH_USERS && bytes < MAX_BATCH_BYTES {
            let Some(user) = users.pop() else { break };
            let held = registry.reported_holds(&user).unwrap_or_default();
            for (room, state) in held.rooms {
                let field = (member_field(&room, &user), encode_hold(held.since_unix_ms, state.as_ref()));
                bytes += field.0.len() + field.1.len();
                fields.push(field);
            }
            self.keys.mark(&user);
            bytes += self.write_key(&user, registry, now, &mut key_commands);
            page.push(user);
        }
        while fields.len() < MAX_BATCH_USERS && bytes < MAX_BATCH_BYTES {
            let Some(room) = rooms.pop() else { break };
            match registry.settled_observers(&room) {
                0 => {}
                count => fields.push((observers_field(&room), count.to_string())),
            }
        }
        let is_last = users.is_empty() && rooms.is_empty();
        if is_last {
            self.hash = HashState::Complete;
            self.seq += 1; // Nodes that have read the former hash must read this one.
            fields[0].1 = LastSeq::Complete(self.seq).text();
            self.last_seq = self.seq;
        } else {
            self.hash = HashState::Rewriting { users, rooms, is_first_page: false };
        }
        commands.push(RedisCommand::HashSet { key: key.clone(), fields });
        commands.push(RedisCommand::Expire { key, ttl_ms: self.schema.hash_ttl_ms() });
        let keys_written = key_commands.len() as u64;
        commands.append(&mut key_commands);
        let event_at = Some(commands.len());
        // With each page, so that this node is not silent during a long rewrite.
        commands.push(self.publish(EventWriter::new(&self.schema.incarnation, self.seq)));
        let kind = if is_last { BatchKind::LastRewritePage } else { BatchKind::RewritePage };
        WriteBatch { commands, keys_written, users: page, event_at, seq: self.seq, kind, ..WriteBatch::default() }
    }

    fn changes(&mut self, registry: &Registry, now: Tick) -> WriteBatch {
        let kicks = std::mem::take(&mut self.kicks);
        let messages = if self.publish_refused { Vec::new() } else { self.messages.take_event() };
        let mut batch = WriteBatch {
            holds: self.take_holds(registry),
            observers: self.take_observers(registry),
            messages,
            kicks: self.recent(kicks),
            dead_hashes: std::mem::take(&mut self.dead_hashes),
            kind: BatchKind::Changes,
            ..WriteBatch::default()
        };
        batch.commands.extend(batch.dead_hashes.iter().cloned().map(RedisCommand::Unlink));
        self.write_last_messages(&mut batch);
        let has_unpublished = self.take_unpublished();
        let history_changed = self.write_histories(now, &mut batch) || has_unpublished;
        let is_quiet = batch.holds.is_empty() && batch.observers.is_empty() && batch.messages.is_empty();
        if !is_quiet || history_changed {
            self.seq += 1;
            self.write_changes(&mut batch, history_changed);
        } else if !batch.kicks.is_empty() {
            batch.event_at = Some(batch.commands.len());
            batch.commands.push(self.publish_kicks(&batch.kicks));
        }
        batch.seq = self.seq;
        for ((_, user), pending, _) in &batch.holds {
            // Programs that read only keys must see the user as well.
            if matches!(pending, PendingHold::Held { .. }) && !self.keys.is_written(user) {
                self.keys.mark(user);
            }
        }
        self.write_keys(registry, now, &mut batch);
        batch
    }

    /// Writes what belongs to histories. True if they had not been published.
    fn write_histories(&mut self, now: Tick, batch: &mut WriteBatch) -> bool {
        let kept: Vec<_> = batch.messages.iter().filter_map(QueuedMessage::kept).collect();
        self.histories.write(&kept, &self.schema, self.number, (now, self.ticks_per_ttl), &mut batch.commands)
    }

    /// Writes marked user keys up to the limits of a batch.
    fn write_keys(&mut self, registry: &Registry, now: Tick, batch: &mut WriteBatch) {
        let (before, mut bytes) = (batch.commands.len(), 0);
        for user in self.keys.take(MAX_BATCH_USERS) {
            match bytes < MAX_BATCH_BYTES {
                true => {
                    let first = batch.commands.len();
                    bytes += self.write_key(&user, registry, now, &mut batch.commands);
                    if let Some(RedisCommand::Expire { .. }) = batch.commands.get(first) {
                        batch.extended.push((first, Arc::clone(&user)));
                    }
                    if batch.commands.len() > first {
                        batch.users.push(user);
                    }
                }
                false => self.keys.postpone(&user),
            }
        }
        batch.keys_written = (batch.commands.len() - before) as u64;
    }

    /// Takes rooms up to the limit of a batch, each with its settled number of observers.
    fn take_observers(&mut self, registry: &Registry) -> Vec<(Arc<str>, u64)> {
        let with_count = |room: Arc<str>| {
            let count = registry.settled_observers(&room);
            (room, count)
        };
        self.observers.take(MAX_BATCH_USERS).into_iter().map(with_count).collect()
    }

    /// Takes pending holds up to the limits of a batch.
    fn take_holds(&mut self, registry: &Registry) -> Vec<(RoomUser, PendingHold, u64)> {
        let (mut holds, mut bytes) = (Vec::new(), 0);
        for (room_user, pending) in self.holds.extract_if(|_, _| true) {
            let mut since_unix_ms = 0;
            if let PendingHold::Held { state, .. } = &pending {
                // If the user is no longer in the registry, the end of the hold is about to be recorded.
                let Some(online_since) = registry.online_since(&room_user.1) else { continue };
                since_unix_ms = online_since;
                bytes += 2 * state.as_ref().map_or(0, |state| state.as_str().len());
            }
            bytes += 2 * (room_user.0.len() + room_user.1.len()); // In the hash and in the event.
            holds.push((room_user, pending, since_unix_ms));
            if holds.len() >= MAX_BATCH_USERS || bytes >= MAX_BATCH_BYTES {
                break;
            }
        }
        holds
    }

    /// Writes the hash, then its metadata, then the event: a node that receives the event can read the hash.
    fn write_changes(&mut self, batch: &mut WriteBatch, history_changed: bool) {
        let key = self.schema.hash_key(self.number, &self.schema.incarnation);
        let mut event = EventWriter::new(&self.schema.incarnation, self.seq);
        let mut fields = Vec::with_capacity(batch.holds.len() + batch.observers.len());
        let mut deleted = Vec::new();
        for ((room, user), pending, since) in &batch.holds {
            match pending {
                PendingHold::Held { state, joined, .. } => {
                    fields.push((member_field(room, user), encode_hold(*since, state.as_ref())));
                    event.held(*joined, room, user, *since, state.as_ref());
                }
                PendingHold::Released(reason) => {
                    deleted.push(member_field(room, user));
                    event.left(room, user, *reason);
                }
            }
        }
        for (room, count) in &batch.observers {
            match count {
                0 => deleted.push(observers_field(room)),
                count => fields.push((observers_field(room), count.to_string())),
            }
            event.observers(room, *count);
        }
        batch.messages.iter().for_each(|message| message.write(&mut event));
        if history_changed {
            event.history_changed();
        }
        self.write_kicks(&batch.kicks, &mut event);
        if !deleted.is_empty() {
            batch.commands.push(RedisCommand::HashDelete { key: key.clone(), fields: deleted });
        }
        if !fields.is_empty() {
            batch.commands.push(RedisCommand::HashSet { key: key.clone(), fields });
        }
        let by = self.seq - self.last_seq;
        batch.commands.push(RedisCommand::HashIncrement { key: key.clone(), field: LAST_SEQ_FIELD, by });
        // If the hash was lost and this command creates it, nothing else sets its expiry before this node dies.
        batch.commands.push(RedisCommand::Expire { key, ttl_ms: self.schema.hash_ttl_ms() });
        self.last_seq = self.seq;
        batch.event_at = Some(batch.commands.len());
        batch.commands.push(self.publish(event));
    }

    /// Writes the key of a user if that is due, or deletes it if no node holds the user. Returns the number of bytes.
    fn write_key(
        &mut self,
        user: &Arc<str>,
        registry: &Registry,
        now: Tick,
        commands: &mut Vec<RedisCommand>,
    ) -> usize {
        self.keys.unmark(user);
        let key = self.schema.user_key(user);
        let (key_bytes, ttl_ms) = (key.len(), self.schema.ttl_ms());
        if let Some(held) = registry.local_rooms(user, MAX_KEY_ROOMS) {
            match self.keys.next_write(user) {
                KeyWrite::Value => {
                    let value = self.schema.user_value(&held);
                    let bytes = key_bytes + value.len();
                    self.keys.written(user, now, Some(value.len()));
                    commands.push(RedisCommand::Set { key, value, ttl_ms });
                    return bytes;
                }
                KeyWrite::Lease => {
                    self.keys.written(user, now, None);
                    commands.push(RedisCommand::Expire { key, ttl_ms });
                    return key_bytes;
                }
                KeyWrite::Nothing => return 0,
            }
        }
        self.keys.deleted(user);
        // Another node that holds the user writes the key again when it hears that this one no longer does.
        if !registry.is_held_remotely(user) {
            commands.push(RedisCommand::Unlink(key));
        }
        key_bytes
    }

    /// Takes the replies to a batch. If a command was refused, the batch has failed and has to be given to
    /// [`take_back`](Self::take_back).
    pub fn handle_replies(
        &mut self,
        batch: &mut WriteBatch,
        replies: &[RedisReply],
        registry: &Registry,
    ) -> WriteOutcome {
        let event = batch.event_at.and_then(|at| replies.get(at)).filter(|reply| reply.is_denied());
        let is_other = |reply: &&RedisReply| event.is_none_or(|event| !std::ptr::eq(event, *reply));
        if let Some(reply) = replies.iter().filter(is_other).find(|reply| matches!(reply, RedisReply::Error(_))) {
            return WriteOutcome::Refused(reply.error_text());
        }
        let last_seq = replies.iter().find_map(|reply| match reply {
            RedisReply::Number(number) => Some(*number),
            _ => None,
        });
        let is_spoiled = replies.contains(&RedisReply::WrongType);
        if is_spoiled || last_seq.is_some_and(|seq| seq != batch.seq as i64) {
            self.rewrite(registry);
            self.histories.lost(is_spoiled);
            return WriteOutcome::HashLost;
        }
        let missing = |(at, _): &&(usize, _)| replies.get(*at) == Some(&RedisReply::Missing);
        batch.extended.iter().filter(missing).for_each(|(_, user)| self.keys.mark(user));
        let published = Some(self.now);
        self.published_kicks.extend(batch.kicks.iter().map(|kick| QueuedKick { published, ..kick.clone() }));
        // The oldest go first: other nodes remember the latest.
        self.published_kicks.drain(..self.published_kicks.len().saturating_sub(MAX_WAITING_KICKS));
        let confirms_changes = self.confirmed_seq.is_some() && batch.kind == BatchKind::Changes;
        if batch.kind == BatchKind::LastRewritePage || confirms_changes {
            self.confirmed_seq = Some(batch.seq);
        }
        let Some(refusal) = event else { return WriteOutcome::Done };
        // Kicks are published again with each heartbeat.
        self.put_back(std::mem::take(&mut batch.messages));
        self.not_published(refusal)
    }

    /// Takes back a batch whose result is unknown; of several, the latest first. What it was about is written again as
    /// it is by then.
    pub fn take_back(&mut self, batch: WriteBatch, registry: &Registry) {
        self.hash = HashState::Unknown;
        if batch.kind != BatchKind::Changes {
            self.confirmed_seq = None; // Later pages may have arrived without this one.
        }
        for (room_user, pending, _) in batch.holds {
            let (joined, reason) = match pending {
                PendingHold::Held { joined, .. } => (joined, Reason::Left),
                PendingHold::Released(reason) => (true, reason),
            };
            let pending = self.holds.entry(room_user).or_insert_with_key(|(room, user)| {
                match registry.reported_hold(room, user) {
                    Some(state) => PendingHold::Held { state, joined, unsent: false },
                    None => PendingHold::Released(reason),
                }
            });
            if let PendingHold::Held { unsent, .. } = pending {
                *unsent = false; // The batch may have arrived.
            }
        }
        batch.observers.into_iter().for_each(|(room, _)| self.observers.put_back(room));
        batch.users.iter().for_each(|user| self.keys.mark(user));
        self.dead_hashes.extend(batch.dead_hashes);
        self.kicks.splice(0..0, batch.kicks);
        self.kicks.truncate(MAX_WAITING_KICKS);
        batch.last_messages.iter().for_each(|(room, how)| self.last_messages.put_back(room, *how));
        self.put_back(batch.messages);
    }
}
