//! What this node has still to write in one lane, and in which order. It decides and does no I/O.
//!
//! Everything waiting is kept by user and room, last word wins, so it is bounded by who is here and who was here when Redis was
//! last reached, however long ago that is. A batch that failed is merged back: nobody knows how much of it was done, and all of
//! it may be done twice.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::command::{Command, Reply};
use super::event;
use super::keys::Keys;
use super::schema::{EDITION, HEADER, Head, Header, Schema, field, hold};
use crate::presence::{Reason, Registry, State, Tick, Told};
use crate::removal::{MAX_WAITING, Removal};
use crate::store::{News, Place};

/// Users, and as many holds, that one pipeline writes: more gain nothing, and delay others on the same master.
const BATCH: usize = 1000;
/// What was said and could not be told yet; more is not kept, chat is of its moment.
const MAX_SAID_BYTES: usize = 256 * 1024;
/// And as many bytes, of states mostly: what Redis takes in some milliseconds.
const BATCH_BYTES: usize = 1024 * 1024;

/// Writes of one lane. Used by its one task.
#[derive(Debug)]
pub struct Lane {
    schema: Arc<Schema>,
    number: usize,
    /// Holds to write, by room and user.
    holds: HashMap<Place, Pending, RandomState>,
    /// What was said, in order.
    said: Vec<(Place, Box<str>)>,
    said_bytes: usize,
    /// Users who are to go and whom nobody has been told of.
    removals: Vec<Going>,
    /// Whom the others have been told of, and are told of again for a while: they may have been away.
    told_removals: Vec<Going>,
    removals_asked: u64,
    keys: Keys,
    /// The last tick that was heard of.
    now: Tick,
    ticks_per_ttl: Tick,
    /// Hashes of dead runs.
    garbage: Vec<String>,
    /// Events told so far.
    seq: u64,
    /// Of these, known to be in the hash; `None` if it has to be written anew, whatever it says.
    confirmed: Option<u64>,
    /// What the header of the hash is when all that is on its way has arrived. It is counted up and never set, so that a hash that
    /// was lost in between shows that.
    header: u64,
    /// How often the hash has been written anew.
    edition: u64,
    hash: Hash,
}

/// A hold that is to be written.
#[derive(Debug, Clone)]
enum Pending {
    /// `fresh`: Redis cannot know of it yet.
    Held {
        state: Option<State>,
        joined: bool,
        fresh: bool,
    },
    Released(Reason),
}

/// A user who is to go.
#[derive(Debug, Clone)]
struct Going {
    asked: Tick,
    /// Those who are told several times know it by this.
    number: u64,
    removal: Removal,
}

/// What is known of the hash in Redis.
#[derive(Debug)]
enum Hash {
    /// The connection is new: it must be looked at first.
    Unknown,
    /// It has all that has been confirmed.
    Whole,
    /// It is being written anew: these users are left, the first page being first.
    Rewriting { users: Vec<Arc<str>>, first: bool },
}

/// Commands that go to Redis together, and what they were for.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order of the pipeline.
    pub commands: Vec<Command>,
    /// Keys of users that it writes.
    pub keys_written: u64,
    holds: Vec<(Place, Pending)>,
    users: Vec<Arc<str>>,
    said: Vec<(Place, Box<str>)>,
    removals: Vec<Going>,
    garbage: Vec<String>,
    seq: u64,
    part: Part,
}

/// Which part of the work a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Part {
    #[default]
    Changes,
    Page,
    LastPage,
}

/// What a batch has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is in Redis.
    Done,
    /// The hash is not what it was: it will be written anew.
    Lost,
    /// Redis refused something.
    Refused(String),
}

impl Lane {
    /// One that has nothing to write.
    #[must_use]
    pub fn new(schema: Arc<Schema>, number: usize, ticks_per_ttl: Tick, seed: u64) -> Self {
        Self {
            number,
            holds: HashMap::default(),
            said: Vec::new(),
            said_bytes: 0,
            removals: Vec::new(),
            told_removals: Vec::new(),
            removals_asked: 0,
            keys: Keys::new(Arc::clone(&schema), ticks_per_ttl, seed),
            now: 0,
            ticks_per_ttl,
            garbage: Vec::new(),
            seq: 0,
            confirmed: None,
            header: 0,
            edition: 0,
            hash: Hash::Unknown,
            schema,
        }
    }

