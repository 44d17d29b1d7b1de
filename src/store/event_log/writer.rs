//! The thread that writes the event log.
//!
//! A write error drops the lines that were to be written and is logged once, until writing works again. A line of which
//! a part is written is completed first then, so that each line of the log is JSON.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use tracing::{error, info};

use super::{MemberChange, MemberEvent, Output, Shared, Target};
use crate::json::{put_number, put_string};
use crate::presence::State;

/// Lines are collected up to this size for one write.
const WRITE_BYTES: usize = 64 * 1024;
/// The pause before the next attempt at a non-blocking output that is full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Writes what is queued.
pub(super) struct Writer {
    shared: Arc<Shared>,
    target: Target,
    output: Output,
    node: String,
    /// Lines that are not written yet.
    buffer: BytesMut,
    /// The length of the rest of a torn line at the beginning of the buffer.
    torn_bytes: usize,
    /// The last write failed.
    is_failing: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, target: Target, output: Output, node: &str) -> Self {
        let (node, buffer) = (node.to_owned(), BytesMut::new());
        Self { shared, target, output, node, buffer, torn_bytes: 0, is_failing: false }
    }

    /// Works until the log is closed.
    pub(super) fn run(mut self) {
        loop {
            let (events, reopen, close) = self.next_work();
            if reopen {
                self.reopen();
            }
            for event in &events {
                put_line(&mut self.buffer, event, &self.node);
                if self.buffer.len() >= WRITE_BYTES {
                    self.write();
                }
            }
            self.write();
            if close && events.is_empty() {
                break;
            }
        }
        self.end();
    }

    /// The end of the output comes before the end that `close` waits for.
    fn end(self) {
        self.count(0, u64::from(self.torn_bytes > 0));
        let Self { shared, output, .. } = self;
        drop(output);
        shared.queue.lock().ended = true;
        shared.changed.notify_all();
    }

    /// Waits for something to do.
    fn next_work(&self) -> (Vec<MemberEvent>, bool, bool) {
        let mut queue = self.shared.queue.lock();
        while queue.events.is_empty() && !queue.reopen && !queue.close {
            self.shared.changed.wait(&mut queue);
        }
        (queue.bytes, queue.overflowed) = (0, false);
        (std::mem::take(&mut queue.events), std::mem::take(&mut queue.reopen), queue.close)
    }

    fn reopen(&mut self) {
        match self.target.open() {
            Ok(output) => {
                self.count(0, u64::from(self.torn_bytes > 0));
                self.buffer.clear();
                (self.output, self.torn_bytes, self.is_failing) = (output, 0, false);
                info!("reopened the event log");
            }
            Err(error) => error!(%error, "cannot reopen the event log; its lines still go to the old file"),
        }
    }

    /// Writes the buffer. What cannot be written is dropped, except for the rest of a torn line.
    fn write(&mut self) {
        let (written_bytes, result) = write_all(&mut self.output, &self.buffer);
        let kept_until = match self.buffer[..written_bytes].last() {
            _ if written_bytes < self.torn_bytes => self.torn_bytes,
            None | Some(b'\n') => written_bytes,
            Some(_) => line_end(&self.buffer, written_bytes),
        };
        self.count(lines(&self.buffer[..written_bytes]), lines(&self.buffer[kept_until..]));
        self.torn_bytes = kept_until - written_bytes;
        self.buffer.truncate(kept_until);
        drop(self.buffer.split_to(written_bytes));
        match result {
            Err(error) if !self.is_failing => {
                error!(%error, "cannot write the event log; events are dropped until it can be written again");
                self.is_failing = true;
            }
            Ok(()) if self.is_failing && written_bytes > 0 => {
                info!("the event log is written again");
                self.is_failing = false;
            }
            _ => {}
        }
    }

    fn count(&self, written: u64, dropped: u64) {
        let _queue = self.shared.queue.lock();
        self.shared.counters.event_log_written.add(written);
        self.shared.counters.event_log_dropped.add(dropped);
    }
}

