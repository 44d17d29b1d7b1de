//! The tick: ends leases, settles the rooms that changed, encodes each change once, and makes a batch for each worker.
//!
//! It does no I/O. Its cost follows the number of changes and the length of the requested snapshots. Whole lists are
//! paced: encoding them takes a bounded share of the time, and the longer a list is, the less often its observers
//! receive it, so that they need a bounded number of bytes per second and no queue grows.

mod batch;
pub mod encoder;
mod last_messages;
mod observer_counts;
mod pacer;
mod reporter;
mod shared_snapshots;
mod snapshot;
mod stamps;
mod unread_lists;
mod update;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::presence::{Audience, AudienceSet, Keeping, Now, Registry, Room, RoomChange, StatusChange};
use crate::store::{KeptMessage, LastMessages, Sinks, StoreClock, StoreEvent};
use encoder::{Encoders, MessageEncoder, Pacing};
use last_messages::last_of;
use observer_counts::ObserverCounts;
use pacer::Pacer;
use reporter::Reporter;
use shared_snapshots::SharedSnapshots;
use stamps::Stamps;
use unread_lists::UnreadLists;
use update::retain_deliverable;

pub use batch::{AudienceFrames, Batch, Health, MessageFrames, RoomFrames, StatusFrame, TickCounts, UnreadExcess};
pub use snapshot::{Snapshot, Span, Spans};
pub use update::{Last, ObserverCount, RoomUpdate};

/// Lists with up to this many members are encoded even if the limit of unread lists is reached.
const SHORT_LIST_MEMBERS: usize = 200;

/// Turns changes of the registry into batches.
#[derive(Debug)]
pub struct Broadcaster {
    registry: Arc<Registry>,
    workers: usize,
    encoders: Encoders,
    /// Audiences whose encoders keep a history.
    with_history: AudienceSet,
    pacer: Pacer,
    /// Bytes of whole lists that slow clients have not read yet.
    unread: UnreadLists,
    shared_snapshots: SharedSnapshots,
    last_messages: Arc<LastMessages>,
    /// What observers of rooms were told of their number.
    observer_counts: ObserverCounts,
    tick: Duration,
    /// What sessions of this node did in the last tick, for the store.
    store_events: Vec<StoreEvent>,
    reporter: Reporter,
    stamps: Stamps,
    /// Written before each tick.
    clock: StoreClock,
}

impl Broadcaster {
    /// A broadcaster for this many workers.
    #[must_use]
    pub fn new(registry: Arc<Registry>, workers: usize, tick: Duration, encoders: Encoders) -> Self {
        let stamps = Stamps::new(registry.incarnation());
        let with_history = encoders.audiences.iter().enumerate().filter(|(_, encoder)| encoder.has_history());
        Self {
            registry,
            workers,
            with_history: with_history.map(|(number, _)| Audience::new(number)).collect(),
            encoders,
            pacer: Pacer::new(tick),
            unread: UnreadLists::default(),
            shared_snapshots: SharedSnapshots::default(),
            last_messages: Arc::default(),
            observer_counts: ObserverCounts::new(tick),
            tick,
            store_events: Vec::new(),
            reporter: Reporter::default(),
            stamps,
            clock: StoreClock::default(),
        }
    }

    /// Reports joins and leaves to these sinks.
    #[must_use]
    pub fn with_sinks(self, sinks: Arc<Sinks>) -> Self {
        Self { reporter: Reporter::new(sinks, self.tick), ..self }
    }

    /// Keeps the last messages of rooms there.
    #[must_use]
    pub fn with_last_messages(self, last_messages: Arc<LastMessages>) -> Self {
        Self { last_messages, ..self }
    }

    /// Takes what sessions of this node did in the last tick, for the store.
    pub fn take_store_events(&mut self) -> Vec<StoreEvent> {
        std::mem::take(&mut self.store_events)
    }

    /// Limits the bytes of whole lists that slow clients have not read.
    #[cfg(test)]
    pub(crate) fn limit_unread(&mut self, bytes: usize) {
        self.unread = UnreadLists::new(bytes);
    }

    /// Drops what is kept only to save work: snapshots, and the diffs for clients that resume.
    pub fn free_memory(&mut self) {
        self.shared_snapshots = SharedSnapshots::default();
        self.registry.give_up_histories();
    }

    /// Gives messages the time of the store from now on, if it differs from that of this node, and takes messages out
    /// of the histories whose times are far in the future.
    pub fn set_clock(&mut self, clock: StoreClock, now: Now) {
        self.clock = clock;
        let latest_unix_ms = clock.latest_message_time(now.unix_ms);
        for audience in self.with_history.iter() {
            self.encoders.audiences[audience.index()].limit_times(latest_unix_ms);
        }
    }

