//! What this node has still to write in one lane, and in which order. It decides and does no I/O.
//!
//! Everything waiting is kept by user and room, last word wins, so it is bounded by who is here and who was here when Redis was
//! last reached, however long ago that is. A batch that failed is merged back: nobody knows how much of it was done, and all of
//! it may be done twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::command::{Command, Reply};
use super::event;
use super::schema::{EDITION, HEADER, Head, Header, Schema, field, hold};
use crate::presence::{HeldHere, Reason, Registry, State, Tick, Told, Wheel};
use crate::store::{News, What};

/// Users, and as many holds, that one pipeline writes: more gain nothing, and delay others on the same master.
const BATCH: usize = 1000;
/// What was said and could not be told yet; more is not kept, chat is of its moment.
const MAX_SAID_BYTES: usize = 256 * 1024;
/// How far ahead the wheel of leases looks; later ones are looked at early and put back.
const WHEEL_TICKS: Tick = 600;

/// A user in a room.
type Place = (Arc<str>, Arc<str>);

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
    /// Users whose keys are to be written, or deleted if this node does not hold them any more.
    users: HashSet<Arc<str>, RandomState>,
    /// Users whose keys this node keeps.
    leases: HashMap<Arc<str>, Lease, RandomState>,
    wheel: Wheel<(Arc<str>, Tick)>,
    /// Hashes of dead runs.
    garbage: Vec<String>,
    /// A key is renewed after so many ticks, and up to so many more.
    renew_after: Tick,
    renew_spread: Tick,
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
    /// For spreading renewals: any numbers will do.
    random: u64,
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

