//! The state that a user shows in a room: a JSON object.

use std::fmt;
use std::sync::Arc;

/// The longest state, in bytes of compact JSON.
pub const MAX_STATE_BYTES: usize = 1024;

/// Compact JSON text and the time when it was written, shared by all copies.
///
/// One pointer wide, where an `Arc<str>` has two: many members have no state, and each has room for one in three places
/// (session, membership, roster). Two states are equal if their JSON is equal, whenever they were written.
#[derive(Clone)]
pub struct State(Arc<Text>);

#[derive(Clone)]
struct Text {
    /// Milliseconds since the Unix epoch, by the clock of the node that accepted it. If several nodes have a state of
    /// the same member, the latest one is shown.
    written_unix_ms: u64,
    json: Box<str>,
}

impl State {
    /// A state that a node accepted at this time. Empty text means that the state was cleared.
    #[must_use]
    pub fn written(json: &str, written_unix_ms: u64) -> Self {
        Self(Arc::new(Text { written_unix_ms, json: json.into() }))
    }

    /// The JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.json
    }

    /// When it was written; 0 if that is not known.
    #[must_use]
    pub fn written_unix_ms(&self) -> u64 {
        self.0.written_unix_ms
    }

    /// Whether it records that the state was cleared.
    #[must_use]
    pub fn is_cleared(&self) -> bool {
        self.0.json.is_empty()
    }

    /// The same state, written at this time.
    pub(super) fn stamped(mut self, written_unix_ms: u64) -> Self {
        Arc::make_mut(&mut self.0).written_unix_ms = written_unix_ms;
        self
    }

    /// Orders states by the time when they were written. The order of two states of the same time is the same on every
    /// node.
    pub(super) fn age_key(&self) -> (u64, &str) {
        (self.0.written_unix_ms, &self.0.json)
    }
}

impl From<String> for State {
    fn from(json: String) -> Self {
        Self(Arc::new(Text { written_unix_ms: 0, json: json.into_boxed_str() }))
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.0.json == other.0.json
    }
}

impl Eq for State {}

impl fmt::Debug for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
