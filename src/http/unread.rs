//! Long answers that clients have not read: how much memory they take, and which connection ends when it gets scarce.
//!
//! No request is refused because other clients do not read. If a new answer does not fit, answers of the address with
//! the most bytes are dropped, first the one whose client has not read for the longest time. Short answers are not
//! counted: a socket takes them at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::client::Client;
use crate::memory_budget::SHORT_BYTES;
use crate::peer::PeerAddress;
use crate::presence::Tick;

/// The unread answers of the whole server.
#[derive(Debug)]
pub(super) struct UnreadAnswers {
    limit: usize,
    table: Mutex<Table>,
    /// Connections that were dropped to make room.
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    /// Bytes of all answers in the table.
    bytes: usize,
    holders: HashMap<Holder, Answers, RandomState>,
    next_id: u64,
}

/// Whose memory an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    /// The clients of an address.
    Address(PeerAddress),
    /// Lists that many answers share.
    Shared,
}

/// The answers of one holder, oldest first. Never empty.
#[derive(Debug, Default)]
struct Answers {
    /// Bytes of the answers that can be dropped.
    droppable: usize,
    by_id: BTreeMap<u64, Answer>,
}

#[derive(Debug)]
struct Answer {
    bytes: usize,
    /// The clients that have not read it.
    readers: HashMap<u64, Weak<Client>, RandomState>,
    /// Whether further clients may receive it: it takes memory whether clients read it or not.
    is_current: bool,
}

impl Answer {
    /// The last tick in which one of its clients has read.
    fn read_at(&self) -> Tick {
        self.readers.values().filter_map(Weak::upgrade).map(|client| client.read_at()).max().unwrap_or(0)
    }
}

/// An answer is longer than all unread answers may be together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

