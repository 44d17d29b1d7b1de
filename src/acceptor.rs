//! The life of a worker thread: accept connections, do a batch each tick, and end.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalRuntime;
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};

use crate::broadcast::Batch;
use crate::http;
use crate::node::Node;
use crate::worker::Worker;

/// How long to wait when there is no descriptor or no memory for another connection, or enough are open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections upgrade before those that are in get their turn. A handshake holds some 12 KiB of hyper's until it is answered:
/// a storm taken in small bites is answered bite by bite, and the memory is used again.
const ACCEPTS_PER_TURN: usize = 8;
/// How often the allocator is made to return free memory.
const GIVE_BACK_EVERY_TICKS: u64 = 16;
/// Clients sent away a tick at least, so that stopping a small server takes no longer than it must.
const SMALLEST_WAVE: usize = 256;

/// What the ticker sends to a worker.
#[derive(Debug)]
pub enum Signal {
    /// A tick has come.
    Tick(Batch),
    /// Stop accepting, send the clients away, end.
    Drain,
}

/// Runs a worker until it has drained. Blocks its thread.
pub fn run(
    number: usize,
    listeners: Vec<std::net::TcpListener>,
    node: Arc<Node>,
    messages: mpsc::Receiver<Signal>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .context("cannot start the runtime of a worker")?;
    serve(&runtime, Rc::new(Worker::new(number, node)), listeners, messages)
}

fn serve(
    runtime: &LocalRuntime,
    worker: Rc<Worker>,
    listeners: Vec<std::net::TcpListener>,
    messages: mpsc::Receiver<Signal>,
) -> anyhow::Result<()> {
    runtime.block_on(async move {
        let mut acceptors = Vec::new();
        for listener in listeners {
            let listener = TcpListener::from_std(listener).context("cannot listen")?;
            let stop = Rc::new(Notify::new());
            let task = tokio::task::spawn_local(accept(listener, Rc::clone(&worker), Rc::clone(&stop)));
            acceptors.push((task, stop));
        }
        let stop_accepting = || acceptors.iter().for_each(|(_, stop)| stop.notify_one());
        work(&worker, messages, stop_accepting).await;
        acceptors.iter().for_each(|(task, _)| task.abort());
        Ok(())
    })
}

/// Does what the ticker says until the worker has drained or the ticker is gone.
async fn work(worker: &Rc<Worker>, mut messages: mpsc::Receiver<Signal>, stop_accepting: impl Fn()) {
    let config = &worker.node.config;
    let waves = config.ticks(config.limits.drain.mul_f64(0.6)).max(1) as usize;
    let last_requests = config.ticks(config.limits.drain.mul_f64(0.8));
    let (mut wave, mut drained) = (0, 0);
    while let Some(message) = messages.recv().await {
        match message {
            Signal::Drain => {
                worker.draining.set(true);
                stop_accepting();
                wave = worker.connections_open().div_ceil(waves).max(SMALLEST_WAVE);
            }
            Signal::Tick(batch) => {
                worker.check_connections(batch.now.tick);
                if let Some(health) = &batch.health {
                    worker.tell_health(health);
                }
                worker.remove(&batch.kicks);
                let deliveries = worker.fanout.borrow_mut().plan(worker, &batch);
                deliveries.write(worker).await;
                worker.done.send_replace(batch.now.tick);
                if batch.now.tick.is_multiple_of(GIVE_BACK_EVERY_TICKS) {
                    give_back_memory();
                }
                if worker.draining.get() {
                    worker.send_away(wave);
                    drained += 1;
                    // A request that has not come in whole by then never will in time.
                    let done = worker.requests.get() == 0 || drained >= last_requests;
                    if worker.connections_open() == 0 && done {
                        return;
                    }
                }
            }
        }
    }
}

/// Accepts until it is told to stop; then serves what has been queued already, since closing the listener would reset it.
async fn accept(listener: TcpListener, worker: Rc<Worker>, stop: Rc<Notify>) {
    let (mut warned, mut in_a_row) = (false, 0usize);
    loop {
        if worker.node.sockets.load(Ordering::Relaxed) >= worker.node.config.limits.max_sockets() {
            if !std::mem::replace(&mut warned, true) {
                warn!(
                    sockets = worker.node.config.limits.max_sockets(),
                    "all sockets are in use, further clients wait"
                );
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        }
        let upgrade = tokio::select! {
            biased;
            () = stop.notified() => break,
            upgrade = listener.accept() => upgrade,
        };
        match upgrade {
            Ok((stream, _)) => {
                warned = false;
                open(stream, &worker);
                in_a_row += 1;
                if in_a_row % ACCEPTS_PER_TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if is_of_one_connection(&error) => {
                debug!(%error, "a connection went away before it was upgrade");
            }
            Err(error) => {
                worker.counters.accept_errors.add(1);
                if !std::mem::replace(&mut warned, true) {
                    warn!(%error, "cannot accept connections for now");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while let Ok(Ok((stream, _))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
        open(stream, &worker);
    }
}

fn open(stream: TcpStream, worker: &Rc<Worker>) {
    worker.counters.sockets.add(1);
    worker.node.sockets.fetch_add(1, Ordering::Relaxed);
    tokio::task::spawn_local(http::serve(stream, Rc::clone(worker)));
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Has the allocator return what a storm of connections has left free.
///
/// mimalloc gives pages back to the system some time after they were freed, but it looks at the time only when a page is freed
/// again: a server that goes quiet after a storm would keep the storm's memory (measured: 10,000 connections that come at once
/// leave some 1.5 MiB, 150 bytes each). A block this large is a page of its own; freeing it makes the allocator look. Nothing is
/// written to it, so it costs two calls and no memory.
fn give_back_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
}
