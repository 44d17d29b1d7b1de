//! One endpoint: its queue, and the task that sends one request after the other.

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::format::{Batch, Format, Request};
use super::queue::{Ms, Queue};
use super::retry::Outcome;
use super::{Shared, WebhookCounters};
use crate::log_limit::{error_limited, warn_limited};
use crate::os::{random, unix_ms};
use crate::outgoing::{Endpoint, Failure};

/// While an endpoint is down, its queue is looked at this often for changes that are too old.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(5);
/// An endpoint that fails for longer is an error: an operator has to act.
const LONG_FAILURE: Duration = Duration::from_secs(300);

/// An endpoint and what it has not received.
#[derive(Debug)]
pub(super) struct Outlet {
    name: String,
    endpoint: Endpoint,
    format: Format,
    /// Locked for single operations, never while a request is under way.
    pub(super) queue: Mutex<Queue>,
    /// The queue has changed.
    pub(super) changed: Notify,
    /// The thread of the webhooks writes them.
    pub(super) counters: WebhookCounters,
}

/// The failures of an endpoint in a row.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    since: Option<tokio::time::Instant>,
    is_long: bool,
}

impl Outlet {
    pub(super) fn new(name: String, endpoint: Endpoint, format: Format, queue: Queue) -> Self {
        let counters = WebhookCounters::default();
        Self { name, endpoint, format, queue: Mutex::new(queue), changed: Notify::new(), counters }
    }

    /// Writes the gauges; the age only if the time is given.
    pub(super) fn count(&self, queue: &Queue, now: Option<Ms>) {
        let (dropped, collapsed) = queue.losses();
        if dropped > self.counters.webhooks_dropped.get() {
            error_limited!(endpoint = self.name, dropped, "more changes than --webhook-queue: webhooks are dropped");
        }
        let notices = queue.dropped_notices();
        if notices > self.counters.webhooks_notices_dropped.get() {
            let name = &self.name;
            warn_limited!(
                endpoint = name,
                notices,
                "too many client events and cache misses wait: webhooks are dropped"
            );
        }
        self.counters.webhooks_notices_dropped.set(notices);
        self.counters.webhooks_queued.set(queue.len() as u64);
        self.counters.webhooks_dropped.set(dropped);
        self.counters.webhooks_collapsed.set(collapsed);
        if let Some(now) = now {
            let age = queue.oldest().map_or(0, |oldest| now.saturating_sub(oldest));
            self.counters.webhooks_oldest_ms_max.set(age);
        }
    }

    /// Whether the receiver can be told to read rooms again.
    pub(super) fn has_resync(&self) -> bool {
        self.format.has_resync()
    }

    /// Events did not reach the queue.
    pub(super) fn dropped(&self, queue: &mut Queue, events: u64) {
        queue.note_dropped(events);
        // Why is logged already.
        self.counters.webhooks_dropped.set(queue.losses().0);
    }

    /// Nobody waits for the request: its application does not exist any more.
    fn discard(&self) {
        let mut queue = self.queue.lock();
        let events = queue.discard();
        self.dropped(&mut queue, events);
        self.count(&queue, None);
        drop(queue);
        warn!(endpoint = self.name, events, "webhooks of an application that does not exist any more are dropped");
    }

    /// Sends what is in the queue, for as long as the thread runs.
    pub(super) async fn run(&self, shared: &Shared) {
        let mut closing = shared.closing.subscribe();
        let mut failures = Failures::default();
        loop {
            let request = self.next_request(shared).await;
            while self.queue.lock().has_request() {
                let outcome = self.attempt(&request).await;
                if outcome == Outcome::Delivered {
                    self.delivered(&request, &mut failures);
                    shared.note_progress();
                    break;
                }
                if outcome == Outcome::Void {
                    self.discard();
                    shared.note_progress();
                    break;
                }
                self.failed(&outcome, &mut failures);
                let pause = outcome.pause(failures.count, random());
                self.wait(pause, &mut failures, &mut closing, shared).await;
                self.counters.webhooks_paused.set(0);
            }
        }
    }

