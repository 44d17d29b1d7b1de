//! A client of the dialects that tell of events (online status, chat): keeps every message in order and believes nothing else.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::DEADLINE;
use super::socket::{Event, Socket};

pub(crate) struct EventClient {
    /// Every message in order.
    pub(crate) log: Vec<Value>,
    /// Who is online by the events of online status, ids as JSON.
    pub(crate) online: BTreeSet<String>,
    /// The close frame the server sent, with its code.
    pub(crate) closed: Option<Option<u16>>,
    /// The connection is over.
    pub(crate) ended: bool,
    socket: Socket,
}

impl EventClient {
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::over(Socket::connect(address, path).await)
    }

    /// The same with a small receive buffer: soon a slow client once it stops reading.
    pub(crate) async fn connect_with_small_buffer(address: SocketAddr, path: &str) -> Self {
        Self::over(Socket::connect_with_small_buffer(address, path).await)
    }

    fn over(socket: Socket) -> Self {
        Self { log: Vec::new(), online: BTreeSet::new(), closed: None, ended: false, socket }
    }

    pub(crate) fn send(&self, message: &Value) {
        self.socket.send(message.to_string());
    }

    pub(crate) fn send_text(&self, text: &str) {
        self.socket.send(text);
    }

    /// Several messages in one segment, so that the server handles them together.
    pub(crate) fn send_all(&self, messages: &[Value]) {
        self.socket.send_all(messages.iter().map(Value::to_string));
    }

    pub(crate) fn close(&self, code: u16) {
        self.socket.close(code);
    }

    /// Stops or resumes reading from the socket.
    pub(crate) fn set_reading(&self, on: bool) {
        self.socket.set_reading(on);
    }

    /// Messages of a type, oldest first.
    pub(crate) fn of(&self, kind: &str) -> Vec<&Value> {
        self.log.iter().filter(|message| message["type"] == kind).collect()
    }

    /// Whether exactly these are online, ids as JSON.
    pub(crate) fn shows(&self, users: &[&str]) -> bool {
        self.online.iter().eq(users)
    }

    /// Takes messages until the condition holds. Gives up at the deadline, and at once when the connection is over.
    pub(crate) async fn wait_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(!self.ended, "over while waiting for {what}, closed {:?}: {:?}", self.closed, self.tail());
            match timeout_at(deadline, self.socket.events.recv()).await {
                Ok(Some(Event::Text(text))) => self.take(serde_json::from_str(&text).expect("messages are JSON")),
                Ok(Some(Event::Close(code))) => self.closed = Some(code),
                Ok(Some(Event::End) | None) => self.ended = true,
                Err(_) => panic!("{what} did not come: {:?}", self.tail()),
            }
        }
    }

    fn take(&mut self, message: Value) {
        let user = message["userId"].to_string();
        match message["type"].as_str() {
            Some("USER_ONLINE") => assert!(self.online.insert(user), "online already: {message}"),
            Some("USER_OFFLINE") => assert!(self.online.remove(&user), "not online: {message}"),
            _ => {}
        }
        self.log.push(message);
    }

    /// Waits for the server to close, and for the end of the connection; returns the code.
    pub(crate) async fn wait_for_close(&mut self) -> Option<u16> {
        self.wait_until("the end", |client| client.ended).await;
        self.closed.flatten()
    }

    fn tail(&self) -> &[Value] {
        &self.log[self.log.len().saturating_sub(20)..]
    }
}
