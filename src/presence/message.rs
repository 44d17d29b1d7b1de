//! Messages to the observers of a room.

use std::sync::Arc;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomMessage {
    /// The member who published it; `None` for the application.
    pub user: Option<Arc<str>>,
    /// Compact JSON text.
    pub data: Box<str>,
    /// What the data is.
    pub form: Form,
    /// The number of a connection that does not receive it.
    pub excluded: Option<u64>,
    /// Who published it.
    pub publisher: Publisher,
    /// Whether it was published on this node, which forwards it to the other nodes.
    pub is_local: bool,
    /// Whether later observers receive it. The tick sets it for messages of this node.
    pub keeping: Keeping,
    /// The tick sets it for messages of this node.
    pub stamp: MessageStamp,
}

/// What the data of a message is. Each audience receives messages of one form, so that clients that know only events
/// and clients that know only plain data can share a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Whatever its publisher wants to say.
    Plain,
    /// An object with the name of an event and its data, which may be nested to any depth.
    Event,
}

/// Whether later observers receive a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keeping {
    /// They do not.
    #[default]
    No,
    /// As part of the history of the room.
    History,
    /// If it is the last one of the application.
    Last,
}

/// Who publishes a message. Clients cannot use up the limits of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publisher {
    /// A client.
    Client,
    /// The application.
    Application,
}

/// Names a message in the whole cluster. Stamps are ordered by time; those of the same time have an order that is the
/// same on every node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageStamp {
    /// The time of the tick in which the node of its sender delivered it, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The incarnation of that node.
    pub incarnation: u64,
    /// Counts the messages of the incarnation.
    pub number: u64,
}

impl MessageStamp {
    /// Whether the message was published after another one. Messages of the same incarnation are compared by number, so
    /// the result is right although the clock of the node was set back.
    #[must_use]
    pub fn is_after(self, other: Self) -> bool {
        match self.incarnation == other.incarnation {
            true => self.number > other.number,
            false => self > other,
        }
    }
}

/// A message that an application publishes to the observers of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationMessage {
    /// The room.
    pub room: String,
    /// Compact JSON text.
    pub data: Box<str>,
    /// What the data is.
    pub form: Form,
    /// The number of a connection that does not receive it.
    pub excluded: Option<u64>,
}

impl ApplicationMessage {
    /// What it takes of the limit of its room.
    pub(super) fn bytes(&self) -> usize {
        size_of::<RoomMessage>() + self.data.len()
    }
}

impl RoomMessage {
    /// What it takes of the limit of its room.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.user.as_ref().map_or(0, |user| user.len()) + self.data.len()
    }

    /// A message of plain data that a member, or without one the application, published on this node.
    #[must_use]
    pub fn local(user: Option<Arc<str>>, data: Box<str>) -> Self {
        let publisher = if user.is_some() { Publisher::Client } else { Publisher::Application };
        let stamp = MessageStamp::default();
        let form = Form::Plain;
        Self { user, data, form, excluded: None, publisher, is_local: true, keeping: Keeping::No, stamp }
    }

    /// A message of another node.
    #[must_use]
    pub fn remote(user: Option<Arc<str>>, data: Box<str>, stamp: MessageStamp) -> Self {
        Self { is_local: false, stamp, ..Self::local(user, data) }
    }

    /// The same message, which a client published that may not be a member.
    #[must_use]
    pub fn of_client(self) -> Self {
        Self { publisher: Publisher::Client, ..self }
    }

    /// The same message with data of this form.
    #[must_use]
    pub fn in_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// The same message, which later observers receive or not.
    #[must_use]
    pub fn kept(self, keeping: Keeping) -> Self {
        Self { keeping, ..self }
    }

    /// The same message, which the connection with this number does not receive.
    #[must_use]
    pub fn except(self, number: Option<u64>) -> Self {
        Self { excluded: number, ..self }
    }
}
