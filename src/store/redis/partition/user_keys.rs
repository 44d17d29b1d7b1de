//! When the keys of a partition's users are written: after a change, and again before their lease ends.
//!
//! A value lists up to 100 rooms, and a change of one room costs a client some 30 bytes. Short values are written with
//! each change and each renewal. A longer value is written again only after changes or a time in proportion to its
//! length; until then only its lease is renewed. So no client makes this node write many times what it sends.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::presence::{Registry, Tick, Wheel};

/// The wheel covers this many ticks; renewals further away are put back into it when it comes round.
const WHEEL_TICKS: Tick = 600;

/// Values up to this length are written with each change and each renewal.
const SHORT_VALUE_BYTES: u64 = 256;
/// Each byte of a change pays for this many bytes of a value.
const VALUE_BYTES_PER_CHANGED_BYTE: u64 = 8;
/// Each second pays for this many bytes of a value: as much as the renewals of a short one.
const VALUE_BYTES_PER_SECOND: u64 = 32;
/// What a change counts besides the name of the room: less than any message that asks for it.
pub(super) const CHANGE_BYTES: usize = 32;

/// The schedule of user keys.
#[derive(Debug)]
pub(super) struct UserKeys {
    /// Users whose keys have to be written, or deleted if this node no longer holds them, and since when.
    dirty: HashMap<Arc<str>, Tick, RandomState>,
    /// Users whose keys were written, and when each is due again.
    written: HashMap<Arc<str>, WrittenKey, RandomState>,
    wheel: Wheel<(Arc<str>, Tick)>,
    /// The current tick; set by [`mark_due`](Self::mark_due).
    now: Tick,
    ticks_per_ttl: Tick,
    ticks_per_second: Tick,
    /// A key is renewed after this many ticks, plus up to `renew_spread`.
    renew_after: Tick,
    renew_spread: Tick,
    /// The state of the random number generator that spreads renewals.
    random: u64,
}

/// A key that this node has written.
#[derive(Debug, Clone, Copy)]
struct WrittenKey {
    /// When it is renewed.
    due: Tick,
    /// Its slot in the wheel. Entries of the user in other slots are outdated.
    slot: Tick,
    /// When its value was written.
    written: Tick,
    /// The length of the value.
    value_bytes: u32,
    /// Bytes of changes since then.
    changed_bytes: u32,
    /// What the next write has to do even if nothing has changed.
    renewal: Renewal,
}

/// What a write has to do for a key whose value need not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Renewal {
    /// Nothing.
    None,
    /// Its lease ends soon, or another node may have deleted it.
    Lease,
    /// The value in Redis is unknown.
    Value,
}

/// How a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyWrite {
    /// With its value.
    Value,
    /// Only its lease. If it does not exist, it has to be written with its value.
    Lease,
    /// Not now.
    Nothing,
}

