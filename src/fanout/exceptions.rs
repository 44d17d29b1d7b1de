//! Connections that do not receive all messages of a room: they have sent one of them themselves, or the application
//! left them out. All others share the frames.

use std::ops::Range;

use bytes::Bytes;

use super::deliveries::{Deliveries, Origin};
use super::{FrameIndexes, Numbers};
use crate::broadcast::MessageFrames;
use crate::broadcast::encoder::EncodedMessages;
use crate::connection::ConnectionId;
use crate::presence::Audience;

/// The exceptions of one room in one tick: nearly always none.
#[derive(Debug, Default)]
pub(super) struct Exceptions(Vec<Exception>);

/// The messages of one connection.
#[derive(Debug)]
pub(super) struct Exception {
    audience: Audience,
    connection: ConnectionId,
    /// The indexes of the frames that are sent before the changes.
    pub(super) before: FrameIndexes,
    /// The indexes of the frames that are sent after the changes.
    pub(super) after: FrameIndexes,
    /// The indexes of the frames that are sent after the snapshot if it is a new observer.
    pub(super) after_snapshot: FrameIndexes,
}

impl Exceptions {
    /// Adds what the connections of this worker receive that some messages leave out.
    pub(super) fn plan(
        &mut self,
        room: u64,
        (audience, messages): (Audience, &MessageFrames),
        numbers: &Numbers,
        deliveries: &mut Deliveries,
    ) {
        let parts = [&messages.before_changes, &messages.after_changes];
        let excluded = parts.into_iter().flatten().flat_map(|part| &part.excluded);
        let mut excluded: Vec<u64> = excluded.map(|exclusion| exclusion.number).collect();
        excluded.sort_unstable();
        excluded.dedup();
        let here = excluded.into_iter().filter_map(|number| Some((number, *numbers.get(&number)?)));
        let exceptions = here.map(|(number, connection)| {
            let mut add = |part: &Option<EncodedMessages>, is_new| -> FrameIndexes {
                let pieces = part.iter().flat_map(|part| without(part, number, is_new));
                pieces.map(|piece| deliveries.add(piece, Origin::Messages(room))).collect()
            };
            let (before, after) = (add(&messages.before_changes, false), add(&messages.after_changes, false));
            let mut after_exclusions = messages.after_changes.iter().flat_map(|part| &part.excluded);
            let is_excluded_from_last = after_exclusions.any(|part| part.number == number && part.is_last);
            let after_snapshot = if is_excluded_from_last { add(&messages.after_changes, true) } else { after.clone() };
            Exception { audience, connection, before, after, after_snapshot }
        });
        self.0.extend(exceptions);
        self.0.sort_unstable_by_key(Exception::key);
    }

    /// What a connection receives that is an exception.
    pub(super) fn of(&self, audience: Audience, connection: ConnectionId) -> Option<&Exception> {
        let at = self.0.binary_search_by_key(&key(audience, connection), Exception::key).ok()?;
        Some(&self.0[at])
    }
}

impl Exception {
    fn key(&self) -> (usize, u32, u32) {
        key(self.audience, self.connection)
    }
}

fn key(audience: Audience, connection: ConnectionId) -> (usize, u32, u32) {
    (audience.index(), connection.index, connection.serial)
}

/// The pieces of the frames that are left without the parts that exclude this number, as a new observer or another one.
fn without(messages: &EncodedMessages, number: u64, is_new: bool) -> Vec<Bytes> {
    let EncodedMessages { frames, excluded } = messages;
    let (mut pieces, mut start) = (Vec::new(), 0);
    let own = excluded.iter().filter(|part| part.number == number && !(part.is_last && is_new));
    let ends = own.map(|part| part.bytes.clone());
    let end = frames.len()..frames.len();
    for Range { start: next, end } in ends.chain([end]) {
        if start < next {
            pieces.push(frames.slice(start..next));
        }
        start = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broadcast::encoder::Exclusion;

    fn check(excluded: &[(u64, Range<usize>)], last: Option<usize>, is_new: bool, want: &[&str]) {
        let exclusion = |(at, (number, bytes)): (usize, &(u64, Range<usize>))| Exclusion {
            number: *number,
            bytes: bytes.clone(),
            is_last: last == Some(at),
        };
        let excluded = excluded.iter().enumerate().map(exclusion).collect();
        let messages = EncodedMessages { frames: "aabbccdd".into(), excluded };
        assert_eq!(without(&messages, 7, is_new), want, "{messages:?} {is_new}");
    }

    #[test]
    fn the_excluded_parts_are_cut_out() {
        let check = |excluded: &[(u64, Range<usize>)], want: &[&str]| {
            check(excluded, None, false, want);
            check(excluded, None, true, want);
        };
        check(&[], &["aabbccdd"]);
        check(&[(8, 0..2)], &["aabbccdd"]);
        check(&[(7, 0..2)], &["bbccdd"]);
        check(&[(7, 6..8)], &["aabbcc"]);
        check(&[(7, 2..4), (8, 4..6), (7, 6..8)], &["aa", "cc"]);
        check(&[(7, 0..4), (7, 4..8)], &[]);
    }

    #[test]
    fn a_new_observer_receives_the_last_message_although_it_is_excluded() {
        check(&[(7, 0..2), (7, 4..6)], Some(1), false, &["bb", "dd"]);
        check(&[(7, 0..2), (7, 4..6)], Some(1), true, &["bbccdd"]);
    }
}
