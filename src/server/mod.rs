//! The server: opens sinks, listeners and the store, runs the worker threads and their ticker, and stops them.

mod certificate;
mod check;
pub mod listen;
mod memory;
pub mod reload;
mod threads;
mod ticker;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::auth::{Auth, Tokens};
use crate::config::{Config, IdentityMode, ReadFile, Secrets};
use crate::http::answers::Answers;
use crate::node::Node;
use crate::os::{new_incarnation, unix_ms};
use crate::presence::{LOBBY, Registry, Settings};
use crate::store::redis::{RedisOptions, RedisStore};
use crate::store::webhooks::WebhookOptions;
use crate::store::{Deliveries, MemoryStore, Scope, Sinks, Store, Unavailable};
use crate::worker::event_loop::EventLoop;
use crate::worker::event_loop::listeners::ListeningSockets;
use crate::worker::mailbox::Mailbox;
use reload::Reload;
use threads::{Ended, WorkerHandle, start_http, start_worker, worker};
use ticker::Ticker;

/// How often the state of the server is logged.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// Sinks may deliver for this time after the drain, however long that took.
const MIN_SINK_TIME: Duration = Duration::from_secs(1);

/// A server that has bound its ports and does not serve yet.
#[derive(Debug)]
pub struct Server {
    /// Of each worker, one per address and port.
    listeners: Vec<ListeningSockets>,
    addresses: Vec<SocketAddr>,
    status_address: Option<SocketAddr>,
    internal_address: Option<SocketAddr>,
    config: Config,
    /// Distinguishes this run of the node from all others. Epochs and the default node id contain it.
    incarnation: u64,
    node_id: String,
    sinks: Arc<Sinks>,
    /// Which webhooks this node delivers, if it shares presence with others.
    deliveries: Option<Arc<Deliveries>>,
    auth: Auth,
}

