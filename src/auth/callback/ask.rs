//! A question on its way, and the clients that wait for its answer.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Verdict;
use super::question::{Key, Question};
use crate::peer::PeerAddress;

/// Clients that may share one request. A browser opens a few connections at once.
pub(super) const MAX_SHARERS: usize = 256;

/// A question of a client that waits for its answer.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) key: Key,
    pub(super) question: Question,
    /// The address of a newcomer; `None` if a user who is connected is asked about.
    pub(super) address: Option<PeerAddress>,
    /// How long an accepted identity is reused for equal questions.
    pub(super) reuse: Duration,
    /// Dropped by a client that no longer waits.
    pub(super) reply: oneshot::Sender<Verdict>,
}

/// A question that waits or is asked.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) question: Question,
    pub(super) address: Option<PeerAddress>,
    pub(super) reuse: Duration,
    /// When it came.
    pub(super) since: Instant,
    pub(super) is_running: bool,
    pub(super) replies: Vec<oneshot::Sender<Verdict>>,
}

impl Entry {
    /// Whether a client still waits for the answer.
    pub(super) fn is_wanted(&self) -> bool {
        self.replies.iter().any(|reply| !reply.is_closed())
    }

    /// Answers all who wait.
    pub(super) fn reply(self, verdict: &Verdict) {
        for reply in self.replies {
            // The client may have gone.
            let _ = reply.send(verdict.clone());
        }
    }
}
