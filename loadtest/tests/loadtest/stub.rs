//! A minimal server of the native protocol with one thread per connection. It can be faulty, which shows that the
//! checks work. It has a frame codec and a handshake of its own, so it also checks the client's.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use sha1::{Digest as _, Sha1};

/// Written by the threads of connections, read by the test and by `/v1/stats`.
#[derive(Debug, Default)]
pub(crate) struct StubCounters {
    pub(crate) joined: AtomicU64,
    pub(crate) heartbeats: AtomicU64,
    pub(crate) pongs: AtomicU64,
    /// All heartbeats that were received, counted or not.
    received: AtomicU64,
}

/// What the server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StubFault {
    None,
    /// Does not count the first heartbeat.
    LosesOneHeartbeat,
    /// Reports one member too few.
    MiscountsRoom,
    /// Closes each connection with 1013 at its first heartbeat.
    ClosesAtHeartbeat,
}

/// Serves until the test ends; returns the URL.
pub(crate) fn start(fault: StubFault) -> (String, Arc<StubCounters>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("ws://{}", listener.local_addr().expect("address"));
    let counters = Arc::new(StubCounters::default());
    let shared = Arc::clone(&counters);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counters = Arc::clone(&shared);
            // The end of a connection is not a failure of the test.
            std::thread::spawn(move || serve(stream, fault, &counters).ok());
        }
    });
    (url, counters)
}

fn serve(mut stream: TcpStream, fault: StubFault, counters: &StubCounters) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(byte(&mut stream)?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.starts_with("GET /v1/stats ") {
        let heartbeats = counters.heartbeats.load(Ordering::SeqCst);
        return answer(&mut stream, &format!(r#"{{"heartbeats":{heartbeats}}}"#));
    }
    if head.starts_with("GET /v1/rooms/lobby/count ") {
        let count = counters.joined.load(Ordering::SeqCst) - u64::from(fault == StubFault::MiscountsRoom);
        return answer(&mut stream, &format!(r#"{{"room":"lobby","count":{count}}}"#));
    }
    assert!(head.starts_with("GET /v1/connect?user=user-"), "{head}");
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )?;
    // In fragments, with a ping between them, as RFC 6455 section 5.4 allows.
    send(&mut stream, 0x01, br#"{"type":"wel"#)?;
    send(&mut stream, 0x89, b"alive?")?;
    send(&mut stream, 0x00, b"come\",\"protocol\"")?;
    send(&mut stream, 0x80, br#":"presence.v1"}"#)?;
    loop {
        let (opcode, payload) = receive(&mut stream)?;
        match (opcode, payload.as_slice()) {
            (0xA, b"alive?") => count(&counters.pongs),
            (0x8, _) => return send(&mut stream, 0x88, &payload),
            (0x1, br#"{"observe":false,"room":"lobby","type":"join"}"#) => count(&counters.joined),
            (0x1, b"heartbeat") => heartbeat(&mut stream, fault, counters)?,
            (0x1, br#"{"type":"heartbeat","ack":true}"#) => {
                heartbeat(&mut stream, fault, counters)?;
                send(&mut stream, 0x81, br#"{"type":"heartbeat_ack","ts":1}"#)?;
            }
            (opcode, payload) => {
                panic!("unexpected {opcode}: {}", String::from_utf8_lossy(payload))
            }
        }
    }
}

fn heartbeat(stream: &mut TcpStream, fault: StubFault, counters: &StubCounters) -> std::io::Result<()> {
    let first = counters.received.fetch_add(1, Ordering::SeqCst) == 0;
    match fault {
        StubFault::LosesOneHeartbeat if first => return Ok(()),
        StubFault::ClosesAtHeartbeat => send(stream, 0x88, b"\x03\xf5full")?,
        _ => {}
    }
    count(&counters.heartbeats);
    Ok(())
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}

fn answer(stream: &mut TcpStream, body: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Payloads here are short.
fn send(stream: &mut TcpStream, first: u8, payload: &[u8]) -> std::io::Result<()> {
    let mut frame = vec![first, payload.len() as u8];
    frame.extend_from_slice(payload);
    stream.write_all(&frame)
}

fn receive(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut start = [0; 6];
    stream.read_exact(&mut start)?;
    assert!(start[1] & 0x80 != 0, "client frames are masked");
    let mut payload = vec![0; usize::from(start[1] & 0x7F)];
    stream.read_exact(&mut payload)?;
    payload.iter_mut().enumerate().for_each(|(index, byte)| *byte ^= start[2 + index % 4]);
    Ok((start[0] & 0xF, payload))
}

fn byte(stream: &mut TcpStream) -> std::io::Result<u8> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}
