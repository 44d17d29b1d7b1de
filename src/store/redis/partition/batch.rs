//! Batches of a lane: what goes into one pipeline, and what becomes of it when it was answered, or was not.

use std::sync::Arc;

use super::super::command::{Command, Reply};
use super::super::event;
use super::super::schema::{EDITION, HEADER, Header, field, hold};
use super::{Going, Hash, Lane, Outcome, Pending, RoomMessage};
use crate::presence::kick::MAX_WAITING;
use crate::presence::{Reason, Registry, Tick};
use crate::store::RoomUser;

/// Users, and as many holds, that one pipeline writes: more gain nothing, and delay others on the same master.
const BATCH: usize = 1000;
/// And as many bytes, of states mostly: what Redis takes in some milliseconds.
const BATCH_BYTES: usize = 1024 * 1024;

/// Commands that go to Redis together, and what they were for.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order of the pipeline.
    pub commands: Vec<Command>,
    /// Keys of users that it writes.
    pub keys_written: u64,
    /// Those that are held with since when the user has been online.
    holds: Vec<(RoomUser, Pending, u64)>,
    users: Vec<Arc<str>>,
    said: Vec<RoomMessage>,
    kicks: Vec<Going>,
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

impl Lane {
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
            let held = registry.local_holds(&user, true).unwrap_or_default();
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
        let holds = self.take_holds(registry);
        for ((_, user), pending, _) in &holds {
            // A hold without a key would not be seen by whoever looks at keys alone.
            if matches!(pending, Pending::Held { .. }) && !self.keys.has(user) {
                self.keys.mark(user);
            }
        }
        let kicks = std::mem::take(&mut self.kicks);
        let kicks = self.recent(kicks);
        let (said, garbage) = (std::mem::take(&mut self.said), std::mem::take(&mut self.garbage));
        self.said_bytes = 0;
        let mut commands: Vec<_> = garbage.iter().cloned().map(Command::Unlink).collect();
        if !(holds.is_empty() && said.is_empty()) {
            self.seq += 1;
            self.write_holds(&holds, &said, &kicks, &mut commands);
        } else if !kicks.is_empty() {
            commands.push(self.tell_again(&kicks));
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
        Batch { commands, keys_written, holds, users, said, kicks, garbage, seq: self.seq, part }
    }

    /// Takes as many holds as go into one batch.
    fn take_holds(&mut self, registry: &Registry) -> Vec<(RoomUser, Pending, u64)> {
        let (mut holds, mut bytes) = (Vec::new(), 0);
        for (place, pending) in self.holds.extract_if(|_, _| true) {
            let mut since = 0;
            if let Pending::Held { state, .. } = &pending {
                // Gone from the registry already: its end is about to be recorded.
                let Some(online_since) = registry.since(&place.1) else { continue };
                since = online_since;
                bytes += state.as_ref().map_or(0, |state| state.as_str().len());
            }
            holds.push((place, pending, since));
            if holds.len() >= BATCH || bytes >= BATCH_BYTES {
                break;
            }
        }
        holds
    }

    /// The hash first, then its header, then the event: whoever hears of it can read it.
    fn write_holds(
        &mut self,
        holds: &[(RoomUser, Pending, u64)],
        said: &[RoomMessage],
        kicks: &[Going],
        commands: &mut Vec<Command>,
    ) {
        let key = self.schema.hash_key(self.number, &self.schema.run);
        let mut event = event::Writer::new(&self.schema.run, self.seq);
        let mut fields = Vec::with_capacity(holds.len());
        let mut removed = Vec::new();
        for ((room, user), pending, since) in holds {
            match pending {
                Pending::Held { state, joined, .. } => {
                    fields.push((field(room, user), hold(*since, state.as_ref())));
                    event.held(*joined, room, user, *since, state.as_ref());
                }
                Pending::Released(reason) => {
                    removed.push(field(room, user));
                    event.left(room, user, *reason);
                }
            }
        }
        for RoomMessage { number, place: (room, user), data } in said {
            event.said(*number, room, user, data);
        }
        kicks.iter().for_each(|going| event.removed(going.number, &going.kick));
        if !removed.is_empty() {
            commands.push(Command::HashRemove { key: key.clone(), fields: removed });
        }
        if !fields.is_empty() {
            commands.push(Command::HashSet { key: key.clone(), fields });
        }
        commands.push(Command::HashCount { key: key.clone(), field: HEADER, by: self.seq - self.header });
        // If it was lost and this begins it anew, nothing else may give it an end before this node dies.
        commands.push(Command::Keep { key, ttl_ms: self.schema.hash_ttl_ms() });
        self.header = self.seq;
        commands.push(self.tell(event));
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
        self.told_kicks.extend(batch.kicks.iter().cloned());
        // Of too many the oldest go: the others remember the latest.
        self.told_kicks.drain(..self.told_kicks.len().saturating_sub(MAX_WAITING));
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
        for (place, pending, _) in batch.holds {
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
        self.kicks.splice(0..0, batch.kicks);
        self.kicks.truncate(MAX_WAITING);
        let later = std::mem::take(&mut self.said);
        self.said_bytes = 0;
        self.keep_said(batch.said);
        self.keep_said(later);
    }
}
