//! The server: opens sinks, listeners and the store, runs the worker threads and their ticker, and stops them.

pub mod listen;
mod threads;
mod ticker;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::config::{Config, ConfigError};
use crate::node::Node;
use crate::os::{new_incarnation, unix_ms};
use crate::presence::{Registry, Settings};
use crate::store::redis::{RedisOptions, RedisStore};
use crate::store::{MemoryStore, Sinks, Store, Unavailable};
use crate::worker::mailbox::Mailbox;
use threads::{Ended, WorkerHandle, start_http, start_worker};
use ticker::Ticker;

/// How often the state of the server is logged.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// A server that has bound its ports and does not serve yet.
#[derive(Debug)]
pub struct Server {
    /// Of each worker, one per port.
    listeners: Vec<Vec<std::net::TcpListener>>,
    address: SocketAddr,
    status_address: Option<SocketAddr>,
    config: Config,
    /// Distinguishes this run of the node from all others. Epochs and the default node id contain it.
    incarnation: u64,
    node_id: String,
    sinks: Arc<Sinks>,
}

impl Server {
    /// Opens the sinks and binds the listeners.
    ///
    /// # Errors
    /// [`ConfigError`] if a sink cannot be opened; another error if a listener cannot be bound.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        let incarnation = new_incarnation(unix_ms(), 16);
        let node_id = config.node_id.clone().unwrap_or_else(|| format!("node-{incarnation:x}"));
        let sinks = config.sinks.open(&node_id).map_err(|error| ConfigError::Invalid(format!("{error:#}")))?;
        let main = listen::bind(config.listen.address, config.limits.workers)
            .context("choose another address with --listen HOST:PORT")?;
        let address = main[0].local_addr()?;
        let mut listeners: Vec<_> = main.into_iter().map(|listener| vec![listener]).collect();
        let mut status_address = None;
        if let Some(port) = config.listen.status_port {
            let status = SocketAddr::new(address.ip(), port);
            let second =
                listen::bind(status, config.limits.workers).context("choose another port with --status-port PORT")?;
            status_address = Some(second[0].local_addr()?);
            listeners.iter_mut().zip(second).for_each(|(of_worker, listener)| of_worker.push(listener));
        }
        Ok(Self { listeners, address, status_address, config, incarnation, node_id, sinks: Arc::new(sinks) })
    }

    /// The second address that it listens on, if `--status-port` is given.
    #[must_use]
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.status_address
    }

    /// The address that it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What listens to joins and leaves.
    #[must_use]
    pub fn sinks(&self) -> Arc<Sinks> {
        Arc::clone(&self.sinks)
    }

    /// Serves until `shutdown` resolves, then closes all connections and ends within the drain time.
    ///
    /// # Errors
    /// If the store cannot be used ([`Unavailable`]), or a worker thread cannot be started or dies.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        self.open_store().await?.run(shutdown).await
    }

    /// Opens the store. When it returns, this node knows what other nodes hold.
    ///
    /// # Errors
    /// [`Unavailable`] if it cannot be used.
    pub async fn open_store(self) -> Result<ReadyServer, Unavailable> {
        let Self { listeners, config, incarnation, node_id, sinks, .. } = self;
        let settings = Settings { ttl: config.ticks(config.presence.ttl), workers: config.limits.workers, incarnation };
        let (registry, store): (_, Box<dyn Store>) = match config.redis.clone() {
            None => (Arc::new(Registry::new(settings)), Box::new(MemoryStore)),
            Some(options) => {
                let registry = Registry::with_store(settings);
                let registry = Arc::new(if sinks.is_empty() { registry } else { registry.with_holders() });
                let options = RedisOptions { node: node_id.clone(), ..options };
                let store = RedisStore::open(options, Arc::clone(&registry), incarnation).await?;
                (registry, Box::new(store))
            }
        };
        Ok(ReadyServer { node: Arc::new(Node::new(config, node_id, registry, store, sinks)), listeners })
    }
}

/// A server with its ports and its store.
#[derive(Debug)]
pub struct ReadyServer {
    node: Arc<Node>,
    listeners: Vec<Vec<std::net::TcpListener>>,
}

