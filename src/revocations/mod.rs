//! Revoked credentials: a list that each check of a credential reads, and that nodes share through the store.
//!
//! An entry lives as long as a credential of before can be valid. Entries are never dropped earlier: a full list
//! refuses new ones.

mod hashes;
mod target;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::presence::Credential;
pub use hashes::TextHashes;
pub use target::{MAX_ID_BYTES, Revocation, Target};

/// The limit of entries that applications can add.
pub const MAX_REVOCATIONS: usize = 10_000;
/// The limit with those of other nodes, which may have been full of other ones.
pub const MAX_MERGED: usize = 4 * MAX_REVOCATIONS;
/// Entries live longer by this: a token may say that it was issued a minute ahead of this node's clock, it may be valid
/// for a minute longer because its issuer dated it back, and the clocks of nodes may differ by another minute.
const CLOCK_SLACK_S: u64 = 180;
/// How long it counts that tokens were issued ahead of this node's clock.
const AHEAD_FOR_S: u64 = 3600;
/// How long entries live unless tokens say otherwise: as long as an application can vouch for a client.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The list is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The list.
#[derive(Debug)]
pub struct Revocations {
    /// The number of entries. Most lists are empty.
    count: AtomicUsize,
    list: RwLock<List>,
    /// Clients cannot predict these hashes.
    hashes: TextHashes,
    lifetime_s: u64,
    /// The limit of entries that applications can add.
    capacity: usize,
    /// How far the clocks of issuers are ahead, in seconds, and until when that counts. Written by checks of tokens,
    /// read by revocations.
    ahead_s: AtomicU64,
    ahead_until_s: AtomicU64,
    /// The number of the last change that the store has.
    stored: watch::Sender<u64>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self::new(DEFAULT_LIFETIME)
    }
}

/// The entries. Each says: credentials issued at this time or before are revoked.
#[derive(Debug, Default)]
struct List {
    entries: HashMap<Target, Entry, RandomState>,
    users: HashMap<Arc<str>, u64, RandomState>,
    tokens: HashSet<u64, RandomState>,
    keys: HashSet<u32, RandomState>,
    everybody: Option<u64>,
    /// Entries that the workers have not been told.
    fresh: Vec<Target>,
    /// When the first entry ends.
    next_end: u64,
    /// Counts the changes.
    version: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    issued_before: u64,
    until: u64,
}

impl Revocations {
    /// An empty list for credentials that are valid for this time.
    #[must_use]
    pub fn new(lifetime: Duration) -> Self {
        Self {
            count: AtomicUsize::new(0),
            list: RwLock::default(),
            hashes: TextHashes::default(),
            lifetime_s: lifetime.as_secs() + CLOCK_SLACK_S,
            capacity: MAX_REVOCATIONS,
            ahead_s: AtomicU64::new(0),
            ahead_until_s: AtomicU64::new(0),
            stored: watch::Sender::new(0),
        }
    }

    /// The same with another limit of entries that applications can add.
    #[must_use]
    pub fn with_capacity(self, capacity: usize) -> Self {
        Self { capacity, ..self }
    }

    /// The limit of entries that applications can add.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The credential with these texts.
    #[must_use]
    pub fn credential(&self, issued_at: Option<u64>, token_id: Option<&str>, key_id: Option<&str>) -> Credential {
        Credential {
            issued_at: issued_at.unwrap_or(0),
            token_id: token_id.map_or(0, |id| self.hashes.long(id)),
            key_id: key_id.map_or(0, |id| self.hashes.short(id).get()),
        }
    }

    /// The hashes of the texts of credentials.
    #[must_use]
    pub fn hashes(&self) -> &TextHashes {
        &self.hashes
    }

