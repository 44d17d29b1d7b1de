//! What a protocol may do with its connection.

use bytes::BytesMut;

use super::{Command, Outcome, SessionNumber};
use crate::config::Config;
use crate::websocket::put_close;

/// The connection whose message a protocol handles.
pub struct Client<'a> {
    host: &'a mut dyn Host,
    /// Replies, as complete frames. They are sent together when all messages of one read are handled.
    pub replies: &'a mut BytesMut,
}

impl std::fmt::Debug for Client<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").finish_non_exhaustive()
    }
}

impl<'a> Client<'a> {
    /// A client whose commands `host` executes, and whose replies are appended to `replies`.
    pub fn new(host: &'a mut dyn Host, replies: &'a mut BytesMut) -> Self {
        Self { host, replies }
    }

    /// Executes a command as the first user of the connection.
    pub fn execute(&mut self, command: Command<'_>) -> Outcome {
        self.host.execute(SessionNumber::FIRST, command)
    }

    /// Executes a command as another user of the connection. A command about a joined room is always executed by the
    /// session that joined it, whatever the number.
    pub fn execute_as(&mut self, session: SessionNumber, command: Command<'_>) -> Outcome {
        self.host.execute(session, command)
    }

    /// Adds a user to the connection. Each distinct user has one session; `None` if the connection has 256 already.
    pub fn identify(&mut self, user: &str) -> Option<SessionNumber> {
        self.host.identify(user)
    }

    /// Whether the connection has a user.
    #[must_use]
    pub fn is_identified(&self) -> bool {
        self.host.is_identified()
    }

    /// Counts a message that is answered with an error.
    pub fn count_refusal(&mut self) {
        self.host.count_refusal();
    }

    /// Sends the replies so far and a close frame, and waits for the client's close frame.
    pub fn close(&mut self, code: u16, reason: &str) {
        put_close(self.replies, code, reason);
        self.host.expect_close();
    }

    /// The name of the connection, for logs and support.
    #[must_use]
    pub fn name(&self) -> String {
        self.host.name()
    }

    /// What the protocol may know about the server.
    #[must_use]
    pub fn server(&self) -> ServerInfo<'_> {
        self.host.server()
    }
}

/// What a protocol may know about the server.
#[derive(Debug, Clone, Copy)]
pub struct ServerInfo<'a> {
    /// The id of the node.
    pub node_id: &'a str,
    /// The settings.
    pub config: &'a Config,
    /// Since when the node is not connected to the other nodes, in milliseconds since the Unix epoch.
    pub degraded_since_unix_ms: Option<u64>,
}

/// The worker's side of a connection, as [`Client`] uses it.
pub trait Host {
    /// Executes a command as one of the connection's users.
    fn execute(&mut self, session: SessionNumber, command: Command<'_>) -> Outcome;
    /// Adds a user to the connection.
    fn identify(&mut self, user: &str) -> Option<SessionNumber>;
    /// Whether the connection has a user.
    fn is_identified(&self) -> bool;
    /// Counts a message that is answered with an error.
    fn count_refusal(&mut self);
    /// Ends the presence of the connection and gives the client a limited time to reply to the close frame.
    fn expect_close(&mut self);
    /// The name of the connection.
    fn name(&self) -> String;
    /// What the protocol may know about the server.
    fn server(&self) -> ServerInfo<'_>;
}
