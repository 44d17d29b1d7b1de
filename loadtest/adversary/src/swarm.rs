//! Many sockets on one thread, with their traffic counted. Attackers and honest clients are both swarms.
//!
//! Nothing is sent or read outside of `turn`. A socket that the server does not read keeps what is queued for it;
//! `backlog` tells an attack when to stop queueing.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use wire::frame;

use crate::client::{Client, Reading, Received, text};
use crate::credentials::{Credentials, user_in, user_in_body};
use crate::trial::Plan;

/// The key of every handshake. It need not be random here.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Messages that a client receives because something changed, not because it asked.
const SUBSCRIBED: [&[u8]; 8] = [
    br#"{"type":"diff""#,
    br#"{"type":"count""#,
    br#"{"type":"message""#,
    br#"{"type":"health""#,
    br#"{"type":"USER_"#,
    br#"{"type":"msg""#,
    br#"{"type":"join""#,
    br#"{"type":"leave""#,
];

/// A socket of a swarm. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(usize);

/// What happened to a socket.
#[derive(Debug)]
pub enum Event {
    /// The WebSocket handshake succeeded.
    Open(Id),
    /// A text message.
    Text(Id, Vec<u8>),
    /// An HTTP answer, or the refusal of a handshake.
    Answer {
        /// The socket.
        id: Id,
        /// The status code.
        status: u16,
        /// Head and body.
        bytes: usize,
    },
    /// The server ended the connection, with this close code if there was one.
    Closed(Id, Option<u16>),
}

/// What a swarm did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that the kernel took, handshakes and requests included.
    pub sent_bytes: u64,
    /// Bytes that were read.
    pub received_bytes: u64,
    /// The part of these that the server sent because something changed.
    pub subscribed_bytes: u64,
    /// Sockets opened.
    pub connections: u64,
    /// Sockets that the server ended.
    pub closed: u64,
    /// Of these, those closed with 1013 (try again later).
    pub closed_try_again: u64,
    /// HTTP answers whose status is not 200.
    pub refused: u64,
    /// Messages of the type `error`.
    pub errors: u64,
}

/// See the module's documentation.
pub struct Swarm {
    server: SocketAddr,
    authority: String,
    credentials: Option<Credentials>,
    /// The address that sockets are bound to; only on loopback.
    source: Option<IpAddr>,
    poll: Poll,
    clients: BTreeMap<usize, Client>,
    next: usize,
    /// Clients with something to send, or with more to read.
    active: Vec<usize>,
    /// Whether changes that it receives count as requested as well.
    requests_everything: bool,
    /// Of sockets that are gone.
    past: Traffic,
    events: Vec<Event>,
    scratch: Vec<u8>,
}

impl Swarm {
    /// `address_number` chooses the source address on loopback: 127.0.0.N.
    pub fn new(plan: &Plan, address_number: u8) -> io::Result<Self> {
        let server = plan.server;
        let is_loopback = server.ip().is_loopback() && server.is_ipv4();
        Ok(Self {
            server,
            authority: server.to_string(),
            credentials: plan.credentials.clone(),
            source: is_loopback.then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 0, address_number))),
            poll: Poll::new()?,
            clients: BTreeMap::new(),
            next: 0,
            active: Vec::new(),
            requests_everything: false,
            past: Traffic::default(),
            events: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// Counts everything as requested: for attacks that connect only to receive what newcomers are sent.
    pub fn request_everything(&mut self) {
        self.requests_everything = true;
    }

    /// Opens a WebSocket. `path` contains the query, and the user whose token is sent.
    pub fn websocket(&mut self, path: &str, reading: Reading) -> Id {
        match user_in(path) {
            Some(user) => self.websocket_of(user, path, reading),
            None => self.handshake("", path, reading),
        }
    }

    /// Opens a WebSocket of this user, whom the path does not name.
    pub fn websocket_of(&mut self, user: &str, path: &str, reading: Reading) -> Id {
        let line = self.line(Some(user));
        self.handshake(&line, path, reading)
    }

    /// Opens a WebSocket with any token, as browsers send it.
    pub fn websocket_with_token(&mut self, token: &str, path: &str, reading: Reading) -> Id {
        let line = format!("Sec-WebSocket-Protocol: presence.v1, bearer.{token}\r\n");
        self.handshake(&line, path, reading)
    }

    /// A valid token of this user, if the server requires one.
    pub fn token(&self, user: &str) -> Option<String> {
        self.credentials.as_ref().map(|credentials| credentials.token(user))
    }

    fn line(&self, user: Option<&str>) -> String {
        self.credentials.as_ref().map(|credentials| credentials.line(user)).unwrap_or_default()
    }

