//! The main loop of a worker: executes one batch per tick until the worker has drained.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::sync::mpsc;

use super::Worker;
use crate::broadcast::{Batch, Health};
use crate::websocket::close;

/// How often the allocator is made to return free memory to the system.
const RETURN_MEMORY_EVERY_TICKS: u64 = 16;
/// The least number of clients that are disconnected per tick while draining, so that a small server stops quickly.
const MIN_WAVE_CLIENTS: usize = 256;

/// What the ticker sends to a worker.
#[derive(Debug)]
pub enum Signal {
    /// Execute the batch of a tick.
    Tick(Batch),
    /// Stop accepting connections, disconnect the clients in waves, and end.
    Drain,
}

/// Executes the signals until the worker has drained or the ticker has ended.
pub async fn run(worker: &Rc<Worker>, mut signals: mpsc::Receiver<Signal>, stop_accepting: impl Fn()) {
    let config = &worker.node.config;
    let waves = config.ticks(config.limits.drain.mul_f64(0.6)).max(1) as usize;
    let request_deadline = config.ticks(config.limits.drain.mul_f64(0.8));
    let (mut wave_clients, mut ticks_draining) = (0, 0);
    while let Some(signal) = signals.recv().await {
        match signal {
            Signal::Drain => {
                worker.draining.set(true);
                stop_accepting();
                wave_clients = worker.connection_count().div_ceil(waves).max(MIN_WAVE_CLIENTS);
            }
            Signal::Tick(batch) => {
                execute(worker, &batch).await;
                if worker.draining.get() {
                    worker.send_away(wave_clients);
                    ticks_draining += 1;
                    // A request that is incomplete at the deadline would not be handled in time.
                    let done = worker.requests.get() == 0 || ticks_draining >= request_deadline;
                    if worker.connection_count() == 0 && done {
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
    /// Sends the health to all clients whose protocol has a message for it.
    fn send_health(self: &Rc<Self>, health: Health) {
        for connection in self.open_connections(usize::MAX, |connection| connection.protocol.rules().health.is_some()) {
            if let Some(put_health) = connection.protocol.rules().health {
                let mut frame = BytesMut::new();
                put_health(&mut frame, health.degraded_since_unix_ms);
                self.reply(&connection, &mut frame);
            }
        }
    }

    /// Closes up to `limit` connections with the request to reconnect later.
    fn send_away(self: &Rc<Self>, limit: usize) {
        for connection in self.open_connections(limit, |_| true) {
            self.close(&connection, close::RESTART, close::RESTART_REASON);
        }
    }
}

/// Makes the allocator return free memory after a storm of connections.
///
/// mimalloc returns pages to the system some time after they were freed, but it checks the time only when another page
/// is freed: a server that is idle after a storm would keep the memory (measured: 10,000 connections at once leave some
/// 1.5 MiB, 150 bytes per connection). A block of this size has its own page; freeing it makes the allocator check. The
/// block is not written, so it costs two calls and no memory.
fn return_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
}
