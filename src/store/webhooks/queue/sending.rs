//! Requests: changes leave the queue for one, and return if it is given up.

use super::entry::{Change, Entry, Place, Subject};
use super::{BATCH_MS, Fit, Frozen, MAX_CHANGES, MAX_SKIPPED, Ms, Overflow, Queue};

impl Queue {
    /// When the next request may be made; `None` if nothing is pending or a request is under way.
    #[must_use]
    pub fn due(&self) -> Option<Ms> {
        if self.frozen.is_some() {
            return None;
        }
        let (ready, _) = self.order.keys().next()?;
        if self.is_closing {
            return Some(0);
        }
        let full = self.order.keys().nth(MAX_CHANGES - 1).map_or(Ms::MAX, |(ready, _)| *ready);
        Some((ready + BATCH_MS).min(full))
    }

    /// Takes changes that are ready out for a request. `fit` adds a change to the request if it fits. False if there
    /// are none.
    pub fn freeze(&mut self, now: Ms, mut fit: impl FnMut(&Change) -> Fit) -> bool {
        let until = if self.is_closing { Ms::MAX } else { now + 1 };
        let (mut changes, mut taken, mut skipped, mut oldest) = (Vec::new(), Vec::new(), 0, now);
        for (place, subject) in self.order.range(..(until, 0)) {
            if taken.len() == MAX_CHANGES || skipped == MAX_SKIPPED {
                break;
            }
            let Some((change, first)) = self.change(*place, subject) else { continue };
            match fit(&change) {
                Fit::Taken => {
                    oldest = oldest.min(first);
                    taken.push((*place, subject.clone()));
                    changes.push(change);
                }
                Fit::Other => skipped += 1,
                Fit::Full => break,
            }
        }
        for (place, subject) in taken {
            self.remove(place, &subject);
        }
        if changes.is_empty() {
            return false;
        }
        let has_resync = changes.iter().any(|change| matches!(change, Change::Resync(_)));
        self.frozen = Some(Frozen { changes, has_resync, since: now, first: oldest });
        true
    }

    /// The pending change at a place, and since when it is pending.
    fn change(&self, place: Place, subject: &Subject) -> Option<(Change, Ms)> {
        let resync = match subject {
            Subject::Everything => self.resync.as_ref(),
            Subject::Room(room) => self.rooms.get(room).and_then(|queue| queue.resync.as_ref()),
            _ => None,
        };
        if let Some(resync) = resync.filter(|resync| resync.place == place) {
            return Some((Change::Resync(subject.clone()), resync.first));
        }
        if let Subject::Notice(number) = subject {
            return self.notices.change(*number);
        }
        let entry = match subject {
            Subject::Member(room, user) => self.rooms.get(room)?.members.get(user)?,
            Subject::Room(room) => self.rooms.get(room)?.occupancy.as_ref()?,
            Subject::User(user) => self.users.get(user)?,
            Subject::Count(room) => self.rooms.get(room)?.count.as_ref()?,
            Subject::Everything | Subject::Notice(_) => return None,
        };
        let Entry { now, at_unix_ms, since_unix_ms, first, .. } = entry;
        let (at_unix_ms, since_unix_ms, now) = (*at_unix_ms, *since_unix_ms, now.clone());
        let kind = entry.kind(subject)?;
        Some((Change::Status { subject: subject.clone(), kind, now, at_unix_ms, since_unix_ms }, *first))
    }

    fn remove(&mut self, place: Place, subject: &Subject) {
        self.order.remove(&place);
        match subject {
            Subject::Everything => self.resync = None,
            Subject::Room(room) => {
                if let Some(queue) = self.rooms.get_mut(room) {
                    queue.resync.take_if(|resync| resync.place == place);
                    queue.occupancy.take_if(|entry| entry.place == place);
                    if queue.is_empty() {
                        self.rooms.remove(room);
                    }
                }
            }
            Subject::Notice(number) => self.notices.remove(*number),
            Subject::Member(..) | Subject::User(_) | Subject::Count(_) => drop(self.take(subject)),
        }
    }

    /// The request has arrived.
    pub fn delivered(&mut self) {
        self.frozen = None;
    }

    /// The request is not sent any more. Returns how many changes it has.
    pub fn discard(&mut self) -> u64 {
        self.frozen.take().map_or(0, |frozen| frozen.changes.len() as u64)
    }

    /// Changes were dropped that did not reach the queue, or left it undelivered.
    pub fn note_dropped(&mut self, changes: u64) {
        self.dropped += changes;
    }

    /// Whether a request is under way: it was not delivered and not given up.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.frozen.is_some()
    }

    /// Drops all changes but those of some subjects: another node reports the others from now on. A request that has
    /// some of the others is given up.
    pub fn retain(&mut self, now: Ms, keeps: impl Fn(&Subject) -> bool) {
        let others: Vec<_> = self.order.iter().filter(|(_, subject)| !keeps(subject)).collect();
        let others: Vec<_> = others.into_iter().map(|(place, subject)| (*place, subject.clone())).collect();
        for (place, subject) in others {
            self.remove(place, &subject);
        }
        let Some(frozen) = &mut self.frozen else { return };
        let before = frozen.changes.len();
        frozen.changes.retain(|change| keeps(change.subject()));
        if frozen.changes.len() < before {
            self.give_up(now);
        }
    }

    /// Gives the request up: nobody knows whether it has arrived. The receiver must read its rooms again; the status of
    /// its users, and notices, are sent again.
    pub fn give_up(&mut self, now: Ms) {
        let Some(Frozen { changes, first, .. }) = self.frozen.take() else { return };
        for change in changes {
            let (subject, status, at_unix_ms, since_unix_ms) = match change {
                Change::Status { subject, now, at_unix_ms, since_unix_ms, .. } => {
                    (subject, now, at_unix_ms, since_unix_ms)
                }
                Change::Notice(Subject::Notice(number), notice) => {
                    self.insert_notice(number, notice, first);
                    continue;
                }
                Change::Resync(subject) | Change::Notice(subject, _) => {
                    self.resync_subject(&subject, first, now);
                    continue;
                }
            };
            if self.settings.overflow == Overflow::Resync && !matches!(subject, Subject::User(_)) {
                self.resync_subject(&subject, first, now);
            } else if let Some(entry) = self.take(&subject) {
                self.insert(subject, Entry { before: None, first: first.min(entry.first), ..entry });
            } else if self.resync.is_none() {
                self.put(subject, None, status, (at_unix_ms, since_unix_ms), now);
            }
        }
        if self.order.len() > self.settings.max_changes {
            self.shrink(now);
        }
    }
}