    /// Takes what sessions of this node did.
    pub fn record(&mut self, news: News) {
        match news {
            News::Told(place, told) => {
                self.keys.mark(&place.1);
                self.record_hold(place, told);
            }
            News::Said(place, data) => self.keep_said(vec![(place, data)]),
            News::Removed(removal) if self.removals.len() < MAX_WAITING => {
                self.removals_asked += 1;
                self.removals.push(Going { asked: self.now, number: self.removals_asked, removal });
            }
            News::Removed(_) => {}
        }
    }

    fn record_hold(&mut self, place: Place, told: Told) {
        let fresh = match self.holds.get(&place) {
            Some(Pending::Held { fresh, .. }) => *fresh,
            Some(Pending::Released(_)) => false,
            // While batches go out, one that is on its way may have told of it.
            None => matches!(told, Told::Held { joined: true, .. }) && matches!(self.hash, Hash::Unknown),
        };
        match told {
            Told::Held { state, joined } => {
                self.holds.insert(place, Pending::Held { state, joined, fresh });
            }
            Told::Released(_) if fresh => {
                if !self.keys.has(&place.1) {
                    self.keys.unmark(&place.1);
                }
                self.holds.remove(&place);
            }
            Told::Released(reason) => {
                self.holds.insert(place, Pending::Released(reason));
            }
        }
    }

    /// Keeps what was said, as far as there is room for it.
    fn keep_said(&mut self, said: Vec<(Place, Box<str>)>) {
        for (place, data) in said {
            let bytes = data.len() + size_of::<(Place, Box<str>)>();
            if self.said_bytes + bytes <= MAX_SAID_BYTES {
                self.said_bytes += bytes;
                self.said.push((place, data));
            }
        }
    }

    /// Deletes what a dead run has left in this lane.
    pub fn bury(&mut self, run: &str) {
        self.garbage.push(self.schema.hash_key(self.number, run));
    }

    /// The user's key is to be written again: another node may have deleted it.
    pub fn renew(&mut self, user: &str) {
        self.keys.renew(user);
    }

    /// Marks the keys whose time has come.
    pub fn expire(&mut self, now: Tick) {
        self.now = now;
        self.keys.expire(now);
    }

