//! Executes revocations: finds the connections whose credential is revoked and ends them.

use std::sync::Arc;

use super::{Ending, Worker};
use crate::auth::{Denied, Grant, Renewed};
use crate::connection::{Connection, ConnectionId};
use crate::presence::{Credential, Reason};
use crate::revocations::Target;
use crate::websocket::close;

/// The reason in the close frame.
pub(super) const REVOKED: &str = "revoked";

impl Worker {
    /// The credential of a connection; `None` if it has none.
    pub(super) fn credential(&self, connection: ConnectionId) -> Option<Credential> {
        Some(self.grants.get(connection)?.credential())
    }

    /// Whether the credential of a connection is revoked for any of its users.
    pub(super) fn is_revoked(&self, connection: &Connection) -> bool {
        let revocations = &self.node.auth.revocations;
        if revocations.is_empty() {
            return false;
        }
        let Some(credential) = self.credential(connection.id) else { return false };
        connection.sessions().any(|session| revocations.refuse(session.user(), &credential))
    }

    /// Refuses a new grant of a connection if it is revoked.
    pub(super) fn unless_revoked(&self, connection: &Connection, grant: Arc<Grant>) -> Renewed {
        let user = connection.session().map(|session| session.user());
        match user.is_some_and(|user| grant.is_revoked(user, &self.node.auth.revocations)) {
            true => Err(Denied::revoked()),
            false => Ok(grant),
        }
    }

    /// Ends a connection if its credential is revoked. Returns whether it is.
    pub(super) fn end_if_revoked(&mut self, connection: &mut Connection) -> bool {
        let is_revoked = self.is_revoked(connection);
        if is_revoked {
            self.release(connection, Ending::Revoked);
            self.close(connection, close::POLICY, REVOKED);
        }
        is_revoked
    }

    /// Ends the sessions that no connection has. Workers share them, so one of them is enough.
    pub(super) fn end_revoked_sessions(&self, revoked: &[Target]) {
        if self.number != 0 {
            return;
        }
        let (registry, revocations) = (&self.node.registry, &self.node.auth.revocations);
        let end =
            |user| registry.end_revoked(user, |user, credential| revocations.refuse(user, credential), Reason::Kicked);
        if revoked.iter().any(|target| !matches!(target, Target::User(_))) {
            return end(None);
        }
        for target in revoked {
            if let Target::User(user) = target {
                end(Some(user));
            }
        }
    }

    /// The slots of connections that may have one of the users; `None` if all must be looked at.
    pub(super) fn slots_of_revoked(&self, revoked: &[Target]) -> Option<Vec<u32>> {
        let user = |target: &Target| match target {
            Target::User(user) => Some(self.slots_of(user)),
            _ => None,
        };
        let slots: Option<Vec<_>> = revoked.iter().map(user).collect();
        slots.filter(|_| self.node.config.kicks_users()).map(|slots| slots.concat())
    }
}
