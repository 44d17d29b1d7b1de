//! What a new observer is sent first: everything, in pages.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::memory_budget::MemoryBudget;

/// The frames for new observers.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    /// One after the other.
    pub pages: Arc<[Bytes]>,
    /// Where each user stands in the pages, if the protocol does not tell observers about themselves.
    pub spans: Option<Spans>,
}

impl Snapshot {
    /// These pages, counted as unread until the last observer has taken them.
    pub fn new(pages: impl IntoIterator<Item = Bytes>, unread: &MemoryBudget) -> Self {
        Self { pages: pages.into_iter().map(|page| unread.count(page)).collect(), spans: None }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.pages.iter().map(|page| page.len() as u64).sum()
    }
}

/// Where each user stands in the pages of a snapshot, so that an observer's own entry can be cut out of the shared bytes.
#[derive(Debug, Default, Clone)]
pub struct Spans(Arc<[Span]>);

/// The user, the page, and the bytes of its entry in the page.
pub type Span = (Arc<str>, u32, Range<u32>);

impl Spans {
    /// These entries, sorted by user.
    #[must_use]
    pub fn new(sorted: Vec<Span>) -> Self {
        Self(sorted.into())
    }

    /// The page that holds the entry of a user, and the bytes of the entry in it.
    #[must_use]
    pub fn find(&self, user: &str) -> Option<(usize, Range<usize>)> {
        let at = self.0.binary_search_by(|(known, ..)| (**known).cmp(user)).ok()?;
        let (_, page, range) = &self.0[at];
        Some((*page as usize, range.start as usize..range.end as usize))
    }
}
