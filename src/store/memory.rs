//! The store of a single node: the registry holds everything, nothing survives a restart, nothing needs to be
//! installed.

use super::{Store, StoreEvent};
use crate::metrics::StoreTotals;
use crate::presence::kick::Kick;

/// A store that keeps nothing besides the registry.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryStore;

impl Store for MemoryStore {
    fn record(&self, _events: Vec<StoreEvent>) {}

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
