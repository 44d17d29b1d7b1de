//! Sessions of users who are online through REST heartbeats: one per user, found by user id at the next heartbeat.
//!
//! A heartbeat is a request that anyone can send for any user id, so the users are limited: all together, and per
//! address that heartbeats come from.

use std::sync::Arc;

use dashmap::DashMap;
use foldhash::quality::RandomState;

use super::{Credential, Session};
use crate::peer::PeerAddress;
use crate::quota::{Exceeded, Owner, Quota};

/// Users who can be online through REST heartbeats: bounds the memory that a flood of invented user ids takes for one
/// lease.
pub(super) const MAX_REST_SESSIONS: usize = 1_000_000;

/// The address that a heartbeat comes from, and how many users may be online through it.
#[derive(Debug, Clone, Copy)]
pub struct RestOrigin {
    /// The address.
    pub address: PeerAddress,
    /// The limit of its users.
    pub limit: u32,
}

/// Why a REST heartbeat does not bring a user online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestRefused {
    /// All addresses together have this many users, which is the limit.
    Full(usize),
    /// The address has this many users, which is its limit.
    AddressFull(u32),
}

/// The sessions, by user.
#[derive(Debug)]
pub(super) struct RestSessions {
    sessions: DashMap<Arc<str>, RestSession, RandomState>,
    /// Counts the entries in `sessions`, in all and per address.
    quota: Quota,
}

/// A session, and where its address is counted.
#[derive(Debug)]
pub(super) struct RestSession {
    pub(super) session: Arc<Session>,
    owner: Owner,
    /// The credential of the last heartbeat that had one.
    credential: Option<Credential>,
}

impl RestSessions {
    pub(super) fn new() -> Self {
        Self { sessions: super::sharded(), quota: Quota::new(MAX_REST_SESSIONS as u64, u64::MAX, u64::MAX) }
    }

    pub(super) fn get(&self, user: &str) -> Option<Arc<Session>> {
        self.sessions.get(user).map(|known| Arc::clone(&known.session))
    }

    /// Whether one more user may come online from this address; `None` if its users are not limited.
    pub(super) fn admit(&self, origin: Option<RestOrigin>) -> Result<(), RestRefused> {
        let limit = origin.map_or(u32::MAX, |origin| origin.limit);
        self.quota.check_with(&self.owner(origin), 1, limit.into()).map_err(|exceeded| match exceeded {
            Exceeded::Address => RestRefused::AddressFull(limit),
            Exceeded::Total | Exceeded::Share | Exceeded::User => RestRefused::Full(MAX_REST_SESSIONS),
        })
    }

    fn owner(&self, origin: Option<RestOrigin>) -> Owner {
        self.quota.owner(None::<&str>, origin.map(|origin| origin.address))
    }

    /// Adds a session. Returns the session that it replaces.
    pub(super) fn insert(&self, session: Arc<Session>, origin: Option<RestOrigin>) -> Option<Arc<Session>> {
        let owner = self.owner(origin);
        self.quota.add(&owner, 1);
        let user = Arc::clone(session.user());
        let replaced = self.sessions.insert(user, RestSession { session, owner, credential: None });
        self.removed(replaced)
    }

    /// Removes a session that has ended.
    pub(super) fn remove(&self, session: &Arc<Session>) {
        let removed = self.sessions.remove_if(session.user(), |_, known| Arc::ptr_eq(&known.session, session));
        self.removed(removed.map(|(_, known)| known));
    }

    pub(super) fn note_credential(&self, user: &str, credential: Credential) {
        if let Some(mut known) = self.sessions.get_mut(user) {
            known.credential = Some(credential);
        }
    }

    /// Removes and returns the sessions for which this holds, with their credentials: of this user, or of all.
    pub(super) fn take_if(
        &self,
        user: Option<&str>,
        holds: impl Fn(&str, &Session, Option<&Credential>) -> bool,
    ) -> Vec<Arc<Session>> {
        let ends = |user: &str, known: &RestSession| holds(user, &known.session, known.credential.as_ref());
        let users: Vec<Arc<str>> = match user {
            Some(user) => vec![user.into()],
            None => self
                .sessions
                .iter()
                .filter(|known| ends(known.key(), known))
                .map(|known| Arc::clone(known.key()))
                .collect(),
        };
        let take = |user: Arc<str>| {
            let removed = self.sessions.remove_if(&user, |user, known| ends(user, known));
            self.removed(removed.map(|(_, known)| known))
        };
        users.into_iter().filter_map(take).collect()
    }

    fn removed(&self, removed: Option<RestSession>) -> Option<Arc<Session>> {
        let RestSession { session, owner, .. } = removed?;
        self.quota.subtract(&owner, 1);
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn origin(number: u32, limit: u32) -> Option<RestOrigin> {
        let address = PeerAddress::of(IpAddr::V4(Ipv4Addr::from_bits(number)));
        Some(RestOrigin { address, limit })
    }

    fn session(user: &str) -> Arc<Session> {
        Arc::new(Session::new(user.into(), 0))
    }

    #[test]
    fn an_address_has_room_again_when_its_sessions_end() {
        let sessions = RestSessions::new();
        let of_one = |user: &str| sessions.insert(session(user), origin(1, 2));
        assert!(of_one("a").is_none() && of_one("b").is_none());
        assert_eq!(sessions.admit(origin(1, 2)), Err(RestRefused::AddressFull(2)));
        assert_eq!((sessions.admit(origin(2, 2)), sessions.admit(None)), (Ok(()), Ok(())));
        assert!(of_one("b").is_some(), "the same user again");
        sessions.insert(session("b"), None);
        assert_eq!(sessions.admit(origin(1, 2)), Ok(()), "the user counts for nobody now");
        sessions.remove(&session("a"));
        sessions.insert(session("c"), origin(1, 2));
        assert_eq!(sessions.admit(origin(1, 2)), Err(RestRefused::AddressFull(2)), "another session of a has ended");
        sessions.take_if(Some("a"), |_, _, _| true);
        sessions.remove(&sessions.get("c").unwrap());
        sessions.take_if(Some("b"), |_, _, _| true);
        assert_eq!(sessions.quota.used(), 0);
    }

    #[test]
    fn an_ipv6_site_has_eight_times_the_limit_of_its_networks() {
        let sessions = RestSessions::new();
        let mut admitted = 0;
        for network in 0..20 {
            let address = PeerAddress::of(format!("2001:db8:1:{network:x}::1").parse().unwrap());
            let origin = Some(RestOrigin { address, limit: 5 });
            for user in 0..10 {
                if sessions.admit(origin).is_ok() {
                    sessions.insert(session(&format!("{network}-{user}")), origin);
                    admitted += 1;
                }
            }
        }
        assert_eq!(admitted, 8 * 5);
    }

    #[test]
    fn full_addresses_leave_room_for_others() {
        let sessions = RestSessions::new();
        for address in 0..50 {
            (0..100)
                .for_each(|user| drop(sessions.insert(session(&format!("{address}-{user}")), origin(address, 100))));
            assert!(sessions.admit(origin(address, 100)).is_err());
        }
        let refused = (1000..2000).filter(|address| sessions.admit(origin(*address, 100)).is_err()).count();
        assert!(refused < 10, "{refused} of 1,000 other addresses share both counters with full ones");
    }
}
