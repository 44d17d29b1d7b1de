//! Bytes that a socket did not accept at once: frames in order, the first one perhaps partly written.
//!
//! An outbox exists only while its client is slow. The frames of a room are shared by all its observers, so the outbox
//! only references them.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Frames passed to the kernel with one call. Linux accepts 1,024; beyond a few, more frames per call gain nothing.
pub const MAX_SLICES: usize = 32;

/// Frames that wait for a socket.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Outbox {
    /// Appends bytes.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.frames.push_back(bytes);
        }
    }

    /// The number of bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Fills `slices` with the next bytes to write. Returns how many slices were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(frame);
            used += 1;
        }
        used
    }

    /// Drops everything but the first frames, which are perhaps partly written.
    pub fn keep_first(&mut self) {
        self.frames.truncate(1);
        self.bytes = self.frames.front().map_or(0, Bytes::len);
    }

    /// Drops the first `written` bytes.
    pub fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(frame) = self.frames.front_mut() {
            if written < frame.len() {
                frame.advance(written);
                return;
            }
            written -= frame.len();
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_bytes_are_written_in_order_whatever_the_socket_accepts(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..50),
            writes in prop::collection::vec(0usize..400, 0..60),
        ) {
            let mut outbox = Outbox::default();
            frames.iter().for_each(|frame| outbox.push(Bytes::copy_from_slice(frame)));
            let expected = frames.concat();
            let mut received = Vec::new();
            for write in writes.into_iter().chain(std::iter::repeat_n(usize::MAX, 50)) {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let used = outbox.slices(&mut slices);
                let offered = slices[..used].iter().flat_map(|slice| slice.iter().copied());
                let accepted: Vec<u8> = offered.take(write).collect();
                received.extend_from_slice(&accepted);
                outbox.advance(accepted.len());
                prop_assert_eq!(outbox.bytes(), expected.len() - received.len());
            }
            prop_assert_eq!(received, expected);
            prop_assert!(outbox.is_empty());
        }
    }
}
