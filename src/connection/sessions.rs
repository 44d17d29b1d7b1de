//! The sessions of a connection: one per user, numbered in the order in which they were added.

use std::sync::Arc;

use super::Connection;
use crate::presence::Session;
use crate::protocol::SessionNumber;

impl Connection {
    /// The first session; `None` while the user is not known, and for anonymous observers.
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }

    /// The session with this number.
    pub fn session_at(&self, number: SessionNumber) -> Option<&Arc<Session>> {
        match number.index() {
            0 => self.session.as_ref(),
            index => self.extra.as_ref()?.sessions.get(index - 1),
        }
    }

    /// The number of the session of this user, if the connection has one.
    pub fn session_of(&self, user: &str) -> Option<SessionNumber> {
        let at = self.sessions().position(|session| **session.user() == *user)?;
        SessionNumber::new(at)
    }

    /// Adds a session, one per distinct user. `None` if the connection has the maximum number of sessions already.
    pub fn add_session(&mut self, session: Arc<Session>) -> Option<SessionNumber> {
        let number = SessionNumber::new(self.sessions().count())?;
        match self.session {
            None => self.session = Some(session),
            Some(_) => self.extra.get_or_insert_default().sessions.push(session),
        }
        Some(number)
    }

    /// Takes the session with this number, if it is the last one.
    pub fn remove_last_session(&mut self, number: SessionNumber) -> Option<Arc<Session>> {
        match number.index() {
            index if index + 1 != self.sessions().count() => None,
            0 => self.session.take(),
            _ => self.extra.as_mut()?.sessions.pop(),
        }
    }

    /// All its sessions, in the order of their numbers.
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.session.iter().chain(self.extra.iter().flat_map(|extra| &extra.sessions))
    }
}
