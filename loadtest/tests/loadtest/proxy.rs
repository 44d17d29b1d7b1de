//! A proxy in front of the real server that injects one fault: it forwards everything except for one frame of one
//! connection. It has a frame codec of its own, so that an error in `wire::frame` cannot hide itself.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Which frame is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyFault {
    None,
    /// One observer does not receive one diff.
    SkipsOneSeq,
    /// One observer receives one diff without its `left`.
    DropsOneLeave,
    /// The server does not receive one leave.
    SwallowsALeave,
}

/// How many frames that could be changed pass before; by then all clients are connected.
const UNCHANGED_FIRST: usize = 6;

/// Serves until the test ends; returns its URL.
pub(crate) fn start(server_url: &str, fault: ProxyFault) -> String {
    let server = server_url.trim_start_matches("ws://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("ws://{}", listener.local_addr().expect("address"));
    let candidates = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let upstream = TcpStream::connect(&server).expect("the server listens");
            let (to_client, from_server) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            let counters = [Arc::clone(&candidates), Arc::clone(&candidates)];
            let [up, down] = counters;
            // The end of a connection is not a failure of the test.
            std::thread::spawn(move || forward(client, upstream, |frame| change_up(frame, fault, &up)));
            std::thread::spawn(move || forward(from_server, to_client, |frame| change_down(frame, fault, &down)));
        }
    });
    url
}

/// Forwards an HTTP header, then the frames that `change` returns.
fn forward(mut from: TcpStream, mut to: TcpStream, change: impl Fn(Frame) -> Option<Frame>) {
    let _ = forward_header(&mut from, &mut to).and_then(|upgraded| {
        if !upgraded {
            return std::io::copy(&mut from, &mut to).map(drop);
        }
        while let Ok(frame) = Frame::read(&mut from) {
            if let Some(frame) = change(frame) {
                frame.write(&mut to)?;
            }
        }
        Ok(())
    });
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Returns whether frames follow.
fn forward_header(from: &mut TcpStream, to: &mut TcpStream) -> std::io::Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    to.write_all(&head)?;
    Ok(String::from_utf8_lossy(&head).to_lowercase().contains("upgrade: websocket"))
}

/// True once, for the candidate after the first UNCHANGED_FIRST.
fn is_the_one(candidates: &AtomicUsize) -> bool {
    candidates.fetch_add(1, Ordering::SeqCst) == UNCHANGED_FIRST
}

fn change_down(mut frame: Frame, fault: ProxyFault, candidates: &AtomicUsize) -> Option<Frame> {
    let text = String::from_utf8_lossy(&frame.payload).into_owned();
    if !text.starts_with(r#"{"type":"diff""#) {
        return Some(frame);
    }
    match (fault, text.find(r#","left":["#)) {
        (ProxyFault::SkipsOneSeq, _) if is_the_one(candidates) => return None,
        (ProxyFault::DropsOneLeave, Some(at)) if is_the_one(candidates) => {
            frame.payload = format!("{}}}", &text[..at]).into_bytes();
        }
        _ => {}
    }
    Some(frame)
}

fn change_up(frame: Frame, fault: ProxyFault, candidates: &AtomicUsize) -> Option<Frame> {
    let is_leave = String::from_utf8_lossy(&frame.payload).contains(r#""type":"leave""#);
    (!(fault == ProxyFault::SwallowsALeave && is_leave && is_the_one(candidates))).then_some(frame)
}

/// The payload is unmasked; frames to the server are masked with zeros.
struct Frame {
    first: u8,
    is_masked: bool,
    payload: Vec<u8>,
}

impl Frame {
    fn read(from: &mut TcpStream) -> std::io::Result<Self> {
        let mut start = [0; 2];
        from.read_exact(&mut start)?;
        let mut length = u64::from(start[1] & 0x7F);
        if length >= 126 {
            let mut long = [0; 8];
            let bytes = if length == 126 { 2 } else { 8 };
            from.read_exact(&mut long[8 - bytes..])?;
            length = u64::from_be_bytes(long);
        }
        let is_masked = start[1] & 0x80 != 0;
        let mut mask = [0; 4];
        if is_masked {
            from.read_exact(&mut mask)?;
        }
        let mut payload = vec![0; length as usize];
        from.read_exact(&mut payload)?;
        payload.iter_mut().enumerate().for_each(|(index, byte)| *byte ^= mask[index % 4]);
        Ok(Self { first: start[0], is_masked, payload })
    }

    fn write(&self, to: &mut TcpStream) -> std::io::Result<()> {
        let mask_bit = if self.is_masked { 0x80 } else { 0 };
        let mut bytes = vec![self.first];
        match self.payload.len() {
            short @ 0..=125 => bytes.push(mask_bit | short as u8),
            medium @ 126..=0xFFFF => {
                bytes.push(mask_bit | 126);
                bytes.extend_from_slice(&(medium as u16).to_be_bytes());
            }
            long => {
                bytes.push(mask_bit | 127);
                bytes.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        if self.is_masked {
            bytes.extend_from_slice(&[0; 4]);
        }
        bytes.extend_from_slice(&self.payload);
        to.write_all(&bytes)
    }
}
