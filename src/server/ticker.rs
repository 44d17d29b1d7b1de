//! Engine time: executes a tick at each interval, and skips it while a worker is behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::time::{Interval, MissedTickBehavior};

use super::MAILBOX_SIGNALS;
use super::worker_thread::WorkerHandle;
use crate::broadcast::{Broadcaster, Health};
use crate::node::Node;
use crate::os::unix_ms;
use crate::presence::Now;
use crate::presence::kick::Kick;
use crate::protocol;
use crate::store::StoreEvent;
use crate::worker::thread::Signal;

/// Executes the ticks.
pub(super) struct Ticker {
    node: Arc<Node>,
    broadcaster: Broadcaster,
    /// Since when the node has been degraded, as last sent to clients.
    degraded_since: Option<u64>,
    interval: Interval,
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
        Self { node, broadcaster, degraded_since: None, interval }
    }

    /// Waits for the next tick and executes it, unless a worker is behind.
    pub(super) async fn tick(&mut self, workers: &[WorkerHandle]) {
        self.interval.tick().await;
        let node = Arc::clone(&self.node);
        let counters = &node.metrics.ticker;
        if workers.iter().any(|worker| worker.mailbox.capacity() < MAILBOX_SIGNALS) {
            counters.ticks_missed.add(1);
            return;
        }
        let started = Instant::now();
        let now = Now { tick: node.tick.load(Ordering::Relaxed) + 1, unix_ms: unix_ms() };
        node.tick.store(now.tick, Ordering::Relaxed);
        node.unix_ms.store(now.unix_ms, Ordering::Relaxed);
        let (mut batches, counts) = self.broadcaster.tick(now);
        let health = self.health();
        let mut news = self.broadcaster.take_store_events();
        let kicks = take_kicks(&node, &mut news);
        for worker in workers {
            let mut batch = std::mem::take(&mut batches[worker.number]);
            (batch.health, batch.kicks) = (health, Arc::clone(&kicks));
            // The mailbox has room, as checked above. A worker that has ended needs no batch.
            let _ = worker.mailbox.try_send(Signal::Tick(batch));
        }
        node.store.record(news);
        let took_us = started.elapsed().as_micros() as u64;
        counters.ticks.add(1);
        counters.rooms_settled.add(counts.rooms);
        counters.changes.add(counts.changes);
        counters.tick_us.add(took_us);
        counters.tick_us_max.raise(took_us);
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
fn take_kicks(node: &Node, news: &mut Vec<StoreEvent>) -> Arc<[Kick]> {
    let asked_here = node.kicks.take();
    if node.registry.has_store() {
        news.extend(asked_here.iter().cloned().map(StoreEvent::Kick));
    }
    let asked_elsewhere = node.store.take_kicks();
    if asked_elsewhere.is_empty() {
        return asked_here;
    }
    if let Some(logins) = &node.auth.dev_login {
        // Nodes that share a key accept each other's cookies, so a login that another node ended has ended here too.
        asked_elsewhere.iter().filter_map(|kick| kick.login).for_each(|id| logins.end(id));
    }
    asked_here.iter().cloned().chain(asked_elsewhere).collect()
}
