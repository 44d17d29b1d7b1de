//! Notices: what happened once. They do not merge, keep their order, and make way for changes of the state.

use std::collections::BTreeMap;

use super::entry::{Change, Place, Subject};
use super::{Ms, Queue};
use crate::store::webhooks::selection::Kind;
use crate::store::{Happening, Notice};

/// The limit of bytes of the notices that wait for an endpoint.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The pending notices of a queue.
#[derive(Debug, Default)]
pub(super) struct PendingNotices {
    /// By their numbers in the order of sending, with the time since when each is pending.
    pending: BTreeMap<u64, (Ms, Notice)>,
    bytes: usize,
    /// Notices dropped because there were too many.
    dropped: u64,
}

/// The kind of a notice.
#[must_use]
pub fn kind_of(notice: &Notice) -> Kind {
    match notice.what {
        Happening::ClientEvent { .. } => Kind::ClientEvent,
        Happening::CacheMiss => Kind::CacheMiss,
    }
}

impl PendingNotices {
    pub(super) fn remove(&mut self, number: u64) {
        if let Some((_, notice)) = self.pending.remove(&number) {
            self.bytes -= notice.bytes();
        }
    }

    /// The notice with this number, as a change.
    pub(super) fn change(&self, number: u64) -> Option<(Change, Ms)> {
        let (first, notice) = self.pending.get(&number)?;
        Some((Change::Notice(Subject::Notice(number), notice.clone()), *first))
    }

    /// Since when each is pending.
    pub(super) fn firsts(&self) -> impl Iterator<Item = Ms> {
        self.pending.values().map(|(first, _)| *first)
    }
}

impl Queue {
    /// Takes a notice, if it is selected. Beyond half of the limit of changes it is dropped.
    pub(super) fn record_notice(&mut self, notice: &Notice, now: Ms) {
        let selection = &self.settings.selection;
        if !selection.has(kind_of(notice)) || !selection.has_room(&notice.room) {
            return;
        }
        let max_changes = self.settings.max_changes;
        let fits = self.notices.pending.len() < max_changes / 2 && self.order.len() < max_changes;
        if !fits || self.notices.bytes + notice.bytes() > MAX_BYTES {
            self.notices.dropped += 1;
            return;
        }
        self.next_number += 1;
        self.insert_notice(self.next_number - 1, notice.clone(), now);
    }

    /// Has a notice wait since `first`, in the place that its number says.
    pub(super) fn insert_notice(&mut self, number: u64, notice: Notice, first: Ms) {
        let place: Place = (first, number);
        self.notices.bytes += notice.bytes();
        self.notices.pending.insert(number, (first, notice));
        self.order.insert(place, Subject::Notice(number));
    }

    /// Drops the latest notice, so that a change of the state has its place. False if there is none.
    pub(super) fn drop_notice(&mut self) -> bool {
        let Some((number, (first, notice))) = self.notices.pending.pop_last() else { return false };
        self.notices.bytes -= notice.bytes();
        self.notices.dropped += 1;
        self.order.remove(&(first, number)).is_some()
    }

    /// Notices that were dropped so far.
    #[must_use]
    pub fn dropped_notices(&self) -> u64 {
        self.notices.dropped
    }

    /// Notices were dropped that did not reach the queue.
    pub fn note_dropped_notices(&mut self, notices: u64) {
        self.notices.dropped += notices;
    }
}