impl ReadyServer {
    /// As [`Server::run`].
    ///
    /// # Errors
    /// If a worker thread cannot be started or dies.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let node = self.node;
        if node.config.login.dev_login {
            warn!("--dev-login lets anyone sign in under any name; use it for development only");
        }
        let mut threads = Threads { workers: Vec::new(), http: Vec::new() };
        let mut receivers = Vec::new();
        for (number, listeners) in self.listeners.into_iter().enumerate() {
            let (sender, receiver) = mpsc::unbounded_channel();
            receivers.push(receiver);
            threads.workers.push(start_worker(number, Arc::clone(&node), listeners, sender)?);
        }
        let mailboxes: Arc<[Arc<Mailbox>]> = threads.workers.iter().map(|worker| Arc::clone(&worker.mailbox)).collect();
        for (number, receiver) in receivers.into_iter().enumerate() {
            let (node, mailboxes) = (Arc::clone(&node), Arc::clone(&mailboxes));
            threads.http.push(start_http(number, node, mailboxes, receiver)?);
        }
        let mut ticker = Ticker::new(Arc::clone(&node));
        tokio::pin!(shutdown);
        let mut report = tokio::time::interval_at(tokio::time::Instant::now() + REPORT_EVERY, REPORT_EVERY);
        let mut reported = Report::default();
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                () = ticker.tick(&threads.workers) => if let Some(result) = threads.take_ended() {
                    return Err(result.err().unwrap_or_else(|| anyhow!("a thread ended unexpectedly")));
                },
                _ = report.tick() => reported = reported.log(&node),
            }
        }
        drain(&node, &mut ticker, threads).await
    }
}

/// The threads that have not ended.
struct Threads {
    workers: Vec<WorkerHandle>,
    /// HTTP threads end when their workers give them no more connections.
    http: Vec<Ended>,
}

impl Threads {
    /// Takes a thread that has ended, with the error if it failed.
    fn take_ended(&mut self) -> Option<anyhow::Result<()>> {
        for at in 0..self.workers.len() {
            if let Some(result) = result_of(&mut self.workers[at].ended) {
                self.workers.swap_remove(at);
                return Some(result);
            }
        }
        for at in 0..self.http.len() {
            if let Some(result) = result_of(&mut self.http[at]) {
                drop(self.http.swap_remove(at));
                return Some(result);
            }
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.workers.is_empty() && self.http.is_empty()
    }
}

/// How a thread ended; `None` if it runs.
fn result_of(ended: &mut Ended) -> Option<anyhow::Result<()>> {
    match ended.try_recv() {
        Err(oneshot::error::TryRecvError::Empty) => None,
        Ok(result) => Some(result),
        Err(oneshot::error::TryRecvError::Closed) => Some(Err(anyhow!("a thread panicked"))),
    }
}

/// Has the workers stop accepting and close all connections, and waits for all threads to end.
async fn drain(node: &Node, ticker: &mut Ticker, mut threads: Threads) -> anyhow::Result<()> {
    let open = node.connections.load(Ordering::Relaxed);
    let within = humantime::format_duration(node.config.limits.drain);
    info!(connections = open, %within, "stopping: closing all connections with 1012 (reconnect)");
    let deadline = tokio::time::Instant::now() + node.config.limits.drain + Duration::from_secs(1);
    node.draining.store(true, Ordering::Relaxed);
    for worker in &threads.workers {
        worker.mailbox.drain().context("cannot wake a worker")?;
    }
    while !threads.is_empty() {
        if tokio::time::timeout_at(deadline, ticker.tick(&threads.workers)).await.is_err() {
            warn!(workers = threads.workers.len(), http = threads.http.len(), "stopped although threads were busy");
            break;
        }
        while let Some(result) = threads.take_ended() {
            result?;
        }
    }
    node.store.close();
    node.sinks.close();
    info!("stopped");
    Ok(())
}

/// What the last log line about the state of the server counted.
#[derive(Debug)]
struct Report {
    at: Instant,
    heartbeats: u64,
}

impl Default for Report {
    fn default() -> Self {
        Self { at: Instant::now(), heartbeats: 0 }
    }
}

impl Report {
    fn log(self, node: &Node) -> Self {
        let totals = node.metrics.thread_totals();
        let next = Self { at: Instant::now(), heartbeats: totals.heartbeats };
        let seconds = (next.at - self.at).as_secs_f64();
        let heartbeats_per_second = ((next.heartbeats - self.heartbeats) as f64 / seconds).round() as u64;
        info!(users = node.registry.users_online(), connections = totals.connections, heartbeats_per_second, "online");
        let ticks = node.metrics.tick_totals();
        if ticks.ticks_missed > 0 {
            tracing::debug!(missed = ticks.ticks_missed, of = ticks.ticks, "ticks deferred so far");
        }
        next
    }
}
