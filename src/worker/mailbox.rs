//! What other threads send to a worker: batches, upgraded sockets, and the signal to drain.
//!
//! Each kind is bounded. The loop is woken once for everything that arrives before it looks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mio::Waker;
use parking_lot::Mutex;

use super::verifications::RenewalId;
use crate::auth::Renewed;
use crate::broadcast::Batch;
use crate::metrics::ThreadCounters;
use crate::protocol::Upgrade;
use crate::websocket::stream::Transport;

/// Upgraded sockets that wait for a worker. While as many wait, no further sockets are accepted.
const MAX_WAITING_ARRIVALS: usize = 256;

/// A socket whose request became a WebSocket.
#[derive(Debug)]
pub struct Arrival {
    /// The socket.
    pub transport: Transport,
    /// The HTTP response, which is not sent yet.
    pub response: BytesMut,
    /// Bytes that the client sent after its request.
    pub read_ahead: Bytes,
    /// What the client and its protocol agreed on.
    pub upgrade: Upgrade,
    /// When the request arrived.
    pub requested: Instant,
}

/// The mailbox of one worker.
#[derive(Debug)]
pub struct Mailbox {
    waker: Waker,
    /// Whether the loop was woken and has not looked yet.
    notified: AtomicBool,
    /// The worker's counters. The number of arrivals in `mail` is one of them, so that other threads need not lock it.
    counters: Arc<ThreadCounters>,
    mail: Mutex<Mail>,
}

/// What a worker takes out of its mailbox.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// The batch of a tick and the time when it was sent. The ticker sends none while one waits.
    pub(super) batch: Option<(Batch, Instant)>,
    /// The server is stopping.
    pub(super) drain: bool,
    /// The worker must end at once: the server has failed or was dropped.
    pub(super) stop: bool,
    pub(super) arrivals: Vec<Arrival>,
    /// Results of renewals. A connection has at most one for which it waits.
    pub(super) renewed: Vec<(RenewalId, Renewed)>,
    /// The worker has ended and takes nothing any more.
    closed: bool,
}

impl Mailbox {
    /// An empty mailbox whose loop this waker wakes.
    #[must_use]
    pub fn new(waker: Waker, counters: Arc<ThreadCounters>) -> Self {
        Self { waker, notified: AtomicBool::new(false), counters, mail: Mutex::default() }
    }

    /// Sends the batch of a tick. The caller has checked that none waits.
    ///
    /// # Errors
    /// If the loop cannot be woken.
    pub fn send_batch(&self, batch: Batch) -> io::Result<()> {
        self.mail.lock().batch = Some((batch, Instant::now()));
        self.wake()
    }

    /// Whether a batch waits: the worker is behind.
    #[must_use]
    pub fn has_batch(&self) -> bool {
        self.mail.lock().batch.is_some()
    }

    /// Has the worker close its connections and end.
    ///
    /// # Errors
    /// If the loop cannot be woken.
    pub fn drain(&self) -> io::Result<()> {
        self.mail.lock().drain = true;
        self.wake()
    }

    /// Has the worker end at once.
    pub fn stop(&self) {
        self.mail.lock().stop = true;
        // If the loop cannot be woken, it ends when it wakes for another reason.
        let _ = self.wake();
    }

    /// Hands a socket over.
    ///
    /// # Errors
    /// Returns the arrival if the mailbox is full, or if the worker has ended.
    pub fn hand_over(&self, arrival: Arrival) -> Result<(), Box<Arrival>> {
        let mut mail = self.mail.lock();
        if mail.closed || mail.arrivals.len() >= MAX_WAITING_ARRIVALS {
            return Err(Box::new(arrival));
        }
        mail.arrivals.push(arrival);
        self.counters.upgrades_waiting.set(mail.arrivals.len() as u64);
        drop(mail);
        // If the loop cannot be woken, it looks when it wakes for another reason.
        let _ = self.wake();
        Ok(())
    }

