//! A proxy that is a broken server when there is a true one behind it: it passes everything on, except that it tampers
//! with what one of its connections is told, once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is tampered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// One diff never reaches one observer.
    SkipsOneSeq,
    /// One observer is not told of one leave: the frame comes without its `left`.
    DropsOneLeave,
    /// The server never gets one of the leaves.
    SwallowsALeave,
}

/// How many frames that could be tampered with pass before it happens: the gathering is over by then.
const SPARED: usize = 6;

/// Serves until the test ends; returns its URL.
pub(crate) fn start(server_url: &str, fault: Fault) -> String {
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
            // A connection that ends is no failure of the test.
            std::thread::spawn(move || pass(client, upstream, |frame| tamper_up(frame, fault, &up)));
            std::thread::spawn(move || pass(from_server, to_client, |frame| tamper_down(frame, fault, &down)));
        }
    });
    url
}

/// Passes a head of HTTP, then frames as `tamper` returns them.
fn pass(mut from: TcpStream, mut to: TcpStream, tamper: impl Fn(Frame) -> Option<Frame>) {
    let _ = pass_head(&mut from, &mut to).and_then(|upgraded| {
        if !upgraded {
            return std::io::copy(&mut from, &mut to).map(drop);
        }
        while let Ok(frame) = Frame::read(&mut from) {
            if let Some(frame) = tamper(frame) {
                frame.write(&mut to)?;
            }
        }
        Ok(())
    });
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Whether frames follow.
fn pass_head(from: &mut TcpStream, to: &mut TcpStream) -> std::io::Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    to.write_all(&head)?;
    Ok(String::from_utf8_lossy(&head).to_lowercase().contains("upgrade: websocket"))
}

/// Says yes once, after some have been spared.
fn is_the_one(candidates: &AtomicUsize) -> bool {
    candidates.fetch_add(1, Ordering::SeqCst) == SPARED
}

fn tamper_down(mut frame: Frame, fault: Fault, candidates: &AtomicUsize) -> Option<Frame> {
    let text = String::from_utf8_lossy(&frame.payload).into_owned();
    if !text.starts_with(r#"{"type":"diff""#) {
        return Some(frame);
    }
    match (fault, text.find(r#","left":["#)) {
        (Fault::SkipsOneSeq, _) if is_the_one(candidates) => return None,
        (Fault::DropsOneLeave, Some(at)) if is_the_one(candidates) => {
            frame.payload = format!("{}}}", &text[..at]).into_bytes();
        }
        _ => {}
    }
    Some(frame)
}

fn tamper_up(frame: Frame, fault: Fault, candidates: &AtomicUsize) -> Option<Frame> {
    let is_leave = String::from_utf8_lossy(&frame.payload).contains(r#""type":"leave""#);
    (!(fault == Fault::SwallowsALeave && is_leave && is_the_one(candidates))).then_some(frame)
}

/// Unmasked, whatever it was; masked again with zeros towards the server.
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