    fn handshake(&mut self, line: &str, path: &str, reading: Reading) -> Id {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n\
             Sec-WebSocket-Version: 13\r\n{line}\r\n",
            self.authority
        );
        self.open(reading, Some(request.into_bytes()))
    }

    /// Opens a socket for HTTP, or for anything else.
    pub fn plain(&mut self, reading: Reading) -> Id {
        self.open(reading, None)
    }

    fn open(&mut self, reading: Reading, handshake: Option<Vec<u8>>) -> Id {
        let id = self.next;
        self.next += 1;
        self.past.connections += 1;
        match Client::connect(self.server, self.source, reading, handshake) {
            Ok(mut client) => {
                let interest = Interest::READABLE | Interest::WRITABLE;
                if self.poll.registry().register(&mut client.stream, Token(id), interest).is_ok() {
                    self.clients.insert(id, client);
                    return Id(id);
                }
                self.lose(id);
            }
            Err(_) => self.lose(id),
        }
        Id(id)
    }

    fn lose(&mut self, id: usize) {
        self.past.closed += 1;
        self.events.push(Event::Closed(Id(id), None));
    }

    /// Queues a text message.
    pub fn send(&mut self, id: Id, message: &str) {
        self.send_raw(id, &text(message));
    }

    /// Queues bytes.
    pub fn send_raw(&mut self, id: Id, bytes: &[u8]) {
        if let Some(client) = self.clients.get_mut(&id.0) {
            client.queue(bytes);
            self.active.push(id.0);
        }
    }

    /// Queues a GET request.
    pub fn get(&mut self, id: Id, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{}\r\n", self.authority, self.line(None));
        self.send_raw(id, request.as_bytes());
    }

    /// Queues a POST request with a JSON body.
    pub fn post(&mut self, id: Id, path: &str, body: &str) {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n{body}",
            self.authority,
            body.len(),
            self.line(user_in_body(body))
        );
        self.send_raw(id, request.as_bytes());
    }

    /// Bytes that wait to be sent.
    pub fn backlog(&self, id: Id) -> usize {
        self.clients.get(&id.0).map_or(0, Client::backlog)
    }

    /// Whether it exists and its handshake is done.
    pub fn is_open(&self, id: Id) -> bool {
        self.clients.get(&id.0).is_some_and(Client::is_open)
    }

    /// Whether it exists.
    pub fn exists(&self, id: Id) -> bool {
        self.clients.contains_key(&id.0)
    }

    /// Sends the queued bytes and a close frame without a code, then ends the connection.
    pub fn close(&mut self, id: Id) {
        self.send_raw(id, &frame::masked(frame::CLOSE, &[]));
        if let Some(client) = self.clients.get_mut(&id.0) {
            let _ = client.flush();
            let _ = client.stream.shutdown(std::net::Shutdown::Write);
        }
    }

    /// Resets the connection.
    pub fn reset(&mut self, id: Id) {
        self.remove(id.0);
    }

    fn remove(&mut self, id: usize) {
        if let Some(mut client) = self.clients.remove(&id) {
            self.past.sent_bytes += client.sent_bytes;
            self.past.received_bytes += client.received_bytes;
            let _ = self.poll.registry().deregister(&mut client.stream);
        }
    }

    /// How many sockets there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The traffic of all sockets so far.
    pub fn traffic(&self) -> Traffic {
        let mut traffic = self.past;
        for client in self.clients.values() {
            traffic.sent_bytes += client.sent_bytes;
            traffic.received_bytes += client.received_bytes;
        }
        traffic
    }

    /// Sends and receives for at most this time, and returns what happened.
    pub fn turn(&mut self, limit: Duration) -> io::Result<Vec<Event>> {
        let mut ready = std::mem::take(&mut self.active);
        for id in &ready {
            self.serve(*id);
        }
        ready.clear();
        let limit = if self.active.is_empty() && self.events.is_empty() { limit } else { Duration::ZERO };
        let mut events = Events::with_capacity(1024);
        match self.poll.poll(&mut events, Some(limit)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            self.serve(event.token().0);
        }
        Ok(std::mem::take(&mut self.events))
    }

    fn serve(&mut self, id: usize) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let (events, past) = (&mut self.events, &mut self.past);
        let requests_everything = self.requests_everything;
        let mut is_over = false;
        let more = client.read(&mut self.scratch, |received| match received {
            Received::Open => events.push(Event::Open(Id(id))),
            Received::Text(message) => {
                past.errors += u64::from(message.starts_with(br#"{"type":"error""#));
                if !requests_everything && SUBSCRIBED.iter().any(|start| message.starts_with(start)) {
                    past.subscribed_bytes += message.len() as u64;
                }
                events.push(Event::Text(Id(id), message));
            }
            Received::Answer { status, bytes } => {
                past.refused += u64::from(status != 200);
                events.push(Event::Answer { id: Id(id), status, bytes });
            }
            Received::Closed(code) => {
                past.closed += 1;
                past.closed_try_again += u64::from(code == Some(1013));
                events.push(Event::Closed(Id(id), code));
                is_over = true;
            }
        });
        if !is_over && client.flush().is_err() {
            self.past.closed += 1;
            self.events.push(Event::Closed(Id(id), None));
            is_over = true;
        }
        if is_over {
            self.remove(id);
        } else if more {
            self.active.push(id);
        }
    }
}
