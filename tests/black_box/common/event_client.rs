//! A client of the protocols that send events (online status, chat). It keeps every message in order.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::DEADLINE;
use super::socket::{Event, Socket};

pub(crate) struct EventClient {
    /// Every message in order.
    pub(crate) log: Vec<Value>,
    /// The users that are online according to the events of online status: ids as JSON.
    pub(crate) online: BTreeSet<String>,
    /// The close frame the server sent, with its code.
    pub(crate) closed: Option<Option<u16>>,
    /// The connection has ended.
    pub(crate) ended: bool,
    socket: Socket,
}

impl EventClient {
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::over(Socket::connect(address, path).await)
    }

    /// With a small receive buffer: a slow client soon after it stops reading.
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

    /// Sends several messages in one TCP segment, so that the server handles them together.
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

    /// Whether exactly these users are online: ids as JSON.
    pub(crate) fn has_online(&self, users: &[&str]) -> bool {
        self.online.iter().eq(users)
    }

    /// Receives messages until the condition holds. Fails at the deadline, and at once when the connection ends.
    pub(crate) async fn wait_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(!self.ended, "ended while waiting for {what}, closed {:?}: {:?}", self.closed, self.tail());
            match timeout_at(deadline, self.socket.events.recv()).await {
                Ok(Some(Event::Text(text))) => {
                    self.apply_message(serde_json::from_str(&text).expect("messages are JSON"));
                }
                Ok(Some(Event::Close(code))) => self.closed = Some(code),
                Ok(Some(Event::End) | None) => self.ended = true,
                Err(_) => panic!("waited for {what} in vain: {:?}", self.tail()),
            }
        }
    }

    fn apply_message(&mut self, message: Value) {
        let user = message["userId"].to_string();
        match message["type"].as_str() {
            Some("USER_ONLINE") => assert!(self.online.insert(user), "a second online event: {message}"),
            Some("USER_OFFLINE") => {
                assert!(self.online.remove(&user), "an offline event without an online event: {message}");
            }
            _ => {}
        }
        self.log.push(message);
    }

    /// Waits until the server has closed and the connection has ended. Returns the close code.
    pub(crate) async fn wait_for_close(&mut self) -> Option<u16> {
        self.wait_until("the end", |client| client.ended).await;
        self.closed.flatten()
    }

    fn tail(&self) -> &[Value] {
        &self.log[self.log.len().saturating_sub(20)..]
    }
}
