//! What the clients of a worker hold of what is limited: sockets, connections, rooms and states.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, TcpStream};

use foldhash::fast::RandomState;

use super::Worker;
use crate::connection::{Connection, ConnectionId};
use crate::log_limit::{self, LogLimit};
use crate::peer::{BehindProxy, PeerAddress};
use crate::presence::{Registry, Room, State};
use crate::protocol::{Outcome, Refused};
use crate::quota::{Exceeded, Owner, Quota, SocketPermit};

/// Reasons of close frames.
const TOO_MANY_OF_ADDRESS: &str = "too many connections from this address (--connections-per-address); try again later";
const TOO_MANY_OF_USER: &str = "too many connections of this user (--connections-per-user); try again later";
const ONLY_SHARES: &str = "the server is nearly full, and this user or address has its share; try again later";
const TOO_FAST: &str = "too many new connections from this address (--arrivals-per-address); try again later";

/// The answers to sockets that are refused, complete: making them costs nothing.
const TOO_MANY_UNPROVEN: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n\
    Content-Length: 150\r\nRetry-After: 10\r\nConnection: close\r\n\r\n\
    {\"error\":{\"code\":\"too_many_connections\",\"message\":\"this address has too many connections without a complete \
    request (--unauthenticated-per-address)\"}}";
const TOO_MANY_ARRIVALS: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n\
    Content-Length: 121\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
    {\"error\":{\"code\":\"too_many_connections\",\"message\":\"too many new connections from this address \
    (--arrivals-per-address)\"}}";

/// The permits of sockets that are no WebSockets yet, by serial number. Clients on this machine have none.
#[derive(Debug, Default)]
pub(super) struct Permits(HashMap<u32, SocketPermit, RandomState>);

impl Permits {
    pub(super) fn add(&mut self, connection: ConnectionId, permit: Option<SocketPermit>) {
        self.0.extend(permit.map(|permit| (connection.serial, permit)));
    }

    pub(super) fn take(&mut self, connection: ConnectionId) -> Option<SocketPermit> {
        if self.0.is_empty() { None } else { self.0.remove(&connection.serial) }
    }
}

impl Worker {
    /// Counts a new socket. `None` if its address has reached a limit: it was answered then, unless its address
    /// has been often, and is to be closed.
    /// Programs on this machine have no limits, and trusted proxies have none for sockets: those are of many clients.
    pub(super) fn admit_socket(&mut self, stream: &TcpStream, peer: Option<IpAddr>) -> Option<Option<SocketPermit>> {
        let node = &self.node;
        let Some(peer) = peer.filter(|peer| !node.config.entry.trusts(*peer)) else { return Some(None) };
        let Some(address) = PeerAddress::limited(peer) else { return Some(None) };
        match self.admit_address(address) {
            Ok(permit) => Some(Some(permit)),
            Err(answer) => {
                // One attempt: a client that is refused is not waited for.
                let _ = answer.map(|answer| (&*stream).write(answer));
                None
            }
        }
    }

    /// Counts a new socket of an address that has limits.
    ///
    /// # Errors
    /// The answer to a client whose address has reached a limit. There is none with TLS: a handshake only to say so
    /// would cost more than anything that the limits save. There is none if the address is refused all the time.
    pub(super) fn admit_address(&mut self, address: PeerAddress) -> Result<SocketPermit, Option<&'static [u8]>> {
        let node = &self.node;
        if self.is_arriving_too_fast(address) {
            static LIMIT: LogLimit = LogLimit::new();
            self.counters.arrivals_refused.add(1);
            return Err(self.refusal(address, TOO_MANY_ARRIVALS, &LIMIT, "--arrivals-per-address"));
        }
        let owner = |quota: &Quota| quota.owner(None::<&str>, Some(address));
        let (unproven, plain) = (owner(&node.unproven_sockets), owner(&node.plain_sockets));
        if node.unproven_sockets.check(&unproven, 1).is_err() || node.plain_sockets.check(&plain, 1).is_err() {
            static LIMIT: LogLimit = LogLimit::new();
            self.counters.sockets_over_quota.add(1);
            return Err(self.refusal(address, TOO_MANY_UNPROVEN, &LIMIT, "--unauthenticated-per-address"));
        }
        let unproven = Some(node.unproven_sockets.hold(unproven, 1));
        Ok(SocketPermit { unproven, plain: node.plain_sockets.hold(plain, 1) })
    }

    /// Logs that a socket is refused. Returns what it is answered, if anything.
    fn refusal(
        &mut self,
        address: PeerAddress,
        answer: &'static [u8],
        limit: &LogLimit,
        why: &str,
    ) -> Option<&'static [u8]> {
        let now = self.node.now();
        log_limit::refused(limit, now.unix_ms, why, Some(address));
        let is_told = self.node.config.tls.is_none() && self.refusal_answers.may_answer(address, now.unix_ms / 1000);
        is_told.then_some(answer)
    }

    /// Counts an arrival from an address. True if it has too many, and this one does not count.
    fn is_arriving_too_fast(&self, address: PeerAddress) -> bool {
        let Some(arrivals) = &self.node.arrivals else { return false };
        let now = self.node.engine_ms(self.node.now().tick);
        // One that is refused does not count: who goes on trying gets in at the rate.
        let is_over = arrivals.is_spent(&address, now);
        if !is_over {
            arrivals.spend(&address, 1, now);
        }
        is_over
    }

    /// Counts a connection that was opened.
    ///
    /// # Errors
    /// Why it has to be refused. It counts until it ends all the same.
    pub(super) fn count_opened(
        &mut self,
        id: ConnectionId,
        behind_proxy: Option<BehindProxy>,
    ) -> Result<(), &'static str> {
        self.permits.take(id);
        self.named_clients.take(id);
        let quota = &self.node.held_connections;
        let owner = quota.owner(None::<&str>, self.addresses.kept(id));
        let checked = quota.check(&owner, 1);
        quota.add(&owner, 1);
        let reason = match checked {
            Err(Exceeded::Address) => TOO_MANY_OF_ADDRESS,
            Err(Exceeded::Share) => ONLY_SHARES,
            _ if behind_proxy.is_some_and(|client| !client.is_counted && self.is_arriving_too_fast(client.address)) => {
                TOO_FAST
            }
            _ => return Ok(()),
        };
        self.counters.connections_over_quota.add(1);
        Err(reason)
    }

    /// Checks that a user may have another connection.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_user(&self, id: ConnectionId, user: &str) -> Result<(), &'static str> {
        let quota = &self.node.held_connections;
        let reason = match quota.check(&self.user_of(quota, id, user), 1) {
            Err(Exceeded::User) => TOO_MANY_OF_USER,
            Err(Exceeded::Share) => ONLY_SHARES,
            _ => return Ok(()),
        };
        self.counters.connections_over_quota.add(1);
        Err(reason)
    }

    /// Counts a user of a connection.
    pub(super) fn count_user(&self, id: ConnectionId, user: &str) {
        let quota = &self.node.held_connections;
        quota.assign(&self.user_of(quota, id, user), 1);
    }

    /// The connection has this user no longer.
    pub(super) fn uncount_user(&self, id: ConnectionId, user: &str) {
        let quota = &self.node.held_connections;
        quota.unassign(&self.user_of(quota, id, user), 1);
    }

    /// A connection has ended.
    pub(super) fn count_closed(&self, connection: &Connection) {
        let quota = &self.node.held_connections;
        quota.subtract(&quota.owner(None::<&str>, self.addresses.kept(connection.id)), 1);
        for session in connection.sessions() {
            quota.unassign(&self.user_of(quota, connection.id, session.user()), 1);
        }
    }

    /// A user without the address.
    fn user_of(&self, quota: &Quota, id: ConnectionId, user: &str) -> Owner {
        quota.owner(Some(&self.user_key(user, self.addresses.kept(id))), None)
    }

    /// How a quota counts a user. If clients claim their user ids, users of different addresses are different, so that
    /// nobody uses up what is another's.
    fn user_key<'a>(&self, user: &'a str, address: Option<PeerAddress>) -> (&'a str, Option<PeerAddress>) {
        let claimed_at = if self.node.auth.authenticator.is_none() { address } else { None };
        (user, claimed_at)
    }

    /// Whether a connection is of an address that has limits, and its user and address, as a quota counts them.
    fn owner(&mut self, quota: impl FnOnce(&Registry) -> &Quota, connection: &Connection) -> (bool, Owner) {
        let address = self.addresses.of(connection);
        let user = connection.session().map(|session| self.user_key(session.user(), address));
        (address.is_some(), quota(&self.node.registry).owner(user.as_ref(), address))
    }

    /// Checks that the client may open a room of this name, unless the room exists.
    pub(super) fn check_new_room(&mut self, connection: &Connection, room: &str) -> Outcome {
        if !self.node.registry.is_scarce(room) {
            return Ok(());
        }
        let (_, owner) = self.owner(Registry::room_quota, connection);
        self.node.registry.room_quota().check(&owner, 1).map_err(|_| {
            self.counters.rooms_refused.add(1);
            Refused::TooManyRoomsInAll
        })
    }

    /// Records that a client opened a room, if the room is as new as that. Rooms of clients on this machine are only
    /// recorded while there are many: that takes memory.
    pub(super) fn note_new_room(&mut self, connection: &Connection, room: &Room, next_room_id: u64) {
        if room.id() < next_room_id {
            return;
        }
        let (has_limits, owner) = self.owner(Registry::room_quota, connection);
        let quota = self.node.registry.room_quota();
        if has_limits || quota.used() > quota.total() / 2 {
            self.node.registry.own_room(room, owner);
        }
    }

    /// Counts a state that a client sets.
    pub(super) fn hold_state(&mut self, connection: &Connection, state: State) -> Result<State, Refused> {
        let units = State::units(state.bytes());
        if units == 0 {
            return Ok(state);
        }
        let (_, owner) = self.owner(|registry| registry.states(), connection);
        let quota = self.node.registry.states();
        if quota.check(&owner, units.into()).is_err() {
            self.counters.states_refused.add(1);
            return Err(Refused::TooMuchState);
        }
        Ok(state.held(quota.hold(owner, units)))
    }
}