    /// Executes one tick and returns a batch for each worker.
    pub fn tick(&mut self, now: Now) -> (Vec<Batch>, TickCounts) {
        self.registry.end_leases(now);
        let mut batches = vec![Batch { now, ..Batch::default() }; self.workers];
        self.queue_counted_rooms(now.tick);
        let dirty = self.registry.take_dirty();
        let mut counts = TickCounts { first_join_us: self.registry.first_joins.take(), ..TickCounts::default() };
        for room in dirty {
            let mut change = self.registry.settle(&room);
            if !change.messages.is_empty() {
                self.prepare_messages(&room, &mut change, now);
            }
            if self.registry.has_store() {
                self.store_events.extend(StoreEvent::of(&room, &change));
            }
            self.reporter.collect(&self.registry, &room, &change, now);
            counts.add(&change.diff);
            self.registry.watchlist.mark_changed(&change.diff);
            self.broadcast(&room, &change, now, &mut batches);
        }
        self.broadcast_statuses(now, &mut batches);
        self.broadcast_to_users(now, &mut batches);
        self.shared_snapshots.forget_old(now.tick);
        self.unread.clean(now.tick);
        self.expire_last_messages(now);
        if self.unread.excess() != UnreadExcess::default() {
            // Before a client is disconnected for what it has not read.
            self.shared_snapshots.forget_unused();
        }
        let UnreadExcess { of_stalled, of_all } = self.unread.excess();
        let unread_excess = UnreadExcess { of_stalled: of_stalled / self.workers, of_all: of_all / self.workers };
        batches.iter_mut().for_each(|batch| batch.unread_excess = unread_excess);
        self.reporter.flush(&self.registry, &self.encoders, now);
        (batches, counts)
    }

    /// Gives messages that belong to histories to the encoders that keep them.
    pub fn restore(&mut self, messages: &[KeptMessage], now: Now) {
        let unix_ms = self.clock.message_time(now.unix_ms);
        messages.iter().for_each(|message| self.stamps.see(message.stamp, unix_ms));
        for audience in self.with_history.iter() {
            self.encoders.audiences[audience.index()].restore(messages);
        }
    }

    /// Drops messages that nobody can see, stamps the messages of this node, and marks the ones that later observers
    /// receive.
    fn prepare_messages(&mut self, room: &Room, change: &mut RoomChange, now: Now) {
        retain_deliverable(room, change);
        let unix_ms = self.clock.message_time(now.unix_ms);
        let keeps_last = self.follow_last(room, change, unix_ms);
        self.stamps.stamp(&mut change.messages, unix_ms);
        for message in change.messages.iter_mut().filter(|message| message.is_local) {
            let mut keepers = self.with_history.iter();
            if keepers.any(|audience| self.encoders.audiences[audience.index()].keeps(room, message)) {
                message.keeping = Keeping::History;
            }
        }
        if keeps_last {
            self.keep_last(room, change);
        }
    }

    /// Encodes each new status of a watched user once, however many connections watch the user.
    fn broadcast_statuses(&self, now: Now, batches: &mut [Batch]) {
        for change in self.registry.settle_watchlist(now.unix_ms) {
            let StatusChange { user, status, changed, watchers, details } = change;
            let objects = self.encoders.statuses.iter().map(|encoder| (encoder.user)(&user, &status)).collect();
            let frame = StatusFrame { user, objects, changed, details };
            let watching = batches.iter_mut().zip(watchers).filter(|(_, watchers)| *watchers > 0);
            watching.for_each(|(batch, _)| batch.status_frames.push(frame.clone()));
        }
    }

    /// Gives each worker the messages to users: only the workers know whether they have connections of a user.
    fn broadcast_to_users(&mut self, now: Now, batches: &mut [Batch]) {
        let mut messages = self.registry.application_messages.take();
        if messages.is_empty() {
            return;
        }
        self.stamps.stamp_to_users(&mut messages, now.unix_ms);
        if self.registry.has_store() {
            let local = messages.iter().filter(|message| message.is_local);
            self.store_events.extend(local.cloned().map(StoreEvent::UserMessage));
        }
        let messages: Arc<[_]> = messages.into();
        batches.iter_mut().for_each(|batch| batch.user_messages = Arc::clone(&messages));
    }

    /// Encodes the change of a room, and adds the frames to the batch of each worker that has observers.
    fn broadcast(&mut self, room: &Arc<Room>, change: &RoomChange, now: Now, batches: &mut [Batch]) {
        let in_use = change.observed.iter().copied().fold(AudienceSet::default(), AudienceSet::union);
        let found = self.find_last(room, change, in_use);
        let last = found.as_ref().map_or(Last::Nothing, |found| last_of(found, change));
        let (messages, observers) = (&change.messages[..], self.count_observers(room, in_use, now.tick));
        let frames = Arc::new(self.encode(RoomUpdate { room, change, messages, in_use, last, observers, now }));
        self.note_missing_last(room, last, &frames);
        for (batch, observed) in batches.iter_mut().zip(&change.observed) {
            if !observed.is_empty() {
                batch.rooms.push(Arc::clone(&frames));
            }
        }
        if change.count == 0 && in_use.is_empty() {
            self.pacer.forget(room);
            self.forget_last(room, change);
            self.observer_counts.forget(room.name());
            self.registry.close_if_unused(room);
        }
    }

