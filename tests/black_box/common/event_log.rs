//! The file of an event log, read like any consumer reads it: line by line, each a JSON object.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};

use super::DEADLINE;
use super::room::{assert_keys, number, string};

const POLL: Duration = Duration::from_millis(5);

/// A file in a folder of its own. Deleted when dropped.
pub(crate) struct EventLog {
    folder: PathBuf,
    path: PathBuf,
}

impl EventLog {
    /// A name for a file that does not exist yet.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("rollcall-events-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
        let path = folder.join("events.log");
        Self { folder, path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path as an argument.
    pub(crate) fn argument(&self) -> &str {
        self.path.to_str().expect("an ASCII path")
    }

    /// All events so far. The last line may be written in part.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let end = text.rfind('\n').map_or(0, |newline| newline + 1);
        text[..end].lines().map(parse).collect()
    }

    /// Waits until the condition holds for the events so far, and returns them.
    pub(crate) async fn wait_until(&self, what: &str, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let events = self.events();
            if done(&events) {
                return events;
            }
            assert!(Instant::now() < deadline, "waited for {what} in vain: {events:#?}");
            sleep(POLL).await;
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        // If the folder cannot be deleted, the test has not failed.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Checks the form of a line.
pub(crate) fn parse(line: &str) -> Value {
    let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    match string(&event, "type").as_str() {
        "join" => assert_keys(&event, &["at", "type", "room", "user", "node"], &["state"]),
        "leave" => assert_keys(&event, &["at", "type", "room", "user", "reason", "node"], &[]),
        other => panic!("unknown event type {other}: {line}"),
    }
    assert!(number(&event, "at") > 1_700_000_000_000, "milliseconds since the Unix epoch: {line}");
    event
}

/// An event as a short text: `join lobby alice`, `leave lobby alice closed`.
pub(crate) fn summary(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    format!("{} {} {} {}", text("type"), text("room"), text("user"), text("reason")).trim_end().to_owned()
}

/// The events as short texts, in order.
pub(crate) fn summaries(events: &[Value]) -> Vec<String> {
    events.iter().map(summary).collect()
}
