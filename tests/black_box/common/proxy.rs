//! A TCP proxy between a node and Redis that simulates network faults, switched while it runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::redis::{POLL, free_port};
use super::resp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyMode {
    Forward,
    /// Delivers every chunk this much later.
    Delay(Duration),
    /// Nothing is delivered and nothing is closed, as when packets are lost. `Forward` delivers the held-back bytes
    /// late; `Disconnect` drops them.
    Stall,
    /// Closes connections, new ones right after accepting them.
    Disconnect,
    /// Closes connections and the listener.
    Refuse,
}

impl ProxyMode {
    fn closes(self) -> bool {
        matches!(self, Self::Disconnect | Self::Refuse)
    }
}

/// Shared by all connections.
#[derive(Clone)]
struct Control {
    mode: watch::Receiver<ProxyMode>,
    /// Whether events are dropped.
    dropping: Arc<AtomicBool>,
    /// Seconds that are added to the time of Redis.
    clock_shift: Arc<AtomicI64>,
    /// Connections so far, and how many of them, the oldest, receive no more events.
    opened: Arc<AtomicUsize>,
    silenced: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    switch: watch::Sender<ProxyMode>,
    control: Control,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let (switch, mode) = watch::channel(ProxyMode::Forward);
        let control = Control {
            mode,
            dropping: Arc::default(),
            clock_shift: Arc::default(),
            opened: Arc::default(),
            silenced: Arc::default(),
            dropped: Arc::default(),
        };
        let listener = loop {
            // Another process may have bound the port first.
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).await {
                break listener;
            }
        };
        let address = listener.local_addr().expect("it is bound");
        let task = tokio::spawn(serve(listener, target, control.clone()));
        Self { address, switch, control, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, mode: ProxyMode) {
        self.switch.send_replace(mode);
    }

    /// Drops messages to subscribers, and forwards all else.
    pub(crate) fn drop_events(&self, dropping: bool) {
        self.control.dropping.store(dropping, Ordering::SeqCst);
    }

    /// Adds this to the time that Redis tells: the clock of the node seems to be behind as much.
    pub(crate) fn shift_clock(&self, seconds: i64) {
        self.control.clock_shift.store(seconds, Ordering::SeqCst);
    }

    /// Existing subscriptions receive nothing more and seem healthy; new ones work.
    pub(crate) fn silence_subscriptions(&self) {
        self.control.silenced.store(self.control.opened.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// How many messages to subscribers were dropped so far.
    pub(crate) fn dropped_events(&self) -> usize {
        self.control.dropped.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.switch.send_replace(ProxyMode::Disconnect);
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, mut control: Control) {
    let address = listener.local_addr().expect("it is bound");
    let mut listener = Some(listener);
    loop {
        let mode = *control.mode.borrow_and_update();
        if mode == ProxyMode::Refuse {
            listener = None;
            if control.mode.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(open) = &listener else {
            listener = TcpListener::bind(address).await.ok();
            sleep(POLL).await;
            continue;
        };
        tokio::select! {
            accepted = open.accept() => if let Ok((client, _)) = accepted {
                tokio::spawn(connection(client, target, control.clone()));
            },
            changed = control.mode.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

async fn connection(client: TcpStream, target: SocketAddr, control: Control) {
    let mut mode = control.mode.clone();
    let number = control.opened.fetch_add(1, Ordering::SeqCst);
    let relay = async {
        let server = TcpStream::connect(target).await?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let subscribed = Arc::new(AtomicBool::new(false));
        tokio::select! {
            done = requests(from_client, to_server, control.clone(), &subscribed) => done,
            done = replies(from_server, to_client, control.clone(), number, &subscribed) => done,
        }
    };
    tokio::select! {
        // After any error both connections end.
        _ = relay => {}
        _ = mode.wait_for(|mode| mode.closes()) => {}
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut control: Control,
    subscribed: &AtomicBool,
) -> std::io::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        if chunk[..length].to_ascii_lowercase().windows(11).any(|window| window == b"subscribe\r\n") {
            subscribed.store(true, Ordering::SeqCst);
        }
        control.wait_until_allowed().await;
        to.write_all(&chunk[..length]).await?;
    }
}

async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut control: Control,
    number: usize,
    subscribed: &AtomicBool,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        control.wait_until_allowed().await;
        shift_times(&mut buffer, control.clock_shift.load(Ordering::SeqCst));
        if !subscribed.load(Ordering::SeqCst) {
            to.write_all(&std::mem::take(&mut buffer)).await?;
            continue;
        }
        // From here on only complete values, so that single ones can be dropped.
        while let Some((value, length)) = resp::parse(&buffer) {
            let bytes: Vec<u8> = buffer.drain(..length).collect();
            let silenced = control.dropping.load(Ordering::SeqCst) || number < control.silenced.load(Ordering::SeqCst);
            if silenced && value.is_event() {
                control.dropped.fetch_add(1, Ordering::SeqCst);
            } else {
                to.write_all(&bytes).await?;
            }
        }
    }
}

/// Changes the replies to `TIME`: two texts, the first of which are seconds, of ten digits. No other reply is like
/// that.
fn shift_times(buffer: &mut [u8], seconds: i64) {
    const HEAD: &[u8] = b"*2\r\n$10\r\n";
    for at in 0..buffer.len().saturating_sub(HEAD.len() + 10) {
        if seconds != 0 && buffer[at..].starts_with(HEAD) {
            let digits = &mut buffer[at + HEAD.len()..][..10];
            let time = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<i64>().ok());
            let shifted = time.map(|time| format!("{:010}", time + seconds));
            digits.copy_from_slice(shifted.expect("a time in seconds").as_bytes());
        }
    }
}

impl Control {
    /// Waits until bytes may be forwarded.
    async fn wait_until_allowed(&mut self) {
        let mode = self.mode.wait_for(|mode| *mode != ProxyMode::Stall).await.map(|mode| *mode);
        if let Ok(ProxyMode::Delay(delay)) = mode {
            sleep(delay).await;
        }
    }
}
