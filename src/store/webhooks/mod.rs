//! Webhooks: tell an application, by HTTP requests, who came and went.
//!
//! The ticker only puts the events of a tick into an inbox. One thread does everything else: it merges the events into
//! one [`queue`] per endpoint, and runs one task per endpoint, which sends one request after the other (`outlet`).
//! [`format`] makes requests of changes and signs them; `retry` says when a request is sent again.

mod format;
mod outlet;
pub mod queue;
mod retry;
pub mod selection;
mod sharing;
pub mod signature;
pub mod stamp;
mod tracker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, watch};
use tracing::warn;

use super::deliveries::Deliveries;
use super::sink::{Event, Notices, Scope, Sink};
use crate::log_limit::error_limited;
use crate::metrics::{Metric, counters};
use crate::outgoing::{Endpoint, Sender};
use outlet::Outlet;
use queue::{Ms, Overflow, Queue, QueueSettings};
use sharing::Sharing;
use stamp::Stamps;

pub use format::{AppKeys, Format};
pub use selection::{Kind, Selection};
pub use signature::{SigningKey, SigningKeys};

/// The limit of events that the thread has not taken yet. It takes them within milliseconds.
const MAX_INBOX: usize = 200_000;
/// The limit of bytes of the notices among them.
const MAX_INBOX_NOTICES: usize = 16 * 1024 * 1024;
/// How often gauges are written while nothing happens.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);
/// What other nodes, and the list of rooms, may need to show what this node knows. Nodes look at the leases of others
/// once per second, and then read what has changed.
const SETTLE: Duration = Duration::from_secs(2);

counters! {
    /// What the webhooks of one endpoint count.
    WebhookCounters, WebhookTotals {
        /// Webhook requests that were delivered (2xx).
        webhooks_delivered,
        /// Webhook requests that were answered with 4xx.
        webhooks_refused,
        /// Webhook requests that were answered with another status than 2xx and 4xx.
        webhooks_failed,
        /// Webhook requests without an answer in time.
        webhooks_timed_out,
        /// Webhook requests for which no connection could be opened.
        webhooks_unconnected,
        /// Webhook requests whose connection broke.
        webhooks_broken,
        /// Events in delivered webhook requests.
        webhooks_events,
        /// Times that a room, or everything, must be read again because webhooks were not delivered in time.
        webhooks_collapsed,
        /// Events that no webhook reports because too many waited.
        webhooks_dropped,
        /// Client events and cache misses that no webhook reports because too many waited.
        webhooks_notices_dropped,
        /// Changes that wait for their delivery as webhooks now.
        webhooks_queued,
        /// The age of the oldest change that waits for its delivery.
        webhooks_oldest_ms_max,
        /// Endpoints that are paused for an hour now, because they answered 410 (gone).
        webhooks_paused,
    }
    histograms {
        /// The duration of webhook requests, whatever the answer.
        webhook_request,
    }
}

/// How to send webhooks.
#[derive(Debug, Clone)]
pub struct WebhookOptions {
    /// The endpoints, at least one.
    pub endpoints: Vec<WebhookEndpoint>,
    /// Which events they receive.
    pub selection: Selection,
    /// How long a leave waits for a return.
    pub delay: Duration,
    /// The limit of changes that wait for an endpoint.
    pub max_queued: usize,
}

impl WebhookOptions {
    /// Reads the secrets again. False if they did not come from a file.
    #[must_use]
    pub fn reload_secrets(&self) -> bool {
        // All endpoints have theirs from the same file.
        self.endpoints.first().is_some_and(|endpoint| match &endpoint.format {
            Format::Native(keys) => keys.reload(),
            // The keys of applications are reloaded with their settings.
            Format::Pusher(..) => false,
        })
    }
}

/// One endpoint.
#[derive(Debug, Clone)]
pub struct WebhookEndpoint {
    /// Its name in the log.
    pub name: String,
    /// Where it is.
    pub endpoint: Endpoint,
    /// What it is sent.
    pub format: Format,
}

/// The sink.
#[derive(Debug)]
pub struct Webhooks {
    shared: Arc<Shared>,
    takes_counts: bool,
    notices: Notices,
    /// The thread. It ends with this.
    _sender: Sender,
}

/// What the ticker and the thread share.
#[derive(Debug)]
struct Shared {
    node: String,
    started: Instant,
    stamps: Stamps,
    inbox: Mutex<Inbox>,
    /// There is something in the inbox.
    wake: Arc<Notify>,
    outlets: Vec<Outlet>,
    closing: watch::Sender<bool>,
    /// Wakes `close` when something was delivered. Notified with the inbox locked.
    progress: Condvar,
    /// If presence is shared with other nodes: which part this node reports. Locked before queues.
    sharing: Mutex<Option<Sharing>>,
}