impl UnreadAnswers {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, table: Mutex::default(), dropped: AtomicU64::new(0) }
    }

    /// Drops connections until an answer of this length fits.
    pub(super) fn make_room(&self, bytes: usize) -> Result<(), TooLarge> {
        if bytes < SHORT_BYTES {
            return Ok(());
        }
        let room = self.limit.checked_sub(bytes).ok_or(TooLarge)?;
        let mut table = self.table.lock();
        while table.bytes > room {
            let connections = table.drop_one().ok_or(TooLarge)?;
            self.dropped.fetch_add(connections as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The number of connections that were dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Counts an answer until the client has read it.
    pub(super) fn count(self: &Arc<Self>, body: Bytes, client: &Arc<Client>, address: PeerAddress) -> Bytes {
        if body.len() < SHORT_BYTES {
            return body;
        }
        let holder = Holder::Address(address);
        let id = self.table.lock().add(holder, body.len(), false);
        self.add_reader(holder, id, body, client)
    }

    /// Counts a list that answers share, until it is replaced and all clients have read it.
    pub(super) fn share(self: &Arc<Self>, body: Bytes) -> SharedBody {
        let id = self.table.lock().add(Holder::Shared, body.len(), true);
        SharedBody { id, body, unread: Arc::clone(self) }
    }

    fn add_reader(self: &Arc<Self>, holder: Holder, id: u64, body: Bytes, client: &Arc<Client>) -> Bytes {
        let mut table = self.table.lock();
        table.next_id += 1;
        let reader = table.next_id;
        if let Some(answer) = table.answer(holder, id) {
            answer.readers.insert(reader, Arc::downgrade(client));
        }
        drop(table);
        Bytes::from_owner(Reading { holder, id, reader, body, unread: Arc::clone(self) })
    }
}

impl Table {
    fn answer(&mut self, holder: Holder, id: u64) -> Option<&mut Answer> {
        self.holders.get_mut(&holder)?.by_id.get_mut(&id)
    }

    fn add(&mut self, holder: Holder, bytes: usize, is_current: bool) -> u64 {
        self.next_id += 1;
        self.bytes += bytes;
        let answers = self.holders.entry(holder).or_default();
        answers.droppable += if is_current { 0 } else { bytes };
        answers.by_id.insert(self.next_id, Answer { bytes, readers: HashMap::default(), is_current });
        self.next_id
    }

    /// A client has read an answer, or its connection has ended.
    fn remove_reader(&mut self, holder: Holder, id: u64, reader: u64) {
        if let Some(answer) = self.answer(holder, id) {
            answer.readers.remove(&reader);
            if answer.readers.is_empty() && !answer.is_current {
                self.remove(holder, id);
            }
        }
    }

    /// A shared list was replaced.
    fn retire(&mut self, id: u64) {
        let Some(answers) = self.holders.get_mut(&Holder::Shared) else { return };
        let Some(answer) = answers.by_id.get_mut(&id) else { return };
        answer.is_current = false;
        answers.droppable += answer.bytes;
        if answer.readers.is_empty() {
            self.remove(Holder::Shared, id);
        }
    }

    /// Removes an answer that is not current.
    fn remove(&mut self, holder: Holder, id: u64) -> Option<Answer> {
        let answers = self.holders.get_mut(&holder)?;
        let answer = answers.by_id.remove(&id)?;
        answers.droppable -= answer.bytes;
        self.bytes -= answer.bytes;
        if answers.by_id.is_empty() {
            self.holders.remove(&holder);
        }
        Some(answer)
    }

    /// Drops an answer of the holder that holds most: the one whose client has not read for the longest time. Returns
    /// the number of connections that end; `None` if there is no answer to drop.
    fn drop_one(&mut self) -> Option<usize> {
        let largest = self.holders.iter().filter(|(_, answers)| answers.droppable > 0);
        let (holder, answers) = largest.max_by_key(|(_, answers)| answers.droppable)?;
        let droppable = answers.by_id.iter().filter(|(_, answer)| !answer.is_current);
        let (id, _) = droppable.min_by_key(|(id, answer)| (answer.read_at(), **id))?;
        let (holder, id) = (*holder, *id);
        let Answer { readers, .. } = self.remove(holder, id)?;
        readers.values().filter_map(Weak::upgrade).for_each(|client| client.drop_connection());
        Some(readers.len())
    }
}

/// A list that many answers share. Dropped when a newer one replaces it.
#[derive(Debug)]
pub(super) struct SharedBody {
    id: u64,
    body: Bytes,
    unread: Arc<UnreadAnswers>,
}

impl SharedBody {
    /// The list.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.body
    }

    /// The list as the body of an answer to this client.
    pub(super) fn answer(&self, client: &Arc<Client>) -> Bytes {
        self.unread.add_reader(Holder::Shared, self.id, self.body.clone(), client)
    }
}

impl Drop for SharedBody {
    fn drop(&mut self) {
        self.unread.table.lock().retire(self.id);
    }
}

/// An answer that one client has not read.
struct Reading {
    holder: Holder,
    id: u64,
    reader: u64,
    body: Bytes,
    unread: Arc<UnreadAnswers>,
}

impl AsRef<[u8]> for Reading {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.unread.table.lock().remove_reader(self.holder, self.id, self.reader);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::node::Node;
    use crate::peer::ClientAddress;
    use crate::presence::{Registry, Settings};
    use crate::store::MemoryStore;

    const LONG: usize = SHORT_BYTES;

    struct Test {
        node: Arc<Node>,
        unread: Arc<UnreadAnswers>,
    }

    impl Test {
        /// Room for that many long answers.
        fn new(answers: usize) -> Self {
            let config = Config::from_args(["rollcall"]).unwrap();
            let registry = Registry::new(Settings { ttl: 10, workers: 1, incarnation: 1 });
            let node =
                Node::new(config, "node".to_owned(), Arc::new(registry), Box::<MemoryStore>::default(), Arc::default());
            Self { node: Arc::new(node), unread: Arc::new(UnreadAnswers::new(answers * LONG)) }
        }

        fn client(&self, address: &str) -> Arc<Client> {
            self.node.tick.fetch_add(1, Ordering::Relaxed);
            Arc::new(Client::new(&self.node, ClientAddress::of_peer(address.parse().unwrap()), false))
        }

        fn answer(&self, client: &Arc<Client>) -> Bytes {
            self.unread.make_room(LONG).unwrap();
            let address = PeerAddress::of(client.peer().ip());
            self.unread.count(vec![b'x'; LONG].into(), client, address)
        }

        fn bytes(&self) -> usize {
            self.unread.table.lock().bytes
        }
    }

    fn is_dropped(client: &Client) -> bool {
        let mut dropped = std::pin::pin!(client.dropped());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        dropped.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn the_address_that_holds_most_is_dropped_first_and_there_the_client_that_read_least_recently() {
        let test = Test::new(4);
        let small = test.client("10.0.0.1");
        let clients = ["10.0.0.2"; 3].map(|address| test.client(address));
        let _held: Vec<_> = [&small].into_iter().chain(&clients).map(|client| test.answer(client)).collect();
        test.node.tick.fetch_add(1, Ordering::Relaxed);
        clients[0].note_read();
        assert!(!clients.iter().any(|client| is_dropped(client)) && !is_dropped(&small));
        let newcomer = test.client("10.0.0.3");
        let _answer = test.answer(&newcomer);
        assert_eq!(clients.each_ref().map(|client| is_dropped(client)), [false, true, false]);
        let _another = test.answer(&newcomer);
        assert_eq!(clients.each_ref().map(|client| is_dropped(client)), [false, false, true]);
        assert!(!is_dropped(&small) && !is_dropped(&newcomer));
        assert_eq!(test.unread.dropped(), 2);
    }

    #[test]
    fn an_answer_counts_until_it_is_read_and_short_ones_do_not_count() {
        let test = Test::new(1);
        let client = test.client("10.0.0.1");
        let answer = test.answer(&client);
        assert_eq!(test.bytes(), LONG);
        let part = answer.slice(10..20);
        drop(answer);
        assert_eq!(test.bytes(), LONG, "a part is left");
        drop(part);
        assert_eq!(test.bytes(), 0);
        assert!(test.unread.table.lock().holders.is_empty());
        let address = PeerAddress::of(client.peer().ip());
        let short = test.unread.count(vec![b'x'; LONG - 1].into(), &client, address);
        assert_eq!((test.bytes(), short.len()), (0, LONG - 1));
        assert_eq!((test.unread.make_room(LONG + 1), test.unread.make_room(LONG - 1)), (Err(TooLarge), Ok(())));
    }

    #[test]
    fn a_shared_list_counts_once_and_is_dropped_only_after_it_was_replaced() {
        let test = Test::new(2);
        let clients = ["10.0.0.1"; 3].map(|address| test.client(address));
        let list = test.unread.share(vec![b'x'; LONG].into());
        let held: Vec<_> = clients.iter().map(|client| list.answer(client)).collect();
        assert_eq!(test.bytes(), LONG);
        let other = test.client("10.0.0.2");
        let _other = test.answer(&other);
        drop(test.answer(&other));
        assert!(is_dropped(&other) && !clients.iter().any(|client| is_dropped(client)), "the list is current");
        let newer = test.unread.share(vec![b'x'; LONG].into());
        drop(list);
        assert_eq!(test.bytes(), 2 * LONG, "the old one is not read");
        test.unread.make_room(LONG).unwrap();
        assert!(clients.iter().all(|client| is_dropped(client)));
        drop(held);
        drop(newer);
        assert_eq!(test.bytes(), 0);
    }
}
