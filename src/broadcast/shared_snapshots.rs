//! Snapshots that several observers share.
//!
//! A snapshot stays in memory until its observer has read it, and anyone can observe a large room at any time. So
//! observers that arrive within a few seconds share the same bytes. If the room has changed, only a long snapshot is
//! shared, followed by the diffs since then if these are short.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{RoomUpdate, Snapshot};
use crate::presence::{Audience, Tick};

/// Shorter snapshots are not kept.
const SHARED_BYTES: usize = 1024;
/// Longer snapshots are used although the room has changed. The observer sees the changes a moment later, as changes.
const LONG_BYTES: usize = 64 * 1024;
/// The diffs after a snapshot are shorter than this part of it: a quarter.
const DIFFS_PART: usize = 4;
/// Snapshots are forgotten after this many ticks.
const KEPT_TICKS: Tick = 64;

/// The last snapshot of each room that observers requested lately.
#[derive(Debug, Default)]
pub(super) struct SharedSnapshots {
    last: HashMap<(u64, usize), Shared>,
}

#[derive(Debug)]
struct Shared {
    seq: u64,
    /// Referenced once more by the frames of each tick in which observers were sent them.
    pages: Box<[Arc<Bytes>]>,
    bytes: usize,
    encoded_at: Tick,
}

impl Shared {
    /// The pages for observers. Unlike `Bytes`, an `Arc` tells whether it is the last reference.
    fn pages(&self) -> impl Iterator<Item = Bytes> {
        self.pages.iter().map(|page| Bytes::from_owner(Page(Arc::clone(page))))
    }

    /// Whether no observer has to read the pages.
    fn is_unused(&self) -> bool {
        self.pages.iter().all(|page| Arc::strong_count(page) == 1)
    }
}

/// A page that observers share.
struct Page(Arc<Bytes>);

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl SharedSnapshots {
    /// The last snapshot, with the diffs since then; `None` if the room has changed too much.
    pub(super) fn get(&self, update: RoomUpdate<'_>, audience: Audience) -> Option<Snapshot> {
        let shared = self.last.get(&(update.room.id(), audience.index()))?;
        if shared.seq == update.change.seq {
            return Some(Snapshot { pages: shared.pages().collect(), ..Snapshot::default() });
        }
        if shared.bytes < LONG_BYTES {
            return None;
        }
        let missed = update.room.read(|roster| roster.history(shared.seq, update.change.seq))?;
        let is_short = missed.iter().map(Bytes::len).sum::<usize>() < shared.bytes / DIFFS_PART;
        is_short.then(|| Snapshot { pages: shared.pages().chain(missed).collect(), ..Snapshot::default() })
    }

    /// Keeps a snapshot for the observers of the next ticks. Returns it for those of this tick.
    pub(super) fn keep(&mut self, update: RoomUpdate<'_>, audience: Audience, snapshot: Snapshot) -> Snapshot {
        let bytes = snapshot.bytes() as usize;
        if bytes < SHARED_BYTES || snapshot.spans.is_some() {
            return snapshot;
        }
        let pages = snapshot.pages.iter().cloned().map(Arc::new).collect();
        let shared = Shared { seq: update.change.seq, pages, bytes, encoded_at: update.now.tick };
        let snapshot = Snapshot { pages: shared.pages().collect(), ..Snapshot::default() };
        self.last.insert((update.room.id(), audience.index()), shared);
        snapshot
    }

    /// Forgets the snapshots that nobody else holds: no client has to read them.
    pub(super) fn forget_unused(&mut self) {
        self.last.retain(|_, shared| !shared.is_unused());
    }

    /// Forgets old snapshots. Cheap if there are none; otherwise it looks at all of them every 16 ticks.
    pub(super) fn forget_old(&mut self, now: Tick) {
        if !self.last.is_empty() && now.is_multiple_of(KEPT_TICKS / 4) {
            self.last.retain(|_, shared| now < shared.encoded_at + KEPT_TICKS);
            self.last.shrink_to(2 * self.last.len());
        }
    }
}
