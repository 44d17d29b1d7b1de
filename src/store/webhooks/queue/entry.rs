//! One pending change: what the receiver knows of a subject, and what is true now.

use std::sync::Arc;

use super::Ms;
use crate::presence::{Reason, State};
use crate::store::Notice;
use crate::store::webhooks::selection::Kind;

/// What changes are about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Everything: only in [`Change::Resync`].
    Everything,
    /// A room: whether it is occupied, or a resync of it.
    Room(Arc<str>),
    /// A user in a room.
    Member(Arc<str>, Arc<str>),
    /// A user in any room.
    User(Arc<str>),
    /// How many observers a room has.
    Count(Arc<str>),
    /// A notice, by its number: only in [`Change::Notice`].
    Notice(u64),
}

/// Whether a member, a room's members, or a user is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Present, with what a member shows.
    Present(Option<State>),
    /// Absent, with the reason of a member that left.
    Absent(Option<Reason>),
    /// Not a presence, but a number of observers.
    Count(u64),
}

impl Status {
    fn is_present(&self) -> bool {
        matches!(self, Self::Present(_))
    }

    /// Whether a receiver that knows one of them need not be told the other.
    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present(one), Self::Present(other)) => one == other,
            (Self::Count(one), Self::Count(other)) => one == other,
            _ => self.is_present() == other.is_present(),
        }
    }
}

/// A change that is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// What the receiver knows of a room, or of everything, is void; it must read it again.
    Resync(Subject),
    /// The subject is present, absent, or shows something else.
    Status {
        /// A room, a member or a user.
        subject: Subject,
        /// What the event is called.
        kind: Kind,
        /// What is true now.
        now: Status,
        /// When it came true, in milliseconds since the Unix epoch.
        at_unix_ms: u64,
        /// When the presence began, in milliseconds since the Unix epoch.
        since_unix_ms: u64,
    },
    /// Something happened once.
    Notice(Subject, Notice),
}

impl Change {
    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        match self {
            Self::Resync(subject) | Self::Notice(subject, _) | Self::Status { subject, .. } => subject,
        }
    }
}

/// A pending change. Later changes of the subject replace what is true now.
#[derive(Debug)]
pub(super) struct Entry {
    /// What the receiver knows; `None` if that is uncertain, so that it must be told in any case.
    pub(super) before: Option<Status>,
    pub(super) now: Status,
    pub(super) at_unix_ms: u64,
    pub(super) since_unix_ms: u64,
    /// Since when it is pending.
    pub(super) first: Ms,
    /// Its key in the order of sending.
    pub(super) place: Place,
}

/// When a change may be sent, and its number among the changes that may be sent at that time.
pub(super) type Place = (Ms, u64);

impl Entry {
    /// The kind of the event; `None` if the receiver knows already.
    pub(super) fn kind(&self, subject: &Subject) -> Option<Kind> {
        if self.before.as_ref().is_some_and(|before| before.equals(&self.now)) {
            return None;
        }
        let was_present = self.before.as_ref().is_some_and(Status::is_present);
        Some(match (subject, self.now.is_present()) {
            (Subject::Room(_), true) => Kind::RoomOccupied,
            (Subject::Room(_), false) => Kind::RoomVacated,
            (Subject::User(_), true) => Kind::UserOnline,
            (Subject::User(_), false) => Kind::UserOffline,
            (Subject::Count(_), _) => Kind::SubscriptionCount,
            (_, true) if was_present => Kind::MemberUpdated,
            (_, true) => Kind::MemberJoined,
            (_, false) => Kind::MemberLeft,
        })
    }

    /// Whether a newer status moves it to the end of the order: occupied rooms stand before their first join and vacant
    /// ones after the last leave. Another state moves nothing, or a busy member would never be sent.
    pub(super) fn moves(&self, now: &Status) -> bool {
        self.now.is_present() != now.is_present()
    }
}
