//! The event log: one JSON line per join and leave that this node reports, appended to a file or written to standard
//! output.
//!
//! ```text
//! {"at":1764340000123,"type":"join","room":"lobby","user":"alice","state":{"mood":"busy"},"node":"n1"}
//! {"at":1764340004567,"type":"leave","room":"lobby","user":"alice","reason":"closed","node":"n1"}
//! ```
//!
//! A thread of its own writes the lines. While it cannot keep up, for example because nothing reads the pipe, events
//! wait in a queue of bounded size; further ones are dropped and counted.

mod writer;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::{Condvar, Mutex};
use tracing::warn;

use super::sink::{Event, MemberChange, MemberEvent, Scope, Sink};
use crate::log_limit::warn_limited;
use crate::metrics::{Metric, counters};
use crate::os::{check_append, open_to_append};
use writer::Writer;

/// Bytes that events may take while they wait, and as much again while they are written: some 100,000 events without
/// states, as many as leave at once when a large node dies.
const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;
/// How long closing waits for what is queued.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

counters! {
    /// What the event log counts.
    EventLogCounters, EventLogTotals {
        /// Lines written to the event log.
        event_log_written,
        /// Joins and leaves missing in the event log, because it could not be written or not fast enough.
        event_log_dropped,
    }
}

/// What the lines are written to.
type Output = Box<dyn Write + Send>;

/// Where the lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// The end of a file, which is created if need be, or a FIFO that a program reads.
    File(PathBuf),
}

/// The event log.
#[derive(Debug)]
pub struct EventLog {
    shared: Arc<Shared>,
    /// Whether there is a file to reopen.
    is_file: bool,
    max_queued_bytes: usize,
}

/// What the ticker and the writing thread share.
#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Wakes the thread for work, and `close` when the thread has ended.
    changed: Condvar,
    /// Both threads write them, with the queue locked.
    counters: EventLogCounters,
}

#[derive(Debug, Default)]
struct Queue {
    /// Written by the ticker, emptied by the thread.
    events: Vec<MemberEvent>,
    bytes: usize,
    /// Events were dropped since the thread emptied it.
    overflowed: bool,
    /// A log rotation has renamed the file.
    reopen: bool,
    /// The thread is to write what is queued and end.
    close: bool,
    /// The thread has ended.
    ended: bool,
}

impl Target {
    /// Finds out whether it could be opened, and opens nothing: a program that reads a FIFO would see its end.
    ///
    /// # Errors
    /// If it could not.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self::File(path) = self else { return Ok(()) };
        check_append(path).with_context(|| format!("--event-log {} cannot be opened", self.shown()))
    }

    fn open(&self) -> io::Result<Output> {
        Ok(match self {
            // A descriptor of its own: no buffer and no lock of the standard library between the thread and the pipe.
            Self::Stdout => Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            Self::File(path) => Box::new(open_to_append(path)?),
        })
    }

    fn shown(&self) -> std::path::Display<'_> {
        match self {
            Self::Stdout => Path::new("-").display(),
            Self::File(path) => path.display(),
        }
    }
}

impl EventLog {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// If the target cannot be opened.
    pub fn open(target: Target, node: &str) -> anyhow::Result<Self> {
        let output = target.open().with_context(|| format!("--event-log {} cannot be opened", target.shown()))?;
        Self::start(target, output, node, MAX_QUEUED_BYTES)
    }

    fn start(target: Target, output: Output, node: &str, max_queued_bytes: usize) -> anyhow::Result<Self> {
        let (shared, is_file) = (Arc::<Shared>::default(), target != Target::Stdout);
        let writer = Writer::new(Arc::clone(&shared), target, output, node);
        let thread = std::thread::Builder::new().name("event-log".to_owned());
        thread.spawn(move || writer.run()).context("the thread of the event log cannot start")?;
        Ok(Self { shared, is_file, max_queued_bytes })
    }

    /// Has the thread write what is queued and end.
    fn end(&self) {
        self.shared.queue.lock().close = true;
        self.shared.changed.notify_all();
    }
}