/// As [`Write::write_all`], but also returns how much was written before an error, and waits while a non-blocking
/// output is full.
fn write_all(output: &mut Output, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// The end of the line that contains this position.
fn line_end(bytes: &[u8], position: usize) -> usize {
    bytes[position..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |newline| position + newline + 1)
}

fn put_line(buffer: &mut BytesMut, event: &MemberEvent, node: &str) {
    let MemberEvent { at_unix_ms, room, user, change, .. } = event;
    buffer.put_slice(br#"{"at":"#);
    put_number(buffer, *at_unix_ms);
    buffer.put_slice(match change {
        MemberChange::Joined(_) => br#","type":"join","room":"#,
        MemberChange::Updated { .. } => br#","type":"state","room":"#,
        MemberChange::Left { .. } => br#","type":"leave","room":"#,
    });
    put_string(buffer, room);
    buffer.put_slice(br#","user":"#);
    put_string(buffer, user);
    match change {
        MemberChange::Joined(shown) | MemberChange::Updated { now: shown, .. } => {
            if let Some(state) = shown.as_ref().and_then(State::json) {
                buffer.put_slice(br#","state":"#);
                buffer.put_slice(state.as_bytes());
            }
        }
        MemberChange::Left { reason, .. } => {
            buffer.put_slice(br#","reason":"#);
            put_string(buffer, reason.as_str());
        }
    }
    buffer.put_slice(br#","node":"#);
    put_string(buffer, node);
    buffer.put_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use proptest::prelude::*;

    use super::*;
    use crate::presence::{Reason, State};
    use crate::store::event_log::EventLogTotals;

    /// Takes as many bytes as the steps say, one step per write, and fails where they say nothing; then takes
    /// everything.
    struct Unreliable {
        steps: Vec<Option<usize>>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Unreliable {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.steps.pop().unwrap_or(Some(usize::MAX)).ok_or(ErrorKind::StorageFull)?.min(bytes.len());
            self.taken.lock().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn event(user: &str, change: MemberChange) -> MemberEvent {
        let (room, user) = ("a \"room\"".into(), user.into());
        MemberEvent { at_unix_ms: 5, since_unix_ms: 0, room, user, change, is_reported: true }
    }

    #[test]
    fn a_line_is_a_json_object_with_the_documented_fields() {
        let check = |change: MemberChange, expected: &str| {
            let mut buffer = BytesMut::new();
            put_line(&mut buffer, &event("alice", change), "n1");
            assert_eq!(String::from_utf8_lossy(&buffer), expected);
        };
        let state = State::from(r#"{"mood":"busy"}"#.to_owned());
        check(
            MemberChange::Joined(Some(state)),
            "{\"at\":5,\"type\":\"join\",\"room\":\"a \\\"room\\\"\",\"user\":\"alice\",\"state\":{\"mood\":\"busy\"},\"node\":\"n1\"}\n",
        );
        check(
            MemberChange::Joined(None),
            "{\"at\":5,\"type\":\"join\",\"room\":\"a \\\"room\\\"\",\"user\":\"alice\",\"node\":\"n1\"}\n",
        );
        check(
            MemberChange::Left { reason: Reason::NodeLost, before: None },
            "{\"at\":5,\"type\":\"leave\",\"room\":\"a \\\"room\\\"\",\"user\":\"alice\",\"reason\":\"node_lost\",\"node\":\"n1\"}\n",
        );
    }

    #[test]
    fn a_line_that_is_torn_at_the_end_is_counted_as_dropped() {
        let (shared, taken) = (Arc::<Shared>::default(), Arc::<Mutex<Vec<u8>>>::default());
        let output = Box::new(Unreliable { steps: vec![None, Some(10)], taken: Arc::clone(&taken) });
        let mut writer = Writer::new(Arc::clone(&shared), Target::Stdout, output, "n1");
        put_line(&mut writer.buffer, &event("alice", MemberChange::Joined(None)), "n1");
        writer.write();
        assert_eq!(EventLogTotals::of(&shared.counters).event_log_dropped, 0, "the rest may still be written");
        writer.end();
        let EventLogTotals { event_log_written, event_log_dropped } = EventLogTotals::of(&shared.counters);
        assert_eq!((taken.lock().len(), event_log_written, event_log_dropped), (10, 0, 1));
    }

    proptest! {
        #[test]
        fn each_line_is_written_whole_or_dropped_and_counted(
            steps in prop::collection::vec(prop::option::of(1..300usize), 0..40),
            batches in prop::collection::vec(0..6usize, 1..30),
        ) {
            let (shared, taken) = (Arc::<Shared>::default(), Arc::<Mutex<Vec<u8>>>::default());
            let output = Box::new(Unreliable { steps, taken: Arc::clone(&taken) });
            let mut writer = Writer::new(Arc::clone(&shared), Target::Stdout, output, "n1");
            for count in &batches {
                for number in 0..*count {
                    put_line(&mut writer.buffer, &event(&number.to_string(), MemberChange::Joined(None)), "n1");
                }
                writer.write();
            }
            // The output works by now, at the latest after the steps that are left.
            (0..40).for_each(|_| writer.write());
            let text = String::from_utf8(taken.lock().clone()).unwrap();
            for line in text.split_terminator('\n') {
                prop_assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{}", line);
            }
            let EventLogTotals { event_log_written, event_log_dropped } = EventLogTotals::of(&shared.counters);
            prop_assert!(text.is_empty() || text.ends_with('\n'));
            prop_assert_eq!(text.lines().count() as u64, event_log_written);
            prop_assert_eq!(event_log_written + event_log_dropped, batches.iter().sum::<usize>() as u64);
        }
    }
}