impl Server {
    /// Opens the sinks and binds the listeners.
    ///
    /// # Errors
    /// [`crate::config::ConfigError`] if a key or a sink cannot be used; another error if a listener cannot be bound.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        let auth = Auth::new(&config, unix_ms()).map_err(|why| config.invalid(why))?;
        let incarnation = new_incarnation(unix_ms(), 16);
        let node_id = config.node_id.clone().unwrap_or_else(|| format!("node-{incarnation:x}"));
        let redis = config.redis.as_ref().filter(|_| config.sinks.webhooks.is_some());
        let deliveries = redis.map(|redis| Arc::new(Deliveries::new(redis.partitions, redis.ttl)));
        let sinks = config.sinks.open(&node_id, incarnation, deliveries.clone());
        let sinks = sinks.map_err(|error| config.invalid(format!("{error:#}")))?;
        let workers = config.limits.workers;
        let mut bound = listen::bind(&config.listen.addresses, workers, "--listen HOST:PORT")?;
        let addresses = bound.iter().map(|listeners| listeners[0].local_addr()).collect::<Result<Vec<_>, _>>()?;
        let mut status_address = None;
        if let Some(port) = config.listen.status_port {
            let status: Vec<_> = addresses.iter().map(|address| SocketAddr::new(address.ip(), port)).collect();
            let second = listen::bind(&status, workers, "--status-port PORT")?;
            status_address = Some(second[0][0].local_addr()?);
            bound.extend(second);
        }
        let mut listeners: Vec<_> = (0..workers).map(|_| ListeningSockets::default()).collect();
        for listener_of_each in bound {
            listeners.iter_mut().zip(listener_of_each).for_each(|(sockets, listener)| sockets.public.push(listener));
        }
        let mut internal_address = None;
        if !config.listen.internal.is_empty() {
            let bound = listen::bind(&config.listen.internal, workers, "--internal-listen HOST:PORT")?;
            internal_address = Some(bound[0][0].local_addr()?);
            for of_each in bound {
                listeners.iter_mut().zip(of_each).for_each(|(sockets, listener)| sockets.internal.push(listener));
            }
        }
        let sinks = Arc::new(sinks);
        Ok(Self {
            listeners,
            addresses,
            status_address,
            internal_address,
            config,
            incarnation,
            node_id,
            sinks,
            deliveries,
            auth,
        })
    }

    /// The second address that it listens on, if `--status-port` is given.
    #[must_use]
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.status_address
    }

    /// The first address of `--internal-listen`, if that is given.
    #[must_use]
    pub fn internal_addr(&self) -> Option<SocketAddr> {
        self.internal_address
    }

    /// The first address that it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// All addresses that it listens on, with the port of `--listen`.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What can be reloaded while it runs.
    #[must_use]
    pub fn reload(&self) -> Reload {
        let (sinks, login, tls) = (Arc::clone(&self.sinks), self.config.login.clone(), self.config.tls.clone());
        let (tokens, keys, pusher) = (self.auth.tokens.clone(), self.config.keys.clone(), self.config.pusher.clone());
        let webhooks = self.config.sinks.webhooks.clone();
        let auth_secret = self.config.callback.as_ref().and_then(|callback| callback.secrets.clone());
        let file = self.config.file.clone();
        Reload::default()
            .with("configuration file", move || {
                file.iter().for_each(ReadFile::warn_of_change);
                false
            })
            .with("auth secret", move || auth_secret.as_ref().is_some_and(Secrets::reload))
            .with("event log", move || sinks.reopen())
            .with("keys", move || keys.reload())
            .with("pusher applications", move || pusher.reload())
            .with("session key", move || login.session_key.as_ref().is_some_and(Secrets::reload))
            .with("TLS certificate", move || {
                tls.clone().map(|tls| tokio::spawn(certificate::look_twice(tls))).is_some()
            })
            .with("webhook secrets", move || webhooks.as_ref().is_some_and(WebhookOptions::reload_secrets))
            .with("token keys", move || tokens.as_ref().is_some_and(|tokens| reload_keys(tokens)))
    }

    /// Serves until `shutdown` resolves, then closes all connections and ends within the drain time.
    ///
    /// # Errors
    /// If the store cannot be used ([`Unavailable`]), or a worker thread cannot be started or dies.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        self.open_store().await?.run(shutdown).await
    }

    /// Starts what asks other servers, and opens the store. When it returns, this node knows what other nodes hold.
    ///
    /// # Errors
    /// [`Unavailable`] if one of them cannot be used.
    pub async fn open_store(self) -> Result<ReadyServer, Unavailable> {
        let Self { listeners, config, incarnation, node_id, sinks, deliveries, auth, .. } = self;
        auth.start().await?;
        let settings = Settings { ttl: config.ticks(config.presence.ttl), workers: config.limits.workers, incarnation };
        let limited = |registry: Registry| registry.with_limits(config.quotas.max_rooms, config.quotas.max_state);
        let (registry, store): (_, Box<dyn Store>) = match config.redis.clone() {
            None => (Arc::new(limited(Registry::new(settings))), Box::<MemoryStore>::default()),
            Some(options) => {
                let registry = limited(Registry::with_store(settings));
                let registry = if sinks.need_reporter() { registry.with_holders() } else { registry };
                let follows_observers = sinks.scope() == Some(Scope::All) || config.pusher.has_apps();
                let registry = if follows_observers { registry.with_observer_changes() } else { registry };
                let registry = Arc::new(registry);
                let (kept_rooms, max_kept) = (vec![Arc::from(LOBBY)], config.chat.history);
                let revocations = auth.has_identity().then(|| Arc::clone(&auth.revocations));
                let node = node_id.clone();
                let options = RedisOptions { node, kept_rooms, max_kept, revocations, deliveries, ..options };
                let store = RedisStore::open(options, Arc::clone(&registry), incarnation).await?;
                (registry, Box::new(store))
            }
        };
        let node = Node::new(config, node_id, registry, store, sinks).with_auth(auth);
        Ok(ReadyServer { node: Arc::new(node), listeners })
    }
}

/// A server with its ports and its store.
#[derive(Debug)]
pub struct ReadyServer {
    node: Arc<Node>,
    listeners: Vec<ListeningSockets>,
}

impl ReadyServer {
    /// As [`Server::run`].
    ///
    /// # Errors
    /// If a worker thread cannot be started or dies.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let node = self.node;
        log_identity(&node.config);
        if node.config.login.dev_login {
            warn!("--dev-login lets every client sign in under any name; use it for development only");
        }
        let mut threads = start(&node, self.listeners).await?;
        let mut ticker = Ticker::new(Arc::clone(&node));
        serve_until(shutdown, &node, &mut ticker, &mut threads).await?;
        // From now on /readyz answers 503, and load balancers choose other nodes.
        node.stopping.store(true, Ordering::Relaxed);
        let delay = node.config.limits.drain_delay;
        if !delay.is_zero() {
            info!(delay = %humantime::format_duration(delay), "stopping: not ready, but still accepting clients");
            serve_until(tokio::time::sleep(delay), &node, &mut ticker, &mut threads).await?;
        }
        drain(&node, &mut ticker, threads).await
    }
}

