//! The tick: ends leases, settles the rooms that changed, encodes each change once, and makes a batch for each worker.
//!
//! It does no I/O. Its cost follows the number of changes and the length of the requested snapshots. Whole lists are
//! paced: encoding them takes a bounded share of the time, and the longer a list is, the less often its observers
//! receive it, so that they need a bounded number of bytes per second and no queue grows.

mod batch;
pub mod encoder;
mod pacer;
mod reporter;
mod snapshot;
mod update;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::memory_budget::{MAX_UNREAD_BYTES, MemoryBudget};
use crate::presence::{Audience, AudienceSet, Now, Registry, Room, RoomChange, StatusChange};
use crate::store::{Sinks, StoreEvent};
use encoder::{Encoders, MessageEncoder, Pacing};
use pacer::Pacer;
use reporter::Reporter;
use update::deliverable;

pub use batch::{AudienceFrames, Batch, Health, MessageFrames, RoomFrames, StatusFrame, TickCounts};
pub use snapshot::{Snapshot, Span, Spans};
pub use update::RoomUpdate;

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
    unread: MemoryBudget,
    /// What sessions of this node did in the last tick, for the store.
    store_events: Vec<StoreEvent>,
    reporter: Reporter,
}

impl Broadcaster {
    /// A broadcaster for this many workers.
    #[must_use]
    pub fn new(registry: Arc<Registry>, workers: usize, tick: Duration, encoders: Encoders) -> Self {
        let with_history = encoders.audiences.iter().enumerate().filter(|(_, encoder)| encoder.has_history());
        Self {
            registry,
            workers,
            with_history: with_history.map(|(number, _)| Audience::new(number)).collect(),
            encoders,
            pacer: Pacer::new(tick),
            unread: MemoryBudget::new(MAX_UNREAD_BYTES),
            store_events: Vec::new(),
            reporter: Reporter::default(),
        }
    }

    /// Reports joins and leaves to these sinks.
    #[must_use]
    pub fn with_sinks(self, sinks: Arc<Sinks>) -> Self {
        Self { reporter: Reporter::new(sinks), ..self }
    }

    /// Takes what sessions of this node did in the last tick, for the store.
    pub fn take_store_events(&mut self) -> Vec<StoreEvent> {
        std::mem::take(&mut self.store_events)
    }

    /// Limits the bytes of whole lists that slow clients have not read.
    #[cfg(test)]
    pub(crate) fn limit_unread(&mut self, bytes: usize) {
        self.unread = MemoryBudget::new(bytes);
    }

    /// Executes one tick and returns a batch for each worker.
    pub fn tick(&mut self, now: Now) -> (Vec<Batch>, TickCounts) {
        self.registry.end_leases(now);
        let mut batches = vec![Batch { now, ..Batch::default() }; self.workers];
        let mut counts = TickCounts::default();
        for room in self.registry.take_dirty() {
            let change = self.registry.settle(&room);
            if self.registry.has_store() {
                self.store_events.extend(StoreEvent::of(&room, &change));
            }
            self.reporter.collect(&self.registry, &room, &change, now);
            counts.rooms += 1;
            counts.changes += (change.diff.joined.len() + change.diff.updated.len() + change.diff.left.len()) as u64;
            self.registry.watchlist.mark_changed(&change.diff);
            self.broadcast(&room, &change, now, &mut batches);
        }
        self.broadcast_statuses(now, &mut batches);
        self.reporter.flush();
        (batches, counts)
    }

    /// Encodes each new status of a watched user once, however many connections watch the user.
    fn broadcast_statuses(&self, now: Now, batches: &mut [Batch]) {
        for change in self.registry.settle_watchlist(now.unix_ms) {
            let StatusChange { user, status, changed, watchers } = change;
            let objects = self.encoders.statuses.iter().map(|encoder| (encoder.user)(&user, &status)).collect();
            let frame = StatusFrame { user, objects, changed };
            let watching = batches.iter_mut().zip(watchers).filter(|(_, watchers)| *watchers > 0);
            watching.for_each(|(batch, _)| batch.status_frames.push(frame.clone()));
        }
    }

    /// Encodes the change of a room, and adds the frames to the batch of each worker that has observers.
    fn broadcast(&mut self, room: &Arc<Room>, change: &RoomChange, now: Now, batches: &mut [Batch]) {
        let in_use = change.observed.iter().copied().fold(AudienceSet::default(), AudienceSet::union);
        let messages = deliverable(room, change);
        let frames = Arc::new(self.encode(RoomUpdate { room, change, messages: &messages, in_use, now }));
        for (batch, observed) in batches.iter_mut().zip(&change.observed) {
            if !observed.is_empty() {
                batch.rooms.push(Arc::clone(&frames));
            }
        }
        if change.count == 0 && in_use.is_empty() {
            self.pacer.forget(room);
            self.registry.close_if_unused(room);
        }
    }

    /// Calls the encoder of each audience.
    fn encode(&mut self, update: RoomUpdate<'_>) -> RoomFrames {
        let mut audiences = SmallVec::new();
        let mut deferred = AudienceSet::default();
        let mut is_list_deferred = false;
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
                (changes, if update.requests(audience) { self.snapshot(update, audience, pacing) } else { None })
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

    /// Encodes a snapshot. Defers it (`None`) if the last one was so long that the pause after it is not over, or if
    /// slow clients have too many bytes of unread lists.
    fn snapshot(&mut self, update: RoomUpdate<'_>, audience: Audience, pacing: Pacing) -> Option<Snapshot> {
        let encoder = &mut self.encoders.audiences[audience.index()];
        if pacing == Pacing::Short {
            return Some(encoder.snapshot(update, &self.unread));
        }
        if !self.pacer.may_encode(update, audience) || self.unread.is_full(0) {
            return None;
        }
        let snapshot = encoder.snapshot(update, &self.unread);
        self.pacer.encoded(update, audience, snapshot.bytes());
        Some(snapshot)
    }

    /// Encodes the messages of the tick once per format.
    fn encode_messages(&self, update: RoomUpdate<'_>, audiences: &mut [AudienceFrames]) {
        let mut encoded: Vec<(MessageEncoder, MessageFrames)> = Vec::new();
        for frames in audiences {
            let Some(encode) = self.encoders.audiences[frames.audience.index()].messages() else { continue };
            let known = encoded.iter().position(|(known, _)| std::ptr::fn_addr_eq(*known, encode));
            let at = known.unwrap_or_else(|| {
                let frame = |leaving| Some(encode(update, leaving)).filter(|frame| !frame.is_empty());
                encoded.push((encode, MessageFrames { before_changes: frame(true), after_changes: frame(false) }));
                encoded.len() - 1
            });
            frames.messages = Some(Box::new(encoded[at].1.clone()));
        }
    }
}
