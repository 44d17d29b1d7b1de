//! When the keys of a partition's users are written: at once after a change, and again before their lease ends.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::presence::{Registry, Tick, Wheel};

/// The wheel covers this many ticks; renewals further away are put back into it when it comes round.
const WHEEL_TICKS: Tick = 600;

/// The schedule of user keys.
#[derive(Debug)]
pub(super) struct UserKeys {
    /// Users whose keys have to be written, or deleted if this node no longer holds them, and since when.
    dirty: HashMap<Arc<str>, Tick, RandomState>,
    /// Users whose keys were written, and when each is due again.
    renewals: HashMap<Arc<str>, Renewal, RandomState>,
    wheel: Wheel<(Arc<str>, Tick)>,
    /// The current tick; set by [`mark_due`](Self::mark_due).
    now: Tick,
    ticks_per_ttl: Tick,
    /// A key is renewed after this many ticks, plus up to `renew_spread`.
    renew_after: Tick,
    renew_spread: Tick,
    /// The state of the random number generator that spreads renewals.
    random: u64,
}

/// When a key is renewed.
#[derive(Debug, Clone, Copy)]
struct Renewal {
    due: Tick,
    /// Its slot in the wheel. Entries of the user in other slots are outdated.
    slot: Tick,
}

impl UserKeys {
    pub(super) fn new(ticks_per_ttl: Tick, seed: u64) -> Self {
        Self {
            dirty: HashMap::default(),
            renewals: HashMap::default(),
            wheel: Wheel::new(WHEEL_TICKS.min(ticks_per_ttl) + 1),
            now: 0,
            ticks_per_ttl,
            renew_after: (ticks_per_ttl / 2).max(1),
            renew_spread: (ticks_per_ttl / 10).max(1),
            random: seed | 1,
        }
    }

    /// The number of keys that have to be written.
    pub(super) fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Whether Redis may have a key of this user that this node wrote.
    pub(super) fn is_written(&self, user: &str) -> bool {
        self.renewals.contains_key(user)
    }

    pub(super) fn mark(&mut self, user: &Arc<str>) {
        self.dirty.insert(Arc::clone(user), self.now);
    }

    pub(super) fn unmark(&mut self, user: &str) {
        self.dirty.remove(user);
    }

    /// Marks the user if this node has written its key: another node may have deleted it.
    pub(super) fn renew(&mut self, user: &str) {
        if let Some((user, _)) = self.renewals.get_key_value(user) {
            self.dirty.insert(Arc::clone(user), self.now);
        }
    }

    /// Marks the keys that are due for renewal.
    pub(super) fn mark_due(&mut self, now: Tick) {
        self.now = now;
        let mut due = Vec::new();
        self.wheel.take_due(now, &mut due);
        for (user, slot) in due {
            let Some(renewal) = self.renewals.get_mut(&user).filter(|renewal| renewal.slot == slot) else { continue };
            if renewal.due > now {
                renewal.slot = renewal.due;
                self.wheel.insert(renewal.due, (user, renewal.due));
            } else {
                self.dirty.insert(user, now);
            }
        }
    }

    /// Takes up to `limit` marked users.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Arc<str>> {
        self.dirty.extract_if(|_, _| true).take(limit).map(|(user, _)| user).collect()
    }

    /// Forgets users who left so long ago that their keys have expired. Otherwise a Redis that can be read but not
    /// written would make this node remember every user who left in the meantime.
    pub(super) fn forget_expired(&mut self, registry: &Registry) {
        let oldest = self.now.saturating_sub(2 * self.ticks_per_ttl);
        for (user, _) in
            self.dirty.extract_if(|user, marked| *marked < oldest && registry.local_holds(user, false).is_none())
        {
            self.renewals.remove(&user);
        }
    }

    /// Schedules the renewal of a key that is being written. Renewals are spread, so that users who joined together are
    /// not renewed together forever.
    pub(super) fn written(&mut self, user: &Arc<str>, now: Tick) {
        // Marsaglia's xorshift (Journal of Statistical Software 8, 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let due = now + self.renew_after + self.random % (self.renew_spread + 1);
        match self.renewals.get_mut(user) {
            // It stays in an earlier slot of the wheel and is moved when that slot is due.
            Some(renewal) if renewal.slot > now => renewal.due = due,
            _ => {
                self.renewals.insert(Arc::clone(user), Renewal { due, slot: due });
                self.wheel.insert(due, (Arc::clone(user), due));
            }
        }
    }

    /// The key of a user is being deleted.
    pub(super) fn deleted(&mut self, user: &str) {
        self.renewals.remove(user);
    }
}