/// Events on their way from the ticker to the thread.
#[derive(Debug, Default)]
struct Inbox {
    events: Vec<Event>,
    /// All events since the thread looked are void: receivers read everything again.
    overflowed: bool,
    /// Events that did not fit since then, if receivers cannot read again.
    dropped: u64,
    /// The bytes of the notices among the events.
    notice_bytes: usize,
    /// Notices that did not fit since then.
    dropped_notices: u64,
    /// The thread puts events into the queues.
    is_dispatching: bool,
}

impl Inbox {
    /// Adds the events of a tick. False if they do not fit: then all are void, or those beyond the limit are dropped.
    fn add(&mut self, events: &[Event], limit: usize, can_resync: bool) -> bool {
        let mut dropped = 0;
        for event in events {
            match event {
                Event::Notice(notice) if self.notice_bytes + notice.bytes() > MAX_INBOX_NOTICES => {
                    self.dropped_notices += 1;
                    continue;
                }
                Event::Notice(notice) => self.notice_bytes += notice.bytes(),
                _ if self.events.len() >= limit => {
                    dropped += 1;
                    continue;
                }
                _ => {}
            }
            self.events.push(event.clone());
        }
        match can_resync {
            true if dropped > 0 || self.overflowed => (self.events, self.overflowed) = (Vec::new(), true),
            true => {}
            false => self.dropped += dropped,
        }
        dropped == 0
    }
}

impl Webhooks {
    /// Starts the thread. `deliveries` are the leases of a node that shares presence with other nodes.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn open(
        options: &WebhookOptions,
        node: &str,
        incarnation: u64,
        deliveries: Option<Arc<Deliveries>>,
    ) -> anyhow::Result<Self> {
        let can_resync = options.endpoints.iter().all(|endpoint| endpoint.format.has_resync());
        let settings = QueueSettings {
            selection: options.selection.clone(),
            delay: options.delay,
            max_changes: options.max_queued,
            settle: SETTLE,
            overflow: if can_resync { Overflow::Resync } else { Overflow::Drop },
        };
        let outlet = |endpoint: &WebhookEndpoint| {
            let WebhookEndpoint { name, endpoint, format } = endpoint.clone();
            let mut queue = Queue::new(settings.clone());
            if deliveries.is_none() {
                // Everything that a former life of this node has told is void.
                queue.resync_at_start();
            }
            Outlet::new(name, endpoint, format, queue)
        };
        let shared = Arc::new(Shared {
            node: node.to_owned(),
            started: Instant::now(),
            stamps: Stamps::new(incarnation),
            inbox: Mutex::default(),
            wake: deliveries.as_ref().map_or_else(Arc::default, |deliveries| Arc::clone(deliveries.changed())),
            outlets: options.endpoints.iter().map(outlet).collect(),
            closing: watch::Sender::new(false),
            progress: Condvar::new(),
            sharing: Mutex::new(deliveries.map(|deliveries| Sharing::new(deliveries, options.max_queued, can_resync))),
        });
        let sender = Sender::start("webhooks").context("the thread of the webhooks cannot start")?;
        for number in 0..shared.outlets.len() {
            let shared = Arc::clone(&shared);
            sender.spawn(async move { shared.outlets[number].run(&shared).await });
        }
        let of_dispatcher = Arc::clone(&shared);
        sender.spawn(async move { of_dispatcher.dispatch().await });
        let has = |kind| options.selection.has(kind);
        let takes_counts = has(Kind::SubscriptionCount);
        let notices = Notices { client_events: has(Kind::ClientEvent), cache_misses: has(Kind::CacheMiss) };
        Ok(Self { shared, takes_counts, notices, _sender: sender })
    }
}

impl Shared {
    /// Milliseconds since the start.
    fn now(&self) -> Ms {
        self.started.elapsed().as_millis() as Ms
    }

