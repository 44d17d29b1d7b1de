//! Engine time: executes a tick at each interval, and skips it while a worker is behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::time::{Interval, MissedTickBehavior};

use super::memory::MemoryGuard;
use super::threads::WorkerHandle;
use crate::broadcast::{Broadcaster, Health};
use crate::node::Node;
use crate::os::unix_ms;
use crate::presence::Now;
use crate::presence::kick::Kick;
use crate::protocol;
use crate::store::StoreEvent;

/// Last messages take this part of the memory at most.
const LAST_MESSAGES_SHARE: usize = 8;

/// Executes the ticks.
pub(super) struct Ticker {
    node: Arc<Node>,
    broadcaster: Broadcaster,
    /// Since when the node has been degraded, as last sent to clients.
    degraded_since: Option<u64>,
    interval: Interval,
    memory: MemoryGuard,
}

impl Ticker {
    pub(super) fn new(node: Arc<Node>) -> Self {
        let tick = node.config.presence.tick;
        let mut interval = tokio::time::interval(tick);
        // A missed tick is not executed later: the next one has all changes.
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let config = &node.config;
        let broadcaster =
            Broadcaster::new(Arc::clone(&node.registry), config.limits.workers, tick, protocol::encoders(config));
        let broadcaster = broadcaster.with_sinks(Arc::clone(&node.sinks));
        if let Some(limit) = config.limits.max_memory {
            node.store.last_messages().limit_bytes(limit as usize / LAST_MESSAGES_SHARE);
        }
        let broadcaster = broadcaster.with_last_messages(Arc::clone(node.store.last_messages()));
        Self { node, broadcaster, degraded_since: None, interval, memory: MemoryGuard::default() }
    }

    /// Waits for the next tick and executes it, unless a worker is behind.
    pub(super) async fn tick(&mut self, workers: &[WorkerHandle]) {
        self.interval.tick().await;
        let node = Arc::clone(&self.node);
        let counters = &node.metrics.ticker;
        if workers.iter().any(|worker| worker.mailbox.has_batch()) {
            counters.ticks_missed.add(1);
            return;
        }
        let started = Instant::now();
        let memory_excess = self.memory.excess(&node) as usize;
        if memory_excess > 0 {
            self.broadcaster.free_memory();
        }
        let now = Now { tick: node.tick.load(Ordering::Relaxed) + 1, unix_ms: unix_ms() };
        node.tick.store(now.tick, Ordering::Relaxed);
        node.unix_ms.store(now.unix_ms, Ordering::Relaxed);
        self.broadcaster.set_clock(node.store.clock(), now);
        // Before the tick: clients may have come before the first one, and receive what the store had at the start.
        let kept = node.store.take_kept();
        if !kept.is_empty() {
            self.broadcaster.restore(&kept, now);
        }
        let (mut batches, counts) = self.broadcaster.tick(now);
        let health = self.health();
        let mut events = self.broadcaster.take_store_events();
        let kicks = take_kicks(&node, &mut events);
        let revoked = node.auth.revocations.take_fresh(now.unix_ms / 1000);
        for worker in workers {
            let mut batch = std::mem::take(&mut batches[worker.number]);
            (batch.health, batch.kicks) = (health, Arc::clone(&kicks));
            batch.revoked = Arc::clone(&revoked);
            batch.memory_excess = memory_excess / workers.len();
            // A join of a member that was there already is not announced.
            batch.first_join_us = counts.first_join_us.filter(|_| counts.joins > 0);
            // If the worker cannot be woken, it takes the batch when it wakes for another reason.
            let _ = worker.mailbox.send_batch(batch);
        }
        node.store.record(events);
        node.note_tick();
        counters.ticks.add(1);
        counters.rooms_settled.add(counts.rooms);
        counters.changes.add(counts.changes());
        counters.joins.add(counts.joins);
        counters.updates.add(counts.updates);
        counters.leaves.add(counts.leaves);
        counters.tick.observe(started.elapsed());
    }

    /// The health of the node, if it has changed since the last tick.
    fn health(&mut self) -> Option<Health> {
        let degraded_since_unix_ms = self.node.store.degraded_since();
        let before = std::mem::replace(&mut self.degraded_since, degraded_since_unix_ms);
        (before != degraded_since_unix_ms).then_some(Health { degraded_since_unix_ms })
    }
}

/// Takes the kicks for this tick: those requested on this node, which are also passed to the store, and those of other
/// nodes.
fn take_kicks(node: &Node, events: &mut Vec<StoreEvent>) -> Arc<[Kick]> {
    let local_kicks = node.kicks.take();
    if node.registry.has_store() {
        events.extend(local_kicks.iter().cloned().map(StoreEvent::Kick));
    }
    let remote_kicks = node.store.take_kicks();
    if remote_kicks.is_empty() {
        return local_kicks;
    }
    if let Some(logins) = &node.auth.dev_login {
        // Nodes that share a key accept each other's cookies, so a login that another node ended has ended here too.
        remote_kicks.iter().filter_map(|kick| kick.login).for_each(|id| logins.end(id));
    }
    local_kicks.iter().cloned().chain(remote_kicks).collect()
}