    /// Calls the encoder of each audience.
    fn encode(&mut self, update: RoomUpdate<'_>) -> RoomFrames {
        let mut audiences = SmallVec::new();
        let mut deferred = AudienceSet::default();
        let mut is_list_deferred = false;
        for audience in update.change.observed_before.iter() {
            if let Some(encoder) = self.encoders.audiences.get_mut(audience.index()) {
                encoder.follow(update, update.in_use.contains(audience));
            }
        }
        for audience in update.in_use.union(self.with_history).iter() {
            let Some(encoder) = self.encoders.audiences.get_mut(audience.index()) else { continue };
            if !update.in_use.contains(audience) && !encoder.records(update) {
                continue;
            }
            let pacing = encoder.pacing();
            let (changes, snapshot) = if pacing == Pacing::Lists {
                let (changes, snapshot, defers) = self.encode_list(update, audience);
                is_list_deferred |= defers;
                (changes, snapshot)
            } else {
                let changes = encoder.changes(update);
                let awaits_last = update.last == Last::Unknown && encoder.keeps_last(update.room);
                let is_due = update.requests(audience) && !awaits_last;
                (changes, if is_due { self.snapshot(update, audience, pacing) } else { None })
            };
            if update.requests(audience) && snapshot.is_none() {
                deferred.insert(audience);
            }
            if update.in_use.contains(audience) {
                audiences.push(AudienceFrames { audience, changes, snapshot, messages: None });
            }
        }
        if !update.messages.is_empty() {
            self.encode_messages(update, &mut audiences);
        }
        if !deferred.is_empty() || is_list_deferred {
            self.registry.defer(update.room, deferred);
        }
        let RoomChange { generation, seq, .. } = *update.change;
        RoomFrames { room: Arc::clone(update.room), generation, seq, audiences }
    }

    /// The list for attached observers, at its pace, and for new ones; and whether it is still due to the attached
    /// ones.
    fn encode_list(&mut self, update: RoomUpdate<'_>, audience: Audience) -> (Option<Bytes>, Option<Snapshot>, bool) {
        let due = update.change.diff.changes_members() || self.pacer.is_deferred(update, audience);
        let send_now = due && self.pacer.may_send(update, audience);
        let requested = send_now || update.requests(audience);
        let list = if requested { self.snapshot(update, audience, Pacing::Lists) } else { None };
        let changes = list.as_ref().filter(|_| send_now).and_then(|list| list.pages.first().cloned());
        let sent = changes.is_some();
        self.pacer.record(update, audience, due, sent);
        (changes, list, due && !sent)
    }

    /// Encodes a snapshot. Defers it (`None`) if the encoder is not ready, if the last one was so long that the pause
    /// after it is not over, or if slow clients of the room have too many bytes of unread lists.
    fn snapshot(&mut self, update: RoomUpdate<'_>, audience: Audience, pacing: Pacing) -> Option<Snapshot> {
        let encoder = &mut self.encoders.audiences[audience.index()];
        if pacing == Pacing::Short {
            return Some(encoder.snapshot(update, self.unread.short()));
        }
        let is_shared = encoder.has_history();
        if let Some(snapshot) = is_shared.then(|| self.shared_snapshots.get(update, audience)).flatten() {
            return Some(snapshot);
        }
        if !encoder.is_ready() || !self.pacer.may_encode(update, audience) {
            return None;
        }
        let unread = match update.change.count <= SHORT_LIST_MEMBERS {
            true => self.unread.short(),
            false => self.unread.long(update.room.id(), self.pacer.last_bytes(update, audience))?,
        };
        let snapshot = encoder.snapshot(update, unread);
        self.pacer.encoded(update, audience, snapshot.bytes());
        Some(if is_shared { self.shared_snapshots.keep(update, audience, snapshot) } else { snapshot })
    }

    /// Encodes the messages of the tick once per format.
    fn encode_messages(&self, update: RoomUpdate<'_>, audiences: &mut [AudienceFrames]) {
        let mut encoded: Vec<(MessageEncoder, MessageFrames)> = Vec::new();
        for frames in audiences {
            let Some(encode) = self.encoders.audiences[frames.audience.index()].messages() else { continue };
            let known = encoded.iter().position(|(known, _)| std::ptr::fn_addr_eq(*known, encode));
            let at = known.unwrap_or_else(|| {
                let frame = |leaving| Some(encode(update, leaving)).filter(|messages| !messages.frames.is_empty());
                encoded.push((encode, MessageFrames { before_changes: frame(true), after_changes: frame(false) }));
                encoded.len() - 1
            });
            frames.messages = Some(Box::new(encoded[at].1.clone()));
        }
    }
}