    /// Waits until there are changes to send.
    async fn next_request(&self, shared: &Shared) -> Request {
        loop {
            let now = shared.now();
            let due = self.queue.lock().due();
            match due {
                Some(due) if due <= now => {
                    let mut batch = Batch::new(&self.format, &shared.stamps, &shared.node, unix_ms());
                    if self.queue.lock().freeze(now, |change| batch.push(change)) {
                        return batch.finish();
                    }
                    // No waiting change can be sent now.
                    self.changed.notified().await;
                }
                Some(due) => tokio::select! {
                    () = sleep(Duration::from_millis(due - now)) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    async fn attempt(&self, request: &Request) -> Outcome {
        let Some(attempt) = request.attempt(&self.format, unix_ms()) else { return Outcome::Void };
        let (begun, counters) = (Instant::now(), &self.counters);
        let result = self.endpoint.deliver(&attempt).await;
        counters.webhook_request.observe(begun.elapsed());
        let counter = match &result {
            Ok(answer) => match answer.status {
                200..=299 => &counters.webhooks_delivered,
                400..=499 => &counters.webhooks_refused,
                _ => &counters.webhooks_failed,
            },
            Err(Failure::Timeout(_)) => &counters.webhooks_timed_out,
            Err(Failure::Connect(_)) => &counters.webhooks_unconnected,
            Err(_) => &counters.webhooks_broken,
        };
        counter.add(1);
        match result {
            Ok(answer) => Outcome::of(answer.status, answer.header("retry-after"), SystemTime::now()),
            Err(failure) => Outcome::Failed { why: failure.to_string(), asked: None },
        }
    }

    fn delivered(&self, request: &Request, failures: &mut Failures) {
        let mut queue = self.queue.lock();
        queue.delivered();
        self.count(&queue, None);
        drop(queue);
        self.counters.webhooks_events.add(request.events as u64);
        if let Some(since) = std::mem::take(failures).since {
            let failed_for_ms = since.elapsed().as_millis() as u64;
            info!(endpoint = self.name, url = %self.endpoint.target(), failed_for_ms, "webhooks are delivered again");
        }
    }

    fn failed(&self, outcome: &Outcome, failures: &mut Failures) {
        let (name, url) = (&self.name, self.endpoint.target());
        failures.count = failures.count.saturating_add(1);
        let is_first = failures.since.is_none();
        let since = *failures.since.get_or_insert_with(tokio::time::Instant::now);
        match outcome {
            Outcome::Gone => {
                self.counters.webhooks_paused.set(1);
                error!(endpoint = name, %url, "the webhook endpoint answered 410 (gone): paused for an hour");
            }
            Outcome::Failed { why, .. } if is_first => {
                warn!(endpoint = name, %url, "a webhook was not delivered and is sent again: {why}");
            }
            Outcome::Failed { why, .. } if since.elapsed() > LONG_FAILURE && !failures.is_long => {
                failures.is_long = true;
                let then = match self.has_resync() {
                    true => "receivers are told to read rooms again",
                    false => "what waits is kept, up to --webhook-queue",
                };
                error!(endpoint = name, %url, "webhooks have not been delivered for 5 minutes; {then}: {why}");
            }
            _ => {}
        }
    }

    /// Waits before the next attempt. Meanwhile the request may be given up.
    async fn wait(
        &self,
        pause: Duration,
        failures: &mut Failures,
        closing: &mut watch::Receiver<bool>,
        shared: &Shared,
    ) {
        let until = tokio::time::Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = sleep(left.min(EXPIRY_INTERVAL)) => {}
                Ok(()) = closing.changed() => {
                    failures.count = 0;
                    return;
                }
            }
            self.queue.lock().expire(shared.now());
        }
    }
}
