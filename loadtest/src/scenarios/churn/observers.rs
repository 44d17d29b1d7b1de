//! The observers: passes their messages to their mirrors and counts them.

use std::time::Instant;

use super::permanent_members::PermanentMembers;
use crate::connection::{Client, Connection, Message};
use crate::disconnect::Disconnect;
use crate::error_log::ErrorLog;
use crate::mirror::{self, JoinTimes, Mirrors};
use crate::protocol::{ClientProtocol, message_kind};
use crate::schedule::nanos;

/// Counts of deliveries, in total or in one phase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DeliveryCounts {
    /// Presence messages that observers received; all clients where the server sends them to every connection.
    pub(crate) count: u64,
    /// Payload bytes of these messages.
    pub(crate) bytes: u64,
    /// Joins, leaves and state changes in the messages of observers.
    pub(crate) changes: u64,
    /// Payload bytes of the observers' messages only.
    pub(crate) observer_bytes: u64,
}

pub(crate) struct Observers {
    protocol: ClientProtocol,
    /// Clients with a lower index are observers.
    observer_count: usize,
    pub(crate) mirrors: Mirrors,
    /// Only in `soak`. They receive their welcome here when they reconnect.
    pub(crate) permanent_members: Option<PermanentMembers>,
    pub(crate) join_times: JoinTimes,
    /// The start of the schedule.
    pub(crate) started: Instant,
    pub(crate) deliveries: DeliveryCounts,
    pub(crate) lost: ErrorLog,
    /// Error messages of the server.
    pub(crate) refusals: ErrorLog,
}

impl Observers {
    pub(crate) fn new(protocol: ClientProtocol, observer_count: usize, initial_members: usize) -> Self {
        Self {
            protocol,
            observer_count,
            mirrors: Mirrors::new(protocol, observer_count, initial_members),
            permanent_members: None,
            join_times: JoinTimes::new(),
            started: Instant::now(),
            deliveries: DeliveryCounts::default(),
            lost: ErrorLog::default(),
            refusals: ErrorLog::default(),
        }
    }

    /// Handles a message that no mirror handled.
    fn other_message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        let index = connection.index();
        match message_kind(message.payload) {
            Some("error") => {
                let text = String::from_utf8_lossy(message.payload);
                self.refusals.add(format!("{}: {text}", self.protocol.user(index)));
            }
            Some("welcome") => {
                if let Some(permanent_members) = &mut self.permanent_members {
                    permanent_members.welcomed(connection);
                }
            }
            // Where a connected user is present, members receive presence messages too, although they have no mirrors.
            Some(kind) if kind == "online_users" || mirror::is_event(kind) => {
                self.deliveries.count += 1;
                self.deliveries.bytes += message.payload.len() as u64;
            }
            _ => {}
        }
    }
}

impl Client for Observers {
    /// A member connects, in protocols where connecting is joining.
    fn opened(&mut self, connection: &mut Connection) {
        if let Some(frame) = self.protocol.on_open(connection.index()).send {
            connection.send(&frame);
        }
    }

    fn message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        let index = connection.index();
        if index < self.observer_count {
            let now_ns = nanos(self.started.elapsed());
            if let Some(delivery) = self.mirrors.apply(index, message, &mut self.join_times, now_ns) {
                let bytes = message.payload.len() as u64;
                self.deliveries.count += 1;
                self.deliveries.bytes += bytes;
                self.deliveries.observer_bytes += bytes;
                self.deliveries.changes += u64::from(delivery.changes);
                return;
            }
        }
        self.other_message(connection, message);
    }

    fn closed(&mut self, index: usize, disconnect: Disconnect) {
        if index < self.observer_count {
            self.mirrors.closed(index);
        }
        self.lost.add(format!("{}: {disconnect}", self.protocol.user(index)));
    }
}

impl DeliveryCounts {
    pub(crate) fn since(self, start: Self) -> Self {
        Self {
            count: self.count - start.count,
            bytes: self.bytes - start.bytes,
            changes: self.changes - start.changes,
            observer_bytes: self.observer_bytes - start.observer_bytes,
        }
    }
}
