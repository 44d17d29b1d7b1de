//! The statuses of a tick as connections see them. Connections that may observe every room share what the tick encoded.
//! For the others the state of a user comes only from rooms that they may observe: it is encoded here, once for all
//! that have the same permissions.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::auth::{Action, Permissions};
use crate::broadcast::StatusFrame;
use crate::presence::UserStatus;
use crate::protocol::Protocol;

/// The statuses of a tick. Each has a number: those that the tick encoded have their index in the batch, and the ones
/// of restricted watchers follow.
#[derive(Debug)]
pub(super) struct Views<'a> {
    statuses: &'a [StatusFrame],
    /// What was encoded here, with the index of the status in the batch.
    own: Vec<(usize, SmallVec<[Bytes; 2]>)>,
    /// Their numbers, by the index of the status in the batch and the first of the formats.
    numbers: HashMap<(usize, Bytes), usize, RandomState>,
    /// By the index of the status in the batch and the address of the permissions, which live as long as the watchers.
    known: HashMap<(usize, usize), Option<View>, RandomState>,
}

/// A status as some connections see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    /// Its number.
    pub(super) number: usize,
    /// Whether they could see that it changed.
    pub(super) changed: bool,
}

impl<'a> Views<'a> {
    pub(super) fn new(statuses: &'a [StatusFrame]) -> Self {
        Self { statuses, own: Vec::new(), numbers: HashMap::default(), known: HashMap::default() }
    }

    /// The status with this index in the batch, as connections with these permissions see it, and the work that it took
    /// to find out. `None` if that is not known in this tick: it is in the next one.
    pub(super) fn of(&mut self, at: usize, permissions: Option<&Arc<Permissions>>) -> (Option<View>, usize) {
        let status = &self.statuses[at];
        let Some(permissions) = permissions else {
            return (Some(View { number: at, changed: status.changed }), 0);
        };
        let key = (at, Arc::as_ptr(permissions) as usize);
        if let Some(known) = self.known.get(&key) {
            return (*known, 0);
        }
        let details = status.details.as_ref();
        let work = details.map_or(0, |details| details.states() * permissions.check_work());
        let view = details.map(|details| {
            let (visible, changed) = details.visible(|room| permissions.allow(Action::Observe, room));
            View { number: self.number_of(at, &visible), changed }
        });
        self.known.insert(key, view);
        (view, work)
    }

    /// The user of a status.
    pub(super) fn user(&self, number: usize) -> &Arc<str> {
        &self.statuses[self.index(number)].user
    }

    /// A status in one of the formats.
    pub(super) fn object(&self, number: usize, format: usize) -> &Bytes {
        match self.statuses.get(number) {
            Some(status) => &status.objects[format],
            None => &self.own[number - self.statuses.len()].1[format],
        }
    }

    /// The index in the batch.
    pub(super) fn index(&self, number: usize) -> usize {
        number.checked_sub(self.statuses.len()).map_or(number, |own| self.own[own].0)
    }

    /// The number of the status of this index that looks like this to its watchers.
    fn number_of(&mut self, at: usize, visible: &UserStatus) -> usize {
        let user = &self.statuses[at].user;
        let encoders = Protocol::ALL.iter().filter_map(|protocol| protocol.rules().status);
        let objects: SmallVec<[Bytes; 2]> = encoders.map(|encoder| (encoder.user)(user, visible)).collect();
        if objects == self.statuses[at].objects {
            return at;
        }
        let Some(first) = objects.first().cloned() else { return at };
        let next = self.statuses.len() + self.own.len();
        let number = *self.numbers.entry((at, first)).or_insert(next);
        if number == next {
            self.own.push((at, objects));
        }
        number
    }
}
