//! The clients: reads their frames, keeps the mirrors, and subscribes those that should be members.

use std::collections::HashMap;
use std::time::Instant;

use super::mirror::Mirrors;
use crate::connection::{Client, Connection, Message};
use crate::disconnect::Disconnect;
use crate::error_log::ErrorLog;
use crate::latency::Latency;
use crate::mirror::JoinTimes;
use crate::protocol::ClientProtocol;
use crate::pusher::{self, Event};
use crate::schedule::nanos;

pub(crate) struct Members {
    pub(crate) protocol: ClientProtocol,
    pub(crate) mirrors: Mirrors,
    /// By client: the id of its connection, which signatures contain. Empty: it has none.
    pub(crate) socket_ids: Vec<String>,
    /// By client: whether it should be subscribed.
    pub(crate) is_member: Vec<bool>,
    /// All clients are ready; from now on this subscribes those that reconnect.
    pub(crate) has_started: bool,
    /// Clients that have no list yet after a reload, and when their reconnect was planned.
    pub(crate) reconnecting: HashMap<usize, Instant>,
    /// From the planned reconnect until the client has its list again.
    pub(crate) back: Latency,
    pub(crate) join_times: JoinTimes,
    /// The start of the schedule.
    pub(crate) started: Instant,
    /// Clients whose attempt to reconnect failed in this turn.
    pub(crate) failed: Vec<(usize, Disconnect)>,
    pub(crate) lost: ErrorLog,
    pub(crate) errors: ErrorLog,
    /// The frame that was read last. A server sends the same frame to all members of a channel.
    last: (Vec<u8>, Event),
}

impl Members {
    pub(crate) fn new(protocol: ClientProtocol, users: usize, members: usize) -> Self {
        Self {
            protocol,
            mirrors: Mirrors::new(users, protocol.rooms as usize),
            socket_ids: vec![String::new(); users],
            is_member: (0..users).map(|client| client < members).collect(),
            has_started: false,
            reconnecting: HashMap::new(),
            back: Latency::new(),
            join_times: JoinTimes::new(),
            started: Instant::now(),
            failed: Vec::new(),
            lost: ErrorLog::default(),
            errors: ErrorLog::default(),
            last: (Vec::new(), Event::Other),
        }
    }

    /// The frame that makes a client a member.
    pub(crate) fn subscribe(&self, client: usize) -> Vec<u8> {
        pusher::subscribe(&self.socket_ids[client], &self.protocol.room(client), &self.protocol.user(client))
    }

    fn read(&mut self, client: usize, message: &Message<'_>) -> Event {
        if self.last.0 == message.payload {
            return self.last.1.clone();
        }
        let event = match message.is_whole {
            true => pusher::event(message.payload),
            false => Err("a frame is too long".to_owned()),
        };
        let event = event.unwrap_or_else(|error| {
            self.errors.add(format!("{}: {error}", self.protocol.user(client)));
            Event::Other
        });
        self.last = (message.payload.to_vec(), event.clone());
        event
    }

    /// The user of an event. Users of other generators are ignored.
    fn user(&self, name: &str) -> Option<usize> {
        self.protocol.index_of(name).filter(|user| *user < self.is_member.len())
    }
}

impl Client for Members {
    fn message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        let client = connection.index();
        match self.read(client, message) {
            Event::Established { socket_id } => {
                self.socket_ids[client] = socket_id;
                if self.has_started && self.is_member[client] {
                    connection.send(&self.subscribe(client));
                }
            }
            // A visitor may have left before its list came.
            Event::Roster { users } if self.is_member[client] => {
                if let Some(planned) = self.reconnecting.remove(&client) {
                    self.back.record_ns(nanos(planned.elapsed()));
                }
                let users: Vec<usize> = users.iter().filter_map(|name| self.user(name)).collect();
                self.mirrors.roster(client, users.into_iter());
            }
            Event::Added { user } => {
                let Some(user) = self.user(&user) else { return };
                self.mirrors.added(client, user);
                if user != client {
                    let planned_ns = self.join_times.announced(Some(user));
                    self.join_times.record(&[planned_ns], nanos(self.started.elapsed()));
                }
            }
            Event::Removed { user } => {
                if let Some(user) = self.user(&user) {
                    self.mirrors.removed(client, user);
                }
            }
            Event::Error(error) => self.errors.add(format!("{}: {error}", self.protocol.user(client))),
            Event::Roster { .. } | Event::Other => {}
        }
    }

    fn closed(&mut self, index: usize, disconnect: Disconnect) {
        self.mirrors.disconnected(index);
        if self.reconnecting.contains_key(&index) {
            self.failed.push((index, disconnect));
            return;
        }
        self.lost.add(format!("{}: {disconnect}", self.protocol.user(index)));
    }
}
