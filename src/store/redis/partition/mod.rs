//! What this node has still to write in one lane, and in which order. It decides and does no I/O.
//!
//! Everything waiting is kept by user and room, last word wins, so it is bounded by who is here and who was here when Redis was
//! last reached, however long ago that is. A batch that failed is merged back: nobody knows how much of it was done, and all of
//! it may be done twice.

mod batch;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::command::{Command, Reply};
use super::event;
use super::keys::Keys;
use super::schema::{Head, Header, Schema};
use crate::presence::kick::{Kick, MAX_WAITING};
use crate::presence::{HoldChange, Reason, Registry, State, Tick};
use crate::store::{RoomUser, StoreEvent};

pub use batch::Batch;

/// What was said and could not be told yet; more is not kept, chat is of its moment.
const MAX_SAID_BYTES: usize = 256 * 1024;

/// Writes of one lane. Used by its one task.
#[derive(Debug)]
pub struct Lane {
    schema: Arc<Schema>,
    number: usize,
    /// Holds to write, by room and user.
    holds: HashMap<RoomUser, Pending, RandomState>,
    /// What was said, in order.
    said: Vec<RoomMessage>,
    said_bytes: usize,
    /// How much was said so far.
    said_count: u64,
    /// Users who are to go and whom nobody has been told of.
    kicks: Vec<Going>,
    /// Whom the others have been told of, and are told of again for a while: they may have been away.
    told_kicks: Vec<Going>,
    kicks_asked: u64,
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

/// A message to a room.
#[derive(Debug)]
struct RoomMessage {
    /// Those who are told twice, because nobody knew whether the first time was heard, know it by this.
    number: u64,
    place: RoomUser,
    data: Box<str>,
}

/// A user who is to go.
#[derive(Debug, Clone)]
struct Going {
    asked: Tick,
    /// Those who are told several times know it by this.
    number: u64,
    kick: Kick,
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
            said_count: 0,
            kicks: Vec::new(),
            told_kicks: Vec::new(),
            kicks_asked: 0,
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
    pub fn record(&mut self, news: StoreEvent) {
        match news {
            StoreEvent::HoldChange(place, told) => {
                self.keys.mark(&place.1);
                self.record_hold(place, told);
            }
            StoreEvent::RoomMessage { user: None, .. } => {}
            StoreEvent::RoomMessage { room, user: Some(user), data } => {
                let place = (room, user);
                self.said_count += 1;
                self.keep_said(vec![RoomMessage { number: self.said_count, place, data }]);
            }
            StoreEvent::Removed(kick) if self.kicks.len() < MAX_WAITING => {
                self.kicks_asked += 1;
                self.kicks.push(Going { asked: self.now, number: self.kicks_asked, kick });
            }
            StoreEvent::Removed(_) => {}
        }
    }

    fn record_hold(&mut self, place: RoomUser, told: HoldChange) {
        let fresh = match self.holds.get(&place) {
            Some(Pending::Held { fresh, .. }) => *fresh,
            Some(Pending::Released(_)) => false,
            // While batches go out, one that is on its way may have told of it.
            None => matches!(told, HoldChange::Held { joined: true, .. }) && matches!(self.hash, Hash::Unknown),
        };
        match told {
            HoldChange::Held { state, joined } => {
                self.holds.insert(place, Pending::Held { state, joined, fresh });
            }
            HoldChange::Released(_) if fresh => {
                if !self.keys.has(&place.1) {
                    self.keys.unmark(&place.1);
                }
                self.holds.remove(&place);
            }
            HoldChange::Released(reason) => {
                self.holds.insert(place, Pending::Released(reason));
            }
        }
    }

    /// Keeps what was said, as far as there is room for it.
    fn keep_said(&mut self, said: Vec<RoomMessage>) {
        for said in said {
            let bytes = said.data.len() + size_of::<RoomMessage>();
            if self.said_bytes + bytes <= MAX_SAID_BYTES {
                self.said_bytes += bytes;
                self.said.push(said);
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
        self.holds.len() + self.keys.dirty() + self.said.len() + self.kicks.len() + self.garbage.len()
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
        let told = std::mem::take(&mut self.told_kicks);
        self.told_kicks = self.recent(told);
        let key = self.schema.hash_key(self.number, &self.schema.run);
        let look = Command::HashHead(key.clone());
        if !self.is_whole() {
            return vec![look];
        }
        vec![look, Command::Keep { key, ttl_ms: self.schema.hash_ttl_ms() }, self.tell_again(&self.told_kicks)]
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

    /// Whether the header may publish this, as far as is known: on a new connection nobody knows how much of what was on its way arrived.
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
        self.keys.forget_ended(registry);
        self.confirmed = None;
        self.edition += 1;
        let users = registry.local_users(|user| self.schema.lane_of(user) == self.number);
        self.hash = Hash::Rewriting { users, first: true };
    }

    /// Those that were asked for within a lease: later, whoever has come back has come back.
    fn recent(&self, mut kicks: Vec<Going>) -> Vec<Going> {
        let oldest = self.now.saturating_sub(self.ticks_per_ttl);
        kicks.retain(|going| going.asked >= oldest);
        kicks
    }

    /// Nothing new, but for users who are to go.
    fn tell_again(&self, kicks: &[Going]) -> Command {
        let mut event = event::Writer::new(&self.schema.run, self.seq);
        kicks.iter().for_each(|going| event.removed(going.number, &going.kick));
        self.tell(event)
    }

    fn tell(&self, event: event::Writer) -> Command {
        Command::Publish { channel: self.schema.events(self.number), message: event.finish() }
    }
}

#[cfg(test)]
mod tests;
