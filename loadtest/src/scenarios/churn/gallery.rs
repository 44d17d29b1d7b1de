//! The observers: what they are told goes to their mirrors and is counted.

use std::time::Instant;

use crate::connection::{Connection, Message};
use crate::crowd::Losses;
use crate::engine::Client;
use crate::loss::Loss;
use crate::mirror::{self, Arrivals, Complaints, Mirrors};
use crate::protocol::{Dialect, message_kind};
use crate::scenarios::churn::residents::Residents;

/// Deliveries so far, or in one phase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deliveries {
    /// Presence messages that observers (where everybody is told, all clients) have read.
    pub(crate) count: u64,
    /// Their payloads.
    pub(crate) bytes: u64,
    /// Joins, leaves and state changes in those of the observers.
    pub(crate) changes: u64,
    /// Payload bytes of the observers alone.
    pub(crate) observed_bytes: u64,
}

pub(crate) struct Gallery {
    dialect: Dialect,
    /// Client indexes below are observers.
    observers: usize,
    pub(crate) mirrors: Mirrors,
    /// Those who may be cut off and welcomed again (`soak`).
    pub(crate) residents: Option<Residents>,
    pub(crate) arrivals: Arrivals,
    /// The start of the schedule.
    pub(crate) started: Instant,
    pub(crate) deliveries: Deliveries,
    pub(crate) losses: Losses,
    /// Messages in which the server said that it would not do something.
    pub(crate) refusals: Complaints,
}

impl Gallery {
    pub(crate) fn new(dialect: Dialect, observers: usize, insiders: usize) -> Self {
        Self {
            dialect,
            observers,
            mirrors: Mirrors::new(dialect, observers, insiders),
            residents: None,
            arrivals: Arrivals::new(),
            started: Instant::now(),
            deliveries: Deliveries::default(),
            losses: Losses::default(),
            refusals: Complaints::default(),
        }
    }

    fn overheard(&mut self, connection: &mut Connection, message: &Message<'_>) {
        let index = connection.index();
        match message_kind(message.payload) {
            Some("error") => {
                let text = String::from_utf8_lossy(message.payload);
                self.refusals.add(format!("{}: {text}", self.dialect.user(index)));
            }
            Some("welcome") => {
                if let Some(residents) = &mut self.residents {
                    residents.welcomed(connection);
                }
            }
            // Where to be connected is to be present all are told, also those whose mirrors are not kept.
            Some(kind) if kind == "online_users" || mirror::is_event(kind) => {
                self.deliveries.count += 1;
                self.deliveries.bytes += message.payload.len() as u64;
            }
            _ => {}
        }
    }
}

impl Client for Gallery {
    /// Somebody comes, where coming is connecting.
    fn opened(&mut self, connection: &mut Connection) {
        if let Some(frame) = self.dialect.on_open(connection.index()).send {
            connection.push(&frame);
        }
    }

    fn message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        let index = connection.index();
        if index < self.observers {
            // A clock far from its start is 584 years off before it does not fit.
            let now_ns = self.started.elapsed().as_nanos() as u64;
            if let Some(seen) = self.mirrors.take(index, message, &mut self.arrivals, now_ns) {
                let bytes = message.payload.len() as u64;
                self.deliveries.count += 1;
                self.deliveries.bytes += bytes;
                self.deliveries.observed_bytes += bytes;
                self.deliveries.changes += u64::from(seen.changes);
                return;
            }
        }
        self.overheard(connection, message);
    }

    fn closed(&mut self, index: usize, loss: Loss) {
        if index < self.observers {
            self.mirrors.closed(index);
        }
        self.losses.add(&self.dialect.user(index), &loss);
    }
}

impl Deliveries {
    pub(crate) fn since(self, start: Self) -> Self {
        Self {
            count: self.count - start.count,
            bytes: self.bytes - start.bytes,
            changes: self.changes - start.changes,
            observed_bytes: self.observed_bytes - start.observed_bytes,
        }
    }
}
