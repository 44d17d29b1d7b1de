//! What is kept about a connection: its socket id, its application, and as whom it is a member of which channel.

use crate::auth::{App, CountedConnection};
use crate::os::random;
use crate::protocol::{Client, SessionNumber};

use super::decode::MemberData;
use super::{DISABLED_APP, OVER_CAPACITY, TLS_ONLY, UNKNOWN_APP};

/// A connection of a client.
#[derive(Debug)]
pub(super) struct Socket {
    /// `NODE.NUMBER`, as signatures and the HTTP API name it.
    pub(super) id: Box<str>,
    /// The second part of the id. It is random, because a signature holds for whatever connection has its id.
    pub(super) number: u64,
    /// The number of the application.
    pub(super) app: u64,
    /// Whether the application has signed anything for it.
    pub(super) is_authorized: bool,
    /// The user who has signed in.
    pub(super) signed_in: Option<Box<MemberData>>,
    /// The presence channels that it has joined.
    pub(super) members: Vec<Member>,
    /// Counts it and what its client does.
    pub(super) counted: CountedConnection,
}

/// A presence channel that a connection has joined.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) channel: Box<str>,
    /// The JSON of the user id.
    pub(super) user_id: Box<str>,
    pub(super) session: SessionNumber,
}

impl Socket {
    /// A connection of the application that has this key.
    ///
    /// # Errors
    /// The code and the reason of a close frame.
    pub(super) fn open(client: &Client<'_>, key: &str, is_encrypted: bool) -> Result<Self, (u16, &'static str)> {
        let server = client.server();
        let app = server.apps.by_key(key).ok_or((UNKNOWN_APP, "no application has this key"))?;
        let counters = app.of_worker(server.worker);
        let counted = Self::admit(&app, server.worker, is_encrypted);
        let counted = counted.inspect_err(|_| counters.pusher_connections_refused.add(1))?;
        counters.pusher_connections_opened.add(1);
        let (node, number) = (server.incarnation as u32, random());
        let id = format!("{node}.{number}").into();
        let (signed_in, members) = (None, Vec::new());
        Ok(Self { id, number, app: app.id, is_authorized: false, signed_in, members, counted })
    }

    fn admit(app: &App, worker: usize, is_encrypted: bool) -> Result<CountedConnection, (u16, &'static str)> {
        if app.options.disabled {
            return Err((DISABLED_APP, "the application is disabled"));
        }
        if app.options.tls_only && !is_encrypted {
            return Err((TLS_ONLY, "the application requires TLS"));
        }
        let counted = app.count_connection(worker);
        counted.ok_or((OVER_CAPACITY, "the application has too many connections, try again later"))
    }

    /// Whether the application still serves its clients: it may be gone or disabled after a reload.
    ///
    /// # Errors
    /// The code and the reason of a close frame.
    pub(super) fn check_app(&self, client: &Client<'_>) -> Result<(), (u16, &'static str)> {
        match self.read_app(client, |app| app.options.disabled) {
            None => Err((UNKNOWN_APP, "the application does not exist any more")),
            Some(true) => Err((DISABLED_APP, "the application is disabled")),
            Some(false) => Ok(()),
        }
    }

    /// Calls `read` with the application, if that still exists.
    pub(super) fn read_app<T>(&self, client: &Client<'_>, read: impl FnOnce(&App) -> T) -> Option<T> {
        client.server().apps.read(self.app, read)
    }

    /// As whom the connection is a member of a channel.
    pub(super) fn member_of(&self, channel: &str) -> Option<&Member> {
        self.members.iter().find(|member| *member.channel == *channel)
    }
}
