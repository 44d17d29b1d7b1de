//! The connections that were accepted and have not sent a complete request, with the part of it that has arrived.
//!
//! The head of a request nearly always arrives at once, and is never kept then. A head that arrives in parts is kept
//! here until it is complete: that costs its bytes and [`ENTRY_BYTES`], where an HTTP thread would have a task and
//! buffers.

use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::connection::ConnectionId;
use crate::peer::PeerAddress;
use crate::worker::http_side::MAX_HEAD_BYTES;

/// How often connections are checked whose first request has not arrived.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// The limit of bytes of incomplete heads per worker: 1,000 of the longest ones. Beyond it, heads are given up, first
/// those of the address that has the most.
const MAX_HEADS_BYTES: usize = 16 * 1024 * 1024;
/// The part of the limit that is freed at once, so that the search for heads to give up is rare.
const FREED_PART: usize = 8;
/// The part of the connections that is given up at once when too many sockets are no WebSockets.
const GIVEN_UP_PART: usize = 16;
/// The limit of bytes that are given up at once when memory is short.
const SHED_BYTES: usize = 512 * 1024;
/// What an incomplete head costs besides its bytes: an entry of the map, and the overhead of two allocations.
const ENTRY_BYTES: usize = 128;
/// A head is parsed each time that it has doubled, and after each of its first lines: valid heads have fewer.
const MAX_PARSED_LINES: u8 = 128;

/// The connections of a worker whose first request is not complete, by serial number.
#[derive(Debug, Default)]
pub(super) struct AwaitingRequest {
    sockets: HashMap<u32, Waiting, RandomState>,
    /// What the incomplete heads cost.
    heads_bytes: usize,
    next_check: Option<Instant>,
}

/// A connection whose first request is not complete.
#[derive(Debug)]
pub(super) struct Waiting {
    id: ConnectionId,
    /// When it was accepted, or when its request began to arrive.
    since: Instant,
    /// The beginning of its request, if that has arrived.
    pub(super) head: Option<Box<Head>>,
}

/// The beginning of a request.
pub(super) struct Head {
    pub(super) bytes: Vec<u8>,
    /// The address of the client.
    address: Option<PeerAddress>,
    /// How many bytes were parsed the last time.
    parsed_bytes: usize,
    parsed_lines: u8,
}

impl fmt::Debug for Head {
    /// Without the bytes, which may have a credential.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Head").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Waiting {
    pub(super) fn new(id: ConnectionId) -> Self {
        Self { id, since: Instant::now(), head: None }
    }
}

impl Head {
    /// The bytes of a request that was parsed and is incomplete.
    pub(super) fn new(bytes: &[u8], address: Option<PeerAddress>) -> Self {
        let mut head = Self { bytes: Vec::new(), address, parsed_bytes: 0, parsed_lines: 0 };
        head.add(bytes);
        head.parsed_bytes = head.bytes.len();
        head
    }

    /// Adds what has arrived. Returns whether it is worth parsing: after each byte would be too much work.
    pub(super) fn add(&mut self, bytes: &[u8]) -> bool {
        // Parsers skip empty lines before a request. An endless number of them would be parsed again and again.
        let bytes = if self.bytes.is_empty() { without_empty_lines(bytes) } else { bytes };
        self.bytes.extend_from_slice(bytes);
        let is_line = bytes.contains(&b'\n') && self.parsed_lines < MAX_PARSED_LINES;
        self.parsed_lines += u8::from(is_line);
        let is_longer = self.bytes.len() >= (2 * self.parsed_bytes).clamp(1, MAX_HEAD_BYTES);
        let is_due = is_line || is_longer;
        if is_due {
            self.parsed_bytes = self.bytes.len();
        }
        is_due
    }

    fn cost(&self) -> usize {
        ENTRY_BYTES + self.bytes.capacity()
    }
}

fn without_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")) {
        bytes = rest;
    }
    bytes
}

