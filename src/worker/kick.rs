//! Executes kicks: finds the connections of a user and ends them.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use super::{Ending, Worker};
use crate::connection::Connection;
use crate::presence::Reason;
use crate::presence::kick::Kick;

/// Finds the connections of a user without a search through all connections. Empty if the settings allow no kicks.
#[derive(Debug, Default)]
pub(super) struct UserIndex {
    hasher: RandomState,
    /// Pairs of a hash of the user and the connection's slot in the slab: some 12 bytes per connection, much less than
    /// the user id.
    slots: BTreeSet<(u32, u32)>,
    /// The login of each connection that has one, by the slot of the connection.
    logins: HashMap<u32, u64, RandomState>,
}

impl UserIndex {
    fn add(&mut self, user: &str, slot: u32, login: Option<u64>) {
        self.slots.insert((self.hash(user), slot));
        self.logins.extend(login.map(|login| (slot, login)));
    }

    fn remove(&mut self, user: &str, slot: u32) {
        self.slots.remove(&(self.hash(user), slot));
        self.logins.remove(&slot);
    }

    /// The slots of the user's connections, only those with this login if it is given. The caller compares the user:
    /// other users may have the same hash.
    fn candidates(&self, user: &str, login: Option<u64>) -> Vec<u32> {
        let hash = self.hash(user);
        let slots = self.slots.range((hash, 0)..=(hash, u32::MAX)).map(|(_, slot)| *slot);
        slots.filter(|slot| login.is_none() || self.logins.get(slot).copied() == login).collect()
    }

    fn hash(&self, user: &str) -> u32 {
        self.hasher.hash_one(user) as u32
    }
}

impl Worker {
    /// Adds a user of a connection to the index.
    pub(super) fn index_user(&mut self, connection: &Connection, user: &str, login: Option<u64>) {
        if self.node.config.kicks_users() {
            self.user_index.add(user, connection.id.index, login);
        }
    }

    /// Removes one user of a connection from the index.
    pub(super) fn unindex_user(&mut self, connection: &Connection, user: &str) {
        if self.node.config.kicks_users() {
            self.user_index.remove(user, connection.id.index);
        }
    }

    /// Removes a connection from the index.
    pub(super) fn unindex_users(&mut self, connection: &Connection) {
        if self.node.config.kicks_users() {
            connection.sessions().for_each(|session| self.user_index.remove(session.user(), connection.id.index));
        }
    }

    /// Ends the presence of a kicked user that no connection has. Returns the slots of connections that may have the
    /// user.
    pub(super) fn start_kick(&self, kick: &Kick) -> Vec<u32> {
        // Lost connections have left their sessions in the grace period; open ones are found in the index.
        self.node.registry.end_kicked_sessions(kick, self.node.now());
        self.user_index.candidates(&kick.user, kick.login)
    }

    /// The slots of connections that may have this user, if the settings allow kicks.
    pub(super) fn slots_of(&self, user: &str) -> Vec<u32> {
        self.user_index.candidates(user, None)
    }

    /// Closes a connection if it has the kicked user. Its other users leave as if the connection was lost.
    pub(super) fn kick_connection(&mut self, connection: &mut Connection, kick: &Kick) {
        let session = connection.sessions().find(|session| **session.user() == *kick.user);
        // A login that has ended stays ended: all its connections are closed, whenever they began.
        if session.is_some_and(|session| kick.login.is_some() || kick.ends(session, self.node.now().unix_ms)) {
            self.release(connection, Ending::Kicked(kick));
            self.close_kicked(connection, kick);
        }
    }

    /// Tells a client why it is disconnected.
    pub(super) fn close_kicked(&mut self, connection: &mut Connection, kick: &Kick) {
        let reason = if kick.reason == Reason::Left { "signed out" } else { "removed" };
        self.close(connection, connection.protocol.rules().close_codes.removed, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_found_by_user_and_by_login() {
        let mut index = UserIndex::default();
        index.add("bob", 1, None);
        index.add("bob", 2, Some(7));
        index.add("bob", 3, Some(8));
        index.add("carol", 4, Some(7));
        assert_eq!(index.candidates("bob", None), [1, 2, 3]);
        assert_eq!(index.candidates("bob", Some(7)), [2]);
        index.remove("bob", 2);
        // A connection of another user reuses the slot.
        index.add("carol", 2, None);
        assert_eq!((index.candidates("bob", Some(7)), index.candidates("bob", None)), (vec![], vec![1, 3]));
        index.remove("bob", 1);
        index.remove("bob", 3);
        index.remove("carol", 4);
        index.remove("carol", 2);
        assert!(index.slots.is_empty() && index.logins.is_empty());
    }
}
