//! The two senders: a rollcall server with its worker and its ticker, and a thread with a plain loop.

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

use crate::common::{ROOM, json_of};
use crate::receivers::{Receivers, connect, send_text};

/// The user who joins and leaves. With a name of this length a diff has about 130 bytes.
const MEMBER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e-mover-0001";

/// A rollcall server with one worker.
pub(super) struct Rollcall {
    pub(super) receivers: Receivers,
    /// Whether the member is in the room.
    pub(super) inside: bool,
    member: TcpStream,
    pub(super) threads: Threads,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl Rollcall {
    pub(super) fn start(connections: usize) -> Self {
        // With such a long lease no client is pinged.
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
            pin_to(CoreFor::Senders); // The worker inherits it.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let shutdown = async { drop(stopped.await) };
            runtime.block_on(server.run(shutdown)).expect("the server stops without an error");
        };
        let server = std::thread::Builder::new().name("ticker".to_owned()).spawn(ticker).expect("a thread");
        let observers = (0..connections).map(|number| observer(address, number)).collect();
        let receivers = Receivers::start(observers);
        receivers.wait_for_silence();
        let member = connect(address, MEMBER);
        let mut threads = Threads::named(&["ticker", "worker-0"]);
        threads.spent();
        Self { receivers, inside: false, member, threads, stop: Some(stop), server: Some(server) }
    }

    /// The member joins, or leaves.
    pub(super) fn change(&mut self) {
        self.inside = !self.inside;
        let message = match self.inside {
            true => format!(r#"{{"type":"join","room":"{ROOM}","observe":false}}"#),
            false => format!(r#"{{"type":"leave","room":"{ROOM}"}}"#),
        };
        send_text(&mut self.member, &message);
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

fn observer(address: SocketAddr, number: usize) -> TcpStream {
    let mut stream = connect(address, &format!("observer-{number}"));
    send_text(&mut stream, &format!(r#"{{"type":"observe","room":"{ROOM}"}}"#));
    stream
}

/// Checks that the frame contains the member's change and nothing else.
pub(super) fn check_diff(frame: &[u8], inside: bool) {
    let diff = json_of(frame);
    let (changed, other) = if inside { ("joined", "left") } else { ("left", "joined") };
    assert_eq!((&diff["type"], &diff["count"]), (&"diff".into(), &usize::from(inside).into()));
    assert_eq!((diff[changed].as_array().map(Vec::len), &diff[changed][0]["user"]), (Some(1), &MEMBER.into()));
    assert!(diff.get(other).is_none());
}

/// A thread that sends a frame to all its sockets on request.
pub(super) struct PlainLoop {
    pub(super) receivers: Receivers,
    /// The frame that it sends.
    pub(super) frame: Vec<u8>,
    requests: Option<mpsc::Sender<Vec<u8>>>,
    pub(super) threads: Threads,
    thread: Option<JoinHandle<()>>,
}

impl PlainLoop {
    pub(super) fn start(connections: usize) -> Self {
        // Sockets with the same options as rollcall's.
        let local = ([127, 0, 0, 1], 0).into();
        let listener = listen::bind(&[local], 1, "the address").expect("a port").remove(0).remove(0);
        listener.set_nonblocking(false).expect("a blocking listener");
        let address = listener.local_addr().expect("its address");
        let mut clients = Vec::new();
        let mut sockets = Vec::new();
        for _ in 0..connections {
            clients.push(TcpStream::connect(address).expect("a connection"));
            let (socket, _) = listener.accept().expect("its other end");
            socket.set_nonblocking(true).expect("a non-blocking socket");
            sockets.push(socket);
        }
        let (requests, frames) = mpsc::channel::<Vec<u8>>();
        let send = move || {
            pin_to(CoreFor::Senders);
            for frame in frames {
                for mut socket in &sockets {
                    let sent = socket.write(&frame).expect("the socket has room");
                    assert_eq!(sent, frame.len());
                }
            }
        };
        let thread = std::thread::Builder::new().name("plain".to_owned()).spawn(send).expect("a thread");
        let threads = Threads::named(&["plain"]);
        let receivers = Receivers::start(clients);
        Self { receivers, frame: Vec::new(), requests: Some(requests), threads, thread: Some(thread) }
    }

    pub(super) fn send(&self) {
        let requests = self.requests.as_ref().expect("the loop is running");
        requests.send(self.frame.clone()).expect("the thread is running");
    }
}

impl Drop for PlainLoop {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the loop has ended");
        }
        self.receivers.join();
    }
}

/// Threads of this process whose CPU time is measured.
pub(super) struct Threads {
    schedstats: Vec<PathBuf>,
    before: Duration,
}

impl Threads {
    /// One thread per name. Waits until all of them have started.
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

    /// CPU time since the last call. Exact only while the threads sleep, because then the kernel has accounted it.
    pub(super) fn spent(&mut self) -> Duration {
        let nanoseconds = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).expect("the thread is running");
            text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).expect("nanoseconds first")
        };
        let now = Duration::from_nanos(self.schedstats.iter().map(nanoseconds).sum());
        now - std::mem::replace(&mut self.before, now)
    }
}

fn find_thread(name: &str) -> Option<PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux has /proc");
    let mut tasks = tasks.filter_map(Result::ok).map(|task| task.path());
    let is_it = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
    Some(tasks.find(is_it)?.join("schedstat"))
}

/// Which core a thread runs on.
#[derive(Debug, Clone, Copy)]
pub(super) enum CoreFor {
    Senders,
    Receivers,
}

/// Pins the thread to the first core that this process may use, or to the last one. With a single core both are the
/// same.
pub(super) fn pin_to(core: CoreFor) {
    let allowed = sched_getaffinity(None).expect("the allowed cores");
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let chosen = match core {
        CoreFor::Senders => cores.next(),
        CoreFor::Receivers => cores.next_back(),
    };
    let mut only = CpuSet::new();
    only.set(chosen.expect("at least one"));
    sched_setaffinity(None, &only).expect("an allowed core");
}