/// When a user's key is to be renewed.
#[derive(Debug, Clone, Copy)]
struct Lease {
    due: Tick,
    /// Where it stands in the wheel; another entry there is a left-over.
    slot: Tick,
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
#[derive(Debug)]
pub struct Batch {
    /// In the order of the pipeline.
    pub commands: Vec<Command>,
    /// Keys of users that it writes.
    pub keys_written: u64,
    holds: Vec<(Place, Pending)>,
    users: Vec<Arc<str>>,
    said: Vec<(Place, Box<str>)>,
    garbage: Vec<String>,
    seq: u64,
    part: Part,
}

/// Which part of the work a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
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
        let renew_after = (ticks_per_ttl / 2).max(1);
        Self {
            schema,
            number,
            holds: HashMap::default(),
            said: Vec::new(),
            said_bytes: 0,
            users: HashSet::default(),
            leases: HashMap::default(),
            wheel: Wheel::new(WHEEL_TICKS.min(ticks_per_ttl) + 1),
            garbage: Vec::new(),
            renew_after,
            renew_spread: (ticks_per_ttl / 10).max(1),
            seq: 0,
            confirmed: None,
            header: 0,
            edition: 0,
            hash: Hash::Unknown,
            random: seed | 1,
        }
    }

    /// Takes what sessions of this node did.
    pub fn record(&mut self, news: News) {
        let place = (news.room, news.user);
        match news.what {
            What::Told(told) => {
                self.users.insert(Arc::clone(&place.1));
                self.record_hold(place, told);
            }
            What::Said(data) => {
                let bytes = data.len() + size_of::<Place>();
                if self.said_bytes + bytes <= MAX_SAID_BYTES {
                    self.said_bytes += bytes;
                    self.said.push((place, data));
                }
            }
        }
    }

    fn record_hold(&mut self, place: Place, told: Told) {
        let fresh = match self.holds.get(&place) {
            Some(Pending::Held { fresh, .. }) => *fresh,
            Some(Pending::Released(_)) => false,
            None => matches!(told, Told::Held { joined: true, .. }),
        };
        match told {
            Told::Held { state, joined } => {
                self.holds.insert(place, Pending::Held { state, joined, fresh });
            }
            Told::Released(_) if fresh => {
                if !self.leases.contains_key(&place.1) {
                    self.users.remove(&place.1);
                }
                self.holds.remove(&place);
            }
            Told::Released(reason) => {
                self.holds.insert(place, Pending::Released(reason));
            }
        }
    }

    /// Deletes what a dead run has left in this lane.
    pub fn bury(&mut self, run: &str) {
        self.garbage.push(self.schema.hash_key(self.number, run));
    }

    /// The user's key is to be written again: another node may have deleted it.
    pub fn renew(&mut self, user: &str) {
        if let Some((user, _)) = self.leases.get_key_value(user) {
            self.users.insert(Arc::clone(user));
        }
    }

    /// Marks the keys whose time has come.
    pub fn expire(&mut self, now: Tick) {
        let mut due = Vec::new();
        self.wheel.take_due(now, &mut due);
        for (user, slot) in due {
            let Some(lease) = self.leases.get_mut(&user).filter(|lease| lease.slot == slot) else { continue };
            if lease.due > now {
                lease.slot = lease.due;
                self.wheel.insert(lease.due, (user, lease.due));
            } else {
                self.users.insert(user);
            }
        }
    }

    /// What waits to be written.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.holds.len() + self.users.len() + self.said.len() + self.garbage.len()
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
    pub fn beacon(&self) -> Vec<Command> {
        let key = self.schema.hash_key(self.number, &self.schema.run);
        let look = Command::HashHead(key.clone());
        if !self.is_whole() {
            return vec![look];
        }
        vec![
            look,
            Command::Keep { key, ttl_ms: self.schema.hash_ttl_ms() },
            self.tell(event::Writer::new(&self.schema.run, self.seq)),
        ]
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
        let mut commands = Vec::new();
        if std::mem::take(first) {
            commands.push(Command::Unlink(key.clone()));
        }
        let page = users.split_off(users.len().saturating_sub(BATCH));
        let last = users.is_empty();
        let edition = (EDITION.to_owned(), self.edition.to_string());
        let mut fields = vec![(HEADER.to_owned(), Header::Partial.text()), edition];
        for user in &page {
            if let Some(held) = registry.held_here(user, true) {
                let holds = held.rooms.iter();
                fields.extend(holds.map(|(room, state)| (field(room, user), hold(held.since_unix_ms, state.as_ref()))));
            }
        }
        if last {
            self.hash = Hash::Whole;
            self.seq += 1; // Whoever has seen the former hash must read this one.
            fields[0].1 = Header::Whole(self.seq).text();
            self.header = self.seq;
        }
        commands.push(Command::HashSet { key: key.clone(), fields });
        commands.push(Command::Keep { key, ttl_ms: self.schema.hash_ttl_ms() });
        let keys_written = self.write_users(&page, registry, now, &mut commands);
        if last {
            commands.push(self.tell(event::Writer::new(&self.schema.run, self.seq)));
        }
        let part = if last { Part::LastPage } else { Part::Page };
        Batch {
            commands,
            keys_written,
            holds: Vec::new(),
            users: page,
            said: Vec::new(),
            garbage: Vec::new(),
            seq: self.seq,
            part,
        }
    }

    fn changes(&mut self, registry: &Registry, now: Tick) -> Batch {
        let holds: Vec<_> = self.holds.extract_if(|_, _| true).take(BATCH).collect();
        let users: Vec<_> = self.users.extract_if(|_| true).take(BATCH).collect();
        let said = std::mem::take(&mut self.said);
        self.said_bytes = 0;
        let mut commands = Vec::with_capacity(users.len() + 3);
        let garbage = std::mem::take(&mut self.garbage);
        commands.extend(garbage.iter().cloned().map(Command::Unlink));
        if !(holds.is_empty() && said.is_empty()) {
            self.seq += 1;
            self.write_holds(&holds, &said, registry, &mut commands);
        }
        let keys_written = self.write_users(&users, registry, now, &mut commands);
        Batch { commands, keys_written, holds, users, said, garbage, seq: self.seq, part: Part::Changes }
    }

    /// The hash first, then its header, then the event: whoever hears of it can read it.
    fn write_holds(
        &mut self,
        holds: &[(Place, Pending)],
        said: &[(Place, Box<str>)],
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
                    let since = registry.status(user).map_or(0, |status| status.since_unix_ms);
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

    /// Writes the keys of these users, or deletes them if no node holds them.
    fn write_users(&mut self, users: &[Arc<str>], registry: &Registry, now: Tick, commands: &mut Vec<Command>) -> u64 {
        let before = commands.len();
        for user in users {
            let key = self.schema.user_key(user);
            match registry.held_here(user, false) {
                Some(held) => {
                    commands.push(self.set_user(key, &held));
                    self.lease(user, now);
                }
                None => {
                    self.leases.remove(user);
                    // Another node that holds the user writes the key anew when it hears that this one does not.
                    if !registry.is_held_elsewhere(user) {
                        commands.push(Command::Unlink(key));
                    }
                }
            }
        }
        (commands.len() - before) as u64
    }

    fn set_user(&self, key: String, held: &HeldHere) -> Command {
        Command::Set { key, value: self.schema.user_value(held), ttl_ms: self.schema.ttl_ms() }
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
            self.holds.entry(place).or_insert_with_key(|(room, user)| match registry.told(room, user) {
                Some(state) => Pending::Held { state, joined, fresh: false },
                None => Pending::Released(reason),
            });
        }
        self.users.extend(batch.users);
        self.garbage.extend(batch.garbage);
        let (later, bytes) = (std::mem::replace(&mut self.said, batch.said), self.said_bytes);
        self.said_bytes = self.said.iter().map(|(_, data)| data.len() + size_of::<Place>()).sum();
        if self.said_bytes + bytes <= MAX_SAID_BYTES {
            self.said_bytes += bytes;
            self.said.extend(later);
        }
    }
}