    /// Whether a credential of this user is revoked.
    #[must_use]
    pub fn refuse(&self, user: &str, credential: &Credential) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let list = self.list.read();
        let is_not_later = |issued_before: &u64| credential.issued_at <= *issued_before;
        list.everybody.as_ref().is_some_and(is_not_later)
            || list.users.get(user).is_some_and(is_not_later)
            || (credential.token_id != 0 && list.tokens.contains(&credential.token_id))
            || (credential.key_id != 0 && list.keys.contains(&credential.key_id))
    }

    /// Notes when an accepted token says that it was issued. The clock of its issuer may be ahead of this one.
    pub fn note_issued(&self, issued_at: u64, now_s: u64) {
        let ahead = issued_at.saturating_sub(now_s);
        if ahead > 0 && ahead >= self.ahead_s(now_s) {
            self.ahead_s.store(ahead, Ordering::Relaxed);
            self.ahead_until_s.store(now_s + AHEAD_FOR_S, Ordering::Relaxed);
        }
    }

    /// What tokens that are issued now may say about that. A revocation of what was issued until now must name this
    /// time; with the one of this node's clock, tokens of an issuer whose clock is ahead would survive.
    #[must_use]
    pub fn now_of_issuers(&self, now_s: u64) -> u64 {
        now_s + self.ahead_s(now_s)
    }

    fn ahead_s(&self, now_s: u64) -> u64 {
        let counts = now_s <= self.ahead_until_s.load(Ordering::Relaxed);
        if counts { self.ahead_s.load(Ordering::Relaxed) } else { 0 }
    }

    /// Adds an entry. Returns the number of the change.
    ///
    /// # Errors
    /// If the list is full.
    pub fn add(&self, target: Target, issued_before: u64, now_s: u64) -> Result<u64, Full> {
        let mut list = self.list.write();
        self.drop_old(&mut list, now_s);
        let is_full = list.entries.len() >= self.capacity && !list.entries.contains_key(&target);
        if is_full || list.fresh.len() >= self.capacity {
            return Err(Full);
        }
        // As it comes back from the store.
        let issued_before = if target.has_time() { issued_before } else { 0 };
        let until = now_s.max(issued_before) + self.lifetime_s;
        self.insert(&mut list, Revocation { target, issued_before, until });
        Ok(list.version)
    }

    /// Adds what the store knows, and returns what it lacks. Entries beyond a limit are left out.
    pub fn merge(&self, stored: Vec<Revocation>, now_s: u64) -> Merged {
        let mut list = self.list.write();
        self.drop_old(&mut list, now_s);
        let mut left_out = 0;
        let mut known: HashMap<Target, Entry, RandomState> = HashMap::default();
        for revocation in stored {
            let Revocation { target, issued_before, until } = &revocation;
            let entry = known.entry(target.clone()).or_insert(Entry { issued_before: 0, until: 0 });
            *entry = Entry { issued_before: entry.issued_before.max(*issued_before), until: entry.until.max(*until) };
            if *until < now_s {
                continue;
            }
            if list.entries.len() < MAX_MERGED || list.entries.contains_key(target) {
                self.insert(&mut list, revocation);
            } else {
                left_out += 1;
            }
        }
        let lacks = |(target, entry): &(&Target, &Entry)| {
            let stored = known.get(*target);
            stored.is_none_or(|stored| stored.issued_before < entry.issued_before || stored.until < entry.until)
        };
        let missing = list.entries.iter().filter(lacks).map(|(target, entry)| entry.of(target)).collect();
        Merged { missing, version: list.version, left_out }
    }

    /// The store has all changes up to this one.
    pub fn note_stored(&self, version: u64) {
        self.stored.send_replace(version);
    }

    /// Waits until the store has a change.
    pub async fn wait_until_stored(&self, version: u64) {
        // The sender lives as long as `self`.
        let _ = self.stored.subscribe().wait_for(|stored| *stored >= version).await;
    }

    /// What is new since the last call, for the workers. Entries that are over are dropped.
    pub fn take_fresh(&self, now_s: u64) -> Arc<[Target]> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Arc::default();
        }
        let is_idle = {
            let list = self.list.read();
            list.fresh.is_empty() && now_s <= list.next_end
        };
        if is_idle {
            return Arc::default();
        }
        let mut list = self.list.write();
        self.drop_old(&mut list, now_s);
        std::mem::take(&mut list.fresh).into()
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an entry, or makes the one for the same target stricter.
    fn insert(&self, list: &mut List, Revocation { target, issued_before, until }: Revocation) {
        let former = list.entries.get(&target).copied();
        let entry = Entry {
            issued_before: former.map_or(issued_before, |former| former.issued_before.max(issued_before)),
            until: former.map_or(until, |former| former.until.max(until)),
        };
        if former == Some(entry) {
            return;
        }
        list.version += 1;
        list.next_end = if list.entries.is_empty() { entry.until } else { list.next_end.min(entry.until) };
        if former.is_none_or(|former| former.issued_before < entry.issued_before) {
            list.fresh.push(target.clone());
        }
        self.index(list, &target, entry.issued_before);
        list.entries.insert(target, entry);
        self.count.store(list.entries.len(), Ordering::Release);
    }

    fn index(&self, list: &mut List, target: &Target, issued_before: u64) {
        match target {
            Target::Everybody => list.everybody = Some(issued_before),
            Target::User(user) => drop(list.users.insert(Arc::clone(user), issued_before)),
            Target::Token(id) => drop(list.tokens.insert(self.hashes.long(id))),
            Target::Key(id) => drop(list.keys.insert(self.hashes.short(id).get())),
        }
    }

    fn drop_old(&self, list: &mut List, now_s: u64) {
        if list.entries.is_empty() || now_s <= list.next_end {
            return;
        }
        let mut entries = std::mem::take(&mut list.entries);
        entries.retain(|_, entry| now_s <= entry.until);
        (list.everybody, list.next_end) = (None, u64::MAX);
        list.users.clear();
        list.tokens.clear();
        list.keys.clear();
        for (target, entry) in &entries {
            self.index(list, target, entry.issued_before);
            list.next_end = list.next_end.min(entry.until);
        }
        list.entries = entries;
        self.count.store(list.entries.len(), Ordering::Release);
    }
}

impl Entry {
    fn of(self, target: &Target) -> Revocation {
        Revocation { target: target.clone(), issued_before: self.issued_before, until: self.until }
    }
}

/// What a store must write after it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The entries that it lacks.
    pub missing: Vec<Revocation>,
    /// The last change that it has with them.
    pub version: u64,
    /// Entries of the store that found no room here.
    pub left_out: usize,
}

#[cfg(test)]
mod tests;