impl AwaitingRequest {
    pub(super) fn insert(&mut self, id: ConnectionId) {
        let waiting = Waiting::new(id);
        self.next_check.get_or_insert(waiting.since + CHECK_INTERVAL);
        self.sockets.insert(id.serial, waiting);
    }

    /// Takes a connection out. It is put back with [`keep`](Self::keep) if its request is still incomplete.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Waiting> {
        let waiting = self.sockets.remove(&id.serial)?;
        self.heads_bytes -= waiting.head.as_ref().map_or(0, |head| head.cost());
        Some(waiting)
    }

    /// Puts a connection back with the beginning of its request, whose first bytes start the time limit.
    pub(super) fn keep(&mut self, mut waiting: Waiting, head: Box<Head>, is_first: bool) {
        if is_first {
            waiting.since = Instant::now();
        }
        self.heads_bytes += head.cost();
        waiting.head = Some(head);
        self.next_check.get_or_insert(waiting.since + CHECK_INTERVAL);
        self.sockets.insert(waiting.id.serial, waiting);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Whether a request has begun to arrive and is not complete.
    pub(super) fn has_heads(&self) -> bool {
        self.heads_bytes > 0
    }

    /// The connections that have waited for this long, if a check is due.
    pub(super) fn overdue(&mut self, limit: Duration) -> Vec<ConnectionId> {
        let Some(now) = self.next_check.map(|_| Instant::now()).filter(|now| Some(*now) >= self.next_check) else {
            return Vec::new();
        };
        self.next_check = (!self.is_empty()).then(|| now + CHECK_INTERVAL);
        self.sockets.shrink_to(2 * self.sockets.len());
        let is_overdue = |waiting: &&Waiting| now.saturating_duration_since(waiting.since) >= limit;
        self.sockets.values().filter(is_overdue).map(|waiting| waiting.id).collect()
    }

    /// The connections to close because incomplete heads exceed their limit.
    pub(super) fn excess(&self) -> Vec<ConnectionId> {
        match self.heads_bytes.checked_sub(MAX_HEADS_BYTES) {
            None => Vec::new(),
            Some(excess) => self.costliest(excess + MAX_HEADS_BYTES / FREED_PART),
        }
    }

    /// The connections that have waited for the longest time: some at once, so that the search is rare.
    pub(super) fn oldest(&self) -> Vec<ConnectionId> {
        let mut waiting: Vec<_> = self.sockets.values().map(|waiting| (waiting.since, waiting.id)).collect();
        let oldest = waiting.len().div_ceil(GIVEN_UP_PART);
        if oldest < waiting.len() {
            waiting.select_nth_unstable_by_key(oldest, |(since, _)| *since);
        }
        waiting.into_iter().take(oldest).map(|(_, id)| id).collect()
    }

    /// The connections to close because memory is short.
    pub(super) fn to_shed(&self, excess: usize) -> Vec<ConnectionId> {
        if self.has_heads() { self.costliest(excess.min(SHED_BYTES)) } else { Vec::new() }
    }

    /// The connections to close so that incomplete heads cost this much less: each time the one of the address with the
    /// most bytes that has waited for the longest time.
    fn costliest(&self, excess: usize) -> Vec<ConnectionId> {
        let mut addresses: HashMap<_, (usize, Vec<_>), foldhash::quality::RandomState> = HashMap::default();
        for waiting in self.sockets.values() {
            let Some(head) = &waiting.head else { continue };
            let (bytes, heads) = addresses.entry(head.address).or_default();
            *bytes += head.cost();
            heads.push((waiting.since, head.cost(), waiting.id));
        }
        addresses
            .values_mut()
            .for_each(|(_, heads)| heads.sort_unstable_by_key(|(since, ..)| std::cmp::Reverse(*since)));
        let mut costliest: BinaryHeap<_> = addresses.iter().map(|(address, (bytes, _))| (*bytes, *address)).collect();
        let (mut freed, mut chosen) = (0, Vec::new());
        while let Some((bytes, address)) = costliest.pop().filter(|_| freed < excess) {
            let Some((_, cost, id)) = addresses.get_mut(&address).and_then(|(_, heads)| heads.pop()) else { continue };
            chosen.push(id);
            freed += cost;
            costliest.push((bytes - cost, address));
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(serial: u32) -> ConnectionId {
        ConnectionId { index: serial, serial }
    }

    fn add(waiting: &mut AwaitingRequest, serial: u32, address: &str, bytes: usize) {
        waiting.insert(id(serial));
        let socket = waiting.remove(id(serial)).unwrap();
        let address = address.parse().ok().map(PeerAddress::of);
        waiting.keep(socket, Box::new(Head::new(&vec![b'x'; bytes], address)), true);
    }

    #[test]
    fn beyond_the_limit_the_address_with_the_most_bytes_loses_its_oldest_heads() {
        let mut waiting = AwaitingRequest::default();
        add(&mut waiting, 0, "10.0.0.1", 1000);
        let long = 16_000;
        let fit = (MAX_HEADS_BYTES / (long + ENTRY_BYTES)) as u32;
        (1..fit).for_each(|serial| add(&mut waiting, serial, "10.0.0.2", long));
        assert_eq!(waiting.excess(), []);
        (fit..fit + 2).for_each(|serial| add(&mut waiting, serial, "10.0.0.2", long));
        let mut chosen = waiting.excess();
        chosen.sort_unstable_by_key(|id| id.serial);
        let freed = chosen.len() * (long + ENTRY_BYTES);
        assert!((MAX_HEADS_BYTES / FREED_PART..MAX_HEADS_BYTES / FREED_PART + 3 * long).contains(&freed), "{freed}");
        assert_eq!(chosen, (1..=chosen.len() as u32).map(id).collect::<Vec<_>>());
        for id in chosen {
            waiting.remove(id);
        }
        assert_eq!(waiting.excess(), []);
        (0..fit + 2).for_each(|serial| drop(waiting.remove(id(serial))));
        assert!(waiting.is_empty() && !waiting.has_heads());
    }

    #[test]
    fn the_connections_that_have_waited_longest_are_given_up_first() {
        let mut waiting = AwaitingRequest::default();
        assert_eq!(waiting.oldest(), []);
        (0..40).for_each(|serial| {
            waiting.insert(id(serial));
            std::thread::sleep(Duration::from_micros(10));
        });
        let mut oldest = waiting.oldest();
        oldest.sort_unstable_by_key(|id| id.serial);
        assert_eq!(oldest, (0..3).map(id).collect::<Vec<_>>());
    }

    #[test]
    fn many_addresses_with_little_each_do_not_displace_one_with_less() {
        let mut waiting = AwaitingRequest::default();
        add(&mut waiting, 0, "10.0.0.1", 200);
        (1..100_u32).for_each(|serial| add(&mut waiting, serial, &format!("10.1.0.{serial}"), 400));
        let chosen = waiting.costliest(90 * (400 + ENTRY_BYTES));
        assert!(chosen.len() == 90 && !chosen.contains(&id(0)));
        assert_eq!(waiting.costliest(usize::MAX).len(), 100);
    }

    #[test]
    fn a_head_that_drips_is_parsed_a_bounded_number_of_times() {
        let parses = |text: &[u8]| {
            let mut head = Head::new(&text[..1], None);
            text[1..].iter().filter(|byte| head.add(&[**byte])).count()
        };
        assert!(parses(&[b'x'; 16 * 1024]) <= 14);
        assert!(parses(&b"a: b\n".repeat(3 * 1024)) <= 140);
        let mut lines = Head::new(b"\r\n\n", None);
        (0..100_000).for_each(|_| {
            lines.add(b"\r\n");
        });
        assert!(lines.bytes.capacity() < 100, "empty lines before a request are not kept");
    }

    #[test]
    fn a_head_is_parsed_at_the_end_of_each_line() {
        let text = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for at in 1..text.len() {
            let mut head = Head::new(&text[..at], None);
            assert!(head.add(&text[at..]), "{at}");
            assert_eq!(head.bytes, text);
        }
    }
}
