//! The receiving end: a thread that reads all sockets and counts the bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use parking_lot::Mutex;
use wire::frame;

use crate::senders::{CoreFor, pin_to};

/// A round that takes longer has failed.
const ROUND_TIMEOUT: Duration = Duration::from_secs(20);
/// After the observers have connected, silence for this long means that all have received their snapshot.
const SILENCE: Duration = Duration::from_millis(350);

/// Reads from all sockets until they end.
pub(super) struct Receivers {
    received: Arc<Mutex<Received>>,
    thread: Option<JoinHandle<()>>,
}

/// What was received since the last call of `wait_for_frame`.
struct Received {
    /// Bytes by socket.
    bytes: Vec<usize>,
    /// Their sum.
    total: usize,
    /// The bytes of the first socket.
    first: Vec<u8>,
}

impl Receivers {
    pub(super) fn start(streams: Vec<TcpStream>) -> Self {
        let received = Received { bytes: vec![0; streams.len()], total: 0, first: Vec::new() };
        let received = Arc::new(Mutex::new(received));
        let shared = Arc::clone(&received);
        let thread = std::thread::spawn(move || {
            pin_to(CoreFor::Receivers);
            read_all(streams, &shared);
        });
        Self { received, thread: Some(thread) }
    }

    /// Waits until nothing arrives any more, and discards what was received.
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

    /// Waits until every socket has received one frame of the same length, and returns that of the first.
    pub(super) fn wait_for_frame(&self) -> Vec<u8> {
        let started = Instant::now();
        loop {
            let mut received = self.received.lock();
            let length = frame_length(&received.first);
            if let Some(length) = length.filter(|length| received.total >= length * received.bytes.len()) {
                assert!(
                    received.bytes.iter().all(|bytes| *bytes == length),
                    "every socket received one frame and nothing else"
                );
                let frame = std::mem::take(&mut received.first);
                received.clear();
                return frame;
            }
            assert!(started.elapsed() < ROUND_TIMEOUT, "only {} bytes were received", received.total);
            drop(received);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the end of all sockets, which the sender must have closed.
    pub(super) fn join(&mut self) {
        let thread = self.thread.take().expect("a thread that reads");
        thread.join().expect("it reads to the end");
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
            stream.set_nonblocking(true).expect("a non-blocking socket");
            mio::net::TcpStream::from_std(stream)
        })
        .collect();
    for (index, stream) in streams.iter_mut().enumerate() {
        poll.registry().register(stream, Token(index), Interest::READABLE).expect("the socket is registered");
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

/// Length of the first frame, if its header is complete.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let header = frame::parse_header(bytes).expect("a valid header")?;
    Some(header.header_bytes + header.payload_bytes as usize)
}

/// Connects a user that enters no room yet.
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
        assert!(read > 0, "the server closed the connection");
        answer.extend_from_slice(&buffer[..read]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream
}

/// Sends a text message.
pub(super) fn send_text(stream: &mut TcpStream, text: &str) {
    stream.write_all(&frame::masked(frame::TEXT, text.as_bytes())).expect("the message is sent");
}
