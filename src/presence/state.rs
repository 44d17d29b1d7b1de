//! What a user says about itself in a room.

use std::fmt;
use std::sync::Arc;

/// The longest state, as compact JSON.
pub const MAX_STATE_BYTES: usize = 1024;

/// Compact JSON text and when it was written, shared by everyone who holds it.
///
/// One pointer wide, where an `Arc<str>` is two: members without a state are many, and each holds the place for one three
/// times (session, membership, roster). Two are equal if they publish the same, whenever they were written.
#[derive(Clone)]
pub struct State(Arc<Text>);

#[derive(Clone)]
struct Text {
    /// Milliseconds since the Unix epoch, as the node that took it counted them: of two nodes' states the later one is shown.
    written_unix_ms: u64,
    json: Box<str>,
}

impl State {
    /// A state that another node has taken at this moment. No text means that the state was cleared then.
    #[must_use]
    pub fn written(json: &str, written_unix_ms: u64) -> Self {
        Self(Arc::new(Text { written_unix_ms, json: json.into() }))
    }

    /// The JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.json
    }

    /// When it was written; 0 if nobody has said so.
    #[must_use]
    pub fn written_unix_ms(&self) -> u64 {
        self.0.written_unix_ms
    }

    /// Whether it says that there is no state any more.
    #[must_use]
    pub fn is_cleared(&self) -> bool {
        self.0.json.is_empty()
    }

    /// The same, written at this moment.
    pub(super) fn stamped(mut self, written_unix_ms: u64) -> Self {
        Arc::make_mut(&mut self.0).written_unix_ms = written_unix_ms;
        self
    }

    /// Orders states by when they were written; two of one moment stand in the same order on every node.
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
