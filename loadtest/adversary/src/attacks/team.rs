//! Sockets that an attacker holds together: opens them a few at a time, and again when the server ends them.

use crate::client::Reading;
use crate::swarm::{Event, Id, Swarm};

/// Handshakes under way at once. More would be refused by the backlog of the listener.
const AT_ONCE: usize = 64;
/// Attacks stop queueing when this many bytes wait.
pub(crate) const FULL: usize = 64 * 1024;

/// What a new socket is.
pub(crate) type PathOf = Box<dyn FnMut(usize) -> String + Send>;

pub(crate) struct Team {
    size: usize,
    reading: Reading,
    /// The path of the n-th handshake; counts on when sockets are replaced.
    path_of: PathOf,
    opened: usize,
    connecting: Vec<Id>,
    pub(crate) open: Vec<Id>,
}

impl Team {
    pub(crate) fn new(size: usize, reading: Reading, path_of: impl FnMut(usize) -> String + Send + 'static) -> Self {
        Self { size, reading, path_of: Box::new(path_of), opened: 0, connecting: Vec::new(), open: Vec::new() }
    }

    /// Opens what is missing.
    pub(crate) fn fill(&mut self, swarm: &mut Swarm) {
        while self.connecting.len() < AT_ONCE && self.connecting.len() + self.open.len() < self.size {
            let path = (self.path_of)(self.opened);
            self.opened += 1;
            self.connecting.push(swarm.websocket(&path, self.reading));
        }
    }

    /// Keeps the lists right. Returns the socket if it is now open.
    pub(crate) fn note(&mut self, event: &Event) -> Option<Id> {
        match event {
            Event::Open(id) => {
                let place = self.connecting.iter().position(|other| other == id)?;
                self.connecting.swap_remove(place);
                self.open.push(*id);
                Some(*id)
            }
            Event::Closed(id, _) => {
                self.forget(*id);
                None
            }
            Event::Text(..) | Event::Answer { .. } => None,
        }
    }

    pub(crate) fn forget(&mut self, id: Id) {
        self.connecting.retain(|other| *other != id);
        self.open.retain(|other| *other != id);
    }

    /// Sets how many may be open for now.
    pub(crate) fn fill_up_to(&mut self, swarm: &mut Swarm, limit: usize) {
        let full = self.size;
        self.size = limit.min(full);
        self.fill(swarm);
        self.size = full;
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.open.len() == self.size
    }
}

/// A state of about this many bytes.
pub(crate) fn state(bytes: usize, number: u64) -> String {
    format!(r#"{{"n":{number},"x":"{}"}}"#, "x".repeat(bytes.saturating_sub(24)))
}