/// The joins and leaves that this node reports.
fn logged(events: &[Event]) -> impl Iterator<Item = &MemberEvent> + Clone {
    events.iter().filter_map(|event| match event {
        Event::Member(event) if event.is_reported && !matches!(event.change, MemberChange::Updated { .. }) => {
            Some(event)
        }
        _ => None,
    })
}

impl Sink for EventLog {
    fn scope(&self) -> Scope {
        Scope::Reported
    }

    fn record(&self, events: &[Event]) {
        let mut events = logged(events);
        let mut queue = self.shared.queue.lock();
        while let Some(event) = events.next() {
            let bytes = queued_bytes(event);
            if queue.bytes + bytes > self.max_queued_bytes {
                self.shared.counters.event_log_dropped.add(1 + events.count() as u64);
                if !std::mem::replace(&mut queue.overflowed, true) {
                    warn_limited!(
                        "the queue of the event log is full; events are dropped until its lines are read or written faster"
                    );
                }
                break;
            }
            queue.bytes += bytes;
            queue.events.push(event.clone());
        }
        drop(queue);
        self.shared.changed.notify_all();
    }

    fn reopen(&self) -> bool {
        if self.is_file {
            self.shared.queue.lock().reopen = true;
            self.shared.changed.notify_all();
        }
        self.is_file
    }

    fn counters(&self) -> Vec<Metric> {
        EventLogTotals::of(&self.shared.counters).fields().collect()
    }

    fn close(&self, within: Duration) {
        self.end();
        let within = within.min(CLOSE_WITHIN);
        let deadline = Instant::now() + within;
        let mut queue = self.shared.queue.lock();
        while !queue.ended {
            if self.shared.changed.wait_until(&mut queue, deadline).timed_out() {
                warn!(?within, "the event log is incomplete: its last lines could not be written in time");
                return;
            }
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.end();
    }
}

/// Memory that an event takes while it waits. Names and states count in full, although the registry may share them.
fn queued_bytes(event: &MemberEvent) -> usize {
    let (MemberChange::Joined(state)
    | MemberChange::Updated { now: state, .. }
    | MemberChange::Left { before: state, .. }) = &event.change;
    let state = state.as_ref().map_or(0, |state| state.as_str().len());
    size_of::<MemberEvent>() + event.room.len() + event.user.len() + state
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::presence::Reason;

    fn member(number: u64) -> MemberEvent {
        let change = MemberChange::Left { reason: Reason::Closed, before: None };
        let (room, user) = ("lobby".into(), "alice".into());
        MemberEvent { at_unix_ms: number, since_unix_ms: 0, room, user, change, is_reported: true }
    }

    fn event(number: u64) -> Event {
        Event::Member(member(number))
    }

    fn totals(log: &EventLog) -> (u64, u64) {
        let EventLogTotals { event_log_written, event_log_dropped } = EventLogTotals::of(&log.shared.counters);
        (event_log_written, event_log_dropped)
    }

    #[test]
    fn events_beyond_the_queue_are_dropped_and_counted_while_nothing_reads() {
        let (mut reader, output) = io::pipe().unwrap();
        let limit = 100 * queued_bytes(&member(0));
        let log = EventLog::start(Target::Stdout, Box::new(output), "n1", limit).unwrap();
        let mut recorded = 0;
        while totals(&log).1 == 0 {
            log.record(&[event(recorded), event(recorded + 1)]);
            recorded += 2;
        }
        assert!(log.shared.queue.lock().bytes <= limit);
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        // What is queued is written, however long that takes.
        while totals(&log).0 + totals(&log).1 < recorded {
            std::thread::yield_now();
        }
        log.close(CLOSE_WITHIN);
        let (written, dropped) = totals(&log);
        assert_eq!(written + dropped, recorded);
        assert_eq!(reading.join().unwrap().lines().count() as u64, written);
    }

    #[test]
    fn closing_does_not_wait_forever_for_a_reader() {
        let (_reader, output) = io::pipe().unwrap();
        let log = EventLog::start(Target::Stdout, Box::new(output), "n1", MAX_QUEUED_BYTES).unwrap();
        // More than any pipe takes.
        log.record(&vec![event(0); 100_000]);
        log.close(CLOSE_WITHIN);
        assert!(!log.shared.queue.lock().ended);
    }
}
