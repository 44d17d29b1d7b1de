//! The loop of a worker: it executes one batch per tick, until it has drained.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::sync::mpsc;

use super::Worker;
use crate::broadcast::{Batch, Health};
use crate::websocket::close;

/// How often the allocator is made to return free memory.
const RETURN_MEMORY_EVERY_TICKS: u64 = 16;
/// Clients sent away per tick at least, so that stopping a small server takes no longer than it must.
const MIN_WAVE_CLIENTS: usize = 256;

/// What the ticker sends to a worker.
#[derive(Debug)]
pub enum Signal {
    /// Execute the batch of a tick.
    Tick(Batch),
    /// Stop accepting, send the clients away, end.
    Drain,
}

/// Follows the signals until the worker has drained or the ticker is gone.
pub async fn run(worker: &Rc<Worker>, mut signals: mpsc::Receiver<Signal>, stop_accepting: impl Fn()) {
    let config = &worker.node.config;
    let waves = config.ticks(config.limits.drain.mul_f64(0.6)).max(1) as usize;
    let last_requests = config.ticks(config.limits.drain.mul_f64(0.8));
    let (mut wave, mut drained) = (0, 0);
    while let Some(signal) = signals.recv().await {
        match signal {
            Signal::Drain => {
                worker.draining.set(true);
                stop_accepting();
                wave = worker.connections_open().div_ceil(waves).max(MIN_WAVE_CLIENTS);
            }
            Signal::Tick(batch) => {
                execute(worker, &batch).await;
                if worker.draining.get() {
                    worker.send_away(wave);
                    drained += 1;
                    // A request that is not complete by then never will be in time.
                    let done = worker.requests.get() == 0 || drained >= last_requests;
                    if worker.connections_open() == 0 && done {
                        return;
                    }
                }
            }
        }
    }
}

async fn execute(worker: &Rc<Worker>, batch: &Batch) {
    worker.check_connections(batch.now.tick);
    if let Some(health) = batch.health {
        worker.send_health(health);
    }
    worker.kick(&batch.kicks);
    let deliveries = worker.fanout.borrow_mut().plan(batch);
    worker.deliver(&deliveries).await;
    worker.done.send_replace(batch.now.tick);
    if batch.now.tick.is_multiple_of(RETURN_MEMORY_EVERY_TICKS) {
        return_memory();
    }
}

impl Worker {
    /// Sends all clients whose protocol knows it whether the node sees the other nodes.
    fn send_health(self: &Rc<Self>, health: Health) {
        for connection in self.open(usize::MAX, |connection| connection.protocol.rules().health.is_some()) {
            if let Some(put_health) = connection.protocol.rules().health {
                let mut frame = BytesMut::new();
                put_health(&mut frame, health.degraded_since_unix_ms);
                self.reply(&connection, &mut frame);
            }
        }
    }

    /// Asks up to `limit` clients to come back elsewhere, or later.
    fn send_away(self: &Rc<Self>, limit: usize) {
        for connection in self.open(limit, |_| true) {
            self.close(&connection, close::RESTART, close::RESTART_REASON);
        }
    }
}

/// Makes the allocator return the memory that a storm of connections has left free.
///
/// mimalloc returns pages to the system some time after they were freed, but it checks the time only when another page is freed:
/// a server that goes quiet after a storm would keep the storm's memory (measured: 10,000 connections that arrive at once leave
/// some 1.5 MiB, 150 bytes each). A block of this size is a page of its own; freeing it makes the allocator check. Nothing is
/// written to it, so it costs two calls and no memory.
fn return_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
}
