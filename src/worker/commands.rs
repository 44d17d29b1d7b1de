//! What a client asks for is done.

use std::borrow::Cow;
use std::rc::Rc;

use bytes::BytesMut;

use super::{MAX_ROOMS_PER_CONNECTION, Upgrade, Worker};
use crate::connection::{Connection, Subscription};
use crate::fanout::MAX_WATCHED_PER_CONNECTION;
use crate::os::unix_ms;
use crate::presence::Audience;
use crate::protocol::native::{self, Refusal, Welcome};
use crate::protocol::{Command, Protocol, Resume, online_status as status, online_users};

/// Somebody says more than is passed on.
const RATE_LIMITED: &str =
    "slow down: at most 10 messages a second of a connection, and 32 KiB a tick in a room, are passed on";

impl Worker {
    /// Says the first words of a protocol, and joins what the upgrade asked for.
    pub(super) fn greet(self: &Rc<Self>, connection: &Rc<Connection>, upgrade: &Upgrade, answers: &mut BytesMut) {
        let user = upgrade.user.as_deref().unwrap_or_default();
        match upgrade.protocol {
            Protocol::Native => {
                let config = &self.node.config;
                let name = format!("{}-{:x}", self.number, connection.id.serial);
                let ttl_ms = config.presence.ttl.as_millis() as u64;
                let welcome = Welcome {
                    user,
                    connection: &name,
                    node: &self.node.id,
                    ttl_ms,
                    heartbeat_ms: ttl_ms / 2,
                    tick_ms: config.presence.tick.as_millis() as u64,
                };
                native::put_welcome(answers, &welcome);
                if let Some(since) = self.node.store.degraded_since() {
                    native::put_health(answers, Some(since));
                }
                for room in &upgrade.rooms {
                    let join = Command::Join { room, state: None, audience: Some(Audience::Members), resume: None };
                    self.execute(connection, join, answers);
                }
            }
            Protocol::OnlineUsers => self.execute(connection, Command::join_lobby(Audience::Names), answers),
            Protocol::Status => {
                status::put_established(answers, user, unix_ms());
                self.execute(connection, Command::join_lobby(Audience::Events), answers);
            }
            Protocol::Chat => {} // The first word is the client's.
            #[cfg(feature = "echo")]
            Protocol::Echo => {}
        }
    }

    /// Does what a client asks for.
    pub(super) fn execute(self: &Rc<Self>, connection: &Rc<Connection>, command: Command<'_>, answers: &mut BytesMut) {
        let registry = &self.node.registry;
        let now = self.node.now();
        let Some(session) = connection.session.get() else { return };
        let done = match command {
            Command::Heartbeat { ack } => {
                self.counters.heartbeats.add(1);
                if !self.any_counts(connection.protocol) {
                    registry.renew(session, now);
                }
                match connection.protocol {
                    Protocol::OnlineUsers => answers.extend_from_slice(online_users::HEARTBEAT_ACK),
                    _ if ack => native::put_heartbeat_ack(answers, unix_ms()),
                    _ => {}
                }
                Ok(())
            }
            Command::Join { room, state, audience, resume } => self.room_for(connection, room).map(|()| {
                let room = registry.join(session, room, state, now);
                self.fanout.borrow_mut().joined(connection, &room);
                match audience {
                    Some(audience) => self.observe(connection, room.name(), audience, resume),
                    // It may have looked before.
                    None => drop(self.fanout.borrow_mut().unobserve(self, connection, room.name())),
                }
            }),
            Command::Leave { room } => {
                let left = registry.leave(session, room);
                if left {
                    self.fanout.borrow_mut().left(self, connection, room);
                }
                joined(left, room)
            }
            Command::SetState { room, state } => joined(registry.set_state(session, room, state, now), room),
            Command::Observe { room, audience, resume } => {
                self.room_for(connection, room).map(|()| self.observe(connection, room, audience, resume))
            }
            Command::Unobserve { room } => observed(self.fanout.borrow_mut().unobserve(self, connection, room), room),
            Command::Resync { room } => observed(self.fanout.borrow_mut().resync(self, connection, room), room),
            Command::Watch { users } => watched(self.fanout.borrow_mut().watch(self, connection, &users)),
            Command::Unwatch { users } => {
                self.fanout.borrow_mut().unwatch(self, connection, &users);
                Ok(())
            }
            Command::Say { room, data } => joined(is_member(connection, room), room)
                .and_then(|()| ensure(self.publish(connection, session, room, data), "rate_limited", || RATE_LIMITED)),
        };
        if let Err(refusal) = done {
            self.refuse(&refusal, answers);
        }
    }

    fn observe(&self, connection: &Rc<Connection>, room: &str, audience: Audience, resume: Option<Resume<'_>>) {
        self.fanout.borrow_mut().observe(self, connection, room, audience, resume);
    }

    pub(super) fn refuse(&self, refusal: &Refusal, answers: &mut BytesMut) {
        self.counters.messages_refused.add(1);
        native::put_error(answers, refusal);
    }

    /// Whether the connection may have one more room, or has this one already.
    fn room_for(&self, connection: &Connection, room: &str) -> Result<(), Refusal> {
        let known = |subscription: &Subscription| subscription.room.is_named(room);
        let fits =
            connection.with_subscriptions(|rooms| rooms.len() < MAX_ROOMS_PER_CONNECTION || rooms.iter().any(known));
        ensure(fits, "forbidden", || {
            format!("a connection has at most {MAX_ROOMS_PER_CONNECTION} rooms: leave one first")
        })
    }
}

fn is_member(connection: &Connection, room: &str) -> bool {
    let joined = |subscription: &Subscription| subscription.joined && subscription.room.is_named(room);
    connection.with_subscriptions(|rooms| rooms.iter().any(joined))
}

fn joined(done: bool, room: &str) -> Result<(), Refusal> {
    ensure(done, "not_joined", || format!("you have not joined `{room}`"))
}

fn observed(done: bool, room: &str) -> Result<(), Refusal> {
    ensure(done, "not_joined", || format!("you do not observe `{room}`"))
}

fn watched(done: bool) -> Result<(), Refusal> {
    ensure(done, "forbidden", || {
        format!(
            "a connection watches at most {MAX_WATCHED_PER_CONNECTION} users, and all together a million: unwatch some first"
        )
    })
}

/// Refuses what was not done.
fn ensure<M: Into<Cow<'static, str>>>(
    done: bool,
    code: &'static str,
    message: impl FnOnce() -> M,
) -> Result<(), Refusal> {
    if done { Ok(()) } else { Err(Refusal::new(code, message())) }
}
