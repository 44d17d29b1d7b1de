//! The keys of users in one lane: which are to be written, and when those that were written are to be written again.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::command::Command;
use super::schema::Schema;
use crate::presence::{Registry, Tick, Wheel};

/// How far ahead the wheel of leases looks; later ones are looked at early and put back.
const WHEEL_TICKS: Tick = 600;

/// Keys that this node keeps.
#[derive(Debug)]
pub(super) struct Keys {
    schema: Arc<Schema>,
    /// Users whose keys are to be written, or deleted if this node does not hold them any more, and since when.
    dirty: HashMap<Arc<str>, Tick, RandomState>,
    leases: HashMap<Arc<str>, Lease, RandomState>,
    wheel: Wheel<(Arc<str>, Tick)>,
    /// The last tick that was heard of.
    now: Tick,
    ticks_per_ttl: Tick,
    /// A key is renewed after so many ticks, and up to so many more.
    renew_after: Tick,
    renew_spread: Tick,
    /// For spreading renewals: any numbers will do.
    random: u64,
}

/// When a key is to be renewed.
#[derive(Debug, Clone, Copy)]
struct Lease {
    due: Tick,
    /// Where it stands in the wheel; another entry there is a left-over.
    slot: Tick,
}

impl Keys {
    pub(super) fn new(schema: Arc<Schema>, ticks_per_ttl: Tick, seed: u64) -> Self {
        Self {
            schema,
            dirty: HashMap::default(),
            leases: HashMap::default(),
            wheel: Wheel::new(WHEEL_TICKS.min(ticks_per_ttl) + 1),
            now: 0,
            ticks_per_ttl,
            renew_after: (ticks_per_ttl / 2).max(1),
            renew_spread: (ticks_per_ttl / 10).max(1),
            random: seed | 1,
        }
    }

    /// Keys that are to be written.
    pub(super) fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Whether Redis may have a key of this user from here.
    pub(super) fn has(&self, user: &str) -> bool {
        self.leases.contains_key(user)
    }

    pub(super) fn mark(&mut self, user: &Arc<str>) {
        self.dirty.insert(Arc::clone(user), self.now);
    }

    /// Nothing of the user has to be written after all.
    pub(super) fn unmark(&mut self, user: &str) {
        self.dirty.remove(user);
    }

    /// Marks the user if its key is kept here.
    pub(super) fn renew(&mut self, user: &str) {
        if let Some((user, _)) = self.leases.get_key_value(user) {
            self.dirty.insert(Arc::clone(user), self.now);
        }
    }

    /// Marks the keys whose time has come.
    pub(super) fn expire(&mut self, now: Tick) {
        self.now = now;
        let mut due = Vec::new();
        self.wheel.take_due(now, &mut due);
        for (user, slot) in due {
            let Some(lease) = self.leases.get_mut(&user).filter(|lease| lease.slot == slot) else { continue };
            if lease.due > now {
                lease.slot = lease.due;
                self.wheel.insert(lease.due, (user, lease.due));
            } else {
                self.dirty.insert(user, now);
            }
        }
    }

    /// Takes some of the keys that are to be written.
    pub(super) fn take(&mut self, most: usize) -> Vec<Arc<str>> {
        self.dirty.extract_if(|_, _| true).take(most).map(|(user, _)| user).collect()
    }

    /// Lets go of users who have gone so long ago that their keys have ended by themselves. Else a Redis that is read from and not
    /// written to would have this node remember everybody who was here meanwhile.
    pub(super) fn forget_ended(&mut self, registry: &Registry) {
        let oldest = self.now.saturating_sub(2 * self.ticks_per_ttl);
        for (user, _) in
            self.dirty.extract_if(|user, marked| *marked < oldest && registry.local_holds(user, false).is_none())
        {
            self.leases.remove(&user);
        }
    }

    /// Writes the key of a user, or deletes it if no node holds the user. Returns how many bytes that takes.
    pub(super) fn write(
        &mut self,
        user: &Arc<str>,
        registry: &Registry,
        now: Tick,
        commands: &mut Vec<Command>,
    ) -> usize {
        self.unmark(user);
        let key = self.schema.user_key(user);
        if let Some(held) = registry.local_holds(user, false) {
            let value = self.schema.user_value(&held);
            let bytes = key.len() + value.len();
            commands.push(Command::Set { key, value, ttl_ms: self.schema.ttl_ms() });
            self.lease(user, now);
            return bytes;
        }
        self.leases.remove(user);
        let bytes = key.len();
        // Another node that holds the user writes the key anew when it hears that this one does not.
        if !registry.is_held_remotely(user) {
            commands.push(Command::Unlink(key));
        }
        bytes
    }

    /// Notes when the key that is being written has to be written again. Spread, so that users who came together are not renewed
    /// together for ever.
    fn lease(&mut self, user: &Arc<str>, now: Tick) {
        // Marsaglia's xorshift (Journal of Statistical Software 8, 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let due = now + self.renew_after + self.random % (self.renew_spread + 1);
        match self.leases.get_mut(user) {
            // It stands in the wheel already, for an earlier time: then it is looked at and moved on.
            Some(lease) if lease.slot > now => lease.due = due,
            _ => {
                self.leases.insert(Arc::clone(user), Lease { due, slot: due });
                self.wheel.insert(due, (Arc::clone(user), due));
            }
        }
    }
}