    /// Moves events from the inbox to the queues, for as long as the thread runs.
    async fn dispatch(&self) {
        let mut counted = Instant::now();
        loop {
            let _ = tokio::time::timeout(GAUGE_INTERVAL, self.wake.notified()).await;
            let emptied = Inbox { is_dispatching: true, ..Inbox::default() };
            let taken = std::mem::replace(&mut *self.inbox.lock(), emptied);
            let Inbox { events, overflowed, dropped, dropped_notices, .. } = taken;
            // It looks at all changes that wait.
            let counts_age = counted.elapsed() >= GAUGE_INTERVAL;
            if counts_age {
                counted = Instant::now();
            }
            let (now, is_closing) = (self.now(), *self.closing.borrow());
            self.follow_leases(now);
            let events = self.reported(events, overflowed);
            // It locks `sharing`, which is locked before queues.
            let reports = self.reports();
            let (resyncs_all, dropped) = (overflowed && reports, if reports { dropped } else { 0 });
            for outlet in &self.outlets {
                let mut queue = outlet.queue.lock();
                events.iter().for_each(|event| queue.record(event, now));
                if resyncs_all {
                    queue.resync_all(now);
                }
                if dropped > 0 {
                    outlet.dropped(&mut queue, dropped);
                }
                queue.note_dropped_notices(dropped_notices);
                if is_closing {
                    queue.close();
                }
                outlet.count(&queue, counts_age.then_some(now));
                drop(queue);
                outlet.changed.notify_one();
            }
            if counts_age || is_closing {
                self.progress(now);
            }
            self.inbox.lock().is_dispatching = false;
            self.note_progress();
        }
    }

    fn note_progress(&self) {
        let _inbox = self.inbox.lock();
        self.progress.notify_all();
    }

    fn is_delivered(&self, inbox: &Inbox) -> bool {
        let is_taken = inbox.events.is_empty() && !inbox.overflowed && !inbox.is_dispatching;
        is_taken && self.outlets.iter().all(|outlet| outlet.queue.lock().is_empty())
    }
}

impl Sink for Webhooks {
    fn scope(&self) -> Scope {
        Scope::All
    }

    fn takes_counts(&self) -> bool {
        self.takes_counts
    }

    fn notices(&self) -> Notices {
        self.notices
    }

    fn record(&self, events: &[Event]) {
        let can_resync = self.shared.outlets.iter().all(Outlet::has_resync);
        let mut inbox = self.shared.inbox.lock();
        if !inbox.add(events, MAX_INBOX, can_resync) {
            match can_resync {
                true => {
                    error_limited!(
                        "more changes than webhooks can report: receivers are told to read everything again"
                    );
                }
                false => error_limited!("more changes than webhooks can report: the latest ones are dropped"),
            }
        }
        drop(inbox);
        self.shared.wake.notify_one();
    }

    fn reopen(&self) -> bool {
        false
    }

    fn counters(&self) -> Vec<Metric> {
        let mut totals = WebhookTotals::default();
        self.shared.outlets.iter().for_each(|outlet| totals.add(&outlet.counters));
        totals.fields().collect()
    }

    fn close(&self, within: Duration) {
        let deadline = Instant::now() + within;
        self.shared.closing.send_replace(true);
        self.shared.wake.notify_one();
        let mut inbox = self.shared.inbox.lock();
        while !self.shared.is_delivered(&inbox) {
            if self.shared.progress.wait_until(&mut inbox, deadline).timed_out() {
                warn!(?within, "stopping before all webhooks were delivered");
                break;
            }
        }
        drop(inbox);
        let now = self.shared.now();
        self.shared.progress(now);
        self.shared.end_sharing();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Happening, Notice, RoomEvent};

    #[test]
    fn events_that_do_not_fit_are_counted_or_make_receivers_read_again() {
        let event = |at_unix_ms| Event::Room(RoomEvent { at_unix_ms, room: "lobby".into(), is_occupied: true });
        let check = |can_resync: bool, want: (usize, bool, u64)| {
            let mut inbox = Inbox::default();
            assert!(inbox.add(&[event(1), event(2)], 3, can_resync));
            assert!(!inbox.add(&[event(3), event(4), event(5)], 3, can_resync));
            assert_eq!((inbox.events.len(), inbox.overflowed, inbox.dropped), want);
        };
        check(true, (0, true, 0));
        check(false, (3, false, 2));
    }

    #[test]
    fn notices_have_a_limit_of_their_own() {
        let notice = |bytes| {
            let what = Happening::ClientEvent { event: "x".repeat(bytes).into(), user: None, connection: 1 };
            Event::Notice(Notice { room: "r".into(), what })
        };
        let event = Event::Room(RoomEvent { at_unix_ms: 1, room: "r".into(), is_occupied: true });
        let mut inbox = Inbox::default();
        assert!(inbox.add(&[notice(MAX_INBOX_NOTICES / 2), notice(MAX_INBOX_NOTICES / 2), event], 2, false));
        assert_eq!((inbox.events.len(), inbox.dropped, inbox.dropped_notices), (2, 0, 1));
    }
}
