//! The receiving end: sockets that a thread of its own reads empty, and counts.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use parking_lot::Mutex;

/// A round that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Silence for this long after everybody has come in means that all have got what newcomers get.
const SILENCE: Duration = Duration::from_millis(350);

/// Reads from all sockets until they end.
pub(super) struct Receivers {
    received: Arc<Mutex<Received>>,
    thread: Option<JoinHandle<()>>,
}

/// What has come since the last frame was taken.
struct Received {
    /// Bytes by socket.
    bytes: Vec<usize>,
    /// Their sum.
    total: usize,
    /// What the first socket got.
    first: Vec<u8>,
}

impl Receivers {
    pub(super) fn start(streams: Vec<TcpStream>) -> Self {
        let received = Received { bytes: vec![0; streams.len()], total: 0, first: Vec::new() };
        let received = Arc::new(Mutex::new(received));
        let shared = Arc::clone(&received);
        let thread = std::thread::spawn(move || {
            super::senders::stand_on(super::senders::Core::Receivers);
            read_all(streams, &shared);
        });
        Self { received, thread: Some(thread) }
    }

    /// Waits until nothing comes any more, and forgets what came.
    pub(super) fn wait_for_silence(&self) {
        let mut before = usize::MAX;
        loop {
            let total = self.received.lock().total;
            if total == before {
                break;
            }
            before = total;
            std::thread::sleep(SILENCE);
        }
        self.received.lock().clear();
    }

    /// Waits until every socket has got one frame, the same for all by its length, and returns that of the first.
    pub(super) fn wait_for_frame(&self) -> Vec<u8> {
        let began = Instant::now();
        loop {
            let mut received = self.received.lock();
            let length = length_of(&received.first);
            if let Some(length) = length.filter(|length| received.total >= length * received.bytes.len()) {
                assert!(
                    received.bytes.iter().all(|bytes| *bytes == length),
                    "everybody got one frame and nothing else"
                );
                let frame = std::mem::take(&mut received.first);
                received.clear();
                return frame;
            }
            assert!(began.elapsed() < PATIENCE, "{} bytes have come, more should", received.total);
            drop(received);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the end of all sockets. The sender must have closed them.
    pub(super) fn join(&mut self) {
        let thread = self.thread.take().expect("a thread that reads");
        thread.join().expect("it has read to the end");
    }
}

impl Received {
    fn clear(&mut self) {
        self.bytes.fill(0);
        self.total = 0;
        self.first.clear();
    }
}

fn read_all(streams: Vec<TcpStream>, received: &Mutex<Received>) {
    let mut poll = Poll::new().expect("an epoll instance");
    let mut streams: Vec<_> = streams
        .into_iter()
        .map(|stream| {
            stream.set_nonblocking(true).expect("a socket that does not wait");
            mio::net::TcpStream::from_std(stream)
        })
        .collect();
    for (index, stream) in streams.iter_mut().enumerate() {
        poll.registry().register(stream, Token(index), Interest::READABLE).expect("a place in it");
    }
    let mut open = streams.len();
    let mut events = Events::with_capacity(1_024);
    let mut buffer = vec![0; 64 * 1024];
    while open > 0 {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result.expect("epoll waits"),
        }
        let mut received = received.lock();
        for event in &events {
            let Token(index) = event.token();
            loop {
                match streams[index].read(&mut buffer) {
                    Ok(0) => {
                        open -= 1;
                        poll.registry().deregister(&mut streams[index]).expect("it was registered");
                        break;
                    }
                    Ok(read) => {
                        received.bytes[index] += read;
                        received.total += read;
                        if index == 0 {
                            received.first.extend_from_slice(&buffer[..read]);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("a socket broke: {error}"),
                }
            }
        }
    }
}

/// How long the first frame is, if its head is there.
fn length_of(bytes: &[u8]) -> Option<usize> {
    let [_, short, rest @ ..] = bytes else { return None };
    match short {
        0..126 => Some(2 + usize::from(*short)),
        126 => Some(4 + usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]))),
        _ => panic!("a frame that is not of this bench"),
    }
}

/// A WebSocket of a user who is nowhere yet.
pub(super) fn connect(server: SocketAddr, user: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server).expect("a connection");
    stream.set_nodelay(true).expect("a connection");
    let request = format!(
        "GET /v1/connect?user={user} HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).expect("an answer");
        assert!(read > 0, "the server hung up");
        answer.extend_from_slice(&buffer[..read]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream
}

/// Sends a text message in a frame whose mask is zero, which masks nothing and is allowed.
pub(super) fn publish(stream: &mut TcpStream, text: &str) {
    let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
    assert!(text.len() < 126);
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame).expect("a message that goes out");
}