/// Reads the keys of tokens again. False if they did not come from files.
fn reload_keys(tokens: &Tokens) -> bool {
    tokens.reload().unwrap_or_else(|why| {
        error!("the keys of tokens are not reloaded: {why}");
        true
    })
}

/// Starts all threads. The workers accept clients when everything has the descriptors that it needs: clients could use
/// up the rest.
async fn start(node: &Arc<Node>, listeners: Vec<ListeningSockets>) -> anyhow::Result<Threads> {
    let (mut workers, mut receivers) = (Vec::new(), Vec::new());
    for (number, listeners) in listeners.into_iter().enumerate() {
        let (sender, receiver) = mpsc::unbounded_channel();
        receivers.push(receiver);
        workers.push(worker(number, Arc::clone(node), listeners, sender)?);
    }
    let mailboxes: Arc<[Arc<Mailbox>]> = workers.iter().map(EventLoop::mailbox).collect();
    let answers = Arc::new(Answers::new(node.config.limits.max_unread_answer_bytes));
    let mut threads = Threads { workers: Vec::new(), http: Vec::new() };
    for (number, receiver) in receivers.into_iter().enumerate() {
        let (node, answers, mailboxes) = (Arc::clone(node), Arc::clone(&answers), Arc::clone(&mailboxes));
        threads.http.push(start_http(number, node, answers, mailboxes, receiver).await?);
    }
    for (number, event_loop) in workers.into_iter().enumerate() {
        threads.workers.push(start_worker(number, event_loop)?);
    }
    Ok(threads)
}

/// States where the identity of clients comes from.
fn log_identity(config: &Config) {
    match config.identity {
        IdentityMode::Open if config.entry.open => {
            warn!(mode = "open", "identity: every client that reaches this server can claim any user id (--open)");
        }
        IdentityMode::Open if config.entry.is_closed => info!(
            mode = "pusher",
            "identity: applications sign for their Pusher clients; all other clients are refused without --open"
        ),
        IdentityMode::Open => {
            info!(mode = "open", "identity: clients claim their user ids, so only clients of this machine are served");
        }
        IdentityMode::Tokens => info!(mode = "tokens", "identity: tokens name the users"),
        IdentityMode::Callback => info!(mode = "callback", "identity: the application at --auth-url names the users"),
        IdentityMode::TokensAndCallback => info!(
            mode = "tokens and callback",
            "identity: tokens name the users; the application at --auth-url is asked about clients without one"
        ),
    }
}

/// Ticks until `end` resolves.
async fn serve_until(
    end: impl Future<Output = ()>,
    node: &Node,
    ticker: &mut Ticker,
    threads: &mut Threads,
) -> anyhow::Result<()> {
    tokio::pin!(end);
    let watch = certificate::watch(node.config.tls.clone());
    tokio::pin!(watch);
    let mut report = tokio::time::interval_at(tokio::time::Instant::now() + REPORT_EVERY, REPORT_EVERY);
    let mut reported = Report::default();
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            () = ticker.tick(&threads.workers) => if let Some(result) = threads.take_ended() {
                return Err(result.err().unwrap_or_else(|| anyhow!("a thread ended unexpectedly")));
            },
            () = &mut watch => {}
            _ = report.tick() => reported = reported.log(node),
        }
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
            warn!(workers = threads.workers.len(), http = threads.http.len(), "stopped while threads were still busy");
            break;
        }
        while let Some(result) = threads.take_ended() {
            result?;
        }
    }
    // Sinks before the store: a sink that shares its work with other nodes hands it over through the store. The thread
    // of the store works meanwhile.
    let (sinks, within) = (Arc::clone(&node.sinks), deadline.saturating_duration_since(tokio::time::Instant::now()));
    let closed = tokio::task::spawn_blocking(move || sinks.close(within.max(MIN_SINK_TIME))).await;
    closed.context("closing a sink failed")?;
    node.store.close();
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
            tracing::debug!(missed = ticks.ticks_missed, of = ticks.ticks, "ticks postponed so far");
        }
        next
    }
}
