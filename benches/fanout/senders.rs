//! The sending ends: a server of rollcall's with its worker and its ticker, and a thread with a plain loop.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rollcall::server::listen;
use rollcall::{Config, Server};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::sync::oneshot;

use crate::clients::{Receivers, connect, publish};
use crate::common::{ROOM, json_of};

/// As long as a UUID and some: with it a diff has some 130 bytes.
const MOVER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e-mover-0001";

/// rollcall, as its program runs it, with one worker.
pub(super) struct Rollcall {
    pub(super) receivers: Receivers,
    /// Whether the mover is in the room.
    pub(super) inside: bool,
    mover: TcpStream,
    pub(super) threads: Threads,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl Rollcall {
    pub(super) fn start(connections: usize) -> Self {
        // Leases so long that nobody is pinged while this runs.
        let arguments = [
            "rollcall",
            "--listen",
            "127.0.0.1:0",
            "--workers",
            "1",
            "--tick",
            "100ms",
            "--ttl",
            "30m",
            "--drain",
            "10ms",
        ];
        let server = Server::bind(Config::from_args(arguments).expect("settings")).expect("a port");
        let address = server.local_addr();
        let (stop, stopped) = oneshot::channel();
        let ticker = move || {
            stand_on(Core::Senders); // The worker inherits it.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let shutdown = async { drop(stopped.await) };
            runtime.block_on(server.run(shutdown)).expect("it ends well");
        };
        let server = std::thread::Builder::new().name("ticker".to_owned()).spawn(ticker).expect("a thread");
        let watchers = (0..connections).map(|number| watcher(address, number)).collect();
        let receivers = Receivers::start(watchers);
        receivers.wait_for_silence();
        let mover = connect(address, MOVER);
        let mut threads = Threads::named(&["ticker", "worker-0"]);
        threads.spent();
        Self { receivers, inside: false, mover, threads, stop: Some(stop), server: Some(server) }
    }

    /// Has the mover join, or leave.
    pub(super) fn change(&mut self) {
        self.inside = !self.inside;
        let message = match self.inside {
            true => format!(r#"{{"type":"join","room":"{ROOM}","observe":false}}"#),
            false => format!(r#"{{"type":"leave","room":"{ROOM}"}}"#),
        };
        publish(&mut self.mover, &message);
    }
}

impl Drop for Rollcall {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(server) = self.server.take() {
            server.join().expect("the server has stopped");
        }
        self.receivers.join();
    }
}

fn watcher(address: SocketAddr, number: usize) -> TcpStream {
    let mut stream = connect(address, &format!("watcher-{number}"));
    publish(&mut stream, &format!(r#"{{"type":"observe","room":"{ROOM}"}}"#));
    stream
}

/// The frame tells of the mover, and of nobody else.
pub(super) fn check_diff(frame: &[u8], inside: bool) {
    let diff = json_of(frame);
    let (moved, other) = if inside { ("joined", "left") } else { ("left", "joined") };
    assert_eq!((&diff["type"], &diff["count"]), (&"diff".into(), &usize::from(inside).into()));
    assert_eq!((diff[moved].as_array().map(Vec::len), &diff[moved][0]["user"]), (Some(1), &MOVER.into()));
    assert!(diff.get(other).is_none());
}

/// A thread that sends to all its sockets when it is told to.
pub(super) struct Loop {
    pub(super) receivers: Receivers,
    /// What it sends.
    pub(super) frame: Vec<u8>,
    go: Option<mpsc::Sender<Vec<u8>>>,
    pub(super) threads: Threads,
    thread: Option<JoinHandle<()>>,
}

impl Loop {
    pub(super) fn start(connections: usize) -> Self {
        // Its sockets have the options that rollcall's have.
        let listener = listen::bind(([127, 0, 0, 1], 0).into(), 1).expect("a port").remove(0);
        listener.set_nonblocking(false).expect("a listener that waits");
        let address = listener.local_addr().expect("where it listens");
        let mut clients = Vec::new();
        let mut sockets = Vec::new();
        for _ in 0..connections {
            clients.push(TcpStream::connect(address).expect("a connection"));
            let (socket, _) = listener.accept().expect("its other end");
            socket.set_nonblocking(true).expect("a socket that does not wait");
            sockets.push(socket);
        }
        let (go, frames) = mpsc::channel::<Vec<u8>>();
        let send = move || {
            stand_on(Core::Senders);
            for frame in frames {
                for mut socket in &sockets {
                    let sent = socket.write(&frame).expect("a socket that takes everything");
                    assert_eq!(sent, frame.len());
                }
            }
        };
        let thread = std::thread::Builder::new().name("plain".to_owned()).spawn(send).expect("a thread");
        let threads = Threads::named(&["plain"]);
        let receivers = Receivers::start(clients);
        Self { receivers, frame: Vec::new(), go: Some(go), threads, thread: Some(thread) }
    }

    pub(super) fn send(&self) {
        let go = self.go.as_ref().expect("not before the end");
        go.send(self.frame.clone()).expect("the thread is there");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(self.go.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the loop has ended");
        }
        self.receivers.join();
    }
}

/// Threads of this process whose CPU time is asked for.
pub(super) struct Threads {
    schedstats: Vec<PathBuf>,
    before: Duration,
}

impl Threads {
    /// One of each name. Waits for those that are just starting.
    fn named(names: &[&str]) -> Self {
        let schedstats = loop {
            let found: Vec<PathBuf> = names.iter().filter_map(|name| find_thread(name)).collect();
            if found.len() == names.len() {
                break found;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        Self { schedstats, before: Duration::ZERO }
    }

    /// CPU time since this was last asked: exact while the threads sleep, which is when the kernel adds it up.
    pub(super) fn spent(&mut self) -> Duration {
        let nanoseconds = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).expect("a thread that lives");
            text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).expect("nanoseconds first")
        };
        let now = Duration::from_nanos(self.schedstats.iter().map(nanoseconds).sum());
        now - std::mem::replace(&mut self.before, now)
    }
}

fn find_thread(name: &str) -> Option<PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux tells which threads there are");
    let mut tasks = tasks.filter_map(Result::ok).map(|task| task.path());
    let is_it = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
    Some(tasks.find(is_it)?.join("schedstat"))
}

/// Where a thread stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Core {
    Senders,
    Receivers,
}

/// Binds the thread to the first core that this process may use, or to the last. With one core both are the same.
pub(super) fn stand_on(core: Core) {
    let allowed = sched_getaffinity(None).expect("the cores of this thread");
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let chosen = match core {
        Core::Senders => cores.next(),
        Core::Receivers => cores.next_back(),
    };
    let mut only = CpuSet::new();
    only.set(chosen.expect("at least one"));
    sched_setaffinity(None, &only).expect("a core that was allowed");
}
