//! Users who are to go at once: which connections are theirs, and the end of these.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::{Ending, Worker};
use crate::connection::Connection;
use crate::presence::Reason;
use crate::presence::kick::Kick;
use crate::websocket::close;

/// Finds the connections of a user without looking at all of them. Filled only where users can be removed.
#[derive(Debug, Default)]
pub(super) struct Owners {
    hasher: RandomState,
    /// A hash of the user, and the connection's place in the slab: some 12 bytes a connection, where its name would be many more.
    places: BTreeSet<(u32, u32)>,
    /// The login of each connection that came with one.
    logins: HashMap<u32, u64, RandomState>,
}

impl Owners {
    fn add(&mut self, user: &str, index: u32, login: Option<u64>) {
        self.places.insert((self.hash(user), index));
        self.logins.extend(login.map(|login| (index, login)));
    }

    fn remove(&mut self, user: &str, index: u32) {
        self.places.remove(&(self.hash(user), index));
        self.logins.remove(&index);
    }

    /// Where connections of the user may be, those of this login if there is one: others may have the same hash.
    fn of(&self, user: &str, login: Option<u64>) -> Vec<u32> {
        let hash = self.hash(user);
        let places = self.places.range((hash, 0)..=(hash, u32::MAX)).map(|(_, index)| *index);
        places.filter(|index| login.is_none() || self.logins.get(index).copied() == login).collect()
    }

    fn hash(&self, user: &str) -> u32 {
        self.hasher.hash_one(user) as u32
    }
}

impl Worker {
    /// Notes whose connection this is.
    pub(super) fn note_owner(&self, connection: &Connection, user: &str, login: Option<u64>) {
        if self.node.config.kicks_users() {
            self.owners.borrow_mut().add(user, connection.id.index, login);
        }
    }

    /// A connection is gone.
    pub(super) fn forget_owner(&self, connection: &Connection) {
        if self.node.config.kicks_users() {
            let mut owners = self.owners.borrow_mut();
            connection.for_each_session(|session| owners.remove(session.user(), connection.id.index));
        }
    }

    /// Ends the presence of kicked users, and closes their connections.
    pub(super) fn kick(self: &Rc<Self>, kicks: &[Kick]) {
        for Kick { user, login, reason } in kicks {
            // A connection of this worker that is lost by now is in its grace; one that is not yet lost is found below.
            self.node.registry.end_grace_sessions(user, *reason);
            if login.is_none() {
                self.node.registry.end_rest_session(user, *reason);
            }
            let indexes = self.owners.borrow().of(user, *login);
            for index in indexes {
                let connection = self.connections.borrow().get(index as usize).map(Rc::clone);
                let is_its = |connection: &Rc<Connection>| connection.session_of(user).is_some();
                let Some(connection) = connection.filter(is_its) else { continue };
                let why = if *reason == Reason::Left { "signed out" } else { "removed" };
                self.release(&connection, Ending::Kicked(*reason));
                self.close(&connection, close::POLICY, why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_found_by_user_and_by_login() {
        let mut owners = Owners::default();
        owners.add("bob", 1, None);
        owners.add("bob", 2, Some(7));
        owners.add("bob", 3, Some(8));
        owners.add("carol", 4, Some(7));
        assert_eq!(owners.of("bob", None), [1, 2, 3]);
        assert_eq!(owners.of("bob", Some(7)), [2]);
        owners.remove("bob", 2);
        // The place is another's now.
        owners.add("carol", 2, None);
        assert_eq!((owners.of("bob", Some(7)), owners.of("bob", None)), (vec![], vec![1, 3]));
        owners.remove("bob", 1);
        owners.remove("bob", 3);
        owners.remove("carol", 4);
        owners.remove("carol", 2);
        assert!(owners.places.is_empty() && owners.logins.is_empty());
    }
}
