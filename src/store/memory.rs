//! The store of a single node: the registry holds everything, nothing survives a restart, nothing needs to be
//! installed.

use std::sync::Arc;

use super::{KeptMessage, LastMessages, RevocationsIn, Store, StoreClock, StoreEvent};
use crate::metrics::StoreTotals;
use crate::presence::kick::Kick;

/// A store that keeps nothing besides the registry.
#[derive(Debug, Default)]
pub struct MemoryStore {
    last_messages: Arc<LastMessages>,
}

impl Store for MemoryStore {
    fn record(&self, _events: Vec<StoreEvent>) {}

    fn take_kicks(&self) -> Vec<Kick> {
        Vec::new()
    }

    fn take_kept(&self) -> Vec<KeptMessage> {
        Vec::new()
    }

    fn last_messages(&self) -> &Arc<LastMessages> {
        &self.last_messages
    }

    fn revocations(&self) -> RevocationsIn {
        RevocationsIn::Memory
    }

    fn revoked(&self) {}

    fn degraded_since(&self) -> Option<u64> {
        None
    }

    fn clock(&self) -> StoreClock {
        StoreClock::default()
    }

    fn totals(&self) -> Option<StoreTotals> {
        None
    }

    fn close(&self) {}
}
