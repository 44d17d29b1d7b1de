//! No store beside the registry: one node, nothing to install, nothing that survives it.

use super::{Store, StoreEvent};
use crate::metrics::StoreTotals;
use crate::presence::kick::Kick;

/// The registry is all there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory;

impl Store for Memory {
    fn record(&self, _news: Vec<StoreEvent>) {}

    fn take_kicks(&self) -> Vec<Kick> {
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
