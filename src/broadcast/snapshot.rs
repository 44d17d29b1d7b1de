//! The first frames for a new observer: the whole state of the room, in pages.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::memory_budget::MemoryBudget;

/// The frames for new observers.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    /// The pages, in order.
    pub pages: Arc<[Bytes]>,
    /// How many pages at the end are only for new observers, and not for those that have missed changes.
    pub for_new: usize,
    /// The entry of each user in the pages, if the protocol does not send users their own entry.
    pub spans: Option<Spans>,
}

impl Snapshot {
    /// These pages, counted in the budget until the last observer has received them.
    pub fn new(pages: impl IntoIterator<Item = Bytes>, unread: &MemoryBudget) -> Self {
        Self { pages: pages.into_iter().map(|page| unread.count(page)).collect(), ..Self::default() }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.pages.iter().map(|page| page.len() as u64).sum()
    }
}

/// The entry of each user in the pages of a snapshot, so that an observer's own entry can be cut out of the shared
/// bytes.
#[derive(Debug, Default, Clone)]
pub struct Spans(Arc<[Span]>);

/// A user, the page, and the bytes of the user's entry in the page.
pub type Span = (Arc<str>, u32, Range<u32>);

impl Spans {
    /// These entries, sorted by user.
    #[must_use]
    pub fn new(sorted: Vec<Span>) -> Self {
        Self(sorted.into())
    }

    /// The page with the entry of a user, and the bytes of the entry in it.
    #[must_use]
    pub fn find(&self, user: &str) -> Option<(usize, Range<usize>)> {
        let at = self.0.binary_search_by(|(known, ..)| (**known).cmp(user)).ok()?;
        let (_, page, range) = &self.0[at];
        Some((*page as usize, range.start as usize..range.end as usize))
    }
}
