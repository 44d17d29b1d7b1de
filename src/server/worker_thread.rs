//! Starts a worker thread: its runtime, its accept loops, its worker.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};

use super::MAILBOX_SIGNALS;
use crate::http::accept::accept;
use crate::node::Node;
use crate::worker::Worker;
use crate::worker::thread::{self, Signal};

/// A worker thread as the ticker sees it.
pub(super) struct WorkerHandle {
    pub(super) number: usize,
    pub(super) mailbox: mpsc::Sender<Signal>,
    /// Resolves when the thread has ended, with the error if it failed.
    pub(super) ended: oneshot::Receiver<anyhow::Result<()>>,
}

/// Starts the thread of the worker with this number.
pub(super) fn start(
    number: usize,
    listeners: Vec<std::net::TcpListener>,
    node: Arc<Node>,
) -> anyhow::Result<WorkerHandle> {
    let (mailbox, signals) = mpsc::channel(MAILBOX_SIGNALS);
    let (ended_sender, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            let result = run(number, listeners, node, signals);
            // The receiver is gone if the server was dropped.
            let _ = ended_sender.send(result);
        })
        .with_context(|| format!("cannot start worker {number}"))?;
    Ok(WorkerHandle { number, mailbox, ended })
}

/// Runs a worker until it has drained. Blocks its thread.
fn run(
    number: usize,
    listeners: Vec<std::net::TcpListener>,
    node: Arc<Node>,
    signals: mpsc::Receiver<Signal>,
) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .context("cannot start the runtime of a worker")?;
    let worker = Rc::new(Worker::new(number, node));
    runtime.block_on(async move {
        let mut acceptors = Vec::new();
        for listener in listeners {
            let listener = TcpListener::from_std(listener).context("cannot listen")?;
            let stop = Rc::new(Notify::new());
            let task = tokio::task::spawn_local(accept(listener, Rc::clone(&worker), Rc::clone(&stop)));
            acceptors.push((task, stop));
        }
        let stop_accepting = || acceptors.iter().for_each(|(_, stop)| stop.notify_one());
        thread::run(&worker, signals, stop_accepting).await;
        acceptors.iter().for_each(|(task, _)| task.abort());
        Ok(())
    })
}