impl UserKeys {
    pub(super) fn new(ticks_per_ttl: Tick, ticks_per_second: Tick, seed: u64) -> Self {
        Self {
            dirty: HashMap::default(),
            written: HashMap::default(),
            wheel: Wheel::new(WHEEL_TICKS.min(ticks_per_ttl) + 1),
            now: 0,
            ticks_per_ttl,
            ticks_per_second: ticks_per_second.max(1),
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
        self.written.contains_key(user)
    }

    /// The rooms of the user have changed.
    pub(super) fn mark_changed(&mut self, user: &Arc<str>, room: &str) {
        if let Some(key) = self.written.get_mut(&**user) {
            key.changed_bytes = key.changed_bytes.saturating_add((CHANGE_BYTES + room.len()) as u32);
        }
        self.dirty.insert(Arc::clone(user), self.now);
    }

    /// The key has to be written even if nothing has changed: it was not written, or it is unknown whether it was.
    pub(super) fn mark(&mut self, user: &Arc<str>) {
        self.require(user, Renewal::Value);
        self.dirty.insert(Arc::clone(user), self.now);
    }

    /// The key is looked at again with the next batch.
    pub(super) fn postpone(&mut self, user: &Arc<str>) {
        self.dirty.insert(Arc::clone(user), self.now);
    }

    pub(super) fn unmark(&mut self, user: &str) {
        self.dirty.remove(user);
    }

    /// Another node has written the user's key and may have deleted it.
    pub(super) fn renew(&mut self, user: &str) {
        let Some((user, _)) = self.written.get_key_value(user) else { return };
        let user = Arc::clone(user);
        self.require(&user, Renewal::Lease);
        self.mark_changed(&user, "");
    }

    /// The key may name a node that is dead.
    pub(super) fn rewrite(&mut self, user: &str) {
        if let Some((user, _)) = self.written.get_key_value(user) {
            self.mark(&Arc::clone(user));
        }
    }

    fn require(&mut self, user: &str, renewal: Renewal) {
        if let Some(key) = self.written.get_mut(user) {
            key.renewal = key.renewal.max(renewal);
        }
    }

    /// How to write the key of a user whom this node holds.
    pub(super) fn next_write(&self, user: &str) -> KeyWrite {
        let Some(key) = self.written.get(user) else { return KeyWrite::Value };
        let value_bytes = u64::from(key.value_bytes);
        let seconds = self.now.saturating_sub(key.written) / self.ticks_per_second;
        let paid_bytes = u64::from(key.changed_bytes) * VALUE_BYTES_PER_CHANGED_BYTE + seconds * VALUE_BYTES_PER_SECOND;
        let is_cheap = value_bytes <= SHORT_VALUE_BYTES || value_bytes <= paid_bytes;
        match key.renewal {
            Renewal::Value => KeyWrite::Value,
            _ if is_cheap && key.changed_bytes > 0 => KeyWrite::Value,
            Renewal::Lease if value_bytes <= SHORT_VALUE_BYTES => KeyWrite::Value,
            Renewal::Lease => KeyWrite::Lease,
            Renewal::None => KeyWrite::Nothing,
        }
    }

    /// Marks the keys that are due for renewal.
    pub(super) fn mark_due(&mut self, now: Tick) {
        self.now = now;
        let mut due = Vec::new();
        self.wheel.take_due(now, &mut due);
        for (user, slot) in due {
            let Some(key) = self.written.get_mut(&user).filter(|key| key.slot == slot) else { continue };
            if key.due > now {
                key.slot = key.due;
                self.wheel.insert(key.due, (user, key.due));
            } else {
                key.renewal = key.renewal.max(Renewal::Lease);
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
            self.dirty.extract_if(|user, marked| *marked < oldest && registry.local_rooms(user, 1).is_none())
        {
            self.written.remove(&user);
        }
    }

    /// A key is being written with a value of this length; `None` if only its lease is being renewed.
    pub(super) fn written(&mut self, user: &Arc<str>, now: Tick, value_bytes: Option<usize>) {
        let due = self.next_renewal(now);
        let slot = match self.written.get_mut(user) {
            // It stays in an earlier slot of the wheel and is moved when that slot is due.
            Some(key) if key.slot > now => key.slot,
            _ => {
                self.wheel.insert(due, (Arc::clone(user), due));
                due
            }
        };
        let renewal = Renewal::None;
        match (value_bytes, self.written.get_mut(user)) {
            (None, Some(key)) => (key.due, key.slot, key.renewal) = (due, slot, renewal),
            (value_bytes, _) => {
                let value_bytes = value_bytes.unwrap_or_default() as u32;
                let key = WrittenKey { due, slot, written: now, value_bytes, changed_bytes: 0, renewal };
                self.written.insert(Arc::clone(user), key);
            }
        }
    }

    /// Renewals are spread, so that users who joined together are not renewed together forever.
    fn next_renewal(&mut self, now: Tick) -> Tick {
        // Marsaglia's xorshift (Journal of Statistical Software 8, 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        now + self.renew_after + self.random % (self.renew_spread + 1)
    }

    /// The key of a user is being deleted.
    pub(super) fn deleted(&mut self, user: &str) {
        self.written.remove(user);
    }
}
