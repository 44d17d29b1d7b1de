//! TLS over a real socket: what is buffered, and that no byte is lost.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::tls::{Files, ServerTls};

/// What a record has in addition to its plaintext.
const OVERHEAD_BYTES: usize = 128;

/// A certificate for one test, made with openssl.
struct Certificate(PathBuf);

impl Certificate {
    fn make(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("rollcall-stream-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost \
                         -keyout key -out certificate";
        let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(&folder).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(folder)
    }

    fn open(&self) -> ServerTls {
        ServerTls::open(Files { certificate: self.0.join("certificate"), key: self.0.join("key") }).unwrap()
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A connection after its handshake, and a client on a thread that does this then. Also what the client sent together
/// with the end of its handshake.
fn connect(
    name: &str,
    client: impl FnOnce(Box<dyn crate::tls::Stream>) + Send + 'static,
) -> (Stream, Session, thread::JoinHandle<()>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = thread::spawn(move || {
        let socket = TcpStream::connect(address).unwrap();
        client(Box::new(crate::tls::connect(socket, std::net::Ipv4Addr::LOCALHOST.into(), "127.0.0.1").unwrap()));
    });
    let (socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let stream = Stream::from(socket);
    let mut tls = Certificate::make(name).open().session().unwrap();
    let mut first = Vec::new();
    while tls.is_handshaking() {
        first = read(&stream, &mut tls);
    }
    (stream, tls, client, first)
}

/// Reads what has arrived.
fn read(stream: &Stream, tls: &mut Session) -> Vec<u8> {
    let mut buffer = [0; READ_BYTES];
    match stream.read(Some(tls), &mut buffer) {
        Received::Nothing | Received::Incomplete { .. } => Vec::new(),
        Received::Bytes { count, .. } => buffer[..count].to_vec(),
        Received::End => panic!("the client has closed the connection"),
    }
}

#[test]
fn at_most_one_record_is_encrypted_ahead_and_no_byte_is_lost() {
    let sent: Vec<u8> = (0..8_000_000u32).map(|number| (number / 7) as u8).collect();
    let expected = sent.clone();
    let (begin, begins) = mpsc::channel::<()>();
    let (stream, mut tls, client, _) = connect("ahead", move |mut stream| {
        // The handshake is complete when something is written.
        stream.write_all(b"x").unwrap();
        begins.recv().unwrap();
        let mut received = vec![0; expected.len()];
        stream.read_exact(&mut received).unwrap();
        assert!(received == expected);
    });
    let (mut done, mut is_full, mut begin) = (0, false, Some(begin));
    while done < sent.len() {
        // Two slices, cut where no record ends.
        let rest = &sent[done..];
        let (first, second) = rest.split_at(rest.len() / 3);
        let slices = [IoSlice::new(first), IoSlice::new(second)];
        let accepted = stream.try_write(Some(&mut tls), &slices);
        done += accepted;
        assert!(tls.unsent().len() <= RECORD_BYTES + OVERHEAD_BYTES, "{}", tls.unsent().len());
        if accepted == 0 && !is_full {
            is_full = true;
            begin.take().unwrap().send(()).unwrap();
        }
    }
    assert!(is_full && tls.unsent().is_empty());
    client.join().unwrap();
    stream.shutdown(Shutdown::Both);
}

#[test]
fn an_idle_connection_has_no_buffer() {
    let (stream, mut tls, client, mut read_bytes) = connect("idle", |mut stream| {
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
    });
    while read_bytes.len() < 5 {
        read_bytes.extend(read(&stream, &mut tls));
    }
    assert_eq!(read_bytes, b"hello");
    assert_eq!(stream.try_write(Some(&mut tls), &[IoSlice::new(b"world")]), 5);
    assert_eq!(tls.buffer_bytes(), 0);
    client.join().unwrap();
}
