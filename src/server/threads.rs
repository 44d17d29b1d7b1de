//! Starts the threads of the server: workers, and threads that serve HTTP.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use crate::http;
use crate::http::answers::Answers;
use crate::http::first_request::FirstRequests;
use crate::node::Node;
use crate::worker::event_loop::EventLoop;
use crate::worker::event_loop::listeners::ListeningSockets;
use crate::worker::http_side::HttpJob;
use crate::worker::mailbox::Mailbox;

/// Resolves when a thread has ended, with the error if it failed.
pub(super) type Ended = oneshot::Receiver<anyhow::Result<()>>;

/// A worker thread as the ticker sees it.
pub(super) struct WorkerHandle {
    pub(super) number: usize,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) ended: Ended,
}

/// Ends the thread if it is dropped before the thread has ended: the server has failed, or was dropped.
impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.mailbox.stop();
    }
}

/// The worker with this number. It gives connections that are not WebSockets to an HTTP thread.
pub(super) fn worker(
    number: usize,
    node: Arc<Node>,
    listeners: ListeningSockets,
    http: mpsc::UnboundedSender<HttpJob>,
) -> anyhow::Result<EventLoop> {
    let http = Box::new(FirstRequests::new(Arc::clone(&node), http));
    EventLoop::new(number, node, listeners, http).with_context(|| format!("cannot start worker {number}"))
}

/// Starts a worker.
pub(super) fn start_worker(number: usize, event_loop: EventLoop) -> anyhow::Result<WorkerHandle> {
    let mailbox = event_loop.mailbox();
    let ended = spawn(format!("worker-{number}"), move || event_loop.run().context("the poll of a worker failed"))?;
    Ok(WorkerHandle { number, mailbox, ended })
}

/// Starts the HTTP thread with this number. When it returns, the thread has all descriptors that it needs.
pub(super) async fn start_http(
    number: usize,
    node: Arc<Node>,
    answers: Arc<Answers>,
    mailboxes: Arc<[Arc<Mailbox>]>,
    jobs: mpsc::UnboundedReceiver<HttpJob>,
) -> anyhow::Result<Ended> {
    node.http_threads.fetch_add(1, Ordering::AcqRel);
    let running = Running(Arc::clone(&node));
    let (ready, is_ready) = oneshot::channel();
    let ended = spawn(format!("http-{number}"), move || {
        let _running = running;
        let runtime = Builder::new_current_thread()
            .enable_all()
            // For lists that take long to make. They are shared, so few are made at once.
            .max_blocking_threads(1)
            .build_local(LocalOptions::default())
            .context("cannot start the runtime of an HTTP thread")?;
        // The receiver is gone if the server was dropped.
        let _ = ready.send(());
        runtime.block_on(http::thread::serve(number, node, answers, mailboxes, jobs));
        Ok(())
    })?;
    if is_ready.await.is_err() {
        ended.await.context("an HTTP thread panicked")??;
        bail!("an HTTP thread ended unexpectedly");
    }
    Ok(ended)
}

/// Counts an HTTP thread until it has ended, however it ends.
struct Running(Arc<Node>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.http_threads.fetch_sub(1, Ordering::AcqRel);
    }
}

fn spawn(name: String, run: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> anyhow::Result<Ended> {
    let (sender, ended) = oneshot::channel();
    let error = format!("cannot start the thread {name}");
    std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            // The receiver is gone if the server was dropped.
            let _ = sender.send(run());
        })
        .context(error)?;
    Ok(ended)
}
