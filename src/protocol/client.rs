//! What a protocol may do with its connection.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::{Command, Outcome, SessionNumber};
use crate::auth::Apps;
use crate::config::Config;
use crate::presence::{Audience, LOBBY};
use crate::websocket::{close, put_close};

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

    /// Takes away the user that was added last, unless the user has joined a room.
    pub fn forget(&mut self, session: SessionNumber) {
        self.host.forget(session);
    }

    /// Counts the work that a message causes however it is answered, in bytes: see [`crate::work_budget`].
    pub fn charge(&mut self, work: usize) {
        self.host.charge(work);
    }

    /// Checks that the user may have another connection, unless this connection has the user already.
    ///
    /// # Errors
    /// Why not, as the reason of a close frame: the client may try again later.
    pub fn check_user(&self, user: &str) -> Result<(), &'static str> {
        self.host.check_user(user)
    }

    /// Joins the lobby in place of a greeting, as clients of a protocol without rooms do. Clients that may not are sent
    /// a close frame. Returns whether the client has joined.
    pub fn join_lobby_at_once(&mut self, audience: Audience) -> bool {
        let Err((code, reason)) = self.join_lobby(audience) else { return true };
        self.refuse_handshake(code, &reason);
        false
    }

    /// Joins the lobby as a message asks for. Clients that may not are sent a close frame.
    pub fn join_lobby_or_close(&mut self, audience: Audience) {
        if let Err((code, reason)) = self.join_lobby(audience) {
            self.count_refusal();
            self.close(code, &reason);
        }
    }

    fn join_lobby(&mut self, audience: Audience) -> Result<(), (u16, String)> {
        self.execute(Command::join_lobby(audience)).map_err(|refused| {
            let code = if refused.is_temporary() { close::TRY_AGAIN } else { close::POLICY };
            (code, refused.reason(LOBBY))
        })
    }

    /// Has a new token verified that replaces the one with which the connection began. The messages behind it wait for
    /// the result, which [`super::Rules::renewed`] encodes.
    ///
    /// # Errors
    /// If the connection did not begin with a token.
    pub fn renew(&mut self, token: &str) -> Outcome {
        self.host.renew(token)
    }

    /// The users that the connection watches.
    #[must_use]
    pub fn watched(&self) -> Vec<Arc<str>> {
        self.host.watched()
    }

    /// Whether the connection has joined or observes a room.
    #[must_use]
    pub fn has_rooms(&self) -> bool {
        self.host.has_rooms()
    }

    /// Counts a message that is answered with an error.
    pub fn count_refusal(&mut self) {
        self.host.count_refusal();
    }

    /// Closes a connection in place of a greeting, and counts a refused handshake.
    pub fn refuse_handshake(&mut self, code: u16, reason: &str) {
        self.host.count_refused_handshake();
        self.close(code, reason);
    }

    /// Sends the replies so far and a close frame, and waits for the client's close frame.
    pub fn close(&mut self, code: u16, reason: &str) {
        put_close(self.replies, code, reason);
        self.host.expect_close();
    }

    /// Takes what the protocol keeps about the connection. [`Client::keep`] puts it back.
    pub fn take_data<T: Any + Send>(&mut self) -> Option<Box<T>> {
        self.host.data().take()?.downcast().ok()
    }

    /// Keeps something about the connection, until the connection ends.
    pub fn keep<T: Any + Send>(&mut self, data: Box<T>) {
        *self.host.data() = Some(data);
    }

    /// Gives the connection a number, by which messages can leave it out.
    pub fn set_number(&mut self, number: u64) {
        self.host.set_number(number);
    }

    /// Has [`super::Rules::alarm`] called after this time, which must be short.
    pub fn set_alarm(&mut self, after: Duration) {
        self.host.set_alarm(after);
    }

    /// Whether the socket is encrypted. A proxy in between may decrypt it.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.host.is_encrypted()
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
    /// The number of the worker that has the connection.
    pub worker: usize,
    /// The settings.
    pub config: &'a Config,
    /// The applications that sign for their clients.
    pub apps: &'a Apps,
    /// Identifies this run of the node.
    pub incarnation: u64,
    /// The time of the last tick, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Since when the node is not connected to the other nodes, in milliseconds since the Unix epoch.
    pub degraded_since_unix_ms: Option<u64>,
}

/// The worker's side of a connection, as [`Client`] uses it.
pub trait Host {
    /// Executes a command as one of the connection's users.
    fn execute(&mut self, session: SessionNumber, command: Command<'_>) -> Outcome;
    /// Adds a user to the connection.
    fn identify(&mut self, user: &str) -> Option<SessionNumber>;
    /// Takes away the user that was added last, unless the user has joined a room.
    fn forget(&mut self, session: SessionNumber);
    /// Counts the work that a message causes, in bytes.
    fn charge(&mut self, work: usize);
    /// Has a new token verified. The result comes later, see [`super::Rules::renewed`].
    fn renew(&mut self, token: &str) -> Outcome;
    /// Checks that the user may have another connection.
    fn check_user(&self, user: &str) -> Result<(), &'static str>;
    /// The users that the connection watches.
    fn watched(&self) -> Vec<Arc<str>>;
    /// Whether the connection has joined or observes a room.
    fn has_rooms(&self) -> bool;
    /// Counts a message that is answered with an error.
    fn count_refusal(&mut self);
    /// Counts a handshake that is answered with a close frame.
    fn count_refused_handshake(&mut self);
    /// Ends the presence of the connection and gives the client a limited time to reply to the close frame.
    fn expect_close(&mut self);
    /// What the protocol keeps about the connection.
    fn data(&mut self) -> &mut Option<Box<dyn Any + Send>>;
    /// Gives the connection a number, by which messages can leave it out.
    fn set_number(&mut self, number: u64);
    /// Has [`super::Rules::alarm`] called after this time.
    fn set_alarm(&mut self, after: Duration);
    /// Whether the socket is encrypted.
    fn is_encrypted(&self) -> bool;
    /// The name of the connection.
    fn name(&self) -> String;
    /// What the protocol may know about the server.
    fn server(&self) -> ServerInfo<'_>;
}
