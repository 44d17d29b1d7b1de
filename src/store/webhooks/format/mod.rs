//! The format of requests: which changes one request carries, its body, and its headers.

mod native;
mod pusher;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::queue::{Change, Fit};
use super::signature::SigningKeys;
use super::stamp::Stamps;
use crate::outgoing;
use crate::presence::AppRooms;
pub use pusher::AppKeys;

/// The limit of bytes of the events of a request. A single event may be longer.
const MAX_BYTES: usize = 64 * 1024;

/// The format of requests.
#[derive(Debug, Clone)]
pub enum Format {
    /// JSON of this server, signed as Standard Webhooks defines it.
    Native(SigningKeys),
    /// As Pusher sends them, signed with the keys of the applications whose channels these rooms are.
    Pusher(AppKeys, AppRooms),
}

/// The events of one request, while it is being made.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    format: &'a Format,
    stamps: &'a Stamps,
    unix_ms: u64,
    body: BytesMut,
    events: usize,
    /// The application of all events, in the format of Pusher.
    app: Option<u64>,
}

/// A request. All attempts have the same events.
#[derive(Debug)]
pub(super) struct Request {
    id: String,
    /// The whole body, or the events that a body is made of for each attempt.
    body: Bytes,
    app: Option<u64>,
    pub(super) events: usize,
}

impl Format {
    /// Whether receivers can be told to read rooms again.
    #[must_use]
    pub fn has_resync(&self) -> bool {
        matches!(self, Self::Native(_))
    }
}

impl<'a> Batch<'a> {
    pub(super) fn new(format: &'a Format, stamps: &'a Stamps, node: &str, unix_ms: u64) -> Self {
        let mut body = BytesMut::with_capacity(1024);
        if let Format::Native(_) = format {
            native::put_head(&mut body, node, unix_ms);
        }
        Self { format, stamps, unix_ms, body, events: 0, app: None }
    }

    /// Adds the event of a change, if it fits.
    pub(super) fn push(&mut self, change: &Change) -> Fit {
        let before = self.body.len();
        if self.events > 0 {
            self.body.put_u8(b',');
        }
        let fit = match self.format {
            Format::Native(_) => {
                native::put_event(&mut self.body, change, self.stamps, self.unix_ms);
                Fit::Taken
            }
            Format::Pusher(_, rooms) => {
                let node = self.stamps.incarnation() as u32;
                pusher::put_event(&mut self.body, change, *rooms, &mut self.app, node)
            }
        };
        let is_full = self.body.len() > MAX_BYTES && self.events > 0;
        if fit != Fit::Taken || is_full {
            self.body.truncate(before);
            return if is_full { Fit::Full } else { fit };
        }
        self.events += 1;
        fit
    }

    pub(super) fn finish(mut self) -> Request {
        if let Format::Native(_) = self.format {
            self.body.put_slice(b"]}");
        }
        let id = format!("msg_{}", self.stamps.id());
        Request { id, body: self.body.freeze(), app: self.app, events: self.events }
    }
}

impl Request {
    /// One attempt at the request, with the present time and secrets. `None` if its application does not exist any
    /// more.
    pub(super) fn attempt(&self, format: &Format, unix_ms: u64) -> Option<outgoing::Request> {
        match format {
            Format::Native(keys) => Some(native::attempt(&self.id, &self.body, &keys.current(), unix_ms)),
            Format::Pusher(keys, _) => pusher::attempt(&self.body, &keys.of(self.app?)?, unix_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::webhooks::queue::Subject;

    #[test]
    fn a_request_is_full_after_64_kib() {
        let format = Format::Native(SigningKeys::new(Vec::new, || false));
        let stamps = Stamps::new(0xa);
        let body_of = |changes: &[Change]| {
            let mut batch = Batch::new(&format, &stamps, "n1", 9);
            let fits: Vec<_> = changes.iter().map(|change| batch.push(change)).collect();
            (String::from_utf8(batch.finish().body.to_vec()).unwrap(), fits)
        };
        let long = |number: usize| Change::Resync(Subject::Room(format!("{number}{}", "x".repeat(20_000)).into()));
        let (body, fits) = body_of(&(0..4).map(long).collect::<Vec<_>>());
        assert_eq!(fits, [Fit::Taken, Fit::Taken, Fit::Taken, Fit::Full]);
        assert!(
            body.starts_with("{\"node\":\"n1\",\"sent_at\":9,\"events\":[{") && body.ends_with("}]}"),
            "{body:.100}"
        );
        assert!(body.len() <= MAX_BYTES + 2);
        let huge = Change::Resync(Subject::Room("x".repeat(2 * MAX_BYTES).into()));
        assert_eq!(body_of(&[huge]).1, [Fit::Taken], "an event is sent in any case");
    }
}