    /// Sends the result of a renewal.
    pub fn send_renewed(&self, id: RenewalId, renewed: Renewed) {
        let mut mail = self.mail.lock();
        if !mail.closed {
            mail.renewed.push((id, renewed));
            drop(mail);
            // If the loop cannot be woken, it looks when it wakes for another reason.
            let _ = self.wake();
        }
    }

    /// The number of connections that the worker has or will have.
    #[must_use]
    pub fn load(&self) -> u64 {
        self.counters.connections.get() + self.counters.upgrades_waiting.get()
    }

    fn wake(&self) -> io::Result<()> {
        if self.notified.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // Otherwise later callers would rely on a wake-up that did not happen.
        self.waker.wake().inspect_err(|_| self.notified.store(false, Ordering::Release))
    }

    /// Whether something may have arrived since the last call.
    pub(super) fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Relaxed) && self.notified.swap(false, Ordering::AcqRel)
    }

    /// Takes everything that waits; a batch only if `with_batch`.
    pub(super) fn take(&self, with_batch: bool) -> Mail {
        let mut mail = self.mail.lock();
        self.counters.upgrades_waiting.set(0);
        Mail {
            batch: if with_batch { mail.batch.take() } else { None },
            drain: mail.drain,
            stop: mail.stop,
            arrivals: std::mem::take(&mut mail.arrivals),
            renewed: std::mem::take(&mut mail.renewed),
            closed: false,
        }
    }

    /// Accepts nothing any more. Returns the sockets that waited.
    pub(super) fn close(&self) -> Vec<Arrival> {
        let mut mail = self.mail.lock();
        mail.closed = true;
        self.counters.upgrades_waiting.set(0);
        std::mem::take(&mut mail.arrivals)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;
    use crate::protocol::Protocol;

    fn arrival() -> Arrival {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (response, read_ahead) = (BytesMut::new(), Bytes::new());
        Arrival {
            transport: stream.into(),
            response,
            read_ahead,
            upgrade: Upgrade::new(Protocol::ALL[0], None),
            requested: Instant::now(),
        }
    }

    fn mailbox() -> (Poll, Mailbox) {
        let poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), Token(0)).unwrap();
        (poll, Mailbox::new(waker, Arc::default()))
    }

    fn is_woken(poll: &mut Poll) -> bool {
        let mut events = Events::with_capacity(1);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        !events.is_empty()
    }

    #[test]
    fn the_loop_is_woken_once_for_all_that_arrives_before_it_looks() {
        let (mut poll, mailbox) = mailbox();
        assert!(!mailbox.is_notified());
        mailbox.hand_over(arrival()).unwrap();
        assert!(is_woken(&mut poll));
        mailbox.hand_over(arrival()).unwrap();
        mailbox.send_batch(Batch::default()).unwrap();
        assert!(!is_woken(&mut poll));
        assert!(mailbox.is_notified() && mailbox.load() == 2 && mailbox.has_batch());
        let mail = mailbox.take(false);
        assert!(mail.arrivals.len() == 2 && mail.batch.is_none() && mailbox.has_batch());
        assert!(mailbox.take(true).batch.is_some() && !mailbox.has_batch() && !mailbox.is_notified());
        mailbox.drain().unwrap();
        assert!(is_woken(&mut poll) && mailbox.take(true).drain);
    }

    #[test]
    fn a_full_or_closed_mailbox_returns_the_arrival() {
        let (_poll, mailbox) = mailbox();
        for _ in 0..MAX_WAITING_ARRIVALS {
            mailbox.hand_over(arrival()).unwrap();
        }
        assert!(mailbox.hand_over(arrival()).is_err());
        assert_eq!((mailbox.close().len(), mailbox.load()), (MAX_WAITING_ARRIVALS, 0));
        assert!(mailbox.hand_over(arrival()).is_err());
    }
}
