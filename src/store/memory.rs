//! No store beside the registry: one node, nothing to install, nothing that survives it.

use super::{News, Store};
use crate::metrics::StoreTotals;
use crate::presence::kick::Removal;

/// The registry is all there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory;

impl Store for Memory {
    fn record(&self, _news: Vec<News>) {}

    fn take_removals(&self) -> Vec<Removal> {
        Vec::new()
    }

    fn degraded_since(&self) -> Option<u64> {
        None
    }

    fn totals(&self) -> Option<StoreTotals> {
        None
    }

    fn close(&self) {}
}