    /// What waits to be written.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.holds.len() + self.keys.dirty() + self.said.len() + self.removals.len() + self.garbage.len()
    }

    /// Whether the hash has all that this node holds, as far as is known.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.hash, Hash::Whole)
    }

    /// The connection is new.
    pub fn reconnected(&mut self) {
        self.hash = Hash::Unknown;
    }

    /// What is asked once a second, and first on a new connection: whether the hash is what it was. It keeps the hash, and tells
    /// the others how many events there were.
    #[must_use]
    pub fn beacon(&mut self) -> Vec<Command> {
        let told = std::mem::take(&mut self.told_removals);
        self.told_removals = self.recent(told);
        let key = self.schema.hash_key(self.number, &self.schema.run);
        let look = Command::HashHead(key.clone());
        if !self.is_whole() {
            return vec![look];
        }
        vec![look, Command::Keep { key, ttl_ms: self.schema.hash_ttl_ms() }, self.tell_again(&self.told_removals)]
    }

    /// Takes the answer to the beacon. If the hash has lost something, it is written anew.
    pub fn verify(&mut self, head: Option<&Reply>, registry: &Registry) -> Outcome {
        match Head::parse(head) {
            Err(message) => Outcome::Refused(message),
            Ok(Some(Head { header: Header::Whole(seq), edition })) if edition == self.edition && self.may_be(seq) => {
                self.header = seq;
                self.hash = Hash::Whole;
                Outcome::Done
            }
            Ok(_) => {
                self.rewrite(registry);
                Outcome::Lost
            }
        }
    }

    /// Whether the header may say this, as far as is known: on a new connection nobody knows how much of what was on its way arrived.
    fn may_be(&self, seq: u64) -> bool {
        match (&self.hash, self.confirmed) {
            (Hash::Whole, Some(_)) => seq == self.header,
            (_, Some(confirmed)) => (confirmed..=self.seq).contains(&seq),
            (_, None) => false,
        }
    }

    /// Has the hash, and all keys of users, written anew. What waits is in the registry as well.
    fn rewrite(&mut self, registry: &Registry) {
        self.holds.clear();
        self.confirmed = None;
        self.edition += 1;
        let users = registry.users_held_here(|user| self.schema.lane_of(user) == self.number);
        self.hash = Hash::Rewriting { users, first: true };
    }

    /// The next pipeline, if there is anything to write and it is known how.
    pub fn next_batch(&mut self, registry: &Registry, now: Tick) -> Option<Batch> {
        match self.hash {
            Hash::Unknown => None,
            Hash::Rewriting { .. } => Some(self.rewrite_page(registry, now)),
            Hash::Whole if self.pending() == 0 => None,
            Hash::Whole => Some(self.changes(registry, now)),
        }
    }

    fn rewrite_page(&mut self, registry: &Registry, now: Tick) -> Batch {
        let key = self.schema.hash_key(self.number, &self.schema.run);
        let Hash::Rewriting { users, first } = &mut self.hash else { return self.changes(registry, now) };
        let (mut commands, mut sets, mut page, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        if std::mem::take(first) {
            commands.push(Command::Unlink(key.clone()));
        }
        let edition = (EDITION.to_owned(), self.edition.to_string());
        let mut fields = vec![(HEADER.to_owned(), Header::Partial.text()), edition];
        while page.len() < BATCH && bytes < BATCH_BYTES {
            let Some(user) = users.pop() else { break };
            let held = registry.held_here(&user, true).unwrap_or_default();
            let since = held.since_unix_ms;
            for (room, state) in held.rooms {
                fields.push((field(&room, &user), hold(since, state.as_ref())));
                // It is there from now on: its end has to be written.
                if let Some(Pending::Held { fresh, .. }) = self.holds.get_mut(&(room, Arc::clone(&user))) {
                    *fresh = false;
                }
            }
            bytes += self.keys.write(&user, registry, now, &mut sets) * 2;
            page.push(user);
        }
        let last = users.is_empty();
        if last {
            self.hash = Hash::Whole;
            self.seq += 1; // Whoever has seen the former hash must read this one.
            fields[0].1 = Header::Whole(self.seq).text();
            self.header = self.seq;
        }
        commands.push(Command::HashSet { key: key.clone(), fields });
        commands.push(Command::Keep { key, ttl_ms: self.schema.hash_ttl_ms() });
        let keys_written = sets.len() as u64;
        commands.append(&mut sets);
        // With each page, so that a long rewrite is no silence.
        commands.push(self.tell(event::Writer::new(&self.schema.run, self.seq)));
        let part = if last { Part::LastPage } else { Part::Page };
        Batch { commands, keys_written, users: page, seq: self.seq, part, ..Batch::default() }
    }

    fn changes(&mut self, registry: &Registry, now: Tick) -> Batch {
        let holds = self.take_holds();
        for ((_, user), pending) in &holds {
            // A hold without a key would not be seen by whoever looks at keys alone.
            if matches!(pending, Pending::Held { .. }) && !self.keys.has(user) {
                self.keys.mark(user);
            }
        }
        let removals = std::mem::take(&mut self.removals);
        let removals = self.recent(removals);
        let (said, garbage) = (std::mem::take(&mut self.said), std::mem::take(&mut self.garbage));
        self.said_bytes = 0;
        let mut commands: Vec<_> = garbage.iter().cloned().map(Command::Unlink).collect();
        if !(holds.is_empty() && said.is_empty()) {
            self.seq += 1;
            self.write_holds(&holds, &said, &removals, registry, &mut commands);
        } else if !removals.is_empty() {
            commands.push(self.tell_again(&removals));
        }
        let (before, mut users, mut bytes) = (commands.len(), Vec::new(), 0);
        for user in self.keys.take(BATCH) {
            match bytes < BATCH_BYTES {
                true => {
                    bytes += self.keys.write(&user, registry, now, &mut commands);
                    users.push(user);
                }
                false => self.keys.mark(&user),
            }
        }
        let keys_written = (commands.len() - before) as u64;
        let part = Part::Changes;
        Batch { commands, keys_written, holds, users, said, removals, garbage, seq: self.seq, part }
    }

    /// Takes as many holds as go into one batch.
    fn take_holds(&mut self) -> Vec<(Place, Pending)> {
        let (mut holds, mut bytes) = (Vec::new(), 0);
        for (place, pending) in self.holds.extract_if(|_, _| true) {
            if let Pending::Held { state: Some(state), .. } = &pending {
                bytes += state.as_str().len();
            }
            holds.push((place, pending));
            if holds.len() >= BATCH || bytes >= BATCH_BYTES {
                break;
            }
        }
        holds
    }

    /// The hash first, then its header, then the event: whoever hears of it can read it.
    fn write_holds(
        &mut self,
        holds: &[(Place, Pending)],
        said: &[(Place, Box<str>)],
        removals: &[Going],
        registry: &Registry,
        commands: &mut Vec<Command>,
    ) {
        let key = self.schema.hash_key(self.number, &self.schema.run);
        let mut event = event::Writer::new(&self.schema.run, self.seq);
        let mut fields = Vec::with_capacity(holds.len());
        let mut removed = Vec::new();
        for ((room, user), pending) in holds {
            match pending {
                Pending::Held { state, joined, .. } => {
                    let since = registry.since(user).unwrap_or(0);
                    fields.push((field(room, user), hold(since, state.as_ref())));
                    event.held(*joined, room, user, since, state.as_ref());
                }
                Pending::Released(reason) => {
                    removed.push(field(room, user));
                    event.left(room, user, *reason);
                }
            }
        }
        said.iter().for_each(|((room, user), data)| event.said(room, user, data));
        removals.iter().for_each(|going| event.removed(going.number, &going.removal));
        if !removed.is_empty() {
            commands.push(Command::HashRemove { key: key.clone(), fields: removed });
        }
        if !fields.is_empty() {
            commands.push(Command::HashSet { key: key.clone(), fields });
        }
        commands.push(Command::HashCount { key, field: HEADER, by: self.seq - self.header });
        self.header = self.seq;
        commands.push(self.tell(event));
    }

    /// Those that were asked for within a lease: later, whoever has come back has come back.
    fn recent(&self, mut removals: Vec<Going>) -> Vec<Going> {
        let oldest = self.now.saturating_sub(self.ticks_per_ttl);
        removals.retain(|going| going.asked >= oldest);
        removals
    }

    /// Nothing new, but for users who are to go.
    fn tell_again(&self, removals: &[Going]) -> Command {
        let mut event = event::Writer::new(&self.schema.run, self.seq);
        removals.iter().for_each(|going| event.removed(going.number, &going.removal));
        self.tell(event)
    }

    fn tell(&self, event: event::Writer) -> Command {
        Command::Publish { channel: self.schema.events(self.number), message: event.finish() }
    }

    /// Takes the answers to a batch. If something was refused, the batch has failed and is to be taken back.
    pub fn answered(&mut self, batch: &Batch, replies: &[Reply], registry: &Registry) -> Outcome {
        let refused = replies.iter().find(|reply| matches!(reply, Reply::Failed(_)));
        if let Some(reply) = refused {
            return Outcome::Refused(reply.complaint());
        }
        let counted = replies.iter().find_map(|reply| match reply {
            Reply::Number(number) => Some(*number),
            _ => None,
        });
        if replies.contains(&Reply::WrongType) || counted.is_some_and(|counted| counted != batch.seq as i64) {
            self.rewrite(registry);
            return Outcome::Lost;
        }
        self.told_removals.extend(batch.removals.iter().cloned());
        self.told_removals.truncate(MAX_WAITING);
        if batch.part == Part::LastPage || self.confirmed.is_some() && batch.part == Part::Changes {
            self.confirmed = Some(batch.seq);
        }
        Outcome::Done
    }

    /// Takes back a batch of which nobody knows what was done. Of several the latest comes first. What it was about is written as
    /// it is by now.
    pub fn failed(&mut self, batch: Batch, registry: &Registry) {
        self.hash = Hash::Unknown;
        if batch.part != Part::Changes {
            self.confirmed = None; // The pages after it may be there without it.
        }
        for (place, pending) in batch.holds {
            let (joined, reason) = match pending {
                Pending::Held { joined, .. } => (joined, Reason::Left),
                Pending::Released(reason) => (true, reason),
            };
            let back = self.holds.entry(place).or_insert_with_key(|(room, user)| match registry.told(room, user) {
                Some(state) => Pending::Held { state, joined, fresh: false },
                None => Pending::Released(reason),
            });
            if let Pending::Held { fresh, .. } = back {
                *fresh = false; // What was on its way may be there.
            }
        }
        batch.users.iter().for_each(|user| self.keys.mark(user));
        self.garbage.extend(batch.garbage);
        self.removals.splice(0..0, batch.removals);
        self.removals.truncate(MAX_WAITING);
        let later = std::mem::take(&mut self.said);
        self.said_bytes = 0;
        self.keep_said(batch.said);
        self.keep_said(later);
    }
}

#[cfg(test)]
mod tests;
